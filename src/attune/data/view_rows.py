"""Rows for a person to look at: those that a rule found and some others, as text with what is learned marked."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from attune.config import DataConfig
from attune.data.encoding.mask import Masker
from attune.data.preview import pieces_of
from attune.data.reading.intake import Intake
from attune.data.survey import Surveyed
from attune.errors import TemplateError
from attune.types import Example, Message, Place

PER_FINDING = 8  # rows of each finding
SHORT = 200  # characters
OTHERS = 40  # rows that nothing was found in or that come as they come

StateOf = Callable[[Place], str]


def choose_rows(surveyed: Surveyed, others: int = OTHERS) -> list[int]:
    """Return the numbers of rows worth a look: some of each finding, and others spread evenly over all rows."""
    rows: set[int] = set()
    for found in surveyed.found:
        rows.update(int(row) for row in found.rows[:PER_FINDING])
    checked = np.flatnonzero(surveyed.parts != "test")
    if len(checked):
        spread = np.linspace(0, len(checked) - 1, min(others, len(checked))).astype(np.int64)
        rows.update(checked[spread].tolist())
    return sorted(rows)


def spread_rows(surveyed: Surveyed, count: int) -> list[int]:
    """Return the numbers of `count` training rows, spread evenly."""
    train = np.flatnonzero(surveyed.parts == "train")
    return [int(train[at]) for at in np.unique(np.linspace(0, len(train) - 1, min(count, len(train))).astype(np.int64))]


def fetch_examples(surveyed: Surveyed, rows: Sequence[int], config: DataConfig) -> dict[int, Example]:
    """Return the examples of some rows, read again from their files."""
    wanted: dict[str, dict[int, int]] = {}
    for row in rows:
        place = surveyed.places[row]
        wanted.setdefault(place.file, {})[place.offset] = row
    found: dict[int, Example] = {}
    for file, numbers in wanted.items():
        left = len(numbers)
        for example in Intake(file, config).stream():
            if isinstance(example, Example) and example.place.offset in numbers:
                found[numbers[example.place.offset]] = example
                left -= 1
                if not left:
                    break
    return found


def flags_of(surveyed: Surveyed, rows: Iterable[int]) -> dict[int, list[str]]:
    """Return the names of the rules that found something in each of some rows."""
    chosen = set(rows)
    flags: dict[int, list[str]] = {}
    for found in surveyed.found:
        for row in chosen.intersection(map(int, found.rows)):
            flags.setdefault(row, []).append(found.name)
    return flags


def show_rows(
    examples: Mapping[int, Example],
    flags: Mapping[int, Sequence[str]],
    state_of: StateOf,
    masker: Masker | None,
    *,
    mask: str = "completion",
) -> list[dict[str, Any]]:
    """Return rows as pieces of text with 1 for learned and 0 for context; with a masker also their tokens.

    Without one, turns are pieces, and those are marked whole that the mask mode `mask` and their own flags select.
    """
    shown = []
    for row, example in sorted(examples.items()):
        place = example.place
        entry: dict[str, Any] = {"file": place.file, "line": place.line, "state": state_of(place)}
        entry |= _encoded(example, masker) if masker else _uncounted(_turns(example, mask))
        shown.append({**entry, "flags": list(flags.get(row, ()))})
    return shown


def _encoded(example: Example, masker: Masker) -> dict[str, Any]:
    """Return a row's tokens in pieces; a row that the template refuses says why."""
    try:
        row = masker.encode([example])[0]
    except TemplateError as error:
        return _uncounted([*_turns(example, masker.mask), [f"\n{error}", 0]])
    pieces = pieces_of(row.tokens, row.learned, masker.tokenizer)
    return {"tokens": len(row.tokens), "learned": int(row.learned.sum()), "pieces": pieces}


def _uncounted(pieces: list[list[Any]]) -> dict[str, Any]:
    return {"tokens": None, "learned": None, "pieces": pieces}


def short_text(example: Example) -> str:
    """Return the beginning of what a row asks and answers, on one line."""
    last = [example.text] if example.text is not None else [message.content for message in example.messages[-2:]]
    text = " -> ".join(" ".join(part.split()) for part in last)
    return text if len(text) <= SHORT else f"{text[: SHORT - 3]}..."


def _turns(example: Example, mask: str) -> list[list[Any]]:
    """Return a row's turns in pieces, 1 for those that a mask mode learns."""
    if example.text is not None:
        return [[example.text, 1]]
    last = max((at for at, message in enumerate(example.messages) if message.role == "assistant"), default=-1)
    pieces: list[list[Any]] = []
    for at, message in enumerate(example.messages):
        by_mode = message.role == "assistant" and (mask != "last" or at == last)
        is_learned = mask == "all" or ((by_mode if message.train is None else message.train) and message.weight > 0)
        pieces += [[f"{'' if not pieces else chr(10)}{message.role}: ", 0], [_said(message), int(is_learned)]]
    return pieces


def _said(message: Message) -> str:
    """Return a turn's content with its reasoning and tool calls."""
    parts = [f"({message.reasoning}) " if message.reasoning else "", message.content]
    return "".join([*parts, *(str(dict(call)) for call in message.tool_calls)])
