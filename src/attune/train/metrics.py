"""What a step is worth in numbers: floating point operations, speed, memory, share of the device's peak."""

from __future__ import annotations

import resource
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import nn
from transformers.pytorch_utils import Conv1D

from attune.data.batch import learned_weight
from attune.evals.heldout import perplexity
from attune.types import NOT_LEARNED, Batch, StepRecord

# Dense 16-bit peaks in FLOP/s, from the makers' data sheets (without sparsity).
_PEAKS = {
    "H100": 989e12,
    "H200": 989e12,
    "A100": 312e12,
    "L40S": 362e12,
    "L4": 121e12,
    "4090": 165e12,
    "3090": 71e12,
    "A10": 125e12,
}


@dataclass(frozen=True, slots=True)
class Counts:
    """What a step holds and what is computed of it, counted on the host before its batches move to the device."""

    weight: float  # what the summed loss is divided by: learned tokens, or the sum of their weights
    row_tokens: int
    learned_tokens: int
    computed_tokens: int  # positions: fewer than row_tokens where rows share a beginning
    computed_learned: int  # positions that reach the head
    pairs: int  # of a position and one that it sees

    @classmethod
    def of(cls, batches: Sequence[Batch]) -> Counts:
        """Return the counts of a step's batches. A device must be waited for if they lie on one."""
        learned = [int((batch.targets != NOT_LEARNED).sum()) for batch in batches]
        return cls(
            weight=sum(learned_weight(batch) for batch in batches),
            row_tokens=sum(batch.row_tokens or len(batch.tokens) - batch.padding for batch in batches),
            learned_tokens=sum(batch.learned_tokens or own for batch, own in zip(batches, learned, strict=True)),
            computed_tokens=sum(len(batch.tokens) - batch.padding for batch in batches),
            computed_learned=sum(learned),
            pairs=sum(_pairs(batch) for batch in batches),
        )

    def beside(self, other: Counts) -> Counts:
        """Return the counts of a step beside which others are computed that are none of its rows."""
        return replace(
            self,
            computed_tokens=self.computed_tokens + other.computed_tokens,
            computed_learned=self.computed_learned + other.computed_learned,
            pairs=self.pairs + other.pairs,
        )


def _pairs(batch: Batch) -> int:
    """Count the pairs of attention: the first of q queries over k keys sees k - q + 1 of them, the last all k."""
    queries = np.asarray(batch.lengths, dtype=np.int64)
    keys = queries if batch.kv_lengths is None else np.asarray(batch.kv_lengths, dtype=np.int64)
    real = np.cumsum(queries) <= len(batch.tokens) - batch.padding
    queries, keys = queries[real], keys[real]
    return int((queries * (keys - queries) + queries * (queries + 1) // 2).sum())


@dataclass(frozen=True, slots=True)
class FlosCounter:
    """Counts the floating point operations of training on a batch.

    Counted: multiply-adds (2 operations each) of matrix products, a beginning that rows share once, that is
    - 2 per weight of every linear layer and token, and per weight of the head and learned token;
    - attention's two products, 4 x width per layer for every pair of a token and one it sees in its document
      (n (n + 1) / 2 pairs for n tokens);
    forward once, backward once for the gradient of the inputs, and once more for the gradient of the weights that train
    (attention: backward is twice the forward). Not counted: norms, activations, softmax, embeddings, the optimizer, and
    work that is done twice. A mixture of experts is counted as if every expert ran.
    Source: Kaplan et al. 2020, arXiv 2001.08361, section 2.1; Chowdhery et al. 2022, arXiv 2204.02311, appendix B.
    """

    linear: int  # weights of linear layers without the head
    linear_trained: int
    head: int
    head_trained: int
    attention: int  # width times layers

    @classmethod
    def of(cls, model: nn.Module) -> FlosCounter:
        """Return the counter for a transformers model, wrapped by PEFT or not."""
        config: Any = model.config
        head_module = model.get_output_embeddings()  # type: ignore[operator]
        head = head_module.weight if head_module is not None else None
        linear = [part for part in model.modules() if isinstance(part, (nn.Linear, Conv1D))]
        linear = [part for part in linear if head is None or part.weight is not head]
        trained = [part for part in linear if part.weight is not None and part.weight.requires_grad]
        width = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
        return cls(
            linear=sum(_size(part) for part in linear),
            linear_trained=sum(_size(part) for part in trained),
            head=0 if head is None else head.numel(),
            head_trained=head.numel() if head is not None and head.requires_grad else 0,
            attention=width * config.num_attention_heads * config.num_hidden_layers,
        )

    def count(self, batches: Sequence[Batch]) -> float:
        """Return the operations of forward and backward over `batches`."""
        return self.of_counts(Counts.of(batches))

    def of_counts(self, counts: Counts) -> float:
        """Return the operations of forward and backward over a step of which `counts` tells."""
        per_token = 4 * self.linear + 2 * self.linear_trained
        per_learned = 4 * self.head + 2 * self.head_trained
        linear = counts.computed_tokens * per_token + counts.computed_learned * per_learned
        return float(linear + 12 * self.attention * counts.pairs)


def _size(part: nn.Module) -> int:
    """Return the weights of a linear layer, however they are held (4 bits in pairs, say)."""
    if isinstance(part, nn.Linear):
        return part.in_features * part.out_features
    return int(part.weight.numel())  # type: ignore[operator]


class Meter:
    """Turns the sums of a step into a record; keeps the running totals and the clock."""

    def __init__(
        self,
        counter: FlosCounter,
        *,
        device: torch.device,
        flos: float = 0.0,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        self._counter = counter
        self._device = device
        self._peak = _peak(device)
        self._clock = clock
        self._last = clock()
        self.flos = flos

    def restart_clock(self) -> None:
        """Begin the next step now: what came since the last record (validation, saving) is not its time."""
        self._last = self._clock()

    def record(
        self,
        step: int,
        epoch: float,
        counts: Counts,
        *,
        loss: float,
        accuracy: float,
        learning_rate: float,
        grad_norm: float,
        replay_loss: float | None = None,
    ) -> StepRecord:
        """Return the record of a finished step and start the clock of the next."""
        now = self._clock()
        seconds, self._last = max(now - self._last, 1e-9), now
        flos = self._counter.of_counts(counts)
        self.flos += flos
        return StepRecord(
            step=step,
            loss=loss,
            accuracy=accuracy,
            perplexity=perplexity(loss),
            learning_rate=learning_rate,
            epoch=epoch,
            train_flos=self.flos,
            grad_norm=grad_norm,
            learned_tokens=counts.learned_tokens,
            tokens=counts.row_tokens,
            tokens_per_s=counts.row_tokens / seconds,
            memory_gb=memory_gb(self._device),
            mfu=None if self._peak is None else flos / seconds / self._peak,
            computed_tokens=counts.computed_tokens,
            replay_loss=replay_loss,
        )


def _peak(device: torch.device) -> float | None:
    """Return the device's 16-bit peak in FLOP/s, or None if it is not known (CPUs, other cards)."""
    if device.type != "cuda":
        return None
    name = torch.cuda.get_device_name(device)
    return next((peak for key, peak in _PEAKS.items() if key in name), None)


def memory_gb(device: torch.device) -> float:
    """Return the most memory held so far, in GB: of the card, or of this process on a CPU."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 1e9
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e9
