"""From what the rules found to the findings a user reads: counts, what it means for training, what to do."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

from attune.data.lint.catalog import RULES, Found
from attune.data.lint.thresholds import DEFAULT, Thresholds
from attune.data.lint.waivers import Waivers
from attune.types import Finding, Place, Severity

NAMED_LINES = 5
RANK: dict[Severity, int] = {"error": 0, "warning": 1, "info": 2}
HELD_OUT_RULES = ("split-leak", "shared-passage")  # their share is of the rows that are held out


def to_findings(
    found: Iterable[Found],
    place_of: Callable[[int], Place],
    rows: int,
    *,
    waivers: Waivers,
    held_out: int = 0,
    thresholds: Thresholds = DEFAULT,
) -> list[Finding]:
    """Return findings, errors first and then by rows. `rows` and `held_out`: how many a share is of.

    Rows that an ignore file names are left out; a finding of a rule that is allowed is only told.
    """
    findings = []
    for one in found:
        kept = [row for row in one.rows if not (waivers.lines and waivers.passes(one.name, place_of(row)))]
        if not kept:
            continue
        total = held_out if one.name in HELD_OUT_RULES else rows
        finding = to_finding(one, kept, place_of, rows=total, most=thresholds.most_examples)
        findings.append(soften(finding, waivers))
    return sorted(findings, key=lambda finding: (RANK[finding.severity], -finding.rows, finding.id))


def to_finding(found: Found, kept: Sequence[int], place_of: Callable[[int], Place], *, rows: int, most: int) -> Finding:
    """Return the finding about the rows `kept` of what a rule found. `most`: how many of them are listed."""
    rule = RULES[found.name]
    share = len(kept) / max(1, rows)
    first = next((found.texts[row] for row in kept if found.texts.get(row)), "")
    seen = "" if found.detail or not first else f"such as {first}."
    lines = ", ".join(str(place_of(row).line) for row in kept[:NAMED_LINES])
    where = f"line{'s' * (len(kept) > 1)} {lines}{', ...' if len(kept) > NAMED_LINES else ''}"
    said = " ".join(part for part in (_sentence(found.detail or seen), rule.harm) if part)
    message = f"{_rows(len(kept))} ({_percent(share)}) {agreeing(rule.title, len(kept))} ({where}): {said}"
    examples = tuple(
        {"file": place.file, "line": place.line, "text": found.texts.get(row, "")}
        for row, place in ((row, place_of(row)) for row in kept[:most])
    )
    return Finding(rule.id, rule.name, found.severity or rule.severity, len(kept), share, message, rule.fix, examples)


def soften(finding: Finding, waivers: Waivers) -> Finding:
    """Return a finding of an allowed rule as an info that says so; any other as it is."""
    if finding.severity == "info" or not waivers.allows(finding.id, finding.name):
        return finding
    return Finding(
        finding.id,
        finding.name,
        "info",
        finding.rows,
        finding.share,
        f"allowed: {finding.message}",
        finding.fix,
        finding.examples,
    )


def _rows(count: int) -> str:
    return f"{count:,} row{'s' * (count != 1)}"


def _percent(share: float) -> str:
    return f"{share:.1%}" if share >= 0.001 else "under 0.1%"


def _sentence(text: str) -> str:
    text = text.strip()
    return text if not text or text[-1] in ".!?" else f"{text}."


_SINGULAR = {
    "already carry": "already carries", "answer": "answers", "are": "is", "ask": "asks", "begin": "begins",
    "break": "breaks", "give": "gives", "have": "has", "hold": "holds", "never show": "never shows",
    "of the held-out rows repeat": "of the held-out rows repeats", "of the held-out rows share":
    "of the held-out rows shares", "of the real prompts are": "of the real prompts is", "refuse": "refuses",
    "repeat": "repeats",
}  # fmt: skip
_SINGULAR_TITLES = {  # where more than the verb is another for one row
    "answer in another language than they are asked in": "answers in another language than it is asked in",
    "are further long answers to a question that has one": "is a further long answer to a question that has one",
    "have answers that end at the same greatest length": "has an answer that ends at the greatest length",
}


def agreeing(title: str, count: int) -> str:
    """Return a rule's title in the number of the rows."""
    if count != 1:
        return title
    if title in _SINGULAR_TITLES:
        return _SINGULAR_TITLES[title]
    plural = next((verb for verb in _SINGULAR if title.startswith(f"{verb} ")), "")
    return _SINGULAR[plural] + title[len(plural) :] if plural else title
