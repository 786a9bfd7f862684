"""NEFTune: noise on the embeddings while a model trains, which keeps small sets from being learned by heart."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn

from attune.model.attention import Documents

_NOISE = "attune_neftune_alpha"  # set on embeddings that are made noisy


class _Noise:
    """Two hooks: one hears where the documents of a batch lie, the other adds noise to its embeddings."""

    def __init__(self, alpha: float) -> None:
        self.alpha = alpha
        self._documents: Documents | None = None

    def hear(self, _: nn.Module, __: tuple[Any, ...], options: dict[str, Any]) -> None:
        """Before the body runs: note its documents, None for rows of equal length."""
        self._documents = options.get("documents")

    def add(self, embeddings: nn.Module, _: tuple[Any, ...], output: Tensor) -> Tensor:
        """After the embeddings [rows, T, width] were looked up: return them with noise if the model trains."""
        if not embeddings.training:
            return output
        rows, tokens, width = output.shape
        noise = torch.empty_like(output).uniform_(-1, 1)
        if self._documents is None:
            return output + noise * (self.alpha / math.sqrt(tokens * width))
        assert rows == 1, "a flat batch is one row"
        lengths = self._documents.offsets.diff()
        sizes = self.alpha * (lengths * width).to(torch.promote_types(output.dtype, torch.float32)).rsqrt()
        of_token = sizes.repeat_interleave(lengths, output_size=tokens)  # told its size, it waits for no device
        return output + noise * of_token.to(output.dtype)[None, :, None]


def enable_neftune(model: nn.Module, alpha: float) -> None:
    """Make `model`, wrapped by PEFT or not, add noise to its embeddings while it is in training mode; 0: nothing.

    Each number of an embedding gets uniform noise in [-1, 1] times alpha / sqrt(L * width), with L the tokens of the
    row that the token is in. It comes from torch's random state.
    Source: Jain et al. 2023, arXiv 2310.05914; the magnitude is TRL's, with L without padding.
    """
    if not alpha:
        return
    outer: Any = model
    inner = outer.get_base_model() if hasattr(model, "get_base_model") else outer
    noise, embeddings = _Noise(alpha), inner.get_input_embeddings()
    inner.base_model.register_forward_pre_hook(noise.hear, with_kwargs=True)
    embeddings.register_forward_hook(noise.add)
    setattr(embeddings, _NOISE, alpha)


def noise_in(model: nn.Module) -> str:
    """Return what `model` adds at random while training, with its size; empty if nothing."""
    sizes = (getattr(part, _NOISE, 0.0) for part in model.modules())
    return next((f"train.neftune_alpha = {size:g}" for size in sizes if size), "")
