"""What a run has to compute: its rows and what is replayed beside them, its steps, its largest micro-batches."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import astuple, dataclass

import numpy as np
from numpy.typing import NDArray

from attune.data.batch import step_batches
from attune.data.corpus import Corpus
from attune.data.stream import Stream
from attune.evals.heldout import predicted_tokens, rows_of
from attune.evals.questions import learned_tokens
from attune.model.divergence import KEPT
from attune.train.defaults import MOST_STEPS, step_tokens, stream_of
from attune.train.metrics import Counts
from attune.train.replay import Replay, imagine_replay
from attune.train.run import Inputs

Rows = NDArray[np.int64]
SHARED_STEPS = 64  # in which beginnings that rows share are looked for, evenly spread over the run


@dataclass(frozen=True, slots=True)
class Pile:
    """Rows of a corpus, longest first.

    sizes, learned: int64 [rows], tokens and learned tokens of the rows in `order`; ends: their running sum.
    """

    order: Rows
    sizes: Rows
    ends: Rows
    learned: Rows

    @classmethod
    def of(cls, corpus: Corpus) -> Pile:
        """Return the rows of a corpus."""
        order = np.argsort(-corpus.lengths, kind="stable")
        sizes = corpus.lengths[order]
        return cls(order, sizes, np.cumsum(sizes), learned_tokens(corpus)[order])

    def fill(self, tokens: int) -> Rows:
        """Return places in `order` of the rows that make the worst micro-batch of at most `tokens`: the longest ones.

        What is left over is filled with the longest row that still fits, and again. A longer row stands alone.
        """
        count = max(int(np.searchsorted(self.ends, tokens, side="right")), 1)
        chosen, left = list(range(count)), tokens - int(self.ends[count - 1])
        place = count
        while left > 0 and (place := max(place, int(np.searchsorted(-self.sizes, -left)))) < len(self.sizes):
            chosen.append(place)
            left -= int(self.sizes[place])
            place += 1
        return np.asarray(chosen, dtype=np.int64)


@dataclass(frozen=True, slots=True)
class Work:
    """What a run has to compute. `largest`: tokens of its largest step.

    trained, valid, replayed: counts of all steps, of all validations, and of what is replayed in all steps, each row
    computed by itself. texts: what is replayed, longest first; None without replay.
    """

    corpus: Corpus
    stream: Stream
    steps: int
    largest: int
    trained: Counts
    valid: Counts
    replayed: Counts
    rows: Pile
    replay: Replay | None
    texts: Pile | None

    def computed(self, micro_tokens: int, *, share: bool) -> Counts:
        """Return what all steps compute, replay included; with `share`, what rows begin with in common once."""
        found = self.trained
        if share:
            sample = np.unique(np.linspace(1, self.steps, min(self.steps, SHARED_STEPS)).round().astype(int)).tolist()
            batches = [
                batch
                for step in sample
                for batch in step_batches(self.corpus, self.stream.rows(step), micro_tokens, share=True)
            ]
            seen = Counts.of(batches)
            found = _times(seen, found.row_tokens / seen.row_tokens)
        return found.beside(self.replayed)

    def kept_bytes(self, vocabulary: int, element: int) -> int:
        """Return the bytes in which the host holds what the base model makes of the texts that are replayed."""
        if self.replay is None or self.replay.kl == 0:
            return 0
        return len(predicted_tokens(self.replay.corpus)) * min(KEPT, vocabulary) * (4 + max(element, 4))


def survey_work(inputs: Inputs) -> Work:
    """Return what a run has to compute. Of a very long run the first steps stand for all.

    Raises: ConfigError or DataError when its replay cannot be.
    """
    config, corpus = inputs.config, inputs.prepared.train
    steps, stream = int(config.train.steps), stream_of(corpus, config)
    valid, validations = inputs.prepared.valid, 1 + -(-steps // int(config.valid.every))
    replay = imagine_replay(config, inputs.prepared)
    return Work(
        corpus=corpus,
        stream=stream,
        steps=steps,
        largest=int(step_tokens(stream, steps).max()),
        trained=_count(corpus, stream.rows, steps),
        valid=_NOTHING if valid is None else _count(valid, lambda _: np.arange(valid.num_rows), validations),
        replayed=_NOTHING if replay is None else _count(replay.corpus, replay.rows, steps),
        rows=Pile.of(corpus),
        replay=replay,
        texts=None if replay is None else Pile.of(replay.corpus),
    )


_NOTHING = Counts(0.0, 0, 0, 0, 0, 0)


def _count(corpus: Corpus, rows_of_step: Callable[[int], Rows], steps: int) -> Counts:
    """Return the counts of so many steps that compute each row by itself; of very many the first stand for all."""
    learned = np.bincount(rows_of(corpus)[predicted_tokens(corpus)], minlength=corpus.num_rows)
    parts = corpus.lengths, learned, corpus.lengths * (corpus.lengths + 1) // 2
    looked = min(steps, MOST_STEPS)
    each = [[int(part[rows].sum()) for part in parts] for rows in map(rows_of_step, range(1, looked + 1))]
    tokens, learns, pairs = (sum(column) for column in zip(*each, strict=True))
    return _times(Counts(float(learns), tokens, learns, tokens, learns, pairs), steps / looked)


def _times(counts: Counts, factor: float) -> Counts:
    """Return all counts times a factor, to whole numbers."""
    return Counts(*(type(value)(round(value * factor)) for value in astuple(counts)))
