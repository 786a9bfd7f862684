"""Every file of a check taken in and surveyed without a model: what `attune check` knows before any token."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from attune.config import Config
from attune.data.files import Part, list_files
from attune.data.findings import find_ignored_files, find_in_rows, find_reading, in_order
from attune.data.lint.catalog import Found
from attune.data.lint.rows import RowOptions
from attune.data.lint.thresholds import DEFAULT
from attune.data.lint.verdict import soften, to_findings
from attune.data.lint.waivers import Waivers
from attune.data.reading.garbage import rare_collections
from attune.data.reading.intake import Intake
from attune.data.reading.schema_file import open_answer_schema
from attune.data.survey import Survey, Surveyed
from attune.types import Example, Finding

CHUNK_ROWS = 1024
LONGEST_BY_DEFAULT = 4096  # tokens
TOKENS_PER_WORD = 1.3  # of English prose, with common tokenizers


@dataclass(frozen=True, slots=True)
class InputFile:
    """One file of a check. `weight`: how often its rows come in an epoch."""

    intake: Intake
    part: Part
    weight: float = 1.0


@dataclass(frozen=True)
class Audit:
    """All files and what was found in them; the same whether or not a model was there to count tokens."""

    files: tuple[InputFile, ...]
    surveyed: Surveyed
    findings: tuple[Finding, ...]


def audit(config: Config, waivers: Waivers, *, with_coverage: bool = True) -> Audit:
    """Return all rows of all files, looked at. Bad rows are findings.

    Raises: DataError when a file as a whole cannot be used.
    """
    survey = Survey(RowOptions(), open_answer_schema(config.data.answer_schema), with_coverage=with_coverage)
    files = []
    for file in list_files(config):
        intake = Intake(file.path, config.data, file.source)
        with rare_collections():
            take_in(intake, file.part, survey)
        files.append(InputFile(intake, file.part, file.weight))
    surveyed = survey.finish()
    found = [finding for file in files for finding in find_reading(file.intake)]
    found += find_ignored_files(config.data.train)
    found += _long_rows(surveyed, config.data.max_length, waivers)
    findings = in_order([*(soften(one, waivers) for one in found), *find_in_rows(surveyed, waivers)])
    return Audit(tuple(files), surveyed, findings)


def _long_rows(surveyed: Surveyed, max_length: int | str, waivers: Waivers) -> list[Finding]:
    """Return D12 by an estimate from words: what the tokens are only a tokenizer can say."""
    limit = max_length if isinstance(max_length, int) else LONGEST_BY_DEFAULT
    words = np.diff(surveyed.store.words().starts) - 2  # without the marks of row and answer
    rows = np.flatnonzero((words * TOKENS_PER_WORD > limit) & (surveyed.parts == "train"))
    if not len(rows):
        return []
    detail = f"an estimate, {TOKENS_PER_WORD} tokens a word against {limit} tokens; --model FOLDER counts them."
    texts = {row: f"about {int(words[row] * TOKENS_PER_WORD)} tokens" for row in rows[: DEFAULT.most_examples].tolist()}
    found = Found("truncation", rows.tolist(), texts, detail, "warning")
    return to_findings([found], surveyed.places.__getitem__, surveyed.num_checked, waivers=waivers)


def take_in(intake: Intake, part: Part, survey: Survey) -> None:
    """Read a file to its end, handing its rows to the survey."""
    chunk: list[Example] = []
    for row in intake.stream():
        if isinstance(row, Example):
            chunk.append(row)
            if len(chunk) >= CHUNK_ROWS:
                survey.take(chunk, part)
                chunk.clear()
    survey.take(chunk, part)


def count_states(files: Sequence[InputFile], surveyed: Surveyed, *, drops_copies: bool) -> dict[str, int]:
    """Return the ledger of rows that were read but not encoded: each in exactly one state."""
    counts = dict.fromkeys(("used", "cut", "dropped", "duplicate", "held_out"), 0)
    for file in files:
        gone = len(file.intake.bad) + len(file.intake.empty) + len(file.intake.weightless)
        counts["dropped"] += gone
        counts["used" if file.part == "train" else "held_out"] += file.intake.rows - gone
    if drops_copies:
        exact_of = surveyed.duplicates.exact_of
        is_copy = (exact_of != np.arange(len(exact_of))) & (surveyed.parts == "train")
        counts["duplicate"] = int(is_copy.sum())
        counts["used"] -= counts["duplicate"]
    return counts
