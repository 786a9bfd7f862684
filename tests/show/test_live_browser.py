"""The live page in a real browser: it follows runs as they grow, compares them, and data do no harm."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("uvicorn")
pytest.importorskip("starlette")

from tests.show.growing_run import GrowingRun
from tests.show.live_server import Served, serving
from tests.show.pages import CHROMIUM, Opened, open_page, wait_until
from tests.show.run_folder import HOSTILE

pytestmark = [pytest.mark.browser, pytest.mark.skipif(CHROMIUM is None, reason="no chromium on this machine")]
TRACES = "document.getElementById('chart-loss').data"
X_OF_SECOND = f"{TRACES}.find((trace) => trace.name === 'second').x"
LIVE = "document.getElementById('connection').textContent.startsWith('live')"


@dataclass(frozen=True)
class Watched:
    """An ended run, one that goes on, the server over their folder, and the page on which the second is chosen."""

    first: GrowingRun
    second: GrowingRun
    folder: Path
    served: Served
    opened: Opened


@pytest.fixture(scope="module")
def watched_once(browser: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Watched]:
    """Two runs on one page for all tests of the file."""
    with two_runs(browser, tmp_path_factory.mktemp("runs")) as watched:
        yield watched


@pytest.fixture
def watched(watched_once: Watched) -> Watched:
    """The two runs on a page that is as it was when it was opened; the second run may have come further."""
    page = watched_once.opened.page
    page.get_by_role("button", name="Whole run").click()
    page.get_by_label("Smoothing").fill("0")
    page.get_by_label("Over").select_option("step")
    page.get_by_label("Draw first").check()
    page.get_by_role("button", name="second").click()
    if page.get_by_role("button", name="Log scale").get_attribute("aria-pressed") == "true":
        page.get_by_role("button", name="Log scale").click()
    wait_until(page, f"{LIVE} && {X_OF_SECOND}.at(-1) === {watched_once.second.step}")
    return watched_once


@contextmanager
def two_runs(browser: Any, folder: Path) -> Iterator[Watched]:
    """Watch an ended run of 60 steps and one that has come to 20."""
    first = GrowingRun(folder / "first", total=60, created="2026-11-22T05:00:00")
    second = GrowingRun(folder / "second", total=1000, rate=5e-4, created="2026-11-22T06:00:00")
    for run, steps in ((first, 60), (second, 20)):
        run.validate()
        run.train(steps)
        run.validate()
    first.alarm("The first has been learned by heart.", rows=["train.jsonl:12"])
    first.end()
    with serving(folder) as served:
        opened = open_page(browser, served.url)
        opened.page.locator("#chart-loss.js-plotly-plot").wait_for()
        wait_until(opened.page, f"{LIVE} && {TRACES}?.length >= 5")
        yield Watched(first, second, folder, served, opened)
        opened.page.close()


def text(page: Any, selector: str) -> str:
    """What an element says."""
    said: str = page.locator(selector).inner_text()
    return " ".join(said.split())


def x_range(page: Any, chart: str) -> list[float]:
    """The steps a chart shows."""
    shown: list[float] = page.evaluate(f"document.getElementById('chart-{chart}').layout.xaxis.range.map(Number)")
    return shown


def test_shows_what_was_recorded(watched: Watched) -> None:
    """Headline, figures, table and curves are those of the files; nothing else is asked for; nothing complains."""
    page, second = watched.opened.page, watched.second
    records = second.run.read_lines("metrics.jsonl")
    steps, valids = ([record for record in records if key in record] for key in ("loss", "val_loss"))
    wait_until(
        page, f"document.querySelector('h1').textContent.startsWith('second: running, step {second.step} of 1,000')"
    )
    assert page.locator(".key-figures b").all_inner_texts() == [
        f"{steps[-1]['loss']:.3f}",
        f"{valids[-1]['val_loss']:.3f}",
        f"{min(record['val_loss'] for record in valids):.3f}",
        f"{round((1000 - second.step) / 2 / 60)} min",
    ]
    row = page.locator("#run-rows tr").first.inner_text()
    assert ["first" in row, "done" in row, "60 of 60" in row, "1 warning" in row] == [True] * 4
    drawn = {trace["name"]: trace["y"] for trace in page.evaluate(TRACES)}
    assert drawn["second"] == [record["loss"] for record in steps]
    assert drawn["second, validation"] == [record["val_loss"] for record in valids]
    assert len(drawn["first"]) == 60
    assert drawn["base model"] == [second.loss(0) + 0.1] * 2
    wait_until(page, "document.getElementById('setting-list').textContent.includes('learning_rate')")
    assert text(page, "#setting-list tbody") == "train.learning_rate 0.001 0.0005"
    assert all(url.startswith(f"http://127.0.0.1:{watched.served.port}/") for url in watched.opened.requests)
    assert watched.opened.complaints == []


def test_hover_tells_the_values(watched: Watched) -> None:
    """Hovering the loss chart names the step, and each run with its value."""
    page = watched.opened.page
    chart = page.locator("#chart-loss")
    chart.scroll_into_view_if_needed()
    box = chart.locator(".nsewdrag").bounding_box()
    page.mouse.move(box["x"] + box["width"] / 6, box["y"] + box["height"] / 2)
    label = chart.locator(".hoverlayer .legend")
    label.wait_for()
    said = label.text_content()
    step = int(said.split("step ")[1].split("first")[0])
    assert 5 <= step <= 15
    for run in (watched.first, watched.second):
        record = next(
            record for record in run.run.read_lines("metrics.jsonl") if record["step"] == step and "loss" in record
        )
        assert f"{run.path.name} : {record['loss']:.4g} (step {step})" in said


def test_follows_what_is_written(watched: Watched) -> None:
    """Steps, alarms and answers appear as they are written, a torn line only when whole, and the zoom stays."""
    page, second = watched.opened.page, watched.second
    page.get_by_label("From", exact=True).fill("5")
    page.get_by_label("to", exact=True).fill("15")
    page.get_by_label("to", exact=True).press("Enter")
    wait_until(page, "document.getElementById('chart-accuracy').layout.xaxis.range[1] === 15")
    second.train(10)
    second.alarm("Loss jumped.", name="spike", rows=["train.jsonl:7"])
    step = second.step
    with (second.path / "metrics.jsonl").open("ab") as file:
        file.write(b'{"step": %d, "loss": 9.0' % (step + 1))
    wait_until(page, f"document.querySelector('h1').textContent.includes('step {step} of 1,000')")
    wait_until(page, "document.getElementById('alarm-list').textContent.includes('Loss jumped.')")
    assert "train.jsonl:7" in text(page, "#alarm-list")
    assert x_range(page, "loss") == [5, 15]
    page.get_by_role("button", name="Whole run").click()
    wait_until(page, f"{X_OF_SECOND}.at(-1) === {step}")
    with (second.path / "metrics.jsonl").open("ab") as file:
        file.write(b', "time": 15.5}\n')
    second.step += 1
    wait_until(page, f"{TRACES}.find((trace) => trace.name === 'second').y.at(-1) === 9")
    second.end("done")
    wait_until(page, "document.querySelector('h1').textContent.startsWith('second: done')")
    assert text(page, "#announcement") == "second: done"
    second.end("running")
    wait_until(page, "document.querySelector('h1').textContent.startsWith('second: running')")
    assert watched.opened.complaints == []


def test_follows_a_resumed_run_and_a_new_one(browser: Any, tmp_path: Path) -> None:
    """Steps that a resumed run will do again go from the curve; a run that is started joins the page."""
    with two_runs(browser, tmp_path) as watched:
        page, second = watched.opened.page, watched.second
        kept = [record for record in second.run.read_lines("metrics.jsonl") if record["step"] <= 12]
        second.run.write_lines("metrics.jsonl", kept)
        wait_until(page, f"{X_OF_SECOND}.at(-1) === 12")
        third = GrowingRun(watched.folder / "third", rate=2e-3)
        third.train(15)
        wait_until(page, f"{TRACES}.some((trace) => trace.name === 'third' && trace.x.at(-1) === 15)")
        assert page.locator("#run-rows tr").count() == 3
        wait_until(page, "document.getElementById('setting-list').textContent.includes('third')")
        assert text(page, "#setting-list thead") == "Setting first second third"


def test_switches_and_compares_runs(watched: Watched) -> None:
    """A run's name shows its details; its box takes it off the charts; the keyboard does both."""
    page = watched.opened.page
    assert "learned by heart" not in text(page, "#alarm-list")
    page.get_by_role("button", name="first").focus()
    page.keyboard.press("Enter")
    assert text(page, "h1") == "first: done, step 60 of 60 (100 %)"
    wait_until(page, "document.getElementById('alarm-list').textContent.includes('learned by heart')")
    said = text(page, "#alarm-list")
    for part in ("G1", "overfit", "warning", "2.400", "2.000", "--early_stop.patience 3", "train.jsonl:12"):
        assert part in said
    wait_until(page, f"{TRACES}.some((trace) => trace.name === 'alarm' && trace.x[0] === 60)")
    assert page.get_by_role("button", name="first").get_attribute("aria-pressed") == "true"
    page.get_by_role("button", name="second").click()
    page.get_by_label("Draw first").focus()
    page.keyboard.press("Space")
    wait_until(page, f"{TRACES}.every((trace) => !trace.name.startsWith('first'))")
    wait_until(page, "document.getElementById('setting-list').textContent.includes('Draw two runs')")


def test_answers_through_training(watched: Watched) -> None:
    """Each fixed prompt stands with its reference, the base model's answer and the tuned one's at a chosen step."""
    page, second = watched.opened.page, watched.second
    wait_until(page, "document.getElementById('answer-when').textContent.startsWith('Tuned, step')")
    assert text(page, "#answer-base") == "The the the [ran into the token limit]"
    page.get_by_role("button", name="Next").click()
    assert text(page, "#answer-prompt") == "The parcel never came."
    assert text(page, "#prompt-position") == "2 of 2"
    second.train(10)
    second.answer("The router is dead.", "The parcel never came.", answer="Another one.")
    wait_until(page, "document.getElementById('answer-tuned').textContent === 'Another one.'")
    assert text(page, "#answer-when") == f"Tuned, step {second.step}"
    page.get_by_label("At step", exact=True).select_option("20")
    assert "router" in text(page, "#answer-tuned")


def test_how_curves_are_drawn(watched: Watched) -> None:
    """Zoom by dragging is linked and undone; smoothing, the log axis, minutes and the table do what they say."""
    page = watched.opened.page
    whole = x_range(page, "loss")
    chart = page.locator("#chart-accuracy")
    chart.scroll_into_view_if_needed()
    box = chart.locator(".nsewdrag").bounding_box()
    middle = box["y"] + box["height"] / 2
    page.mouse.move(box["x"] + box["width"] * 0.25, middle)
    page.mouse.down()
    page.mouse.move(box["x"] + box["width"] * 0.5, middle, steps=5)
    page.mouse.up()
    wait_until(page, "document.getElementById('from').value !== ''")
    assert whole[0] < x_range(page, "loss")[0] < x_range(page, "loss")[1] < whole[1]
    page.locator("#chart-grad_norm").scroll_into_view_if_needed()
    wait_until(
        page, "document.getElementById('chart-grad_norm').layout.xaxis.range[0] === " + str(x_range(page, "loss")[0])
    )
    page.get_by_role("button", name="Whole run").click()
    assert x_range(page, "loss") == whole
    page.get_by_role("button", name="Log scale").click()
    assert page.evaluate("document.getElementById('chart-loss').layout.yaxis.type") == "log"
    page.get_by_label("Smoothing").fill("0.9")
    drawn = {trace["name"]: trace["y"] for trace in page.evaluate(TRACES)}
    assert drawn["first, smoothed"][-1] > 1.2 * drawn["first"][-1]  # it lags behind a falling curve
    page.get_by_label("Over").select_option("time")
    assert (
        page.evaluate(f"{TRACES}.find((trace) => trace.name === 'first').x.at(-1)") == 0.5
    )  # 60 steps of half a second
    page.locator("summary", has_text="Loss as a table").click()
    page.get_by_role("rowheader", name="60", exact=True).wait_for()
    last = page.locator("[data-curve=loss] tbody tr").last.locator("td").all_inner_texts()
    assert last == [f"{drawn['first'][-1]:.3f}", f"{watched.first.loss(60) + 0.1:.3f}", "-", "-"]
    assert watched.opened.complaints == []


def test_pause_and_no_answer(watched: Watched) -> None:
    """While paused nothing is asked for; then the page catches up; a server that is gone is told, until it is back."""
    page, second = watched.opened.page, watched.second
    page.get_by_role("button", name="Pause").click()
    assert text(page, "#connection") == "paused"
    page.wait_for_timeout(500)
    asked, before = len(watched.opened.requests), second.step
    second.train(5)
    page.wait_for_timeout(1200)
    assert len(watched.opened.requests) == asked
    assert f"step {before} " in text(page, "h1")
    page.get_by_role("button", name="Pause").click()
    wait_until(page, f"document.querySelector('h1').textContent.includes('step {second.step} ')")
    page.route("**/api/runs*", lambda route: route.abort())
    wait_until(page, "document.getElementById('connection').textContent.includes('does not answer')")
    page.unroute("**/api/runs*")
    wait_until(page, LIVE)
    watched.opened.complaints.clear()  # the browser says itself that requests failed


@pytest.mark.parametrize(("width", "scheme"), [(390, "dark")])
def test_fits_and_is_structured(watched: Watched, browser: Any, width: int, scheme: str) -> None:
    """The page fits the width; landmarks, one top heading, a sentence for each chart, a name for each control."""
    opened = open_page(browser, watched.served.url, width=width, scheme=scheme)
    page = opened.page
    page.locator("#chart-loss.js-plotly-plot").wait_for()
    page.locator("#chart-kl_general").scroll_into_view_if_needed()
    page.locator("#chart-kl_general.js-plotly-plot").wait_for()
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    assert page.get_by_role("main").count() == page.get_by_role("navigation").count() == page.locator("h1").count() == 1
    for link in page.locator("nav a").all():
        assert page.locator(link.get_attribute("href")).count() == 1
    for plot in page.locator(".js-plotly-plot").all():
        assert plot.bounding_box()["width"] <= width
        assert "first" in plot.get_attribute("aria-label")
    named = "(all) => all.map((one) => one.ariaLabel || one.labels?.[0]?.textContent || one.textContent)"
    assert all(name.strip() for name in page.locator("button, input, select").evaluate_all(named))
    assert opened.complaints == []
    page.close()


def test_hostile_data_do_nothing(browser: Any, tmp_path: Path) -> None:
    """Hostile texts in every file and in the run's own name are shown as text: nothing runs, nothing loads."""
    run = GrowingRun(tmp_path / "plain")
    run.validate()
    run.train(5)
    for message in HOSTILE:
        run.alarm(message, name=message, rows=[message])
    run.run.event(HOSTILE[0], HOSTILE[1])
    run.answer(*HOSTILE, answer=HOSTILE[0])
    name = "<b>x<img src=x onerror=window.harmed=9>"
    run.path.rename(tmp_path / name)
    other = GrowingRun(tmp_path / "other")
    (other.path / "config.yaml").write_text(
        "'<script>window.harmed=8</script>': '<img src=x onerror=window.harmed=7>'\n"
    )
    with serving(tmp_path) as served:
        opened = open_page(browser, served.url)
        page = opened.page
        wait_until(page, f"{LIVE} && document.getElementById('setting-list').textContent.includes('harmed=7')")
        page.get_by_role("button", name="onerror=window.harmed=9").click()
        wait_until(page, "document.getElementById('alarm-list').textContent.includes('window.harmed = 5')")
        for shown in HOSTILE[:3]:
            assert shown in page.locator("#alarm-list").inner_text()
        wait_until(page, "document.getElementById('answer-prompt').textContent !== ''")
        for _ in HOSTILE[1:]:
            page.get_by_role("button", name="Next").click()
        chart = page.locator("#chart-loss")
        chart.scroll_into_view_if_needed()
        chart.hover()
        chart.locator(".hoverlayer .legend").wait_for()
        assert name in chart.locator(".hoverlayer .legend").text_content()
        assert page.evaluate("window.harmed") is None
        assert page.locator("img, iframe, base, object, embed, form").count() == 0
        assert all(url.startswith(f"http://127.0.0.1:{served.port}/") for url in opened.requests)
        assert opened.complaints == []
        page.close()
