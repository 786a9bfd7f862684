"""D08, second half: answers that all end at the same greatest length, where the program that wrote them cut them."""

from __future__ import annotations

import sys
from array import array

import numpy as np
from numpy.typing import NDArray

from attune.data.lint.catalog import Found
from attune.data.lint.quote import shorten
from attune.data.lint.thresholds import Thresholds
from attune.data.lint.view import RowView

CLOSED = frozenset(".!?)]}>\"'`*_:;|\u3002\uff01\uff1f\u201d\u2019\u300d\u2026")  # how a finished answer ends
FEWEST = 5  # answers that make a pile
TAIL_CHARACTERS = 80
MOST_TAILS = 5000


class PileUp:
    """Takes every row once; says at the end whether answers stop at one length, in words or in characters.

    A program's limit is in tokens, which neither is: a limit far from both is seen only where answers vary little.
    """

    def __init__(self, thresholds: Thresholds, *, is_part: bool = False) -> None:
        """`is_part`: another one will absorb it, so it forgets nothing."""
        self._thresholds = thresholds
        self._most_tails = sys.maxsize if is_part else MOST_TAILS
        self._rows, self._words, self._characters = array("q"), array("i"), array("i")
        self._is_open = array("b")  # whether the answer stops without a closing mark
        self._tails: dict[int, str] = {}  # how the longest answers stop
        self._longest = 0

    def take(self, row: RowView) -> None:
        """Note the length of the last answer of a conversation; plain text may be cut anywhere."""
        answer = row.answer
        if row.example.text is not None or not answer:
            return
        self._rows.append(row.number)
        self._words.append(answer.count(" ") + answer.count("\n") + 1)
        self._characters.append(len(answer))
        is_open = answer[-1] not in CLOSED and not answer[-1].isspace()
        self._is_open.append(is_open)
        self._longest = max(self._longest, len(answer))
        if len(answer) > 0.8 * self._longest and len(self._tails) < self._most_tails:
            self._tails[row.number] = f"... {answer[-TAIL_CHARACTERS:]}"

    def absorb(self, part: PileUp, base: int) -> None:
        """Add the rows that another one took, which follow; `base`: the number of the first of them."""
        lengths = np.frombuffer(part._characters, np.int32)
        longest = np.maximum(np.maximum.accumulate(lengths), self._longest) if len(lengths) else lengths
        at = {row: number for number, row in enumerate(part._rows) if row in part._tails}
        for row, tail in part._tails.items():
            if lengths[at[row]] > 0.8 * longest[at[row]] and len(self._tails) < self._most_tails:
                self._tails[row + base] = tail
        self._rows.extend(row + base for row in part._rows)
        self._words.extend(part._words)
        self._characters.extend(part._characters)
        self._is_open.extend(part._is_open)
        self._longest = max(self._longest, part._longest)

    def found(self) -> list[Found]:
        """Return the finding, if there is one."""
        words, characters = np.frombuffer(self._words, np.int32), np.frombuffer(self._characters, np.int32)
        if not len(words):
            return []
        for lengths, unit in ((words, "words"), (characters, "characters")):
            pile = self._pile(lengths, words)
            if pile is not None:
                rows = np.frombuffer(self._rows, np.int64)[pile].tolist()
                texts = {row: shorten(self._tails.get(row, "")) for row in rows[: self._thresholds.most_examples]}
                limit = int(lengths.max())
                detail = f"they have {round(limit * self._within):,} to {limit:,} {unit}, no answer has more."
                return [Found("length-pile-up", rows, texts, detail)]
        return []

    @property
    def _within(self) -> float:
        return 1 - self._thresholds.pile_up_within

    def _pile(self, lengths: NDArray[np.int32], words: NDArray[np.int32]) -> NDArray[np.int64] | None:
        """Return which answers stand in a pile at the greatest length: int64, or None.

        A limit cuts in the middle: most of the pile stops without a mark. And it makes a pile: the stretch just below,
        as wide, holds fewer answers.
        """
        limits = self._thresholds
        longest = int(lengths.max())
        near = lengths >= longest * self._within
        below = (lengths >= longest * (1 - 2 * limits.pile_up_within)) & ~near
        count = int(near.sum())
        if count < max(FEWEST, limits.pile_up_share * len(lengths)) or count < 2 * int(below.sum()):
            return None
        if int(words[near].min()) < limits.truncated_words:
            return None
        is_open = np.frombuffer(self._is_open, np.int8)[near]
        return np.flatnonzero(near) if is_open.mean() > limits.pile_up_open_share else None
