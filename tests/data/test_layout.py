"""Micro-batches: all rows once, within the limit, balanced, the same number on every rank."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from attune.data.layout import lay_out

LENGTHS = st.lists(st.integers(1, 50), min_size=1, max_size=40)


@given(lengths=LENGTHS, micro=st.integers(1, 120), world=st.integers(1, 4))
@settings(max_examples=120, deadline=None)
def test_every_row_lies_in_one_micro_batch(lengths: list[int], micro: int, world: int) -> None:
    """Over all ranks each row is there once; a micro-batch is within the limit unless one long row stands alone."""
    ranks = [lay_out(lengths, micro, world_size=world, rank=rank) for rank in range(world)]
    assert len({len(batches) for batches in ranks}) == 1
    batches = [batch for rank in ranks for batch in rank]
    assert sorted(row for batch in batches for row in batch) == list(range(len(lengths)))
    for batch in batches:
        assert sum(lengths[row] for row in batch) <= micro or len(batch) == 1
    if world == 1:
        assert all(batches)


def test_as_few_as_the_limit_allows() -> None:
    """Rows that fit into one micro-batch lie in one; twice as many lie in two equal ones."""
    assert lay_out([5, 5, 5, 5], 20) == [[0, 1, 2, 3]]
    assert sorted(sum([5] * len(batch)) for batch in lay_out([5] * 8, 20)) == [20, 20]


@given(lengths=st.lists(st.integers(1, 10), min_size=20, max_size=60))
@settings(max_examples=50, deadline=None)
def test_micro_batches_hold_about_as_many_tokens(lengths: list[int]) -> None:
    """The fullest micro-batch holds at most one row more than the emptiest."""
    sums = [sum(lengths[row] for row in batch) for batch in lay_out(lengths, 40)]
    assert max(sums) - min(sums) <= max(lengths)


def test_a_row_over_the_limit_stands_alone() -> None:
    """A row longer than the limit is computed by itself, never cut and never with others."""
    assert sorted(lay_out([100, 3, 4], 10)) == [[0], [1, 2]]


def test_nothing_to_lay_out() -> None:
    """No rows, no micro-batches."""
    assert lay_out([], 10) == []
