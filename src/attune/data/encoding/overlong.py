"""Rows over the longest length: dropped, cut or split, with what each way costs in rows and learned tokens."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

import numpy as np

from attune.data.lint.catalog import RULES
from attune.data.lint.thresholds import DEFAULT
from attune.data.lint.verdict import agreeing
from attune.errors import DataError
from attune.types import Encoded, Finding, Place

Policy = Literal["drop", "cut", "split", "error"]


@dataclass
class Toll:
    """What over-long rows cost, for every policy, counted while rows go by."""

    rows: int = 0
    learned: int = 0  # learned tokens of all over-long rows
    learned_past: int = 0  # those that stand after the longest length: what a cut loses
    without_answer: int = 0  # rows with no learned token within the longest length
    longest: int = 0
    shortest_need: int = 0  # the smallest length at which one of the dropped rows would have been kept
    first: list[tuple[Place, int]] = field(default_factory=list)  # and their lengths
    first_cut: list[tuple[Place, int]] = field(default_factory=list)  # those of which a cut would keep something

    def count(self, row: Encoded, limit: int, policy: Policy) -> None:
        """Take an over-long row into account."""
        length = len(row.tokens)
        within = int(row.learned[:limit].sum())
        learned = int(row.learned.sum())
        self.rows += 1
        self.learned += learned
        self.learned_past += learned - within
        self.without_answer += within == 0
        self.longest = max(self.longest, length)
        need = int(np.argmax(row.learned)) + 1 if policy == "cut" else length
        self.shortest_need = min(self.shortest_need or need, need)
        if len(self.first) < DEFAULT.most_examples:
            self.first.append((row.place, length))
            if within:
                self.first_cut.append((row.place, length))

    def lost(self, policy: Policy) -> int:
        """Return the learned tokens that a policy takes away."""
        return self.learned if policy == "drop" else self.learned_past if policy == "cut" else 0

    def absorb(self, part: Toll) -> None:
        """Add the rows that another one counted, which follow."""
        self.rows += part.rows
        self.learned += part.learned
        self.learned_past += part.learned_past
        self.without_answer += part.without_answer
        self.longest = max(self.longest, part.longest)
        needs = [need for need in (self.shortest_need, part.shortest_need) if need]
        self.shortest_need = min(needs, default=0)
        named = part.first[: DEFAULT.most_examples - len(self.first)]
        places = {place for place, _ in named}
        self.first += named
        self.first_cut += [entry for entry in part.first_cut if entry[0] in places]


def shorten(row: Encoded, limit: int, policy: Policy) -> tuple[list[Encoded], int]:
    """Return what is trained of an over-long row (nothing, its beginning, or pieces of it) and how many of its tokens.

    A cut answer keeps no end token, because that stands at its end. Pieces overlap by one token, which only gives the
    next one something to be predicted from, so every learned token is learned once.
    """
    if policy in ("drop", "error"):
        return [], 0
    length = len(row.tokens)
    if policy == "cut":
        pieces = [(0, _piece(row, 0, limit, "cut"))]
    else:
        starts = range(0, length - 1, max(1, limit - 1))
        pieces = [(start, _piece(row, start, start + limit, "used")) for start in starts]
    kept = [(start, piece) for start, piece in pieces if piece.learned.any()]
    covered, end = 0, 0
    for start, piece in kept:
        covered += start + len(piece.tokens) - max(start, end)
        end = start + len(piece.tokens)
    return [piece for _, piece in kept], covered


def _piece(row: Encoded, start: int, end: int, state: Literal["cut", "used"]) -> Encoded:
    learned = row.learned[start:end].copy()
    learned[:1] = False
    weights = None if row.weights is None else row.weights[start:end]
    return Encoded(row.place, row.tokens[start:end], learned, state, row.source, weights)


def refuse_overlong(toll: Toll, limit: int) -> None:
    """Raise DataError when there are over-long rows: for data.overlong = "error"."""
    if toll.rows:
        place, length = toll.first[0]
        raise DataError(
            f'{place} has {length} tokens, data.max_length is {limit} and data.overlong is "error".\n'
            f"{toll.rows} row{'s are' if toll.rows > 1 else ' is'} over it; the longest has {toll.longest} tokens.\n"
            'Set a larger data.max_length, or data.overlong = "drop", "cut" or "split".'
        )


def toll_finding(toll: Toll, *, rows: int, learned: int, limit: int, policy: Policy) -> Finding:
    """Return the finding that states what the policy costs, and what the others would.

    `rows` and `learned`: all rows and their learned tokens, over-long ones included.
    """
    place, length = toll.first[0]
    share = toll.learned / max(1, learned)
    past = toll.learned_past / max(1, learned)
    ways = {
        "drop": f"drop loses {_rows(toll.rows)} and {toll.learned} learned tokens ({share:.1%})",
        "cut": f"cut loses {_rows(toll.without_answer)} and {toll.learned_past} learned tokens ({past:.1%})",
        "split": "split loses no learned token, only context",
    }
    others = "; ".join(text for name, text in ways.items() if name != policy)
    lost = toll.lost(policy)
    has = "has" if toll.without_answer == 1 else "have"
    over = f"{toll.rows} of {rows} rows {'is' if toll.rows == 1 else 'are'} over {limit} tokens"
    return Finding(
        id="D12",
        name="truncation",
        severity="warning" if lost > DEFAULT.lost_share * learned else "info",
        rows=toll.rows,
        share=toll.rows / max(1, rows),
        message=f"{over} (line {place.line}: {length}; longest {toll.longest}); "
        f"{toll.without_answer} {has} no answer token within {limit}. {ways.get(policy, '')}.",
        fix=f"data.max_length = {toll.longest} keeps all; {others}.",
        examples=tuple({"file": p.file, "line": p.line, "text": f"{n} tokens"} for p, n in toll.first),
    )


def unstopped_finding(toll: Toll, *, rows: int) -> Finding:
    """Return rule D01 for the rows that data.overlong = cut cuts: their answers end without an end token."""
    rule, cut = RULES["no-stop"], toll.rows - toll.without_answer
    place, length = toll.first_cut[0]
    return Finding(
        id=rule.id,
        name=rule.name,
        severity="warning",  # a cut was asked for
        rows=cut,
        share=cut / max(1, rows),
        message=f"{_rows(cut)} ({cut / max(1, rows):.1%}) {'is cut, so it' if cut == 1 else 'are cut, so they'} "
        f"{agreeing(rule.title, cut)} (line {place.line}: {length} tokens). {rule.harm}",
        fix=rule.fix,
        examples=tuple({"file": p.file, "line": p.line, "text": f"{n} tokens"} for p, n in toll.first_cut),
    )


def _rows(count: int) -> str:
    return f"{count} row{'s' * (count != 1)}"
