"""The divergence from a base model: its kept tokens and the loss made of them, against the plainest float64 torch."""

from __future__ import annotations

from itertools import pairwise

import pytest
import torch
from torch import Tensor, nn

from attune.config import AdapterConfig
from attune.data.batch import on_device
from attune.model import divergence as divergence_room
from attune.model import head as head_room
from attune.model.adapter import attach_adapter
from attune.model.attention import documents_of
from attune.model.divergence import TopK, replay_sums, top_log_probs
from attune.model.loss import loss_sums
from attune.types import NOT_LEARNED, Batch
from tests.tiny import flat_batch, make_model, make_rows

BATCH = flat_batch(make_rows([9, 4, 13]))


def learned_log_probs(model: nn.Module, batch: Batch) -> Tensor:
    """Return the log-probabilities [learned, V] as the model's own forward and torch say."""
    logits = model(
        input_ids=batch.tokens[None], position_ids=batch.positions[None], documents=documents_of(batch), use_cache=False
    ).logits[0]
    return torch.log_softmax(logits[batch.targets != NOT_LEARNED], dim=1)


@pytest.mark.parametrize("name", ["llama", "gemma2", "gpt2"])
def test_the_likeliest_tokens_are_those_of_the_whole_distribution(name: str) -> None:
    """Kept log-probabilities are the largest ones of the full softmax, at the learned positions in order."""
    model = make_model(name)
    found = top_log_probs(model, BATCH, k=7)
    with torch.no_grad():
        expected, ids = learned_log_probs(model, BATCH).topk(7, dim=1)
    torch.testing.assert_close(found.logp, expected)
    assert found.ids.dtype == torch.int32
    assert torch.equal(found.ids.long(), ids)


def test_a_small_vocabulary_is_kept_whole() -> None:
    """With fewer tokens than are kept, the kept ones hold all probability."""
    found = top_log_probs(make_model(), BATCH)
    assert found.ids.shape == (11, 61)
    torch.testing.assert_close(found.logp.exp().sum(1), torch.ones(11, dtype=torch.float64))


def test_no_learned_position_keeps_nothing() -> None:
    """A batch that teaches nothing has no rows of kept tokens."""
    tokens, targets = make_rows([5])[0]
    found = top_log_probs(make_model(), flat_batch([(tokens, torch.full_like(targets, NOT_LEARNED))]))
    assert len(found.ids) == len(found.logp) == 0


def plain_sums(model: nn.Module, base: Tensor, kept: TopK | None, weight: float, kl: float) -> tuple[Tensor, ...]:
    """Return the same sums as `replay_sums` from whole distributions; `kept`: tokens that are not in the lump."""
    own = learned_log_probs(model, BATCH)
    nll = -own.gather(1, BATCH.targets[BATCH.targets != NOT_LEARNED][:, None]).sum()
    if kept is None:
        divergence = (base.exp() * (base - own)).sum()
    else:
        ids = kept.ids.long()
        lump = torch.ones_like(own, dtype=torch.bool).scatter(1, ids, False)
        rests = [(part.exp() * lump).sum(1, keepdim=True).log() for part in (base, own)]
        one, two = (torch.cat([part.gather(1, ids), rest], 1) for part, rest in zip((base, own), rests, strict=True))
        divergence = (one.exp() * (one - two)).sum()
    return weight * nll + kl * divergence, nll, divergence


def moved(name: str, *, lora: bool) -> tuple[nn.Module, nn.Module]:
    """Return a base model and one that moved away from it, all of whose weights or whose LoRA matrices train."""
    base, model = make_model(name), make_model(name)
    wrapped = attach_adapter(model, AdapterConfig(kind="lora" if lora else "full", rank=3), seed=0, base="tiny")
    with torch.no_grad():
        for weight in wrapped.parameters():
            if weight.requires_grad:
                weight.add_(0.05 * torch.randn(weight.shape, generator=torch.Generator().manual_seed(1)).to(weight))
    return base, wrapped


@pytest.mark.parametrize("name", ["llama", "gemma2", "gpt2"])
@pytest.mark.parametrize("lora", [False, True])
@pytest.mark.parametrize("pieces", [0, 2])
def test_loss_and_gradients_are_those_of_plain_torch(
    name: str, lora: bool, pieces: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Sums and every gradient equal those that autograd finds from whole float64 distributions, in any pieces."""
    if pieces:
        monkeypatch.setattr(head_room, "_chunk_rows", lambda *_, **__: 4)
        monkeypatch.setattr(divergence_room, "CPU_BYTES", pieces * 61 * 8)
    base, model = moved(name, lora=lora)
    kept = top_log_probs(base, BATCH, k=7)
    with torch.no_grad():
        whole = learned_log_probs(base, BATCH)
    trained = [weight for weight in model.parameters() if weight.requires_grad]
    expected = plain_sums(model, whole, kept, 0.6, 1.7)
    wanted = torch.autograd.grad(expected[0] / 5, trained)
    found = replay_sums(model, BATCH, kept, weight=0.6, kl=1.7, scale=1 / 5)
    torch.testing.assert_close(found, (expected[0] / 5, *expected[1:]))
    assert float(expected[2].detach()) > 0.01, "the model moved"
    for mine, other in zip(torch.autograd.grad(found[0], trained), wanted, strict=True):
        torch.testing.assert_close(mine, other)


def test_the_gradient_of_the_divergence_is_its_slope() -> None:
    """Small steps of a logit change the divergence as its written-out gradient says."""
    source = torch.Generator().manual_seed(0)
    logits, other = (torch.randn(3, 9, dtype=torch.float64, generator=source) for _ in range(2))
    values, ids = torch.log_softmax(other, 1).topk(4, dim=1)
    kept, targets = TopK(ids.int(), values), torch.tensor([0, 5, 8])

    def total(x: Tensor) -> Tensor:
        nll, divergence, _ = divergence_room._diverge(x, targets, kept, (0.3, 2.0))
        return (0.3 * nll + 2 * divergence).sum()

    gradient = divergence_room._diverge(logits, targets, kept, (0.3, 2.0))[2]
    for place in range(logits.numel()):
        step = torch.zeros(logits.numel(), dtype=torch.float64)
        step[place] = 1e-5
        slope = (total(logits + step.view_as(logits)) - total(logits - step.view_as(logits))) / 2e-5
        torch.testing.assert_close(slope, gradient.flatten()[place], rtol=1e-6, atol=1e-8)


def test_the_kept_tokens_give_a_lower_bound_that_grows() -> None:
    """The more tokens are kept the larger the divergence, up to that of the whole distributions."""
    base, model = moved("llama", lora=False)
    with torch.no_grad():
        whole = plain_sums(model, learned_log_probs(base, BATCH), None, 0, 1)[2]
        bounds = [
            float(replay_sums(model, BATCH, top_log_probs(base, BATCH, k), weight=0, kl=1)[2]) for k in (1, 4, 20, 61)
        ]
    assert all(0 < one < two for one, two in pairwise(bounds))
    assert bounds[-1] == pytest.approx(float(whole))


def test_a_model_that_is_its_base_has_no_divergence() -> None:
    """At the start nothing pulls: the divergence is 0 to rounding, and so is its gradient."""
    model = make_model(dtype=torch.float32)
    loss, _, divergence = replay_sums(model, BATCH, top_log_probs(model, BATCH, 7), weight=0, kl=1)
    assert abs(float(divergence)) < 1e-5
    assert max(float(part.abs().max()) for part in torch.autograd.grad(loss, list(model.parameters()))) < 1e-5


def test_a_lump_that_the_model_has_given_up_stays_finite() -> None:
    """Where the model gives tokens outside the kept ones no probability at all, loss and gradient are finite."""
    logits = torch.full((1, 9), -2000.0)
    logits[0, :2] = 0
    kept = TopK(torch.tensor([[0, 1]], dtype=torch.int32), torch.tensor([[0.4, 0.4]]).log())
    nll, divergence, gradient = divergence_room._diverge(logits, torch.tensor([0]), kept, (1.0, 1.0))
    assert torch.isfinite(torch.cat([nll, divergence, gradient[0]])).all()
    assert float(divergence) > 10


@pytest.mark.parametrize("base", [None, TopK(torch.zeros(11, 1, dtype=torch.int32), torch.zeros(11, 1))])
def test_without_divergence_it_is_the_usual_loss(base: TopK | None) -> None:
    """With a weight of 0 for the divergence, loss and gradients are those of the usual loss times `weight`."""
    model = make_model()
    usual = loss_sums(model, BATCH, scale=0.25)
    loss, nll, divergence = replay_sums(model, BATCH, base, weight=0.5, kl=0, scale=0.5)
    torch.testing.assert_close((loss, nll), (usual.loss, usual.nll))
    assert float(divergence) == 0
    grads = [torch.autograd.grad(part, model.get_input_embeddings().weight)[0] for part in (loss, usual.loss)]
    torch.testing.assert_close(*grads)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_on_a_gpu(dtype: torch.dtype) -> None:
    """On a device the sums and gradients are those of float64 on a processor, but for rounding."""
    base, model = moved("llama", lora=False)
    kept = top_log_probs(base, BATCH, 7)
    wanted = replay_sums(model, BATCH, kept, weight=0.6, kl=1.7, scale=1 / 5)
    trained = list(model.parameters())
    slopes = torch.autograd.grad(wanted[0], trained)
    model.to("cuda", dtype)
    found = replay_sums(model, on_device(BATCH, torch.device("cuda")), kept, weight=0.6, kl=1.7, scale=1 / 5)
    allowed = 1e-4 if dtype == torch.float32 else 0.03
    for mine, other in zip((*found, *torch.autograd.grad(found[0], trained)), (*wanted, *slopes), strict=True):
        assert float((mine.cpu().double() - other).norm()) <= allowed * float(other.norm())
