"""Pictures of a data check: where rows and tokens went, how long rows are, how many turns they have; numbers only."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from itertools import pairwise
from math import log10
from typing import Any

from attune.show.charts import Chart, Figure, shared_look
from attune.show.facts import mapping, number
from attune.show.funnel import rows_funnel, tokens_funnel
from attune.show.words import count, percent

WIDE = 50  # edges that grow and span a range as wide as this are drawn on a log axis
_TURNS = re.compile(r"[0-9]{1,9}\+?")


def data_charts(document: Mapping[str, Any]) -> dict[str, Chart]:
    """Return the charts for which the document of a check has figures: rows, tokens, lengths, turns."""
    lengths = mapping(document.get("lengths"))
    turns = mapping(mapping(document.get("coverage")).get("turns"))
    charts = {
        "rows": rows_funnel(_rows_ledger(document)),
        "tokens": tokens_funnel(_tokens_ledger(document)),
        "lengths": _length_chart(lengths),
        "turns": _turns_chart(turns),
    }
    return {name: chart for name, chart in charts.items() if chart is not None}


def _rows_ledger(document: Mapping[str, Any]) -> dict[str, Any]:
    """Return the rows of a check as a run's ledger has them."""
    counts = {state: number(rows) or 0 for state, rows in mapping(document.get("ledger")).items()}
    return {"rows": document.get("rows"), "counts": counts} if counts else {}


def _tokens_ledger(document: Mapping[str, Any]) -> dict[str, Any]:
    """Return the tokens of a check as a run's ledger has them; nothing where none were counted."""
    tokens = mapping(document.get("tokens"))
    all_in, learned = number(tokens.get("in")), number(tokens.get("learned"))
    if all_in is None or learned is None:
        return {}
    lost = number(tokens.get("lost")) or 0
    return {"tokens_in": all_in, "tokens_lost": lost, "tokens_context": all_in - learned - lost}


def _length_chart(lengths: Mapping[str, Any]) -> Chart | None:
    """Return how long the rows are, with the limit as an upright line; what lies beyond it has its own colour."""
    edges = [value for edge in lengths.get("edges") or () if (value := number(edge)) is not None]
    counts = [value for rows in lengths.get("counts") or () if (value := number(rows)) is not None]
    if not counts or len(edges) != len(counts) + 1 or edges != sorted(set(edges)):
        return None
    unit, limit = str(lengths.get("unit") or "words"), number(lengths.get("limit"))
    unit = unit if unit in {"tokens", "words"} else "units"
    is_log = _is_wide(edges)
    starts = [max(edges[0], edges[1] / 4), *edges[1:]] if is_log else edges
    bins = [f"{count(low)} to {count(high)}" for low, high in pairwise(edges)]
    texts = [f"{name} {unit}: {count(rows)} rows" for name, rows in zip(bins, counts, strict=True)]
    traces = [_hover(starts, texts, counts, is_log=is_log)]
    if limit is not None and edges[0] < limit < edges[-1]:
        within, beyond = _cut_at(starts, counts, limit)
        traces += [_steps(*within, beyond=False), _steps(*beyond, beyond=True)]
        traces.append(_limit_line(limit, max(counts), is_left=limit > _middle(starts, is_log=is_log)))
    else:
        traces.append(_steps(starts, counts, beyond=limit is not None and limit <= edges[0]))
    layout = _layout(f"length of a row in {unit}") | {"hovermode": "x"}
    layout["xaxis"] |= {"type": "log", "dtick": "D2"} if is_log else {}
    layout["xaxis"]["range"] = [log10(edge) if is_log else edge for edge in (starts[0], starts[-1])]
    said = f"Length of rows in {unit}, from {count(edges[0])} to {count(edges[-1])}"
    said += "" if limit is None else f"; the limit is {count(limit)}"
    return Chart(
        id="lengths",
        title="Length of rows",
        unit=f"rows by {unit}",
        label=f"{said}.",
        plot={"data": traces, "layout": layout},
        header=(unit.capitalize(), "Rows"),
        rows=tuple((name, count(rows)) for name, rows in zip(bins, counts, strict=True) if rows),
        is_linked=False,
    )


def _is_wide(edges: Sequence[float]) -> bool:
    """Return whether the edges grow from bin to bin, over a wide range."""
    first, last = edges[1] - edges[0], edges[-1] - edges[-2]
    return edges[0] >= 0 and edges[1] > 0 and last > 2 * first and edges[-1] > WIDE * edges[1]


def _middle(edges: Sequence[float], *, is_log: bool) -> float:
    """Return what stands in the middle of the axis."""
    return float((edges[0] * edges[-1]) ** 0.5 if is_log else (edges[0] + edges[-1]) / 2)


Bins = tuple[list[float], list[float]]


def _cut_at(edges: Sequence[float], counts: Sequence[float], limit: float) -> tuple[Bins, Bins]:
    """Return the bins up to the limit and those from it on; a bin that it falls into stands in both."""
    below = [edge for edge in edges if edge < limit]
    above = [edge for edge in edges if edge > limit]
    first_beyond = len(edges) - len(above) - 1
    return ([*below, limit], list(counts[: len(below)])), ([limit, *above], list(counts[first_beyond:]))


def _steps(edges: Sequence[float], counts: Sequence[float], *, beyond: bool) -> Figure:
    """Return a histogram as one filled line of steps, which a log axis draws as well."""
    color, fill = ("var(--valid)", "var(--valid)") if beyond else ("var(--train)", "var(--train-pale)")
    return {
        "type": "scatter",
        "mode": "lines",
        "x": list(edges),
        "y": [*counts, counts[-1]],
        "line": {"shape": "hv", "color": color, "width": 1.5},
        "fill": "tozeroy",
        "fillcolor": fill,
        "hoverinfo": "skip",
    }


def _hover(edges: Sequence[float], texts: Sequence[str], counts: Sequence[float], *, is_log: bool) -> Figure:
    """Return unseen points in the middle of each bin, which tell it when the pointer is over it."""
    return {
        "type": "scatter",
        "mode": "markers",
        "x": [_middle(pair, is_log=is_log) for pair in pairwise(edges)],
        "y": list(counts),
        "marker": {"opacity": 0},
        "customdata": list(texts),
        "hovertemplate": "%{customdata}<extra></extra>",
    }


def _limit_line(limit: float, height: float, *, is_left: bool) -> Figure:
    """Return the limit as an upright line with its name beside its top."""
    return {
        "type": "scatter",
        "mode": "lines+text",
        "x": [limit, limit],
        "y": [0, 1.08 * height],
        "text": ["", f" data.max_length {count(limit)} "],
        "textposition": "middle left" if is_left else "middle right",
        "textfont": {"color": "var(--ink)", "size": 12},
        "line": {"color": "var(--ink)", "width": 1.5, "dash": "dash"},
        "hoverinfo": "skip",
        "cliponaxis": False,
    }


def _turns_chart(turns: Mapping[str, Any]) -> Chart | None:
    """Return how many answers rows have; None where all have the same number."""
    known = {str(name): value for name, rows in turns.items() if (value := number(rows)) is not None}
    names = sorted((name for name in known if _TURNS.fullmatch(name)), key=lambda name: int(name.rstrip("+")))
    if len(names) < 2:
        return None
    whole = sum(known[name] for name in names) or 1
    bars = {
        "type": "bar",
        "x": names,
        "y": [known[name] for name in names],
        "marker": {"color": "var(--train)"},
        "hovertemplate": "answers %{x}: %{y:,d} rows<extra></extra>",
    }
    layout = _layout("answers in a row")
    layout["xaxis"]["type"] = "category"
    return Chart(
        id="turns",
        title="Turns",
        unit="rows by number of answers",
        label="Answers in a row: " + ", ".join(f"{name} in {percent(known[name] / whole)}" for name in names[:8]) + ".",
        plot={"data": [bars], "layout": layout},
        header=("Answers", "Rows", "Share"),
        rows=tuple((name, count(known[name]), percent(known[name] / whole)) for name in names),
        is_linked=False,
    )


def _layout(title: str) -> Figure:
    """Return the look of a histogram over `title`."""
    axis = {"color": "var(--muted)", "gridcolor": "var(--rule)", "linecolor": "var(--rule)", "zeroline": False}
    own = {"hovermode": "closest", "showlegend": False, "bargap": 0.25, "margin": {"l": 8, "r": 16, "t": 16, "b": 8}}
    sides = {"automargin": True, "fixedrange": True}
    return {
        **shared_look(),
        **own,
        "xaxis": {**axis, **sides, "showgrid": False, "title": {"text": title, "standoff": 6}, "tickformat": ",d"},
        "yaxis": {**axis, **sides, "rangemode": "tozero", "nticks": 5, "tickformat": ",d", "title": {"text": "rows"}},
    }
