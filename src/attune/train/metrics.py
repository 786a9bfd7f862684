"""What a step is worth in numbers: floating point operations, speed, memory, share of the device's peak."""

from __future__ import annotations

import resource
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from transformers.pytorch_utils import Conv1D

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
class FlosCounter:
    """Counts the floating point operations of training on a batch.

    Counted: multiply-adds (2 operations each) of matrix products, that is
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
        weights = [
            part.weight for part in model.modules() if isinstance(part, (nn.Linear, Conv1D)) and part.weight is not head
        ]
        width = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
        return cls(
            linear=sum(w.numel() for w in weights),
            linear_trained=sum(w.numel() for w in weights if w.requires_grad),
            head=0 if head is None else head.numel(),
            head_trained=head.numel() if head is not None and head.requires_grad else 0,
            attention=width * config.num_attention_heads * config.num_hidden_layers,
        )

    def count(self, batches: Sequence[Batch]) -> float:
        """Return the operations of forward and backward over `batches`."""
        tokens = sum(len(batch.tokens) for batch in batches)
        learned = sum(int((batch.targets != NOT_LEARNED).sum()) for batch in batches)
        pairs = sum(length * (length + 1) // 2 for batch in batches for length in batch.lengths)
        per_token = 4 * self.linear + 2 * self.linear_trained
        per_learned = 4 * self.head + 2 * self.head_trained
        return float(tokens * per_token + learned * per_learned + 12 * self.attention * pairs)


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
        batches: Sequence[Batch],
        *,
        loss: float,
        accuracy: float,
        learning_rate: float,
        grad_norm: float,
    ) -> StepRecord:
        """Return the record of a finished step and start the clock of the next."""
        now = self._clock()
        seconds, self._last = max(now - self._last, 1e-9), now
        flos = self._counter.count(batches)
        self.flos += flos
        tokens = sum(len(batch.tokens) for batch in batches)
        peak = _peak(self._device)
        return StepRecord(
            step=step,
            loss=loss,
            accuracy=accuracy,
            perplexity=perplexity(loss),
            learning_rate=learning_rate,
            epoch=epoch,
            train_flos=self.flos,
            grad_norm=grad_norm,
            learned_tokens=sum(int((batch.targets != NOT_LEARNED).sum()) for batch in batches),
            tokens=tokens,
            tokens_per_s=tokens / seconds,
            memory_gb=memory_gb(self._device),
            mfu=None if peak is None else flos / seconds / peak,
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
