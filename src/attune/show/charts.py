"""Records to Plotly figures: pure functions that hold numbers and our own words only, nothing out of the data.

Colours are names of CSS variables, such as "var(--train)": the page fills them in, so that light, dark and print agree.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from attune.show.facts import Facts, number
from attune.show.marks import Zone, alarm_marks, divergence_zone, shade, spike_marks
from attune.show.words import alarm_name, count, figure, percent

Figure = dict[str, Any]
Points = list[tuple[int, float]]
Format = Callable[[Any], str]

MAX_POINTS = 1200  # of a curve; above it each bucket keeps its lowest and highest point, so that spikes stay
MAX_TABLE_ROWS = 60
FEW_POINTS = 30  # up to here a curve shows its points and needs no smoothing
MAX_ALARMS_TOLD = 5  # in the words beside the loss chart; the table has all
PERCENT = ".3~%"  # of an axis: whole where it can be, else as fine as its ticks
MANY_TIMES = 50  # a range this wide is drawn on a log axis


@dataclass(frozen=True, slots=True)
class Chart:
    """A picture with what it says in words (`label`) and its figures as a table."""

    id: str
    title: str
    unit: str
    label: str
    plot: Figure
    header: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    is_linked: bool = True  # the x axis is the step and zooms with the others


@dataclass(frozen=True, slots=True)
class Curve:
    """What a chart over steps shows: keys of the records, how its figures are written, and its axis."""

    id: str
    title: str
    key: str
    unit: str
    show: Format = figure
    tick: str = ""  # d3 format of the axis
    limit: str = ""  # a setting drawn as a dashed line
    is_noisy: bool = False  # a running mean is drawn over it
    from_zero: bool = False  # a small change must not look like a large one
    has_spikes: bool = False  # steps that an alarm names are marked


SMALL = (
    Curve("perplexity", "Perplexity", "perplexity", "exp of the loss", is_noisy=True),
    Curve(
        "accuracy",
        "Token accuracy",
        "accuracy",
        "share of learned tokens predicted right",
        percent,
        PERCENT,
        is_noisy=True,
        from_zero=True,
    ),
    Curve(
        "exact_match",
        "Answers predicted whole",
        "exact_match",
        "share of validation rows",
        percent,
        PERCENT,
        from_zero=True,
    ),
    Curve("learning_rate", "Learning rate", "learning_rate", "of each step", tick="~g", from_zero=True),
    Curve(
        "grad_norm",
        "Gradient norm",
        "grad_norm",
        "before clipping",
        limit="train.clip",
        from_zero=True,
        has_spikes=True,
    ),
    Curve("replay_loss", "Replay loss", "replay_loss", "nats per replayed token", is_noisy=True),
    Curve("tokens_per_s", "Speed", "tokens_per_s", "tokens per second", count, "~s", from_zero=True),
    Curve("memory_gb", "Peak memory", "memory_gb", "GB", from_zero=True),
    Curve("epoch", "Epoch", "epoch", "passes over the rows", from_zero=True),
    Curve("train_flos", "Compute so far", "train_flos", "floating point operations", tick="~s", from_zero=True),
    Curve("mfu", "Share of peak compute", "mfu", "of what the device can do", percent, PERCENT, from_zero=True),
)


def loss_chart(facts: Facts) -> Chart:
    """Return train and validation loss on one axis, the base model as a dashed line, the best step marked."""
    train, valid = points(facts.steps, "loss"), points(facts.valids, "val_loss")
    base = number((facts.base or {}).get("val_loss"))
    best = facts.best
    traces = [*_train_traces(train), *_valid_traces(valid)]
    layout = steps_layout(facts)
    if base is not None:
        traces.append(draw_level("base model", base, _span(train, valid)))
        traces.append(_note_on_level(f"base model {figure(base)}", base, _span(train, valid)[1]))
    best_loss = number((best or {}).get("val_loss"))
    if best is not None and best_loss is not None:
        traces.append(_mark("best step", int(best["step"]), best_loss))
        layout["shapes"].append(_upright(int(best["step"])))
    zone = divergence_zone(facts)
    if zone is not None:
        shape, words = shade(zone)
        layout["shapes"].append(shape)
        layout["annotations"].append(words)
    traces += alarm_marks(facts)
    header, rows = _table(train, valid, figure)
    return Chart(
        "loss",
        "Loss",
        "nats per learned token",
        _loss_label(train, valid, base, best) + _marked(facts, zone),
        {"data": traces, "layout": layout},
        header,
        rows,
    )


def small_charts(facts: Facts) -> list[Chart]:
    """Return the further curves, those that were recorded."""
    return [chart for curve in SMALL if (chart := _small_chart(curve, facts)) is not None]


def points(records: Sequence[Mapping[str, Any]], key: str) -> Points:
    """Return (step, value) of the records in which `key` is a finite number."""
    return [(int(record["step"]), value) for record in records if (value := number(record.get(key))) is not None]


def thin(curve: Points, limit: int = MAX_POINTS) -> Points:
    """Return at most about `limit` points: the lowest and highest of each bucket, the first and the last."""
    if len(curve) <= limit:
        return curve
    width = -(-2 * len(curve) // limit)
    kept = {curve[0], curve[-1]}
    for start in range(0, len(curve), width):
        bucket = curve[start : start + width]
        kept |= {min(bucket, key=lambda point: point[1]), max(bucket, key=lambda point: point[1])}
    return sorted(kept)


def smooth(curve: Points) -> Points:
    """Return the running mean that forgets over about a fiftieth of the curve, corrected for its start."""
    keep = 1 - 1 / max(2.0, len(curve) / 50)
    mean, weight, out = 0.0, 0.0, []
    for step, value in curve:
        mean, weight = keep * mean + (1 - keep) * value, keep * weight + (1 - keep)
        out.append((step, mean / weight))
    return out


def _small_chart(curve: Curve, facts: Facts) -> Chart | None:
    """Return one further curve with its validation twin, or None if it was not recorded."""
    train, valid = points(facts.steps, curve.key), points(facts.valids, f"val_{curve.key}")
    values = [value for _, value in [*train, *valid]]
    if not values or (curve.key == "exact_match" and not any(values)):
        return None  # long free text is never predicted whole: a line at zero says nothing
    layout = steps_layout(facts, tick=curve.tick, from_zero=curve.from_zero)
    if curve.key == "perplexity" and min(values) > 0 and max(values) > MANY_TIMES * min(values):
        layout["yaxis"]["type"] = "log"
    traces = [*_train_traces(train, can_smooth=curve.is_noisy), *_valid_traces(valid)]
    base = number((facts.base or {}).get(f"val_{curve.key}"))
    limit = number(facts.config.get(curve.limit))
    for name, level in (("base model", base), (curve.limit, limit)):
        if level is not None:
            traces.append(draw_level(name, level, _span(train, valid)))
    traces += spike_marks(facts, curve.key) if curve.has_spikes else []
    layout["showlegend"] = len(traces) > 1
    header, rows = _table(train, valid, curve.show)
    return Chart(
        curve.id,
        curve.title,
        curve.unit,
        _curve_label(curve, train, valid),
        {"data": traces, "layout": layout},
        header,
        rows,
    )


def _train_traces(curve: Points, *, can_smooth: bool = True) -> list[Figure]:
    """Return the training curve; a long noisy one as a pale line under its running mean."""
    if not curve:
        return []
    if len(curve) <= FEW_POINTS or not can_smooth:
        return [draw_line("train", thin(curve), "var(--train)")]
    raw = draw_line("train, each step", thin(curve), "var(--train-pale)", width=1)
    return [raw, draw_line("train, smoothed", thin(smooth(curve)), "var(--train)")]


def _valid_traces(curve: Points) -> list[Figure]:
    if not curve:
        return []
    marker = {"size": 6, "color": "var(--valid)"}
    mode = "lines+markers" if len(curve) <= 2 * FEW_POINTS else "lines"
    # The hover shows the nearest validation, which seldom is at the step under the pointer: it names its own.
    hover = "%{y:.4~g} (step %{x:,d})"
    return [
        draw_line("validation", thin(curve), "var(--valid)") | {"mode": mode, "marker": marker, "hovertemplate": hover}
    ]


def draw_line(name: str, curve: Points, color: str, *, width: float = 2) -> Figure:
    """Return a curve as a trace; a short one shows its points."""
    return {
        "type": "scatter",
        "name": name,
        "mode": "lines+markers" if len(curve) <= FEW_POINTS else "lines",
        "x": [step for step, _ in curve],
        "y": [_short(value) for _, value in curve],
        "line": {"color": color, "width": width},
        "marker": {"size": 4, "color": color},
        "hovertemplate": "%{y:.4~g}",
    }


def _short(value: float) -> float:
    """Return the value with six digits, which a pixel cannot tell from more."""
    return float(f"{value:.6g}")


def draw_level(name: str, value: float, span: tuple[int, int]) -> Figure:
    """Return a dashed line at one height over the steps of `span`."""
    line = draw_line(name, [(span[0], value), (span[1], value)], "var(--level)", width=1.5)
    return {**line, "mode": "lines", "line": {"color": "var(--level)", "width": 1.5, "dash": "dash"}}


def _mark(name: str, step: int, value: float) -> Figure:
    marker = {"symbol": "diamond", "size": 12, "color": "var(--valid)", "line": {"color": "var(--paper)", "width": 2}}
    return {
        **draw_line(name, [(step, value)], "var(--valid)"),
        "mode": "markers",
        "marker": marker,
        "name": f"{name} ({step:,})",
    }


def _upright(step: int) -> Figure:
    line = {"color": "var(--valid)", "width": 1, "dash": "dot"}
    return {"type": "line", "xref": "x", "x0": step, "x1": step, "yref": "paper", "y0": 0, "y1": 1, "line": line}


def _note_on_level(text: str, value: float, step: int) -> Figure:
    """Return words above the end of a line; a trace, because annotations do not follow a log axis."""
    look = {"mode": "text", "textposition": "top left", "textfont": {"color": "var(--muted)", "size": 12}}
    return {
        "type": "scatter",
        "x": [step],
        "y": [_short(value)],
        "text": [text],
        **look,
        "hoverinfo": "skip",
        "showlegend": False,
    }


def _span(train: Points, valid: Points) -> tuple[int, int]:
    steps = [step for step, _ in [*train, *valid]]
    return (min(steps), max(steps)) if steps else (0, 1)


def steps_layout(facts: Facts, *, tick: str = "", from_zero: bool = False) -> Figure:
    """Return the look that all charts over steps share, with one x range for all."""
    axis = {
        "color": "var(--muted)",
        "gridcolor": "var(--rule)",
        "linecolor": "var(--rule)",
        "zeroline": False,
        "automargin": True,
    }
    spike = {
        "showspikes": True,
        "spikemode": "across",
        "spikethickness": 1,
        "spikecolor": "var(--level)",
        "spikedash": "solid",
    }
    last = max([facts.last_step, *(int(record["step"]) for record in facts.valids[-1:])], default=0)
    steps = {
        "range": [-0.02 * last, 1.02 * max(last, 1)],
        "showgrid": False,
        "hoverformat": ",d",
        "unifiedhovertitle": {"text": "step %{x}"},
    }
    return {
        "xaxis": {**axis, **spike, **steps, "title": {"text": "step", "standoff": 4}, "nticks": 7},
        "yaxis": {**axis, "tickformat": tick, "nticks": 6, "rangemode": "tozero" if from_zero else "normal"},
        **shared_look(),
    }


def shared_look() -> Figure:
    """Return the layout that all charts share."""
    return {
        "hovermode": "x unified",
        "hoverlabel": {"bgcolor": "var(--paper)", "bordercolor": "var(--rule)", "font": {"color": "var(--ink)"}},
        "legend": {"orientation": "h", "x": 0, "y": 1.02, "yanchor": "bottom", "font": {"color": "var(--ink)"}},
        "margin": {"l": 8, "r": 8, "t": 8, "b": 8},
        "paper_bgcolor": "var(--paper)",
        "plot_bgcolor": "var(--paper)",
        "shapes": [],
        "annotations": [],
    }


def _table(train: Points, valid: Points, show: Format) -> tuple[tuple[str, ...], tuple[tuple[str, ...], ...]]:
    """Return the curve as a table: evenly spaced steps, and each validation while there are few."""
    trained, validated = dict(train), dict(valid)
    chosen = set(evenly(sorted(trained), MAX_TABLE_ROWS)) | set(evenly(sorted(validated), MAX_TABLE_ROWS))
    if not validated:
        return ("Step", "Train"), tuple((f"{step:,}", show(trained.get(step))) for step in sorted(chosen))
    rows = tuple((f"{step:,}", show(trained.get(step)), show(validated.get(step))) for step in sorted(chosen))
    return ("Step", "Train", "Validation"), rows


def evenly(steps: list[int], limit: int) -> list[int]:
    """Return at most `limit` of the steps, the first and the last among them."""
    if len(steps) <= limit:
        return steps
    return [steps[round(index * (len(steps) - 1) / (limit - 1))] for index in range(limit)]


def _curve_label(curve: Curve, train: Points, valid: Points) -> str:
    parts = [from_to(name, some, curve.show) for name, some in (("train", train), ("validation", valid)) if some]
    return f"{curve.title} over steps: {'; '.join(parts)}."


def from_to(name: str, curve: Points, show: Format) -> str:
    """Return where a curve begins and ends in words."""
    return f"{name} from {show(curve[0][1])} at step {curve[0][0]:,} to {show(curve[-1][1])} at step {curve[-1][0]:,}"


def _loss_label(train: Points, valid: Points, base: float | None, best: Mapping[str, Any] | None) -> str:
    """Return the loss chart in a sentence, for those who do not see it."""
    parts = [from_to(name, some, figure) for name, some in (("train", train), ("validation", valid)) if some]
    if base is not None:
        parts.append(f"base model {figure(base)} (dashed)")
    if best is not None:
        parts.append(f"best at step {best['step']:,}")
    return f"Loss over steps: {'; '.join(parts)}." if parts else "No loss was recorded."


def _marked(facts: Facts, zone: Zone | None) -> str:
    """Return what is marked on the loss chart in words."""
    parts = []
    if zone is not None:
        parts.append(f" Validation parts from training from step {zone.start:,} on (shaded).")
    alarms = [f"{alarm_name(alarm)} at step {alarm['step']:,}" for alarm in facts.alarms]
    if alarms:
        more = f" and {len(alarms) - MAX_ALARMS_TOLD} more" if len(alarms) > MAX_ALARMS_TOLD else ""
        parts.append(f" Alarms: {', '.join(alarms[:MAX_ALARMS_TOLD])}{more}.")
    return "".join(parts)
