"""The pictures of a data check: what they hold adds up to the document, and no text of the data is in them."""

from __future__ import annotations

import json
from typing import Any

import pytest

from attune.show.charts import Chart
from attune.show.data_charts import data_charts
from tests.show.check_document import make_document
from tests.show.run_folder import HOSTILE


def length_chart(edges: list[float], counts: list[float], limit: float | None = None) -> Chart:
    """Return the chart of a histogram."""
    lengths = {"unit": "tokens", "edges": edges, "counts": counts, "limit": limit}
    return data_charts({"lengths": lengths})["lengths"]


def test_all_charts_of_a_document() -> None:
    """Rows, tokens, lengths and turns are drawn with a label and a table; without a model no tokens are."""
    document, _ = make_document()
    charts = data_charts(document)
    assert list(charts) == ["rows", "tokens", "lengths", "turns"]
    assert charts["rows"].rows[-1] == ("Trained on", "1,485", "87.4 %")
    assert charts["tokens"].rows[-1] == ("Learned", "40,410", "40.6 %")
    assert all(chart.label.endswith((".", ")")) and chart.rows for chart in charts.values())
    assert list(data_charts(make_document(has_model=False)[0])) == ["rows", "lengths", "turns"]
    assert data_charts({}) == {}


def test_the_limit_parts_the_histogram() -> None:
    """A bin that the limit falls into stands on both sides of it, with the same height."""
    chart = length_chart([0, 10, 20, 30, 40], [5, 7, 3, 1], limit=25)
    _, within, beyond, limit = chart.plot["data"]
    assert (within["x"], within["y"]) == ([0, 10, 20, 25], [5, 7, 3, 3])
    assert (beyond["x"], beyond["y"]) == ([25, 30, 40], [3, 1, 1])
    assert limit["x"] == [25, 25]
    assert "the limit is 25" in chart.label


def test_a_limit_on_an_edge() -> None:
    """A limit that is an edge parts the bins cleanly."""
    _, within, beyond, _ = length_chart([0, 10, 20, 30], [5, 7, 3], limit=20).plot["data"]
    assert (within["x"], within["y"]) == ([0, 10, 20], [5, 7, 7])
    assert (beyond["x"], beyond["y"]) == ([20, 30], [3, 3])


@pytest.mark.parametrize("limit", [None, 50])
def test_a_limit_that_nobody_passes(limit: float | None) -> None:
    """Without a row beyond the limit there is one histogram in the colour of rows."""
    drawn = length_chart([0, 10, 20], [5, 7], limit).plot["data"]
    assert [trace.get("line", {}).get("color") for trace in drawn] == [None, "var(--train)"]


def test_wide_lengths_get_a_log_axis() -> None:
    """Bins that grow are drawn on a log axis, which has no zero; what the pointer is told keeps the true edges."""
    chart = length_chart([0, 8, 64, 512, 4096], [1, 2, 3, 4])
    axis = chart.plot["layout"]["xaxis"]
    assert (axis["type"], axis["range"][0]) == ("log", pytest.approx(0.301, abs=1e-3))
    assert chart.plot["data"][0]["customdata"][0] == "0 to 8 tokens: 1 rows"
    even = length_chart([0, 10, 20, 30], [1, 2, 3]).plot["layout"]["xaxis"]
    assert ("type" in even, even["range"]) == (False, [0, 30])


@pytest.mark.parametrize("edges", [[], [0, 1], [0, 5, 5, 9], [0, 9, 5, 12], ["a", None, 2, 3]])
def test_a_damaged_histogram_is_left_out(edges: list[Any]) -> None:
    """Edges that are missing, doubled or out of order are not drawn."""
    assert data_charts({"lengths": {"unit": "words", "edges": edges, "counts": [1, 2, 3]}}) == {}


def test_rows_of_one_shape_need_no_turns() -> None:
    """Where all rows have the same number of turns nothing is drawn; names that are no numbers never are."""
    assert data_charts({"coverage": {"turns": {"2": 500}}}) == {}
    chart = data_charts({"coverage": {"turns": {"10+": 1, "2": 5, "4": 4, HOSTILE[0]: 7}}})["turns"]
    assert [row[0] for row in chart.rows] == ["2", "4", "10+"]
    assert HOSTILE[0] not in json.dumps(chart.plot)
