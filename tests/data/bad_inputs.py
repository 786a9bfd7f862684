"""The bad inputs that users bring, made anew in a folder: for each the fault it must raise, and words of its message.

Self-contained: other tests run the same inputs through the command line and from Python.
"""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

from attune.errors import DataError, TemplateError, UserError

ROWS = 20
NUMBERS = tuple(range(1, 33))
VARIANTS = {24: 2, 30: 3}  # inputs that come in several kinds; all others in one


@dataclass(frozen=True)
class BadInput:
    """A bad input: where it is, what to set with it, and what must be said about it.

    `expect_error` None: the input is accepted, and the words stand in a finding or in how the file was read.
    `dropped`: how many rows the ledger lists as dropped once bad rows may be skipped (None: the file is of no use).
    """

    path: Path
    tokenizer_folder: Path | None
    overrides: Mapping[str, Any]
    expect_error: type[UserError] | None
    expect_text: tuple[str, ...]
    dropped: int | None = None


@dataclass(frozen=True)
class Fault:
    """How to spoil a file, and what must be said about it; the same fields as in BadInput."""

    expect_error: type[UserError] | None
    expect_text: tuple[str, ...]
    write: Callable[[Path], None] | None = None
    rows: Mapping[int, Any] = field(default_factory=dict)  # line (from 1) -> what stands there instead
    dropped: int | None = None
    overrides: Mapping[str, Any] = field(default_factory=dict)
    name: str = "train.jsonl"
    controls: tuple[str, ...] | None = None  # a tokenizer of its own, with these control tokens
    end: str | None = "</s>"


def good_row(number: int) -> dict[str, Any]:
    """Return a row as it should be."""
    answer = f"{number} and 4 make {number + 4}."
    return {"messages": [turn("user", f"What is {number} + 4?"), turn("assistant", answer)]}


def turn(role: Any, content: Any) -> dict[str, Any]:
    """Return one message."""
    return {"role": role, "content": content}


def write_bad_input(number: int, folder: Path, variant: int = 0) -> BadInput:
    """Write bad input `number` (1 to 32) into a folder and return what is to be said about it."""
    fault = FAULTS[number][variant]
    path = folder / fault.name
    if fault.write is not None:
        fault.write(path)
    else:
        lines = [fault.rows.get(line, good_row(line)) for line in range(1, ROWS + 1)]
        path.write_bytes(b"".join(line if isinstance(line, bytes) else _line(line) for line in lines))
    tokenizer = None
    if fault.controls is not None:
        tokenizer = write_tokenizer(folder / "tokenizer", controls=fault.controls, end=fault.end)
    return BadInput(path, tokenizer, dict(fault.overrides), fault.expect_error, fault.expect_text, fault.dropped)


def write_tokenizer(folder: Path, *, controls: tuple[str, ...] = (), end: str | None = "</s>") -> Path:
    """Write a tokenizer whose tokens are bytes, with an end token and other control tokens, and return its folder."""
    folder.mkdir(parents=True, exist_ok=True)
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE(vocab={letter: number for number, letter in enumerate(letters)}, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    named = [*controls, *([end] if end else [])]
    tokenizer.add_special_tokens([AddedToken(text, special=True, normalized=False) for text in named])
    tokenizer.save(str(folder / "tokenizer.json"))
    (folder / "tokenizer_config.json").write_text(json.dumps({"eos_token": end} if end else {}))
    return folder


def _line(value: Any) -> bytes:
    return json.dumps(value, ensure_ascii=False).encode() + b"\n"


def _with_answer(content: Any) -> dict[str, Any]:
    return {"messages": [turn("user", "What is 4 + 4?"), turn("assistant", content)]}


def _missing(path: Path) -> None:
    for name in ("train.json", "val.jsonl"):
        (path.parent / name).write_bytes(_line(good_row(1)))


def _cut_off(path: Path) -> None:
    text = b"".join(_line(good_row(line)) for line in range(1, ROWS + 1))
    path.write_bytes(text[:-10])


def _with_bom(path: Path) -> None:
    lines = [_line(good_row(line)).replace(b"\n", b"\r\n") for line in range(1, ROWS + 1)]
    path.write_bytes(b"\xef\xbb\xbf" + b"".join(lines))


def _utf16(path: Path) -> None:
    path.write_text(json.dumps(good_row(1)), encoding="utf-16")


def _array(path: Path) -> None:
    path.write_text(json.dumps([good_row(line) for line in range(1, ROWS + 1)], indent=2))


def _sharegpt(path: Path) -> None:
    row = {"conversations": [{"from": "human", "value": "What is 4 + 4?"}, {"from": "gpt", "value": "8."}]}
    path.write_bytes(b"".join(_line({"id": line, **row}) for line in range(1, ROWS + 1)))


def _two_layouts(path: Path) -> None:
    pairs = [{"prompt": f"What is {line} + 4?", "completion": f"{line + 4}."} for line in range(11, ROWS + 1)]
    path.write_bytes(b"".join(map(_line, [*(good_row(line) for line in range(1, 11)), *pairs])))


def _all_long(path: Path) -> None:
    rows = [{"prompt": "word " * (500 + line), "completion": "yes"} for line in range(1, ROWS + 1)]
    path.write_bytes(b"".join(map(_line, rows)))


def _cut_gzip(path: Path) -> None:
    whole = gzip.compress(b"".join(_line(good_row(line)) for line in range(1, ROWS + 1)))
    path.write_bytes(whole[: len(whole) // 2])


def _parquet(path: Path) -> None:
    path.write_bytes(b"PAR1" + bytes(64) + b"PAR1")


def _directory(path: Path) -> None:
    path.mkdir()
    for name in ("README.md", "rows.txt"):
        (path / name).write_bytes(_line(good_row(1)))


def _file(content: bytes) -> Callable[[Path], None]:
    """Return what writes these bytes."""

    def write(path: Path) -> None:
        path.write_bytes(content)

    return write


DEEP = b'{"messages": ' + b"[" * 100_000 + b"]" * 100_000 + b"}\n"
HUGE = b'{"messages": [{"role": "user", "content": "' + b"x" * 30_000_000 + b'"}]}\n'
LATIN = b'{"messages": [{"role": "user", "content": "Un caf' + b"\xe9" + b'?"}]}\n'
TWICE = b'{"messages": [], "messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]}\n'
HALF = b'{"messages": [{"role": "user", "content": "\\ud800"}, {"role": "assistant", "content": "b"}]}\n'
CONTROLS = ("<|im_start|>", "<|im_end|>")
LONG = {"messages": [turn("user", "word " * 500), turn("assistant", "yes")]}
WITH_NAN = b'{"score": NaN, "messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]}\n'
WITH_INFINITY = WITH_NAN.replace(b"NaN", b"1e999")

FAULTS: dict[int, tuple[Fault, ...]] = {
    1: (Fault(DataError, ("train.jsonl not found", "train.json, val.jsonl", "Did you mean", "train.json?"), _missing),),
    2: (Fault(DataError, ("train.jsonl is empty (0 bytes): 0 rows",), _file(b"")),),
    3: (Fault(DataError, ("train.jsonl: 3 lines, all blank: 0 rows",), _file(b"\n  \n\n")),),
    4: (Fault(DataError, ("train.jsonl:20:", "inside a string", "looks cut off", "19 good"), _cut_off, dropped=1),),
    5: (
        Fault(
            DataError,
            ("train.jsonl:8:15", 'expected a value, found "oops', "1 bad row of 20"),
            rows={8: b'{"messages":  oops}\n'},
            dropped=1,
        ),
    ),
    6: (
        Fault(
            DataError,
            ("train.jsonl:5", "byte 0xE9 at column 50 is not UTF-8", "Latin-1", "iconv -f latin1 -t utf-8"),
            rows={5: LATIN},
            dropped=1,
        ),
    ),
    7: (Fault(None, ("JSONL of 20 rows",), _with_bom, dropped=0),),
    8: (Fault(DataError, ("train.jsonl is UTF-16 (starts FF FE)", "iconv"), _utf16),),
    9: (
        Fault(
            None,
            ("1 row (5.0%) holds characters that a wrong encoding left behind (line 4): such as NUL",),
            rows={4: _with_answer("a\0b")},
            dropped=0,
        ),
    ),
    10: (Fault(DataError, ("train.jsonl:4", '"\\ud800" is half a character'), rows={4: HALF}, dropped=1),),
    11: (
        Fault(
            DataError,
            ("train.jsonl:4 is 30.0 MB; rows over 16 MiB are refused", "data.max_row_bytes"),
            rows={4: HUGE},
            dropped=1,
        ),
    ),
    12: (Fault(None, ("one JSON array of 20 rows",), _array, dropped=0),),
    13: (Fault(DataError, ("train.jsonl:4 is a number; each row must be an object",), rows={4: b"42\n"}, dropped=1),),
    14: (
        Fault(
            DataError,
            ("train.jsonl:4 has keys: text; other 19 rows have: messages. One format per file.",),
            rows={4: {"text": "a"}},
            dropped=1,
        ),
    ),
    15: (Fault(DataError, ("train.jsonl:4 messages is empty",), rows={4: {"messages": []}}, dropped=1),),
    16: (
        Fault(
            DataError,
            ("train.jsonl:4 messages must be a list of {role, content}, found text",),
            rows={4: {"messages": "a"}},
            dropped=1,
        ),
    ),
    17: (
        Fault(
            DataError,
            ('train.jsonl:4 turn 2: unknown role "asistant" - did you mean "assistant"?',),
            rows={4: {"messages": [turn("user", "a"), turn("asistant", "b")]}},
            dropped=1,
        ),
    ),
    18: (Fault(None, ("ShareGPT conversations (from/value)", "human is read as user"), _sharegpt, dropped=0),),
    19: (Fault(DataError, ("train.jsonl:4 turn 2 content is null",), rows={4: _with_answer(None)}, dropped=1),),
    20: (
        Fault(
            DataError,
            ('train.jsonl:4 turn 2 content is a number (7); write "7" if meant',),
            rows={4: _with_answer(7)},
            dropped=1,
        ),
    ),
    21: (
        Fault(
            DataError,
            ("train.jsonl:4 has no assistant turn: nothing to learn", "1 bad row of 20"),
            rows={4: {"messages": [turn("user", "a")]}},
            dropped=1,
        ),
    ),
    22: (
        Fault(
            None,
            ("3 rows (lines 4, 9, 14) have an empty reply; dropped",),
            rows=dict.fromkeys((4, 9, 14), _with_answer(" ")),
            dropped=3,
        ),
    ),
    23: (
        Fault(
            DataError,
            ("lines 1-10 are messages, 11-20 are prompt/completion: split the file",),
            _two_layouts,
            dropped=10,
        ),
    ),
    24: (
        Fault(None, ("number that is not JSON", "line 4", "ignored"), rows={4: WITH_NAN}, dropped=0),
        Fault(None, ("number that is not JSON", "line 4", "ignored"), rows={4: WITH_INFINITY}, dropped=0),
    ),
    25: (Fault(DataError, ('train.jsonl:4 "messages" appears twice',), rows={4: TWICE}, dropped=1),),
    26: (
        Fault(
            None,
            ("line 4", "<|im_end|>, <|im_start|>", "encoded as plain text"),
            rows={4: _with_answer("<|im_start|>user\nhi<|im_end|>")},
            dropped=0,
            controls=CONTROLS,
            overrides={"data.template": "chatml"},
        ),
    ),
    27: (
        Fault(
            None,
            ("1 of 20 rows", "over 128 tokens", "line 4", "no answer token within 128"),
            rows={4: LONG},
            dropped=1,
            overrides={"data.max_length": 128},
            controls=(),
        ),
    ),
    28: (
        Fault(
            DataError,
            ("0 of 20 rows keep an answer token at data.max_length 128", "shortest needs", "Set data.max_length ="),
            _all_long,
            overrides={"data.max_length": 128},
            controls=(),
        ),
    ),
    29: (Fault(DataError, ("train.jsonl:4 nested deeper than",), rows={4: DEEP}, dropped=1),),
    30: (
        Fault(DataError, ("train.jsonl.gz ends early", "archive is incomplete"), _cut_gzip, name="train.jsonl.gz"),
        Fault(DataError, ("train.jsonl is a broken Parquet file",), _parquet),
        Fault(DataError, ("is a folder without data files", "2 other files: README.md, rows.txt"), _directory),
    ),
    31: (
        Fault(None, ("this tokenizer has no chat template", "plain", "saved with the model"), controls=(), dropped=0),
    ),
    32: (
        Fault(
            TemplateError,
            ("has no end token: replies would never stop", "eos_token", "tokenizer_config.json"),
            controls=(),
            end=None,
        ),
    ),
}
