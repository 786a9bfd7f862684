"""What the page about a data check says: verdict, figures, openers, copies, leaks, real prompts, next command."""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Mapping, Sequence
from pathlib import PurePath
from typing import Any

from attune.show import words
from attune.show.facts import mapping, number

Record = dict[str, Any]
KeyFigure = tuple[str, str, str, str]  # name, nothing, value, what stands under it: as the run report has them

MAX_PLACES = 12  # of one cluster of copies
MAX_RANKED = 20  # openers, formats, languages
KINDS = "Kinds of prompts"  # how many prompts without a word in common would be as varied
_MISMATCH = {
    "alike": "The real prompts are like the training prompts.",
    "mismatch": "The real prompts differ from the training prompts.",
    "strong mismatch": "The real prompts differ strongly from the training prompts.",
    "too few prompts": "There are too few prompts to compare.",
}
_FIXES = "--fix"  # a finding whose advice names this flag can be mended by attune


def records(value: Any) -> list[Record]:
    """Return the tables of a list; nothing for anything else."""
    return [dict(item) for item in value if isinstance(item, Mapping)] if isinstance(value, (list, tuple)) else []


def short_names(files: Iterable[str]) -> dict[str, str]:
    """Return what each file is called on the page: its own name, or with folders where two have the same."""
    known = list(dict.fromkeys(files))
    names = {file: PurePath(file).name or file for file in known}
    if len(set(names.values())) == len(known):
        return names
    parts = [PurePath(file).parts for file in known]
    shared = 0
    while all(len(part) > shared + 1 and part[shared] == parts[0][shared] for part in parts):
        shared += 1
    return {file: str(PurePath(*part[shared:])) for file, part in zip(known, parts, strict=True)}


def name_places(document: Mapping[str, Any], rows: Sequence[Mapping[str, Any]]) -> dict[str, str]:
    """Return the short names of all files that the document or its rows mention."""
    mentioned = [file.get("file") for file in records(document.get("files"))]
    mentioned += [
        place.get("file") for one in records(document.get("findings")) for place in records(one.get("examples"))
    ]
    for leak in records(document.get("leaks")):
        mentioned += [leak.get("file"), leak.get("train_file")]
    clusters = records(mapping(document.get("duplicates")).get("clusters"))
    mentioned += [place.get("file") for one in clusters for place in records(one.get("places"))]
    mentioned += [row.get("file") for row in rows]
    return short_names(str(file) for file in mentioned if file)


def severity_counts(document: Mapping[str, Any]) -> dict[str, int]:
    """Return how many findings there are of each severity."""
    found = [str(finding.get("severity")) for finding in records(document.get("findings"))]
    return {severity: found.count(severity) for severity in words.SEVERITIES}


def verdict(document: Mapping[str, Any]) -> tuple[str, list[str]]:
    """Return the headline and the sentences under it."""
    counts, rows = severity_counts(document), number(document.get("rows"))
    errors, warnings = counts["error"], counts["warning"]
    sentences = [_kept(document)] if rows else []
    if document.get("ok"):
        few = "nothing speaks against it" if not warnings else f"with {_some(warnings, 'warning')} to look at first"
        return f"These rows are fit to train on, {few}.", [*sentences, *_allowed(document)]
    first = f": {_some(errors, 'error')} to mend first" if errors else ""
    headline = f"These rows are not fit to train on{first}."
    return headline, [*sentences, *([f"There are {_some(warnings, 'warning')} too."] if warnings else [])]


def _some(number: int, thing: str) -> str:
    return f"{words.count(number)} {thing}{'s' * (number != 1)}"


def _kept(document: Mapping[str, Any]) -> str:
    """Say how many rows would be trained on."""
    ledger = mapping(document.get("ledger"))
    kept = sum(number(ledger.get(state)) or 0 for state in ("used", "cut"))
    said = f"Of {words.rows_of(document['rows'])}, {words.count(kept)} would be trained on"
    learned = number(mapping(document.get("tokens")).get("learned"))
    return f"{said}, which teach {words.count(learned)} tokens." if learned is not None else f"{said}."


def _allowed(document: Mapping[str, Any]) -> list[str]:
    allowed = [str(identity) for identity in document.get("allowed") or ()]
    return [f"Allowed, whatever they found: {', '.join(allowed)}."] if allowed else []


def key_figures(document: Mapping[str, Any]) -> list[KeyFigure]:
    """Return the figures on top of the page."""
    rows, tokens = number(document.get("rows")), mapping(document.get("tokens"))
    ledger, coverage = mapping(document.get("ledger")), mapping(document.get("coverage"))
    copies, counts = mapping(document.get("duplicates")), severity_counts(document)
    files = records(document.get("files"))
    kept = sum(number(ledger.get(state)) or 0 for state in ("used", "cut")) if ledger else None
    whole = f"of {words.rows_of(int(rows or 0))}" + (f" in {_some(len(files), 'file')}" if files else "")
    found: list[KeyFigure] = [("Rows to train on", "", words.count(kept), whole)]
    if number(tokens.get("learned")) is not None:
        share = f"of {words.count(tokens.get('in'))} tokens"
        found.append(("Learned tokens", "", words.count(tokens["learned"]), share))
    found.append(("Errors", "", words.count(counts["error"]), _some(counts["warning"], "warning")))
    if copies:
        under = f"and {words.count(copies.get('near'))} near copies"
        found.append(("Exact copies", "", words.count(copies.get("exact")), under))
    answer = mapping(mapping(coverage.get("words")).get("answer"))
    if number(answer.get("p50")) is not None:
        longest = f"words; the longest has {words.count(answer.get('max'))}"
        found.append(("Typical answer", "", words.count(answer["p50"]), longest))
    kinds = number(coverage.get("effective_clusters"))
    if kinds is not None:
        found.append((KINDS, "", words.count(kinds), _among(coverage)))
    return found


def coverage_facts(coverage: Mapping[str, Any]) -> list[tuple[str, str, str]]:
    """Return what coverage measured as name, figure and meaning."""
    answers = (
        f"the first {words.count(coverage['distinct_words'])} words of" if _has(coverage, "distinct_words") else ""
    )
    shares = (
        ("system_prompt_share", "Rows with a system prompt", ""),
        ("tools_share", "Rows with tools", ""),
        ("distinct_1", "Distinct words", f"of {answers} the answers; low means repetition".replace("  ", " ")),
        ("distinct_2", "Distinct word pairs", "of their pairs of neighbours"),
    )
    figures = (
        ("compression_ratio", "Compression ratio", "of the answers; prose has 2.5 to 3, more means repetition"),
        ("effective_clusters", KINDS, f"{_among(coverage)}, without a word in common".removeprefix(", ")),
    )
    known = [(name, words.percent(coverage.get(key)), said) for key, name, said in shares if _has(coverage, key)]
    return known + [(name, words.figure(coverage[key], 1), said) for key, name, said in figures if _has(coverage, key)]


def _has(coverage: Mapping[str, Any], key: str) -> bool:
    return number(coverage.get(key)) is not None


def _among(coverage: Mapping[str, Any]) -> str:
    """Return how many prompts the variety was measured on."""
    return f"among {words.count(coverage['cluster_rows'])} prompts" if _has(coverage, "cluster_rows") else ""


def word_lengths(coverage: Mapping[str, Any]) -> list[tuple[str, list[str]]]:
    """Return the lengths of questions and answers in words: 5th, 50th and 95th percentile and the longest."""
    known = mapping(coverage.get("words"))
    return [
        (part.capitalize(), [words.count(mapping(known[part]).get(key)) for key in ("p5", "p50", "p95", "max")])
        for part in ("question", "answer")
        if mapping(known.get(part))
    ]


def ranked(value: Any) -> list[tuple[str, float]]:
    """Return names with their share, the largest first.

    `value` is a table of shares or of counts, or a list of lists that begin with a name and end with its share.
    """
    if isinstance(value, Mapping):
        known = [(str(name), share) for name, one in value.items() if (share := number(one)) is not None]
        whole = sum(share for _, share in known)
        known = [(name, share / whole) for name, share in known] if whole > 1.001 else known
    else:
        lists = [one for one in value or () if isinstance(one, (list, tuple)) and len(one) > 1]
        known = [(str(one[0]), share) for one in lists if (share := number(one[-1])) is not None]
    return sorted(known, key=lambda item: -item[1])[:MAX_RANKED]


def policies(document: Mapping[str, Any]) -> list[tuple[str, str, str]]:
    """Return what each policy for over-long rows would cost: its name, rows, learned tokens; none if all are free."""
    costs = records(mapping(document.get("lengths")).get("policies"))
    if not any(number(one.get(key)) for one in costs for key in ("rows_lost", "learned_lost")):
        return []
    learned = mapping(document.get("tokens")).get("learned")
    return [
        (
            str(one.get("policy", "")),
            _of(one.get("rows_lost"), document.get("rows")),
            _of(one.get("learned_lost"), learned),
        )
        for one in costs
    ]


def _of(value: Any, whole: Any) -> str:
    """Return a number with its share of the whole, where that is known."""
    part, all_of = number(value), number(whole)
    if not part or not all_of:
        return words.count(value)
    return f"{words.count(part)} ({words.percent(part / all_of)})"


def clusters(document: Mapping[str, Any], names: Mapping[str, str]) -> list[Record]:
    """Return the groups of copies, the largest first, with where they stand."""
    found = records(mapping(document.get("duplicates")).get("clusters"))
    told = [
        {
            "rows": one.get("rows"),
            "text": str(one.get("text") or ""),
            "places": [place(where, names) for where in records(one.get("places"))[:MAX_PLACES]],
        }
        for one in found
    ]
    return sorted(told, key=lambda one: -(number(one["rows"]) or 0))


def leaks(document: Mapping[str, Any], names: Mapping[str, str]) -> list[Record]:
    """Return the held-out rows that training rows give away, each with the row it repeats."""
    return [
        {
            "held": place(one, names),
            "train": place({"file": one.get("train_file"), "line": one.get("train_line")}, names),
            "kind": str(one.get("kind") or ""),
            "overlap": words.percent(one.get("overlap")),
            "text": str(one.get("text") or ""),
        }
        for one in records(document.get("leaks"))
    ]


def place(record: Mapping[str, Any], names: Mapping[str, str]) -> str:
    """Return where a row stands, by the short name of its file."""
    file = str(record.get("file") or "")
    return f"{names.get(file, file)}:{record.get('line', '')}"


def mismatch(document: Mapping[str, Any]) -> Record:
    """Return how far real prompts are from training prompts; nothing where they were not compared."""
    known = mapping(document.get("mismatch"))
    if not known:
        return {}
    auc, low, high = (number(known.get(key)) for key in ("auc", "low", "high"))
    within = f" (95 % interval {words.figure(low)} to {words.figure(high)})" if low is not None else ""
    said = f"A classifier tells the real prompts from the training prompts with an AUC of {words.figure(auc)}{within}: "
    said += "0.5 is a guess, 1 is always right."
    compared = f"{words.count(known.get('rows_real'))} real prompts, {words.count(known.get('rows_train'))} to train on"
    at = [100 * min(1.0, max(0.0, value)) for value in (low, auc, high) if value is not None]
    return {
        "said": said if auc is not None else "",
        "verdict": _MISMATCH.get(str(known.get("verdict")), str(known.get("verdict") or "")),
        "rows": compared,
        "at": [f"{value:.1f}" for value in at] if len(at) == 3 else [],
        "real": _weighted(known.get("words_real")),
        "train": _weighted(known.get("words_train")),
        "unlike": [
            (str(one.get("text") or ""), words.percent(one["score"]) if number(one.get("score")) else "")
            for one in records(known.get("unlike"))
        ],
    }


def _weighted(value: Any) -> list[tuple[str, float]]:
    """Return words with their weight as a share of the heaviest."""
    pairs = [pair for pair in value or () if isinstance(pair, (list, tuple)) and len(pair) == 2]
    known = [(str(word), abs(weight)) for word, one in pairs if (weight := number(one)) is not None]
    most = max((weight for _, weight in known), default=0) or 1
    return [(word, weight / most) for word, weight in known[:MAX_RANKED]]


def next_command(document: Mapping[str, Any]) -> tuple[str, str]:
    """Return the next command to type and why."""
    files = [str(one.get("file")) for one in records(document.get("files")) if one.get("part") in {None, "train"}]
    data = shlex.quote(files[0]) if files else "DATA"
    can_fix = any(_FIXES in str(one.get("fix")) for one in records(document.get("findings")))
    if can_fix:
        return (
            f"attune check {data} --fix cleaned{PurePath(files[0]).suffix if files else ''}",
            "Writes a cleaned copy and says what was done to which line; what needs a decision stays as it is.",
        )
    if not document.get("ok"):
        return f"attune check {data}", "Once the errors are mended, look again."
    if mapping(document.get("template")):
        return f"attune train {data} --model FOLDER", "Trains on these rows, with a report of its own."
    return f"attune check {data} --model FOLDER", "With a model, tokens, lengths and the mask are checked too."
