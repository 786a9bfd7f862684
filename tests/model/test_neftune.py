"""NEFTune: how large the noise is, whom it reaches, and when there is none."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from attune.config import AdapterConfig
from attune.model.adapter import attach_adapter
from attune.model.attention import EXACT, AttentionChoice, set_attention
from attune.model.block import fuse_layer
from attune.model.checkpointing import decoder_layers
from attune.model.head import body_hidden
from attune.model.loss import loss_sums
from attune.model.neftune import enable_neftune, noise_in
from tests.tiny import flat_batch, make_model, make_rows

LENGTHS = (9, 4, 25)
BATCH = flat_batch(make_rows(LENGTHS))
ALPHA, WIDTH = 5.0, 32


def embedded(model: Any, call: Callable[[], Any]) -> Tensor:
    """Return the embeddings that the body of `model` works with during a call."""
    inner = model.get_base_model() if hasattr(model, "get_base_model") else model
    seen: list[Tensor] = []
    hook = inner.get_input_embeddings().register_forward_hook(lambda *given: seen.append(given[2].detach().clone()))
    call()
    hook.remove()
    (found,) = seen
    return found


def adapted(model: Any, kind: str) -> nn.Module:
    """Return a model as a run trains it."""
    wrapped = attach_adapter(model, AdapterConfig(kind="full" if kind == "full" else "lora"), seed=0, base="tiny")
    if kind == "fused":
        for layer in decoder_layers(wrapped):
            fuse_layer(layer, EXACT)
    return wrapped.train()


@pytest.mark.parametrize("kind", ["full", "lora", "fused"])
def test_the_noise_is_as_large_as_the_row_is_short(kind: str) -> None:
    """Uniform up to alpha / sqrt(L * width), with L the length of the token's own row, at every token."""
    model = adapted(make_model(), kind)
    plain = embedded(model, lambda: body_hidden(model, BATCH))
    enable_neftune(model, ALPHA)
    noise = (embedded(model, lambda: body_hidden(model, BATCH)) - plain)[0]
    for part, length in zip(noise.split(LENGTHS), LENGTHS, strict=True):
        size = ALPHA / (length * WIDTH) ** 0.5
        assert 0.9 * size < float(part.abs().max()) <= size * (1 + 1e-12)
        assert float(part.std()) == pytest.approx(size / 3**0.5, rel=0.2)
        assert (part.abs().amax(dim=1) > 0.3 * size).all()


def test_rows_of_equal_length_get_the_same_noise_as_flat_ones() -> None:
    """Without documents a batch is a matrix of rows, whose length says how large the noise is."""
    model = make_model().train()
    set_attention(model, AttentionChoice("per_row", "test"))
    model.set_attn_implementation("eager")
    ids = torch.arange(24).view(2, 12) % 61
    plain = embedded(model, lambda: model(input_ids=ids))
    enable_neftune(model, ALPHA)
    noise = embedded(model, lambda: model(input_ids=ids)) - plain
    size = ALPHA / (12 * WIDTH) ** 0.5
    assert 0.95 * size < float(noise.abs().max()) <= size * (1 + 1e-12)


def test_only_training_is_noisy_and_the_seed_says_how() -> None:
    """Evaluation is as without noise, bit for bit; equal random states give equal losses and gradients."""
    plain, noisy = make_model(), make_model()
    enable_neftune(noisy, ALPHA)
    expected = loss_sums(plain, BATCH).loss
    assert torch.equal(loss_sums(noisy, BATCH).loss, expected)
    noisy.train()
    found = []
    for seed in (3, 3, 4):
        torch.manual_seed(seed)
        loss = loss_sums(noisy, BATCH).loss
        found.append((loss, torch.autograd.grad(loss, noisy.get_input_embeddings().weight)[0]))
    assert torch.equal(found[0][0], found[1][0]) and torch.equal(found[0][1], found[1][1])
    assert found[0][0] != found[2][0] != expected
    noisy.eval()
    assert torch.equal(loss_sums(noisy, BATCH).loss, expected)


def test_it_can_be_told_whether_there_is_noise() -> None:
    """What the noise is stands in words, so that rows do not share it; alpha 0 changes nothing at all."""
    model = attach_adapter(make_model(), AdapterConfig(), seed=0, base="tiny")
    enable_neftune(model, 0.0)
    assert noise_in(model) == ""
    assert not any(part._forward_hooks or part._forward_pre_hooks for part in model.modules())
    enable_neftune(model, 5.0)
    assert noise_in(model) == "train.neftune_alpha = 5"


@pytest.mark.parametrize("name", ["gpt2", "gemma2"])
def test_other_families_are_noisy_too(name: str) -> None:
    """Positions that are added to, or scales that follow, the embeddings leave the noise where it is."""
    model = make_model(name).train()
    plain = embedded(model, lambda: body_hidden(model, BATCH))
    enable_neftune(model, ALPHA)
    noise = (embedded(model, lambda: body_hidden(model, BATCH)) - plain)[0, : LENGTHS[0]]
    size = ALPHA / (LENGTHS[0] * WIDTH) ** 0.5
    assert 0.9 * size < float(noise.abs().max()) <= size * (1 + 1e-12)
