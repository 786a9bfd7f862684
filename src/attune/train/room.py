"""How many tokens fit into memory at once: halved when memory runs out, so that the step goes on and ends the same."""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch

from attune.errors import OutOfMemoryError
from attune.types import Batch

FEWEST_TOKENS = 64
_OTHER_WORDS = ("CUBLAS_STATUS_ALLOC_FAILED", "DefaultCPUAllocator: can't allocate memory")

_ADVICE = (
    "Start a new run with train.checkpointing full (and train.offload true), adapter.kind lora or qlora,\n"
    "train.optimizer adamw_8bit or a smaller data.max_length; `attune plan` says what fits."
)


def is_out_of_memory(error: RuntimeError) -> bool:
    """Whether an error says that memory ran out; libraries below torch and the CPU say so in other words."""
    return isinstance(error, torch.OutOfMemoryError) or any(words in str(error) for words in _OTHER_WORDS)


@contextmanager
def needs_memory(doing: str) -> Iterator[None]:
    """Turn running out of memory inside into the error that says what was being done, and what to do.

    Raises: OutOfMemoryError.
    """
    try:
        yield
    except RuntimeError as error:
        if not is_out_of_memory(error):
            raise
        raise OutOfMemoryError(f"out of memory while {doing}.\n{_ADVICE}") from error


class Room:
    """The tokens computed at once, from the config's figure downwards. `tell` hears of every change.

    `is_fixed`: the figure cannot change, because a step that was begun cannot begin again.
    """

    def __init__(self, micro_tokens: int, *, tell: Callable[[str], None] | None = None, is_fixed: bool = False) -> None:
        self.micro_tokens = micro_tokens
        self._tell = tell
        self._is_fixed = is_fixed

    def shrink(self, batch: Batch, *, step: int, device: torch.device) -> None:
        """Halve the tokens computed at once after `batch` did not fit, and give back what is held in vain.

        Raises: OutOfMemoryError when the batch is a single row, or has at most 64 tokens, or the room is fixed.
        """
        tokens = len(batch.tokens)
        half = max(min(self.micro_tokens, tokens) // 2, FEWEST_TOKENS)
        free_memory(device)
        if self._is_fixed or len(batch.rows) == 1 or tokens <= FEWEST_TOKENS:
            rows = "one row" if len(batch.rows) == 1 else f"{len(batch.rows)} rows"
            kept = (
                "train.gradient_release keeps a step in one piece" if self._is_fixed else "nothing was updated with it"
            )
            raise OutOfMemoryError(f"step {step}: out of memory with {rows} of {tokens:,} tokens; {kept}.\n{_ADVICE}")
        if self._tell is not None:
            self._tell(
                f"step {step}: out of memory with {tokens:,} tokens at once; going on with {half:,}. The result is the "
                f"same; train.micro_tokens {half} saves the attempt."
            )
        self.micro_tokens = half


def free_memory(device: torch.device) -> None:
    """Give unused memory back to the device, so that it can be cut anew."""
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()
