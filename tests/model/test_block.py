"""Fused decoder layers: loss and every gradient are those of transformers' layers, however they train."""

from __future__ import annotations

import copy
import dataclasses
from functools import cache, partial
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from transformers import AutoModelForCausalLM, Qwen2Config

from attune.config import AdapterConfig, Config
from attune.data.batch import on_device, step_batches
from attune.evals.heldout import arithmetic
from attune.model import block
from attune.model.adapter import attach_adapter, save_model
from attune.model.attention import AttentionChoice, choose_attention, set_attention
from attune.model.checkpointing import decoder_layers, enable_checkpointing
from attune.model.engine import tune_up
from attune.model.generate import generate
from attune.model.head import narrow
from attune.model.loss import loss_sums
from attune.model.obstacles import has_flash4
from attune.train.checkpoint import open_checkpoint, restore, save
from attune.train.optim import build_optimizer
from attune.types import NOT_LEARNED, Batch
from tests.data.families import branching_corpus
from tests.model.mutants import mutant_of
from tests.tiny import _SIZES, CONFIGS, flat_batch, make_model, make_rows

NAMES = ("llama", "mistral", "qwen2", "qwen3")
KINDS = ("full", "lora", "qlora")
CLOSE = 1e-10  # relative, of float64
LENGTHS = (7, 1, 30, 2)
Learned = tuple[float, dict[str, Tensor]]


@pytest.fixture(autouse=True)
def _qwen2(monkeypatch: pytest.MonkeyPatch) -> None:
    """Stand Qwen2, whose queries, keys and values have biases, beside the architectures that all tests share."""
    monkeypatch.setitem(CONFIGS, "qwen2", Qwen2Config(**_SIZES))


def norm_of(norm: Any, x: Tensor) -> Tensor:
    """Return an RMS norm in the precision of x; transformers rounds to float32 even in float64 models."""
    return norm.weight * x * torch.rsqrt(x.square().mean(-1, keepdim=True) + norm.variance_epsilon)  # type: ignore[no-any-return]


def make_exact(name: str) -> Any:
    """Return a float64 model that is float64 throughout."""
    model = make_model(name)
    for part in model.modules():
        if hasattr(part, "variance_epsilon"):
            part.forward = partial(norm_of, part)
    return model


def adapted(model: nn.Module, kind: str, *, seed: int = 0) -> Any:
    """Return a model ready to train, with LoRA matrices that are not zero."""
    settings = AdapterConfig.model_validate({"kind": kind, "rank": 3, "alpha": 8})
    wrapped = attach_adapter(model, settings, seed=seed, base="base")
    source = torch.Generator().manual_seed(seed)
    for name, weight in wrapped.named_parameters():
        if "lora_B" in name:
            weight.data.normal_(std=0.1, generator=source)
    return wrapped


def fuse(model: Any, module: ModuleType = block) -> Any:
    """Fuse all layers of a model and its last norm, unproven."""
    layers = decoder_layers(model)
    for layer in layers:
        module.fuse_layer(layer, "exact", is_last=layer is layers[-1])
    inner = model.get_base_model() if hasattr(model, "get_base_model") else model
    module.fuse_norm(inner.model.norm)
    narrow(inner.model)
    return model


def make_batch(which: str) -> Batch:
    """Return rows end to end, the same with the learned positions named, or rows that share their beginnings."""
    batch = flat_batch(make_rows(LENGTHS))
    if which == "shared":
        corpus = branching_corpus(levels=2, weighted=True)
        (batch,) = step_batches(corpus, np.arange(corpus.num_rows), 10_000, share=True)
        assert batch.kv_index is not None
    learned = torch.nonzero(batch.targets != NOT_LEARNED).squeeze(1)
    return batch if which == "flat" else dataclasses.replace(batch, learned=learned)


def learned_from(model: nn.Module, batch: Batch) -> Learned:
    """Return loss and gradients of a batch in training mode."""
    model.train()
    model.zero_grad()
    sums = loss_sums(model, batch)
    (sums.loss / sums.tokens).backward()
    trained = {name: part.grad for name, part in model.named_parameters() if part.requires_grad}
    assert all(grad is not None for grad in trained.values())
    return float(sums.loss.detach()), {name: grad.double() for name, grad in trained.items() if grad is not None}


@cache
def plain(name: str, kind: str, which: str) -> Learned:
    """Return loss and gradients of transformers' layers."""
    return learned_from(adapted(make_exact(name), kind), make_batch(which))


def distance(mine: Learned, other: Learned) -> float:
    """Return the largest relative difference of the losses or of one gradient."""
    assert mine[1].keys() == other[1].keys()
    worst = abs(mine[0] - other[0]) / abs(other[0])
    for name, grad in mine[1].items():
        assert float(other[1][name].norm()) > 0, f"{name} learns nothing"
        worst = max(worst, float((grad - other[1][name]).norm() / other[1][name].norm()))
    return worst


@pytest.mark.parametrize("keeps", ["all", "inputs", "inputs elsewhere"])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", NAMES)
def test_layers_are_those_of_transformers(name: str, kind: str, keeps: str) -> None:
    """Whatever trains and whatever is kept for the backward pass, the learned positions named or to be found."""
    model = fuse(adapted(make_exact(name), kind))
    enable_checkpointing(model, "none" if keeps == "all" else "full", offload=keeps == "inputs elsewhere")
    for which in ("flat", "named") if keeps == "all" else ("named",):
        assert distance(learned_from(model, make_batch(which)), plain(name, kind, "flat")) < CLOSE


@pytest.mark.parametrize("kind", KINDS[:2])
@pytest.mark.parametrize("name", NAMES)
def test_shared_beginnings(name: str, kind: str) -> None:
    """Documents whose keys lie elsewhere, with weights, kept whole or as inputs."""
    model = fuse(adapted(make_exact(name), kind))
    batch = make_batch("shared")
    assert distance(learned_from(model, batch), plain(name, kind, "shared")) < CLOSE
    enable_checkpointing(model, 1)
    assert distance(learned_from(model, batch), plain(name, kind, "shared")) < CLOSE


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("window=first.window, name", "window=None, name"),
        ("first.scale, first.window, first.kernel)", "first.scale, None, first.kernel)"),
        ("result.add_(middle)", "result"),
        ("upper=grad, needs", "upper=0 * grad, needs"),
        ("if norms is not None:\n                parts", "if norms is None:\n                parts"),
        ("index_copy_(0, rows, part)", "index_copy_(0, rows.flip(0), part)"),
        ("(done.scales, weight.detach())", "(done.scales, torch.ones_like(weight))"),
        ("*(d_norms if norms else ())", "*(d_norms[::-1] if norms else ())"),
    ],
)
def test_a_broken_layer_is_seen(tmp_path: Path, old: str, new: str) -> None:
    """The comparisons find each of these faults."""
    broken = mutant_of(block, tmp_path, old=old, new=new)
    worst = 0.0
    for name, kind in (("mistral", "full"), ("qwen3", "full"), ("llama", "lora")):
        found = learned_from(fuse(adapted(make_exact(name), kind), broken), make_batch("named"))
        worst = max(worst, distance(found, plain(name, kind, "flat")))
    assert worst > 1e-3


def in_16_bits(name: str, kind: str, precision: str) -> Any:
    """Return the same model with float32 weights (mixed) or bfloat16 ones; LoRA's are float32."""
    model = adapted(make_exact(name), kind)
    for key, part in model.named_parameters():
        part.data = part.data.to(torch.float32 if precision == "mixed" or "lora_" in key else torch.bfloat16)
    for part in model.modules():
        if hasattr(part, "variance_epsilon"):
            del part.forward  # transformers' own is made for this
    return model


@pytest.mark.parametrize("precision", ["mixed", "bfloat16"])
@pytest.mark.parametrize("kind", ["full", "lora"])
@pytest.mark.parametrize("name", NAMES)
def test_16_bits(name: str, kind: str, precision: str) -> None:
    """Under autocast and in bfloat16 they are about as near to float64 as transformers' layers are."""
    loss, grads = plain(name, kind, "flat")
    errors = []
    for prepare in (in_16_bits, lambda *how: fuse(in_16_bits(*how))):
        with arithmetic(precision, torch.device("cpu")):
            found = learned_from(prepare(name, kind, precision), make_batch("named"))
        errors.append(float((whole(found[1]) - whole(grads)).norm() / whole(grads).norm()))
        assert abs(found[0] - loss) < 5e-3 * loss
    assert errors[1] < 1.5 * errors[0] < 0.05


def whole(grads: dict[str, Tensor]) -> Tensor:
    """Return all gradients as one vector."""
    return torch.cat([grad.flatten() for grad in grads.values()])


@pytest.mark.parametrize(
    ("name", "kind"), [("llama", "full"), ("mistral", "lora"), ("qwen2", "qlora"), ("qwen3", "lora")]
)
def test_answers_are_generated_as_ever(name: str, kind: str) -> None:
    """Calls without documents go through transformers' layers and their cache; afterwards the model trains on."""
    prompts = [[5, 9, 3, 30], [7, 8], [40, 3, 20, 19, 18, 44, 7]]
    answers = []
    for is_fused in (False, True):
        model = adapted(make_exact(name), kind)
        if is_fused:
            fuse(model)
        answers.append(generate(model, prompts, stop_ids=[2], max_new_tokens=9))
    assert answers[0] == answers[1]
    assert len({answer.tokens for answer in answers[0]}) == 3
    assert distance(learned_from(model, make_batch("named")), plain(name, kind, "flat")) < CLOSE


def descend(model: nn.Module) -> None:
    """Change all weights that train by a step of plain gradient descent."""
    learned_from(model, make_batch("named"))
    with torch.no_grad():
        for part in model.parameters():
            if part.grad is not None:
                part.sub_(0.05 * part.grad)


@pytest.mark.parametrize("name", ["llama", "qwen2"])
def test_fused_weights_are_saved_and_loaded(name: str, tmp_path: Path) -> None:
    """A folder written from fused weights holds each once, and loads to the same numbers."""
    model = fuse(adapted(make_exact(name), "full"))
    descend(model)
    save_model(model, tmp_path)
    held = sum(part.numel() for part in model.parameters()) * 8
    assert (tmp_path / "model.safetensors").stat().st_size < held + 10_000
    again = AutoModelForCausalLM.from_pretrained(tmp_path, dtype=torch.float64).state_dict()
    own = model.state_dict()
    assert own.keys() == again.keys()
    assert all(torch.equal(tensor, again[key]) for key, tensor in own.items())


@pytest.mark.parametrize("name", ["llama", "qwen2"])
def test_fused_adapters_are_saved_and_merged(name: str, tmp_path: Path) -> None:
    """PEFT reads the adapter; merged into the base and saved, it is the same model."""
    from peft import PeftModel

    model = fuse(adapted(make_exact(name), "lora"))
    descend(model)
    batch = make_batch("flat")
    loss = loss_sums(model.eval(), batch).loss
    save_model(model, tmp_path / "adapter")
    torch.testing.assert_close(
        loss_sums(PeftModel.from_pretrained(make_exact(name), tmp_path / "adapter"), batch).loss, loss
    )
    merged = model.merge_and_unload()
    torch.testing.assert_close(loss_sums(merged, batch).loss, loss)
    merged.save_pretrained(tmp_path / "merged")
    again = AutoModelForCausalLM.from_pretrained(tmp_path / "merged", dtype=torch.float64)
    set_attention(again, AttentionChoice("exact", "test"))
    torch.testing.assert_close(loss_sums(again.eval(), batch).loss, loss, rtol=1e-5, atol=0)  # its norms are float32


@pytest.mark.parametrize("kind", KINDS)
def test_checkpoints_are_restored_into_fused_weights(kind: str, tmp_path: Path) -> None:
    """A run that goes on from a checkpoint computes with the restored weights, to the bit, fused before or after."""
    config = Config().with_values({"train.learning_rate": 1e-2, "adapter.kind": kind}).train

    def steps(model: nn.Module, optimizer: Any) -> Learned:
        learned_from(model, make_batch("named"))
        optimizer.step()
        return learned_from(model, make_batch("named"))

    model = fuse(adapted(make_exact("qwen2"), kind))
    optimizer = build_optimizer(model, config)
    steps(model, optimizer)
    path = save(tmp_path, 1, model=model, optimizer=optimizer, state={})
    wanted = steps(model, optimizer)
    for is_first in (True, False):
        other = adapted(make_exact("qwen2"), kind)
        with torch.no_grad():
            for part in other.parameters():
                part.mul_(1.1 if part.requires_grad else 1)
        other = fuse(other) if is_first else other
        again = build_optimizer(other, config)
        restore(open_checkpoint(path), model=other, optimizer=again)
        found = steps(other if is_first else fuse(other), again)
        assert found[0] == wanted[0]
        assert all(torch.equal(grad, wanted[1][name]) for name, grad in found[1].items())


def widened(name: str) -> Any:
    """Return a model with heads as wide as kernels want them, its weights such as bfloat16 holds, on the processor."""
    config = copy.deepcopy(CONFIGS[name])
    undropped = dict.fromkeys(("resid_pdrop", "embd_pdrop", "attn_pdrop"), 0.0)  # no two devices drop the same
    wider: dict[str, float] = {"hidden_size": 256, "head_dim": 64, "intermediate_size": 512}
    wider = {"n_embd": 256, **undropped} if name == "gpt2" else wider
    config.update({**wider, "query_pre_attn_scalar": 64} if name == "gemma2" else wider)
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(config, dtype=torch.float32).eval()
    for part in model.parameters():
        part.data = (part + 0.03 * torch.randn_like(part)).detach().bfloat16().float()
    return model


def on_device_and_exact(name: str, kind: str, attention: str, device: str) -> tuple[Learned, Learned, tuple[str, ...]]:
    """Return what is learned in bfloat16 as the engine chooses, the same in float32 plainly, and the engine's notes."""
    batch = on_device(make_batch("named"), torch.device(device))
    results = []
    notes: tuple[str, ...] = ()
    for is_plain in (True, False):
        model = adapted(widened(name), kind).to(device)
        inner = model.get_base_model() if kind == "lora" else model
        if is_plain:
            set_attention(inner, AttentionChoice("exact", "test"))
        else:
            for key, part in model.named_parameters():
                part.data = part.data if "lora_" in key else part.data.bfloat16()
            wish = "auto" if name == "gemma2" or device == "cpu" else attention
            how = {"device": device, "dtype": torch.bfloat16, "model_class": type(inner), "config": inner.config}
            set_attention(inner, choose_attention(wish, **how))
            wishes = {"precision": "bfloat16", "adapter.kind": kind, "train.compile": False}
            kernels = "fused" if device == "cpu" and name in NAMES else "auto"
            notes = tune_up(model, Config().with_values({**wishes, "train.kernels": kernels}))
        results.append(learned_from(model, batch))
    return results[1], results[0], notes


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("attention", ["varlen", "flash4"])
@pytest.mark.parametrize("kind", KINDS[:2])
@pytest.mark.parametrize("name", [*NAMES, "gemma2", "gpt2"])
def test_on_a_gpu(name: str, kind: str, attention: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """In bfloat16 with all that is chosen there, against float32 with exact attention and transformers' layers."""
    if attention == "flash4" and not has_flash4():
        pytest.skip("FlashAttention-4 is not installed")
    found, wanted, notes = on_device_and_exact(name, kind, attention, "cuda")
    assert notes[0].startswith("fused layers: 2" if name in NAMES else "plain layers")
    assert found[0] == pytest.approx(wanted[0], rel=5e-3)
    for key, grad in found[1].items():
        error = float((grad - wanted[1][key]).norm() / wanted[1][key].norm())
        assert error < 5e-2, f"{key}: {error:.3f}"
