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
    """The LoRA matrices of one linear layer: A [r, in], B [out, r], and where they stand among their neighbours."""

    module: Any
    down: Tensor
    up: Tensor
    scale: float
    rows: slice  # of the fused output
    low: slice  # of the fused ranks


class Projection:
    """One or several linear layers of the same input x: y [T, out] = x W^T + bias, plus LoRA's part.

    Frozen weights of 16 bits and their LoRA matrices lie in one memory [W B; A 0], so that one product of padded rows
    [x | x A^T] does both; the padded columns come last, and who writes x or dy may ask for rows with room for them.
    `parameters` lists what may need a gradient, in the order in which `back_parameters` returns the gradients.
    """

    def __init__(self, linears: Sequence[nn.Module]) -> None:
        plain = [_below(linear) for linear in linears]
        self._first = plain[0]
        self.weights: tuple[Tensor, ...] = tuple(
            linear.weight for linear in plain if isinstance(linear, nn.Linear) and linear.weight.requires_grad
        )
        self.biases: tuple[Tensor, ...] = tuple(linear.bias for linear in plain if linear.bias is not None)
        self.out_features = [int(linear.out_features) for linear in plain]
        self.width, self.total = int(plain[0].in_features), sum(self.out_features)
        self.loras = _loras_of(linears, self.out_features)
        self.ranks = sum(int(lora.down.shape[0]) for lora in self.loras)
        stores = [store_of(linear) for linear in plain]
        lies_plain = all(isinstance(store, DenseStore) for store in stores)
        self.joint = _lay_jointly(plain, self.ranks) if self.loras and lies_plain and not self.weights else None
        self.store = fuse(stores) if self.joint is None else None

    @property
    def parameters(self) -> tuple[Tensor, ...]:
        """Weights of the layers that train, biases, then LoRA's A and B of each layer."""
        return (*self.weights, *self.biases, *(part for lora in self.loras for part in (lora.down, lora.up)))

    @property
    def trains(self) -> bool:
        """Whether a parameter of it needs a gradient."""
        return any(parameter.requires_grad for parameter in self.parameters)

    @property
    def trains_lora_alone(self) -> bool:
        """Whether nothing of it trains but LoRA's matrices."""
        return bool(self.loras) and not self.weights and not any(bias.requires_grad for bias in self.biases)

    def room_for_input(self, rows: int, like: Tensor) -> Tensor:
        """Return memory for x, [rows, in], with room for LoRA's columns where that helps; of the type of `like`."""
        return like.new_empty((rows, self.width + self._padding()))

    def room_for_gradient(self, rows: int, like: Tensor) -> Tensor:
        """Return memory for dy, [rows, out], likewise."""
        return like.new_empty((rows, self.total + self._padding()))

    def times(self, x: Tensor) -> tuple[Tensor, Tensor | None]:
        """Return y, and LoRA's scaled x A^T [T, ranks] for the backward pass; x [T, in] or padded rows.

        Without LoRA, or where its layers are switched off or merged, the second is None.
        """
        inner = x[:, : self.width]
        if not self._is_adapted():
            y, low = self._store_times(inner), None
        elif self.joint is not None:
            self._refresh()
            joint = self._joint_as(x.dtype)
            low = x[:, self.width :] if x.shape[1] > self.width else x.new_empty((len(x), self.ranks))
            torch.mm(inner, joint[self.total :, : self.width].t(), out=low)
            self._scale(low)
            if x.shape[1] > self.width:
                y, low = x @ joint[: self.total].t(), low.contiguous()
            else:
                y = inner @ joint[: self.total, : self.width].t()
                y.addmm_(low, joint[: self.total, self.width :].t())
        else:
            low = inner @ torch.cat([lora.down for lora in self.loras]).to(x.dtype).t()
            self._scale(low)
            y = self._store_times(inner)
            for lora in self.loras:
                y[:, lora.rows].addmm_(low[:, lora.low], lora.up.to(x.dtype).t())
        if self.biases:
            y = y + torch.cat(self.biases).to(y.dtype)
        return y, low

    def back(self, dy: Tensor, low: Tensor | None, *, needs_x: bool) -> tuple[Tensor | None, Tensor | None]:
        """Return the gradients of x (None unless needed) and of x A^T, for dy [T, out] or padded rows.

        low: as `times` returned it.
        """
        outer = dy[:, : self.total]
        if low is None:
            return self._store_back(outer) if needs_x else None, None
        d_low = dy[:, self.total :] if dy.shape[1] > self.total else torch.empty_like(low)
        joint = None if self.joint is None else self._joint_as(dy.dtype)
        for lora in self.loras:
            up = lora.up.to(dy.dtype) if joint is None else joint[lora.rows, self._columns(lora)]
            torch.mm(outer[:, lora.rows], up, out=d_low[:, lora.low])
        self._scale(d_low)
        if not needs_x:
            return None, d_low
        if joint is not None and dy.shape[1] > self.total:
            return dy @ joint[:, : self.width], d_low
        if joint is not None:
            dx = outer @ joint[: self.total, : self.width]
            return dx.addmm_(d_low, joint[self.total :, : self.width]), d_low
        dx = self._store_back(outer)
        return dx.addmm_(d_low, torch.cat([lora.down for lora in self.loras]).to(dx.dtype)), d_low

    def back_parameters(
        self, dy: Tensor, x: Tensor, *, low: Tensor | None, d_low: Tensor | None,
        norm: tuple[Tensor, Tensor] | None = None,
    ) -> tuple[Tensor | None, ...]:  # fmt: skip
        """Return the gradient of each of `parameters`; x as `times` took it, the others as `back` takes and returns.

        norm: scales [T] and gain [in], if what `times` took was scales * x * gain: LoRA's gradients need no more, so
        the norm need not be computed again.
        """
        outer, grads = dy[:, : self.total], list[Tensor | None]()
        if self.weights and self.store is not None:
            whole = self.store.outer(outer, x).split(self.out_features)
            grads += [part.to(weight.dtype) for part, weight in zip(whole, self.weights, strict=True)]
        if self.biases:
            sums = outer.sum(0) if any(bias.requires_grad for bias in self.biases) else outer.new_zeros(self.total)
            parts = sums.split([len(bias) for bias in self.biases])
            grads += [part.to(bias.dtype) for part, bias in zip(parts, self.biases, strict=True)]
        if low is None or d_low is None:
            return (*grads, *([None] * 2 * len(self.loras)))
        if norm is not None:
            d_low = d_low * norm[0][:, None].to(d_low.dtype)
        downs = _product(d_low.t(), x[:, : self.width], self.loras[0].down.dtype)
        if norm is not None:
            downs = downs * norm[1]
        for lora in self.loras:
            grads += [downs[lora.low], _product(outer[:, lora.rows].t(), low[:, lora.low], lora.up.dtype)]
        return tuple(grads)

    def _is_adapted(self) -> bool:
        return bool(self.loras) and not (self.loras[0].module.disable_adapters or self.loras[0].module.merged)

    def _padding(self) -> int:
        return self.ranks if self.joint is not None and self._is_adapted() else 0

    def _columns(self, lora: _Lora) -> slice:
        return slice(self.width + lora.low.start, self.width + lora.low.stop)

    def _refresh(self) -> None:
        """Copy LoRA's matrices, which may have changed, to their places beside the frozen weights."""
        assert self.joint is not None
        for lora in self.loras:
            low = slice(self.total + lora.low.start, self.total + lora.low.stop)
            self.joint[low, : self.width].copy_(lora.down)
            self.joint[lora.rows, self._columns(lora)].copy_(lora.up)

    def _joint_as(self, dtype: torch.dtype) -> Tensor:
        """Return [W B; A 0] in the type of a product: a copy only where weights of 32 bits are multiplied in 16.

        Raises AssertionError when a layer was given other memory since.
        """
        assert self.joint is not None
        moved = self._first.weight.data_ptr() != self.joint.data_ptr()
        assert not moved, "fused weights were moved (model.to after fuse): fuse them again"
        return self.joint.to(dtype)

    def _scale(self, low: Tensor) -> None:
        scales = [lora.scale for lora in self.loras]
        if len(set(scales)) == 1:
            low.mul_(scales[0])
        else:
            for lora in self.loras:
                low[:, lora.low].mul_(lora.scale)

    def _store_times(self, x: Tensor) -> Tensor:
        if self.store is not None:
            return self.store.times(x)
        return x @ self._joint_as(x.dtype)[: self.total, : self.width].t()

    def _store_back(self, dy: Tensor) -> Tensor:
        if self.store is not None:
            return self.store.back(dy)
        return dy @ self._joint_as(dy.dtype)[: self.total, : self.width]


def _lay_jointly(linears: Sequence[Any], ranks: int) -> Tensor:
    """Return [W B; A 0] [out + ranks, in + ranks] with W filled in, and make the layers' weights views of it."""
    first = linears[0].weight
    rows = [linear.out_features for linear in linears]
    joint: Tensor = first.new_zeros((sum(rows) + ranks, first.shape[1] + ranks))
    for linear, part in zip(linears, joint[: sum(rows), : first.shape[1]].split(rows), strict=True):
        part.copy_(linear.weight.detach())
        linear.weight.data = part
    return joint


def _loras_of(linears: Sequence[nn.Module], out_features: Sequence[int]) -> tuple[_Lora, ...]:
    """Return the LoRA matrices of those layers that PEFT has wrapped."""
    found: list[_Lora] = []
    row = low = 0
    for linear, out in zip(linears, out_features, strict=True):
        if linear is not _below(linear):
            layer: Any = linear
            (name,) = layer.active_adapters
            down, up = layer.lora_A[name].weight, layer.lora_B[name].weight
            place = slice(low, low + int(down.shape[0]))
            found.append(_Lora(layer, down, up, float(layer.scaling[name]), slice(row, row + out), place))
            low = place.stop
        row += out
    return tuple(found)


def _below(linear: Any) -> Any:
    """Return the layer that PEFT has wrapped, or the layer itself."""
    return linear.get_base_layer() if hasattr(linear, "lora_A") else linear


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
        product: Tensor = torch.mm(left, right, out_dtype=dtype)
        return product
    return left.to(dtype) @ right.to(dtype)
