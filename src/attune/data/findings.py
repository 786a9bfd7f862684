"""What the preparation noticed, as findings: counts, what it means, what to do and the first places."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from attune.data.collect import Collection
from attune.data.encoding.mask import Masker
from attune.data.encoding.overlong import toll_finding, unstopped_finding
from attune.data.encoding.probe import template_problems
from attune.data.encoding.template import ChatTemplate
from attune.data.lint.catalog import RULES
from attune.data.lint.thresholds import DEFAULT
from attune.data.lint.verdict import RANK, soften, to_findings
from attune.data.lint.waivers import Waivers
from attune.data.reading.intake import NAMED_LINES, Intake
from attune.data.reading.line import BadRow
from attune.data.reading.sources import find_ignored
from attune.data.survey import Surveyed
from attune.types import Finding, Place, Severity

ANSWER_COLUMNS = ("label", "labels", "category", "intent", "class", "sentiment", "target", "label_text", "topic")
MOST_NAMED = 3  # errors that a message spells out


def find(
    collections: Sequence[Collection], template: ChatTemplate, surveyed: Surveyed, waivers: Waivers
) -> tuple[Finding, ...]:
    """Return what a preparation noticed: how files were read, what the rules found, what was done to rows."""
    found = [_template_finding(template, sum(collection.intake.rows for collection in collections))]
    found += [one for one in template_problems(template) if one.severity != "info"]
    for collection in collections:
        rows, toll = collection.intake.rows, collection.toll
        found += find_reading(collection.intake)
        if toll.rows:
            learned, limit = collection.learned_in, collection.limit
            found.append(toll_finding(toll, rows=rows, learned=learned, limit=limit, policy=collection.policy))
            if collection.policy == "cut" and toll.first_cut:
                found.append(unstopped_finding(toll, rows=rows))
        found += _mask_findings(collection.masker, rows)
    return in_order([*(soften(finding, waivers) for finding in found), *find_in_rows(surveyed, waivers)])


def find_in_rows(surveyed: Surveyed, waivers: Waivers) -> list[Finding]:
    """Return what the rules found in the rows, without what the user lets pass."""
    return to_findings(
        surveyed.found,
        surveyed.places.__getitem__,
        surveyed.num_checked,
        waivers=waivers,
        held_out=int(np.count_nonzero(surveyed.parts != "train")),
    )


def in_order(findings: Iterable[Finding]) -> tuple[Finding, ...]:
    """Return findings with errors first, then warnings, then infos."""
    return tuple(sorted(findings, key=lambda finding: RANK[finding.severity]))


def refusal_text(findings: Iterable[Finding]) -> str:
    """Return why training does not start, in at most six lines; empty if no finding is an error."""
    errors = [finding for finding in findings if finding.severity == "error"]
    if not errors:
        return ""
    said = [f"{finding.id} {finding.name}: {finding.message}" for finding in errors[:MOST_NAMED]]
    if len(errors) > MOST_NAMED:
        said.append(f"and {len(errors) - MOST_NAMED} more kinds of faults.")
    names = ",".join(dict.fromkeys(finding.name for finding in errors))
    return "\n".join(
        [
            *said,
            "Nothing was trained. attune check names every row (--fix OUT mends what is certain).",
            f"If the rows are meant so: --data.allow {names}",
        ]
    )


def find_refused(intake: Intake, allowed: int) -> list[Finding]:
    """Return an error for each kind of bad row, when there are more of them than `allowed`."""
    if len(intake.bad) <= allowed:
        return []
    kinds: dict[tuple[str, str], list[BadRow]] = {}
    for row in intake.bad:
        kinds.setdefault((row.rule, row.kind), []).append(row)
    found = []
    for (name, kind), rows in kinds.items():
        examples = tuple(
            {"file": row.place.file, "line": row.place.line, "text": row.text} for row in rows[: DEFAULT.most_examples]
        )
        message, share = intake.kind_text(kind, rows), len(rows) / max(1, intake.rows)
        fix = f"Mend the rows, or drop all bad ones with data.skip_bad_rows = {len(intake.bad)}."
        identity = RULES[name].id if name in RULES else "R02"
        found.append(Finding(identity, name, "error", len(rows), share, message, fix, examples))
    return found


def find_reading(intake: Intake) -> list[Finding]:
    """Return what the reader and the schema noticed in one file."""
    rows = intake.rows
    found = [_layout_finding(intake)]
    if intake.bad:
        kinds = ", ".join(dict.fromkeys(row.kind for row in intake.bad))
        message = f"{_rows(intake.bad)} could not be used: {kinds}; dropped, as data.skip_bad_rows allows."
        most = DEFAULT.most_examples
        texts = tuple({"file": r.place.file, "line": r.place.line, "text": r.text} for r in intake.bad[:most])
        share = len(intake.bad) / max(1, rows)
        found.append(Finding("R02", "bad-row", "warning", len(intake.bad), share, message, "Mend the rows.", texts))
    empty = intake.empty
    numbers = intake.oddities.get("not-json-number", [])
    if empty:
        message = f"{_rows(empty)} ({_lines(empty)}) {_have(empty)} an empty reply; dropped."
        fix = 'Write the answers; data.on_empty = "keep" keeps the rows and teaches the model to say nothing.'
        found.append(_warning("D10", "empty-answer", (empty, rows), message=message, fix=fix))
    if intake.weightless:
        message = (
            f"{_rows(intake.weightless)} ({_lines(intake.weightless)}) {_have(intake.weightless)} weight 0; left out."
        )
        found.append(
            _warning("R06", "weight-zero", (intake.weightless, rows), message=message, fix="", severity="info")
        )
    if numbers:
        message = (
            f"{_rows(numbers)} {_have(numbers)} a number that is not JSON, such as NaN or 1e999 ({_lines(numbers)}), "
            "in a field that is not used; ignored."
        )
        found.append(
            _warning("R04", "not-json-number", (numbers, rows), message=message, fix="Write null.", severity="info")
        )
    return found


def find_ignored_files(train: Any) -> list[Finding]:
    """Return the files of a folder or glob that are not read, as an info."""
    ignored = find_ignored(train)
    if not ignored:
        return []
    names = ", ".join(ignored[:NAMED_LINES])
    more = f" and {len(ignored) - NAMED_LINES} more" if len(ignored) > NAMED_LINES else ""
    message = f"not read, as their names are not those of data: {names}{more}."
    return [Finding("R07", "files-not-read", "info", 0, 0.0, message, "Name such a file itself to have it read.")]


def _layout_finding(intake: Intake) -> Finding:
    """Return how a file is read; plain text beside a column that looks like its answer is a warning."""
    message = f"{intake.path}: read as {intake.stated}."
    answers = [column for column in intake.unused if column.lower() in ANSWER_COLUMNS]
    if intake.layout != "text" or not answers:
        return Finding("R01", "layout", "info", intake.rows, 1.0, message, "")
    fix = (
        f"If {answers[0]} is the answer to text: --data.columns.prompt text --data.columns.completion {answers[0]}; "
        "if text is all there is to learn: --allow layout"
    )
    return Finding("R01", "layout", "warning", intake.rows, 1.0, message, fix)


def _mask_findings(masker: Masker, rows: int) -> list[Finding]:
    """Return what template and tokenizer did to the rows of one file."""
    found = []
    controls, lossy, in_parts = masker.with_controls, masker.lossy, masker.in_parts
    rewritten = list(dict.fromkeys(masker.rewritten))
    if controls:
        message = (
            f"{_rows(controls)} ({_lines(controls)}): the content holds {', '.join(sorted(masker.control_texts)[:5])}: "
            "encoded as plain text, not as control tokens."
        )
        fix = "If the rows were rendered with a template before, give the bare messages instead."
        found.append(_warning("T05", "control-text", (controls, rows), message=message, fix=fix, severity="info"))
    if lossy:
        message = (
            f"{_rows(lossy)} ({_lines(lossy)}) hold characters that this tokenizer cannot give back: "
            "what is learned is the tokenizer's own round trip of the answer."
        )
        fix = "Look at the rows; a byte-level tokenizer loses nothing."
        found.append(_warning("T02", "lossy-tokenizer", (lossy, rows), message=message, fix=fix))
    if rewritten:
        message = (
            f"{_rows(rewritten)} ({_lines(rewritten)}): the chat template rewrites history, so answers before the last "
            "one stand after another text here than when the model gives them."
        )
        fix = 'data.mask = "last" learns the last answer only, which is exact.'
        found.append(_warning("T03", "rewritten-history", (rewritten, rows), message=message, fix=fix))
    if in_parts:
        message = (
            f"{_rows(in_parts)}: a token would straddle the border of an answer; encoded in parts, as at inference."
        )
        found.append(_warning("T04", "encoded-in-parts", (in_parts, rows), message=message, fix="", severity="info"))
    return found


def _template_finding(template: ChatTemplate, rows: int) -> Finding:
    message = f"chat template: {template.name} ({template.reason}); an answer ends with {template.terminator!r}."
    fix = 'Another one: data.template = "chatml" or a Jinja file.' if template.is_default else ""
    return Finding("T01", "template", "info", rows, 1.0, message, fix)


def _warning(
    identity: str,
    name: str,
    counted: tuple[Sequence[Place], int],
    *,
    message: str,
    fix: str,
    severity: Severity = "warning",
) -> Finding:
    """Return a finding over some places, with the first ones; `counted` is the places and the number of all rows."""
    places, rows = counted
    examples = tuple({"file": place.file, "line": place.line, "text": ""} for place in places[: DEFAULT.most_examples])
    return Finding(identity, name, severity, len(places), len(places) / max(1, rows), message, fix, examples)


def _lines(places: Sequence[Place]) -> str:
    named = ", ".join(str(place.line) for place in places[:NAMED_LINES])
    return f"line{'s' * (len(places) > 1)} {named}{', ...' if len(places) > NAMED_LINES else ''}"


def _rows(things: Sequence[object]) -> str:
    return f"{len(things)} row{'s' * (len(things) != 1)}"


def _have(things: Sequence[object]) -> str:
    return "has" if len(things) == 1 else "have"
