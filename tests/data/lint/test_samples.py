"""Data of the kind that examples are made of is told apart from real people's."""

from __future__ import annotations

import pytest

from attune.data.lint.rows import RowOptions, lint_row
from attune.data.lint.view import view
from attune.types import Example, Message, Place


def names(answer: str) -> list[str]:
    """Return the rules that an answer breaks."""
    messages = (Message("user", "How do I reach you?"), Message("assistant", answer))
    return [name for name, _ in lint_row(view(0, Example(Place("f", 1, 0), messages)), RowOptions())]


@pytest.mark.parametrize(
    "made_up",
    [
        "Write to jane.doe@example.com today.",
        "Call (212) 555-0147 after ten.",
        "Pay with 4111 1111 1111 1111 as a test.",
        "The account is DE89 3704 0044 0532 0130 00 here.",
        "Her number is 123-45-6789 on the form.",
        "Use AKIAIOSFODNN7EXAMPLE in this guide.",
    ],
)
def test_made_up_data_is_only_told(made_up: str) -> None:
    """Addresses, numbers and keys that nobody has are sample-data, not personal data and no secret."""
    assert names(made_up) == ["sample-data"]


def test_real_data_beside_made_up_data_counts() -> None:
    """One real address makes the row personal, whatever else is in it; a sum of digits is nothing."""
    assert names("Write to info@flix.com or to kate.l.winters@gmail.com today.") == ["personal-data"]
    assert names("The sum of 4111111111111112 and 12 is large.") == []
