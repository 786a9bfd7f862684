"""The rule of Muon: momentum whose directions are made equally long, for the matrices between embedding and head."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from attune.model.kernels.adamw import keep_weight, widen
from attune.train.optimizers.weight import Entry

MOMENTUM = 0.95
ROUNDS = 5
_QUINTIC = (3.4445, -4.7750, 2.0315)  # the steepest at zero that keep singular values near 1 (Jordan 2024)


def hidden_matrices(model: nn.Module) -> set[Tensor]:
    """Return the weights that Muon is for: trainable matrices that are neither an embedding nor the head."""
    find_head = getattr(model, "get_output_embeddings", None)
    head = find_head() if find_head is not None else None
    outer = [part for part in model.modules() if isinstance(part, nn.Embedding) or part is head]
    excluded = {weight for part in outer for weight in part.parameters(recurse=False)}
    return {w for w in model.parameters() if w.ndim == 2 and w.requires_grad and w not in excluded}


def start_muon(weight: Tensor) -> dict[str, Tensor]:
    """Return the momentum of a weight that was never updated: zeros in float32 or better."""
    return {"momentum": torch.zeros_like(weight, dtype=torch.promote_types(weight.dtype, torch.float32))}


def update_muon(
    entries: Sequence[Entry], group: Mapping[str, Any], *, factor: Tensor | None, finite: Tensor | None
) -> None:
    """Update matrices along the orthogonal matrix nearest to their momentum; nothing changes where `finite` is false.

    An update is as long as one of AdamW: 0.2 * lr * sqrt(longer side), so that both share a learning rate.
    Source: Jordan et al. 2024, kellerjordan.github.io/posts/muon; the length: Liu et al., arXiv 2502.16982.
    """
    for entry in entries:
        momentum = entry.state["momentum"]
        grad = entry.grad.to(momentum.dtype)
        if factor is not None:
            grad = grad * factor.to(grad)
        keep = torch.ones((), dtype=grad.dtype, device=grad.device)
        if finite is not None:  # without asking the host: a zero instead of what is not finite, times 0
            keep, grad = finite.to(grad), torch.where(finite, grad, 0)
        momentum.lerp_(grad, (1 - MOMENTUM) * keep)
        direction = orthogonalise(grad.lerp(momentum, MOMENTUM))
        low = entry.state.get("low")
        values = widen(entry.weight, low) * (1 - group["lr"] * group["weight_decay"] * keep)
        values -= (0.2 * group["lr"] * math.sqrt(max(grad.shape)) * keep) * direction
        keep_weight(entry.weight, low, values, seed=entry.seed, step=entry.state["step"])


def orthogonalise(matrix: Tensor) -> Tensor:
    """Return `matrix` [rows, columns] with singular values near 1 (0.7 to 1.2) and the same singular vectors.

    Newton-Schulz iteration: products of matrices only; in bfloat16 on a GPU, which is exact enough for it.
    """
    a, b, c = _QUINTIC
    x = matrix.bfloat16() if matrix.is_cuda else matrix
    tall = x.shape[0] > x.shape[1]
    x = x.T if tall else x
    x = x / torch.linalg.vector_norm(x).clamp(min=1e-7)
    for _ in range(ROUNDS):
        square = x @ x.T
        x = torch.addmm(x, torch.addmm(square, square, square, beta=b, alpha=c), x, beta=a)
    return (x.T if tall else x).to(matrix.dtype)
