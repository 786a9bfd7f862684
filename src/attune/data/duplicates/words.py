"""The words of all rows as numbers in one flat array, and keys by which rows, questions and answers are equal."""

from __future__ import annotations

import unicodedata
from array import array
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import orjson
import xxhash
from numpy.typing import NDArray

from attune.data.duplicates.codes import split_codes
from attune.data.lint.thresholds import DEFAULT, Thresholds
from attune.data.lint.view import RowView
from attune.types import Message

FLUSH_CHARACTERS = 1 << 20  # of buffered text: large enough for numpy, small enough for the processor's cache
ROW_MARK, ANSWER_MARK = "\x02", "\x03"  # each is a word of its own: a row's beginning, its last answer's beginning
ROLE_MARKS = {"system": "\x04", "user": "\x05", "assistant": "\x06", "tool": "\x07"}  # in keys only: no words
UNTRAINED_MARK = "\x08"


class Words(NamedTuple):
    """All rows' words. Row r is `flat[starts[r]:starts[r + 1]]`: row mark, words, answer mark, words of its answer.

    The lowest bit of a word says that it holds a digit or is a sign such as + or <. One row mark stands at the end,
    so every word has a next one.
    """

    flat: NDArray[np.uint32]
    starts: NDArray[np.int64]  # [rows + 1]
    answer_at: NDArray[np.int64]  # [rows], where in `flat` the answer mark stands


class Keys(NamedTuple):
    """What is equal: rows with one key have, up to case, spacing and Unicode variants, the same text. All [rows]."""

    row: NDArray[np.uint64]  # tools and all turns with their roles and train flags
    context: NDArray[np.uint64]  # tools and all turns but the last learned answer
    answer: NDArray[np.uint64]
    tools: NDArray[np.uint64]
    says_one_thing: NDArray[np.bool_]  # the answer is short, JSON or a tool call: two different ones contradict


class WordStore:
    """Takes rows one after another, in the order of their numbers; 4 bytes a word and 50 a row stay in memory."""

    def __init__(self, thresholds: Thresholds = DEFAULT) -> None:
        self.thresholds = thresholds
        self._texts: list[str] = []
        self._pending = 0  # characters in _texts
        self._lengths = array("q")  # of each buffered row's text before the answer mark, and from there on
        self._chunks: list[NDArray[np.uint32]] = []
        self._counts: list[NDArray[np.int64]] = []  # of words, [2 x rows]: before the answer mark, and from there on
        self._row, self._context, self._answer, self._tools = array("Q"), array("Q"), array("Q"), array("Q")
        self._structured = bytearray()
        self._words: Words | None = None

    def __len__(self) -> int:
        return len(self._row)

    def take(self, row: RowView) -> None:
        """Add a row."""
        assert row.number == len(self._row), f"row {row.number} came as number {len(self._row)}"
        example = row.example
        tools = _hash(orjson.dumps(example.tools, default=str, option=orjson.OPT_SORT_KEYS)) if example.tools else 0
        if example.text is not None:
            before, answer, is_structured = "", example.text, False
        else:
            before, answer, is_structured = _parts(example.messages)
        before, answer = canonical(before), canonical(answer)
        context_key = xxhash.xxh3_64_intdigest(before.encode("utf-8", "surrogatepass"), tools)
        answer_key = _hash(answer.encode("utf-8", "surrogatepass"))
        self._context.append(context_key)
        self._answer.append(answer_key)
        self._tools.append(tools)
        self._row.append(xxhash.xxh3_64_intdigest(answer_key.to_bytes(8, "little"), context_key))
        self._structured.append(is_structured or (answer[:1] in "{[" and answer[-1:] in "}]" and len(answer) > 1))
        self._texts += (ROW_MARK, before, ANSWER_MARK, answer)
        self._lengths.append(len(before) + 1)
        self._lengths.append(len(answer) + 1)
        self._pending += len(before) + len(answer) + 2
        if self._pending >= FLUSH_CHARACTERS:
            self._flush()

    def absorb(self, part: WordStore) -> None:
        """Add the rows that another one took, which follow."""
        self._flush()
        part._flush()
        self._chunks += part._chunks
        self._counts += part._counts
        for name in ("_row", "_context", "_answer", "_tools", "_structured"):
            getattr(self, name).extend(getattr(part, name))

    def words(self) -> Words:
        """Return the words of all rows taken so far."""
        if self._words is not None and len(self._words.answer_at) == len(self):
            return self._words
        self._flush()
        counts = np.concatenate(self._counts) if self._counts else np.zeros(0, np.int64)
        bounds = np.concatenate((np.zeros(1, np.int64), np.cumsum(counts)))
        last, _ = split_codes(ROW_MARK, np.array([0, 1]))
        flat = np.empty(int(bounds[-1]) + 1, np.uint32)
        at = 0
        self._chunks.reverse()
        while self._chunks:  # each is freed once it is copied
            chunk = self._chunks.pop()
            flat[at : at + len(chunk)] = chunk
            at += len(chunk)
        flat[at:] = last
        self._chunks, self._counts = [flat[:-1]], [counts]  # views: nothing is held twice
        self._words = Words(flat, bounds[::2], bounds[1::2])
        return self._words

    def keys(self) -> Keys:
        """Return the keys of all rows taken so far."""
        words = self.words()
        answer_words = words.starts[1:] - words.answer_at - 1
        is_short = answer_words <= self.thresholds.short_answer_words
        row, context, answer, tools = (
            np.array(key, dtype=np.uint64) for key in (self._row, self._context, self._answer, self._tools)
        )
        return Keys(row, context, answer, tools, is_short | np.array(self._structured, dtype=np.bool_))

    def _flush(self) -> None:
        if not self._texts:
            return
        lengths = np.array(self._lengths, dtype=np.int64)
        bounds = np.concatenate((np.zeros(1, np.int64), np.cumsum(lengths)))
        flat, counts = split_codes("".join(self._texts), bounds)
        self._chunks.append(flat)
        self._counts.append(counts)
        self._texts, self._lengths, self._pending = [], array("q"), 0


def canonical(text: str) -> str:
    """Return a text in the form in which texts are compared: NFKC, case folded, runs of white space as one space."""
    if text.isascii():
        return " ".join(text.lower().split())
    return " ".join(unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", text).casefold()).split())


def _parts(messages: Sequence[Message]) -> tuple[str, str, bool]:
    """Return all turns but the last learned answer, that answer, and whether it calls a tool."""
    if len(messages) == 2 and messages[0].role == "user" and not messages[1].tool_calls and not messages[1].reasoning:
        return f"{ROLE_MARKS['user']}{messages[0].content}", messages[1].content, False  # most rows
    learned = [at for at, message in enumerate(messages) if message.role == "assistant" and message.train is not False]
    last = learned[-1] if learned else -1
    turns = [_tagged(message) for at, message in enumerate(messages) if at != last]
    if last < 0:
        return " ".join(turns), "", False
    if last < len(messages) - 1:  # turns after the answer are context of another kind
        turns.insert(last, UNTRAINED_MARK)
    return " ".join(turns), _said(messages[last]), bool(messages[last].tool_calls)


def _tagged(message: Message) -> str:
    untrained = UNTRAINED_MARK if message.role == "assistant" and message.train is False else ""
    return f"{ROLE_MARKS[message.role]}{untrained}{_said(message)}"


def _said(message: Message) -> str:
    """Return all that a turn says: reasoning, content and the calls of tools without their ids, which are random."""
    if not message.reasoning and not message.tool_calls:
        return message.content
    calls = (_call(call.get("function", call)) for call in message.tool_calls)
    return " ".join((message.reasoning or "", message.content, *calls))


def _call(function: Any) -> str:
    if not isinstance(function, Mapping):
        return str(function)
    arguments = function.get("arguments", function.get("parameters"))
    if isinstance(arguments, str):
        try:
            arguments = orjson.loads(arguments)
        except orjson.JSONDecodeError:
            return f"{function.get('name')}({arguments})"
    return f"{function.get('name')}({orjson.dumps(arguments, default=str, option=orjson.OPT_SORT_KEYS).decode()})"


def _hash(content: bytes) -> int:
    return xxhash.xxh3_64_intdigest(content)
