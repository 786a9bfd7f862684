"""The loss of a flat batch: its sums and gradients through the fused head and through the model's own."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from attune.model import head as head_room
from attune.model import loss as loss_room
from attune.model.attention import documents_of
from attune.model.kernels.cross_entropy import RowLosses, cross_entropy
from attune.model.loss import LossOptions, loss_sums, token_losses
from attune.types import NOT_LEARNED, Batch
from tests.tiny import CONFIGS, flat_batch, make_model, make_rows

OPTIONS = [LossOptions(), LossOptions("dft"), LossOptions(label_smoothing=0.1, z_loss=1e-2)]


def make_batch(*, is_weighted: bool) -> Batch:
    """Return a batch of three rows, each position with a weight of its own if asked."""
    batch = flat_batch(make_rows((9, 4, 12)))
    weights = torch.rand(len(batch.tokens), generator=torch.Generator().manual_seed(1)) + 0.5
    return replace(batch, weights=weights) if is_weighted else batch


def plain_loss(model: nn.Module, batch: Batch, options: LossOptions) -> Tensor:
    """Return the summed loss from the model's own logits by torch's own functions."""
    logits = model(
        input_ids=batch.tokens[None], position_ids=batch.positions[None], documents=documents_of(batch), use_cache=False
    ).logits[0]
    learned = batch.targets != NOT_LEARNED
    logits, targets = logits[learned], batch.targets[learned]
    losses = F.cross_entropy(logits, targets, reduction="none", label_smoothing=options.label_smoothing)
    if options.kind == "dft":
        losses = losses * torch.softmax(logits, 1).gather(1, targets[:, None])[:, 0].detach()
    losses = losses + options.z_loss * logits.logsumexp(1).square()
    return (losses if batch.weights is None else losses * batch.weights[learned]).sum()  # type: ignore[no-any-return]


def at(label: str, message: str) -> str:
    """Return torch's message with the weight it is about."""
    return f"{label}: {message}"


def compare(name: str, options: LossOptions, *, is_weighted: bool) -> None:
    """Compare loss and all gradients with plain torch, in float64."""
    ours, theirs, batch = make_model(name), make_model(name), make_batch(is_weighted=is_weighted)
    sums, expected = loss_sums(ours, batch, options), plain_loss(theirs, batch, options)
    torch.testing.assert_close(sums.loss, expected, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(sums.nll, plain_loss(theirs, batch, LossOptions()).detach(), rtol=1e-9, atol=1e-9)
    assert not sums.nll.requires_grad
    sums.loss.backward()
    expected.backward()
    for (label, mine), (_, other) in zip(ours.named_parameters(), theirs.named_parameters(), strict=True):
        torch.testing.assert_close(mine.grad, other.grad, rtol=1e-8, atol=1e-10, msg=partial(at, label))


@pytest.mark.parametrize("is_weighted", [False, True])
@pytest.mark.parametrize("name", CONFIGS)
def test_the_loss_is_plain_torch(name: str, is_weighted: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Through the fused head and through the model's own, for every option."""
    for options in OPTIONS:
        compare(name, options, is_weighted=is_weighted)
    monkeypatch.setattr(loss_room, "has_plain_head", lambda _: False)
    for options in OPTIONS:
        compare(name, options, is_weighted=is_weighted)


def test_a_broken_head_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    """The comparison fails if the head forgets the cap, or reads the positions before."""
    with monkeypatch.context() as patch:
        patch.setattr(loss_room, "softcap_of", lambda _: None)
        with pytest.raises(AssertionError, match="not close"):
            compare("gemma2", LossOptions(), is_weighted=False)
    take = head_room.take_rows
    monkeypatch.setattr(loss_room, "take_rows", lambda x, index: take(x, index - 1))
    with pytest.raises(AssertionError, match="not close"):
        compare("llama", LossOptions(), is_weighted=True)


def test_sums_count_weights() -> None:
    """Tokens and hits are counted by weight, one each without weights."""
    model = make_model()
    plain, weighted = (make_batch(is_weighted=choice) for choice in (False, True))
    losses, is_right, learned = token_losses(model, weighted)
    assert weighted.weights is not None
    weights = weighted.weights[learned].double()
    sums = loss_sums(model, weighted)
    torch.testing.assert_close(sums.loss.detach(), (losses * weights).sum())
    torch.testing.assert_close(sums.correct, (is_right * weights).sum())
    torch.testing.assert_close(sums.tokens, weights.sum())
    sums = loss_sums(model, plain)
    assert (sums.correct.item(), sums.tokens.item()) == (float(is_right.sum()), float(len(learned)))


@pytest.mark.parametrize("name", CONFIGS)
def test_losses_of_tokens_are_plain_torch(name: str) -> None:
    """Each learned token's loss and whether it is ranked first, in order of the batch; nothing to differentiate."""
    model, batch = make_model(name), make_batch(is_weighted=False)
    losses, is_right, learned = token_losses(model, batch)
    with torch.no_grad():
        logits = model(
            input_ids=batch.tokens[None],
            position_ids=batch.positions[None],
            documents=documents_of(batch),
            use_cache=False,
        ).logits[0, learned]
    assert torch.equal(learned, torch.nonzero(batch.targets != NOT_LEARNED)[:, 0])
    torch.testing.assert_close(losses, F.cross_entropy(logits, batch.targets[learned], reduction="none"))
    assert torch.equal(is_right, logits.argmax(1) == batch.targets[learned])
    assert is_right.dtype == torch.bool and not losses.requires_grad


@pytest.mark.parametrize("attention", ["exact", "eager"])
def test_a_batch_that_teaches_nothing_changes_nothing(attention: str) -> None:
    """Loss, tokens and every gradient are zero, not missing, so that several processes can add them up."""
    model, batch = make_model(attention=attention), make_batch(is_weighted=True)
    sums = loss_sums(model, replace(batch, targets=torch.full_like(batch.targets, NOT_LEARNED)))
    assert [part.item() for part in (sums.loss, sums.nll, sums.correct, sums.tokens)] == [0.0] * 4
    sums.loss.backward()
    assert all(p.grad is not None and not p.grad.any() for p in model.parameters())


def test_the_scale_is_of_the_loss_alone() -> None:
    """`scale` multiplies the loss and its gradients, as if it were done afterwards; what is reported stays."""
    model, batch = make_model(), make_batch(is_weighted=True)
    scaled, plain = loss_sums(model, batch, OPTIONS[2], scale=0.125), loss_sums(model, batch, OPTIONS[2])
    assert torch.equal(scaled.loss, plain.loss / 8)
    assert torch.equal(scaled.nll, plain.nll) and torch.equal(scaled.tokens, plain.tokens)
    weights = list(model.parameters())
    for one, other in zip(
        torch.autograd.grad(scaled.loss, weights), torch.autograd.grad(plain.loss / 8, weights), strict=True
    ):
        torch.testing.assert_close(one, other)


def test_logits_never_exist_all_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Training and evaluation hold the logits of one chunk of rows only."""
    seen: list[int] = []

    def watched(logits: Tensor, *rest: object, **options: object) -> RowLosses:
        seen.append(logits.shape[0])
        return cross_entropy(logits, *rest, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(head_room, "cross_entropy", watched)
    monkeypatch.setattr(head_room, "_chunk_rows", lambda *_, **__: 4)
    model, batch = make_model(), make_batch(is_weighted=False)
    monkeypatch.setattr(loss_room, "_logits_at", None)
    learned = int((batch.targets != NOT_LEARNED).sum())
    loss_sums(model, batch).loss.backward()
    token_losses(model, batch)
    assert max(seen) == 4 and sum(seen) == 2 * learned


@pytest.mark.parametrize("attention", ["exact", "eager"])
def test_a_batch_may_say_what_is_learned(attention: str) -> None:
    """The positions need not be searched on the device: those that come with the batch are taken as they are."""
    model, batch = make_model(attention=attention), make_batch(is_weighted=True)
    told = replace(batch, learned=torch.nonzero(batch.targets != NOT_LEARNED)[:, 0])
    found, expected = loss_sums(model, told), loss_sums(model, batch)
    assert torch.equal(found.loss, expected.loss) and torch.equal(found.tokens, expected.tokens)
    assert all(map(torch.equal, token_losses(model, told), token_losses(model, batch)))
