"""The loss of a flat batch: cross entropy summed over its learned tokens; only their positions reach the head."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from attune.model.attention import PER_ROW, attention_of, documents_of
from attune.model.head import (
    HeadTask,
    body_hidden,
    has_plain_head,
    head_loss,
    head_of,
    logits_by_chunk,
    logits_loss,
    narrows,
    row_losses,
    softcap_of,
    take_rows,
)
from attune.model.kernels.cross_entropy import LossOptions, cross_entropy
from attune.types import NOT_LEARNED, Batch

__all__ = ["PLAIN", "LossOptions", "LossSums", "judged_sums", "learned_logits", "loss_sums", "token_losses"]

PLAIN = LossOptions()


@dataclass(frozen=True, slots=True)
class LossSums:
    """Sums over the learned tokens of a batch; all stay on the device.

    loss: nats, differentiable; correct: how many the model ranks first; tokens: how many there are, or the sum of their
    weights; nll: the loss without label smoothing, dft, z-loss or scale, not differentiable: what is reported.
    """

    loss: Tensor
    correct: Tensor
    tokens: Tensor
    nll: Tensor


@torch.no_grad()
def token_losses(model: nn.Module, batch: Batch, options: LossOptions = PLAIN) -> tuple[Tensor, Tensor, Tensor]:
    """Return for each learned token its loss in nats, whether it was ranked first, and its position in the batch.

    Losses are float32 (float64 for a float64 model), [learned], not differentiable, and plain whatever `options` says:
    it only tells which kernel may compute them.
    """
    if has_plain_head(model):
        hidden, learned, targets, _ = _learned_hidden(model, batch)
        rows = row_losses(hidden, head_of(model), targets, softcap=softcap_of(model), options=options)
    else:
        learned, targets, _ = _learned(batch)
        rows = cross_entropy(_logits_at(model, batch, learned), targets, None, options, gradients=False)
    return rows.nll, rows.correct > 0, learned


def loss_sums(model: nn.Module, batch: Batch, options: LossOptions = PLAIN, *, scale: float = 1.0) -> LossSums:
    """Return the summed loss of `batch`, never an average: the caller divides by the learned tokens of the step.

    `scale` multiplies `loss` alone: the same as to multiply it afterwards, but its gradients are rounded once less.
    A batch without learned tokens gives a zero that is still differentiable.
    """
    loss, nll, correct, tokens = judged_sums(model, batch, HeadTask, options=options, scale=scale)
    return LossSums(loss, correct, tokens, nll)


def judged_sums(
    model: nn.Module, batch: Batch, task: Callable[..., HeadTask], *, options: LossOptions, scale: float
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return the sums of the judge of `task` over the learned tokens, the first differentiable, and their weight.

    `task` makes it from targets, weights and the further fields of a HeadTask.
    """
    if has_plain_head(model):
        head = head_of(model)
        hidden, learned, targets, weights = _learned_hidden(model, batch)
        chosen = task(targets, weights, softcap=softcap_of(model), options=options, scale=scale)
        sums = head_loss(hidden, head.weight, head.bias, chosen)
    else:
        learned, targets, weights = _learned(batch)
        chosen = task(targets, weights, options=options, scale=scale)
        sums = logits_loss(_logits_at(model, batch, learned), chosen)
    tokens = sums[0].new_full((), len(learned)) if weights is None else weights.to(sums[0].dtype).sum()
    return *sums, tokens.detach()


@torch.no_grad()
def learned_logits(model: nn.Module, batch: Batch) -> Iterator[Tensor]:
    """Yield the logits [some, vocabulary] of the learned tokens in order, in float32 (float64 for a float64 model).

    Each lies in memory that the next one takes.
    """
    if not has_plain_head(model):
        logits = _logits_at(model, batch, _learned(batch)[0])
        yield logits.to(torch.promote_types(logits.dtype, torch.float32))
        return
    yield from logits_of(model, _learned_hidden(model, batch)[0])


@torch.no_grad()
def logits_of(model: nn.Module, states: Tensor) -> Iterator[Tensor]:
    """Yield the logits that a plain head makes of last hidden states [N, H], as `learned_logits` does."""
    for chunk in logits_by_chunk(states, head_of(model)):
        values, cap = chunk.to(torch.promote_types(chunk.dtype, torch.float32)), softcap_of(model)
        yield torch.tanh(values / cap) * cap if cap else values


@torch.no_grad()
def learned_states(model: nn.Module, batch: Batch) -> Tensor | None:
    """Return the last hidden states [learned, H] of the learned tokens; None where a head is more than a product."""
    return _learned_hidden(model, batch)[0] if has_plain_head(model) else None


def _learned(batch: Batch) -> tuple[Tensor, Tensor, Tensor | None]:
    """Return the positions that are learned, int64 [learned], and their targets and weights."""
    learned = batch.learned
    if learned is None:
        learned = torch.nonzero(batch.targets != NOT_LEARNED).squeeze(1)
    return learned, batch.targets[learned], None if batch.weights is None else batch.weights[learned]


def _learned_hidden(model: nn.Module, batch: Batch) -> tuple[Tensor, Tensor, Tensor, Tensor | None]:
    """Return the last hidden states of the learned positions, and what `_learned` returns.

    Where the positions must be looked for, the body is started first: to count them waits for the device, which has
    work then.
    """
    if batch.learned is not None and len(batch.learned) and narrows(model):
        learned, targets, weights = _learned(batch)
        return body_hidden(model, batch, learned), learned, targets, weights
    hidden = body_hidden(model, batch)
    learned, targets, weights = _learned(batch)
    return take_rows(hidden, learned), learned, targets, weights


def _logits_at(model: nn.Module, batch: Batch, learned: Tensor) -> Tensor:
    """Return the logits [learned, vocabulary] of a flat batch at the given positions, as the model's own head says."""
    if attention_of(model) == PER_ROW:
        return _logits_row_by_row(model, batch)
    output = model(
        input_ids=batch.tokens[None],
        position_ids=batch.positions[None],
        logits_to_keep=learned,
        documents=documents_of(batch),
        use_cache=False,
    )
    return output.logits[0]  # type: ignore[no-any-return]


def _logits_row_by_row(model: nn.Module, batch: Batch) -> Tensor:
    """The same for models whose attention cannot be plugged in: each document is its own forward pass."""
    parts = []
    for tokens, targets in zip(batch.tokens.split(batch.lengths), batch.targets.split(batch.lengths), strict=True):
        logits = model(input_ids=tokens[None], use_cache=False).logits[0]
        parts.append(logits[targets != NOT_LEARNED])
    return torch.cat(parts)
