"""Where a model's loss comes from: by source, turn, place in the answer and length, and its worst and best rows."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from attune.data.corpus import Corpus
from attune.evals.conversation import UNFINISHED
from attune.evals.heldout import Measured, predicted_tokens, rows_of

Groups = tuple[NDArray[np.int64], list[str]]  # the group of each learned token, int64 [learned], and all names

MOST_SOURCES = 30  # with a name of their own: those of most learned tokens
MOST_TURNS = 8  # likewise; later ones count together
POSITIONS = ((1, "first"), (4, "2-4"), (16, "5-16"), (64, "17-64"))  # last place of each group
BEYOND = "65+"
MOST_PIECES = 600  # of a row that is shown
LONGEST_CHARACTER = 4  # tokens: as many as UTF-8 has bytes for one


def break_down(corpus: Corpus, measured: Measured) -> list[dict[str, Any]]:
    """Return the loss of `corpus` in parts, as {"by", "name", "rows", "tokens", "loss", "accuracy"} for each part.

    The parts of one "by" hold every learned token once; losses are in nats per token. By "source"; by "turn", the
    number of the answer in its row; by "position" in the answer, from its first token; by "length" of the row in
    tokens.
    """
    places = predicted_tokens(corpus)
    rows = rows_of(corpus)[places]
    if not len(places):
        return []
    turns, positions = _runs(places, rows)
    parts = []
    for by, (group, names) in (
        ("source", _by_source(corpus, rows)),
        ("turn", _by_turn(turns)),
        ("position", _by_position(positions)),
        ("length", _by_length(corpus.lengths[rows])),
    ):
        parts += [{"by": by, **part} for part in _sums(group, names, rows, measured)]
    return parts


def _runs(places: NDArray[np.int64], rows: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return for each learned token the number of its run of learned tokens in the row and its place in it, from 1."""
    starts_row = np.append(True, np.diff(rows) > 0)
    starts_run = starts_row | np.append(True, np.diff(places) > 1)
    run = np.cumsum(starts_run)
    at = np.arange(len(places))
    turns = run - run[np.maximum.accumulate(np.where(starts_row, at, 0))] + 1
    positions = at - np.maximum.accumulate(np.where(starts_run, at, 0)) + 1
    return turns, positions


def _by_source(corpus: Corpus, rows: NDArray[np.int64]) -> Groups:
    """Return the source of each learned token; beyond the largest ones, sources count together."""
    names = list(dict.fromkeys(corpus.sources))
    numbers = {name: number for number, name in enumerate(names)}
    group = np.fromiter((numbers[source] for source in corpus.sources), np.int64, corpus.num_rows)[rows]
    if len(names) <= MOST_SOURCES:
        return group, names
    largest = np.argsort(-np.bincount(group, minlength=len(names)), kind="stable")[:MOST_SOURCES]
    new = np.full(len(names), MOST_SOURCES, dtype=np.int64)
    new[largest] = np.arange(MOST_SOURCES)
    return new[group], [*(names[old] for old in largest), f"{len(names) - MOST_SOURCES} others"]


def _by_turn(turns: NDArray[np.int64]) -> Groups:
    names = [*map(str, range(1, MOST_TURNS + 1)), f"{MOST_TURNS + 1}+"]
    return np.minimum(turns, MOST_TURNS + 1) - 1, names


def _by_position(positions: NDArray[np.int64]) -> Groups:
    ends = np.array([end for end, _ in POSITIONS])
    return np.searchsorted(ends, positions), [*(name for _, name in POSITIONS), BEYOND]


def _by_length(lengths: NDArray[np.int64]) -> Groups:
    """Return the length of each learned token's row, in steps that double: 2, 3-4, 5-8 and so on."""
    ends = 2 ** np.arange(1, max(int(lengths.max()) - 1, 1).bit_length() + 1)
    firsts = np.append(2, ends[:-1] + 1)
    names = [str(last) if first == last else f"{first}-{last}" for first, last in zip(firsts, ends, strict=True)]
    return np.searchsorted(ends, lengths), names


def _sums(
    group: NDArray[np.int64], names: Sequence[str], rows: NDArray[np.int64], measured: Measured
) -> list[dict[str, Any]]:
    """Return the figures of every group that has tokens, in the order of the names."""
    tokens = np.bincount(group, minlength=len(names))
    losses = np.bincount(group, weights=measured.token_loss, minlength=len(names))
    right = np.bincount(group, weights=measured.token_right, minlength=len(names))
    pairs = np.unique(rows * len(names) + group)
    rows_in = np.bincount(pairs % len(names), minlength=len(names))
    return [
        {
            "name": names[number],
            "rows": int(rows_in[number]),
            "tokens": int(tokens[number]),
            "loss": float(losses[number] / tokens[number]),
            "accuracy": float(right[number] / tokens[number]),
        }
        for number in np.flatnonzero(tokens).tolist()
    ]


def extremes(
    corpus: Corpus,
    measured: Measured,
    base_loss: Sequence[float | None] | NDArray[np.float64] | None,
    decode: Callable[[Sequence[int]], str],
    *,
    count: int = 10,
) -> dict[str, list[dict[str, Any]]]:
    """Return the rows of highest and of lowest loss, {"worst": [row], "best": [row]}, at most `count` each, none twice.

    A row is {"file", "line", "loss", "base_loss", "tokens", "pieces"}: pieces are [text, loss], loss None where nothing
    is learned. Several tokens that make up one character are one piece with their losses added. Of a long row, the
    pieces around its learned tokens. `base_loss`: nats per learned token of the first rows by the base model, None or
    NaN where unknown. `decode`: the text of ids as it reads after other text.
    """
    known = np.flatnonzero(~np.isnan(measured.row_loss))
    order = known[np.argsort(-measured.row_loss[known], kind="stable")]
    most = min(count, (len(order) + 1) // 2)
    chosen = {"worst": order[:most], "best": order[most:][::-1][:count]}
    losses = np.full(len(corpus.tokens), np.nan)
    losses[predicted_tokens(corpus)] = measured.token_loss
    return {
        name: [
            {
                "file": corpus.places[row].file,
                "line": corpus.places[row].line,
                "loss": float(measured.row_loss[row]),
                "base_loss": _known(base_loss, row),
                "tokens": int(corpus.lengths[row]),
                "pieces": _pieces(*_window(corpus, row, losses), decode),
            }
            for row in rows.tolist()
        ]
        for name, rows in chosen.items()
    }


def _known(losses: Sequence[float | None] | NDArray[np.float64] | None, row: int) -> float | None:
    """Return the loss of a row where there is one."""
    loss = None if losses is None or row >= len(losses) else losses[row]
    return None if loss is None or np.isnan(loss) else float(loss)


def _window(corpus: Corpus, row: int, losses: NDArray[np.float64]) -> tuple[NDArray[np.int32], NDArray[np.float64]]:
    """Return the ids and losses of a row; of a long one, the stretch with most learned tokens and what is before."""
    tokens, learned = corpus.row(row)
    nats = losses[corpus.offsets[row] : corpus.offsets[row + 1]]
    if len(tokens) > MOST_PIECES:
        held = np.append(0, np.cumsum(learned))
        first = int(np.argmax(held[MOST_PIECES:] - held[:-MOST_PIECES]))
        tokens, nats = tokens[first : first + MOST_PIECES], nats[first : first + MOST_PIECES]
    return tokens, nats


def _pieces(
    tokens: NDArray[np.int32], nats: NDArray[np.float64], decode: Callable[[Sequence[int]], str]
) -> list[list[Any]]:
    """Return [text, loss or None] for each token, or for the few that make up one character."""
    pieces: list[list[Any]] = []
    ids: list[int] = []
    for at, token in enumerate(tokens.tolist()):
        ids.append(token)
        text = decode(ids)
        if text.endswith(UNFINISHED) and len(ids) < LONGEST_CHARACTER and at + 1 < len(tokens):
            continue
        own = nats[at + 1 - len(ids) : at + 1]
        pieces.append([text, None if np.isnan(own).all() else round(float(np.nansum(own)), 4)])
        ids = []
    return pieces
