"""Loading in fewer bits: the same model held smaller, and adapters that fit the full one too."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from attune.config import AdapterConfig
from attune.model.adapter import attach_adapter, save_model, trainable_weights
from attune.model.load import load_model, load_tuned
from attune.model.loss import loss_sums
from attune.model.nf4 import Nf4Store
from attune.model.stores import HeldLinear, store_of
from attune.types import Batch
from tests.tiny import flat_batch, make_rows, write_model_folder

QLORA = AdapterConfig(kind="qlora", rank=4)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A tiny GPT-2, whose layers keep their weights transposed, on disk."""
    return write_model_folder(tmp_path / "base")


@pytest.fixture
def batch() -> Batch:
    """A batch of two rows."""
    return flat_batch(make_rows([9, 14]))


def loss(model: torch.nn.Module, batch: Batch) -> float:
    """Return the loss sum without gradients."""
    with torch.no_grad():
        return float(loss_sums(model, batch).loss)


def test_a_quantised_load_is_a_quantised_model(folder: Path, batch: Batch) -> None:
    """Every linear layer but the head is held in 4 bits; the loss is near that of the full weights, and not it."""
    plain, small = load_model(folder), load_model(folder, quantise=True)
    held = {name for name, part in small.named_modules() if isinstance(part, HeldLinear)}
    assert held == {
        name for name, _ in plain.named_modules() if name.rsplit(".", 1)[-1] in {"c_attn", "c_proj", "c_fc"}
    }
    assert not small.training
    assert not any(part.training for part in small.modules())
    assert loss(small, batch) == pytest.approx(loss(plain, batch), rel=0.02)
    assert loss(small, batch) != loss(plain, batch)


def test_a_quantised_model_generates(folder: Path) -> None:
    """Transformers' own generation, with its cache, runs over layers of 4 bits."""
    model = load_model(folder, quantise=True)
    model.set_attn_implementation("eager")
    out = model.generate(torch.tensor([[3, 4, 5]]), max_new_tokens=4, min_new_tokens=4, do_sample=False, pad_token_id=1)
    assert out.shape == (1, 7)


@pytest.mark.parametrize("quantise", [False, True])
def test_an_adapter_of_qlora_is_loaded_on_the_full_base_or_on_that_of_4_bits(
    folder: Path, batch: Batch, tmp_path: Path, quantise: bool
) -> None:
    """The files are plain PEFT; on the base in 4 bits it computes what was trained, on the full one nearly so."""
    tuned = attach_adapter(load_model(folder, quantise=True), QLORA, seed=0, base=str(folder))
    for weight in trainable_weights(tuned).values():
        weight.data.add_(0.05 * torch.randn(weight.shape, generator=torch.Generator().manual_seed(1)))
    save_model(tuned, tmp_path / "tuned")
    again = load_tuned(tmp_path / "tuned", quantise=quantise)
    assert any(isinstance(part, HeldLinear) for part in again.modules()) is quantise
    assert loss(again, batch) == pytest.approx(loss(tuned, batch), rel=1e-6 if quantise else 0.02)
    bare = loss(load_model(folder), batch)
    assert abs(loss(again, batch) - bare) > 5 * abs(loss(again, batch) - loss(tuned, batch))


def test_qlora_holds_a_model_that_was_loaded_whole(folder: Path, batch: Batch) -> None:
    """Attaching the adapter quantises what loading did not, to the same numbers."""
    late = attach_adapter(load_model(folder), QLORA, seed=0, base="b")
    early = attach_adapter(load_model(folder, quantise=True), QLORA, seed=0, base="b")
    assert loss(late, batch) == loss(early, batch)
    wrapped = [part for part in late.modules() if isinstance(part, HeldLinear)]
    assert all(isinstance(store_of(part), Nf4Store) for part in wrapped)
    assert set(trainable_weights(late)) == set(trainable_weights(early))
    assert all(".lora_" in name for name in trainable_weights(late))


def test_bfloat16_weights_are_held_and_used_as_such(folder: Path, batch: Batch) -> None:
    """In bfloat16 and in mixed precision (under autocast), layers of 4 bits compute in bfloat16."""
    model = load_model(folder, precision="bfloat16", quantise=True)
    layer = next(part for part in model.modules() if isinstance(part, HeldLinear))
    assert layer(torch.zeros(2, layer.in_features, dtype=torch.bfloat16)).dtype == torch.bfloat16
    mixed = load_model(folder, precision="mixed", quantise=True)
    layer = next(part for part in mixed.modules() if isinstance(part, HeldLinear))
    with torch.autocast("cpu", torch.bfloat16):
        assert layer(torch.zeros(2, layer.in_features)).dtype == torch.bfloat16
    assert layer(torch.zeros(2, layer.in_features)).dtype == torch.float32
