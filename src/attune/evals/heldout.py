"""Held-out loss: what a model makes of rows it did not learn from, the same whatever the batch size."""

from __future__ import annotations

import math
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

import numpy as np
import torch
from torch import nn

from attune.data.batch import on_device, to_batch
from attune.data.corpus import Corpus
from attune.data.layout import lay_out
from attune.model.loss import PLAIN, LossOptions, token_losses


@dataclass(frozen=True, slots=True)
class Measured:
    """A model's loss on a corpus: nats per learned token over all rows, token accuracy, and each row by itself.

    row_loss: float64 [rows], nats per learned token of that row (NaN for a row that teaches nothing).
    """

    loss: float
    accuracy: float
    tokens: int
    row_loss: np.ndarray

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
    right = 0
    for part in lay_out(corpus.lengths, micro_tokens):
        rows = np.asarray(part)
        batch = on_device(to_batch(corpus, part), device)
        with arithmetic(precision, device):
            losses, is_right, positions = token_losses(model, batch, loss)
        document = np.searchsorted(np.cumsum(batch.lengths), positions.cpu().numpy(), side="right")
        sums += np.bincount(rows[document], weights=losses.double().cpu().numpy(), minlength=corpus.num_rows)
        counts += np.bincount(rows[document], minlength=corpus.num_rows)
        right += int(is_right.sum())
    model.train(was_training)
    tokens = int(counts.sum())
    with np.errstate(invalid="ignore"):
        return Measured(float(sums.sum() / max(tokens, 1)), right / max(tokens, 1), tokens, sums / counts)
