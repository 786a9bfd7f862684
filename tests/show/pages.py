"""Pages as tests look at them: parsed, and opened in a real browser."""

from __future__ import annotations

import shutil
import time
from dataclasses import dataclass, field
from html.parser import HTMLParser
from itertools import pairwise
from pathlib import Path
from typing import Any

MAX_BYTES = 8_000_000  # of a page, with Plotly inside
CHROMIUM = next(
    (path for name in ("chromium", "chromium-browser", "google-chrome") if (path := shutil.which(name))), None
)


class Page(HTMLParser):
    """A parsed page: its elements with their attributes, its text outside scripts and styles, and those."""

    def __init__(self, source: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.raw: list[tuple[str, str]] = []
        self._inside = ""
        self.feed(source)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Note an element."""
        self.elements.append((tag, dict(attrs)))
        if tag in {"script", "style"}:
            self._inside = tag
            self.raw.append((tag, ""))

    def handle_endtag(self, tag: str) -> None:
        """Leave a script or style."""
        if tag == self._inside:
            self._inside = ""

    def handle_data(self, data: str) -> None:
        """Note text."""
        if self._inside:
            self.raw[-1] = (self._inside, self.raw[-1][1] + data)
        else:
            self.text += data


@dataclass
class Opened:
    """A page with everything it asked for and complained about."""

    page: Any
    requests: list[str] = field(default_factory=list)
    complaints: list[str] = field(default_factory=list)


def open_page(browser: Any, report: Path | str, *, width: int = 1280, scheme: str = "light") -> Opened:
    """Open a report, or the page at an address, and wait until it is loaded with its charts."""
    page = browser.new_page(viewport={"width": width, "height": 900}, color_scheme=scheme)
    opened = Opened(page)
    page.on("request", lambda request: opened.requests.append(request.url))
    page.on("console", lambda message: opened.complaints.append(message.text))
    page.on("pageerror", lambda error: opened.complaints.append(str(error)))
    page.on("dialog", lambda dialog: opened.complaints.append(f"dialog: {dialog.message}"))
    page.goto(report if isinstance(report, str) else report.as_uri())
    return opened


def wait_until(page: Any, expression: str) -> None:
    """Wait until an expression is true on the page, whose policy forbids the browser to poll it by itself."""
    deadline = time.monotonic() + 10
    while not page.evaluate(expression):
        assert time.monotonic() < deadline, expression
        page.wait_for_timeout(20)


def assert_structured(page: Any) -> None:
    """One main part, one top heading, no skipped level, a name for each chart, a target for each link."""
    assert page.get_by_role("main").count() == page.get_by_role("navigation").count() == 1
    levels = page.evaluate("[...document.querySelectorAll('h1,h2,h3,h4')].map((one) => Number(one.tagName[1]))")
    assert levels[0] == 1
    assert levels.count(1) == 1
    assert all(after - before <= 1 for before, after in pairwise(levels))
    for plot in page.locator("[data-chart]").all():
        assert len(plot.get_attribute("aria-label")) > 20
    for link in page.locator("nav a").all():
        assert page.locator(link.get_attribute("href")).count() == 1


def see(page: Any, chart: str) -> Any:
    """Scroll to a chart, which is drawn when it comes near, and return it."""
    plot = page.locator(f"#chart-{chart}")
    plot.scroll_into_view_if_needed()
    plot.locator(".main-svg").first.wait_for()
    return plot
