"""The data report in a real browser: it opens offline without a complaint, its viewer finds rows, data do no harm."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from attune.show.data_report import write_data_report
from tests.show.check_document import make_document, make_hostile
from tests.show.pages import CHROMIUM, Opened, assert_structured, open_page, see
from tests.show.run_folder import HOSTILE

pytestmark = [pytest.mark.browser, pytest.mark.skipif(CHROMIUM is None, reason="no chromium on this machine")]


@pytest.fixture(scope="module")
def reports(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The page about planted faults, and one in which every text is hostile."""
    folder = tmp_path_factory.mktemp("pages")
    made = {"plain": make_document(), "hostile": make_hostile(), "empty": ({"ok": False}, [])}
    return {name: write_data_report(*given, folder / f"{name}.html") for name, given in made.items()}


@pytest.fixture(scope="module")
def plain(browser: Any, reports: dict[str, Path]) -> Iterator[Opened]:
    """The page about planted faults, opened once at desk width."""
    opened = open_page(browser, reports["plain"])
    yield opened
    opened.page.close()


@pytest.mark.parametrize(
    ("name", "scheme", "width", "charts"),
    [("plain", "light", 1280, 4), ("plain", "dark", 400, 4), ("empty", "light", 400, 0)],
)
def test_opens_offline_and_quiet(
    name: str, scheme: str, width: int, charts: int, reports: dict[str, Path], browser: Any
) -> None:
    """The page asks for nothing but itself, complains about nothing, fits the width, and draws its charts."""
    opened = open_page(browser, reports[name], width=width, scheme=scheme)
    page = opened.page
    assert opened.requests == [reports[name].as_uri()]
    assert opened.complaints == []
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    assert page.locator("h1").inner_text().startswith("These rows are not fit to train on")
    drawn = [plot.get_attribute("data-chart") for plot in page.locator("[data-chart]").all()]
    assert len(drawn) == charts
    for chart in drawn:
        assert see(page, chart).bounding_box()["width"] <= width
    page.close()


def test_rows_of_a_finding(plain: Opened) -> None:
    """A finding's link shows its rows alone; the filter and the search work together."""
    page = plain.page
    position, shown = page.locator("#row-position"), page.locator(".row:visible")
    assert (shown.count(), position.inner_text()) == (1, "1 of 40")
    page.get_by_role("link", name="Show such rows").first.click()
    assert position.inner_text() == "1 of 6"
    assert page.locator("#row-filter option:checked").inner_text() == "D10 placeholder"
    assert shown.locator(".kind").first.inner_text() == "D10 placeholder"
    page.get_by_label("Search").fill("train.jsonl:17 ")
    assert position.inner_text() == "1 of 1"
    assert shown.locator("mark").inner_text().startswith('{"product"')
    page.get_by_label("Search").fill("")
    page.get_by_label("Show").select_option("D06 duplicate")
    assert position.inner_text() == "1 of 4"
    page.get_by_label("Show").select_option("all rows here")
    assert position.inner_text() == "1 of 40"
    assert plain.complaints == []


def test_hover_tells_the_bin(plain: Opened) -> None:
    """Over a bar of the length histogram the page says its edges and its rows."""
    page = plain.page
    chart = see(page, "lengths")
    box = chart.locator(".nsewdrag").bounding_box()
    page.mouse.move(box["x"] + box["width"] * 0.8, box["y"] + box["height"] * 0.5)
    label = chart.locator(".hovertext").first
    label.wait_for()
    assert "tokens: " in label.text_content()


def test_hostile_rows_do_nothing(reports: dict[str, Path], browser: Any) -> None:
    """Every hostile row is stepped through, filtered and searched, as text: nothing runs, nothing loads."""
    opened = open_page(browser, reports["hostile"], width=400)
    page = opened.page
    assert page.evaluate("document.documentElement.scrollWidth") <= 400
    for text in HOSTILE[:3]:
        assert text in page.locator(".row:visible").inner_text()
        page.get_by_role("button", name="Next").click()
    page.get_by_role("link", name="Show such rows").first.click()
    page.get_by_label("Search").fill("<img src=x onerror")
    assert page.locator("#row-position").inner_text() == "1 of 1"
    for summary in page.locator("summary").all():
        summary.click()
    assert page.evaluate("window.harmed") is None
    assert page.locator("img, iframe, base, object, embed, form").count() == 0
    assert opened.requests == [reports["hostile"].as_uri()]
    assert opened.complaints == []
    page.close()


def test_readable_by_structure(plain: Opened) -> None:
    """Landmarks, one top heading, no skipped level, a name for each chart, a target for each link."""
    page = plain.page
    assert_structured(page)
