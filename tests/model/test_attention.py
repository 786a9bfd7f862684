"""Attention inside documents, against transformers' own, written-out attention of each row alone."""

from __future__ import annotations

from functools import partial

import pytest
import torch

from attune.errors import ModelError
from attune.model.attention import AttentionChoice, attention_of, choose_attention, documents_of, set_attention
from attune.model.exact import BLOCK
from attune.model.loss import loss_sums, token_losses
from tests.tiny import CONFIGS, flat_batch, make_model, make_rows

LENGTHS = (7, 1, 19, 2, 12)
RTOL, ATOL = 1e-5, 2e-6  # transformers rounds norms and softmax to float32 even in float64 models


def at(label: str, message: str) -> str:
    """Return torch's message with the weight it is about."""
    return f"{label}: {message}"


@pytest.mark.parametrize("name", CONFIGS)
def test_every_document_is_as_if_alone(name: str) -> None:
    """Logits of rows laid end to end equal those of each row alone under transformers' eager attention (float64)."""
    ours, theirs = make_model(name), make_model(name, attention="eager")
    rows = make_rows(LENGTHS)
    batch = flat_batch(rows)
    flat = ours(
        input_ids=batch.tokens[None], position_ids=batch.positions[None], documents=documents_of(batch), use_cache=False
    ).logits[0]
    alone = torch.cat([theirs(input_ids=tokens[None], use_cache=False).logits[0] for tokens, _ in rows])
    torch.testing.assert_close(flat, alone, rtol=RTOL, atol=ATOL)


def test_long_documents_are_computed_in_blocks_and_stay_exact() -> None:
    """Around the block size and over several of them, loss and gradient equal transformers' sdpa on a row (float64)."""
    for length in (BLOCK, BLOCK + 33, 2 * BLOCK + 40, 3 * BLOCK):
        ours, theirs = make_model(positions=512), make_model(positions=512, attention="sdpa")
        rows = make_rows((length,))
        loss, other = loss_sums(ours, flat_batch(rows)).loss, loss_sums(theirs, flat_batch(rows)).loss
        torch.testing.assert_close(loss, other, rtol=1e-9, atol=1e-9)
        for mine, one in zip(
            torch.autograd.grad(loss, list(ours.parameters())),
            torch.autograd.grad(other, list(theirs.parameters())),
            strict=True,
        ):
            torch.testing.assert_close(mine, one, rtol=RTOL, atol=ATOL)


def test_the_comparison_sees_documents_that_leak() -> None:
    """The test above would fail if documents saw each other: one document of all tokens gives other logits."""
    model = make_model()
    rows = make_rows(LENGTHS)
    apart, joined = flat_batch(rows), flat_batch([(torch.cat([t for t, _ in rows]), torch.cat([t for _, t in rows]))])
    assert abs((loss_sums(model, apart).loss - loss_sums(model, joined).loss).detach().item()) > 1e-2


@pytest.mark.parametrize("name", CONFIGS)
def test_loss_equals_transformers_own_loss(name: str) -> None:
    """On one document the loss per token and its gradient equal those of transformers' labels= path (float64)."""
    ours, theirs = make_model(name), make_model(name, attention="eager")
    (tokens, targets), *_ = make_rows((23,))
    sums = loss_sums(ours, flat_batch([(tokens, targets)]))
    labels = torch.full_like(tokens, -100)
    labels[1:] = targets[:-1]
    expected = theirs(input_ids=tokens[None], labels=labels[None], use_cache=False).loss
    torch.testing.assert_close(sums.loss / sums.tokens, expected.double(), rtol=1e-6, atol=1e-6)  # theirs is in float32
    (sums.loss / sums.tokens).backward()
    expected.backward()
    for (label, mine), (_, other) in zip(ours.named_parameters(), theirs.named_parameters(), strict=True):
        torch.testing.assert_close(mine.grad, other.grad, rtol=1e-5, atol=1e-7, msg=partial(at, label))


@pytest.mark.parametrize("name", CONFIGS)
def test_packed_equals_unpacked(name: str) -> None:
    """Loss and gradient of rows in one batch equal the sums over batches of one row each (float64)."""
    rows = make_rows((9, 17, 4, 11))
    together, apart = make_model(name), make_model(name)
    loss_sums(together, flat_batch(rows)).loss.backward()
    total = sum(loss_sums(apart, flat_batch([row])).loss for row in rows)
    assert isinstance(total, torch.Tensor)
    total.backward()
    for (label, mine), (_, other) in zip(together.named_parameters(), apart.named_parameters(), strict=True):
        torch.testing.assert_close(mine.grad, other.grad, rtol=RTOL, atol=ATOL, msg=partial(at, label))


def test_a_model_without_pluggable_attention_is_computed_row_by_row() -> None:
    """Where nothing can be plugged in, rows go through one by one and the loss is the same."""
    rows = make_rows((9, 5))
    plugged, plain = make_model(), make_model(attention="eager")
    assert attention_of(plain) == "per_row"
    torch.testing.assert_close(
        token_losses(plugged, flat_batch(rows))[0], token_losses(plain, flat_batch(rows))[0], rtol=RTOL, atol=ATOL
    )


def test_a_wish_that_cannot_be_met_is_an_error() -> None:
    """Varlen on a CPU is refused with the reason; auto takes exact and says why."""
    model = make_model()
    options = {"device": "cpu", "dtype": torch.float32, "model_class": type(model), "config": model.config}
    with pytest.raises(ModelError, match="varlen cannot run here: device is cpu"):
        choose_attention("varlen", **options)
    assert choose_attention("auto", **options) == AttentionChoice("exact", "device is cpu")


def test_gradients_flow_to_every_weight() -> None:
    """No weight is cut off from the loss by the way attention is plugged in."""
    model = make_model()
    loss_sums(model, flat_batch(make_rows(LENGTHS))).loss.backward()
    assert all(p.grad is not None and bool(p.grad.abs().sum() > 0) for p in model.parameters())


def test_rows_that_teach_nothing_give_a_differentiable_zero() -> None:
    """A batch without learned tokens has loss 0 and can still be differentiated."""
    model = make_model()
    tokens, targets = make_rows((8,))[0]
    sums = loss_sums(model, flat_batch([(tokens, torch.full_like(targets, -100))]))
    sums.loss.backward()
    assert sums.loss.detach().item() == 0.0 and float(sums.tokens) == 0.0


def test_set_attention_can_be_undone() -> None:
    """Generation borrows the model with another attention and gives it back."""
    model = make_model()
    model.set_attn_implementation("sdpa")
    assert attention_of(model) == "per_row"
    set_attention(model, AttentionChoice("exact", "test"))
    assert attention_of(model) == "exact"
