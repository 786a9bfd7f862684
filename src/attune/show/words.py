"""Numbers and names in words: how pages and lines say a figure."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import PurePath
from typing import Any

from attune.show.facts import number

MINUS = "\u2212"
LOSSES = ("loss", "general_loss")  # in nats per token, lower is better; every other metric is a share, higher is better

METRICS = {
    "exact_match": ("Exact match", "the answer equals the reference"),
    "label_accuracy": ("Label accuracy", "the right label"),
    "numeric_match": ("Numeric match", "the final number is right"),
    "json_valid": ("Valid JSON", "the answer parses as JSON"),
    "schema_valid": ("Schema-conforming", "the JSON obeys the schema"),
    "field_accuracy": ("Fields right", "share of JSON fields that equal the reference"),
    "rouge_l": ("ROUGE-L", "longest common word sequence with the reference"),
    "stop_rate": ("Stops by itself", "the answer ends before the token limit"),
    "loss": ("Loss", "nats per learned token on these rows; lower is better"),
    "general_loss": ("General loss", "nats per token on general text; lower is better"),
}
SEVERITIES = ("error", "warning", "info")  # of findings and alarms, the worst first
SYSTEMS = {"base": "Base", "prompted": "Base, prompted", "tuned": "Tuned"}

_ALARM, _GUARD = re.compile("[a-z]{2,20}(-[a-z]{2,20}){0,4}"), re.compile("G[0-9]{1,2}")
_KEPT = {"\n", "\t", "\u200c", "\u200d"}  # line ends, and the joiners that Persian, Hindi and emoji need
_HIDDEN = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\xad\u061c\u180e\u200b-\u200f\u2028-\u202e\u2060-\u206f\ufeff\ufff9-\ufffb\U000e0000-\U000e007f]"
)


def visible(text: str) -> str:
    """Return `text` with characters that hide, reorder or control written out, such as [U+202E]."""
    return _HIDDEN.sub(lambda found: found[0] if found[0] in _KEPT else f"[U+{ord(found[0]):04X}]", text)


def count(value: Any) -> str:
    """Return a whole number with thousands separated; a dash for no number."""
    known = number(value)
    return "-" if known is None else f"{round(known):,}"


def rows_of(number: int, kind: str = "") -> str:
    """Return a number of rows in words, such as 1 held-out row."""
    return f"{count(number)} {kind}row{'s' * (number != 1)}"


def figure(value: Any, digits: int = 3) -> str:
    """Return a number as a reader wants it: fixed digits near 1, powers of ten far from it."""
    known = number(value)
    if known is None:
        return "-" if value is None else str(value)
    if known and not 1e-3 <= abs(known) < 1e5:
        return f"{known:.3g}".replace("-", MINUS, 1) if known < 0 else f"{known:.3g}"
    return f"{known:,.{digits if abs(known) < 100 else 1}f}".replace("-", MINUS)


def percent(value: Any) -> str:
    """Return a share, 0 to 1, in percent; a tiny one is not said to be nothing."""
    known = number(value)
    if known is not None and 0 < known < 0.0005:
        return "< 0.1 %"
    return "-" if known is None else f"{100 * known:.1f} %".replace("-", MINUS)


def duration(value: Any) -> str:
    """Return seconds in words, such as 2 min 13 s."""
    known = number(value)
    if known is None:
        return "-"
    if known < 100:
        return f"{known:.1f} s"
    minutes, rest = divmod(round(known), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02d} min" if hours else f"{minutes} min {rest:02d} s"


def size(value: Any) -> str:
    """Return a number of bytes in words."""
    known = number(value)
    if known is None:
        return "-"
    for unit in ("bytes", "kB", "MB", "GB"):
        if known < 1000 or unit == "GB":
            return f"{known:,.0f} bytes" if unit == "bytes" else f"{known:.1f} {unit}"
        known /= 1000
    raise AssertionError("unreachable: GB ends the loop")


def place(record: Mapping[str, Any]) -> str:
    """Return where a row stands, by the file's own name; its folder is in the manifest."""
    return f"{PurePath(str(record.get('file', ''))).name}:{record.get('line', '')}"


def metric_value(metric: str, value: Any) -> str:
    """Return the value of an evaluation metric: losses in nats, the rest in percent."""
    return figure(value) if metric in LOSSES else percent(value)


def metric_difference(metric: str, value: Any) -> str:
    """Return a difference with its sign: nats for losses, percentage points for the rest."""
    known = number(value)
    if known is None:
        return "-"
    sign = "+" if known >= 0 else MINUS
    return f"{sign}{abs(known):.3f}" if metric in LOSSES else f"{sign}{100 * abs(known):.1f}"


def alarm_name(alarm: Mapping[str, Any]) -> str:
    """Return what an alarm is called, with its guard's number; a plain word where that is no name of ours."""
    name, identity = str(alarm.get("name")), str(alarm.get("id"))
    is_ours = _ALARM.fullmatch(name) and _GUARD.fullmatch(identity)
    return f"{name.replace('-', ' ')} ({identity})" if is_ours else "alarm"


def metric_name(metric: str) -> str:
    """Return what a metric is called on the page."""
    return METRICS[metric][0] if metric in METRICS else metric.replace("_", " ")
