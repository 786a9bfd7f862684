"""Linear layers that share their input, as one product forward and one back, LoRA included; no autograd inside."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from attune.model.stores import DenseStore, fuse, store_of


@dataclass(frozen=True, slots=True)
class _Lora:
    """The LoRA matrices of one linear layer: A [r, in], B [out, r], and where its columns lie in the fused output."""

    module: Any
    down: Tensor
    up: Tensor
    scale: float
    columns: slice


class Projection:
    """One or several linear layers of the same input x: y [T, sum of outputs] = x W^T + bias, plus LoRA's part.

    `parameters` lists what may need a gradient, in the order in which `back_parameters` returns the gradients.
    """

    def __init__(self, linears: Sequence[nn.Module]) -> None:
        plain = [_below(linear) for linear in linears]
        self.store = fuse([store_of(linear) for linear in plain])
        self.weights: tuple[Tensor, ...] = tuple(
            linear.weight for linear in plain if isinstance(linear, nn.Linear) and linear.weight.requires_grad
        )
        self.biases: tuple[Tensor, ...] = tuple(linear.bias for linear in plain if linear.bias is not None)
        self.rows = [int(linear.out_features) for linear in plain]
        ends = [sum(self.rows[: number + 1]) for number in range(len(self.rows))]
        self.loras = tuple(
            _lora_of(linear, slice(end - rows, end))
            for linear, end, rows in zip(linears, ends, self.rows, strict=True)
            if linear is not _below(linear)
        )

    @property
    def parameters(self) -> tuple[Tensor, ...]:
        """Weights of the layers that train, biases, then LoRA's A and B of each layer."""
        return (*self.weights, *self.biases, *(part for lora in self.loras for part in (lora.down, lora.up)))

    @property
    def trains(self) -> bool:
        """Whether a parameter of it needs a gradient."""
        return any(parameter.requires_grad for parameter in self.parameters)

    def times(self, x: Tensor, add: Tensor | None = None) -> tuple[Tensor, Tensor | None]:
        """Return y (+ `add`), and x A^T of all LoRA layers [T, sum of ranks] for the backward pass.

        Without LoRA, or where its layers are switched off or merged, the second is None.
        """
        if add is not None and isinstance(self.store, DenseStore) and add.dtype == x.dtype:
            y = torch.addmm(add, x, self.store.dense().to(x.dtype).t())
        else:
            y = self.store.times(x)
            y = y if add is None else y + add
        if self.biases:
            y = y + torch.cat(self.biases).to(y.dtype)
        if not self._is_adapted():
            return y, None
        low = x @ self._down(x.dtype).t()
        for lora, part in zip(self.loras, low.split(self._ranks(), dim=1), strict=True):
            if y.dtype == part.dtype:
                y[:, lora.columns].addmm_(part, lora.up.to(part.dtype).t(), alpha=lora.scale)
            else:
                y[:, lora.columns] += lora.scale * (part @ lora.up.to(part.dtype).t())
        return y, low

    def back(self, dy: Tensor, low: Tensor | None, *, needs_x: bool) -> tuple[Tensor | None, Tensor | None]:
        """Return the gradients of x (None unless needed) and of `low`, as `times` returned it, for dy, that of y."""
        d_low = None
        if low is not None:
            d_low = torch.empty_like(low)
            for lora, target in zip(self.loras, d_low.split(self._ranks(), dim=1), strict=True):
                torch.mm(dy[:, lora.columns], (lora.scale * lora.up).to(dy.dtype), out=target)
        if not needs_x:
            return None, d_low
        dx = self.store.back(dy)
        if d_low is not None:
            dx.addmm_(d_low, self._down(dx.dtype))
        return dx, d_low

    def back_parameters(
        self, dy: Tensor, x: Tensor, *, low: Tensor | None, d_low: Tensor | None
    ) -> tuple[Tensor | None, ...]:
        """Return the gradient of each of `parameters`; x as `times` took it, the others as `back` takes and returns."""
        grads: list[Tensor | None] = []
        if self.weights:
            whole = self.store.outer(dy, x).split(self.rows)
            grads += [part.to(weight.dtype) for part, weight in zip(whole, self.weights, strict=True)]
        if self.biases:
            sums = dy.sum(0).split([len(bias) for bias in self.biases])
            grads += [part.to(bias.dtype) for part, bias in zip(sums, self.biases, strict=True)]
        if low is None or d_low is None:
            return (*grads, *([None] * 2 * len(self.loras)))
        downs = _product(d_low.t(), x, self.loras[0].down.dtype).split(self._ranks())
        for lora, down, part in zip(self.loras, downs, low.split(self._ranks(), dim=1), strict=True):
            up = _product(dy[:, lora.columns].t(), part, lora.up.dtype)
            grads += [down, up.mul_(lora.scale)]
        return tuple(grads)

    def _is_adapted(self) -> bool:
        return bool(self.loras) and not (self.loras[0].module.disable_adapters or self.loras[0].module.merged)

    def _ranks(self) -> list[int]:
        return [int(lora.down.shape[0]) for lora in self.loras]

    def _down(self, dtype: torch.dtype) -> Tensor:
        """Return A of all layers, one below the other, [sum of ranks, in]."""
        return torch.cat([lora.down for lora in self.loras]).to(dtype)


def _below(linear: Any) -> Any:
    """Return the layer that PEFT has wrapped, or the layer itself."""
    return linear.get_base_layer() if hasattr(linear, "lora_A") else linear


def _lora_of(linear: Any, columns: slice) -> _Lora:
    (name,) = linear.active_adapters
    return _Lora(linear, linear.lora_A[name].weight, linear.lora_B[name].weight, float(linear.scaling[name]), columns)


def is_plain_lora(linear: Any) -> bool:
    """Whether a PEFT layer is LoRA as first published: one adapter, no dropout, no DoRA, no bias of its own."""
    names = list(linear.active_adapters)
    if len(names) != 1 or getattr(linear, "fan_in_fan_out", False):
        return False
    (name,) = names
    return (
        name in linear.lora_A
        and isinstance(linear.lora_dropout[name], nn.Identity)
        and not linear.use_dora.get(name, False)
        and linear.lora_B[name].bias is None
    )


def _product(left: Tensor, right: Tensor, dtype: torch.dtype) -> Tensor:
    """Return left @ right in `dtype`, accumulated there and not rounded to 16 bits on the way where that can be."""
    if left.dtype == dtype:
        return left @ right
    if left.is_cuda and dtype == torch.float32:
        return torch.mm(left, right, out_dtype=dtype)
    return left.to(dtype) @ right.to(dtype)
