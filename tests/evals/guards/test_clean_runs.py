"""Sound runs, made by chance with the noise that real runs have: no guard may cry error, and few may warn."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest

from attune.evals.guards.history import History
from attune.evals.guards.raised import Raised
from attune.evals.guards.steps import after_step
from attune.evals.guards.validations import after_validation
from attune.types import Alarm, ProbeRecord
from tests.evals.guards.histories import facts, rows_around, sound, step, valid

OPENINGS = 24
OPENERS = 0.85 ** np.arange(24) / np.sum(0.85 ** np.arange(24))  # how often answers begin in each way: 15 % in one


def commonest(source: np.random.Generator) -> tuple[str, float]:
    """The most frequent beginning of some answers, and its share."""
    counts = source.multinomial(OPENINGS, OPENERS)
    return f"Opener {counts.argmax()}", float(counts.max()) / OPENINGS


def answers_probe(
    source: np.random.Generator, number: int, share: float, level: float, reference: float
) -> ProbeRecord:
    """What probes of a sound run show after a share of it: ends are learned, answers begin as the references do."""
    prompts, ending, opener = 16, 0.5 + 0.49 * min(1.0, 5 * share), commonest(source)
    return ProbeRecord(
        step=number,
        probe_loss=level,
        probe_accuracy=0.6 + 0.2 * share,
        general_loss=3.0 + 0.06 * share + 0.01 * source.normal() * (number > 0),
        kl_general=0.05 * share,
        kl_task=0.8 * share,
        stop_recall=source.binomial(32, ending) / 32,
        stop_leak=0.01,
        answers=prompts,
        finish_rate=source.binomial(prompts, ending) / prompts,
        answer_tokens=40.0,
        reference_tokens=40.0,
        openings=OPENINGS,
        opener=opener[0],
        opener_share=opener[1],
        reference_opener_share=reference,
        distinct_2=0.8 + 0.05 * source.normal(),
        reference_distinct_2=0.85,
        compression=2.1 + 0.1 * source.normal(),
        reference_compression=2.0,
    )


def sound_run(seed: int, *, steps: int = 300, every: int = 30, rows: int = 64) -> list[Alarm]:
    """The alarms of a run whose loss falls in epochs, with heavy-tailed steps and validation that levels off.

    Steps vary as those of the clean runs of benchmarks/guards.py do: the logarithm of the loss by a standard deviation
    of 0.12, that of the gradient norm by 0.27, both with an excess kurtosis of 1.
    """
    source = np.random.default_rng(seed)
    history, raised, found = History(facts(total_steps=steps, warmup_steps=15)), Raised(), []
    difficulty, reference = source.normal(size=rows) * 0.4, commonest(source)[1]
    for number in range(steps + 1):
        share, epoch = number / steps, 3 * number / steps
        level = 1.0 + 1.5 * np.exp(-6 * share) - 0.08 * int(min(epoch, 2.99))
        if number:
            loss = level * np.exp(0.12 / np.sqrt(10 / 8) * source.standard_t(10))
            norm = (1.0 + 2.0 * np.exp(-10 * share)) * np.exp(0.27 / np.sqrt(10 / 8) * source.standard_t(10))
            history.add_step(step(number, float(loss), float(norm), epoch=epoch))
            found += raised.admit(after_step(history))
        if number % every == 0:
            held = 1.1 + 1.4 * np.exp(-6 * share)
            # weights wander from validation to validation, and all rows with them
            losses = held + difficulty + 0.01 * source.normal() + 0.04 * source.normal(size=rows)
            history.add_valid(valid(number, float(losses.mean()), val_rows=rows), losses)
            history.add_probe(answers_probe(source, number, share, float(level), reference))
            found += raised.admit(after_validation(history))
    return found


def test_sound_runs_raise_no_error_and_few_warnings() -> None:
    """In forty sound runs no alarm is an error, and each guard warns in at most one in five."""
    runs = [sound_run(seed) for seed in range(40)]
    for alarms in runs:
        sound(list({alarm.name: alarm for alarm in alarms}.values()))
    assert [alarm for alarms in runs for alarm in alarms if alarm.severity == "error"] == []
    warned = Counter(name for alarms in runs for name in {one.name for one in alarms if one.severity == "warning"})
    assert max(warned.values()) <= 8, warned


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
