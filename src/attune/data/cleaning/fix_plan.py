"""What a fix does to which row of which file, put together from one survey after another."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

from attune.data.cleaning.decide import REPAIRED_FOR, Action, decide
from attune.data.cleaning.rewrite import Key, Order
from attune.data.cleaning.seen import Seen
from attune.data.lint.catalog import RULES
from attune.data.lint.waivers import Waivers
from attune.types import Place

Origin = Callable[[Place], Place]  # from a place in a written copy to that of the row it is a copy of


@dataclass
class Plan:
    """What is done to the rows of the files to be cleaned, by file and row; grows from round to round."""

    files: Sequence[str]
    waivers: Waivers
    orders: dict[str, dict[Key, Order]] = field(default_factory=dict)
    left: dict[str, dict[Key, tuple[str, ...]]] = field(default_factory=dict)
    bad: dict[str, dict[Key, str]] = field(default_factory=dict)

    def add(self, seen: Seen, origin: Origin) -> bool:
        """Take in what is to be done after a survey, and what is left; return whether there is anything new to do."""
        self.left = {file: {} for file in self.files}
        self.bad = {file: {} for file in self.files}
        if not self.orders:
            self.orders = {file: {} for file in self.files}
        new: set[Place] = set()
        for place, found in _by_place(seen):
            row = origin(place)
            if row.file not in self.orders or row in new:
                continue
            action = self._without_waived(found, row)
            if action and self._take(row, action, why=_why(action, seen, origin)):
                new.add(row)
        for bad in seen.bad:
            row = origin(bad.place)
            if row.file in self.bad:
                self.bad[row.file][row.line, row.offset] = bad.text
                self.left[row.file][row.line, row.offset] = (bad.rule,)
        return bool(new)

    def _without_waived(self, action: Action, row: Place) -> Action | None:
        """Return what is left of an action without the rules that may be broken there; None for nothing."""
        left = tuple(rule for rule in action.left if not self._is_waived(rule, row))
        if not self._is_waived(action.rule, row):
            return action._replace(left=left)
        return Action("leave", left[0], "", left=left[1:]) if left else None

    def _is_waived(self, rule: str, row: Place) -> bool:
        return rule in RULES and (self.waivers.allows(RULES[rule].id, rule) or self.waivers.passes(rule, row))

    def _take(self, row: Place, action: Action, *, why: str) -> bool:
        """Note an action; return whether it asks for something that is not in the plan yet."""
        key, orders = (row.line, row.offset), self.orders[row.file]
        before = orders.get(key)
        left = action.left
        is_new = action.do != "leave" and (before is None or (before.do == "repair" and action.do == "drop"))
        if is_new:
            orders[key] = Order(action.do, action.rule, why)
        elif action.do != "drop":  # nothing is to be done, or a repair was that did not help
            left = (action.rule, *left)
        if left:
            self.left[row.file][key] = left
        return is_new


def _by_place(seen: Seen) -> Iterator[tuple[Place, Action]]:
    """Yield what is done to the rows of a survey, those too that are no examples.

    Bad JSON may be sound but for a byte order mark or control character in it; the repair proves it or changes nothing.
    """
    for number, action in decide(seen).items():
        place = seen.place_of(number)
        if action.do != "drop" or action.of < 0 or seen.place_of(action.of) != place:  # a file that was given twice
            yield place, action
    for place in seen.empty:
        yield place, Action("drop", "empty-answer", "has an empty answer")
    for place in seen.odd:
        yield place, Action("repair", REPAIRED_FOR, "NUL character taken out")
    for bad in seen.bad:
        if bad.kind == "bad JSON":
            yield bad.place, Action("repair", REPAIRED_FOR, "bytes that JSON forbids taken out")
        if bad.kind == "empty answer":
            yield bad.place, Action("drop", "empty-answer", bad.text)


def _why(action: Action, seen: Seen, origin: Origin) -> str:
    return f"{action.why} {origin(seen.place_of(action.of))}" if action.of >= 0 else action.why
