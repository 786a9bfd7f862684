"""Held-out loss: what a model makes of rows it did not learn from, the same whatever the batch size."""

from __future__ import annotations

import math
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from attune.data.batch import on_device, to_batch
from attune.data.corpus import Corpus
from attune.data.layout import lay_out
from attune.model.loss import PLAIN, LossOptions, token_losses


@dataclass(frozen=True, slots=True)
class Measured:
    """A model's loss on a corpus: nats per learned token over all rows, token accuracy, each row and token by itself.

    row_loss: float64 [rows], nats per learned token of that row (NaN for a row that teaches nothing).
    token_loss: float32 [tokens], nats of each learned token in the order of the corpus; token_right: bool [tokens],
    whether the model ranks it first. exact_match: share of the rows that teach something whose every learned token is
    ranked first, as greedy decoding would take it.
    """

    loss: float
    accuracy: float
    tokens: int
    row_loss: NDArray[np.float64]
    token_loss: NDArray[np.float32]
    token_right: NDArray[np.bool_]
    exact_match: float

    @property
    def perplexity(self) -> float:
        """Return e^loss, infinity where that overflows."""
        return perplexity(self.loss)


def perplexity(loss: float) -> float:
    """Return e^loss for a loss in nats, infinity where that overflows."""
    try:
        return math.exp(loss)
    except OverflowError:
        return math.inf


def arithmetic(precision: str, device: torch.device) -> AbstractContextManager[None]:
    """Return the context in which a model of that precision computes: bfloat16 autocast for mixed, else as it is."""
    if precision != "mixed":
        return nullcontext()
    return torch.autocast(device.type, dtype=torch.bfloat16)


@torch.no_grad()
def measure(
    model: nn.Module,
    corpus: Corpus,
    *,
    micro_tokens: int,
    device: torch.device | str = "cpu",
    precision: str = "float32",
    loss: LossOptions = PLAIN,
) -> Measured:
    """Return the loss of `model` on every row of `corpus`; the model is left in the mode it came in.

    `loss` says which kernel computes it; what is measured is the plain loss.
    Sums are float64 per row, so the result does not depend on how rows are batched beyond the arithmetic of one row.
    """
    device = torch.device(device)
    was_training = model.training
    model.eval()
    sums, counts = np.zeros(corpus.num_rows), np.zeros(corpus.num_rows, dtype=np.int64)
    token_loss, token_right = np.zeros(len(corpus.tokens), np.float32), np.zeros(len(corpus.tokens), bool)
    for part in lay_out(corpus.lengths, micro_tokens):
        rows = np.asarray(part)
        batch = on_device(to_batch(corpus, part), device)
        with arithmetic(precision, device):
            losses, is_right, positions = token_losses(model, batch, loss)
        places = positions.cpu().numpy()
        ends = np.cumsum(batch.lengths)
        document = np.searchsorted(ends, places, side="right")
        nats = losses.double().cpu().numpy()
        sums += np.bincount(rows[document], weights=nats, minlength=corpus.num_rows)
        counts += np.bincount(rows[document], minlength=corpus.num_rows)
        # a position predicts the token after it
        predicted = places + 1 + (corpus.offsets[rows + 1] - ends)[document]
        token_loss[predicted] = nats
        token_right[predicted] = is_right.cpu().numpy()
    model.train(was_training)
    learned = predicted_tokens(corpus)
    rows_right = np.bincount(rows_of(corpus)[learned], weights=token_right[learned], minlength=corpus.num_rows)
    teaches, tokens = counts > 0, int(counts.sum())
    with np.errstate(invalid="ignore"):
        return Measured(
            loss=float(sums.sum() / max(tokens, 1)),
            accuracy=int(rows_right.sum()) / max(tokens, 1),
            tokens=tokens,
            row_loss=sums / counts,
            token_loss=token_loss[learned],
            token_right=token_right[learned],
            exact_match=float((rows_right == counts)[teaches].sum() / max(int(teaches.sum()), 1)),
        )


def predicted_tokens(corpus: Corpus) -> NDArray[np.int64]:
    """Return the places of the tokens that carry loss, int64 [learned]; a row's first token is predicted from nothing.

    The losses of `Measured` are of these, in this order.
    """
    carries = corpus.learned.copy()
    carries[corpus.offsets[:-1][corpus.lengths > 0]] = False
    return np.flatnonzero(carries)


def rows_of(corpus: Corpus) -> NDArray[np.int64]:
    """Return the row of each token, int64 [N]."""
    return np.repeat(np.arange(corpus.num_rows), corpus.lengths)
