"""Schedules at their named points, and which weights decay."""

from __future__ import annotations

import pytest

from attune.config import TrainConfig
from attune.train.optim import build_optimizer, learning_rate_at
from tests.tiny import make_model


def rates(schedule: str, *, steps: int = 100, warmup: float = 0.1) -> list[float]:
    """Return the learning rate of every step, with a peak of 1."""
    return [
        learning_rate_at(step, steps=steps, peak=1.0, schedule=schedule, warmup=warmup) for step in range(1, steps + 1)
    ]


@pytest.mark.parametrize("schedule", ["linear", "cosine", "constant", "wsd"])
def test_warm_up_rises_to_the_peak(schedule: str) -> None:
    """Ten of a hundred steps of warm-up: equal steps up, and the peak is reached."""
    found = rates(schedule)
    assert found[:10] == pytest.approx([k / 10 for k in range(1, 11)])
    assert max(found) == 1.0


def test_each_schedule_falls_as_named() -> None:
    """Half-way and last values of each schedule, by hand."""
    assert rates("constant")[-1] == 1.0
    assert rates("linear", warmup=0)[50] == pytest.approx(0.5)
    assert rates("linear", warmup=0)[-1] == pytest.approx(0.01)
    assert rates("cosine", warmup=0)[50] == pytest.approx(0.5)
    assert rates("cosine", warmup=0)[-1] == pytest.approx(0.000247, abs=1e-6)
    wsd = rates("wsd", warmup=0)
    assert wsd[79] == 1.0 and wsd[90] == pytest.approx(0.5) and wsd[-1] == pytest.approx(0.05)


def test_no_step_has_rate_zero() -> None:
    """A step with rate zero would compute for nothing."""
    assert all(
        rate > 0 for schedule in ("linear", "cosine", "constant", "wsd") for rate in rates(schedule, steps=7, warmup=3)
    )


def test_weight_decay_acts_on_matrices_only() -> None:
    """Norm weights are never decayed."""
    model = make_model()
    groups = build_optimizer(model, TrainConfig(weight_decay=0.1)).param_groups
    assert {p.ndim for p in groups[0]["params"]} == {2} and groups[0]["weight_decay"] == 0.1
    assert {p.ndim for p in groups[1]["params"]} == {1} and groups[1]["weight_decay"] == 0.0
