"""Work in threads: in order, with the errors of its own, and none where one processor is all there is."""

from __future__ import annotations

import threading
import time

import pytest

from attune.data import processors
from attune.data.processors import count_processors, in_threads


def test_results_are_in_order(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a slow thread makes stands where its value stood, and several threads were at work."""
    monkeypatch.setattr(processors, "count_processors", lambda: 4)
    seen: set[int] = set()

    def slow(value: int) -> int:
        seen.add(threading.get_ident())
        time.sleep(0.002 * (9 - value))
        return value * value

    assert list(in_threads(slow, range(9))) == [value * value for value in range(9)]
    assert len(seen) > 1


def test_an_error_is_raised(monkeypatch: pytest.MonkeyPatch) -> None:
    """An error in a thread is raised where the result is asked for."""
    monkeypatch.setattr(processors, "count_processors", lambda: 3)
    with pytest.raises(ZeroDivisionError):
        list(in_threads(lambda value: 1 // value, [1, 2, 0]))


@pytest.mark.parametrize(("processors_there", "values"), [(1, 5), (8, 1), (8, 0)])
def test_no_thread_without_need(monkeypatch: pytest.MonkeyPatch, processors_there: int, values: int) -> None:
    """One processor, or one piece of work, needs no other thread."""
    monkeypatch.setattr(processors, "count_processors", lambda: processors_there)
    assert set(in_threads(lambda _: threading.get_ident(), range(values))) <= {threading.get_ident()}


def test_there_is_a_processor() -> None:
    """The count is what this process may use."""
    assert count_processors() >= 1
