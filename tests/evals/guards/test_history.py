"""The history: the same live and from the files of a run, whatever its length."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest

from attune.evals.guards.history import History
from attune.evals.guards.steps import after_step
from attune.evals.guards.validations import after_validation
from attune.record import plain
from tests.evals.guards.histories import facts, history_of, probe, rows_around, step, valid


def test_history_of_a_run_folder_is_the_live_one() -> None:
    """After a resume the guards see what they saw before, with steps that were not finite and rows without a loss."""
    live, metrics, rows = History(facts()), [], []
    source = np.random.default_rng(0)
    for number in range(61):
        if number:
            loss, norm = float(np.exp(source.normal() * 0.2)), float(np.exp(source.normal() * 0.3))
            if number == 30:
                loss, norm = math.nan, math.inf
            if number == 55:
                loss, norm = 9.0, 60.0
            record = step(number, loss, norm)
            live.add_step(record)
            metrics.append({**plain(record), "time": 1.0})
        if number % 20 == 0:
            losses = rows_around(2.0 + number / 100, seed=1)
            losses[3] = np.nan
            measured = valid(number, float(np.nanmean(losses)))
            seen = probe(number, 2.0 - number / 50, opener="nan", scores={"exact_match": 0.5})
            live.add_valid(measured, losses)
            live.add_probe(seen)
            metrics += [{**plain(measured), "time": 1.0}, {**plain(seen), "time": 1.0}]
            held = [None if math.isnan(value) else value for value in losses.tolist()]
            rows.append({"step": number, "val_row_loss": held})
    metrics, rows = json.loads(json.dumps(metrics)), json.loads(json.dumps(rows))
    again = History.of_lines(facts(), metrics, rows)
    assert after_step(again) == after_step(live)
    assert after_validation(again) == after_validation(live)
    assert [alarm.name for alarm in after_validation(again)] == ["overfit"]
    assert (again.num_spikes, again.num_not_finite, again.steps) == (1, 1, 59) == (live.num_spikes, 1, live.steps)
    assert again.smooth_loss == live.smooth_loss
    assert again.probes == live.probes


def test_moving_average_begins_at_the_first_loss() -> None:
    """The average of steps of one loss is that loss from the first step on, and it follows a change."""
    history = history_of([step(1, 3.0)])
    assert history.smooth_loss == pytest.approx(3.0)
    for number in range(2, 200):
        history.add_step(step(number, 1.0))
    assert history.smooth_loss == pytest.approx(1.0, abs=1e-6)


def test_start_is_the_probe_before_training_else_the_first_steps() -> None:
    """The loss at the start is measured where it can be."""
    history = history_of([step(1, 3.0), step(2, 2.0)])
    assert history.start_loss == 2.5
    history.add_probe(probe(0, 4.0))
    assert history.start_loss == 4.0
    assert math.isnan(history_of().start_loss)


def test_only_rows_that_the_run_folder_keeps_are_compared() -> None:
    """More validation rows than are written would make a resumed run judge otherwise."""
    history = History(facts())
    for number, mean in ((0, 1.0), (10, 1.5)):
        history.add_valid(valid(number, mean), rows_around(mean, rows=2500))
    assert history.validations[-1].rows == history.thresholds.overfit_most_rows < 2500


def test_metric_comes_from_where_it_was_measured() -> None:
    """A metric of the validation is in its record, one of written answers in the probe's scores."""
    for name, expected in (("val_exact_match", 0.25), ("field_accuracy", 0.75), ("rouge_l", None)):
        history = History(facts(metric=name))
        history.add_valid(valid(10, 1.0, val_exact_match=0.25))
        history.add_probe(probe(10, scores={"field_accuracy": 0.75}))
        assert history.metric_at(10) == expected
        assert history.metric_at(20) is None
