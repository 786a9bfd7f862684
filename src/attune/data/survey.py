"""All rows looked at once: every rule of the check, duplicates, leaks and coverage, while the rows stream by."""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from attune.data.corpus import Places
from attune.data.coverage.language import Languages
from attune.data.coverage.measures import Coverage
from attune.data.duplicates import conflicts, leaks, near
from attune.data.duplicates.leaks import Leak, find_leaks
from attune.data.duplicates.near import Duplicates, find_clusters
from attune.data.duplicates.words import WordStore
from attune.data.files import PARTS, Part
from attune.data.lint.catalog import Found
from attune.data.lint.openers import Openers
from attune.data.lint.pile_up import PileUp
from attune.data.lint.refusals import Refusals
from attune.data.lint.rows import RowOptions, lint_row
from attune.data.lint.structure import Structure
from attune.data.lint.view import RowView, view
from attune.data.reading.garbage import rare_collections
from attune.types import Example, Place


@dataclass(frozen=True)
class Surveyed:
    """What a survey found. Rows are numbered in the order in which they came, over all files; only examples count."""

    found: tuple[Found, ...]
    places: Places
    parts: NDArray[np.str_]  # [rows]: train, valid or test
    store: WordStore
    duplicates: Duplicates
    leaks: tuple[Leak, ...]
    coverage: Mapping[str, Any] | None  # the document's part; None where it was not asked for
    questions: tuple[str, ...]  # of a sample of the training rows, all different

    @cached_property
    def num_checked(self) -> int:
        """How many rows the rules looked at: all but those of test sets."""
        return int(np.count_nonzero(self.parts != "test"))


class Survey:
    """Takes rows one after another. Test sets are only compared with training rows; no rule judges them.

    `schema`: a JSON Schema that every answer must meet. `with_coverage`: also tell what the rows cover.
    """

    def __init__(
        self,
        options: RowOptions,
        schema: Mapping[str, Any] | None = None,
        *,
        with_coverage: bool = False,
        is_part: bool = False,
    ) -> None:
        """`is_part`: another one will absorb it, so whatever depends on the rows before is left open."""
        limits = options.thresholds
        self.options, self.with_coverage = options, with_coverage
        self.store = WordStore(limits)
        self.structure, self.languages = Structure(limits, schema, is_part=is_part), Languages(limits)
        self.openers, self.pile_up = Openers(limits, is_part=is_part), PileUp(limits, is_part=is_part)
        self.refusals, self.coverage = Refusals(limits), Coverage(limits)
        self._files: dict[str, int] = {}
        self._numbers, self._lines, self._offsets = array("i"), array("q"), array("q")
        self._parts = array("b")
        self._dialogues = 0  # rows that are no plain text
        self._by_rule: dict[str, tuple[array[int], dict[int, str]]] = {}

    def __len__(self) -> int:
        return len(self._parts)

    def take(self, examples: Iterable[Example], part: Part) -> None:
        """Look at some rows of one part."""
        for example in examples:
            row = view(len(self._parts), example)
            self._note(example.place, part)
            self.store.take(row)
            if part == "test":
                continue
            self._dialogues += example.text is None
            for name, text in lint_row(row, self.options):
                self._flag(name, row.number, text)
            self.structure.take(row)
            self.languages.take(row)
            if part == "train":
                self._take_for_sums(row)

    def absorb(self, part: Survey) -> None:
        """Add the rows that another survey took, which follow those of this one, as if this one had taken them."""
        base = len(self)
        files = [self._files.setdefault(file, len(self._files)) for file in part._files]
        self._numbers.extend(files[number] for number in part._numbers)
        self._lines.extend(part._lines)
        self._offsets.extend(part._offsets)
        self._parts.extend(part._parts)
        self._dialogues += part._dialogues
        for name, (numbers, said) in part._by_rule.items():
            rows, texts = self._by_rule.setdefault(name, (array("q"), {}))
            rows.extend(number + base for number in numbers)
            left = self.options.thresholds.most_examples - len(texts)
            texts |= {number + base: text for number, text in list(said.items())[:left]}
        self.store.absorb(part.store)
        self.structure.absorb(part.structure, base)
        self.languages.absorb(part.languages, base)
        self.openers.absorb(part.openers, base)
        self.refusals.absorb(part.refusals, base)
        self.pile_up.absorb(part.pile_up, base)
        self.coverage.absorb(part.coverage, base)

    @rare_collections()
    def finish(self) -> Surveyed:
        """Return what was found in all rows."""
        limits = self.options.thresholds
        files = tuple(self._files) or ("",)
        places = Places(
            files,
            np.array(self._numbers, dtype=np.int32),
            np.array(self._lines, dtype=np.int64),
            np.array(self._offsets, dtype=np.int64),
        )
        parts = np.array(PARTS)[np.array(self._parts, dtype=np.int8)]
        with ThreadPoolExecutor(1) as pool:
            languages = pool.submit(self.languages.found)  # opens a model while numpy computes
            duplicates = find_clusters(self.store, limits)
        given_away = tuple(find_leaks(self.store, duplicates, parts, limits))
        found = [
            *(self._found(name) for name in self._by_rule),
            *near.found(duplicates, parts, places.__getitem__, limits.most_examples),
            *conflicts.found(self.store, parts, places.__getitem__, limits),
            *leaks.found(given_away, parts, places.__getitem__, limits),
            *self.structure.found(),
            *languages.result(),
            *self.openers.found(),
            *self.refusals.found(),
            *self.pile_up.found(),
        ]
        coverage = None
        if self.with_coverage:
            coverage = self.coverage.document(formats=self.structure.formats(), openers=self.openers.table())
        questions = tuple(question for _, question, _ in self.coverage.sample)
        return Surveyed(tuple(found), places, parts, self.store, duplicates, given_away, coverage, questions)

    def _note(self, place: Place, part: Part) -> None:
        self._numbers.append(self._files.setdefault(place.file, len(self._files)))
        self._lines.append(place.line)
        self._offsets.append(place.offset)
        self._parts.append(PARTS.index(part))

    def _flag(self, name: str, number: int, text: str) -> None:
        rows, texts = self._by_rule.setdefault(name, (array("q"), {}))
        rows.append(number)
        if len(texts) < self.options.thresholds.most_examples:
            texts[number] = text

    def _found(self, name: str) -> Found:
        """Return what a rule about single rows found, as a warning where rows may be meant so.

        A row or two with chat markup speak about it; a slot in running text is part of the text, no answer to anybody.
        """
        (rows, texts), limits = self._by_rule[name], self.options.thresholds
        least = max(limits.markup_error_rows, limits.markup_error_share * len(self))
        is_talk = name == "template-in-content" and len(rows) < least
        is_running_text = name == "placeholder" and self._dialogues == 0
        return Found(name, rows.tolist(), texts, severity="warning" if is_talk or is_running_text else None)

    def _take_for_sums(self, row: RowView) -> None:
        """Count what is a property of the training rows together."""
        self.openers.take(row)
        self.refusals.take(row)
        self.pile_up.take(row)
        if self.with_coverage:
            self.coverage.take(row)
