"""Which rows of one step begin alike, and how their common beginnings become documents that are computed once.

A position may be shared by rows that agree on every token up to it and that learn the same token there, if any: what
comes later in a row does not change a causal model's states before it. So a shared part ends where the rows differ, or
one token earlier where two of them learn the token in which they differ.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from attune.data.corpus import Corpus
from attune.data.layout import lay_out

SHORTEST = 8  # tokens of a shared part; for fewer, one more document costs about what it saves
LEAST = 32  # tokens that a shared part must save
LEAST_SHARE = 0.01  # of all tokens: gathering the keys of everything costs about so much
DEEPEST = 64  # shared parts inside each other


@dataclass(frozen=True)
class Part:
    """Positions start to end (excluded) of some rows that agree on them, and what follows: one document of a batch.

    Its tokens are those of the first of `rows`, which are all rows that pass through it, or end in it.
    """

    start: int
    end: int
    rows: tuple[int, ...]
    children: tuple[Part, ...] = ()

    @cached_property
    def cost(self) -> int:
        """Tokens that are computed for this part and what follows it."""
        return self.end - self.start + sum(child.cost for child in self.children)

    def walk(self) -> Iterator[Part]:
        """Yield this part and all that follow, each before its children."""
        yield self
        for child in self.children:
            yield from child.walk()


@dataclass(frozen=True)
class Plan:
    """All rows of a step as families: parts that share nothing with each other."""

    families: tuple[Part, ...]
    row_tokens: int

    @property
    def saved(self) -> int:
        """Tokens that need not be computed."""
        return self.row_tokens - sum(family.cost for family in self.families)


@dataclass(slots=True)
class _Branch:
    """A place where rows part: after `depth` common tokens, into children: branches, or rows as places in the order."""

    depth: int
    children: list[_Branch | int] = field(default_factory=list)
    documents: int = 0  # that begin here at the latest, if this branch shares nothing

    def add(self, child: _Branch | int) -> None:
        """Take one more child, itself complete."""
        self.children.append(child)
        alone = isinstance(child, int) or _is_worth_it(child, self.depth)
        self.documents += 1 if alone else child.documents  # type: ignore[union-attr]

    def leaves(self) -> Iterator[int]:
        """Yield the places of all rows below."""
        waiting: list[_Branch | int] = [self]
        while waiting:
            child = waiting.pop()
            if isinstance(child, int):
                yield child
            else:
                waiting.extend(reversed(child.children))


def plan_sharing(corpus: Corpus, rows: Sequence[int] | NDArray[np.integer]) -> Plan | None:
    """Return how the rows of a step share their beginnings, or None where that saves next to nothing.

    Rows may come more than once. A row that is the beginning of another is computed with it. Wherever rows part and
    sharing what they have in common saves at least LEAST tokens, new documents start, at any depth.
    """
    chosen = [int(row) for row in rows]
    groups, common = _sorted_rows(corpus, chosen)
    if len(groups) == len(chosen) and not any(common):
        return None
    families = _settle(corpus, groups, _branches(common), start=0, level=0)
    plan = Plan(tuple(families), int(corpus.lengths[chosen].sum()))
    return plan if plan.saved >= max(1, LEAST_SHARE * plan.row_tokens) else None


def split(families: Sequence[Part], limit: int) -> list[Part]:
    """Return the families cut so that each computes at most `limit` tokens; each piece repeats what its rows share.

    Only a single row longer than that is left longer.
    """
    return [piece for family in families for piece in _pieces(family, limit)]


def _pieces(part: Part, limit: int) -> list[Part]:
    """Return a part as pieces of at most `limit` tokens, balanced."""
    if part.cost <= limit or not part.children:
        return [part]
    left = max(1, limit - (part.end - part.start))
    children = [piece for child in part.children for piece in _pieces(child, left)]
    bins = lay_out([child.cost for child in children], left)
    return [_joined(part.start, part.end, [children[number] for number in one]) for one in bins]


def _joined(start: int, end: int, children: Sequence[Part]) -> Part:
    """Return a part with these children; a child alone continues it in the same document."""
    if len(children) == 1:
        return replace(children[0], start=start)
    return Part(start, end, tuple(row for child in children for row in child.rows), tuple(children))


def _sorted_rows(corpus: Corpus, rows: Sequence[int]) -> tuple[list[tuple[int, ...]], list[int]]:
    """Return the rows in lexicographic order, grouped, and how many tokens each group has in common with the last.

    A group is a row that begins no other, followed by the rows that are its beginning or the same. Fewer than SHORTEST
    common tokens count as 0.
    """
    tokens = [corpus.row(row)[0] for row in rows]
    keys = [one.astype(">i4").tobytes() for one in tokens]  # big-endian bytes sort as their numbers do
    order = sorted(range(len(rows)), key=keys.__getitem__)
    groups: list[tuple[int, ...]] = []
    common: list[int] = []
    contained: list[int] = []
    overlap = 0  # of the row at hand with the last group
    for place, following in zip(order, [*order[1:], None], strict=True):
        if following is not None and keys[following].startswith(keys[place]):
            contained.append(rows[place])
            overlap = min(overlap, len(tokens[place]))
            continue
        groups.append((rows[place], *contained))
        common.append(overlap if overlap >= SHORTEST else 0)
        contained = []
        if following is not None and keys[place][: 4 * SHORTEST] == keys[following][: 4 * SHORTEST]:
            least = min(len(tokens[place]), len(tokens[following]))
            overlap = int((tokens[place][:least] != tokens[following][:least]).argmax())
        else:
            overlap = 0
    return groups, common


def _branches(common: Sequence[int]) -> _Branch:
    """Return the tree of the places where rows part, from the tokens that each has in common with the one before."""
    opened = [_Branch(0)]
    pending: _Branch | int = 0
    for place, overlap in enumerate(common[1:], start=1):
        while opened[-1].depth > overlap:
            closed = opened.pop()
            closed.add(pending)
            pending = closed
        if opened[-1].depth < overlap:
            opened.append(_Branch(overlap))
        opened[-1].add(pending)
        pending = place
    while opened:
        closed = opened.pop()
        closed.add(pending)
        pending = closed
    assert isinstance(pending, _Branch), "the root closes last"
    return pending


def _is_worth_it(branch: _Branch, start: int) -> bool:
    """Whether sharing the tokens from `start` to where a branch parts saves more than one more document costs."""
    length = branch.depth - start
    return length >= SHORTEST and (branch.documents - 1) * length >= LEAST


def _settle(
    corpus: Corpus, groups: Sequence[tuple[int, ...]], branch: _Branch, *, start: int, level: int
) -> list[Part]:
    """Return the parts that follow position `start`, where the rows of a branch go on by themselves."""
    parts = []
    waiting = list(reversed(branch.children))
    while waiting:
        child = waiting.pop()
        if isinstance(child, int):
            rows = groups[child]
            parts.append(Part(start, int(corpus.lengths[rows[0]]), rows))
        elif level < DEEPEST and _is_worth_it(child, start):
            end = _last_agreement(corpus, groups, child)
            parts.append(_joined(start, end, _settle(corpus, groups, child, start=end, level=level + 1)))
        else:
            waiting.extend(reversed(child.children))
    return parts


def _last_agreement(corpus: Corpus, groups: Sequence[tuple[int, ...]], branch: _Branch) -> int:
    """Return where the part shared by a branch ends: one token early if rows learn different tokens after it."""
    depth, learning = branch.depth, 0
    for child in branch.children:
        places = [child] if isinstance(child, int) else child.leaves()
        learning += any(_learns(corpus, row, depth) for place in places for row in groups[place])
        if learning > 1:
            return depth - 1
    return depth


def _learns(corpus: Corpus, row: int, place: int) -> bool:
    """Whether a row has a learned token at a place."""
    at = int(corpus.offsets[row]) + place
    return at < int(corpus.offsets[row + 1]) and bool(corpus.learned[at])
