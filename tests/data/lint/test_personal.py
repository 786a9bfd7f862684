"""Personal data in rows."""

from __future__ import annotations

import pytest

from attune.data.lint.personal import find_personal

REAL = (
    ("Mail me at lena.hofmann@gmx.de", "e-mail"),
    ("write to jane.miller82@yahoo.com.", "e-mail"),
    ("mehmet.oz@firma.com.tr", "e-mail"),
    ("call (415) 867-2391", "telephone"),
    ("call 415-867-2391 now", "telephone"),
    ("Phone: 212.867.5309", "telephone"),
    ("+49 151 20417836", "telephone"),
    ("(+33) 6 12 88 40 71", "telephone"),
    ("My number is +14158672391.", "telephone"),
    ("paid with 4539 1488 0343 6467", "card"),
    ("card 4539148803436467.", "card"),
    ("IBAN DE44 5001 0517 5407 3249 31", "IBAN"),
    ("GB94BARC10201530093459", "IBAN"),
    ("ssn: 536-22-8145.", "social security"),
)
NOBODY = (
    "john.doe@example.com",
    "support@amazon.com",
    "user@domain.com",
    "git@github.com:foo/bar.git",
    "@user_name and a@b",
    "555-123-4567 or (555) 123-4567 or +1 415 555 2391",
    "call 1-800-273-8255",
    "4111 1111 1111 1111 and 4242424242424242",
    "card 4539 1488 0343 6468",
    "DE89 3704 0044 0532 0130 00 and GB82 WEST 1234 5698 7654 32",
    "DE45 5001 0517 5407 3249 31",
    "order 1234567890123456, id 9876543210",
    "ISBN 978-3-16-148410-0 and 978-0-306-40615-7",
    "2023-01-15 12:30, 2015-2016-2017",
    "3.14159265358979 or 1,234,567,890 or $4,539,148,803",
    "123-45-6789",
    "= 20*30000 = 600000 and 1453 1492 1776 1945",
    "timestamp 1672531199, tracking 1Z999AA10123456784",
    "https://docs.example.org/123456789012/4539148803436467",
    "5 10 15 20 25 30 35 40",
)


@pytest.mark.parametrize(("text", "kind"), REAL)
def test_personal_data_is_found_and_masked(text: str, kind: str) -> None:
    """Addresses, telephone numbers, cards (Luhn), accounts (modulo 97) and social security numbers."""
    found, _ = find_personal(text, text.encode())
    assert found is not None
    assert kind in found
    assert text.rsplit(maxsplit=1)[-1] not in found


@pytest.mark.parametrize("text", NOBODY)
def test_made_up_data_and_other_numbers_are_let_be(text: str) -> None:
    """Addresses for examples and of offices, 555 numbers, test cards, wrong check digits, dates and orders."""
    assert find_personal(text, text.encode())[0] is None
