"""Histories made by hand: plain records with the fields that a test is about set, and alarms that are well formed."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from attune.evals.guards.catalog import GUARDS
from attune.evals.guards.history import Facts, History
from attune.types import Alarm, ProbeRecord, StepRecord, ValidRecord

RANKS = ("info", "warning", "error")


def facts(**changes: Any) -> Facts:
    """Facts of a usual full fine-tuning."""
    values: dict[str, Any] = {
        "vocabulary": 8192,
        "clip": 1.0,
        "warmup_steps": 5,
        "total_steps": 100,
        "kind": "full",
        "rank": 16,
        "learning_rate": 3e-4,
        "replay_source": "",
        "metric": "val_loss",
        "is_structured": False,
        "reference_finish": 1.0,
    }
    return Facts(**{**values, **changes})


def step(number: int, loss: float = 2.0, norm: float = 0.5, **changes: Any) -> StepRecord:
    """A step of ten in an epoch."""
    values: dict[str, Any] = {
        "accuracy": 0.5,
        "perplexity": float(np.exp(min(loss, 700.0))),
        "learning_rate": 3e-4,
        "epoch": number / 10,
        "train_flos": 0.0,
        "learned_tokens": 100,
        "tokens": 300,
        "tokens_per_s": 1e4,
        "memory_gb": 1.0,
    }
    return StepRecord(step=number, loss=loss, grad_norm=norm, **{**values, **changes})


def valid(number: int, loss: float, **changes: Any) -> ValidRecord:
    """A validation of 32 rows."""
    values: dict[str, Any] = {"val_accuracy": 0.6, "val_perplexity": float(np.exp(loss)), "val_rows": 32}
    return ValidRecord(step=number, val_loss=loss, **{**values, "val_tokens": 320, **changes})


def probe(number: int, loss: float = 1.0, **changes: Any) -> ProbeRecord:
    """A probe that measured training rows and whatever is named."""
    return ProbeRecord(step=number, probe_loss=loss, **{"probe_accuracy": 0.6, **changes})


def rows_around(mean: float, *, rows: int = 32, spread: float = 0.3, seed: int = 0) -> np.ndarray:
    """Losses of rows of exactly that mean; the same seed gives the same rows, easy and hard."""
    noise = np.random.default_rng(seed).normal(size=rows) * spread
    return np.asarray(mean + noise - noise.mean())


def history_of(steps: Iterable[StepRecord] = (), **changes: Any) -> History:
    """A history of steps alone."""
    history = History(facts(**changes))
    for record in steps:
        history.add_step(record)
    return history


def sound(alarms: Sequence[Alarm]) -> dict[str, Alarm]:
    """The alarms by name, after a look at each: known, short, finite, with a figure beyond its threshold's side."""
    for alarm in alarms:
        guard = GUARDS[alarm.name]
        assert alarm.id == guard.id
        assert RANKS.index(alarm.severity) <= RANKS.index(guard.severity)
        assert 0 < len(alarm.message) <= 300, len(alarm.message)
        assert 0 < len(alarm.fix) <= 300, len(alarm.fix)
        assert np.isfinite(alarm.figure)
        assert np.isfinite(alarm.threshold)
    assert len({alarm.name for alarm in alarms}) == len(alarms)
    return {alarm.name: alarm for alarm in alarms}
