"""The order of rows: a pure function, every row once an epoch, and places to go on from."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from attune.data.stream import Stream, shuffled

EXPECTED = [4, 0, 1, 5, 7, 3, 2, 6]


@given(count=st.integers(1, 60), batch=st.integers(1, 20), tokens=st.integers(0, 40), seed=st.integers(0, 2**40))
@settings(max_examples=60, deadline=None)
def test_an_epoch_takes_every_row_once(count: int, batch: int, tokens: int, seed: int) -> None:
    """Whatever the batch, the steps of an epoch take each row exactly once, within the limit of tokens."""
    lengths = np.arange(count) % 9 + 1
    stream = Stream(lengths, seed=seed, batch_rows=batch, batch_tokens=tokens)
    step = 0
    for epoch in range(2):
        taken: list[int] = []
        for _ in range(stream.steps_per_epoch(epoch)):
            step += 1
            rows = stream.rows(step)
            assert len(rows) >= 1
            if tokens:
                assert len(rows) == 1 or lengths[rows].sum() <= tokens
            else:
                assert len(rows) <= batch
            taken += rows.tolist()
        assert sorted(taken) == list(range(count))
        assert stream.epoch(step) == epoch + 1


def test_any_step_is_reached_without_those_before() -> None:
    """A fresh stream gives the same rows for a late step as one that was walked through."""
    lengths = np.array([3, 1, 4, 1, 5, 9, 2, 6])
    for tokens in (0, 10):
        walked = Stream(lengths, seed=7, batch_rows=3, batch_tokens=tokens)
        seen = [walked.rows(step).tolist() for step in range(1, 20)]
        for step in (19, 2, 11):
            fresh = Stream(lengths, seed=7, batch_rows=3, batch_tokens=tokens)
            assert fresh.rows(step).tolist() == seen[step - 1]


def test_the_order_is_the_same_for_ever() -> None:
    """The order is fixed by seed and epoch; this one is written down, so that no change slips through."""
    assert shuffled(8, seed=0, epoch=0).tolist() == EXPECTED
    assert shuffled(8, seed=0, epoch=1).tolist() != EXPECTED
    assert shuffled(8, seed=1, epoch=0).tolist() != EXPECTED


def test_rows_stand_anywhere_in_the_order() -> None:
    """Over many epochs every row is about as often first as any other."""
    first = np.bincount([int(shuffled(5, seed=3, epoch=epoch)[0]) for epoch in range(500)], minlength=5)
    assert first.min() > 60


def test_epochs_have_fractions() -> None:
    """Half of the rows taken is half an epoch; before the first step it is none."""
    stream = Stream(np.ones(8, dtype=np.int64), seed=0, batch_rows=4)
    assert [stream.epoch(step) for step in (0, 1, 2, 3)] == [0.0, 0.5, 1.0, 1.5]
    with pytest.raises(ValueError, match="steps count from 1"):
        stream.rows(0)
