"""How the weight of a linear layer is held (dense, 4 bits, 8 bits), and the products that training needs of it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol, runtime_checkable

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable


class Store(Protocol):
    """The weight W [out, in] of a linear layer, however it is held; no product records anything for autograd."""

    @property
    def out_features(self) -> int:
        """The rows of W."""

    @property
    def in_features(self) -> int:
        """The columns of W."""

    @property
    def dtype(self) -> torch.dtype:
        """The type of `dense()`; products have the type of what they are given."""

    @property
    def device(self) -> torch.device:
        """Where W lies."""

    def times(self, x: Tensor) -> Tensor:
        """Return x [T, in] @ W.T: [T, out], in the type of `x`."""

    def back(self, dy: Tensor) -> Tensor:
        """Return dy [T, out] @ W: [T, in], in the type of `dy`: the gradient of `times` by its input."""

    def outer(self, dy: Tensor, x: Tensor) -> Tensor:
        """Return dy.T @ x: [out, in], in the type of `x`: the gradient of `times` by the weight."""

    def dense(self) -> Tensor:
        """Return W [out, in]. It may lie in scratch memory that the next call of any store overwrites."""

    def joined(self, others: Sequence[Store]) -> Store | None:
        """Return one store of the rows of this one and those of `others`; None where their kinds do not go together."""


@runtime_checkable
class HoldsStore(Protocol):
    """What holds a weight in a way of its own."""

    def store(self) -> Store:
        """Return how the weight is held."""


class HeldLinear(nn.Linear):
    """A linear layer whose frozen weight is held by `held`, a module that holds a store; in all else as torch's.

    `weight` has the shape, type and device of the weight but no memory: it reads as NaN and cannot be changed.
    """

    def __init__(self, held: nn.Module, bias: Tensor | None, *, was_transposed: bool = False) -> None:
        nn.Module.__init__(self)  # not Linear's, which would make a weight
        assert isinstance(held, HoldsStore)
        self.held = held
        self.was_transposed = was_transposed  # it replaces one of GPT-2's layers, which keep [in, out]
        self.in_features, self.out_features = held.store().in_features, held.store().out_features
        self.register_parameter("bias", None if bias is None else nn.Parameter(bias.detach(), requires_grad=False))

    @property
    def weight(self) -> Tensor:  # type: ignore[override]
        """Return what stands for the weight [out, in] where only its shape, type or device is asked for."""
        store = self.store()
        one = torch.full((), float("nan"), dtype=store.dtype, device=store.device)
        return one.expand(self.out_features, self.in_features)

    def store(self) -> Store:
        """Return how the weight is held."""
        assert isinstance(self.held, HoldsStore)
        return self.held.store()

    def forward(self, x: Tensor) -> Tensor:
        """Return x [..., in] @ W.T + bias: [..., out], in the type of `x` (of autocast, where it is on)."""
        y: Tensor = multiply(x, self.store(), bias=self.bias)
        return y


class DenseStore:
    """Weights as they are: views of the parameters of one or several layers, always up to date with them."""

    def __init__(self, linears: Sequence[nn.Linear]) -> None:
        self.linears = tuple(linears)
        self._whole = self.linears[0].weight.detach()
        if len(self.linears) > 1:
            self._whole = _share_storage(self.linears)

    @property
    def out_features(self) -> int:
        """The rows of W."""
        return int(self._whole.shape[0])

    @property
    def in_features(self) -> int:
        """The columns of W."""
        return int(self._whole.shape[1])

    @property
    def dtype(self) -> torch.dtype:
        """The type of the parameters."""
        return self._whole.dtype

    @property
    def device(self) -> torch.device:
        """Where the parameters lie."""
        return self._whole.device

    def times(self, x: Tensor) -> Tensor:
        """Return x [T, in] @ W.T: [T, out]."""
        with torch.no_grad():
            return F.linear(x, self.dense().to(x.dtype))

    def back(self, dy: Tensor) -> Tensor:
        """Return dy [T, out] @ W: [T, in]."""
        with torch.no_grad():
            return dy @ self.dense().to(dy.dtype)

    def outer(self, dy: Tensor, x: Tensor) -> Tensor:
        """Return dy.T @ x: [out, in]."""
        with torch.no_grad():
            return dy.to(x.dtype).t() @ x

    def dense(self) -> Tensor:
        """Return the weights themselves: [out, in]. Raises AssertionError when a layer was given other memory since."""
        first = self.linears[0].weight
        if first.data_ptr() != self._whole.data_ptr():
            assert len(self.linears) == 1, "fused weights were moved (model.to after fuse): fuse them again"
            self._whole = first.detach()
        return self._whole

    def joined(self, others: Sequence[Store]) -> Store | None:
        """Return one dense store of all rows; the parameters become views of one memory, so nothing is held twice."""
        linears = list(self.linears)
        for other in others:
            if not isinstance(other, DenseStore) or other.dtype != self.dtype:
                return None
            linears.extend(other.linears)
        return DenseStore(linears)


class JoinedStore:
    """Several stores of different kinds side by side: one product after the other."""

    def __init__(self, parts: Sequence[Store]) -> None:
        self._parts = tuple(parts)
        self._rows = [part.out_features for part in self._parts]

    @property
    def out_features(self) -> int:
        """The rows of all parts."""
        return sum(self._rows)

    @property
    def in_features(self) -> int:
        """The columns of W."""
        return self._parts[0].in_features

    @property
    def dtype(self) -> torch.dtype:
        """The type of the first part."""
        return self._parts[0].dtype

    @property
    def device(self) -> torch.device:
        """Where the first part lies."""
        return self._parts[0].device

    def times(self, x: Tensor) -> Tensor:
        """Return x [T, in] @ W.T: [T, out]."""
        return torch.cat([part.times(x) for part in self._parts], dim=-1)

    def back(self, dy: Tensor) -> Tensor:
        """Return dy [T, out] @ W: [T, in]."""
        shares = dy.split(self._rows, dim=-1)
        total = self._parts[0].back(shares[0].contiguous())
        for part, share in zip(self._parts[1:], shares[1:], strict=True):
            total = total + part.back(share.contiguous())
        return total

    def outer(self, dy: Tensor, x: Tensor) -> Tensor:
        """Return dy.T @ x: [out, in]."""
        shares = dy.split(self._rows, dim=-1)
        return torch.cat([part.outer(share, x) for part, share in zip(self._parts, shares, strict=True)])

    def dense(self) -> Tensor:
        """Return all weights: [out, in]."""
        whole = torch.empty(self.out_features, self.in_features, dtype=self.dtype, device=self.device)
        for rows, part in zip(whole.split(self._rows), self._parts, strict=True):
            rows.copy_(part.dense())
        return whole

    def joined(self, others: Sequence[Store]) -> Store | None:
        """Return the parts of this one and `others` side by side."""
        return JoinedStore([*self._parts, *others])


def store_of(linear: nn.Module) -> Store:
    """Return how the weight of a linear layer is held: as it is, or in fewer bits.

    The bias, if any, is not in it. Raises TypeError for other modules.
    """
    if isinstance(linear, HoldsStore):
        return linear.store()
    if isinstance(linear, nn.Linear):
        return DenseStore([linear])
    raise TypeError(f"{type(linear).__name__} is no linear layer")


def fuse(stores: Sequence[Store]) -> Store:
    """Return one store of several that share their input: the rows of W one below the other.

    Parameters of dense layers become views of one memory; do it when the model lies on its device. Raises ValueError
    unless all have as many columns.
    """
    if len({store.in_features for store in stores}) != 1:
        raise ValueError(f"stores of {[store.in_features for store in stores]} inputs share none")
    if len(stores) == 1:
        return stores[0]
    return stores[0].joined(stores[1:]) or JoinedStore(stores)


# stores keep memory that is used again and again, which a compiler cannot see
@torch.compiler.disable  # type: ignore[untyped-decorator]
def multiply(x: Tensor, store: Store, *, weight: Tensor | None = None, bias: Tensor | None = None) -> Tensor:
    """Return x [..., in] @ W.T + bias: [..., out]; autograd finds the gradient of `x`, and of `weight` if it is given.

    Under autocast, `x` is cast first, as torch's linear does.
    """
    if torch.is_autocast_enabled(x.device.type):
        x = x.to(torch.get_autocast_dtype(x.device.type))
    y: Tensor = _Product.apply(x.reshape(-1, x.shape[-1]), weight, store)  # type: ignore[no-untyped-call]
    if bias is not None:
        y = y + bias.to(y.dtype)
    return y.view(*x.shape[:-1], -1)


class _Product(torch.autograd.Function):
    """The product of a store as autograd sees it."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor | None, store: Store) -> Tensor:
        """Return x [T, in] @ W.T: [T, out]."""
        ctx.store = store
        ctx.weight_dtype = None if weight is None else weight.dtype
        ctx.save_for_backward(x if ctx.needs_input_grad[1] else None)
        return store.times(x)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor | None, Tensor | None, None]:
        """Return the gradients of x and of the weight."""
        (x,) = ctx.saved_tensors
        dx = ctx.store.back(dy) if ctx.needs_input_grad[0] else None
        dw = None if x is None else ctx.store.outer(dy, x).to(ctx.weight_dtype)
        return dx, dw, None


def _share_storage(linears: Sequence[nn.Linear]) -> Tensor:
    """Lay the weights of `linears` one below the other, make each parameter a view of its rows, and return them all."""
    with torch.no_grad():
        whole = torch.cat([linear.weight.detach() for linear in linears])
        for linear, rows in zip(linears, whole.split([linear.out_features for linear in linears]), strict=True):
            linear.weight.data = rows
    return whole
