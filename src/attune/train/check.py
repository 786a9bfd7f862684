"""Is the data fit to train on? Everything that training would do with the rows, without training."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from attune.config import Config
from attune.data.findings import find_reading
from attune.data.intake import NAMED_LINES, Intake
from attune.data.prepare import Prepared, prepare
from attune.data.read import BadRow
from attune.data.tokenizer import load_tokenizer
from attune.errors import ConfigError, DataError
from attune.model.folder import check_vocabulary, locate, model_length
from attune.record import plain
from attune.types import Finding

STATES = ("used", "cut", "dropped", "duplicate", "held_out")


def check_rows(config: Config) -> dict[str, Any]:
    """Return the document of `attune check`: rows, ok, ledger, tokens, findings. With a model, tokens are counted.

    Bad rows are findings here, all of them, and the rest is looked at as if they had been dropped.
    Raises: DataError when a file as a whole cannot be used; ConfigError, ModelError or TemplateError as training would.
    """
    if not config.data.train:
        raise ConfigError("which rows? Give a file: attune check DATA")
    intakes = [_take_in(path, config) for path in (config.data.train, config.data.valid) if path]
    errors = [finding for intake in intakes for finding in _refusals(intake)]
    findings = [finding for intake in intakes for finding in find_reading(intake)]
    prepared = _prepare(config, intakes, has_errors=bool(errors)) if config.model else None
    if prepared:
        findings = list(prepared.findings)
    findings = [*errors, *(finding for finding in findings if finding.name != "bad-row" or not errors)]
    ledger = prepared.ledger if prepared else None
    return {
        "rows": sum(intake.rows for intake in intakes),
        "ok": not any(finding.severity == "error" for finding in findings),
        "ledger": {state: ledger.counts[state] for state in STATES} if ledger else _counts(intakes),
        "tokens": {
            "in": ledger.tokens_in if ledger else None,
            "learned": ledger.tokens_learned if ledger else None,
            "lost": ledger.tokens_lost if ledger else None,
        },
        "findings": [plain(finding) for finding in findings],
    }


def unusable(error: DataError) -> dict[str, Any]:
    """Return the document for a file that cannot be used at all: no rows, and the fault as the one finding."""
    finding = Finding("R00", "unusable-file", "error", 0, 0.0, str(error), "")
    tokens = dict.fromkeys(("in", "learned", "lost"))
    counts = dict.fromkeys(STATES, 0)
    return {"rows": 0, "ok": False, "ledger": counts, "tokens": tokens, "findings": [plain(finding)]}


def _take_in(path: str, config: Config) -> Intake:
    """Return a file read to its end."""
    intake = Intake(path, config.data)
    for _ in intake.stream():
        pass
    return intake


def _prepare(config: Config, intakes: Iterable[Intake], *, has_errors: bool) -> Prepared | None:
    """Return the rows as tokens, bad ones left out; None when those are the reason why nothing is left."""
    base = locate(config.model)
    most = max(len(intake.bad) for intake in intakes)
    tolerant = config.with_values({"data.skip_bad_rows": max(most, config.data.skip_bad_rows)})
    try:
        prepared = prepare(tolerant, load_tokenizer(base), model_length=model_length(base))
    except DataError:
        if has_errors:
            return None
        raise
    check_vocabulary(base, prepared.largest_id)
    return prepared


def _refusals(intake: Intake) -> list[Finding]:
    """Return an error for each kind of bad row, when there are more of them than data.skip_bad_rows allows."""
    if len(intake.bad) <= intake.config.skip_bad_rows:
        return []
    kinds: dict[str, list[BadRow]] = {}
    for row in intake.bad:
        kinds.setdefault(row.kind, []).append(row)
    return [
        Finding(
            id="R02",
            name="bad-row",
            severity="error",
            rows=len(rows),
            share=len(rows) / max(1, intake.rows),
            message=intake.kind_text(kind, rows),
            fix=f"Mend the rows, or drop all bad ones with data.skip_bad_rows = {len(intake.bad)}.",
            examples=tuple(
                {"file": row.place.file, "line": row.place.line, "text": row.text} for row in rows[:NAMED_LINES]
            ),
        )
        for kind, rows in kinds.items()
    ]


def _counts(intakes: Iterable[Intake]) -> dict[str, int]:
    """Return the ledger of rows that were read but not encoded."""
    counts = dict.fromkeys(STATES, 0)
    for intake in intakes:
        gone = len(intake.bad) + len(intake.empty)
        counts["dropped"] += gone
        counts["used"] += intake.rows - gone
    return counts
