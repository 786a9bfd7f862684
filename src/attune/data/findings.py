"""What the preparation noticed, as findings: counts, what it means, what to do and the first places."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from attune.data.collect import Collection
from attune.data.intake import NAMED_LINES, Intake
from attune.data.overlong import toll_finding
from attune.data.template import ChatTemplate
from attune.types import Finding, Place, Severity


def find(collections: Sequence[Collection], template: ChatTemplate) -> tuple[Finding, ...]:
    """Return the findings of a preparation: how files were read, which rows were dropped and what was done to others."""
    found = [_template_finding(template, sum(collection.intake.rows for collection in collections))]
    for collection in collections:
        found += find_reading(collection.intake)
        found += _encoding(collection)
    rank = {"error": 0, "warning": 1, "info": 2}
    return tuple(sorted(found, key=lambda finding: rank[finding.severity]))


def find_reading(intake: Intake) -> list[Finding]:
    """Return what the reader and the schema noticed in one file."""
    layout = Finding("R01", "layout", "info", intake.rows, 1.0, f"{intake.path}: read as {intake.stated}.", "")
    found = [layout]
    if intake.bad:
        kinds = ", ".join(dict.fromkeys(row.kind for row in intake.bad))
        message = f"{_rows(len(intake.bad))} could not be used and {_were(intake.bad)} dropped, as data.skip_bad_rows allows: {kinds}."
        texts = [(row.place, row.text) for row in intake.bad]
        found.append(_finding("R02", "bad-row", "warning", texts, intake.rows, message, "Mend the rows."))
    if intake.empty:
        message = f"{_rows(len(intake.empty))} ({_lines(intake.empty)}) {_have(intake.empty)} an empty answer; dropped."
        fix = 'Write the answers; data.on_empty = "keep" teaches the model to say nothing.'
        found.append(_finding("D10", "empty-answer", "warning", _bare(intake.empty), intake.rows, message, fix))
    nul = intake.oddities.get("nul")
    if nul:
        message = f"{_rows(len(nul))} {_have(nul)} a NUL character ({_lines(nul)}); kept as is."
        found.append(
            _finding(
                "R03",
                "nul-character",
                "warning",
                _bare(nul),
                intake.rows,
                message,
                "Take the character out if it is not meant.",
            )
        )
    numbers = intake.oddities.get("not-json-number")
    if numbers:
        message = f"{_rows(len(numbers))} {_have(numbers)} a number that is not JSON, such as NaN or 1e999 ({_lines(numbers)}), in a field that is not used; ignored."
        found.append(_finding("R04", "not-json-number", "info", _bare(numbers), intake.rows, message, "Write null."))
    return found


def _encoding(collection: Collection) -> list[Finding]:
    """Return what template, tokenizer and length did to the rows of one file."""
    masker, rows = collection.masker, collection.intake.rows
    found = []
    if collection.toll.rows:
        found.append(
            toll_finding(
                collection.toll,
                rows=rows,
                learned=collection.learned_in,
                limit=collection.limit,
                policy=collection.policy,
            )
        )
    if masker.with_controls:
        message = (
            f"{_rows(len(masker.with_controls))} ({_lines(masker.with_controls)}) hold the string of a control token in their content: "
            "encoded as plain text, not as control tokens."
        )
        fix = "If the rows were rendered with a template before, give the bare messages instead."
        found.append(_finding("D02", "template-in-content", "warning", _bare(masker.with_controls), rows, message, fix))
    if masker.lossy:
        message = (
            f"{_rows(len(masker.lossy))} ({_lines(masker.lossy)}) hold characters that this tokenizer cannot give back: "
            "what is learned is the tokenizer's own round trip of the answer."
        )
        found.append(
            _finding(
                "T02",
                "lossy-tokenizer",
                "warning",
                _bare(masker.lossy),
                rows,
                message,
                "Look at the rows; a byte-level tokenizer loses nothing.",
            )
        )
    if masker.rewritten:
        places = list(dict.fromkeys(masker.rewritten))
        message = (
            f"{_rows(len(places))} ({_lines(places)}): the chat template rewrites history, so answers before the last one "
            "stand after another text here than when the model gives them."
        )
        found.append(
            _finding(
                "T03",
                "rewritten-history",
                "warning",
                _bare(places),
                rows,
                message,
                'data.mask = "last" learns the last answer only, which is exact.',
            )
        )
    if masker.in_parts:
        message = f"{_rows(len(masker.in_parts))}: a token would straddle the border of an answer; encoded in parts, as at inference."
        found.append(_finding("T04", "encoded-in-parts", "info", _bare(masker.in_parts), rows, message, ""))
    return found


def _template_finding(template: ChatTemplate, rows: int) -> Finding:
    message = f"chat template: {template.name} ({template.reason}); an answer ends with {template.terminator!r}."
    fix = (
        ""
        if template.reason != "this tokenizer has no chat template; the default is saved with the model"
        else 'Another: data.template = "chatml" or a Jinja file.'
    )
    return Finding("T01", "template", "info", rows, 1.0, message, fix)


def _finding(
    identity: str, name: str, severity: Severity, places: Sequence[tuple[Place, str]], rows: int, message: str, fix: str
) -> Finding:
    examples = tuple({"file": place.file, "line": place.line, "text": text} for place, text in places[:NAMED_LINES])
    return Finding(identity, name, severity, len(places), len(places) / max(1, rows), message, fix, examples)


def _bare(places: Iterable[Place]) -> list[tuple[Place, str]]:
    return [(place, "") for place in places]


def _lines(places: Sequence[Place]) -> str:
    named = ", ".join(str(place.line) for place in places[:NAMED_LINES])
    return f"line{'s' * (len(places) > 1)} {named}{', ...' if len(places) > NAMED_LINES else ''}"


def _rows(count: int) -> str:
    return f"{count} row{'s' * (count != 1)}"


def _have(things: Sequence[object]) -> str:
    return "has" if len(things) == 1 else "have"


def _were(things: Sequence[object]) -> str:
    return "was" if len(things) == 1 else "were"
