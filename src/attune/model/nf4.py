"""QLoRA's frozen weights: 4 bits each (NF4), with scales of 8 bits; a layer is unpacked whenever it is used.

Source: Dettmers et al. 2023, arXiv 2305.14314.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from attune.errors import ModelError
from attune.model.kernels.nf4 import find_scales, pack, unpack
from attune.model.stores import HeldLinear, Store


class Scratch:
    """Memory into which one layer after the other is unpacked: as large as the largest, for each type and device."""

    def __init__(self) -> None:
        self._memory: dict[tuple[torch.device, torch.dtype], Tensor] = {}

    def take(self, rows: int, columns: int, *, dtype: torch.dtype, device: torch.device) -> Tensor:
        """Return [rows, columns] of it, uninitialised; what was taken before is overwritten."""
        key = (device, dtype)
        if key not in self._memory or self._memory[key].numel() < rows * columns:
            self._memory[key] = torch.empty(rows * columns, dtype=dtype, device=device)
        return self._memory[key][: rows * columns].view(rows, columns)

    def __deepcopy__(self, _: object) -> Scratch:
        """Return one of its own: what lies in it is worth nothing."""
        return Scratch()


class Nf4Weight(nn.Module):
    """A matrix of 4-bit numbers, about 4.13 bits a weight in all."""

    def __init__(self, weight: Tensor, scratch: Scratch) -> None:
        """Pack `weight` [out, in] on its device. Raises ModelError when a number in it is not finite."""
        super().__init__()
        flat = weight.detach().contiguous().flatten()
        if not bool(torch.isfinite(flat).all()):
            raise ModelError("a weight is NaN or infinite; no scale holds it. Fetch the model again.")
        codes, grid = find_scales(flat)
        self.packed: Tensor
        self.register_buffer("packed", pack(flat, codes, grid))
        self.codes: Tensor
        self.register_buffer("codes", codes)
        self.grid: Tensor
        self.register_buffer("grid", grid)
        self.rows, self.columns = weight.shape
        self.dtype = weight.dtype
        self.scratch = scratch

    def store(self) -> Store:
        """Return the store of this matrix alone."""
        return Nf4Store([self])

    def unpack_into(self, out: Tensor) -> None:
        """Write the weights into `out` [out, in], contiguous, in its type."""
        unpack(self.packed, self.codes, self.grid, out.view(-1))


class Nf4Store:
    """One or several matrices of 4-bit numbers, the rows of one below those of the other."""

    def __init__(self, parts: Sequence[Nf4Weight]) -> None:
        self.parts = tuple(parts)

    @property
    def out_features(self) -> int:
        """The rows of all parts."""
        return sum(part.rows for part in self.parts)

    @property
    def in_features(self) -> int:
        """The columns of each part."""
        return int(self.parts[0].columns)

    @property
    def dtype(self) -> torch.dtype:
        """The type that the weights had."""
        return self.parts[0].dtype

    @property
    def device(self) -> torch.device:
        """Where the weights lie."""
        return self.parts[0].packed.device

    def times(self, x: Tensor) -> Tensor:
        """Return x [T, in] @ W.T: [T, out]."""
        with torch.no_grad():
            return F.linear(x, self._unpacked(x.dtype))

    def back(self, dy: Tensor) -> Tensor:
        """Return dy [T, out] @ W: [T, in]."""
        with torch.no_grad():
            return dy @ self._unpacked(dy.dtype)

    def outer(self, dy: Tensor, x: Tensor) -> Tensor:
        """Return dy.T @ x: [out, in]; it does not depend on how the weights are held."""
        with torch.no_grad():
            return dy.to(x.dtype).t() @ x

    def dense(self) -> Tensor:
        """Return the weights [out, in] in scratch memory, valid until the next layer is used."""
        return self._unpacked(self.dtype)

    def joined(self, others: Sequence[Store]) -> Store | None:
        """Return one store of all parts; each stays where it is, and they are unpacked side by side."""
        parts = list(self.parts)
        for other in others:
            if not isinstance(other, Nf4Store):
                return None
            parts.extend(other.parts)
        return Nf4Store(parts)

    def _unpacked(self, dtype: torch.dtype) -> Tensor:
        """Return the weights [out, in] as `dtype`, in scratch memory."""
        scratch = self.parts[0].scratch
        whole = scratch.take(self.out_features, self.in_features, dtype=dtype, device=self.device)
        for rows, part in zip(whole.split([part.rows for part in self.parts]), self.parts, strict=True):
            part.unpack_into(rows)
        return whole


@dataclass(frozen=True, slots=True)
class Quantised:
    """What `quantise_linears` did."""

    layers: int
    weights: int
    left_out: tuple[str, ...]  # linear layers that stay as they are


def quantise_linears(model: nn.Module, *, device: torch.device | str | None = None) -> Quantised:
    """Hold the linear layers of `model`, except the head, in 4 bits: on `device`, one layer after the other.

    So the 16-bit model never lies on the device as a whole. The rest of the model stays where it is; layers of
    GPT-2's kind become torch's. Raises ModelError when there is nothing to hold so.
    """
    scratch = Scratch()
    layers = weights = 0
    left_out = []
    for parent_name, parent in list(model.named_modules()):
        for name, child in list(parent.named_children()):
            if not isinstance(child, (nn.Linear, Conv1D)) or isinstance(child, HeldLinear):
                continue
            if is_head(model, child):
                left_out.append(f"{parent_name}.{name}".lstrip("."))
                continue
            where = device if device is not None else child.weight.device
            dense = child.weight.detach().to(where)
            dense = dense.t() if isinstance(child, Conv1D) else dense
            bias = None if child.bias is None else child.bias.detach().to(where)
            held = HeldLinear(Nf4Weight(dense, scratch), bias, was_transposed=isinstance(child, Conv1D))
            setattr(parent, name, held.train(child.training))
            layers += 1
            weights += dense.numel()
    if not layers:
        raise ModelError(
            f"{type(model).__name__} has no linear layers to hold in 4 bits.\nadapter.kind: use lora in place of qlora."
        )
    return Quantised(layers, weights, tuple(left_out))


def is_head(model: nn.Module, layer: nn.Module) -> bool:
    """Whether `layer` is the language-model head of `model`, whose rows are words: it stays as it is."""
    find = getattr(model, "get_output_embeddings", None)
    return find is not None and find() is layer
