"""Watched runs as text: figures with small curves, redrawn on a terminal, plain lines elsewhere."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import TYPE_CHECKING, TextIO

from attune.show.console import rate
from attune.show.facts import Record, number
from attune.show.live_runs import Runs, WatchedRun
from attune.show.words import count, duration, figure, percent, visible

if TYPE_CHECKING:
    from rich.console import Console

EVERY_S = 1.0  # between two looks at the files
LINE_EVERY_S = 10.0  # between two plain lines of a run to which nothing new but steps has happened
BLOCKS = "\u2581\u2582\u2583\u2584\u2585\u2586\u2587\u2588"
PLAIN_BLOCKS = "_.-=+*#@"  # for a terminal that cannot write the others
LABEL_WIDTH = 15
FIGURE_WIDTH = 15
MAX_ALARMS = 3  # that a run shows; the rest is counted
MAX_CURVE = 60  # columns

CURVES: tuple[tuple[str, str, Callable[[float], str]], ...] = (
    ("loss", "loss", figure),
    ("val_loss", "val_loss", figure),
    ("accuracy", "accuracy", percent),
    ("learning_rate", "learning rate", figure),
    ("grad_norm", "gradient norm", figure),
    ("tokens_per_s", "speed", rate),
)


def show_once(runs: Runs, stream: TextIO) -> None:
    """Print the whole picture once."""
    terminal = _terminal(stream)
    lines = draw(runs.update(), width=terminal.width, blocks=_blocks(stream))
    stream.write("".join(f"{line}\n" for line in lines))
    stream.flush()


def follow(runs: Runs, stream: TextIO) -> None:
    """Redraw the picture until Ctrl-C; off a terminal print plain lines until no run goes on any more."""
    try:
        if stream.isatty() and os.environ.get("TERM") != "dumb":
            _redraw(runs, stream)
        else:
            _print_lines(runs, stream)
    except KeyboardInterrupt:
        return


def draw(runs: Sequence[WatchedRun], *, width: int, blocks: str = BLOCKS, height: int | None = None) -> list[str]:
    """Return the picture in lines of at most `width` columns.

    Runs that go on come first. With a `height`, those that find no room with their curves have one line each.
    """
    known = [(run, run.describe()) for run in runs]
    known.sort(key=lambda one: one[1]["status"] != "running")
    wholes = [_whole(run, facts, width=width, blocks=blocks) for run, facts in known]
    shorts = [[_headline(facts)] for _, facts in known]
    shown: list[str] = []
    for place, whole in enumerate(wholes):
        later = len(wholes) - place - 1
        fits = height is None or len(shown) + len(whole) + later <= height
        shown += whole if fits else shorts[place]
    return [line[:width] for line in shown[:height]]


def sparkline(values: Sequence[float], width: int, blocks: str = BLOCKS) -> str:
    """Return the values as `width` blocks at most, from the lowest to the highest; a block is the mean of its part."""
    if not values or width < 1:
        return ""
    columns = min(width, len(values))
    edges = [round(place * len(values) / columns) for place in range(columns + 1)]
    means = [sum(values[low:high]) / (high - low) for low, high in pairwise(edges)]
    low, high = min(means), max(means)
    if high == low:
        return blocks[0] * columns
    return "".join(blocks[round((value - low) / (high - low) * (len(blocks) - 1))] for value in means)


def _whole(run: WatchedRun, facts: Record, *, width: int, blocks: str) -> list[str]:
    """Return all lines of a run: its state, its curves and its last alarms."""
    lines = [_headline(facts)]
    for key, label, show in CURVES:
        values = run.series(key)
        if values:
            room = min(MAX_CURVE, width - 2 - LABEL_WIDTH - FIGURE_WIDTH)
            note = _note(key, facts)
            curve = sparkline(values, room - len(note), blocks)
            lines.append(f"  {label:<{LABEL_WIDTH}}{show(values[-1]):<{FIGURE_WIDTH}}{curve}{note}")
    lines += [f"  {_alarm(alarm)}" for alarm in run.alarms[-MAX_ALARMS:]]
    if len(run.alarms) > MAX_ALARMS:
        earlier = len(run.alarms) - MAX_ALARMS
        lines.append(f"  and {count(earlier)} earlier alarm{'s' * (earlier != 1)}")
    return [*lines, ""]


def _headline(facts: Record) -> str:
    """Return what a run has come to, in one line."""
    parts = [visible(str(facts["name"])), _state(facts), _progress(facts)]
    if facts["seconds_left"] is not None:
        parts.append(f"{duration(facts['seconds_left'])} left")
    parts += [f"{n} {severity}{'s' * (n != 1)}" for severity, n in facts["alarms"].items() if n and severity != "info"]
    return "  ".join(parts)


def _state(facts: Record) -> str:
    """Return how a run stands, in words; one that was killed says running and falls silent."""
    if facts["silent_s"] is not None:
        return f"silent for {duration(facts['silent_s'])}"
    return "stopped early" if facts["stopped_early"] else visible(str(facts["status"]))


def _progress(facts: Record) -> str:
    total = facts["total_steps"]
    return f"step {count(facts['step'])}" + (f" of {count(total)}" if total else "")


def _note(key: str, facts: Record) -> str:
    """Return what stands after a curve: of the validation loss its lowest."""
    if key != "val_loss" or facts["lowest_step"] is None:
        return ""
    return f"  lowest {figure(facts['lowest_loss'])} at step {count(facts['lowest_step'])}"


def _alarm(alarm: Record) -> str:
    known = [str(alarm.get(key, "")) for key in ("severity", "id", "name")]
    return visible(f"{' '.join(known)}, step {alarm.get('step')}: {alarm.get('message', '')}").replace("\n", " ")


def _redraw(runs: Runs, stream: TextIO) -> None:
    """Redraw the picture on the whole terminal, which is as it was before when this ends."""
    from rich.live import Live
    from rich.text import Text

    terminal = _terminal(stream)
    with Live(console=terminal, screen=True, auto_refresh=False, redirect_stdout=False, redirect_stderr=False) as live:
        while True:
            lines = draw(runs.update(), width=terminal.width, blocks=_blocks(stream), height=terminal.height)
            live.update(Text("\n".join(lines), no_wrap=True, overflow="crop"), refresh=True)
            time.sleep(EVERY_S)


def _print_lines(runs: Runs, stream: TextIO) -> None:
    """Print a line of each run when something happened to it."""
    said: dict[str, tuple[tuple[object, ...], int, float]] = {}  # what had happened, the step and the time of the line
    while True:
        known = [(run, run.describe()) for run in runs.update()]
        for run, facts in known:
            happened = (len(run.valids), len(run.alarms), facts["status"], facts["silent_s"] is None)
            before, step, when = said.get(run.name, ((), -1, 0.0))
            is_due = facts["step"] != step and time.monotonic() - when >= LINE_EVERY_S
            if happened != before or is_due:
                said[run.name] = (happened, facts["step"], time.monotonic())
                stream.write(f"{plain_line(facts)}\n")
        stream.flush()
        if all(facts["status"] != "running" for _, facts in known):
            return
        time.sleep(EVERY_S)


def plain_line(facts: Record) -> str:
    """Return a run's line off a terminal: its state and its last figures."""
    shown = [f"{key} {figure(facts[key])}" for key in ("loss", "val_loss") if number(facts[key]) is not None]
    if number(facts["tokens_per_s"]) is not None:
        shown.append(rate(facts["tokens_per_s"]))
    return "  ".join([_headline(facts), *shown])


def _terminal(stream: TextIO) -> Console:
    from rich.console import Console

    return Console(file=stream, highlight=False)


def _blocks(stream: TextIO) -> str:
    """Return the blocks that a stream can write."""
    try:
        BLOCKS.encode(stream.encoding or "ascii")
    except (UnicodeEncodeError, LookupError):
        return PLAIN_BLOCKS
    return BLOCKS
