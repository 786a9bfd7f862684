"""Layers that are computed again give the same gradients and store only their input, which may lie in host memory."""

from __future__ import annotations

import gc
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from attune.config import AdapterConfig
from attune.errors import ConfigError
from attune.model.adapter import attach_adapter
from attune.model.attention import attention_of
from attune.model.block import fuse_layer, obstacle_of
from attune.model.checkpointing import decoder_layers, dropout_in, enable_checkpointing, spread
from attune.model.loss import loss_sums
from attune.model.offload import HostStore
from tests.tiny import CONFIGS, flat_batch, make_model, make_rows

LENGTHS = [5, 11, 3, 8]


def gradients(model: nn.Module) -> dict[str, Tensor]:
    """Return the gradients of a step in training mode, with one stream of random numbers for dropout."""
    model.train()
    torch.manual_seed(3)
    loss_sums(model, flat_batch(make_rows(LENGTHS))).loss.backward()
    return {name: weight.grad for name, weight in model.named_parameters() if weight.grad is not None}


def same(mine: dict[str, Tensor], others: dict[str, Tensor]) -> None:
    """Assert that gradients agree, name by name; computing again is the same arithmetic, so to the bit."""
    assert mine.keys() == others.keys()
    for name, gradient in mine.items():
        assert torch.equal(gradient, others[name]), name


def calls_of(model: nn.Module) -> list[int]:
    """Note which layers run their feed-forward part from now on."""
    calls: list[int] = []
    for number, layer in enumerate(decoder_layers(model)):
        note: Any = partial(calls.append, number)
        layer.mlp.register_forward_pre_hook(lambda *_, note=note: note())
    return calls


@pytest.mark.parametrize("offload", [False, True])
@pytest.mark.parametrize("name", CONFIGS)
def test_gradients_stay(name: str, offload: bool) -> None:
    """For every architecture, with dropout (GPT-2), and with inputs kept elsewhere."""
    model = make_model(name)
    assert enable_checkpointing(model, "full", offload=offload) == 2
    same(gradients(model), gradients(make_model(name)))


@pytest.mark.parametrize("offload", [False, True])
def test_adapters_train_under_frozen_layers(offload: bool) -> None:
    """The first layer's input needs no gradient under LoRA; its matrices get theirs all the same."""
    settings = AdapterConfig(kind="lora", rank=2)
    model, plain = (attach_adapter(make_model(), settings, seed=0, base="b") for _ in range(2))
    for part in (model, plain):
        for key, weight in part.named_parameters():
            if "lora_B" in key:  # they start at zero, and with them the gradients of the other half
                nn.init.normal_(weight, generator=torch.Generator().manual_seed(1))
    enable_checkpointing(model, "full", offload=offload)
    mine = gradients(model)
    assert all(gradient.abs().sum() > 0 for gradient in mine.values())
    same(mine, gradients(plain))


def test_only_the_chosen_layers_run_twice() -> None:
    """1 of 2 layers is computed again; none in evaluation mode."""
    model = make_model()
    gradients(model)  # the first pass tries the head out
    assert enable_checkpointing(model, 1) == 1
    calls = calls_of(model)
    gradients(model)
    assert sorted(calls) == [0, 0, 1]
    calls.clear()
    model.eval()
    loss_sums(model, flat_batch(make_rows(LENGTHS))).loss.backward()
    assert calls == [0, 1]


def test_fused_layers_obey_too() -> None:
    """A layer whose forward was replaced by the fused one runs it again and gives the same gradients."""
    model, plain = (fused_model() for _ in range(2))
    enable_checkpointing(model, "full")
    stored, usual = (sizes_of_saved(part) for part in (model, plain))
    assert sum(stored) < 0.6 * sum(usual), "what the layers would have stored is not stored"
    same(gradients(model), gradients(plain))


def fused_model() -> nn.Module:
    """Return a model whose layers were replaced by fused ones."""
    model: nn.Module = make_model()
    for layer in decoder_layers(model):
        assert obstacle_of(layer) is None
        fuse_layer(layer, attention_of(model))
    return model


def sizes_of_saved(model: nn.Module) -> list[int]:
    """Return the numbers that each tensor holds which a step saves outside of checkpoints."""
    sizes: list[int] = []

    def note(tensor: Tensor) -> Tensor:
        sizes.append(tensor.numel())
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        gradients(model)
    model.zero_grad()
    return sizes


@pytest.mark.parametrize(
    ("count", "layers", "wanted"), [(2, 6, (0, 3)), (3, 3, (0, 1, 2)), (1, 5, (0,)), (5, 7, (0, 1, 2, 4, 5))]
)
def test_layers_are_spread_evenly(count: int, layers: int, wanted: tuple[int, ...]) -> None:
    """As many as asked for, all different, none bunched."""
    assert spread(count, layers) == wanted


@pytest.mark.parametrize("wish", ["none", "auto", 0])
def test_nothing_is_set_unless_asked_for(wish: str | int) -> None:
    """The layers stay as they are."""
    model = make_model()
    assert enable_checkpointing(model, wish) == 0
    assert not any(layer.gradient_checkpointing for layer in decoder_layers(model))


@pytest.mark.parametrize(
    ("wish", "offload", "text"),
    [
        (3, False, r"train\.checkpointing: 3, but the model has 2 layers"),
        ("none", True, r"train\.offload: .*\n.*train\.checkpointing full"),
    ],
)
def test_wishes_that_cannot_be_met(wish: str | int, offload: bool, text: str) -> None:
    """More layers than there are, and offload without any, are errors that name the next step."""
    with pytest.raises(ConfigError, match=text):
        enable_checkpointing(make_model(), wish, offload=offload)


def test_models_without_such_layers_are_refused() -> None:
    """A wish for checkpointing is not met in silence."""
    with pytest.raises(ConfigError, match="Linear has no layers that can be computed again"):
        enable_checkpointing(nn.Linear(2, 2), "full")
    assert enable_checkpointing(nn.Linear(2, 2), "none") == 0


def test_dropout_is_found_wherever_it_stands() -> None:
    """In modules, in attention, in an adapter; a rate of 0 is none."""
    assert dropout_in(make_model("llama")) == ""
    assert dropout_in(make_model("gpt2")) == "transformer.drop.p = 0.1"
    model = make_model("llama")
    model.model.layers[1].self_attn.attention_dropout = 0.25
    assert dropout_in(model) == "model.layers.1.self_attn.attention_dropout = 0.25"
    settings = AdapterConfig(kind="lora", rank=2, dropout=0.5)
    assert "lora_dropout" in dropout_in(attach_adapter(make_model(), settings, seed=0, base="b"))


def chain(store: HostStore | None, device: str = "cpu") -> tuple[Tensor, Tensor]:
    """Return the gradient of a chain of products at its start, its inputs saved in a store, and the result."""
    x = torch.linspace(-1, 1, 4096, dtype=torch.float64, device=device).view(64, 64).requires_grad_()
    y: Any = x
    for number in range(6):
        if store is None:
            y = torch.sin(y * (1 + number / 10))
        else:
            with store.hooks():
                y = torch.sin(y * (1 + number / 10))
    y.square().sum().backward()
    assert x.grad is not None
    return x.grad, y.detach()


def test_stored_tensors_come_back() -> None:
    """What autograd saves goes into the store, and the gradient is the same."""
    store = HostStore()
    mine, others = chain(store), chain(None)
    assert store.stored == 6
    assert torch.equal(mine[0], others[0])


def test_a_dropped_graph_takes_its_tensors_along() -> None:
    """Without a backward pass nothing is kept alive by the store, and the next one works."""
    store = HostStore()
    with store.hooks():
        lost = torch.sin(torch.ones(8, 8, requires_grad=True) * 2)
    del lost
    gc.collect()
    assert all(held() is None for held in store._stack)
    assert torch.equal(chain(store)[0], chain(None)[0])


def test_a_store_that_mixes_tensors_up_would_be_seen() -> None:
    """The tests above can fail: with another order the gradient is another."""

    class Mixed(HostStore):
        """Gives back the first tensor it was given, whatever it is asked for."""

        first: Any = None

        def _unpack(self, held: Any) -> Tensor:
            self.first = self.first if self.first is not None else super()._unpack(held)
            return self.first  # type: ignore[no-any-return]

    assert not torch.equal(chain(Mixed())[0], chain(None)[0])


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_on_cuda_copies_are_waited_for() -> None:
    """Many rounds on streams of their own give the gradient of a chain without a store, to the bit."""
    store, wanted = HostStore(), chain(None, "cuda")[0]
    for _ in range(50):
        assert torch.equal(chain(store, "cuda")[0], wanted)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_on_cuda_a_model_trains_the_same() -> None:
    """Checkpointed layers with offload on the device give the gradients of plain ones."""
    from attune.data.batch import on_device

    batch = on_device(flat_batch(make_rows(LENGTHS)), torch.device("cuda"))
    found = []
    for offload in (False, True):
        model = make_model(dtype=torch.float32).cuda().train()
        if offload:
            enable_checkpointing(model, "full", offload=True)
        loss_sums(model, batch).loss.backward()
        found.append({name: weight.grad for name, weight in model.named_parameters() if weight.grad is not None})
    for name, gradient in found[1].items():
        torch.testing.assert_close(gradient, found[0][name])
