"""What was said already: an alarm is raised once, and again only when it gets worse."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from attune.evals.guards.catalog import make_alarm
from attune.evals.guards.history import History
from attune.evals.guards.thresholds import DEFAULT, Thresholds
from attune.types import Alarm

_RANKS = {"info": 0, "warning": 1, "error": 2}
_SINGLE = ("spike", "not-finite")  # each of these is an event of its own


class Raised:
    """The alarms of a run so far: worst severity and number by name."""

    def __init__(self, lines: Iterable[Mapping[str, Any]] = (), *, thresholds: Thresholds = DEFAULT) -> None:
        """Take up what the lines of alarms.jsonl say (fields of Alarm by name)."""
        self._most = thresholds.spike_most
        self._worst: dict[str, int] = {}
        self._counts: dict[str, int] = {}
        for line in lines:
            self._note(line["name"], line["severity"])

    def admit(self, alarms: Iterable[Alarm]) -> list[Alarm]:
        """Return those that say something new, and remember them."""
        found = []
        for alarm in alarms:
            if alarm.name in _SINGLE:
                is_new = self._counts.get(alarm.name, 0) < self._most
            else:
                is_new = _RANKS[alarm.severity] > self._worst.get(alarm.name, -1)
            if is_new:
                self._note(alarm.name, alarm.severity)
                found.append(alarm)
        return found

    def rest(self, history: History) -> list[Alarm]:
        """Return one alarm for each kind whose later ones were only counted; to be called at the end of the run."""
        step = history.last.step if history.last is not None else 0
        sums = (
            self._sum("spikes-in-all", history.num_spikes, step),
            self._sum("not-finite-in-all", history.num_not_finite, step),
        )
        return self.admit(alarm for alarm in sums if alarm.figure > self._most)

    def _sum(self, name: str, count: int, step: int) -> Alarm:
        return make_alarm(
            name,
            step,
            "warning",
            figure=float(count),
            threshold=float(self._most),
            message=f"{count} steps in all; the first {self._most} were told one by one.",
            fix="So many are no chance: lower --train.learning_rate, or check the rows with attune check.",
        )

    def _note(self, name: str, severity: str) -> None:
        self._counts[name] = self._counts.get(name, 0) + 1
        self._worst[name] = max(self._worst.get(name, -1), _RANKS[severity])
