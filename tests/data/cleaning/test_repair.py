"""Mending a row's bytes: what is broken is mended, and nothing else in the row changes."""

from __future__ import annotations

import json
import sys

import pytest

from attune.data.cleaning.repair import repair_csv, repair_json
from attune.data.lint.characters import mend


def test_only_the_broken_literal_is_written_anew() -> None:
    """Spacing, order, numbers and the escapes of other texts stay byte for byte."""
    row = b'{ "n" : 1.50e3,"prompt":"caf\\u00e9 \\/ x" , "completion": "it\\u00e2\\u20ac\\u2122s" }\n'
    assert repair_json(row, mend) == row.replace(b"it\\u00e2\\u20ac\\u2122s", b"it\\u2019s")


def test_a_text_written_without_escapes_is_mended_without_them() -> None:
    """Mojibake that stands in the line as UTF-8 is mended as UTF-8."""
    row = '{"text": "na\u00c3\u00afve"}'.encode()
    assert repair_json(row, mend) == '{"text": "na\u00efve"}'.encode()


def test_a_sound_row_is_none() -> None:
    """Where there is nothing to mend there is no new row, whatever signs and escapes it holds."""
    for row in ('{"a": "\\"q\\": \\u2019 \U0001f600"}\n', '{"a": "", "b": [1, NaN]}', '{"lost": "\ufffd"}'):
        assert repair_json(row.encode(), mend) is None


def test_keys_and_structure_are_never_touched() -> None:
    """A key that holds broken characters stays, also before spaces and a colon."""
    row = b'{"a\\u0000b" : "x\\u0000y", "c": ["\\u0007", {"d\\u0000": 1}]}'
    assert repair_json(row, mend) == b'{"a\\u0000b" : "xy", "c": ["", {"d\\u0000": 1}]}'


def test_bytes_that_json_forbids_are_taken_out_or_escaped() -> None:
    """A byte order mark or NUL before the row goes; a tab within a text is escaped, a NUL there goes."""
    assert repair_json(b'\xef\xbb\xbf{"a": "b"}\n', mend) == b'{"a": "b"}\n'
    assert repair_json(b'\0\0{"a": "b\tc\0"}\n', mend) == b'{"a": "b\\tc"}\n'


@pytest.mark.parametrize(
    "row",
    [b'{"a": "b\0"', b'{"a": "caf\xe9\0"}', b'{"a": "\\ud83d\\u0000"}', b'["\\u0000"]', b"\0\0\0\n", b'{"a" "\0"}'],
)
def test_what_is_no_row_afterwards_is_left(row: bytes) -> None:
    """Bytes that are no JSON object with whole characters even when mended stay as they are."""
    assert repair_json(row, mend) is None


def test_text_encoded_wrongly_twice_is_mended_at_once() -> None:
    """Mending a mended row changes nothing."""
    twice = "caf\u00e9".encode().decode("cp1252").encode().decode("cp1252")
    mended = repair_json(json.dumps({"text": twice}).encode(), mend)
    assert mended is not None
    assert json.loads(mended) == {"text": "caf\u00e9"}
    assert repair_json(mended, mend) is None


@pytest.mark.parametrize("end", ["\n", "\r\n", ""])
def test_a_record_of_csv_keeps_its_cells_and_line_end(end: str) -> None:
    """Commas, quotes and line breaks within cells survive, and so does the end of the record."""
    record = f'"say ""it\u00e2\u20ac\u2122s"", please","two\nlines",plain{end}'
    mended = repair_csv(record.encode(), mend, delimiter=",")
    assert mended == f'"say ""it\u2019s"", please","two\nlines",plain{end}'.encode()
    assert repair_csv(mended, mend, delimiter=",") is None


@pytest.mark.skipif(sys.version_info < (3, 11), reason="the csv module of Python 3.10 cannot read NUL")
def test_a_nul_in_a_cell_goes() -> None:
    """Tab-separated cells are mended too."""
    assert repair_csv(b"a\0b\tc\n", mend, delimiter="\t") == b"ab\tc\n"
