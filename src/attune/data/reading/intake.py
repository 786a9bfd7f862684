"""A data file taken in: a stream of examples in file order, with every bad row and every oddity counted."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any, Literal

from attune.config import DataConfig
from attune.data.reading.line import BadRow, RawRow
from attune.data.reading.read import LINES, Part, file_form, read_part, read_rows
from attune.data.reading.schema import (
    WORDS,
    Layout,
    check_columns,
    detect_layout,
    has_empty_answer,
    rename_columns,
    to_example,
    used_keys,
)
from attune.errors import DataError
from attune.types import Example, Place

FIRST_ROWS = 1000  # the layout of a file is what most of its first rows have
NAMED_LINES = 5  # how many lines a message names

Oddity = Literal["nul", "not-json-number"]


@dataclass(frozen=True, slots=True)
class LeftOut:
    """A good row that is not to be learned: its answer is empty, or its weight is 0."""

    place: Place
    reason: Literal["empty answer", "weight 0"]


@dataclass
class Intake:
    """What was seen while a file was read; complete when its stream has ended.

    `source` is what its rows are called that do not name a source themselves; empty: the file.
    """

    path: str
    config: DataConfig
    source: str = ""
    rows: int = 0
    form: str = ""
    layout: Layout | None = None
    bad: list[BadRow] = field(default_factory=list)
    oddities: dict[Oddity, list[Place]] = field(default_factory=dict)
    empty: list[Place] = field(default_factory=list)
    weightless: list[Place] = field(default_factory=list)  # rows of weight 0
    unused: tuple[str, ...] = ()  # columns of the first row that its layout does not read
    layouts: Counter[str] = field(default_factory=Counter)
    _known: dict[tuple[str, ...], Layout | None] = field(default_factory=dict)

    @property
    def stated(self) -> str:
        """How the file was read, in words."""
        unused = f" (not used: {', '.join(self.unused)})" if self.unused else ""
        return f"{self.form} of {self.rows} rows: {WORDS[self.layout] if self.layout else 'no known layout'}{unused}"

    def stream(self) -> Iterator[Example | LeftOut | BadRow]:
        """Yield every row as an Example, or as what is wrong with it.

        Raises: DataError when the file cannot be read at all, or when no row has a known layout.
        """
        rows = read_rows(self.path, max_row_bytes=self.config.max_row_bytes)
        first = self._settle(rows)
        for row in first:
            yield self._take(row)
        first.clear()
        for row in rows:
            yield self._take(row)

    def look_ahead(self) -> None:
        """Find out from the first rows how the file is read. Raises: as `stream`."""
        self._settle(read_rows(self.path, max_row_bytes=self.config.max_row_bytes))

    def _settle(self, rows: Iterator[RawRow | BadRow]) -> list[RawRow | BadRow]:
        """Take the first rows, settle form and layout by them, and return them."""
        check_columns(self.config.columns)
        first = list(islice(rows, FIRST_ROWS))
        self.form = file_form(self.path)
        self.layout = self._commonest_layout(first)
        return first

    def stream_part(self, part: Part) -> Iterator[Example | LeftOut | BadRow]:
        """Yield the rows of a part of a file of lines, once form and layout are settled."""
        for row in read_part(self.path, part, max_row_bytes=self.config.max_row_bytes):
            yield self._take(row)

    def again(self, lines: Mapping[int, int]) -> Iterator[Example | LeftOut | BadRow]:
        """Yield some rows, given as offset and line, read again in file order; counts nothing."""
        reader = Intake(self.path, self.config, self.source, form=self.form, layout=self.layout)
        if self.form == LINES:
            for offset, line in sorted(lines.items()):
                yield from reader.stream_part(Part(offset, offset + 1, line - 1))
            return
        for row in reader.stream():
            if row.place.offset in lines:
                yield row

    def absorb(self, part: Intake) -> None:
        """Add what another one saw in the part of the file that follows."""
        if self.layout and not self.layouts[self.layout]:
            self.unused = part.unused
        self.rows += part.rows
        self.bad += part.bad
        for note, places in part.oddities.items():
            self.oddities.setdefault(note, []).extend(places)
        self.empty += part.empty
        self.weightless += part.weightless
        self.layouts.update(part.layouts)

    def refuse_bad_rows(self) -> None:
        """Raise DataError when there are more bad rows than data.skip_bad_rows allows."""
        if len(self.bad) > self.config.skip_bad_rows:
            raise DataError(self._bad_text())

    def _commonest_layout(self, rows: list[RawRow | BadRow]) -> Layout | None:
        counts: Counter[Layout] = Counter()
        for row in rows:
            if isinstance(row, RawRow):
                layout = detect_layout(rename_columns(row.value, self.config.columns))
                if layout:
                    counts[layout] += 1
        if counts:
            return counts.most_common(1)[0][0]
        good = next((row for row in rows if isinstance(row, RawRow)), None)
        if good is not None:
            raise DataError(self._no_layout_text(good))
        return None

    def _no_layout_text(self, row: RawRow) -> str:
        keys = list(map(str, row.value))
        absent = {name: own for name, own in self.config.columns.items() if own and own not in row.value}
        if absent:
            name, wished = next(iter(absent.items()))
            return (
                f'{row.place} has no column "{wished}" (data.columns.{name}).\nIts columns are: {", ".join(keys[:12])}.'
            )
        listed = ", ".join(keys[:8]) or "none"
        return (
            f"{row.place} has keys: {listed}; that is no layout attune knows.\n"
            "Known: messages; conversations; prompt + completion; instruction + output; question + answer; text.\n"
            'Map yours by name: data.columns.prompt = "its question", data.columns.completion = "its answer".'
        )

    def _take(self, row: RawRow | BadRow) -> Example | LeftOut | BadRow:
        self.rows += 1
        if isinstance(row, BadRow):
            return self._refuse(row)
        place = row.place
        config = self.config
        value = rename_columns(row.value, config.columns) if config.columns else row.value
        layout = self.layout
        if layout is None or self._detect(tuple(value)) != layout:
            return self._refuse_layout(place, list(map(str, value)))
        self.layouts[layout] += 1
        if self.layouts[layout] == 1:
            self.unused = _unused(value, layout)
        for note in row.notes:
            self.oddities.setdefault(note, []).append(place)  # type: ignore[arg-type]
        example = to_example(row, value, layout, config.mask, source=self.source)
        if isinstance(example, BadRow):
            return self._refuse(example)
        if not example.weight:
            self.weightless.append(place)
            return LeftOut(place, "weight 0")
        if config.on_empty != "keep" and has_empty_answer(example):
            if config.on_empty == "error":
                return self._refuse(BadRow(place, "empty answer", 'has an empty answer (data.on_empty is "error")'))
            self.empty.append(place)
            return LeftOut(place, "empty answer")
        return example

    def _detect(self, keys: tuple[str, ...]) -> Layout | None:
        """Return the layout of such keys; rows of a file mostly have the same."""
        if keys not in self._known:
            self._known[keys] = detect_layout(keys)
        return self._known[keys]

    def _refuse(self, row: BadRow) -> BadRow:
        self.bad.append(row)
        return row

    def _refuse_layout(self, place: Place, keys: list[str]) -> BadRow:
        """Note a row whose layout is not the file's."""
        named = detect_layout(keys)
        self.layouts[named or "none"] += 1
        listed = ", ".join(keys[:6]) or "none"
        return self._refuse(BadRow(place, f"layout {named or 'unknown'}", f"has keys: {listed}"))

    def _bad_text(self) -> str:
        """Return at most six lines: a line for each kind of fault with its first row, then what to do."""
        kinds: dict[str, list[BadRow]] = {}
        for row in self.bad:
            kinds.setdefault(row.kind, []).append(row)
        lines = [self.kind_text(kind, rows) for kind, rows in kinds.items()]
        if len(lines) > 4:
            rest = sum(len(rows) for rows in list(kinds.values())[3:])
            lines = [*lines[:3], f"and {rest} rows with {len(kinds) - 3} other faults."]
        count = len(self.bad)
        total = f"{count} bad row{'s' * (count != 1)} of {self.rows}; {self.rows - count} good."
        if count == self.rows:
            return "\n".join(
                [*lines, f'{total} A file of rows holds objects like {{"prompt": "...", "completion": "..."}}.']
            )
        return "\n".join([*lines, f"{total} Mend them, or drop them with data.skip_bad_rows = {count}."])

    def kind_text(self, kind: str, rows: list[BadRow]) -> str:
        """Return what is wrong with rows of one fault: the first one's place and text, and the lines of others."""
        text = rows[0].text
        if kind.startswith("layout ") and self.layout:
            text = self._layout_text(kind.removeprefix("layout "), rows)
            if text.startswith("lines "):
                return f"{self.path}: {text}"
        more = f" ({also(rows)})" if len(rows) > 1 else ""
        end = "" if text.endswith("?") and not more else "."
        return f"{rows[0].where} {text}{more}{end}"

    def _layout_text(self, named: str, rows: list[BadRow]) -> str:
        """Return what is wrong with rows whose layout is not the file's: a few strays, or a second file appended."""
        if self.layout is None:
            return rows[0].text
        own, count = _short(self.layout), self.layouts[self.layout]
        first, last = rows[0].place.line, rows[-1].place.line
        if named == "unknown" or len(rows) * 5 < count or len(rows) < 2:
            return f"{rows[0].text}; other {count} rows have: {own.replace('/', ' + ')}. One format per file"
        if first > 1 and last - first == len(rows) - 1:
            return f"lines 1-{first - 1} are {own}, {first}-{last} are {_short(named)}: split the file"
        return f"lines {first}-{last}: {len(rows)} rows are {_short(named)}, {count} are {own}: split the file"


def _unused(value: Mapping[str, Any], layout: Layout) -> tuple[str, ...]:
    """Return the columns of a row that are not read: those that its layout has not, and a source that is no text."""
    used = used_keys(layout)
    unread = [str(key) for key in value if key not in used or (key == "source" and not isinstance(value[key], str))]
    return tuple(unread)[:NAMED_LINES]


def _short(layout: str) -> str:
    """Return a layout's name without its explanation."""
    return WORDS[layout].split(" (")[0]  # type: ignore[index]


def also(rows: list[BadRow]) -> str:
    """Return how many more rows have the same fault, and the lines of the first ones."""
    lines = [str(row.place.line) for row in rows[1 : 1 + NAMED_LINES]]
    dots = ", ..." if len(rows) - 1 > NAMED_LINES else ""
    return f"{len(rows) - 1} more: line{'s' * (len(rows) > 2)} {', '.join(lines)}{dots}"


def read_examples(path: str | Path, config: DataConfig) -> list[Example]:
    """Return the examples of a whole file, without rows whose answer is empty.

    Raises: DataError when the file cannot be read or has more bad rows than data.skip_bad_rows allows.
    """
    intake = Intake(str(path), config)
    examples = [row for row in intake.stream() if isinstance(row, Example)]
    intake.refuse_bad_rows()
    if not examples:
        raise DataError(f"{path}: no usable row of {intake.rows}; {len(intake.empty)} have an empty answer.")
    return examples
