"""Which answers belong to one task, told by what is asked: the same instruction, the same opening or closing words."""

from __future__ import annotations

from array import array
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import xxhash

from attune.types import Example

EDGE_WORDS = 3  # of a question's beginning and end that name its task
FIRST_WORDS, LAST_WORDS = 10, 4  # of a question, that are kept
MOST_WORDS = 65_534
MANY_WORDS = 2**32 - 1  # more than a part can meet
NO_WORD = 1
FEWEST_OF_SUBTASK = 10  # rows that show that a smaller task has a format of its own
MOST_ASKED = 20_000  # members that stand for all
SMOOTHING = 0.5  # weight of a word's share everywhere, against its share among members or strays
TOLD_APART = 5.0  # nats: a question's words are 150 times likelier among the strays
USUAL = 0.003  # a question less usual in its words than all but 0.3 % of a task's questions is not of the task


class Strays(NamedTuple):
    """Answers outside of their task's format. All arrays have one entry for each stray."""

    at: np.ndarray  # int64, which answers
    share: np.ndarray  # float64, of the task's answers that keep the format
    rows: np.ndarray  # int64, how many answers the task has


class Tasks:
    """What was asked for each answer, in about 50 bytes each."""

    def __init__(self, *, is_part: bool = False) -> None:
        """`is_part`: another one will absorb it, so it knows all words that it meets."""
        self._most_words = MANY_WORDS if is_part else MOST_WORDS
        self._sources: dict[str, int] = {}
        self._words = {"": NO_WORD}
        self._source, self._system = array("i"), array("Q")
        self._kept = array("I" if is_part else "H")
        self._last_system: tuple[str, tuple[object, ...], int] = ("", (), 0)

    def add(self, example: Example, question: str) -> None:
        """Note what one answer was asked."""
        self._source.append(self._sources.setdefault(example.source, len(self._sources)))
        self._system.append(self._system_key(example))
        if len(question) > 200:
            words = question[:120].split(None, FIRST_WORDS)[:FIRST_WORDS]
            last = question[-60:].rsplit(None, LAST_WORDS)[-LAST_WORDS:]
        else:
            words = question.split()
            words, last = words[:FIRST_WORDS], words[-LAST_WORDS:]
        words = words + _NO_WORDS[len(words) :] + _NO_WORDS[: LAST_WORDS - len(last)] + last
        get = self._words.get
        kept = [get(word, 0) for word in words]
        if 0 in kept:
            kept = list(map(self._number, words))
        self._kept.extend(kept)

    def _number(self, word: str) -> int:
        """Return a word's number, from 1; the highest stands for all words that come too late."""
        if len(self._words) < self._most_words - 1:
            return self._words.setdefault(word, len(self._words) + 1)
        return self._words.get(word, self._most_words)

    def absorb(self, part: Tasks) -> None:
        """Add what another one noted about answers that follow."""
        sources = [self._sources.setdefault(source, len(self._sources)) for source in part._sources]
        self._source.extend(sources[source] for source in part._source)
        self._system.extend(part._system)
        words = np.array([0, *map(self._number, part._words)], np.uint16)  # words are numbered from 1
        self._kept.frombytes(words[np.frombuffer(part._kept, np.uint32)].tobytes())

    def _system_key(self, example: Example) -> int:
        """Return a number for the row's system prompt and tools; 0 where it has neither."""
        messages, tools = example.messages, example.tools
        if not tools and not (messages and messages[0].role == "system"):
            return 0
        system = messages[0].content if messages and messages[0].role == "system" else ""
        if system == self._last_system[0] and tools == self._last_system[1]:
            return self._last_system[2]
        names = [str(tool.get("function", tool)) for tool in tools]
        self._last_system = (system, tools, _hash([system, *names]))
        return self._last_system[2]

    def __len__(self) -> int:
        return len(self._source)

    def strays(self, member: np.ndarray, *, share: float, fewest: int) -> Strays:
        """Return the answers that are not `member` (bool, one for each answer) though `share` of their task are.

        A task has at least `fewest` answers. An answer counts as its task's only when it is asked in words usual there,
        and when no smaller task of its own (10 rows or more) has mostly other answers.
        """
        count = len(self)
        best_share, best_rows = np.zeros(count), np.full(count, np.iinfo(np.int64).max)
        own = np.full(count, np.iinfo(np.int64).max)  # the rows of the smallest group with other answers
        for group in self._groups():
            rows = np.bincount(group)[group]
            within = np.bincount(group, weights=member)[group] / rows
            within[group == 0], rows[group == 0] = 0, 0
            ruled = (rows >= fewest) & (within >= share) & (rows < best_rows)
            best_share[ruled], best_rows[ruled] = within[ruled], rows[ruled]
            other = (rows >= FEWEST_OF_SUBTASK) & (within < 0.5)
            own[other] = np.minimum(own[other], rows[other])
        at = np.flatnonzero(~member & (best_share > 0) & (own >= best_rows))
        if len(at):
            at = at[self._is_asked_alike(at, member)]
        return Strays(at, best_share[at], best_rows[at])

    def _groups(self) -> Sequence[np.ndarray]:
        """Return for each way to tell tasks apart the group of every answer (int64); 0 is no group."""
        source = np.frombuffer(self._source, np.int32)
        groups = [np.ones(len(self), np.int64), source.astype(np.int64) + 1]
        kept = self._numbers()
        for keys in (
            np.frombuffer(self._system, np.uint64),
            _joined(kept[:, :EDGE_WORDS]),
            _joined(kept[:, -EDGE_WORDS:]),
        ):
            if keys.any():
                _, inverse = np.unique(keys, return_inverse=True)
                groups.append(np.where(keys == 0, 0, inverse.astype(np.int64) + 1))
        return groups

    def _numbers(self) -> np.ndarray:
        """Return the numbers of the kept words: uint16 [answers, FIRST_WORDS + LAST_WORDS]."""
        return np.frombuffer(self._kept, np.uint16).reshape(-1, FIRST_WORDS + LAST_WORDS)

    def _is_asked_alike(self, at: np.ndarray, member: np.ndarray) -> np.ndarray:
        """Return which strays are asked in the members' words: bool, one for each of `at`.

        A stray must be as usual under the members' word counts as nearly all members are; and where strays are many,
        the words must not tell it from the members (naive Bayes, its own words taken out): else it is another task.
        """
        kept = self._numbers()
        inside = np.flatnonzero(member)
        ours, theirs = kept[inside[:: max(1, len(inside) // MOST_ASKED)]], kept[at]
        members, strays = _count(ours), _count(theirs)
        everywhere = (members + strays) / (members.sum() + strays.sum())
        limit = np.quantile(_chances(ours, members, everywhere, left_out=True), USUAL)
        by_members = _chances(theirs, members, everywhere, left_out=False)
        by_strays = _chances(theirs, strays, everywhere, left_out=True)
        number = np.maximum((theirs != NO_WORD).sum(axis=1), 1)
        alike = (by_members >= limit - 1e-9) & ((by_strays - by_members) * number <= TOLD_APART)
        if np.count_nonzero(~alike) >= FEWEST_OF_SUBTASK:  # another task is there: its rows at the border are its own
            by_others = _chances(theirs, _count(theirs[~alike]), everywhere, left_out=False)
            alike &= by_members >= by_others
        return np.asarray(alike)


def _count(numbers: np.ndarray) -> np.ndarray:
    """Return how often each word number occurs: float64 [MOST_WORDS + 1]; absent words do not count."""
    counts = np.bincount(numbers.ravel(), minlength=MOST_WORDS + 1).astype(np.float64)
    counts[NO_WORD] = 0
    return counts


def _chances(numbers: np.ndarray, counts: np.ndarray, everywhere: np.ndarray, *, left_out: bool) -> np.ndarray:
    """Return the mean log-likelihood of each row's words under word counts smoothed by the words' shares everywhere.

    `left_out`: the rows are in the counts, so each is taken out of them before it is judged. Rows without words get 0.
    """
    there = numbers != NO_WORD
    seen = counts[numbers]
    if left_out:
        seen = seen - (numbers[:, :, None] == numbers[:, None, :]).sum(axis=2)
    total = max(1.0, float(counts.sum()))
    likely = (np.maximum(seen, 0) / total + SMOOTHING * everywhere[numbers]) / (1 + SMOOTHING)
    logs = np.log(np.where(there, np.maximum(likely, 1e-12), 1))
    return np.asarray(logs.sum(axis=1) / np.maximum(there.sum(axis=1), 1))


def _joined(numbers: np.ndarray) -> np.ndarray:
    """Return the word numbers of each row as one number (uint64); 0 where a word is absent or not known."""
    known = ((numbers != NO_WORD) & (numbers != MOST_WORDS)).all(axis=1)
    joined = np.zeros(len(numbers), np.uint64)
    for column in numbers.T:
        joined = joined << np.uint64(16) | column.astype(np.uint64)
    return np.where(known, joined, np.uint64(0))


def _hash(words: Sequence[str]) -> int:
    """Return a number that is never 0."""
    return xxhash.xxh3_64_intdigest("\0".join(words).encode("utf-8", "surrogatepass")) | 1


_NO_WORDS = [""] * FIRST_WORDS
