"""Charts are figures made of numbers: they show what was recorded, keep spikes, and say it in words and tables too."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest

from attune.record import RunFolder
from attune.show.charts import MAX_POINTS, Chart, loss_chart, points, small_charts, smooth, thin
from attune.show.facts import Facts, read_facts
from attune.show.funnel import rows_funnel, tokens_funnel
from tests.show.run_folder import LEDGER, STEPS, write_run


@pytest.fixture(scope="module")
def facts(tmp_path_factory: pytest.TempPathFactory) -> Facts:
    """A complete run of invented figures."""
    return read_facts(write_run(tmp_path_factory.mktemp("runs")))


def trace(chart: Chart, name: str) -> dict[str, Any]:
    """The trace of a chart whose name starts so."""
    return next(item for item in chart.plot["data"] if item.get("name", "").startswith(name))


def test_loss_chart_shows_base_and_best(facts: Facts) -> None:
    """The base model's loss is a dashed line over the whole run, the best step a mark at its own loss."""
    chart = loss_chart(facts)
    base, best = trace(chart, "base model"), trace(chart, "best step")
    assert base["line"]["dash"] == "dash"
    assert base["x"] == [0, STEPS]
    assert base["y"] == [4.871, 4.871]
    assert best["x"] == [facts.result["best_step"]]
    assert best["y"][0] == min(trace(chart, "validation")["y"])
    assert chart.plot["layout"]["shapes"][0]["x0"] == facts.result["best_step"]


def test_every_metric_has_its_chart(facts: Facts) -> None:
    """All recorded metrics are drawn, those with a validation twin with both, and mfu only where it was measured."""
    charts = {chart.id: chart for chart in small_charts(facts)}
    recorded = [
        "perplexity",
        "accuracy",
        "exact_match",
        "learning_rate",
        "grad_norm",
        "replay_loss",
        "tokens_per_s",
        "memory_gb",
        "epoch",
        "train_flos",
    ]
    assert list(charts) == recorded
    for name in ("perplexity", "accuracy"):
        assert trace(charts[name], "validation")["y"][-1] == pytest.approx(facts.valids[-1][f"val_{name}"], rel=1e-5)
    assert trace(charts["grad_norm"], "train.clip")["y"] == [1.0, 1.0]


def test_charts_share_one_x_range(facts: Facts) -> None:
    """All charts over steps start with the same x range, so that linked zoom means the same steps."""
    ranges = [chart.plot["layout"]["xaxis"]["range"] for chart in [loss_chart(facts), *small_charts(facts)]]
    assert all(one == ranges[0] for one in ranges)
    assert ranges[0][0] <= 0
    assert ranges[0][1] >= STEPS


def test_tables_hold_the_figures(facts: Facts) -> None:
    """The table beside the loss chart has each validation and the last step."""
    chart = loss_chart(facts)
    table = {row[0]: row[1:] for row in chart.rows}
    for record in facts.valids:
        assert table[f"{record['step']:,}"][1] == f"{record['val_loss']:.3f}"
    assert table[str(STEPS)][0] == f"{facts.steps[-1]['loss']:.3f}"


def test_thin_keeps_spikes_and_ends() -> None:
    """A curve of 100,000 points is thinned to the limit, and its one spike stays."""
    curve = [(step, 1.0) for step in range(1, 100_001)]
    curve[54_321] = (54_322, 99.0)
    thinned = thin(curve)
    assert len(thinned) <= MAX_POINTS + 2
    assert (54_322, 99.0) in thinned
    assert thinned[0] == curve[0]
    assert thinned[-1] == curve[-1]
    assert thin(curve[:100]) == curve[:100]


def test_smooth_of_a_constant_is_the_constant() -> None:
    """The running mean starts unbiased: a flat curve stays where it is."""
    curve = [(step, 2.5) for step in range(200)]
    assert [value for _, value in smooth(curve)] == pytest.approx([2.5] * 200)


def test_nan_is_a_gap(tmp_path: Path) -> None:
    """A step whose loss is NaN (text in the run folder) or null is a gap, and the chart is valid JSON."""
    run = RunFolder.create(tmp_path / "broken")
    run.append("metrics.jsonl", {"step": 1, "loss": 2.0}, {"step": 2, "loss": math.nan}, {"step": 3, "loss": None})
    facts = read_facts(run.path)
    assert points(facts.steps, "loss") == [(1, 2.0)]
    json.dumps(loss_chart(facts).plot, allow_nan=False)


def test_no_data_text_in_figures(facts: Facts) -> None:
    """Figures hold nothing out of the data, so that no row or reason can speak through Plotly's markup."""
    charts = [loss_chart(facts), *small_charts(facts), rows_funnel(LEDGER), tokens_funnel(LEDGER)]
    text = json.dumps([chart.plot for chart in charts if chart])
    for reason in LEDGER["reasons"]:
        assert reason not in text
    assert "train.jsonl" not in text


def test_funnel_adds_up() -> None:
    """Each bar starts where the change above it ended, and what is left is what was trained on or learned."""
    rows, tokens = rows_funnel(LEDGER), tokens_funnel(LEDGER)
    assert rows is not None
    assert tokens is not None
    bars = rows.plot["data"][0]
    assert bars["y"] == ["Rows in", "Held out", "Duplicate", "Dropped", "Reworded", "Trained on"]
    assert bars["x"] == [1620, 80, 26, 14, 300, 1800]
    assert bars["base"] == [0, 1540, 1514, 1500, 1500, 0]
    assert tokens.plot["data"][0]["x"] == [151302, 30210, 1771, 119330, 60411]
    assert "Trained on 1,800 (93.8 %)" in rows.label


def test_funnel_without_a_ledger() -> None:
    """A run that died before its ledger was written has no funnel."""
    assert rows_funnel({}) is None
    assert tokens_funnel({}) is None
