"""The report in a real browser: it opens offline without a complaint, its charts and viewer work, data do no harm."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from attune.show.report import write_report
from attune.show.words import visible
from tests.show.pages import CHROMIUM, Opened, assert_structured, open_page, see, wait_until
from tests.show.run_folder import EVALUATION, HOSTILE, STEPS, write_run
from tests.show.watched import SPIKES

pytestmark = [pytest.mark.browser, pytest.mark.skipif(CHROMIUM is None, reason="no chromium on this machine")]


@pytest.fixture(scope="module")
def reports(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The report of a complete run, and of one whose rows are hostile."""
    folder = tmp_path_factory.mktemp("runs")
    return {
        name: write_report(write_run(folder, name=name, hostile=name == "hostile")) for name in ("plain", "hostile")
    }


@pytest.fixture(scope="module")
def plain(browser: Any, reports: dict[str, Path]) -> Iterator[Opened]:
    """The report of a complete run, opened once at desk width; each test leaves it as it found it."""
    opened = open_page(browser, reports["plain"])
    yield opened
    opened.page.close()


def x_range(page: Any, chart: str) -> list[float]:
    """The steps a chart shows."""
    shown: list[float] = page.evaluate(f"document.getElementById('chart-{chart}').layout.xaxis.range.map(Number)")
    return shown


@pytest.mark.parametrize(
    ("name", "scheme", "width"), [("plain", "dark", 390), ("plain", "light", 1280), ("hostile", "light", 390)]
)
def test_opens_offline_and_quiet(name: str, scheme: str, width: int, reports: dict[str, Path], browser: Any) -> None:
    """The page asks for nothing but itself, complains about nothing, fits the width, and shows the figures."""
    opened = open_page(browser, reports[name], width=width, scheme=scheme)
    page = opened.page
    assert page.locator("h1").inner_text().replace("\u00a0", " ") == EVALUATION["verdict"] + "."
    assert page.locator(".key-figures dd").nth(2).inner_text().startswith(str(STEPS))
    charts = [plot.get_attribute("data-chart") for plot in page.locator("[data-chart]").all()]
    assert len(charts) == 24
    for chart in charts:
        assert see(page, chart).bounding_box()["width"] <= width
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    assert opened.requests == [reports[name].as_uri()]
    assert opened.complaints == []
    page.close()


def test_colours_follow_the_scheme(plain: Opened) -> None:
    """Charts are repainted when the system turns dark, with the colours of the page."""
    page = plain.page
    see(page, "loss")
    line = "document.getElementById('chart-loss').data.find((one) => one.name === 'validation').marker.color"
    light = page.evaluate(line)
    page.emulate_media(color_scheme="dark")
    wait_until(page, f"{line} !== '{light}'")
    assert page.evaluate(line) == page.evaluate(
        "getComputedStyle(document.documentElement).getPropertyValue('--valid')"
    )


def test_hover_tells_the_values(plain: Opened) -> None:
    """Hovering the loss chart names the step and the value of each curve."""
    page = plain.page
    chart = see(page, "loss")
    box = chart.locator(".nsewdrag").bounding_box()
    page.mouse.move(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
    label = chart.locator(".hoverlayer .legend")
    label.wait_for()
    text = label.text_content()
    assert "step 1" in text
    for curve in ("train, smoothed", "train, each step"):
        assert curve in text
    assert "(step 140)" in text  # the nearest validation says where it was measured


def test_zoom_is_linked_and_reset(plain: Opened) -> None:
    """Dragging across one chart zooms all to the same steps, those drawn later, too; the button shows the whole run."""
    page = plain.page
    see(page, "loss")
    whole = x_range(page, "loss")
    chart = see(page, "accuracy")
    box = chart.locator(".nsewdrag").bounding_box()
    middle = box["y"] + box["height"] / 2
    page.mouse.move(box["x"] + box["width"] * 0.25, middle)
    page.mouse.down()
    page.mouse.move(box["x"] + box["width"] * 0.5, middle, steps=5)
    page.mouse.up()
    wait_until(page, f"document.getElementById('chart-loss').layout.xaxis.range[0] > {whole[0] + 10}")
    see(page, "scores")
    wait_until(page, f"document.getElementById('chart-scores').layout.xaxis.range[0] > {whole[0] + 10}")
    assert x_range(page, "loss") == x_range(page, "accuracy") == x_range(page, "scores")
    page.locator("#reset-zoom").click()
    wait_until(page, f"document.getElementById('chart-scores').layout.xaxis.range[0] <= {whole[0]}")
    assert x_range(page, "loss") == x_range(page, "accuracy") == whole
    assert plain.complaints == []


def test_hover_is_linked(plain: Opened) -> None:
    """Hovering one chart names the same step on the chart beside it, and leaving takes both away."""
    page = plain.page
    chart, beside = see(page, "general_loss"), see(page, "kl")
    box = chart.locator(".nsewdrag").bounding_box()
    page.mouse.move(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
    beside.locator(".hoverlayer .legend").wait_for()
    assert "general text : 3.22" in chart.locator(".hoverlayer .legend").text_content()
    assert beside.locator(".hoverlayer .legend").text_content().startswith("step 14")
    page.mouse.move(2, 2)
    beside.locator(".hoverlayer .legend").wait_for(state="detached")


def test_divergence_and_alarms_are_marked(plain: Opened) -> None:
    """The loss chart shades where validation parts from training and marks each error and warning."""
    page = plain.page
    see(page, "loss")
    drawn = page.evaluate("(({data, layout}) => ({data, layout}))(document.getElementById('chart-loss'))")
    (zone,) = [shape for shape in drawn["layout"]["shapes"] if shape["type"] == "rect"]
    assert (zone["x0"], zone["x1"]) == (224, STEPS)
    marks = {trace["name"]: list(trace["x"]) for trace in drawn["data"] if "alarm" in trace.get("name", "")}
    assert marks == {"alarm, error": [STEPS], "alarm, warning": [*SPIKES, STEPS - 20]}
    table = page.locator(".alarms tr")
    assert table.count() == 6
    for wanted in ("Forgetting (G4)", "error", "0.430", "--replay.source"):
        assert wanted in table.nth(1).inner_text()


def test_a_spike_leads_to_its_rows(plain: Opened) -> None:
    """A click on a spike, or its link, goes to the step's rows; a row that stands in several is named."""
    page = plain.page
    chart = see(page, "grad_norm")
    chart.locator(".scatterlayer .trace .points path").last.click(force=True)
    wait_until(page, f"location.hash === '#step-{SPIKES[1]}'")
    page.get_by_role("link", name=f"step {SPIKES[0]}", exact=True).click()
    row = page.locator(f"#step-{SPIKES[0]}")
    assert page.evaluate("location.hash") == f"#step-{SPIKES[0]}"
    assert "train.jsonl:77" in row.inner_text()
    assert "train.jsonl:77 (2 times)" in page.locator("#alarms").inner_text()


def test_answers_over_time(plain: Opened) -> None:
    """The slider, by keyboard, shows the answer of each validation beside the base model's; a menu changes prompts."""
    page = plain.page
    slider, shown = page.get_by_label("Step", exact=True), page.locator(".followed-prompt:visible")
    assert page.locator("#followed-at").inner_text() == f"step {STEPS}"
    assert "equals the reference" in shown.locator(".tuned:visible").inner_text()
    slider.press("Home")
    assert slider.get_attribute("aria-valuetext") == "step 28"
    assert "4 of 5 fields right" in shown.locator(".tuned:visible").inner_text()
    slider.press("ArrowRight")
    assert shown.locator(".tuned:visible h4").inner_text() == "Tuned, step 56"
    assert "ran into the token limit" in shown.locator(".base").inner_text()
    page.get_by_label("Prompt", exact=True).select_option("1")
    assert "order A-1042" in shown.locator(".asked").inner_text()
    assert shown.locator(".tuned:visible h4").inner_text() == "Tuned, step 56"


def test_worst_rows_by_token(plain: Opened) -> None:
    """Learned tokens are coloured by their loss, hard ones named in words, and the figures shown when asked."""
    page = plain.page
    shown = page.locator(".heat-row:visible")
    assert "Worst row valid.jsonl:1 2.600 nats per token, 4.200 for the base model" in shown.inner_text()
    colour = "(one) => getComputedStyle(one).backgroundColor"
    hottest, coolest = (shown.locator(f".heat-{heat}").first.evaluate(colour) for heat in (5, 1))
    assert hottest != coolest
    assert "Hardest tokens: outa 4.91" in shown.inner_text()
    figures = "(one) => getComputedStyle(one, '::after').content"
    assert shown.locator("[data-loss]").first.evaluate(figures) == "none"
    page.get_by_role("button", name="Show figures").click()
    first = shown.locator("[data-loss]").first
    assert first.get_attribute("data-loss") == "3.24"
    assert first.evaluate(figures) != "none"
    page.get_by_label("Row", exact=True).select_option(label="Best: valid.jsonl:31, 0.010 nats")
    assert "Best row valid.jsonl:31" in shown.inner_text()


def test_print_draws_every_chart_for_paper(reports: dict[str, Path], browser: Any) -> None:
    """Before printing, charts that were never in view are drawn, too, none wider than the paper."""
    page = open_page(browser, reports["plain"]).page
    page.evaluate("dispatchEvent(new Event('beforeprint'))")
    widths = page.evaluate("[...document.querySelectorAll('[data-chart]')].map((one) => one.layout?.width)")
    assert len(widths) == 24
    assert all(0 < width <= 700 for width in widths)
    page.close()


def test_log_scale(plain: Opened) -> None:
    """The button turns the loss axis logarithmic and says so to a screen reader."""
    page = plain.page
    see(page, "loss")
    button = page.get_by_role("button", name="Log scale")
    button.click()
    assert button.get_attribute("aria-pressed") == "true"
    assert page.evaluate("document.getElementById('chart-loss').layout.yaxis.type") == "log"
    button.click()
    assert page.evaluate("document.getElementById('chart-loss').layout.yaxis.type") == "linear"


def test_rows_viewer(reports: dict[str, Path], browser: Any) -> None:
    """One row at a time, by button or keyboard; the search box narrows them; learned tokens are marked."""
    page = open_page(browser, reports["plain"], width=390).page
    shown = page.locator(".row:visible")
    position = page.locator("#row-position")
    assert (shown.count(), position.inner_text()) == (1, "1 of 12")
    page.get_by_role("button", name="Next").focus()
    page.keyboard.press("Enter")
    page.keyboard.press("Enter")
    assert position.inner_text() == "3 of 12"
    assert "(3)" in shown.inner_text()
    assert shown.locator("mark").inner_text().startswith('{"product": "router"')
    page.get_by_role("button", name="Previous").click()
    assert "(2)" in shown.inner_text()
    page.get_by_label("Search").fill("(11)")
    assert (shown.count(), position.inner_text()) == (1, "1 of 1")
    page.get_by_label("Search").fill("no such text")
    assert (shown.count(), position.inner_text()) == (0, "0 of 0")
    assert page.get_by_text("No row holds this text.").is_visible()
    page.close()


def test_answers_on_demand(plain: Opened) -> None:
    """Three answers first, ten more on demand, and only those that went wrong when asked."""
    page = plain.page
    shown = page.locator(".sample:visible")
    assert shown.count() == 3
    page.get_by_role("button", name="Show ten more").click()
    assert shown.count() == 13
    page.get_by_label("Show").select_option("wrong")
    assert page.locator("#answer-count").inner_text() == "6 of 24 rows"
    assert shown.count() == 3
    for sample in shown.all():
        assert sample.locator("td.wrong", has_text='"low"').count() == 1


def test_hostile_rows_do_nothing(reports: dict[str, Path], browser: Any) -> None:
    """Every hostile row is stepped through, searched and shown as an answer, as text: nothing runs, nothing loads."""
    opened = open_page(browser, reports["hostile"])
    page = opened.page
    for text in HOSTILE[:3]:
        assert text in page.locator(".row:visible").inner_text()
        page.get_by_role("button", name="Next").click()
    for at, text in enumerate(HOSTILE[1:4]):
        page.get_by_label("Row", exact=True).select_option(str(at))
        shown = page.locator(".heat-row:visible pre").inner_text()
        assert visible(text) in shown
    for at, text in enumerate(HOSTILE):
        page.get_by_label("Prompt", exact=True).select_option(str(at))
        assert visible(text) in page.locator(".followed-prompt:visible .asked pre").text_content()
    page.get_by_label("Search").fill("<img src=x onerror")
    assert page.locator("#row-position").inner_text() == "1 of 1"
    page.get_by_role("button", name="Show ten more").click()
    for sample in page.locator(".sample:visible").all():
        sample.hover()
    assert page.evaluate("window.harmed") is None
    assert page.locator("img, iframe, base, object, embed, form").count() == 0
    assert opened.requests == [reports["hostile"].as_uri()]
    assert opened.complaints == []
    page.close()


def test_injected_script_is_refused(reports: dict[str, Path], browser: Any) -> None:
    """Even if markup came through, the page's policy would neither run it nor load anything."""
    opened = open_page(browser, reports["plain"])
    opened.page.evaluate(
        """() => {
          const holder = document.createElement('div');
          holder.innerHTML = '<img src="https://example.org/x.png" onerror="window.harmed = 1">';
          const script = document.createElement('script');
          script.textContent = 'window.harmed = 2';
          document.body.append(holder, script);
        }"""
    )
    opened.page.wait_for_timeout(200)
    assert opened.page.evaluate("window.harmed") is None
    assert any("Content Security Policy" in complaint for complaint in opened.complaints)
    opened.page.close()


def test_readable_by_structure(plain: Opened) -> None:
    """Landmarks, one top heading, no skipped level, a name for each chart, table and control."""
    page = plain.page
    assert_structured(page)
    page.locator("summary", has_text=re.compile("^Loss as a table")).click()
    assert page.get_by_role("table").filter(has_text="4.871").first.is_visible()
