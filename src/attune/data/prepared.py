"""What a preparation comes to: everything that training needs to know of the data."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import TypeAlias

from attune.data.collect import Collection
from attune.data.corpus import Corpus, Entries
from attune.data.encoding.template import ChatTemplate
from attune.data.findings import refusal_text
from attune.data.survey import Surveyed
from attune.errors import DataError
from attune.types import Example, Finding, Ledger

Look: TypeAlias = "Callable[[], tuple[Surveyed, tuple[Collection, ...]]]"


@dataclass(frozen=True)
class Prepared:
    """Everything that training needs to know of the data.

    `entries` has a line for every input row, training files first, then validation and test sets. `valid_examples` are
    the held-out rows before encoding, one for each input row of `valid`. `layouts` says for each file how it was read.
    """

    train: Corpus
    valid: Corpus | None
    ledger: Ledger
    entries: Entries
    findings: tuple[Finding, ...]
    preview: tuple[Mapping[str, object], ...]
    template: ChatTemplate
    layouts: Mapping[str, str]
    valid_examples: tuple[Example, ...]
    max_length: int
    max_length_reason: str
    look: Look  # read all rows, where that was not done yet
    notes: tuple[str, ...] = ()  # what a user should hear of how the rows came here
    augmented: tuple[str, ...] = ()  # how each of the last rows of `train` was made of the row whose place it bears

    @cached_property
    def _looked(self) -> tuple[Surveyed, tuple[Collection, ...]]:
        return self.look()

    @property
    def surveyed(self) -> Surveyed:
        """What was found in all rows; takes a whole preparation where they came from the cache."""
        return self._looked[0]

    @property
    def collections(self) -> tuple[Collection, ...]:
        """The files as they were taken in; takes a whole preparation where the rows came from the cache."""
        return self._looked[1]

    def ledger_lines(self) -> Iterator[dict[str, object]]:
        """Yield a line of the ledger for every input row, then for every row that was made of one, its parent."""
        for entry in self.entries:
            yield {**asdict(entry.place), "state": entry.state, "reason": entry.reason}
        first = self.train.num_rows - len(self.augmented)
        for place, edit in zip(self.train.places[first:], self.augmented, strict=True):
            yield {**asdict(place), "state": "augmented", "reason": edit, "parent": str(place)}

    @property
    def largest_id(self) -> int:
        """The largest token id in any row."""
        corpora = (self.train, self.valid) if self.valid is not None else (self.train,)
        return max(int(corpus.tokens.max()) for corpus in corpora)

    def refuse_errors(self) -> None:
        """Raise DataError when a finding is an error: what `attune check` would not pass is not trained on."""
        text = refusal_text(self.findings)
        if text:
            raise DataError(text)
