"""Rows to look at, as pieces of text with 1 for learned and 0 for context."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import groupby
from typing import Any

import numpy as np
from numpy.typing import NDArray

from attune.data.corpus import STATES, Corpus, Entries
from attune.data.encoding.tokenizer import Tokenizer

PREVIEW_ROWS = 8


def preview_rows(
    train: Corpus, tokenizer: Tokenizer, entries: Entries, *, augmented: int = 0
) -> tuple[Mapping[str, Any], ...]:
    """Return rows to look at, spread over the corpus: each as pieces of text with 1 for learned, 0 for context.

    `augmented`: how many rows at its end were made of others, whose places they bear.
    """
    rows = np.unique(np.linspace(0, train.num_rows - 1, min(PREVIEW_ROWS, train.num_rows)).astype(int))
    state_of = {(place.file, place.line): "" for place in (train.places[int(row)] for row in rows)}
    lines = entries.places.lines
    for file, line in state_of:
        number = entries.places.files.index(file)
        hits = np.flatnonzero((lines == line) & (entries.places.numbers == number))
        state_of[file, line] = STATES[int(entries.states[hits[0]])]
    first_made = train.num_rows - augmented
    return tuple(
        _preview_row(train, row, tokenizer, _state(state_of, train, row) if row < first_made else "augmented")
        for row in rows.tolist()
    )


def _state(state_of: Mapping[tuple[str, int], str], train: Corpus, row: int) -> str:
    place = train.places[row]
    return state_of[place.file, place.line]


def _preview_row(train: Corpus, row: int, tokenizer: Tokenizer, state: str) -> Mapping[str, Any]:
    place, (tokens, learned) = train.places[row], train.row(row)
    return {
        "file": place.file,
        "line": place.line,
        "state": state,
        "tokens": len(tokens),
        "learned": int(learned.sum()),
        "pieces": pieces_of(tokens, learned, tokenizer),
    }


def pieces_of(tokens: NDArray[np.int32], learned: NDArray[np.bool_], tokenizer: Tokenizer) -> list[list[Any]]:
    """Return a row as [text, 1 or 0] for each stretch of tokens that are learned or not."""
    pieces: list[list[Any]] = []
    start = 0
    for is_learned, run in groupby(learned.tolist()):
        end = start + sum(1 for _ in run)
        ids = tokens[start:end].tolist()
        pieces.append([tokenizer.decode(ids) if start == 0 else tokenizer.decode_after(ids), int(is_learned)])
        start = end
    return pieces
