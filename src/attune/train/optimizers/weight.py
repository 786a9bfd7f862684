"""A weight with what its update needs, and the norm of gradients."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True, slots=True)
class Entry:
    """A weight that has a gradient, with its state; `seed`: of the noise by which it may be rounded."""

    weight: Tensor
    grad: Tensor
    state: dict[str, Tensor]
    seed: int


def start_state(weight: Tensor, *, rounding: str) -> dict[str, Tensor]:
    """Return what every rule keeps for a weight never updated: its count of updates, and its lower half if it has one.

    `rounding`: as train.rounding; it concerns bfloat16 weights only.
    """
    state = {"step": torch.zeros((), dtype=torch.float32, device=weight.device)}
    if weight.dtype == torch.bfloat16 and rounding == "master":
        state["low"] = torch.zeros_like(weight, dtype=torch.int16)
    return state


def gradient_norm(gradients: Sequence[Tensor]) -> Tensor:
    """Return the Euclidean norm of all gradients together, a scalar summed in float32 or better."""
    if not gradients:
        return torch.zeros(())
    kinds: dict[torch.dtype, list[Tensor]] = {}
    for gradient in gradients:
        kinds.setdefault(gradient.dtype, []).append(gradient)
    norms: list[Tensor] = []
    for dtype, group in kinds.items():
        wide = torch.promote_types(dtype, torch.float32)  # the public function rounds each norm to the gradients' type
        norms += torch._foreach_norm(group, 2, dtype=wide)  # noqa: SLF001
    total: Tensor = torch.linalg.vector_norm(torch.stack(norms))
    return total
