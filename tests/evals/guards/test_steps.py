"""Guards of each step: both sides of every threshold, and the words for each."""

from __future__ import annotations

import math
import time

import numpy as np
import pytest

from attune.evals.guards.history import History
from attune.evals.guards.steps import after_step
from attune.evals.guards.thresholds import DEFAULT
from attune.types import Alarm
from tests.evals.guards.histories import facts, history_of, probe, sound, step

STEADY = [1.0, 1.1, 0.9, 1.05, 0.95]  # losses whose logarithm has a deviation of 0.076


def steady(count: int, **changes: float) -> History:
    """A history of steady steps, none of which is worth an alarm."""
    return history_of((step(n + 1, STEADY[n % 5], STEADY[n % 5] / 2, **changes) for n in range(count)), warmup_steps=0)


def raised_by(history: History, loss: float, norm: float) -> dict[str, Alarm]:
    """The alarms that one more step of such numbers raises."""
    assert history.last is not None
    history.add_step(step(history.last.step + 1, loss, norm))
    return sound(after_step(history))


BOTH, LOSS, NORM = DEFAULT.spike_both_z, DEFAULT.spike_loss_z, DEFAULT.spike_norm_z


@pytest.mark.parametrize(
    ("loss_z", "norm_z", "severity", "by"),
    [
        (BOTH - 0.1, NORM - 0.1, None, "both"),
        (LOSS - 0.1, BOTH - 0.1, None, "both"),
        (BOTH + 0.1, BOTH + 0.1, "warning", "both"),
        (LOSS - 0.1, 0.0, None, "loss"),
        (LOSS + 0.1, BOTH - 0.1, "warning", "loss"),
        (0.0, NORM - 0.1, None, "norm"),
        (BOTH - 0.1, NORM + 0.1, "info", "norm"),
        (NORM + 0.1, NORM + 0.2, "warning", "both"),
    ],
)
def test_spike(loss_z: float, norm_z: float, severity: str | None, by: str) -> None:
    """A step spikes with loss and gradient together, or more so with one; a gradient alone is only told."""
    before = np.log([STEADY[n % 5] for n in range(40)])[-DEFAULT.spike_window :]
    middle = np.median(before)
    deviation = max(1.4826 * np.median(np.abs(before - middle)), DEFAULT.spike_least_deviation)
    loss, norm = np.exp(middle + loss_z * deviation), 0.5 * np.exp(middle + norm_z * deviation)
    found = raised_by(steady(40), float(loss), float(norm))
    assert (found["spike"].severity if found else None) == severity
    if found:
        figures = {"both": min(loss_z, norm_z), "loss": loss_z, "norm": norm_z}
        assert found["spike"].figure == pytest.approx(figures[by])
        assert found["spike"].threshold == {"both": BOTH, "loss": LOSS, "norm": NORM}[by]


@pytest.mark.parametrize(("since", "raises"), [(DEFAULT.spike_window // 2 - 1, False), (DEFAULT.spike_window, True)])
def test_a_step_is_compared_with_the_last_ones_alone(since: int, raises: bool) -> None:
    """Where the loss stood before it fell is not what is usual now; until it has fallen for long it still is."""
    history = history_of(step(n + 1, 3 * STEADY[n % 5], 0.5) for n in range(200))
    for number in range(since):
        raised_by(history, STEADY[number % 5], 0.5)
    assert ("spike" in raised_by(history, 2.0, 0.5)) == raises


def test_no_spike_without_enough_steps_before_it() -> None:
    """What is usual must be known first."""
    assert not raised_by(steady(DEFAULT.spike_fewest - 1), 30.0, 30.0).get("spike")
    first, later = (raised_by(steady(count), 30.0, 30.0)["spike"] for count in (DEFAULT.spike_fewest, 200))
    assert first.severity == "warning"
    assert f"from the {DEFAULT.spike_fewest} before it" in first.message
    assert f"from the {DEFAULT.spike_window} before it" in later.message


def test_a_tiny_loss_that_grows_is_no_spike() -> None:
    """From 0.001 to 0.05 is many deviations and no harm."""
    history = history_of(step(n + 1, 0.001 * STEADY[n % 5], 0.5) for n in range(40))
    assert not raised_by(history, 0.05, 0.5)


def test_a_spike_does_not_hide_the_next() -> None:
    """Outliers among the steps before change the median little."""
    history = steady(60)
    for _ in range(5):
        assert raised_by(history, 5.0, 5.0)["spike"].severity == "warning"
        raised_by(history, 1.0, 0.5)
    assert history.num_spikes == 5


@pytest.mark.parametrize(("loss", "norm"), [(math.nan, 0.5), (1.0, math.inf), (math.inf, math.nan)])
def test_not_finite(loss: float, norm: float) -> None:
    """A loss or gradient that is not finite is an error at once, counts in a row, and leaves the average alone."""
    history = steady(30)
    before = history.smooth_loss
    found = raised_by(history, loss, norm)
    assert found["not-finite"].severity == "error"
    assert "nothing was updated" in found["not-finite"].message
    assert raised_by(history, loss, norm)["not-finite"].figure == 2
    assert raised_by(history, loss, norm)["not-finite"].figure == 3
    assert history.num_not_finite == 3
    assert history.smooth_loss == before
    assert not raised_by(history, 1.0, 0.5)
    assert history.not_finite_in_a_row == 0


def test_not_finite_with_gradient_release_says_what_was_done() -> None:
    """Where weights are updated one by one, some were."""
    found = sound(after_step(history_of([step(1, math.nan)], releases=True)))
    assert "only weights whose gradient is finite" in found["not-finite"].message


@pytest.mark.parametrize(("more", "raises"), [(-0.01, False), (0.01, True)])
def test_divergence_is_above_the_start(more: float, raises: bool) -> None:
    """The average must exceed the loss before training by the threshold, after warm-up."""
    loss = 2.0 + DEFAULT.divergence_rise + more
    history = history_of(warmup_steps=10)
    history.add_probe(probe(0, 2.0))
    names = []
    for number in range(1, 21):
        history.add_step(step(number, loss))
        names.append("divergence" in sound(after_step(history)))
    assert names == [False] * 10 + [raises] * 10
    if raises:
        assert "--train.learning_rate 0.0001" in sound(after_step(history))["divergence"].fix


def test_one_bad_step_is_no_divergence() -> None:
    """A single wild step lifts the average by far, and is a spike only."""
    history = steady(40)
    assert set(raised_by(history, 50.0, 1.0)) == {"spike"}
    assert history.smooth_loss > 5


@pytest.mark.parametrize(("more", "raises"), [(-0.01, False), (0.01, True)])
def test_a_loss_near_guessing_is_divergence_after_long_enough(more: float, raises: bool) -> None:
    """A model that began near guessing gets a hundred steps to learn something."""
    loss = (DEFAULT.uniform_share + more) * math.log(8192)
    history = history_of(step(n, loss) for n in range(1, DEFAULT.clipped_window))
    assert not after_step(history)
    assert ("divergence" in raised_by(history, loss, 0.5)) == raises


@pytest.mark.parametrize(
    ("more", "fall", "severity"),
    [
        (0, 0.0, None),
        (1, 0.0, "warning"),
        (1, DEFAULT.clipped_fall - 0.002, "warning"),
        (1, DEFAULT.clipped_fall + 0.002, None),
    ],
)
def test_clipping(more: int, fall: float, severity: str | None) -> None:
    """More than half of the steps after warm-up clipped is a warning where the loss has not fallen, else nothing."""
    window, loss = DEFAULT.clipped_window, 3.0 * (1 - fall)
    clipped = int(DEFAULT.clipped_share * window) + more
    history = history_of(step(n, loss, 2.0) for n in range(1, 6))
    history.add_probe(probe(0, 3.0))
    for number in range(6, 6 + window):
        history.add_step(step(number, loss, 1.01 if number % window < clipped else 0.99))
    found = sound(after_step(history))
    assert (found["clipping"].severity if found else None) == severity


def test_clipping_needs_enough_steps() -> None:
    """A few long gradients at the start say nothing."""
    needed = facts().warmup_steps + DEFAULT.clipped_steps
    history = history_of(step(n, 2.0, 5.0) for n in range(1, needed))
    assert not after_step(history)
    assert raised_by(history, 2.0, 5.0)["clipping"].severity == "warning"


def test_a_step_costs_less_than_a_millisecond() -> None:
    """The guards of a step must never be felt, late in a long run either."""
    history = steady(1000)
    began = time.process_time()
    for number in range(1001, 1301):
        history.add_step(step(number))
        after_step(history)
    assert (time.process_time() - began) / 300 < 1e-3
