"""The words with which answers begin: when too many begin alike, every reply will."""

from __future__ import annotations

import re
from array import array
from collections import Counter
from itertools import groupby
from operator import itemgetter

import numpy as np
import xxhash

from attune.data.lint.catalog import Found
from attune.data.lint.formats import begins_as_code
from attune.data.lint.thresholds import Thresholds
from attune.data.lint.view import RowView
from attune.types import Severity

FEWEST_ROWS = 10  # an opener of fewer rows is chance
MOST_KNOWN = 200_000  # openers whose words are remembered; the rarest are forgotten first
HEAD_CHARACTERS = 80
LISTED = 20

# words that say nothing about the question; a set full of them teaches them
FILLERS = (
    "sure", "certainly", "of course", "absolutely", "definitely", "great question", "good question", "no problem",
    "i'm sorry", "i am sorry", "i apologize", "sorry", "as an ai", "as a language model", "as an artificial",
    "as a large language", "i'd be happy", "i would be happy", "i'd be glad", "i'm happy", "happy to help",
    "当 然", "好 的", "抱 歉", "很 抱 歉", "对 不 起", "作 为 一",
)  # fmt: skip
_FILLER = re.compile(rf"(?:{'|'.join(map(re.escape, FILLERS))})(?![\w'])")
# CJK and kana characters are a word each; elsewhere words are runs between spaces, with their inner ' and -
_CJK = r"\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff"
_WORD = re.compile(rf"[{_CJK}]|(?:(?![{_CJK}])\w)+(?:['-](?:(?![{_CJK}])\w)+)*")


class Openers:
    """Takes every row once; counts the first words of its answers, but not of labels, JSON, code and short answers.

    An opener that takes up the question's own words ("What is the output of" - "The output of") is no habit.
    """

    def __init__(self, thresholds: Thresholds, *, is_part: bool = False) -> None:
        """`is_part`: another one will absorb it, so it notes what it sees and counts nothing."""
        self._thresholds = thresholds
        self._seen: list[tuple[int, str, bool]] | None = [] if is_part else None  # row, opener, whether it is an echo
        self._counts: Counter[str] = Counter()
        self._echoes: dict[str, list[int]] = {}
        self._rows, self._keys, self._families = array("q"), array("Q"), array("B")

    def take(self, row: RowView) -> None:
        """Look at how all learned answers of a row begin."""
        for answer in row.answers:
            opener = opener_of(answer, self._thresholds)
            if not opener:
                continue
            if self._seen is not None:
                self._seen.append((row.number, opener, opener in row.question.lower()))
            elif self._count(row.number, opener):
                self._note_echo(opener, is_echo=opener in row.question.lower())
        if len(self._counts) > MOST_KNOWN:
            self._forget()

    def absorb(self, part: Openers, base: int) -> None:
        """Add the rows that a part took, which follow; `base`: the number of the first of them."""
        for number, seen in groupby(part._seen or (), key=itemgetter(0)):
            for _, opener, is_echo in seen:
                if self._count(number + base, opener):
                    self._note_echo(opener, is_echo=is_echo)
            if len(self._counts) > MOST_KNOWN:
                self._forget()

    def _count(self, number: int, opener: str) -> bool:
        """Count an answer's opener; return whether it is common so far."""
        count = self._counts[opener] = self._counts[opener] + 1
        is_common = count >= FEWEST_ROWS and 2 * count > self._thresholds.opener_share * len(self._rows)
        self._rows.append(number)
        self._keys.append(_hash(opener))
        self._families.append(_family(opener))
        return is_common

    def _note_echo(self, opener: str, *, is_echo: bool) -> None:
        """Count for a common opener how often it was looked at, and how often it takes up the question's words."""
        seen = self._echoes.setdefault(opener, [0, 0])
        seen[0] += 1
        seen[1] += is_echo

    def _is_echo(self, opener: str) -> bool:
        looked, echoed = self._echoes.get(opener, (0, 0))
        return 2 * echoed > looked

    def _forget(self) -> None:
        """Forget the words of rare openers: none of them can reach a share that matters before it is met again."""
        kept = self._counts.most_common(MOST_KNOWN // 4)
        self._counts = Counter(dict(kept))

    def table(self) -> list[tuple[str, int, float]]:
        """Return the commonest openers with their answers and their share of all judged ones, 0 to 1."""
        total = max(1, len(self._rows))
        return [(opener, count, count / total) for opener, count in self._exact(LISTED)]

    def _exact(self, most: int) -> list[tuple[str, int]]:
        """Return the commonest openers with true counts: those of the memory may be too low after forgetting."""
        known = [opener for opener, _ in self._counts.most_common(4 * most)]
        keys, counts = np.unique(np.frombuffer(self._keys, np.uint64), return_counts=True)
        true = dict(zip(keys.tolist(), counts.tolist(), strict=True)) if known else {}
        ranked = sorted(((true[_hash(opener)], opener) for opener in known), key=lambda pair: (-pair[0], pair[1]))
        return [(opener, count) for count, opener in ranked[:most]]

    def found(self) -> list[Found]:
        """Return the rows whose answers begin with an opener, or a filler, that is too common; the commonest alone."""
        total = len(self._rows)
        if not total:
            return []
        limit = max(FEWEST_ROWS, self._thresholds.opener_share * total)
        common = [
            (opener, count) for opener, count in self._exact(LISTED) if count > limit and not self._is_echo(opener)
        ]
        families = np.bincount(np.frombuffer(self._families, np.uint8), minlength=len(FILLERS) + 1)
        families[0] = 0
        filler = int(families.argmax())
        if families[filler] > limit and families[filler] >= (common[0][1] if common else 0):
            where = np.frombuffer(self._families, np.uint8) == filler
            return [self._finding(FILLERS[filler - 1], where, common)]
        if not common:
            return []
        where = np.frombuffer(self._keys, np.uint64) == np.uint64(_hash(common[0][0]))
        return [self._finding(common[0][0], where, common)]

    def _finding(self, opener: str, where: np.ndarray, common: list[tuple[str, int]]) -> Found:
        count, total = int(where.sum()), len(self._rows)
        rows = np.unique(np.frombuffer(self._rows, np.int64)[where]).tolist()
        share = count / total
        is_filler = bool(_family(opener))
        severity: Severity = "error" if share > self._thresholds.opener_error_share and is_filler else "warning"
        others = [f'"{other}" ({n / total:.1%})' for other, n in common if not other.startswith(opener)][:3]
        detail = f'{count} of {total} answers ({share:.1%}) begin with "{opener}"'
        detail += f"; also common: {', '.join(others)}." if others else "."
        texts = dict.fromkeys(rows[: self._thresholds.most_examples], opener)
        return Found("opener-concentration", rows, texts, detail, severity)


def opener_of(answer: str, thresholds: Thresholds) -> str:
    """Return an answer's first words in small letters; empty where it is short, a label, JSON or code."""
    head = answer[:HEAD_CHARACTERS].lstrip()
    if not head or head[0] in "{[<`|" or begins_as_code(head):
        return ""
    if head.isascii():
        if (
            len(answer) < 400
            and len(answer.split(None, thresholds.short_answer_words)) <= thresholds.short_answer_words
        ):
            return ""
        words = [word.strip(_EDGES) for word in head.split(None, 6)[:6]]
        words = [word for word in words if word][: thresholds.opener_words]
    else:
        head = answer[: 2 * HEAD_CHARACTERS].replace("\u2019", "'")
        words = _WORD.findall(head)
        if len(words) <= thresholds.short_answer_words:
            return ""
        words = words[: thresholds.opener_words]
    return " ".join(words).lower() if len(words) == thresholds.opener_words else ""


_EDGES = "\"'.,:;!?()*#_-~>="


def _family(opener: str) -> int:
    """Return the number of the filler, from 1, with which an opener begins; 0 where there is none."""
    hit = _FILLER.match(opener)
    return FILLERS.index(hit[0]) + 1 if hit else 0


def _hash(opener: str) -> int:
    return xxhash.xxh3_64_intdigest(opener.encode("utf-8", "surrogatepass"))
