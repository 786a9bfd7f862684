"""What every page is made of: one HTML file that opens offline, asks nobody, and runs no script that is not ours."""

from __future__ import annotations

import base64
import hashlib
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup, escape
from plotly.offline import get_plotlyjs

from attune.show import words
from attune.show.charts import Chart

MAX_TEXT = 4000  # characters of one text, the rest is counted
MAX_LINES = 200  # of one table
MAX_ROWS_BYTES = 900_000  # of the page, for the mask viewer; Plotly takes 4.8 of the 8 MB that a page may have

# The map styles that Plotly puts on every page unless an element of this name is there; an empty one keeps them out.
_MAP_STYLES = re.compile(r'getElementById\("([0-9a-f]{64})"\)')
_FLAG = re.compile(r"((?<!\S)--[a-z_]+(?:\.[a-z_]+)*)")
_TEMPLATES = Path(__file__).parent / "templates"


@dataclass(frozen=True, slots=True)
class Shown:
    """The items that fit on the page, out of how many."""

    items: Sequence[Any]
    total: int


def render_page(template: str, charts: Iterable[Chart], **values: Any) -> str:
    """Return a page as HTML: the template filled with `values`, with what its charts draw.

    Data stand in it as escaped text only, charts as JSON of numbers; the browser runs no script but those whose hash
    the page's policy names, and asks for nothing.
    """
    css, script, plotly = part("report.css"), part("report.js"), plotly_source()
    return fill(
        template,
        **values,
        policy=_policy([plotly, script], css),
        css=css,
        script=script,
        plotly=plotly,
        charts=_json_for_html({chart.id: {**chart.plot, "linked": chart.is_linked} for chart in charts}),
    )


def fill(template: str, **values: Any) -> str:
    """Return a template filled with `values` as escaped text, with the elements that Plotly looks for on a page."""
    styles = sorted(set(_MAP_STYLES.findall(plotly_source())))
    return _environment().get_template(template).render(**values, plotly_styles=styles)


def part(name: str) -> str:
    """Return a style or script of ours."""
    return (_TEMPLATES / name).read_text("utf-8")


def cap(items: Sequence[Any]) -> Shown:
    """Return the items that a table has lines for."""
    return Shown(items[:MAX_LINES], len(items))


def fit(items: Iterable[Any], total: int, budget: int) -> Shown:
    """Return the items from the first on whose text, as escaped on the page, stays within `budget` bytes."""
    kept: list[Any] = []
    for item in items:
        budget -= _escaped_size(item)
        if budget < 0 and kept:
            break
        kept.append(item)
    return Shown(kept, total)


def preview_row(row: Mapping[str, Any]) -> dict[str, Any]:
    """Return a mask-coloured row whose pieces together stay within MAX_TEXT characters."""
    left, pieces = MAX_TEXT, []
    for piece in row.get("pieces") or ():
        text, learned = str(piece[0]), bool(piece[1])
        pieces.append((text[:left], learned))
        left -= len(text)
        if left <= 0:
            break
    whole = sum(len(str(piece[0])) for piece in row.get("pieces") or ())
    known = {
        "place": words.place(row),
        "state": row.get("state", "used"),
        "tokens": row.get("tokens"),
        "learned": row.get("learned"),
    }
    return {**known, "pieces": pieces, "left_out": max(0, whole - MAX_TEXT)}


def clip(value: Any, limit: int = MAX_TEXT) -> str:
    """Return a text's beginning, and how much was left out."""
    text = str(value)
    return text if len(text) <= limit else f"{text[:limit]} [... {len(text) - limit:,} more characters]"


def flags(text: str) -> list[tuple[str, bool]]:
    """Return a text in pieces, each with whether it is a flag, such as --train.clip."""
    return [(piece, at % 2 == 1) for at, piece in enumerate(_FLAG.split(str(text))) if piece]


def tie(text: str) -> str:
    """Return the text with numbers tied to their percent signs, so that no line breaks between them."""
    return re.sub(r"(?<=[0-9]) (?=%)", "\u00a0", text)


@cache
def _environment() -> Environment:
    """Return the templates' world: every value is escaped, and hidden characters in it are written out."""
    environment = Environment(
        loader=FileSystemLoader(_TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        finalize=lambda value: value if isinstance(value, Markup) else words.visible(str(value)),
    )
    shown = ("place", "count", "figure", "duration", "size", "metric_name")
    environment.filters.update(
        {name: getattr(words, name) for name in shown},
        clip=clip,
        flags=flags,
        tie=tie,
        percent=lambda value: tie(words.percent(value)),
    )
    return environment


@cache
def plotly_source() -> str:
    """Return Plotly's JavaScript; refuses one that would end its own script element."""
    source = str(get_plotlyjs())
    for end in ("</script", "<!--"):
        assert end not in source.lower(), "Plotly's JavaScript cannot stand inside HTML as it is"
    return source


def _policy(scripts: Iterable[str], css: str) -> str:
    """Return the content security policy: nothing but these scripts and this style, and no request at all.

    Plotly puts one empty style element on the page and fills it through the DOM; the hash of nothing allows that.
    """
    scripts_allowed = " ".join(_hash(script) for script in scripts)
    styles_allowed = f"{_hash(css)} {_hash('')}"
    nothing_else = "img-src data:; base-uri 'none'; form-action 'none'"
    return f"default-src 'none'; script-src {scripts_allowed}; style-src {styles_allowed}; {nothing_else}"


def _hash(text: str) -> str:
    """Return how a policy names the text of a script or style."""
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode('utf-8')).digest()).decode('ascii')}'"


def _json_for_html(value: Any) -> str:
    """Return JSON that no HTML parser reads as markup."""
    text = json.dumps(value, ensure_ascii=True, allow_nan=False, separators=(",", ":"))
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def _escaped_size(value: Any) -> int:
    """Return about how many bytes a value takes on the page, with what surrounds each of its texts."""
    if isinstance(value, str):
        return len(escape(words.visible(clip(value))).encode("utf-8", errors="replace")) + 40
    if isinstance(value, Mapping):
        return sum(_escaped_size(item) for item in value.values())
    if isinstance(value, (list, tuple)):
        return sum(_escaped_size(item) for item in value)
    if hasattr(value, "__slots__"):
        return sum(_escaped_size(getattr(value, name)) for name in value.__slots__)
    return 8
