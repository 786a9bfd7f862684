"""The divergence from the base: exact with an adapter switched off, never above the truth with kept predictions."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from attune.config import AdapterConfig, Config
from attune.data.batch import to_batch
from attune.errors import CheckpointError
from attune.evals.basis import (
    Compared,
    Machine,
    compare,
    keep_base,
    keep_states,
    read_base,
    without_adapter,
    write_base,
)
from attune.evals.heldout import measure, predicted_tokens
from attune.model.adapter import attach_adapter
from attune.model.divergence import TopK, replay_sums
from attune.model.engine import tune_up
from attune.model.loss import token_losses
from tests.tiny import VOCABULARY, make_corpus, make_model

MACHINE = Machine(torch.device("cpu"), "float32", 64)
STOPS = (2, 5)
CORPUS = make_corpus([9, 2, 30, 17, 1, 64, 12])


def shake(model: nn.Module, size: float, *, seed: int = 1) -> nn.Module:
    """Move all weights that train a little."""
    source = torch.Generator().manual_seed(seed)
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.data.add_(size * torch.randn(parameter.shape, generator=source).to(parameter.dtype))
    return model


def adapted(name: str, *, dtype: torch.dtype = torch.float32, **settings: Any) -> nn.Module:
    """Return a model with a LoRA adapter that has learned something."""
    config = AdapterConfig(kind="lora", rank=4, **settings)
    return shake(attach_adapter(make_model(name, dtype=dtype), config, seed=0, base="x"), 0.05).eval()


def plainly(model: nn.Module) -> torch.Tensor:
    """Return float64 log-probabilities [tokens, V] at the learned tokens of CORPUS, row by row through the model."""
    rows = []
    for row in range(CORPUS.num_rows):
        tokens, learned = CORPUS.row(row)
        with torch.no_grad():
            batch = to_batch(CORPUS, [row])
            inner: Any = model
            logits = inner(
                input_ids=torch.from_numpy(tokens.astype(np.int64))[None],
                position_ids=batch.positions[None],
                use_cache=False,
            ).logits[0]
        at = np.flatnonzero(learned[1:])
        rows.append(torch.log_softmax(logits[at].double(), dim=-1))
    return torch.cat(rows)


def reference(p: torch.Tensor, q: torch.Tensor) -> np.ndarray[Any, Any]:
    """Return KL(p || q) of each row."""
    found: np.ndarray[Any, Any] = (p.exp() * (p - q)).sum(-1).numpy()
    return found


@pytest.mark.parametrize("name", ["llama", "gemma2", "gpt2"])
def test_divergence_of_an_adapter_is_that_of_the_whole_vocabulary(name: str) -> None:
    """With the adapter off the model is its base: what is found agrees with float64 arithmetic on two models."""
    model = adapted(name)
    found = compare(model, CORPUS, None, machine=MACHINE, stop_ids=STOPS)
    p, q = plainly(make_model(name, dtype=torch.float32, attention="eager")), plainly_of(model)
    assert found.kl.max() > 1e-3, "the adapter must have moved the model, or the test says nothing"
    np.testing.assert_allclose(found.kl, reference(p, q), rtol=2e-3, atol=2e-6)
    targets = CORPUS.tokens[predicted_tokens(CORPUS)]
    np.testing.assert_allclose(found.nll, -q[np.arange(len(q)), targets].numpy(), rtol=1e-4, atol=1e-5)
    np.testing.assert_array_equal(found.stops_first, np.isin(q.argmax(-1).numpy(), STOPS))
    np.testing.assert_allclose(found.stop_share, q[:, STOPS].exp().sum(-1).numpy(), rtol=1e-3, atol=1e-7)


def plainly_of(model: nn.Module) -> torch.Tensor:
    """Return `plainly` of an adapted model, through the attention of transformers."""
    inner: Any = model
    core = inner.get_base_model()
    attention = core.config._attn_implementation
    core.set_attn_implementation("eager")
    try:
        return plainly(core)
    finally:
        core.set_attn_implementation(attention)


def test_a_fused_model_without_its_adapter_is_its_base() -> None:
    """Fused layers hold LoRA's matrices beside the weights: switched off, the losses are those of the base to the bit.

    The weights that train are the same objects afterwards, and still train.
    """
    base = make_model("llama", dtype=torch.float32)
    tune_up(base, fused_config())
    model = attach_adapter(
        make_model("llama", dtype=torch.float32), AdapterConfig(kind="lora", rank=4), seed=0, base=""
    )
    (note,) = tune_up(model, fused_config())
    assert note.startswith("fused")
    shake(model, 0.05).eval()
    before = {name: id(part) for name, part in model.named_parameters() if part.requires_grad}
    batch = to_batch(CORPUS, range(CORPUS.num_rows))
    tuned = token_losses(model, batch)[0]
    with without_adapter(model):
        off = token_losses(model, batch)[0]
    assert not torch.allclose(off, tuned, atol=1e-2)
    assert torch.allclose(off, token_losses(base, batch)[0], atol=1e-6)
    assert {name: id(part) for name, part in model.named_parameters() if part.requires_grad} == before
    assert torch.equal(token_losses(model, batch)[0], tuned)
    whole = compare(model, CORPUS, None, machine=MACHINE, stop_ids=STOPS)
    np.testing.assert_allclose(
        whole.kl, compare(adapted_plain(model), CORPUS, None, machine=MACHINE, stop_ids=STOPS).kl, rtol=1e-3, atol=1e-6
    )


def fused_config() -> Config:
    """Return settings that ask for fused layers."""
    return Config(device="cpu", precision="float32").with_values({"train.kernels": "fused", "train.steps": 1})


def adapted_plain(model: nn.Module) -> nn.Module:
    """Return the same adapter on plain layers."""
    plain = attach_adapter(
        make_model("llama", dtype=torch.float32), AdapterConfig(kind="lora", rank=4), seed=0, base=""
    )
    own = dict(model.named_parameters())
    for name, parameter in plain.named_parameters():
        if parameter.requires_grad:
            parameter.data.copy_(own[name].data)
    return plain.eval()


@pytest.mark.parametrize("size", [0.0, 0.01, 0.1])
def test_kept_predictions_give_at_most_the_true_divergence(size: float) -> None:
    """Lumping all but the likeliest tokens together lowers the divergence, never raises it."""
    model = make_model("llama", dtype=torch.float64).requires_grad_(True)
    kept = keep_base(model, CORPUS, MACHINE)
    few = TopK(kept.ids[:, :8], kept.logp[:, :8])
    p = plainly_eager(model)
    shake(model, size)
    truth = reference(p, plainly_eager(model))
    whole, lumped = (compare(model, CORPUS, base, machine=MACHINE, stop_ids=STOPS).kl for base in (kept, few))
    assert kept.ids.shape[1] == VOCABULARY, "this vocabulary is kept whole"
    np.testing.assert_allclose(whole, truth, rtol=1e-6, atol=1e-10)
    assert (lumped <= truth + 1e-9).all()
    assert (lumped >= -1e-9).all()
    if size:
        assert 0.2 * truth.mean() < lumped.mean() < truth.mean()


def plainly_eager(model: Any) -> torch.Tensor:
    """Return `plainly` through the attention of transformers."""
    attention = model.config._attn_implementation
    model.set_attn_implementation("eager")
    try:
        return plainly(model)
    finally:
        model.set_attn_implementation(attention)


def test_kept_predictions_come_back_and_belong_to_their_rows(tmp_path: Path) -> None:
    """What is written is read again to the bit; a missing, torn or foreign file is refused in words."""
    model = make_model("llama", dtype=torch.float32)
    kept = keep_base(model, CORPUS, MACHINE)
    path = tmp_path / "guards" / "base.safetensors"
    with pytest.raises(CheckpointError, match="cannot be read"):
        read_base(path, {"task": CORPUS})
    write_base(path, {"task": kept}, {"task": CORPUS})
    back = read_base(path, {"task": CORPUS})["task"]
    assert torch.equal(back.ids, kept.ids)
    assert torch.equal(back.logp, kept.logp)
    with pytest.raises(CheckpointError, match="other task rows"):
        read_base(path, {"task": make_corpus([9, 2, 30])})
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(CheckpointError, match="start a new run"):
        read_base(path, {"task": CORPUS})


@pytest.mark.parametrize("name", ["llama", "gemma2"])
def test_kept_hidden_states_are_the_adapter_switched_off(name: str) -> None:
    """Hidden states that were kept before the adapter learned on give what switching it off gives."""
    model = adapted(name)
    states = keep_states(model, CORPUS, MACHINE)
    assert states is not None
    shake(model, 0.05, seed=2)
    off = compare(model, CORPUS, None, machine=MACHINE, stop_ids=STOPS)
    small = Machine(torch.device("cpu"), "float32", 20)
    kept = compare(model, CORPUS, states, machine=small, stop_ids=STOPS)
    assert off.kl.min() > 0
    np.testing.assert_allclose(kept.kl, off.kl, rtol=1e-3, atol=1e-6)


def test_an_adapted_head_keeps_no_states() -> None:
    """Where the head itself is adapted, hidden states do not make the base's predictions: it is computed each time."""
    model = adapted("llama", targets="q_proj,lm_head")
    assert keep_states(model, CORPUS, MACHINE) is None
    found = compare(model, CORPUS, None, machine=MACHINE, stop_ids=STOPS)
    p = plainly_eager(make_model("llama", dtype=torch.float32))
    np.testing.assert_allclose(found.kl, reference(p, plainly_of(model)), rtol=2e-3, atol=2e-6)


def test_replay_minimises_the_same_divergence() -> None:
    """What is reported and what replay's loss holds the model by is one thing: both sums agree."""
    model = make_model("llama", dtype=torch.float64).requires_grad_(True)
    kept = keep_base(model, CORPUS, MACHINE)
    few = TopK(kept.ids[:, :8], kept.logp[:, :8])
    shake(model, 0.05)
    found = compare(model, CORPUS, few, machine=MACHINE, stop_ids=STOPS)
    batch = to_batch(CORPUS, range(CORPUS.num_rows))
    _, nll, kl = replay_sums(model, batch, few, weight=1.0, kl=1.0)
    assert float(kl.detach()) == pytest.approx(found.kl.sum(), rel=1e-6)
    assert float(nll.detach()) == pytest.approx(found.nll.sum(), rel=1e-6)


def test_batches_do_not_change_what_is_found() -> None:
    """The order of what is found is that of the corpus, and agrees with the held-out loss, at any batch size."""
    model = adapted("qwen3", dtype=torch.float64)
    found: list[Compared] = [
        compare(model, CORPUS, None, machine=Machine(torch.device("cpu"), "float64", size), stop_ids=STOPS)
        for size in (1, 40, 10_000)
    ]
    for other in found[1:]:
        np.testing.assert_allclose(other.kl, found[0].kl, rtol=1e-9, atol=1e-12)
    measured = measure(model, CORPUS, micro_tokens=64)
    np.testing.assert_allclose(found[0].nll, measured.token_loss, rtol=1e-6)
