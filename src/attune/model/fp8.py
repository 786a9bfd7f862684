"""Linear layers multiplied in 8-bit floats: frozen weights are quantised once, trained ones whenever they are used.

What is multiplied by them is quantised each time. Under LoRA the frozen base *is* these 8-bit weights: the adapter
learns beside them. Gradients of trained weights are products in 16 bits, because their errors would add up over steps.
Source: Micikevicius et al. 2022, arXiv 2209.05433.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from attune.errors import ConfigError, ModelError
from attune.model.kernels.fp8 import quantise
from attune.model.nf4 import is_head
from attune.model.stores import DenseStore, HeldLinear, Store, multiply

MULTIPLE = 16  # of both sizes of a layer: what 8-bit matrix units take
_E4M3, _E5M2 = torch.float8_e4m3fn, torch.float8_e5m2


class Fp8Weight(nn.Module):
    """A frozen matrix in 8 bits, twice: W for products forward, W.T for products back, as the hardware wants them.

    by_out: e4m3 [out, in]; by_in: e4m3 [in, out]; their scales: float32 [out, 1] and [in, 1], or [1, 1] for all.
    """

    by_out: Tensor
    by_in: Tensor
    out_scales: Tensor
    in_scales: Tensor

    def __init__(self, weight: Tensor, *, by_row: bool = True) -> None:
        """Quantise `weight` [out, in]. Raises ModelError when a number in it is not finite."""
        super().__init__()
        weight = weight.detach()
        if not bool(torch.isfinite(weight).all()):
            raise ModelError("a weight is NaN or infinite; no scale holds it. Fetch the model again.")
        self.dtype = weight.dtype
        for name, matrix in (("out", weight.contiguous()), ("in", weight.t().contiguous())):
            numbers, scales = quantise(matrix, by_row=by_row)
            self.register_buffer(f"by_{name}", numbers)
            self.register_buffer(f"{name}_scales", scales)

    @property
    def by_row(self) -> bool:
        """Whether each row has a scale of its own."""
        return self.out_scales.numel() > 1

    def store(self) -> Store:
        """Return the store of this matrix."""
        return Fp8Store(self)

    @torch.no_grad()
    def join(self, others: Sequence[Fp8Weight]) -> Fp8Weight:
        """Return one matrix of the rows of all; the parts become views of it, so nothing is held twice.

        Scales that must become one become the largest; they are powers of two, so the numbers keep their bits (those
        that are less than 1 part in 10,000 of the largest of their row may lose some).
        """
        parts = [self, *others]
        whole = Fp8Weight.__new__(Fp8Weight)
        nn.Module.__init__(whole)
        whole.dtype = self.dtype
        in_scales = torch.stack([part.in_scales for part in parts]).amax(0)
        out_scales = torch.cat([part.out_scales for part in parts])
        if not self.by_row:
            out_scales = out_scales.amax(0, keepdim=True)
        by_out = torch.cat(
            [_rescaled(part.by_out, part.out_scales, None if self.by_row else out_scales) for part in parts]
        )
        by_in = torch.cat([_rescaled(part.by_in, part.in_scales, in_scales) for part in parts], dim=1)
        for name, tensor in (("out", by_out), ("in", by_in)):
            whole.register_buffer(f"by_{name}", tensor)
        whole.register_buffer("out_scales", out_scales)
        whole.register_buffer("in_scales", in_scales)
        sizes = [part.by_out.shape[0] for part in parts]
        for part, rows, columns in zip(parts, by_out.split(sizes), by_in.split(sizes, dim=1), strict=True):
            part.by_out, part.by_in, part.in_scales = rows, columns, in_scales
            part.out_scales = part.out_scales if self.by_row else out_scales
        return whole


class Fp8Store:
    """A frozen matrix in 8 bits and its products."""

    def __init__(self, weight: Fp8Weight) -> None:
        self.weight = weight

    @property
    def out_features(self) -> int:
        """The rows of W."""
        return int(self.weight.by_out.shape[0])

    @property
    def in_features(self) -> int:
        """The columns of W."""
        return int(self.weight.by_out.shape[1])

    @property
    def dtype(self) -> torch.dtype:
        """The type that the weights had."""
        return self.weight.dtype

    @property
    def device(self) -> torch.device:
        """Where the weights lie."""
        return self.weight.by_out.device

    def times(self, x: Tensor) -> Tensor:
        """Return x [T, in] @ W.T: [T, out]."""
        return _times(x, self.weight.by_out, self.weight.out_scales, dtype=_E4M3)

    def back(self, dy: Tensor) -> Tensor:
        """Return dy [T, out] @ W: [T, in]."""
        return _times(dy, self.weight.by_in, self.weight.in_scales, dtype=gradient_type(self.weight.by_row))

    def outer(self, dy: Tensor, x: Tensor) -> Tensor:
        """Return dy.T @ x: [out, in]; it does not depend on how the weights are held."""
        with torch.no_grad():
            return dy.to(x.dtype).t() @ x

    def dense(self) -> Tensor:
        """Return the weights [out, in] in the type they had."""
        return (self.weight.by_out.float() * self.weight.out_scales).to(self.dtype)

    def joined(self, others: Sequence[Store]) -> Store | None:
        """Return one store of all rows; the parts become views of it."""
        weights = []
        for other in others:
            if not isinstance(other, Fp8Store) or other.weight.by_row != self.weight.by_row:
                return None
            weights.append(other.weight)
        return Fp8Store(self.weight.join(weights))


class Fp8Linear(nn.Linear):
    """A linear layer that trains: its weight stays as it is and is quantised whenever it is used."""

    by_row: bool

    def store(self) -> Store:
        """Return how the weight is multiplied."""
        return TrainedFp8Store(DenseStore([self]), by_row=self.by_row)

    def forward(self, x: Tensor) -> Tensor:
        """Return x [..., in] @ W.T + bias: [..., out], in the type of `x` (of autocast, where it is on)."""
        y: Tensor = multiply(x, self.store(), weight=self.weight, bias=self.bias)
        return y


class TrainedFp8Store:
    """Weights that train, multiplied in 8 bits; the gradient of the weights is a product of what it was in 16 bits."""

    def __init__(self, linear: DenseStore, *, by_row: bool) -> None:
        self.linear = linear
        self.by_row = by_row

    @property
    def out_features(self) -> int:
        """The rows of W."""
        return self.linear.out_features

    @property
    def in_features(self) -> int:
        """The columns of W."""
        return self.linear.in_features

    @property
    def dtype(self) -> torch.dtype:
        """The type of the parameters."""
        return self.linear.dtype

    @property
    def device(self) -> torch.device:
        """Where the parameters lie."""
        return self.linear.device

    def times(self, x: Tensor) -> Tensor:
        """Return x [T, in] @ W.T: [T, out]."""
        with torch.no_grad():
            return _times(x, *quantise(self.linear.dense(), by_row=self.by_row), dtype=_E4M3)

    def back(self, dy: Tensor) -> Tensor:
        """Return dy [T, out] @ W: [T, in]."""
        with torch.no_grad():
            if self.by_row:
                numbers, scales = quantise(self.linear.dense().t().contiguous())
            else:  # one scale for all: the numbers are the same either way round
                numbers, scales = quantise(self.linear.dense(), by_row=False)
                numbers = numbers.t().contiguous()
            return _times(dy, numbers, scales, dtype=gradient_type(self.by_row))

    def outer(self, dy: Tensor, x: Tensor) -> Tensor:
        """Return dy.T @ x: [out, in], not in 8 bits."""
        return self.linear.outer(dy, x)

    def dense(self) -> Tensor:
        """Return the weights themselves: [out, in]."""
        return self.linear.dense()

    def joined(self, others: Sequence[Store]) -> Store | None:
        """Return one store of all rows; the parameters become views of one memory."""
        rest = []
        for other in others:
            if not isinstance(other, TrainedFp8Store) or other.by_row != self.by_row or other.dtype != self.dtype:
                return None
            rest.append(other.linear)
        linear = self.linear.joined(rest)
        assert isinstance(linear, DenseStore), "equal types are joined"
        return TrainedFp8Store(linear, by_row=self.by_row)


def gradient_type(by_row: bool) -> torch.dtype:  # noqa: FBT001 - named by its only caller
    """Return the type of gradients: e4m3 where each token has a scale, for then one more bit of the mantissa is better.

    With one scale for all tokens it is e5m2: gradients of tokens differ by more than e4m3 spans.
    """
    return _E4M3 if by_row else _E5M2


def _times(x: Tensor, numbers: Tensor, scales: Tensor, *, dtype: torch.dtype) -> Tensor:
    """Return x [T, K] @ (numbers * scales).T: [T, N], in the type of `x`.

    numbers: e4m3 [N, K]; scales: float32 [N, 1] or [1, 1]. `x` is quantised to `dtype`: by rows where the numbers are.
    Without 8-bit units, 8-bit numbers are multiplied as float32, which is the same to rounding.
    """
    with torch.no_grad():
        eight, x_scales = quantise(x, dtype, by_row=scales.numel() > 1)
        if not x.is_cuda:
            wide = (eight.float() * x_scales) @ (numbers.float() * scales).t()
            return wide.to(x.dtype)
        # sums in the matrix units' own precision ("fast"), as torchao's recipe of row scales has it both ways
        out = torch._scaled_mm(  # noqa: SLF001 - torch has no other name for it
            eight, numbers.t(), scale_a=x_scales, scale_b=scales.t(), out_dtype=torch.bfloat16, use_fast_accum=True
        )
        return out.to(x.dtype)


@dataclass(frozen=True, slots=True)
class HeldInFp8:
    """What `hold_in_fp8` did."""

    layers: int
    weights: int
    left_out: tuple[str, ...]  # linear layers that stay as they are: the head, and sizes that are no multiple of 16


def check_fp8(device: torch.device) -> None:
    """Raise ModelError unless `device` multiplies 8-bit floats."""
    if device.type != "cuda":
        raise ModelError(f"train.fp8: {device} has no 8-bit matrix units. Leave it off, or train on a newer GPU.")
    if torch.cuda.get_device_capability(device) < (8, 9):
        name = torch.cuda.get_device_name(device)
        raise ModelError(f"train.fp8: {name} has no 8-bit matrix units (from Ada and Hopper on). Leave it off.")


def hold_in_fp8(model: nn.Module, *, is_frozen: bool, by_row: bool = True, simulate: bool = False) -> HeldInFp8:
    """Make the linear layers of `model`, except the head, multiply in 8 bits; do it before PEFT wraps them.

    Frozen weights are held in 8 bits only, one layer after the other; weights that train stay as they are. `by_row`: a
    scale for each row rather than for a whole matrix. `simulate`: compute the same on a device without 8-bit units.
    Raises ModelError when the device has none, or when no layer fits; ConfigError for a model held in 4 bits.
    """
    if any(isinstance(part, HeldLinear) for part in model.modules()):
        raise ConfigError(
            "train.fp8: weights that are held in 4 bits are not multiplied in 8.\n"
            "Use adapter.kind lora in place of qlora, or leave train.fp8 off."
        )
    device = next(model.parameters()).device
    if not simulate:
        check_fp8(device)
    layers = weights = 0
    left_out = []
    for parent_name, parent in list(model.named_modules()):
        for name, child in list(parent.named_children()):
            if type(child) is not nn.Linear:
                continue
            if is_head(model, child) or child.in_features % MULTIPLE or child.out_features % MULTIPLE:
                left_out.append(f"{parent_name}.{name}".lstrip("."))
                continue
            layers, weights = layers + 1, weights + child.weight.numel()
            if is_frozen:
                held = HeldLinear(Fp8Weight(child.weight, by_row=by_row), child.bias)
                setattr(parent, name, held.train(child.training))
            else:
                child.__class__ = Fp8Linear  # the parameters, their names and hooks stay
                child.by_row = by_row  # type: ignore[assignment]
    if not layers:
        raise ModelError(
            f"train.fp8: {type(model).__name__} has no linear layers whose sizes are multiples of {MULTIPLE}.\n"
            "Leave it off."
        )
    return HeldInFp8(layers, weights, tuple(left_out))


def _rescaled(numbers: Tensor, old: Tensor, new: Tensor | None) -> Tensor:
    """Return 8-bit numbers for other scales; both scales are powers of two."""
    return numbers if new is None else (numbers.float() * (old / new)).to(numbers.dtype)
