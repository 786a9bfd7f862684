"""Watched runs as text: figures of the files, lines that fit, and plain lines off a terminal."""

from __future__ import annotations

import io
import time
from pathlib import Path

import pytest

from attune.show.live_runs import Runs
from attune.show.terminal import BLOCKS, PLAIN_BLOCKS, draw, follow, show_once, sparkline
from tests.show.growing_run import GrowingRun


def make_runs(folder: Path, number: int = 1) -> tuple[Runs, list[GrowingRun]]:
    """Watched runs of 40 steps with a validation before and after."""
    runs = [GrowingRun(folder / f"run-{index}", created=f"2026-11-22T0{index}:00:00") for index in range(number)]
    for run in runs:
        run.validate()
        run.train(40)
        run.validate()
    return Runs([str(folder)]), runs


@pytest.mark.parametrize(
    ("values", "width", "drawn"),
    [
        ([], 5, ""),
        ([1.0], 5, "_"),
        ([0, 1, 2, 3, 4, 5, 6, 7], 8, "_.-=+*#@"),
        ([7, 0], 8, "@_"),
        ([0, 0, 7, 7], 2, "_@"),
        ([3, 3, 3], 9, "___"),
        ([1, 2, 3], 0, ""),
    ],
)
def test_sparkline(values: list[float], width: int, drawn: str) -> None:
    """A curve runs from its lowest to its highest block and is never wider than it may be."""
    assert sparkline(values, width, PLAIN_BLOCKS) == drawn


def test_the_picture_says_what_was_recorded(tmp_path: Path) -> None:
    """Each curve stands with its last figure, the validation loss with its lowest, the last alarms with their words."""
    runs, (run,) = make_runs(tmp_path)
    for number in range(5):
        run.alarm(f"Rise number {number}.")
    lines = draw(runs.update(), width=100)
    assert lines[0] == "run-0  running  step 40 of 200  80.0 s left  5 warnings"
    shown = {line[2:17].strip(): line for line in lines[1:] if line.startswith("  ")}
    records = run.run.read_lines("metrics.jsonl")
    last = next(record for record in reversed(records) if "loss" in record)
    assert f"{last['loss']:.3f}" in shown["loss"]
    assert f"{100 * last['accuracy']:.1f} %" in shown["accuracy"]
    assert f"lowest {run.loss(40) + 0.1:.3f} at step 40" in shown["val_loss"]
    assert shown["loss"].count(BLOCKS[7]) >= 1
    assert [line.strip() for line in lines if "Rise" in line] == [
        f"warning G1 overfit, step 40: Rise number {number}." for number in (2, 3, 4)
    ]
    assert "  and 2 earlier alarms" in lines


@pytest.mark.parametrize("width", [20, 40, 80, 200])
@pytest.mark.parametrize("height", [1, 3, 8, 12, 24, 60])
def test_the_picture_fits(tmp_path: Path, width: int, height: int) -> None:
    """No line is wider and the whole no higher than the terminal; every run keeps a line where there is room for it."""
    runs, made = make_runs(tmp_path, 3)
    made[0].end()
    lines = draw(runs.update(), width=width, height=height)
    assert len(lines) <= height
    assert all(len(line) <= width for line in lines)
    if height >= 3:
        assert {"run-0", "run-1", "run-2"} == {line.split()[0] for line in lines if line.startswith("run-")}
        assert not lines[0].startswith("run-0")  # it has ended


def test_once_on_a_stream_that_knows_ascii_only(tmp_path: Path) -> None:
    """Where the blocks cannot be written, signs of ASCII stand for them."""
    runs, _ = make_runs(tmp_path)
    raw = io.BytesIO()
    stream = io.TextIOWrapper(raw, encoding="ascii")
    show_once(runs, stream)
    said = raw.getvalue().decode("ascii")
    assert "@" in said
    assert said.startswith("run-0  running  step 40 of 200")


def test_plain_lines_until_the_run_ends(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Off a terminal a line comes when something happened, not for each look, and the last one says how it ended."""
    runs, (run,) = make_runs(tmp_path)
    looks = 0

    def wait(_: float) -> None:
        nonlocal looks
        looks += 1
        run.train(1)
        if looks == 3:
            run.validate(0.5)
        if looks == 5:
            run.end()

    monkeypatch.setattr(time, "sleep", wait)
    stream = io.StringIO()
    follow(runs, stream)
    lines = stream.getvalue().splitlines()
    assert [line.split("  ")[1:3] for line in lines] == [
        ["running", "step 40 of 200"],
        ["running", "step 43 of 200"],
        ["done", "step 45 of 200"],
    ]
    assert "val_loss 0.500" in lines[1]
    assert "\x1b" not in stream.getvalue()


def test_control_characters_do_nothing(tmp_path: Path) -> None:
    """What an alarm says is shown, and does not reach the terminal as a command."""
    runs, (run,) = make_runs(tmp_path)
    run.alarm("\x1b[2J cleared\nin two lines")
    (line,) = [line for line in draw(runs.update(), width=200) if "cleared" in line]
    assert "[U+001B][2J cleared in two lines" in line
