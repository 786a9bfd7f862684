"""Sound runs, made by chance with the noise that real runs have: no guard may cry error, and few may warn."""

from __future__ import annotations

import numpy as np
import pytest

from attune.evals.guards.history import History
from attune.evals.guards.raised import Raised
from attune.evals.guards.steps import after_step
from attune.evals.guards.validations import after_validation
from attune.types import Alarm, ProbeRecord
from tests.evals.guards.histories import facts, rows_around, sound, step, valid


def answers_probe(source: np.random.Generator, number: int, share: float, level: float) -> ProbeRecord:
    """What probes of a sound run show after a share of it: ends are learned, wording nears that of the references."""
    prompts, openings, expected = 16, 24, {"opener": 0.15, "stop": 0.5 + 0.49 * min(1.0, 5 * share)}
    return ProbeRecord(
        step=number,
        probe_loss=level,
        probe_accuracy=0.6 + 0.2 * share,
        general_loss=3.0 + 0.06 * share + 0.01 * source.normal() * (number > 0),
        kl_general=0.05 * share,
        kl_task=0.8 * share,
        stop_recall=source.binomial(32, expected["stop"]) / 32,
        stop_leak=0.01,
        answers=prompts,
        finish_rate=source.binomial(prompts, expected["stop"]) / prompts,
        answer_tokens=40.0,
        reference_tokens=40.0,
        openings=openings,
        opener="I will see",
        opener_share=max(1, source.binomial(openings, expected["opener"])) / openings,
        reference_opener_share=max(1, source.binomial(openings, expected["opener"])) / openings,
        distinct_2=0.8 + 0.05 * source.normal(),
        reference_distinct_2=0.85,
        compression=2.1 + 0.1 * source.normal(),
        reference_compression=2.0,
    )


def sound_run(seed: int, *, steps: int = 300, every: int = 30, rows: int = 64) -> list[Alarm]:
    """The alarms of a run whose loss falls in epochs, with heavy-tailed steps and validation that levels off.

    Steps vary as those of the clean runs of benchmarks/guards.py at most do: logarithms of the loss by a standard
    deviation of 0.16 with an excess kurtosis of 1.5, those of the gradient norm by 0.36 and 2.
    """
    source = np.random.default_rng(seed)
    history, raised, found = History(facts(total_steps=steps, warmup_steps=15)), Raised(), []
    difficulty = source.normal(size=rows) * 0.4
    for number in range(steps + 1):
        share, epoch = number / steps, 3 * number / steps
        level = 1.0 + 1.5 * np.exp(-6 * share) - 0.08 * int(min(epoch, 2.99))
        if number:
            loss = level * np.exp(0.16 / np.sqrt(8 / 6) * source.standard_t(8))
            norm = (1.0 + 2.0 * np.exp(-10 * share)) * np.exp(0.36 / np.sqrt(7 / 5) * source.standard_t(7))
            history.add_step(step(number, float(loss), float(norm), epoch=epoch))
            found += raised.admit(after_step(history))
        if number % every == 0:
            held = 1.1 + 1.4 * np.exp(-6 * share)
            # weights wander from validation to validation, and all rows with them
            losses = held + difficulty + 0.01 * source.normal() + 0.04 * source.normal(size=rows)
            history.add_valid(valid(number, float(losses.mean()), val_rows=rows), losses)
            history.add_probe(answers_probe(source, number, share, float(level)))
            found += raised.admit(after_validation(history))
    return found


def test_sound_runs_raise_no_error_and_few_warnings() -> None:
    """In forty sound runs no alarm is an error, and at most one run in five has a warning."""
    runs = [sound_run(seed) for seed in range(40)]
    for alarms in runs:
        sound(list({alarm.name: alarm for alarm in alarms}.values()))
    assert [alarm for alarms in runs for alarm in alarms if alarm.severity == "error"] == []
    warned = [alarms for alarms in runs if any(alarm.severity == "warning" for alarm in alarms)]
    assert len(warned) <= 8, [(alarm.name, alarm.step, alarm.figure) for alarms in warned for alarm in alarms]


@pytest.mark.parametrize("rows", [8, 32, 500])
def test_validation_that_stays_level_is_rarely_called_overfit(rows: int) -> None:
    """Of three hundred validations of a model that neither gains nor loses, few are called a rise, none an error."""
    found: list[Alarm] = []
    for seed in range(30):
        source, history = np.random.default_rng(seed), History(facts())
        for number in range(11):
            shift = 0.005 * source.normal()
            losses = rows_around(1.0, rows=rows) + shift + 0.03 * source.normal(size=rows)
            history.add_valid(valid(10 * number, float(losses.mean())), losses)
            found += after_validation(history)
    assert all(alarm.severity == "warning" for alarm in found)
    assert len(found) <= 30
