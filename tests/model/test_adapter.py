"""LoRA through PEFT: the right modules, a start that depends on the seed alone, and files that everybody can read."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import nn
from transformers import AutoModelForCausalLM

from attune.config import AdapterConfig, Config
from attune.errors import ConfigError, ModelError
from attune.model.adapter import attach_adapter, count, load_weights, save_model, trainable_weights
from attune.model.engine import tune_up
from attune.model.load import load_model, load_tuned
from attune.model.loss import loss_sums
from attune.model.nf4 import quantise_linears
from tests.tiny import flat_batch, make_model, make_rows

LORA = AdapterConfig(kind="lora", rank=4)


@pytest.mark.parametrize(("name", "is_transposed"), [("gpt2", True), ("llama", False)])
def test_every_linear_layer_gets_matrices_without_a_warning(name: str, is_transposed: bool) -> None:
    """All-linear finds torch's layers and GPT-2's, and PEFT is told which way round they are: it warns of nothing."""
    model = attach_adapter(make_model(name), LORA, seed=0, base="b")
    assert model.peft_config["default"].fan_in_fan_out is is_transposed  # type: ignore[index, union-attr]
    names = {part.rsplit(".lora_", 1)[0].rsplit(".", 1)[-1] for part in trainable_weights(model)}
    assert names == (
        {"c_attn", "c_proj", "c_fc"}
        if name == "gpt2"
        else {"q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"}
    )


def test_named_modules_only() -> None:
    """Targets by name leave every other module alone; a name that is nowhere is refused with the ones there are."""
    some = attach_adapter(make_model("gpt2"), LORA.model_copy(update={"targets": "c_attn, c_fc"}), seed=0, base="b")
    assert all(".c_attn." in name or ".c_fc." in name for name in trainable_weights(some))
    with pytest.raises(ConfigError, match=r'"q_proj" matches no module\. Linear modules here: c_attn, c_fc, c_proj'):
        attach_adapter(make_model("gpt2"), LORA.model_copy(update={"targets": "q_proj"}), seed=0, base="b")


def test_the_start_depends_on_the_seed_alone() -> None:
    """Equal seeds start from equal matrices, whatever was drawn before; another seed from others."""
    starts = []
    for seed in (1, 1, 2):
        torch.rand(seed)
        starts.append(trainable_weights(attach_adapter(make_model(), LORA, seed=seed, base="b")))
    assert all(torch.equal(starts[0][name], starts[1][name]) for name in starts[0])
    assert not all(torch.equal(starts[0][name], starts[2][name]) for name in starts[0])


def test_full_trains_everything_and_lora_little() -> None:
    """The counts that are printed are those of the tensors; a new adapter changes nothing yet."""
    model, batch = make_model(), flat_batch(make_rows((9, 5)))
    before = loss_sums(model, batch).loss
    full = count(attach_adapter(make_model(), AdapterConfig(), seed=0, base="b"))
    assert full.total == full.trainable == sum(p.numel() for p in model.parameters())
    wrapped = attach_adapter(model, LORA, seed=0, base="b")
    lora = count(wrapped)
    assert lora.total == full.total + lora.trainable
    assert 0 < lora.trainable < full.total
    assert torch.equal(loss_sums(wrapped, batch).loss, before)


def test_weights_of_another_model_are_refused() -> None:
    """A missing name or another shape is an error that names the weight."""
    model = make_model()
    weights = {name: torch.zeros_like(weight) for name, weight in trainable_weights(model).items()}
    name = min(weights)
    with pytest.raises(ModelError, match="stands on one side only"):
        load_weights(model, {key: value for key, value in weights.items() if key != name})
    with pytest.raises(ModelError, match=r"has shape \(1,\), expected"):
        load_weights(model, weights | {max(weights): torch.zeros(1)})


def test_the_rank_stabilised_scale_is_by_the_root() -> None:
    """An update is multiplied by alpha / sqrt(rank): of rank 4, twice that of plain LoRA."""
    losses = []
    for settings in ({"rslora": True, "alpha": 8.0}, {"alpha": 16.0}, {"alpha": 8.0}):
        model = attach_adapter(make_model(), LORA.model_copy(update=settings), seed=0, base="b")
        moved(model)
        losses.append(float(loss_sums(model, flat_batch(make_rows((9, 5)))).loss.detach()))
    assert losses[0] == losses[1] != losses[2]


def moved(model: nn.Module) -> None:
    """Change all that trains, as a few steps would."""
    source = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for weight in trainable_weights(model).values():
            weight.add_(0.1 * torch.randn(weight.shape, generator=source).to(weight))


@pytest.mark.parametrize("name", ["llama", "gpt2", "gemma2"])
@pytest.mark.parametrize("form", ["rslora", "dora"])
def test_other_forms_are_saved_and_merged(name: str, form: str, tmp_path: Path) -> None:
    """PEFT loads what was saved with equal logits, and they stay those of the merged model."""
    make_model(name, dtype=torch.float32).save_pretrained(tmp_path / "base")
    base = load_model(tmp_path / "base", precision="float64")
    batch = flat_batch(make_rows((9, 5)))
    before = loss_sums(base, batch).loss.detach()
    model = attach_adapter(base, LORA.model_copy(update={form: True}), seed=0, base=str(tmp_path / "base"))
    torch.testing.assert_close(loss_sums(model, batch).loss.detach(), before)
    moved(model)
    found = loss_sums(model, batch).loss.detach()
    assert abs(float(found - before)) > 0.01
    save_model(model, tmp_path / "adapter")
    assert torch.equal(loss_sums(load_tuned(tmp_path / "adapter", precision="float64"), batch).loss, found)
    wrapped: Any = model
    torch.testing.assert_close(loss_sums(wrapped.merge_and_unload(), batch).loss.detach(), found)


@pytest.mark.parametrize("name", ["llama", "qwen3"])
@pytest.mark.parametrize("way", ["merge_and_unload", "unload"])
def test_a_model_without_its_adapter_is_one_that_transformers_loads(name: str, way: str, tmp_path: Path) -> None:
    """Fused layers lay weights in one memory; with the adapter merged or taken off, they are saved like any others."""
    base = make_model(name, dtype=torch.float32)
    base.save_pretrained(tmp_path / "base")
    model: Any = attach_adapter(base, LORA, seed=0, base=str(tmp_path / "base"))
    asked = {"adapter.kind": "lora", "train.kernels": "fused", "precision": "float32", "device": "cpu"}
    assert "fused" in tune_up(model, Config().with_values(asked))[0]
    batch, optimizer = flat_batch(make_rows((9, 5))), torch.optim.SGD(trainable_weights(model).values(), lr=0.5)
    for _ in range(2):
        loss_sums(model.train(), batch).loss.backward()
        optimizer.step()
    own = {key: part.data_ptr() for key, part in model.named_parameters()}
    assert all(own[key] == part.data_ptr() for key, part in model.state_dict().items() if key in own), "copied in vain"
    tokens = torch.arange(3, 20)[None]
    tuned = logits_of(base, tokens)  # PEFT has put its layers into it
    getattr(model, way)().save_pretrained(tmp_path / "alone")
    before, after = (
        logits_of(AutoModelForCausalLM.from_pretrained(tmp_path / folder, dtype=torch.float32), tokens)
        for folder in ("base", "alone")
    )
    assert (tuned - before).abs().max() > 0.01
    torch.testing.assert_close(after, tuned if way == "merge_and_unload" else before, rtol=1e-4, atol=1e-4)


def logits_of(model: Any, tokens: torch.Tensor) -> torch.Tensor:
    """Return the logits of rows of tokens, by transformers' own attention."""
    model.eval().set_attn_implementation("eager")
    with torch.no_grad():
        found: torch.Tensor = model(input_ids=tokens).logits
    return found


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_dora_learns_the_length_of_columns(dtype: torch.dtype) -> None:
    """Each adapted layer has a number for each output that trains, in the type of the other adapter weights."""
    model = attach_adapter(make_model(dtype=dtype), LORA.model_copy(update={"dora": True}), seed=0, base="b")
    loss_sums(model, flat_batch(make_rows((9, 5)))).loss.backward()
    weights = trainable_weights(model)
    lengths = {name: weight for name, weight in weights.items() if "magnitude" in name}
    assert len(lengths) == len(weights) / 3 == 14
    assert {weight.dtype for weight in weights.values()} == {torch.float64 if dtype == torch.float64 else torch.float32}
    assert all(weight.grad is not None and weight.grad.abs().max() > 0 for weight in lengths.values())


@pytest.mark.parametrize("how", ["qlora", "held"])
def test_dora_needs_weights_that_can_be_read(how: str) -> None:
    """On weights of few bits it is refused, by the setting's name, and the model stays as it is."""
    model = make_model(dtype=torch.float32)
    if how == "held":
        quantise_linears(model)
    before = [type(part) for part in model.modules()]
    with pytest.raises(ConfigError, match=r"adapter\.dora: .*4 or 8 bits"):
        attach_adapter(
            model,
            LORA.model_copy(update={"dora": True, "kind": "qlora" if how == "qlora" else "lora"}),
            seed=0,
            base="b",
        )
    assert [type(part) for part in model.modules()] == before


@pytest.mark.parametrize("name", ["gpt2", "llama"])
def test_qlora_counts_and_saves_as_lora_does(name: str, tmp_path: Path) -> None:
    """Weights of 4 bits are counted as weights, and the adapter's files are the same but for the numbers."""
    counts, configs, shapes = [], [], []
    for kind in ("lora", "qlora"):
        config = LORA.model_copy(update={"kind": kind})
        model = attach_adapter(make_model(name, dtype=torch.float32), config, seed=0, base="b")
        counts.append(count(model))
        save_model(model, tmp_path / kind)
        configs.append((tmp_path / kind / "adapter_config.json").read_text())
        saved = load_file(tmp_path / kind / "adapter_model.safetensors")
        shapes.append({key: (tensor.shape, tensor.dtype) for key, tensor in saved.items()})
    assert counts[0] == counts[1]
    assert json.loads(configs[0]) == json.loads(configs[1])
    assert shapes[0] == shapes[1]


def test_qlora_learns(stories: Path) -> None:
    """A real model in 4 bits starts a little worse than in full, and its adapter learns a batch as well."""
    losses: dict[str, list[float]] = {}
    for kind in ("lora", "qlora"):
        model = load_model(stories, quantise=kind == "qlora")
        model = attach_adapter(model, LORA.model_copy(update={"kind": kind}), seed=0, base="b")
        optimizer = torch.optim.AdamW(trainable_weights(model).values(), lr=0.01)
        batch = flat_batch(make_rows([24, 40, 33]))
        losses[kind] = []
        for _ in range(30):
            sums = loss_sums(model, batch)
            (sums.loss / sums.tokens).backward()
            losses[kind].append(float((sums.loss / sums.tokens).detach()))
            optimizer.step()
            optimizer.zero_grad()
    assert losses["qlora"][0] == pytest.approx(losses["lora"][0], rel=0.1)
    assert losses["qlora"][-1] < 0.8 * losses["qlora"][0]
    assert losses["qlora"][-1] == pytest.approx(losses["lora"][-1], rel=0.1)


@pytest.mark.parametrize("config", [AdapterConfig(), LORA], ids=["full", "lora"])
def test_saved_files_are_readable_by_everybody(config: AdapterConfig, tmp_path: Path) -> None:
    """No file is readable by its owner only, and PEFT's blank card is gone."""
    save_model(attach_adapter(make_model(dtype=torch.float32), config, seed=0, base="b"), tmp_path)
    files = list(tmp_path.iterdir())
    assert any(file.suffix == ".safetensors" for file in files)
    assert {file.stat().st_mode & 0o777 for file in files} == {0o644}
    assert not (tmp_path / "README.md").exists()
