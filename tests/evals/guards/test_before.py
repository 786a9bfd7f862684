"""Guards before training, at both sides of their thresholds."""

from __future__ import annotations

import math
from typing import Any

import pytest

from attune.evals.guards.before import Start, before_training
from attune.evals.guards.thresholds import DEFAULT
from attune.types import Alarm
from tests.evals.guards.histories import facts, sound


def alarms_of(**changes: Any) -> dict[str, Alarm]:
    """The alarms of a sound start but for the changes."""
    values: dict[str, Any] = {
        "template": "chatml",
        "template_loss": {"chatml": 2.0, "tokenizer": 2.0, "plain": 2.0},
        "base_loss": 2.0,
        "stop_share": 1.0,
        "lost_share": 0.0,
        "lost_stops": 0,
        "mask_expected": 100,
        "mask_found": 100,
        "step_tokens": [100, 120, 80, 100, 90],
    }
    return sound(before_training(Start(**{**values, **changes}), facts()))


def test_a_sound_start_is_silent() -> None:
    """Nothing wrong, nothing said; what was not measured is not judged."""
    assert alarms_of() == {}
    assert alarms_of(template_loss={}, base_loss=None, stop_share=None, step_tokens=[]) == {}


RATIO, PLAIN = 2 * DEFAULT.template_ratio, 2 * DEFAULT.template_plain_ratio  # the loss at them over one of 2
LITTLE = 0.05 + DEFAULT.template_difference


@pytest.mark.parametrize(
    ("losses", "severity", "flag"),
    [
        ({"chatml": RATIO - 0.01, "tokenizer": 2.0}, None, ""),
        ({"chatml": RATIO + 0.01, "tokenizer": 2.0}, "error", "--data.template auto"),
        ({"chatml": PLAIN - 0.01, "plain": 2.0}, None, ""),
        ({"chatml": PLAIN + 0.01, "plain": 2.0}, "warning", "--data.template plain"),
        ({"chatml": PLAIN + 0.01, "tokenizer": PLAIN / RATIO * 2, "plain": 2.0}, "error", "--data.template auto"),
        ({"chatml": LITTLE - 0.01, "tokenizer": 0.05}, None, ""),
        ({"chatml": LITTLE + 0.01, "tokenizer": 0.05}, "error", "--data.template auto"),
    ],
)
def test_wrong_template(losses: dict[str, float], severity: str | None, flag: str) -> None:
    """The tokenizer's own template that suits much better is an error, no markup that does so a warning."""
    found = alarms_of(template_loss=losses)
    assert (found["wrong-template"].severity if found else None) == severity
    if found:
        assert flag in found["wrong-template"].fix


def test_a_template_is_not_compared_with_itself() -> None:
    """Plain chosen, plain measured: nothing to say."""
    assert alarms_of(template="plain", template_loss={"plain": 3.0}) == {}
    assert alarms_of(template="tokenizer", template_loss={"tokenizer": 2.9, "plain": 2.0}) == {}


@pytest.mark.parametrize(("more", "raises"), [(-0.01, False), (0.01, True)])
def test_strange_text(more: float, raises: bool) -> None:
    """A base loss near that of guessing is an error."""
    assert ("strange-text" in alarms_of(base_loss=(DEFAULT.start_share + more) * math.log(8192))) == raises


@pytest.mark.parametrize(
    ("share", "severity"),
    [
        (DEFAULT.stop_rows_share, None),
        (DEFAULT.stop_rows_share - 0.001, "warning"),
        (DEFAULT.stop_rows_error_share, "warning"),
        (DEFAULT.stop_rows_error_share - 0.001, "error"),
        (0.0, "error"),
    ],
)
def test_stop_not_taught(share: float, severity: str | None) -> None:
    """Rows that do not end with a learned stop token are a warning, many of them an error."""
    found = alarms_of(stop_share=share)
    assert (found["stop-not-taught"].severity if found else None) == severity


@pytest.mark.parametrize(("expected", "found", "raises"), [(100, 100, False), (100, 99, True), (0, 0, True)])
def test_mask(expected: int, found: int, raises: bool) -> None:
    """One token that is not learned as it should be is an error, and so is a step that learns nothing."""
    assert ("mask" in alarms_of(mask_expected=expected, mask_found=found)) == raises


@pytest.mark.parametrize(
    ("share", "severity"),
    [
        (DEFAULT.lost_share, None),
        (DEFAULT.lost_share + 0.001, "warning"),
        (DEFAULT.lost_error_share, "warning"),
        (DEFAULT.lost_error_share + 0.01, "error"),
    ],
)
def test_truncation(share: float, severity: str | None) -> None:
    """Half a percent of lost learned tokens is a warning, five are an error."""
    found = alarms_of(lost_share=share, lost_stops=1)
    assert (found["truncation"].severity if found else None) == severity


WIDTH = int(1000 * DEFAULT.uneven_variation)


@pytest.mark.parametrize(
    ("tokens", "raises"),
    [
        ([1000 - WIDTH, 1000 + WIDTH] * DEFAULT.uneven_steps, False),
        ([999 - WIDTH, 1001 + WIDTH] * DEFAULT.uneven_steps, True),
        ([1, 200, 1, *[200] * DEFAULT.uneven_steps][: DEFAULT.uneven_steps - 1], False),
        ([0] * DEFAULT.uneven_steps, False),
    ],
)
def test_uneven_batches(tokens: list[int], raises: bool) -> None:
    """A deviation of more than half the mean is told, if there are steps enough."""
    assert ("uneven-batches" in alarms_of(step_tokens=tokens)) == raises
