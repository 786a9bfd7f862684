"""The language-model head and its loss in one: logits exist a few rows at a time and turn into gradients in place."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any
from weakref import WeakKeyDictionary

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from attune.model.attention import PER_ROW, attention_of, documents_of
from attune.model.kernels.cross_entropy import LossOptions, RowLosses, cross_entropy
from attune.types import Batch

_CPU_BYTES = 2**26  # of logits at once
_CUDA_BYTES = 2**29  # 2,048 rows of 128k columns in 16 bits
_CUDA_BYTES_TRAINED = 2**30  # where the head learns: each chunk reads and writes the whole float32 gradient once
_MOST_ROWS = 8192
_PLAIN = LossOptions()


def cross_entropy_of(logits: Tensor, task: HeadTask, rows: slice) -> Tensor:
    """Return loss, plain loss and hits [3, n] of the logits [n, V] of some rows of a task: its usual judge."""
    found = cross_entropy(
        logits,
        task.targets[rows],
        None if task.weights is None else task.weights[rows],
        task.options,
        softcap=task.softcap,
        scale=task.scale,
        gradients=task.gradients,
    )
    return torch.stack([found.losses, found.nll, found.correct])


@dataclass(frozen=True, slots=True)
class HeadTask:
    """What the head is asked: int64 targets [N], weights [N] or None, and how the loss is taken.

    softcap: cap * tanh(logit / cap), None for none; chunk: rows at once, 0 to choose by memory; scale: what the
    returned loss and all gradients are multiplied by; gradients: whether any are wanted. `judge` returns three figures
    of each row [3, n]: what is minimised, the plain loss, and one that is only counted; where gradients are wanted,
    those of scale * sum(weight * the first) take the place of the logits.
    """

    targets: Tensor
    weights: Tensor | None = None
    softcap: float | None = None
    options: LossOptions = _PLAIN
    chunk: int = 0
    scale: float = 1.0
    gradients: bool = True
    judge: Callable[[Tensor, HeadTask, slice], Tensor] = cross_entropy_of


@dataclass(slots=True)
class _Gradients:
    """The gradients of a head, filled chunk by chunk; None for what needs none. `weight` and `bias` are float32."""

    hidden: Tensor | None = None
    weight: Tensor | None = None
    bias: Tensor | None = None


def head_loss(hidden: Tensor, weight: Tensor, bias: Tensor | None, task: HeadTask) -> tuple[Tensor, Tensor, Tensor]:
    """Return what the task's judge says of hidden @ weight.T + bias, summed over the weighted rows.

    Of the usual judge: scale * sum(weight * loss), sum(weight * nll) and sum(weight * correct).
    hidden: [N, H]; weight: [V, H]. Only the first sum is differentiable; its gradients are computed here, at once,
    while the logits of a chunk exist, and multiplied by what comes in backward. Give what the loss is divided by as
    the task's scale, and backward multiplies by 1, which rounds nothing. Under autocast the product is taken in its
    type; gradients have the types of what they belong to, and that of `weight` is summed in float32.
    """
    task = replace(task, gradients=torch.is_grad_enabled())
    return _FusedLoss.apply(hidden, weight, bias, task)  # type: ignore[no-any-return,no-untyped-call]


def logits_loss(logits: Tensor, task: HeadTask) -> tuple[Tensor, Tensor, Tensor]:
    """Return the same three sums for logits [N, V] that a model's own head made; `softcap` and `chunk` are not used."""
    return _LogitsLoss.apply(logits, replace(task, gradients=torch.is_grad_enabled()))  # type: ignore[no-any-return,no-untyped-call]


@torch.no_grad()
def row_losses(
    hidden: Tensor, head: nn.Linear, targets: Tensor, *, softcap: float | None, options: LossOptions = _PLAIN
) -> RowLosses:
    """Return the loss of each row of `hidden` [N, H] by itself, without gradients."""
    operands = _in_one_type(hidden, head.weight, head.bias)
    with torch.autocast(hidden.device.type, enabled=False):
        return RowLosses(*_by_chunk(operands, HeadTask(targets, softcap=softcap, options=options), _Gradients()))


@torch.no_grad()
def logits_by_chunk(hidden: Tensor, head: nn.Linear) -> Iterator[Tensor]:
    """Yield the logits of `hidden` [N, H], some rows at a time, without a cap; each is gone when the next is asked."""
    operands = _in_one_type(hidden, head.weight, head.bias)
    for _, logits in _chunks(operands, _chunk_rows(len(hidden), operands[1], is_trained=False)):
        yield logits


class _FusedLoss(torch.autograd.Function):
    """The head with its loss; forward makes the gradients."""

    @staticmethod
    def forward(  # noqa: PLR0917 - autograd hands over by position
        ctx: Any, hidden: Tensor, weight: Tensor, bias: Tensor | None, task: HeadTask
    ) -> tuple[Tensor, Tensor, Tensor]:
        operands = _in_one_type(hidden, weight, bias)
        with torch.autocast(hidden.device.type, enabled=False):  # which would round the float32 sums
            gradients = _room(operands, ctx.needs_input_grad) if task.gradients else _Gradients()
            rows = _by_chunk(operands, task, gradients)
        ctx.save_for_backward(gradients.hidden, gradients.weight, gradients.bias)
        ctx.dtypes = hidden.dtype, weight.dtype, None if bias is None else bias.dtype
        return _sums(ctx, rows, task)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor, *_: Tensor) -> tuple[Tensor | None, ...]:
        parts = zip(ctx.saved_tensors, ctx.dtypes, strict=True)
        return *(None if part is None else _times(part, grad, dtype) for part, dtype in parts), None


class _LogitsLoss(torch.autograd.Function):
    """The loss of logits that exist already."""

    @staticmethod
    def forward(ctx: Any, logits: Tensor, task: HeadTask) -> tuple[Tensor, Tensor, Tensor]:
        needed = task.gradients and ctx.needs_input_grad[0]
        logits = logits.detach().contiguous()
        gradient = logits.clone() if needed else logits  # the logits may be needed by what made them
        rows = task.judge(gradient, replace(task, gradients=needed), slice(None))
        ctx.save_for_backward(gradient if needed else None)
        return _sums(ctx, rows, task)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor, *_: Tensor) -> tuple[Tensor | None, ...]:
        (gradient,) = ctx.saved_tensors
        return _times(gradient, grad, gradient.dtype), None


class _TakeRows(torch.autograd.Function):
    """Rows of a matrix by an index without repeats; the gradient is a copy, not a sum, so it is deterministic."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, index: Tensor) -> Tensor:
        ctx.save_for_backward(index)
        ctx.rows = x.shape[0]
        return x.index_select(0, index)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        (index,) = ctx.saved_tensors
        return grad.new_zeros(ctx.rows, grad.shape[1]).index_copy_(0, index, grad), None


def take_rows(x: Tensor, index: Tensor) -> Tensor:
    """Return the rows [N, H] of `x` [T, H] that `index` names, each at most once."""
    return _TakeRows.apply(x, index)  # type: ignore[no-any-return,no-untyped-call]


def _in_one_type(hidden: Tensor, weight: Tensor, bias: Tensor | None) -> tuple[Tensor, Tensor, Tensor | None]:
    """Return the operands in the type of their product: autocast's, else that of `hidden`."""
    kind, dtype = hidden.device.type, hidden.dtype
    if torch.is_autocast_enabled(kind) and dtype != torch.float64:  # autocast leaves float64 alone
        dtype = torch.get_autocast_dtype(kind)
    return hidden.to(dtype), weight.to(dtype), None if bias is None else bias.to(dtype)


def _room(operands: tuple[Tensor, Tensor, Tensor | None], needs: tuple[bool, ...]) -> _Gradients:
    """Return room for the gradients that are needed; those that are sums over chunks are float32."""
    hidden, weight, bias = operands
    wide = torch.promote_types(hidden.dtype, torch.float32)
    make = torch.empty if hidden.shape[0] else torch.zeros  # the first chunk writes, later ones add
    return _Gradients(
        torch.empty(hidden.shape, dtype=hidden.dtype, device=hidden.device) if needs[0] else None,
        make(weight.shape, dtype=wide, device=weight.device) if needs[1] else None,
        torch.zeros(bias.shape, dtype=wide, device=bias.device) if bias is not None and needs[2] else None,
    )


def _times(gradient: Tensor, grad: Tensor, dtype: torch.dtype) -> Tensor:
    """Return gradient * grad in `dtype`, rounded once."""
    if grad.device.type == "cpu" and grad.item() == 1:  # on other devices to look would be to wait
        return gradient.to(dtype)
    out = torch.empty(gradient.shape, dtype=dtype, device=gradient.device)
    return torch.mul(gradient, grad.view(1), out=out)  # a scalar on cuda would be rounded to 16 bits first


def _sums(ctx: Any, parts: Tensor, task: HeadTask) -> tuple[Tensor, Tensor, Tensor]:
    """Return the three sums of what is known of the rows [3, N], weighted; the last two are not differentiable."""
    if task.weights is not None:
        parts = parts * task.weights.to(parts.dtype)
    loss, nll, correct = parts.sum(dim=1, dtype=torch.float64).to(parts.dtype).unbind()
    ctx.mark_non_differentiable(nll, correct)
    return loss * task.scale, nll, correct


def _by_chunk(operands: tuple[Tensor, Tensor, Tensor | None], task: HeadTask, gradients: _Gradients) -> Tensor:
    """Return what the judge says of all rows [3, N] and fill `gradients`, with the logits of one chunk in memory."""
    hidden, weight, _ = operands
    size = task.chunk or _chunk_rows(hidden.shape[0], weight, is_trained=gradients.weight is not None)
    wanted = any(part is not None for part in (gradients.hidden, gradients.weight, gradients.bias))
    task = replace(task, gradients=wanted)
    found = []
    for rows, logits in _chunks(operands, size):
        found.append(task.judge(logits, task, rows))
        if gradients.hidden is not None:
            torch.mm(logits, weight, out=gradients.hidden[rows])
        if gradients.weight is not None:
            _add_product(gradients.weight, logits.t(), hidden[rows], is_first=rows.start == 0)
        if gradients.bias is not None:
            gradients.bias += logits.sum(dim=0, dtype=gradients.bias.dtype)
    wide = torch.promote_types(hidden.dtype, torch.float32)
    return torch.cat(found, dim=1) if found else torch.empty(3, 0, dtype=wide, device=hidden.device)


def _chunks(operands: tuple[Tensor, Tensor, Tensor | None], size: int) -> Iterator[tuple[slice, Tensor]]:
    """Yield the logits of `size` rows at a time, with which rows they are; all lie in one memory."""
    hidden, weight, bias = operands
    count, columns = hidden.shape[0], weight.shape[0]
    # rows begin at multiples of 64 columns, whatever the vocabulary: odd ones make matrix products slow
    room = torch.empty(size, -(-columns // 64) * 64, dtype=hidden.dtype, device=hidden.device)[:, :columns]
    for start in range(0, count, size):
        rows = slice(start, min(start + size, count))
        logits, x = room[: rows.stop - start], hidden[rows]
        if bias is None:
            torch.mm(x, weight.t(), out=logits)
        else:
            torch.addmm(bias, x, weight.t(), out=logits)
        yield rows, logits


def _chunk_rows(count: int, weight: Tensor, *, is_trained: bool) -> int:
    """Return how many of `count` rows go at once: by memory, and all chunks about equal."""
    memory = _CPU_BYTES
    if weight.is_cuda:
        memory = _CUDA_BYTES_TRAINED if is_trained else _CUDA_BYTES
    most = min(max(memory // (weight.shape[0] * weight.itemsize), 64), _MOST_ROWS)
    chunks = -(-count // most)
    return max(count, 1) if chunks <= 1 else -(-count // chunks // 64) * 64


def _add_product(total: Tensor, left: Tensor, right: Tensor, *, is_first: bool) -> None:
    """Add left @ right to `total`, or write it if first, without rounding the product to the type of its operands."""
    beta = 0 if is_first else 1
    if total.dtype == left.dtype:
        torch.addmm(total, left, right, beta=beta, out=total)
    elif total.is_cuda:
        torch.addmm(total, left, right, out_dtype=total.dtype, beta=beta, out=total)
    else:
        torch.addmm(total, left.to(total.dtype), right.to(total.dtype), beta=beta, out=total)


_NARROWS = "attune_narrows"  # set on a body whose last layer computes only the positions that it is asked for


def narrow(body: nn.Module) -> None:
    """Note that a body, given `learned`, returns the hidden states of these positions alone."""
    setattr(body, _NARROWS, True)


def narrows(model: nn.Module) -> bool:
    """Whether `body_hidden` may be asked for some positions alone."""
    return getattr(_transformer(model).base_model, _NARROWS, False)


def body_hidden(model: nn.Module, batch: Batch, learned: Tensor | None = None) -> Tensor:
    """Return the last hidden states [T, H] of a flat batch, the head's input; `model` may be wrapped by PEFT.

    learned: int64 [n], the positions whose states are wanted, [n, H]; only where `narrows` says so.
    """
    body = _transformer(model).base_model
    output = body(
        input_ids=batch.tokens[None],
        position_ids=batch.positions[None],
        documents=documents_of(batch),
        use_cache=False,
        **({} if learned is None else {"learned": learned}),
    )
    return output.last_hidden_state[0]  # type: ignore[no-any-return]


def softcap_of(model: nn.Module) -> float | None:
    """Return the cap on the logits that the model's config names, None for none."""
    cap = getattr(_transformer(model).config.get_text_config(), "final_logit_softcapping", None)
    return float(cap) if cap else None


def head_of(model: nn.Module) -> nn.Linear:
    """Return the head of a model that has a plain one."""
    return _transformer(model).get_output_embeddings()  # type: ignore[no-any-return]


_PROVEN: WeakKeyDictionary[nn.Module, tuple[nn.Module, bool]] = WeakKeyDictionary()  # by model: its head, the answer


def has_plain_head(model: nn.Module) -> bool:
    """Whether logits are the head's product with the body's last hidden states, capped as the config says.

    Proven once for each model and head, on hidden states that make logits large enough for any cap or scale to show:
    a head that is more (scaled logits, an adapter on it, several of them) takes the general path through the model.
    """
    inner = _transformer(model)
    if attention_of(inner) == PER_ROW or inner.base_model is inner:
        return False
    head = inner.get_output_embeddings()
    if type(head) is not nn.Linear or head._forward_hooks or head._forward_pre_hooks:  # noqa: SLF001 - no public name
        return False
    known = _PROVEN.get(inner)
    if known is None or known[0] is not head:
        known = _PROVEN[inner] = (head, _prove(inner, head, softcap_of(inner)))
    return known[1]


@torch.no_grad()
def _prove(inner: Any, head: nn.Linear, softcap: float | None) -> bool:
    """Run some tokens through the model with hidden states of ours as the body's result, and compare the logits."""
    seen: list[Tensor] = []

    def exchange(_: nn.Module, __: Any, output: Any) -> Any:
        hidden = getattr(output, "last_hidden_state", None)
        if hidden is None or hidden.shape[-1] != head.in_features:
            return output
        probe = torch.randn(hidden.shape, generator=torch.Generator().manual_seed(0)).to(hidden)
        output.last_hidden_state = probe * (50 / head(probe).abs().max())
        seen.append(output.last_hidden_state)
        return output

    places = torch.arange(16, device=head.weight.device)
    offsets = torch.tensor([0, 16], dtype=torch.int32, device=places.device)
    batch = Batch(places % head.out_features, places, places, offsets, offsets, 16, 16, (16,), (0,))
    training = [module for module in inner.modules() if module.training]
    hook = inner.base_model.register_forward_hook(exchange)
    try:
        inner.eval()
        theirs = inner(
            input_ids=batch.tokens[None], position_ids=places[None], documents=documents_of(batch), use_cache=False
        ).logits
    finally:
        hook.remove()
        for module in training:
            module.training = True
    if len(seen) != 1:
        return False
    ours = F.linear(seen[0], head.weight, head.bias)
    if softcap:
        ours = torch.tanh(ours / softcap) * softcap
    if theirs.shape != ours.shape:
        return False
    return bool((theirs - ours).abs().max() <= torch.finfo(ours.dtype).eps * ours.abs().max())


def _transformer(model: Any) -> Any:
    """Return the transformers model itself, without PEFT around it."""
    return model.get_base_model() if hasattr(model, "get_base_model") else model
