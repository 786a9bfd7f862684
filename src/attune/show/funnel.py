"""Where rows and tokens went: each change a bar that starts where the one above it ended, so that all adds up."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import accumulate, pairwise
from typing import Any

from attune.show.charts import Chart, Figure, shared_look
from attune.show.facts import number
from attune.show.words import count, percent

Stage = tuple[str, int, str]  # name, how many, colour

_ALL, _USED, _UNUSED, _LEARNED = "var(--level)", "var(--train-pale)", "var(--valid)", "var(--train)"


def rows_funnel(ledger: Mapping[str, Any]) -> Chart | None:
    """Return where the input rows went, from all of them down to those trained on; None without a ledger."""
    counts = ledger.get("counts")
    if not isinstance(counts, Mapping) or not number(ledger.get("rows")):
        return None
    names = {"held_out": "Held out", "duplicate": "Duplicate", "dropped": "Dropped"}
    changes = [(name, -int(counts.get(key, 0)), _USED if key == "held_out" else _UNUSED) for key, name in names.items()]
    changes += _gain("Reworded", ledger.get("augmented"))
    return _funnel("Rows", ("Rows in", int(ledger["rows"]), _ALL), changes, "Trained on")


def tokens_funnel(ledger: Mapping[str, Any]) -> Chart | None:
    """Return where the tokens went, from all of them down to the learned ones; None without a ledger."""
    if not number(ledger.get("tokens_in")):
        return None
    lost, context = int(ledger.get("tokens_lost", 0)), int(ledger.get("tokens_context", 0))
    changes = [*_gain("Reworded", ledger.get("tokens_augmented")), ("Lost to length", -lost, _UNUSED)]
    changes.append(("Context", -context, _USED))
    return _funnel("Tokens", ("Tokens in", int(ledger["tokens_in"]), _ALL), changes, "Learned")


def _gain(name: str, made: Any) -> list[Stage]:
    """Return what was made of the rows beside them, if anything was."""
    return [(name, int(made), _LEARNED)] if number(made) else []


def _funnel(title: str, whole: Stage, changes: list[Stage], rest_name: str) -> Chart:
    """Return a bar for all, one for each change where the last one ended, and one for the rest."""
    all_in = whole[1]
    ends = list(accumulate((change for _, change, _ in changes), initial=all_in))
    stages = [whole, *((name, abs(change), color) for name, change, color in changes), (rest_name, ends[-1], _LEARNED)]
    names = [name for name, _, _ in stages]
    signs = ["", *("+" * (change > 0) for _, change, _ in changes), ""]
    total = all_in + sum(max(0, change) for _, change, _ in changes)
    shares = [f" ({percent(value / total)})" if at else "" for at, (_, value, _) in enumerate(stages)]
    texts = [f"{sign}{count(stage[1])}{share}" for sign, stage, share in zip(signs, stages, shares, strict=True)]
    bars = {
        "type": "bar",
        "orientation": "h",
        "y": names,
        "x": [value for _, value, _ in stages],
        "base": [0, *(min(pair) for pair in pairwise(ends)), 0],
        "marker": {"color": [color for _, _, color in stages]},
        "hovertemplate": "%{y}: %{customdata}<extra></extra>",
        "customdata": texts,
    }
    layout = _layout(max(ends)) | {"annotations": [_bar_text(*pair) for pair in zip(names, texts, strict=True)]}
    return Chart(
        id=f"funnel_{title.lower()}",
        title=title,
        unit="from all to the learned ones",
        label=f"{title}: " + ", ".join(f"{name} {text}" for name, text in zip(names, texts, strict=True)),
        plot={"data": [bars], "layout": layout},
        header=("", title, "Share"),
        rows=tuple((name, count(value), percent(value / total)) for name, value, _ in stages),
        is_linked=False,
    )


def _layout(whole: int) -> Figure:
    axis = {"color": "var(--ink)", "zeroline": False, "fixedrange": True}
    names = {"autorange": "reversed", "automargin": True, "ticks": "", "showgrid": False, "ticklabelstandoff": 8}
    own = {"hovermode": "closest", "showlegend": False, "bargap": 0.35, "margin": {"l": 8, "r": 140, "t": 8, "b": 8}}
    return {
        **shared_look(),
        **own,
        "xaxis": {**axis, "visible": False, "range": [0, whole]},
        "yaxis": {**axis, **names},
    }


def _bar_text(name: str, text: str) -> Figure:
    place = {"xref": "paper", "x": 1.0, "xanchor": "left", "yref": "y", "y": name, "xshift": 10}
    return {**place, "text": text, "showarrow": False, "font": {"color": "var(--ink)", "size": 13}}
