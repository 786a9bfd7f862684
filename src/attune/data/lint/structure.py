"""Answers that break a format which the others of their task keep: damaged JSON, odd fields, another format."""

from __future__ import annotations

import sys
from array import array
from collections import Counter
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
import xxhash

from attune.data.lint.catalog import Found
from attune.data.lint.conformance import Conformance
from attune.data.lint.fields import MOST_SHAPES, Misfit, Shape, find_misfits, shape_of
from attune.data.lint.formats import FORMATS, Format, Reading, json_in, read
from attune.data.lint.tasks import Strays, Tasks
from attune.data.lint.thresholds import Thresholds
from attune.data.lint.tools import ToolCalls
from attune.data.lint.view import RowView

TOOL_CALL = "tool call"  # a row whose answer is a call without words
WORDS: Mapping[Format, str] = {
    "json": "JSON",
    "fenced json": "JSON in a code fence",
    "xml": "XML",
    "yaml": "YAML",
    "table": "a table",
    "code": "code",
    "markdown": "Markdown",
    "label": "labels",
    "plain": "sentences",
}
_CODE_OF = {name: number for number, name in enumerate(FORMATS)}
_STRUCTURED: tuple[Format, ...] = ("json", "fenced json", "xml", "yaml", "table")  # a task may consist of these
HEADS = 1000  # beginnings of answers kept for each format: strays are few
HEAD_CHARACTERS = 90
LABEL_MOST = 120  # characters of a sentence that may be a label


class Strayed(NamedTuple):
    """The rows outside of their task's format, broken or in another one, with what was seen; and sentences on both."""

    broken: dict[int, str]
    mixed: dict[int, str]
    told: list[str]


class Structure:
    """Takes every row once; says at the end which answers are broken and which are in another format."""

    def __init__(self, thresholds: Thresholds, schema: Mapping[str, Any] | None, *, is_part: bool = False) -> None:
        """`is_part`: another one will absorb it, so it knows all shapes that it meets.

        Raises: ConfigError when `schema` is no JSON Schema.
        """
        self._thresholds = thresholds
        self._most_shapes = sys.maxsize if is_part else MOST_SHAPES
        self._schema = Conformance(schema) if schema is not None else None
        self._tasks, self._calls = Tasks(is_part=is_part), ToolCalls()
        self._rows, self._format, self._shape = array("q"), array("B"), array("i")
        self._shapes: dict[Shape, int] = {}
        self._label = array("Q")
        self._flat: dict[tuple[object, ...], int] = {}
        self._counts: Counter[str] = Counter()
        self._damage: dict[int, str] = {}  # by answer: no JSON, a key twice, a tag not closed
        self._certain: dict[int, str] = {}  # by row: breaks the user's schema or its own tools
        self._unusable: dict[int, str] = {}  # by row: a tool that cannot be used to judge calls
        self._is_json_like: set[int] = set()  # answers in another format that hold JSON
        self._heads: dict[Format, dict[int, str]] = {name: {} for name in FORMATS}

    def take(self, row: RowView) -> None:
        """Look at all learned answers of a row."""
        example = row.example
        if row.tool_calls or example.tools:
            self._take_calls(row)
        single = len(row.answers) == 1
        name = self._take_answer(row, row.question, row.answer) if single else self._take_turns(row)
        self._counts[name] += 1

    def formats(self) -> dict[str, int]:
        """Return how many rows have each format, by their last answer, commonest first."""
        return dict(self._counts.most_common())

    def _take_turns(self, row: RowView) -> str:
        """Take the learned answers of a conversation, each with the user turn before it."""
        last, question = TOOL_CALL, ""
        for message in row.example.messages:
            if message.role == "user":
                question = message.content
            elif message.role == "assistant" and message.train is not False:
                last = self._take_answer(row, question, message.content)
        return last

    def _take_answer(self, row: RowView, question: str, answer: str) -> str:
        if not answer or answer.isspace():
            return TOOL_CALL
        reading = read(answer)
        name, at = reading.format, len(self._rows)
        self._rows.append(row.number)
        self._format.append(_CODE_OF[name])
        self._shape.append(self._shape_number(reading))
        self._label.append(_label_number(answer, question) if name in {"label", "plain"} else 0)
        self._tasks.add(row.example, question)
        if reading.fault:
            self._damage[at] = reading.fault
        if reading.value is not None:
            if self._schema:
                self._hold_against_schema(row, reading)
        elif name not in _STRUCTURED and ('":' in answer or answer.lstrip()[0] in "{[") and json_in(answer):
            self._is_json_like.add(at)
        heads = self._heads[name]
        if len(heads) < HEADS:
            heads[at] = answer.strip()[:HEAD_CHARACTERS]
        return name

    def _take_calls(self, row: RowView) -> None:
        fault = self._calls.fault(row.example)
        if fault:
            self._certain[row.number] = fault
        tool = self._calls.unusable(row.example)
        if tool:
            self._unusable[row.number] = f"the parameters of {tool[:40]} are no JSON Schema"

    def _hold_against_schema(self, row: RowView, reading: Reading) -> None:
        if not self._schema:
            return
        fault = "no JSON, and a schema is given" if reading.value is None else self._schema.fault(reading.value)
        if fault:
            self._certain.setdefault(row.number, fault)

    def _shape_number(self, reading: Reading) -> int:
        """Return the number of an answer's shape; -1 where it is no JSON, or where there are too many shapes."""
        value = reading.value
        if value is None:
            return -1
        flat: tuple[object, ...] = ()
        if type(value) is dict:
            types = list(map(type, value.values()))
            if dict not in types and list not in types:  # its keys and types are its shape: seen before, mostly
                flat = (*value, *types)
                number = self._flat.get(flat)
                if number is not None:
                    return number
        shape = shape_of(value)
        number = self._shapes.get(shape, -1)
        if number < 0:
            number = self._add_shape(shape)
        if flat and number >= 0 and len(self._flat) < MOST_SHAPES:
            self._flat[flat] = number
        return number

    def _add_shape(self, shape: Shape) -> int:
        """Return the number of a new shape; -1 where there are too many."""
        if len(self._shapes) >= self._most_shapes:
            return -1
        return self._shapes.setdefault(shape, len(self._shapes))

    def absorb(self, part: Structure, base: int) -> None:
        """Add the rows that another one took, which follow; `base`: the number of the first of them."""
        first = len(self._rows)
        known = self._shapes
        shapes = [known[shape] if shape in known else self._add_shape(shape) for shape in part._shapes]
        self._rows.extend(row + base for row in part._rows)
        self._format.extend(part._format)
        self._shape.extend(-1 if shape < 0 else shapes[shape] for shape in part._shape)
        self._label.extend(part._label)
        self._counts.update(part._counts)
        self._tasks.absorb(part._tasks)
        self._damage |= {at + first: fault for at, fault in part._damage.items()}
        self._is_json_like |= {at + first for at in part._is_json_like}
        self._certain |= {row + base: fault for row, fault in part._certain.items()}
        self._unusable |= {row + base: fault for row, fault in part._unusable.items()}
        for name, heads in part._heads.items():
            left = HEADS - len(self._heads[name])
            self._heads[name] |= {at + first: head for at, head in list(heads.items())[:left]}

    def __getstate__(self) -> dict[str, Any]:
        """Return what another process needs to absorb this one: not the schemas that were opened."""
        return self.__dict__ | {"_schema": None, "_calls": None}

    def found(self) -> list[Found]:
        """Return the broken answers and those in another format; a row is in one of the two."""
        if not self._rows and not self._certain and not self._unusable:
            return []
        broken: dict[int, str] = dict(self._certain)
        mixed: dict[int, str] = {}
        told: list[str] = []
        strays = Strayed(broken, mixed, told)
        for name in _STRUCTURED:
            self._add_strays(name, self._is_format(name), strays)
        self._add_strays("label", self._is_closed_label(), strays)
        self._add_damaged(broken)
        self._add_misfits(broken)
        found = []
        if broken:
            found.append(self._named("broken-structure", broken, _commonest(broken)))
        mixed = {row: text for row, text in mixed.items() if row not in broken}
        if mixed:
            found.append(self._named("mixed-format", mixed, " ".join(dict.fromkeys(told))))
        if self._unusable:
            detail = f"Not judged: {_commonest(self._unusable)}"
            named = self._named("broken-structure", self._unusable, detail)
            found.append(Found(named.name, named.rows, named.texts, detail, "info"))
        return found

    def _named(self, name: str, texts: Mapping[int, str], detail: str) -> Found:
        rows = sorted(texts)
        return Found(name, rows, {row: texts[row][:120] for row in rows[: self._thresholds.most_examples]}, detail)

    def _add_strays(self, name: Format, member: np.ndarray, strayed: Strayed) -> None:
        """Add the answers outside of tasks that consist of one structured format, or of a few labels."""
        limits = self._thresholds
        share, fewest = limits.structured_share, limits.task_rows
        if name == "label":
            share, fewest = limits.label_share, limits.label_task_rows
        if member.sum() < fewest * share:
            return
        strays = self._tasks.strays(member, share=share, fewest=fewest)
        others: Counter[str] = Counter()
        for at, agree in zip(strays.at.tolist(), strays.share.tolist(), strict=True):
            own = FORMATS[self._format[at]]
            if own == name:  # a rare label
                continue
            row, head = self._rows[at], self._heads[own].get(at, "")
            seen = f"{WORDS[own]}{': ' + head if head else ''}"
            if name == "json" and (own == "fenced json" or at in self._is_json_like):
                text = "in a code fence" if own == "fenced json" else seen
                strayed.broken.setdefault(row, f"{text}, where {agree:.1%} of the task are bare JSON"[:120])
            else:
                strayed.mixed.setdefault(row, seen)
                others[WORDS[own]] += 1
        if others:
            strayed.told.append(_told(name, strays, others))

    def _is_closed_label(self) -> np.ndarray:
        """Return which answers are one of a few labels that come again and again: bool."""
        labels = np.frombuffer(self._label, np.uint64)
        _, inverse, counts = np.unique(labels, return_inverse=True, return_counts=True)
        return np.asarray((labels != 0) & (counts[inverse] >= self._thresholds.label_rows))

    def _add_damaged(self, broken: dict[int, str]) -> None:
        """Add damaged answers where most answers of their format are whole; elsewhere damage may be the task itself.

        Bare JSON is meant to be parsed; in a fence, and as tags, it may be an example with gaps.
        """
        limits = self._thresholds
        asked: tuple[tuple[Format, int, float], ...] = (
            ("json", limits.json_rows, limits.json_whole_share),
            ("fenced json", limits.task_rows, limits.structured_share),
            ("xml", limits.task_rows, limits.structured_share),
        )
        for name, fewest, share in asked:
            at = np.flatnonzero(self._is_format(name)).tolist()
            damaged = [answer for answer in at if answer in self._damage]
            if damaged and len(at) >= fewest and len(at) - len(damaged) >= share * len(at):
                for answer in damaged:
                    broken.setdefault(self._rows[answer], self._damage[answer])

    def _add_misfits(self, broken: dict[int, str]) -> None:
        """Add the answers whose fields differ from nearly all others of their kind."""
        shape = np.frombuffer(self._shape, np.int32)
        counts = Counter(shape[shape >= 0].tolist())
        misfits: dict[int, Misfit] = find_misfits(counts, list(self._shapes), self._thresholds)
        if not misfits:
            return
        for at in np.flatnonzero(np.isin(shape, list(misfits))).tolist():
            misfit = misfits[self._shape[at]]
            broken.setdefault(self._rows[at], f"{misfit.text}, unlike {misfit.share:.1%} of these answers")

    def _is_format(self, name: Format) -> np.ndarray:
        return np.equal(np.frombuffer(self._format, np.uint8), _CODE_OF[name])


def _told(name: Format, strays: Strays, others: Counter[str]) -> str:
    """Return a sentence about a task's strays: what the task has, and what they are."""
    first = int(strays.rows.argmax())
    listed = ", ".join(f"{count} {word}" for word, count in others.most_common(3))
    rows = int(strays.rows[first])
    return f"{strays.share[first]:.1%} of the {rows:,} answers of their task are {WORDS[name]}; here {listed}."


def _label_number(answer: str, question: str) -> int:
    """Return a number for a short answer in any capitals: 1 for one that the question offers, 0 for a long one."""
    if len(answer) > LABEL_MOST:
        return 0
    if len(answer) > 20 and answer.strip() in question:
        return 1
    return xxhash.xxh3_64_intdigest(answer.strip().casefold().encode("utf-8", "surrogatepass")) | 2


def _commonest(texts: Mapping[int, str]) -> str:
    """Return the commonest fault with its count, in words."""
    counts = Counter(text.split(": ")[0] for text in texts.values())
    text, count = counts.most_common(1)[0]
    if count == 1 < len(counts):
        return f"such as {text}."
    return f"{'Most often' if len(counts) > 1 else 'Each time'} ({count}): {text}."
