"""What was raised is not raised again, after a resume either."""

from __future__ import annotations

import json

from attune.evals.guards.raised import Raised
from attune.evals.guards.steps import after_step
from attune.evals.guards.thresholds import DEFAULT
from attune.evals.guards.validations import after_validation
from attune.record import plain
from attune.types import Alarm, Severity
from tests.evals.guards.histories import facts, history_of, probe, sound, step


def alarm(name: str, severity: Severity, number: int = 1) -> Alarm:
    """An alarm of that name."""
    return Alarm("G0", name, number, severity, 1.0, 0.5, "It is so.", "Do this.")


def test_an_alarm_comes_again_only_when_it_gets_worse() -> None:
    """Warning, then error; never back, never twice; another cause of the same guard is another alarm."""
    raised = Raised()
    given: list[tuple[str, Severity]] = [
        ("overfit", "warning"),
        ("overfit", "warning"),
        ("mismatch", "warning"),
        ("overfit", "error"),
        ("overfit", "warning"),
        ("overfit", "error"),
    ]
    assert [bool(raised.admit([alarm(name, severity)])) for name, severity in given] == [1, 0, 1, 1, 0, 0]


def test_single_steps_are_told_one_by_one_then_counted() -> None:
    """The sixth spike is silent, and the end of the run says how many there were."""
    raised, history, told = Raised(), history_of(), 0
    for number in range(1, 201):
        is_spike = number > 40 and number % 20 == 0
        history.add_step(step(number, 8.0 if is_spike else 1.0, 9.0 if is_spike else 0.5))
        told += len(raised.admit(after_step(history)))
    assert told == DEFAULT.spike_most
    history.num_not_finite = 6
    rest = sound(raised.rest(history))
    assert rest["spikes-in-all"].figure == history.num_spikes == 8
    assert rest["not-finite-in-all"].figure == 6
    assert raised.rest(history) == []


def test_a_resumed_run_goes_on_where_it_was() -> None:
    """The lines of alarms.jsonl are enough to know what was said."""
    history = history_of()
    history.add_probe(probe(0, general_loss=3.0))
    history.add_probe(probe(10, general_loss=3.0 + (DEFAULT.general_rise + DEFAULT.general_error_rise) / 2))
    raised = Raised()
    lines = [json.loads(json.dumps(plain(found))) for found in raised.admit(after_validation(history))]
    lines += [plain(alarm("spike", "warning", number)) for number in range(DEFAULT.spike_most)]
    again = Raised(lines)
    assert again.admit(after_validation(history)) == []
    assert again.admit([alarm("spike", "warning", 9)]) == []
    history.add_probe(probe(20, general_loss=3.1 + DEFAULT.general_error_rise))
    assert [found.severity for found in again.admit(after_validation(history))] == ["error"]


def test_nothing_is_counted_that_was_told() -> None:
    """As many spikes as are told one by one need no sum."""
    raised, history = Raised(), history_of(step(n, 1.0) for n in range(1, 60))
    history.num_spikes = history.num_not_finite = DEFAULT.spike_most
    raised.admit([alarm("spike", "warning", number) for number in range(DEFAULT.spike_most)])
    assert raised.rest(history) == []
    assert facts().has_task_metric is False
