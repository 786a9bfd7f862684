"""What the guards measured, over steps: memorising, forgetting, how answers begin and end; numbers only."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from attune.show.charts import (
    MAX_TABLE_ROWS,
    PERCENT,
    Chart,
    Format,
    Points,
    draw_level,
    draw_line,
    evenly,
    from_to,
    points,
    steps_layout,
    thin,
)
from attune.show.facts import Facts, Record, mapping
from attune.show.words import LOSSES, METRICS, figure, percent

_DOTTED: dict[str, Any] = {"color": "var(--third)", "width": 2, "dash": "dot"}
COLOURS = ("var(--train)", "var(--valid)", "var(--third)", "var(--fourth)", "var(--fifth)")


@dataclass(frozen=True, slots=True)
class Watched:
    """A chart of what the guards measured: (key, name) of each curve, and the key of what the references have."""

    id: str
    title: str
    unit: str
    curves: tuple[tuple[str, str], ...]
    reference: str = ""
    show: Format = figure
    tick: str = ""
    from_zero: bool = True


FORGETTING = (
    Watched(
        "general_loss",
        "Loss on general text",
        "nats per token",
        (("general_loss", "general text"),),
        from_zero=False,
    ),
    Watched(
        "kl",
        "Distance from the base model",
        "KL, nats per token",
        (("kl_general", "general text"), ("kl_task", "validation answers")),
    ),
)
MEMORISING = (
    Watched(
        "known_loss",
        "Known and new rows",
        "nats per learned token",
        (("probe_loss", "training rows"), ("val_loss", "validation rows")),
        from_zero=False,
    ),
    Watched(
        "known_accuracy",
        "Known and new rows, accuracy",
        "tokens right",
        (("probe_accuracy", "training rows"), ("val_accuracy", "validation rows")),
        show=percent,
        tick=PERCENT,
    ),
)
ANSWERING = (
    Watched(
        "openers",
        "Answers that begin alike",
        "in three tokens, sampled",
        (("opener_share", "answers"),),
        reference="reference_opener_share",
        show=percent,
        tick=PERCENT,
    ),
    Watched(
        "answer_tokens",
        "Length of answers",
        "tokens, mean",
        (("answer_tokens", "answers"),),
        reference="reference_tokens",
    ),
    Watched(
        "finish_rate",
        "Answers that end by themselves",
        "before the limit",
        (("finish_rate", "answers"),),
        show=percent,
        tick=PERCENT,
    ),
    Watched(
        "distinct_2",
        "Variety of answers",
        "distinct word pairs",
        (("distinct_2", "answers"),),
        reference="reference_distinct_2",
    ),
    Watched(
        "compression",
        "Repetition in answers",
        "bytes over compressed bytes",
        (("compression", "answers"),),
        reference="reference_compression",
    ),
    Watched(
        "stop",
        "End token",
        "ranked first; mean probability",
        (("stop_recall", "where it is due"), ("stop_leak", "where it is not")),
        show=percent,
        tick=PERCENT,
    ),
)


def forgetting_charts(facts: Facts) -> list[Chart]:
    """Return what was measured of forgetting."""
    return _charts(facts, FORGETTING)


def memorising_charts(facts: Facts) -> list[Chart]:
    """Return training rows beside validation rows, both measured without dropout or noise."""
    return _charts(facts, MEMORISING)


def answer_charts(facts: Facts) -> list[Chart]:
    """Return how the answers to the fixed prompts begin, end and score."""
    return [*_charts(facts, ANSWERING), *_score_charts(facts)]


def _charts(facts: Facts, watched: tuple[Watched, ...]) -> list[Chart]:
    records = _measured(facts)
    return [chart for one in watched if (chart := _chart(one, facts, records)) is not None]


def _measured(facts: Facts) -> list[Record]:
    """Return one record per step that the guards measured: what they found, and the validation of that step."""
    valids = {record["step"]: record for record in facts.valids}
    return [{**valids.get(record["step"], {}), **record} for record in facts.probes]


def _score_charts(facts: Facts) -> Iterator[Chart]:
    """Yield the scores of the answers, those metrics that we know."""
    records = [{**mapping(record.get("scores")), "step": record["step"]} for record in facts.probes]
    known = [name for name in METRICS if name not in LOSSES and any(name in record for record in records)]
    curves = tuple((name, METRICS[name][0]) for name in known[: len(COLOURS)])
    watched = Watched("scores", "Scores of the answers", "to the fixed prompts", curves, show=percent, tick=PERCENT)
    chart = _chart(watched, facts, records)
    if chart is not None:
        yield chart


def _chart(watched: Watched, facts: Facts, records: list[Record]) -> Chart | None:
    """Return one chart, or None if the first of its curves was not measured."""
    curves = [(name, points(records, key)) for key, name in watched.curves]
    measured = [(name, curve) for name, curve in curves if curve]
    if not measured or not curves[0][1]:
        return None
    traces = [draw_line(name, thin(curve), color) for (name, curve), color in zip(measured, COLOURS, strict=False)]
    base, reference = _base_of(measured), points(records, watched.reference)
    if base is not None:
        traces.append(draw_level("base model", base, (measured[0][1][0][0], measured[0][1][-1][0])))
    if reference:
        traces.append({**draw_line("references", thin(reference), _DOTTED["color"]), "mode": "lines", "line": _DOTTED})
        measured.append(("references", reference))
    if watched.show is percent:
        traces = [{**trace, "hovertemplate": "%{y:.1%}"} for trace in traces]
    layout = steps_layout(facts, tick=watched.tick, from_zero=watched.from_zero)
    header, rows = _table(measured, watched.show)
    said = "; ".join(from_to(name, curve, watched.show) for name, curve in measured)
    return Chart(
        watched.id,
        watched.title,
        watched.unit,
        f"{watched.title} over steps: {said}.",
        {"data": traces, "layout": {**layout, "showlegend": len(traces) > 1}},
        header,
        rows,
    )


def _base_of(curves: list[tuple[str, Points]]) -> float | None:
    """Return what was measured before training, for a chart of one curve that goes on from there."""
    first = curves[0][1]
    return first[0][1] if len(curves) == 1 and first[0][0] == 0 and len(first) > 1 else None


def _table(curves: list[tuple[str, Points]], show: Format) -> tuple[tuple[str, ...], tuple[tuple[str, ...], ...]]:
    """Return the curves as a table of evenly spaced steps."""
    by_step = [dict(curve) for _, curve in curves]
    steps = evenly(sorted({step for curve in by_step for step in curve}), MAX_TABLE_ROWS)
    header = ("Step", *(name.capitalize() for name, _ in curves))
    return header, tuple((f"{step:,}", *(show(curve.get(step)) for curve in by_step)) for step in steps)
