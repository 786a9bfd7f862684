"""What a run has to compute: its rows, its steps, and the micro-batch that takes most memory."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from attune.data.corpus import Corpus
from attune.data.stream import Stream
from attune.train.defaults import MOST_STEPS, stream_of
from attune.train.run import Inputs

Rows = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Work:
    """What a run has to compute: its rows, longest first, and the sums over all its steps and validations.

    sizes, learned: int64 [rows], tokens and learned tokens of the rows in `order`; ends: their running sum.
    """

    corpus: Corpus
    stream: Stream
    steps: int
    largest: int  # tokens of the largest step
    tokens: float
    learned_tokens: float
    pairs: float  # of a token and one it sees
    valid_tokens: float
    order: Rows
    sizes: Rows
    ends: Rows
    learned: Rows

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


def survey_work(inputs: Inputs) -> Work:
    """Return what a run has to compute. Of a very long run the first steps stand for all."""
    config, corpus = inputs.config, inputs.prepared.train
    steps, stream = int(config.train.steps), stream_of(corpus, config)
    lengths = corpus.lengths
    running = np.concatenate([np.zeros(1, np.int64), np.cumsum(corpus.learned, dtype=np.int64)])
    learned = np.diff(running[corpus.offsets])
    pairs = lengths * (lengths + 1) // 2
    looked = min(steps, MOST_STEPS)
    sums = np.array(
        [[part[rows].sum() for part in (lengths, learned, pairs)] for rows in map(stream.rows, range(1, looked + 1))]
    )
    totals = sums.sum(axis=0) * (steps / looked)
    validations = 1 + -(-steps // int(config.valid.every))
    valid = inputs.prepared.valid
    order = np.argsort(-lengths, kind="stable")
    return Work(
        corpus=corpus,
        stream=stream,
        steps=steps,
        largest=int(sums[:, 0].max()),
        tokens=float(totals[0]),
        learned_tokens=float(totals[1]),
        pairs=float(totals[2]),
        valid_tokens=0.0 if valid is None else float(validations * len(valid.tokens)),
        order=order,
        sizes=lengths[order],
        ends=np.cumsum(lengths[order]),
        learned=learned[order],
    )
