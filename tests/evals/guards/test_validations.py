"""Guards of each validation: overfitting, mismatch, memorising, forgetting at both sides of their thresholds."""

from __future__ import annotations

from typing import Any

import pytest

from attune.evals.guards.history import History
from attune.evals.guards.thresholds import DEFAULT
from attune.evals.guards.validations import after_validation
from attune.types import Alarm
from tests.evals.guards.histories import facts, probe, rows_around, sound, step, valid


def alarms_of(
    means: list[float], *, train: list[float] | None = None, rows: int = 32, spread: float = 0.0, **changes: Any
) -> list[dict[str, Alarm]]:
    """The alarms at each of some validations, ten steps apart from step 0; `spread` of the rows' own changes."""
    history, found = History(facts(**changes)), []
    for number, mean in enumerate(means):
        for at in range(10 * number - 9, 10 * number + 1):
            if at > 0:
                history.add_step(step(at, 2.0 - at / 100, epoch=at / 5))
        losses = rows_around(mean, rows=rows) + rows_around(0, rows=rows, spread=spread, seed=number + 1)
        history.add_valid(valid(10 * number, mean), losses)
        if train is not None:
            history.add_probe(probe(10 * number, train[number]))
        found.append(sound(after_validation(history)))
    return found


def severities(found: list[dict[str, Alarm]], name: str) -> list[str | None]:
    """How severe an alarm is at each validation."""
    return [alarms[name].severity if name in alarms else None for alarms in found]


def test_overfit_warns_once_sure_and_is_an_error_the_third_time() -> None:
    """One sure rise is a warning, several in a row an error, and the best step is named."""
    times = DEFAULT.overfit_in_a_row
    found = alarms_of([3.0, 1.0, *(1.1 + number / 10 for number in range(times + 1))], spread=0.1)
    assert severities(found, "overfit") == [None, None, *["warning"] * (times - 1), "error", "error"]
    assert "--train.steps 10" in found[-1]["overfit"].fix
    assert found[-1]["overfit"].figure > DEFAULT.overfit_z


@pytest.mark.parametrize(("more", "raises"), [(-0.001, False), (0.001, True)])
def test_overfit_needs_a_rise_worth_speaking_of(more: float, raises: bool) -> None:
    """A rise below a fiftieth of the loss is none, however sure."""
    assert ("overfit" in alarms_of([1.0, 1.0 + DEFAULT.overfit_rise + more])[-1]) == raises


@pytest.mark.parametrize(("more", "severity"), [(-0.001, "warning"), (0.001, "error")])
def test_overfit_error_needs_a_larger_rise(more: float, severity: str) -> None:
    """A loss that stays a little above its best is no error."""
    some = 1 + (DEFAULT.overfit_rise + DEFAULT.overfit_error_rise) / 2
    means = [1.0, *[some] * (DEFAULT.overfit_in_a_row - 1), 1 + DEFAULT.overfit_error_rise + more]
    assert severities(alarms_of(means), "overfit")[-1] == severity


@pytest.mark.parametrize(("spread", "severity"), [(0.24, "warning"), (0.05, "error")])
def test_overfit_error_must_be_surer(spread: float, severity: str) -> None:
    """Several validations that share a lucky best are no three proofs."""
    found = alarms_of([1.0, *[1.2] * DEFAULT.overfit_in_a_row], spread=spread)[-1]["overfit"]
    assert found.severity == severity
    assert (found.figure > DEFAULT.overfit_error_z) == (severity == "error")


@pytest.mark.parametrize(("spread", "raises"), [(0.5, False), (0.1, True)])
def test_overfit_needs_rows_that_agree(spread: float, raises: bool) -> None:
    """A rise of 0.1 is sure where rows move together, and chance where they scatter."""
    assert ("overfit" in alarms_of([2.0, 1.0, 1.1], spread=spread)[-1]) == raises


@pytest.mark.parametrize(("more", "raises"), [(-1, False), (0, True)])
def test_overfit_needs_rows(more: int, raises: bool) -> None:
    """Fewer than eight rows say nothing."""
    assert ("overfit" in alarms_of([1.0, 1.5], rows=DEFAULT.overfit_rows + more)[-1]) == raises


def test_overfit_is_silent_where_training_gets_worse_too() -> None:
    """Where training rows gain nothing more, nothing is learned by heart."""
    assert "overfit" not in alarms_of([2.0, 1.0, 1.5], train=[2.0, 1.0, 1.0])[-1]
    assert "overfit" in alarms_of([2.0, 1.0, 1.5], train=[2.0, 1.0, 0.9])[-1]


@pytest.mark.parametrize(
    ("train", "said"),
    [
        ([3.0, 0.00403, 0.00397], "while training loss went from 0.00403 to 0.00397: rows"),
        ([3.0, 0.0040012, 0.0040011], "while training loss stays at 0.004: rows"),
        ([3.0, 1.0, 0.5], "while training loss went from 1.000 to 0.500: rows"),
    ],
)
def test_overfit_tells_losses_near_nothing_apart(train: list[float], said: str) -> None:
    """Figures that are said to differ do, and those that do not are not said to."""
    message = alarms_of([3.0, 0.01, 0.01025], train=train)[-1]["overfit"].message
    assert "Validation loss is 0.0103, up from 0.01 at step 10" in message
    assert said in message


def test_overfit_begins_anew_after_a_better_validation() -> None:
    """In a row means without a pause."""
    times = DEFAULT.overfit_in_a_row
    found = alarms_of([1.0, *[1.2] * (times - 1), 0.9, *[1.1] * times])
    warned = ["warning"] * (times - 1)
    assert severities(found, "overfit") == [None, *warned, None, *warned, "error"]


@pytest.mark.parametrize(("metric", "severity"), [("val_loss", "error"), ("field_accuracy", "warning")])
def test_a_task_metric_that_holds_outranks_the_loss(metric: str, severity: str) -> None:
    """Where answers are still as good, a rising loss is only a warning."""
    history = History(facts(metric=metric))
    for number, mean in enumerate([1.0, *[1.2] * DEFAULT.overfit_in_a_row]):
        history.add_valid(valid(10 * number, mean), rows_around(mean))
        history.add_probe(probe(10 * number, 1 - 0.1 * number, scores={"field_accuracy": 0.5 + 0.1 * number}))
    assert sound(after_validation(history))["overfit"].severity == severity


def test_overfit_from_the_start_asks_for_the_rows() -> None:
    """Where the base model was best, ending earlier is no remedy."""
    assert "attune check" in alarms_of([1.0, 1.5])[-1]["overfit"].fix


@pytest.mark.parametrize(("more", "raises"), [(0.01, False), (-0.01, True)])
def test_mismatch_compares_what_both_sets_gain(more: float, raises: bool) -> None:
    """Validation rows that gain less than a third of what training rows gain are of another kind."""
    last = 3.0 - (DEFAULT.mismatch_share + more)
    assert ("mismatch" in alarms_of([3.0, last], train=[3.0, 2.0])[-1]) == raises


def test_mismatch_needs_a_gain_and_is_judged_early() -> None:
    """Before anything is learned there is nothing to compare; after two passes a small gain may be overfitting."""
    fall = DEFAULT.mismatch_fall
    assert "mismatch" not in alarms_of([3.0, 3.0], train=[3.0, 3.01 - fall])[-1]
    assert "mismatch" in alarms_of([3.0, 3.0], train=[3.0, 2.99 - fall])[-1]
    assert "mismatch" not in alarms_of([3.0, 2.0, 3.0], train=[3.0, 2.0, 1.0])[-1]


@pytest.mark.parametrize(("more", "number", "raises"), [(-0.001, 10, False), (0.0, 10, True), (0.01, 0, False)])
def test_memorised(more: float, number: int, raises: bool) -> None:
    """Training rows predicted without mistakes are told, once training has begun."""
    history = History(facts())
    history.add_probe(probe(number, probe_accuracy=DEFAULT.memorised_accuracy + more))
    found = sound(after_validation(history))
    assert ("memorised" in found) == raises
    assert all(alarm.severity == "info" for alarm in found.values())


RISE, KL = DEFAULT.general_rise, DEFAULT.general_kl
ERROR_RISE, ERROR_KL = DEFAULT.general_error_rise, DEFAULT.general_error_kl


@pytest.mark.parametrize(
    ("rise", "kl", "severity", "by"),
    [
        (RISE - 0.001, KL - 0.001, None, ""),
        (RISE + 0.001, 0.0, "warning", "rise"),
        (0.0, KL + 0.001, "warning", "kl"),
        (ERROR_RISE - 0.001, 0.0, "warning", "rise"),
        (0.0, ERROR_KL - 0.001, "warning", "kl"),
        (ERROR_RISE + 0.001, 0.0, "error", "rise"),
        (-0.1, ERROR_KL + 0.001, "error", "kl"),
        (None, ERROR_KL + 0.001, "error", "kl"),
        (ERROR_RISE + 0.1, None, "error", "rise"),
        (None, None, None, ""),
    ],
)
def test_forgetting(rise: float | None, kl: float | None, severity: str | None, by: str) -> None:
    """Either the loss of general text or the divergence on it is enough, and the worse of the two is the figure."""
    history = History(facts())
    history.add_probe(probe(0, general_loss=3.0, kl_general=0.0))
    assert not after_validation(history)
    history.add_probe(probe(10, general_loss=None if rise is None else 3.0 + rise, kl_general=kl))
    found = sound(after_validation(history))
    assert (found["forgetting"].severity if found else None) == severity
    if found:
        assert found["forgetting"].figure == pytest.approx({"rise": rise, "kl": kl}[by])


@pytest.mark.parametrize(
    ("changes", "named", "absent"),
    [
        ({}, ["--replay.source self", "--adapter.kind lora", "--train.learning_rate 0.0001"], ["--adapter.rank"]),
        ({"kind": "lora"}, ["--replay.source self", "--adapter.rank 8"], ["--adapter.kind"]),
        ({"replay_source": "self"}, ["--replay.share", "--adapter.kind lora"], ["--replay.source"]),
        ({"kind": "qlora", "rank": 1}, ["--replay.source"], ["--adapter"]),
    ],
)
def test_forgetting_names_what_is_not_in_use_yet(changes: dict[str, Any], named: list[str], absent: list[str]) -> None:
    """The remedies suit the run: no adapter for one that has it."""
    history = History(facts(**changes))
    history.add_probe(probe(0, general_loss=3.0))
    history.add_probe(probe(10, general_loss=4.0))
    fix = sound(after_validation(history))["forgetting"].fix
    assert all(flag in fix for flag in named)
    assert not any(flag in fix for flag in absent)


def test_what_was_not_measured_is_not_judged() -> None:
    """A validation without probes, probes of an earlier step, and nothing at all raise nothing."""
    history = History(facts())
    assert after_validation(history) == []
    history.add_probe(probe(0, general_loss=3.0))
    history.add_probe(probe(10, general_loss=4.0))
    history.add_valid(valid(10, 1.0))
    assert "forgetting" in sound(after_validation(history))
    history.add_valid(valid(20, 2.0))
    assert after_validation(history) == []


@pytest.mark.parametrize(
    ("losses", "raises"), [((1.0, 1.21), False), ((1.0, 1.21, 1.19), False), ((1.0, 1.21, 1.21), True)]
)
def test_few_rows_must_rise_much_and_twice(losses: tuple[float, ...], raises: bool) -> None:
    """Three validation rows allow no test: a fifth more than the best loss, twice in a row, is a warning."""
    history = History(facts())
    for number, loss in enumerate(losses, start=1):
        history.add_probe(probe(10 * number, 1.0 / number))
        history.add_valid(valid(10 * number, loss, val_rows=3), rows_around(loss, rows=3))
        found = sound(after_validation(history))
    assert ("overfit" in found) == raises
    if raises:
        assert found["overfit"].severity == "warning"
        assert "3 rows, too few for a test" in found["overfit"].message


def test_a_model_that_moved_without_losing_is_told_by_the_divergence_alone() -> None:
    """General text that became likelier is not named as what it costs."""
    history = History(facts())
    history.add_probe(probe(0, general_loss=3.0, kl_general=0.0))
    history.add_probe(probe(10, general_loss=2.5, kl_general=2 * DEFAULT.general_kl))
    message = sound(after_validation(history))["forgetting"].message
    assert "predictions moved" in message
    assert "costs" not in message
