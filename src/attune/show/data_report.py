"""One HTML page about a data file: what is wrong with it, where its rows went, what it covers, its rows to look at."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from attune.record import write_atomic
from attune.show import data_sections as sections
from attune.show import words
from attune.show.data_charts import data_charts
from attune.show.facts import mapping, number
from attune.show.page import Shown, cap, fit, preview_row, render_page

MAX_ROWS_BYTES = 1_200_000  # of the page, for the rows to look at
MAX_CLUSTERS = 50
Record = dict[str, Any]


def write_data_report(document: Mapping[str, Any], rows: Sequence[Mapping[str, Any]], path: Path) -> Path:
    """Write the page about a check to `path` and return it.

    `document` is what `attune check --json` prints; `rows` are rows to look at, as a run's preview has them, each with
    the `flags` (ids or names of findings) that it has.
    Raises: ResourceError when the page cannot be written.
    """
    page = render_data_report(document, rows)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomic(path, page.encode("utf-8", errors="backslashreplace"))
    return path


def render_data_report(document: Mapping[str, Any], rows: Sequence[Mapping[str, Any]]) -> str:
    """Return the page about a check as HTML; what the document lacks is left out."""
    names = sections.name_places(document, rows)
    charts = data_charts(document)
    coverage = mapping(document.get("coverage"))
    viewed, flags = _viewed_rows(rows, names)
    headline, sentences = sections.verdict(document)
    files = sections.records(document.get("files"))
    return render_page(
        "data.html",
        charts.values(),
        title=_title(files, names),
        headline=headline,
        sentences=sentences,
        key_figures=sections.key_figures(document),
        findings=cap(_findings(document, names, flags)),
        is_weighted=any(number(file.get("weight")) not in {None, 1} for file in files),
        files=cap([{**file, "name": names.get(str(file.get("file")), "")} for file in files]),
        drawn={name: charts.get(name) for name in ("rows", "tokens", "lengths", "turns")},
        over=mapping(mapping(document.get("lengths")).get("over")),
        policies=sections.policies(document),
        rows=viewed,
        kinds=[_kind(flag, document) for flag in flags],
        coverage=sections.coverage_facts(coverage),
        word_lengths=sections.word_lengths(coverage),
        rankings=_rankings(coverage),
        copies=mapping(document.get("duplicates")),
        clusters=Shown(*_first(sections.clusters(document, names), MAX_CLUSTERS)),
        leaks=cap(sections.leaks(document, names)),
        mismatch=sections.mismatch(document),
        chat_template=mapping(document.get("template")),
        next_command=sections.next_command(document),
    )


def _title(files: Sequence[Record], names: Mapping[str, str]) -> str:
    """Return what the page is about: the first file and how many more."""
    first = names.get(str(files[0].get("file")), "") if files else ""
    return f"{first} and {len(files) - 1} more" if len(files) > 1 else first


def _first(items: list[Record], limit: int) -> tuple[list[Record], int]:
    return items[:limit], len(items)


def _rankings(coverage: Mapping[str, Any]) -> list[tuple[str, str, list[tuple[str, float]]]]:
    """Return lists of names with their shares: title, what it counts, items."""
    known = (
        ("openers", "How answers begin", "share of answers"),
        ("formats", "Formats of answers", "share of answers"),
        ("languages", "Languages", "share of rows that were looked at"),
    )
    ranked = [(title, unit, sections.ranked(coverage.get(key))) for key, title, unit in known]
    return [one for one in ranked if one[2]]


def _viewed_rows(rows: Sequence[Mapping[str, Any]], names: Mapping[str, str]) -> tuple[Shown, list[str]]:
    """Return the rows that fit on the page, in order, and the flags they have.

    Where not all fit, every flag keeps some: the first rows of each come before the second ones.
    """
    flags = [tuple(dict.fromkeys(str(flag) for flag in row.get("flags") or ())) for row in rows]
    order = [at for _, at in sorted(zip(_turns(flags), range(len(rows)), strict=True))]
    fitting = fit((_viewed_row(at, rows[at], names) for at in order), len(rows), MAX_ROWS_BYTES)
    shown = sorted(fitting.items, key=lambda row: int(row["at"]))
    known = list(dict.fromkeys(flag for row in shown for flag in flags[row["at"]]))
    for row in shown:
        row["kinds"] = [known.index(flag) for flag in flags[row["at"]]]
    return Shown(shown, len(rows)), known


def _turns(flags: Sequence[tuple[str, ...]]) -> list[int]:
    """Return for each row how many rows before it have the flag of its own that the fewest have."""
    seen: Counter[str] = Counter()
    turns = []
    for own in flags:
        counted = own or ("",)
        turns.append(min(seen[flag] for flag in counted))
        seen.update(counted)
    return turns


def _viewed_row(at: int, row: Mapping[str, Any], names: Mapping[str, str]) -> Record:
    """Return a row for the viewer. Without a model its pieces are turns: each begins on its own line."""
    if row.get("tokens") is None:
        turns = [(str(piece[0]), piece[1]) for piece in row.get("pieces") or ()]
        row = {**row, "pieces": [(f"{text.rstrip()}\n", learned) for text, learned in turns[:-1]] + turns[-1:]}
    return {**preview_row(row), "place": sections.place(row, names), "at": at}


def _kind(flag: str, document: Mapping[str, Any]) -> str:
    """Return what a flag is called in the filter: the id and the names of its findings."""
    found = [one for one in sections.records(document.get("findings")) if flag in {one.get("id"), one.get("name")}]
    names = dict.fromkeys(str(one.get("name")) for one in found)
    return f"{found[0].get('id')} {', '.join(names)}" if found else flag


def _findings(document: Mapping[str, Any], names: Mapping[str, str], flags: Sequence[str]) -> list[Record]:
    """Return the findings, errors first, each with short places and the number of the flag that its rows have."""
    rank = {severity: at for at, severity in enumerate(words.SEVERITIES)}
    found = sections.records(document.get("findings"))
    for one in found:
        examples = sections.records(one.get("examples"))
        one["examples"] = [{**example, "place": sections.place(example, names)} for example in examples]
        one["kind"] = next((flags.index(own) for key in ("name", "id") if (own := one.get(key)) in flags), None)
    return sorted(found, key=lambda one: rank.get(str(one.get("severity")), len(rank)))
