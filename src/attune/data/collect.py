"""One data file on its way to tokens: read, rendered, encoded and masked in chunks, with every row's fate noted."""

from __future__ import annotations

import heapq
from array import array
from collections.abc import Iterator, Sequence
from collections.abc import Set as AbstractSet
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import TypeAlias

import numpy as np

from attune.data.corpus import STATES, Corpus, Places, join_weights
from attune.data.encoding.by_word import Tokens
from attune.data.encoding.mask import Masker
from attune.data.encoding.overlong import Policy, Toll, refuse_overlong, shorten
from attune.data.encoding.turns import Rendered
from attune.data.files import Part
from attune.data.reading.garbage import rare_collections
from attune.data.reading.intake import Intake, LeftOut
from attune.data.reading.line import BadRow
from attune.data.reading.read import Part as FilePart
from attune.data.split import draw
from attune.data.survey import Survey
from attune.types import Encoded, Example, Place, RowState

FIRST_CHUNK = 256  # rows encoded at once, at first: the tokenizer's threads shall not wait long for work
CHUNK_ROWS = 2048  # and in the end: enough to keep all cores busy, few enough to hold in memory
CHUNK_BYTES = 4 * 1024 * 1024  # of the file: long rows go in smaller chunks
Rows: TypeAlias = "Iterator[Example | LeftOut | BadRow]"


@dataclass
class Fates:
    """What became of every input row of a file, in file order."""

    lines: array[int] = field(default_factory=lambda: array("q"))
    offsets: array[int] = field(default_factory=lambda: array("q"))
    states: array[int] = field(default_factory=lambda: array("b"))
    reasons: array[int] = field(default_factory=lambda: array("h"))
    tokens: array[int] = field(default_factory=lambda: array("q"))  # 0 where the row was never encoded
    kept: array[int] = field(default_factory=lambda: array("q"))  # of these, how many are trained on or held out
    learned: array[int] = field(default_factory=lambda: array("q"))  # of all tokens, before any limit
    numbers: array[int] = field(default_factory=lambda: array("q"))  # in the survey; -1 where the row is not in it
    words: dict[str, int] = field(default_factory=lambda: {"": 0})

    def note(self, place: Place, state: RowState, reason: str = "") -> int:
        """Add a row and return its number."""
        self.lines.append(place.line)
        self.offsets.append(place.offset)
        self.states.append(STATES.index(state))
        self.reasons.append(self.words.setdefault(reason, len(self.words)) if reason else 0)
        self.tokens.append(0)
        self.kept.append(0)
        self.learned.append(0)
        self.numbers.append(-1)
        return len(self.lines) - 1

    def change(self, row: int, state: RowState, reason: str = "") -> None:
        """Set what became of a row."""
        self.states[row] = STATES.index(state)
        self.reasons[row] = self.words.setdefault(reason, len(self.words))

    def number_words(self) -> None:
        """Number the reasons in the order of the rows that have them, however the rows were taken in."""
        used = dict.fromkeys([0, *self.reasons])
        numbers = {old: new for new, old in enumerate(used)}
        self.reasons = array("h", map(numbers.__getitem__, self.reasons))
        words = list(self.words)
        self.words = {words[old]: new for new, old in enumerate(used)}

    def absorb(self, part: Fates, first_number: int) -> None:
        """Add the rows of another one, which follow; `first_number`: that of its first row in the survey."""
        words = [self.words.setdefault(word, len(self.words)) for word in part.words]
        for name in ("lines", "offsets", "states", "tokens", "kept", "learned"):
            getattr(self, name).extend(getattr(part, name))
        self.reasons.extend(words[reason] for reason in part.reasons)
        self.numbers.extend(number + first_number if number >= 0 else -1 for number in part.numbers)


class Collection:
    """A file's rows as they come to be flat arrays; `run` fills it once."""

    def __init__(
        self, intake: Intake, masker: Masker, survey: Survey, *, part: Part, limit: int, policy: Policy
    ) -> None:
        self.intake, self.masker = intake, masker
        self.survey, self.part = survey, part
        self.limit, self.policy = limit, policy
        self.fates, self.toll = Fates(), Toll()
        self.learned_in = 0
        self.draws = array("d")  # of each trained piece
        self.rows_of = array("q")  # the input row of each trained piece
        self.lowest: list[tuple[float, int, Example]] = []  # a heap of the rows with the lowest draws, highest first
        self.examples: list[Example] = []
        self._keeps_examples = False
        self._tokens: list[np.ndarray] = []
        self._learned: list[np.ndarray] = []
        self._lengths = array("q")
        self._weights: list[np.ndarray | None] = []  # of each chunk
        self._sources: list[str] = []

    def run(self, *, draw_seed: int | None, keeps_examples: bool = False) -> None:
        """Take the whole file in; with a seed, rows also draw lots for being held out.

        The examples of rows that may be held out stay in `lowest`, those of all rows in `examples` where asked.

        Raises: DataError when the file or too many of its rows cannot be used; TemplateError when a row's learned
        tokens cannot be proved.
        """
        self._take(self.intake.stream(), draw_seed=draw_seed, keeps_examples=keeps_examples)
        self.close()

    def run_part(self, part: FilePart, *, draw_seed: int | None, keeps_examples: bool = False) -> None:
        """Take a part of the file in, as `run` would; what is wrong with the whole file is said by `close`."""
        self._take(self.intake.stream_part(part), draw_seed=draw_seed, keeps_examples=keeps_examples)

    def close(self) -> None:
        """End a file whose rows were all taken in. Raises: DataError when too many of them cannot be used."""
        self.intake.refuse_bad_rows()
        if self.policy == "error":
            refuse_overlong(self.toll, self.limit)
        self.fates.number_words()

    def _take(self, rows: Rows, *, draw_seed: int | None, keeps_examples: bool) -> None:
        self._keeps_examples = keeps_examples
        with rare_collections(), ThreadPoolExecutor(1) as pool:
            waiting: tuple[list[tuple[int, Example]], list[Rendered], Future[Sequence[Tokens]]] | None = None
            for chunk in self._chunks(rows):
                rendered = [self.masker.template.render(example) for _, example in chunk]
                future = self._encode(pool, rendered)
                self._look(chunk)  # while the tokenizer's own threads work
                if waiting:
                    self._finish(*waiting, draw_seed=draw_seed)
                waiting = (chunk, rendered, future)
            if waiting:
                self._finish(*waiting, draw_seed=draw_seed)

    def absorb(self, part: Collection) -> None:
        """Add the part of the file that another one took in, which follows, as if this one had taken it."""
        first_row = len(self.fates.lines)
        self.fates.absorb(part.fates, len(self.survey))
        self.survey.absorb(part.survey)
        self.intake.absorb(part.intake)
        self.masker.absorb(part.masker)
        self.toll.absorb(part.toll)
        self.learned_in += part.learned_in
        self.draws.extend(part.draws)
        self.rows_of.extend(row + first_row for row in part.rows_of)
        for lot, number, example in part.lowest:
            self._remember(-lot, first_row - number, example)
        self.examples += part.examples
        self._tokens += part._tokens
        self._learned += part._learned
        self._lengths.extend(part._lengths)
        self._weights += part._weights
        self._sources += part._sources

    def _encode(self, pool: ThreadPoolExecutor, rendered: list[Rendered]) -> Future[Sequence[Tokens]]:
        """Have texts encoded beside this thread by the tokenizer, which lets it run, else at once."""
        if self.masker.words is None:
            return pool.submit(self.masker.encode_texts, rendered)
        done: Future[Sequence[Tokens]] = Future()
        done.set_result(self.masker.encode_texts(rendered))
        return done

    def look_only(self) -> None:
        """Read the file for the survey alone: its rows are held out, and nothing is encoded."""
        for row in self.intake.stream():
            if isinstance(row, Example):
                number = self.fates.note(row.place, "held_out", "test set")
                self._look([(number, row)])
            else:
                self._note_unusable(row)
        self.intake.refuse_bad_rows()

    def examples_at(self, rows: AbstractSet[int]) -> list[Example]:
        """Return the examples of some rows in file order: those that were kept, others read again."""
        kept = {-number: example for _, number, example in self.lowest}
        if all(row in kept for row in rows):
            return [kept[row] for row in sorted(rows)]
        wanted = {self.fates.offsets[row]: self.fates.lines[row] for row in rows}
        return [row for row in self.intake.again(wanted) if isinstance(row, Example)]

    def _look(self, chunk: Sequence[tuple[int, Example]]) -> None:
        """Hand the rows of a chunk to the survey."""
        first = len(self.survey)
        self.survey.take((example for _, example in chunk), self.part)
        for number, (row, _) in enumerate(chunk, start=first):
            self.fates.numbers[row] = number

    def _chunks(self, rows: Rows) -> Iterator[list[tuple[int, Example]]]:
        """Yield the usable rows in chunks with their numbers; once there are too many bad rows only look for more."""
        chunk: list[tuple[int, Example]] = []
        allowed, bad, first_byte, size = self.intake.config.skip_bad_rows, self.intake.bad, 0, FIRST_CHUNK
        for row in rows:
            if isinstance(row, Example):
                number = self.fates.note(row.place, "used")
                if not chunk:
                    first_byte = row.place.offset
                if len(bad) <= allowed:
                    chunk.append((number, row))
                if len(chunk) >= size or row.place.offset - first_byte > CHUNK_BYTES:
                    yield chunk
                    chunk, size = [], min(2 * size, CHUNK_ROWS)
            else:
                self._note_unusable(row)
        if chunk and len(bad) <= allowed:
            yield chunk

    def _note_unusable(self, row: LeftOut | BadRow) -> None:
        self.fates.note(row.place, "dropped", f"bad row: {row.kind}" if isinstance(row, BadRow) else row.reason)

    def _finish(
        self,
        chunk: Sequence[tuple[int, Example]],
        rendered: Sequence[Rendered],
        future: Future[Sequence[Tokens]],
        *,
        draw_seed: int | None,
    ) -> None:
        """Add a chunk whose texts have been encoded."""
        rows = self.masker.finish([example for _, example in chunk], rendered, future.result())
        pieces: list[Encoded] = []
        for (number, example), row in zip(chunk, rows, strict=True):
            kept = self._kept(number, row)
            if not kept:
                continue
            if self._keeps_examples:
                self.examples.append(example)
            lot = 0.0 if draw_seed is None else draw(example, draw_seed)
            if draw_seed is not None:
                self._remember(lot, number, example)
            for piece in kept:
                self.draws.append(lot)
                self.rows_of.append(number)
                pieces.append(piece)
        if pieces:
            self._tokens.append(np.concatenate([piece.tokens for piece in pieces]))
            self._learned.append(np.concatenate([piece.learned for piece in pieces]))
            self._lengths.extend(len(piece.tokens) for piece in pieces)
            self._weights.append(join_weights(pieces))
            self._sources.extend(piece.source for piece in pieces)

    def _kept(self, number: int, row: Encoded) -> list[Encoded]:
        """Return what is trained of a row, and note its fate and its tokens."""
        learned = int(np.count_nonzero(row.learned))
        length = self.fates.tokens[number] = len(row.tokens)
        self.learned_in += learned
        self.fates.learned[number] = learned
        if not learned:
            self.fates.change(number, "dropped", "nothing to learn")
            return []
        if length <= self.limit:
            self.fates.kept[number] = length
            return [row]
        self.toll.count(row, self.limit, self.policy)
        kept, self.fates.kept[number] = shorten(row, self.limit, self.policy)
        if not kept:
            self.fates.change(number, "dropped", "too long")
        elif self.policy == "cut":
            self.fates.change(number, "cut", "too long")
        else:
            self.fates.change(number, "used", "split into pieces")
        return kept

    def _remember(self, lot: float, number: int, example: Example) -> None:
        """Keep the examples that may be held out: those with the lowest draws."""
        entry = (-lot, -number, example)
        if len(self.lowest) < self.intake.config.valid_rows:
            heapq.heappush(self.lowest, entry)
        elif entry[:2] > self.lowest[0][:2]:
            heapq.heapreplace(self.lowest, entry)

    @property
    def num_pieces(self) -> int:
        """How many rows or pieces of rows are there to train on."""
        return len(self._lengths)

    def corpus(self) -> Corpus:
        """Return all trained pieces as flat arrays."""
        fates = self.fates
        rows = np.frombuffer(self.rows_of, np.int64) if len(self.rows_of) else np.zeros(0, np.int64)
        lines = np.array(fates.lines, dtype=np.int64)[rows]
        offsets = np.array(fates.offsets, dtype=np.int64)[rows]
        return Corpus(
            np.concatenate(self._tokens) if self._tokens else np.zeros(0, np.int32),
            np.concatenate(self._learned) if self._learned else np.zeros(0, bool),
            np.concatenate([np.zeros(1, np.int64), np.cumsum(np.array(self._lengths, dtype=np.int64))]),
            Places((self.intake.path,), np.zeros(len(rows), np.int32), lines, offsets),
            tuple(self._sources),
            self._all_weights(),
        )

    def _all_weights(self) -> np.ndarray | None:
        """Return the loss weights of all tokens; None if all are 1."""
        if all(weights is None for weights in self._weights):
            return None
        return np.concatenate(
            [
                np.ones(len(tokens), np.float32) if weights is None else weights
                for tokens, weights in zip(self._tokens, self._weights, strict=True)
            ]
        )
