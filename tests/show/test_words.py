"""Figures in words, as people read them."""

from __future__ import annotations

import pytest

from attune.show.words import count, duration, figure, metric_difference, metric_value, percent, size, visible


def test_numbers() -> None:
    """Numbers are written as people read them; what is no number is a dash."""
    assert count(1234567) == "1,234,567"
    assert figure(0.3884) == "0.388"
    assert figure(130.451) == "130.5"
    assert figure(1.2e14) == "1.2e+14"
    assert figure(-4.5) == "\u22124.500"
    assert figure("nan") == "nan"
    assert percent(0.985) == "98.5 %"
    assert [percent(share) for share in (0, 0.0001, 0.0005)] == ["0.0 %", "< 0.1 %", "0.1 %"]
    assert duration(12.34) == "12.3 s"
    assert duration(110) == "1 min 50 s"
    assert duration(7384) == "2 h 03 min"
    assert size(512345) == "512.3 kB"
    assert size(12) == "12 bytes"
    assert [count(None), percent(None), duration(None), size(None)] == ["-"] * 4


def test_metrics_have_their_units() -> None:
    """Losses are in nats, everything else is a share; a difference has its sign."""
    assert metric_value("loss", 1.5) == "1.500"
    assert metric_value("field_accuracy", 0.932) == "93.2 %"
    assert metric_difference("loss", -0.25) == "\u22120.250"
    assert metric_difference("json_valid", 0.98) == "+98.0"


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("a\u202eb", "a[U+202E]b"),
        ("\u0000\u001b[31m", "[U+0000][U+001B][31m"),
        ("zero\u200bwidth\ufeff", "zero[U+200B]width[U+FEFF]"),
        ("tag\U000e0041", "tag[U+E0041]"),
        ("line\r\n\tend", "line[U+000D]\n\tend"),
        ("\u0645\u06cc\u200c\u062e\u0648\u0627\u0647\u0645", "\u0645\u06cc\u200c\u062e\u0648\u0627\u0647\u0645"),
    ],
)
def test_hidden_characters_are_written_out(text: str, shown: str) -> None:
    """Characters that hide or reorder text are written out; letters of any script and their joiners stay."""
    assert visible(text) == shown
