"""From rows of a corpus to one micro-batch of tensors: rows laid end to end, nothing padded."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch
from numpy.typing import NDArray

from attune.data.corpus import Corpus
from attune.types import NOT_LEARNED, Batch


def to_batch(corpus: Corpus, rows: Sequence[int] | NDArray[np.integer]) -> Batch:
    """Return the batch of some rows; each is a document with positions from 0.

    targets[t] is the token after t where that one is learned, else NOT_LEARNED; the last position of a row predicts
    nothing, so no row learns from the next one.
    """
    chosen = np.asarray(rows, dtype=np.int64)
    if not len(chosen):
        raise ValueError("a batch needs at least one row")
    starts, lengths = corpus.offsets[chosen], corpus.lengths[chosen]
    offsets = np.concatenate([np.zeros(1, np.int64), np.cumsum(lengths)])
    positions = np.arange(offsets[-1]) - np.repeat(offsets[:-1], lengths)
    index = np.repeat(starts, lengths) + positions
    tokens = corpus.tokens[index].astype(np.int64)
    targets = np.full(len(tokens), NOT_LEARNED, dtype=np.int64)
    targets[:-1] = np.where(corpus.learned[index][1:], tokens[1:], NOT_LEARNED)
    targets[offsets[1:] - 1] = NOT_LEARNED
    longest = int(lengths.max())
    document_offsets = torch.from_numpy(offsets.astype(np.int32))
    weights = None
    if corpus.weights is not None:  # a position carries the weight of the token that it predicts
        weights = torch.from_numpy(np.append(corpus.weights[index][1:], np.float32(1)))
    return Batch(
        tokens=torch.from_numpy(tokens),
        positions=torch.from_numpy(positions),
        targets=torch.from_numpy(targets),
        q_offsets=document_offsets,
        kv_offsets=document_offsets,
        max_q=longest,
        max_kv=longest,
        lengths=tuple(int(length) for length in lengths),
        rows=tuple(int(row) for row in chosen),
        weights=weights,
    )


def on_device(batch: Batch, device: torch.device) -> Batch:
    """Return the batch with its tensors on `device`; copies from pinned memory do not wait for the device."""
    if device.type == "cpu":
        return batch
    names = ("tokens", "positions", "targets", "q_offsets", "kv_offsets", "weights")
    tensors = {name: getattr(batch, name) for name in names}
    return replace(
        batch,
        **{
            name: tensor.pin_memory().to(device, non_blocking=True)
            for name, tensor in tensors.items()
            if tensor is not None
        },
    )


def learned_weight(batch: Batch) -> float:
    """Return what the batch's summed loss is divided by: its learned tokens, or the sum of their weights."""
    learned = batch.targets != NOT_LEARNED
    return float(learned.sum() if batch.weights is None else batch.weights[learned].double().sum())
