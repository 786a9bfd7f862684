"""Causal attention inside each document of a flat batch, plugged in through transformers' attention interface."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AttentionInterface, PreTrainedModel

from attune.errors import ModelError
from attune.model import flash
from attune.model.exact import attend_exactly
from attune.model.flash import FLASH4, VARLEN
from attune.model.obstacles import flash4_obstacle, varlen_obstacle
from attune.types import Batch

EXACT, PER_ROW = "exact", "per_row"
# the names under which transformers knows our functions; it takes any with "flash" in it for one of its own
_NAMES = {EXACT: "attune_exact", VARLEN: "attune_varlen", FLASH4: "attune_fa4"}


@dataclass(slots=True, eq=False)  # if it were frozen, torch 2.11 would compile layers again for every number of them
class Documents:
    """Where each document of a flat batch lies: offsets int32 [D + 1] on the device, lengths on the host.

    Document d asks with tokens offsets[d]:offsets[d + 1]; its keys are kv_offsets[d]:kv_offsets[d + 1] of the tokens
    that kv_index [K] names, or of the tokens themselves where it is None. kv_order and kv_starts invert kv_index.
    The longest are bounds, rounded up, so that few different ones come up in a run.
    """

    offsets: Tensor
    lengths: tuple[int, ...]
    longest: int
    kv_offsets: Tensor
    kv_lengths: tuple[int, ...]
    longest_keys: int
    kv_index: Tensor | None = None
    kv_order: Tensor | None = None
    kv_starts: Tensor | None = None


@dataclass(frozen=True, slots=True)
class Attended:
    """What the backward of `attend` needs: its inputs, its output, and how it was called. lse: None for exact."""

    q: Tensor
    k: Tensor
    v: Tensor
    out: Tensor
    lse: Tensor | None
    documents: Documents
    scale: float
    window: int | None
    name: str


@dataclass(frozen=True, slots=True)
class AttentionChoice:
    """Which attention runs, and why it was chosen."""

    name: str
    reason: str


def documents_of(batch: Batch) -> Documents:
    """Return the document plan of `batch`, as the attention functions take it."""
    return Documents(
        batch.q_offsets,
        batch.lengths,
        _rounded_up(batch.max_q),
        batch.kv_offsets,
        batch.lengths if batch.kv_lengths is None else batch.kv_lengths,
        _rounded_up(batch.max_kv),
        kv_index=batch.kv_index,
        kv_order=batch.kv_order,
        kv_starts=batch.kv_starts,
    )


def _rounded_up(length: int) -> int:
    """Return the next of 64, 96, 128, 192, 256, ...: a kernel's empty blocks cost less than being compiled anew.

    Never 1: FlashAttention-2 takes another path for single queries, which mixes up grouped heads with windows.
    """
    power = 64
    while power < length:
        if length <= power + power // 2:
            return power + power // 2
        power *= 2
    return power


def choose_attention(
    wish: str, *, device: str, dtype: torch.dtype, model_class: type[PreTrainedModel], config: Any
) -> AttentionChoice:
    """Return the attention for a model; `wish` is auto, exact, varlen or flash4.

    Raises ModelError when a kernel is asked for and cannot run: there is no silent fallback.
    """
    if not model_class._can_set_attn_implementation():
        if wish in (VARLEN, FLASH4):
            raise ModelError(
                f"attention: {model_class.__name__} has no pluggable attention, so {wish} cannot run.\n"
                "Use --attention auto."
            )
        return AttentionChoice(
            PER_ROW, f"{model_class.__name__} has no pluggable attention: rows are computed one by one"
        )
    if wish == EXACT:
        return AttentionChoice(EXACT, "asked for")
    if wish in (VARLEN, FLASH4):
        obstacle = (varlen_obstacle if wish == VARLEN else flash4_obstacle)(device, dtype, config)
        if obstacle:
            raise ModelError(f"attention: {wish} cannot run here: {obstacle}.\nUse --attention auto.")
        return AttentionChoice(wish, "asked for")
    if obstacle := varlen_obstacle(device, dtype, config):
        return AttentionChoice(EXACT, obstacle)
    if obstacle := flash4_obstacle(device, dtype, config):
        return AttentionChoice(VARLEN, obstacle)
    return AttentionChoice(FLASH4, f"cuda and {str(dtype).removeprefix('torch.')}, FlashAttention-4 is installed")


def set_attention(model: PreTrainedModel, choice: AttentionChoice) -> None:
    """Make `model` use the chosen attention for flat batches."""
    if choice.name != PER_ROW:
        model.set_attn_implementation(_NAMES[choice.name])


def attention_of(model: PreTrainedModel) -> str:
    """Return the name of the flat-batch attention in use: exact, varlen, or per_row where none is plugged in."""
    name = str(model.config._attn_implementation)
    return next((ours for ours, theirs in _NAMES.items() if theirs == name), PER_ROW)


@torch.compiler.disable  # type: ignore[untyped-decorator]  # documents differ from batch to batch: compiled code would be made anew for each
def exact_attention(
    module: nn.Module, query: Tensor, key: Tensor, value: Tensor, attention_mask: Tensor | None, **options: Any
) -> tuple[Tensor, None]:
    """Return causal attention of each document by itself, computed by torch's scaled_dot_product_attention.

    query [1, heads, T, head_dim], key and value [1, key heads, T, head_dim]; returns [1, T, heads, head_dim].
    Works on any device in any precision and is the reference for the fast paths. Handles sliding windows and capped
    logits.
    """
    documents = _documents(options)
    out = attend_exactly(
        query,
        *(gather_keys(part[0].transpose(0, 1), documents).transpose(0, 1)[None] for part in (key, value)),
        lengths=documents.lengths,
        key_lengths=documents.kv_lengths,
        scale=options.get("scaling"),
        window=options.get("sliding_window"),
        cap=options.get("softcap"),
        dropout=options.get("dropout", 0.0),
    )
    return out.transpose(1, 2), None


def varlen_attention(
    module: nn.Module, query: Tensor, key: Tensor, value: Tensor, attention_mask: Tensor | None, **options: Any
) -> tuple[Tensor, None]:
    """Return the same as `exact_attention` from torch's FlashAttention-2 (CUDA, 16 bits): one launch for all."""
    return _flash_attention(VARLEN, query, (key, value), options), None


def flash4_attention(
    module: nn.Module, query: Tensor, key: Tensor, value: Tensor, attention_mask: Tensor | None, **options: Any
) -> tuple[Tensor, None]:
    """Return the same from FlashAttention-4 (CUDA from compute capability 9, 16 bits)."""
    return _flash_attention(FLASH4, query, (key, value), options), None


def _flash_attention(name: str, query: Tensor, keys: tuple[Tensor, Tensor], options: dict[str, Any]) -> Tensor:
    """Return attention [1, T, heads, head_dim] of a flash kernel, from inputs as transformers lays them."""
    documents = _documents(options)
    dtype = torch.get_autocast_dtype("cuda") if torch.is_autocast_enabled("cuda") else query.dtype
    q, k, v = (part[0].transpose(0, 1).to(dtype) for part in (query, *keys))
    scale = options.get("scaling")
    out, _ = flash.flash_attend(
        q,
        k,
        v,
        documents.offsets,
        documents.kv_offsets,
        documents.longest,
        documents.longest_keys,
        q.shape[-1] ** -0.5 if scale is None else scale,
        options.get("sliding_window"),
        documents.kv_index,
        documents.kv_order,
        documents.kv_starts,
        name,
    )
    attended: Tensor = out.unsqueeze(0)
    return attended


def attend(
    q: Tensor, k: Tensor, v: Tensor, documents: Documents, *, scale: float, window: int | None = None, name: str
) -> tuple[Tensor, Attended]:
    """Return causal attention [T, heads, head_dim] of each document and what `attend_backward` needs; no autograd.

    q [T, heads, head_dim], k and v [T, key heads, head_dim], views of a fused projection too. Keys that several
    documents share are gathered inside, and again in the backward, which may be given other tensors of the same
    values: dataclasses.replace(saved, q=...). name: exact, varlen or flash4.
    """
    if name != EXACT:
        out, lse = flash.forward(q, k, v, _layout(documents, scale, window), name=name)
        return out, Attended(q, k, v, out, lse, documents, scale, window, name)
    with torch.no_grad():
        out = _exactly(q, k, v, documents, scale=scale, window=window)
    return out, Attended(q, k, v, out, None, documents, scale, window, name)


def attend_backward(grad: Tensor, saved: Attended) -> tuple[Tensor, Tensor, Tensor]:
    """Return the gradients of q, k and v [T, heads, head_dim], contiguous, from that of the output of `attend`.

    The exact one is computed once more and differentiated by autograd.
    """
    if saved.lse is not None:
        layout = _layout(saved.documents, saved.scale, saved.window)
        inputs, outputs = (saved.q, saved.k, saved.v), (saved.out, saved.lse)
        return flash.backward(grad.contiguous(), inputs, outputs, layout, name=saved.name)
    with torch.enable_grad():
        q, k, v = (part.detach().requires_grad_() for part in (saved.q, saved.k, saved.v))
        out = _exactly(q, k, v, saved.documents, scale=saved.scale, window=saved.window)
        dq, dk, dv = torch.autograd.grad(out, (q, k, v), grad)
    return dq.contiguous(), dk.contiguous(), dv.contiguous()


def _layout(documents: Documents, scale: float, window: int | None) -> flash.Layout:
    """Return what a flash kernel needs of the documents."""
    return flash.Layout(
        documents.offsets,
        documents.kv_offsets,
        documents.longest,
        documents.longest_keys,
        scale,
        window,
        kv_index=documents.kv_index,
        kv_order=documents.kv_order,
        kv_starts=documents.kv_starts,
    )


def _exactly(q: Tensor, k: Tensor, v: Tensor, documents: Documents, *, scale: float, window: int | None) -> Tensor:
    """Exact attention of inputs [T, heads, head_dim]."""
    query, key, value = (
        part.transpose(0, 1)[None] for part in (q, gather_keys(k, documents), gather_keys(v, documents))
    )
    lengths, key_lengths = documents.lengths, documents.kv_lengths
    out = attend_exactly(query, key, value, lengths=lengths, key_lengths=key_lengths, scale=scale, window=window)
    return out[0].transpose(0, 1)


class _Gathered(torch.autograd.Function):
    """Rows gathered, with a gradient that is added up in float32 and in a fixed order."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, index: Tensor, order: Tensor, starts: Tensor) -> Tensor:
        """Return x [T, ...] at the places of `index`."""
        ctx.save_for_backward(index, order, starts)
        return flash.gather_heads(x, index)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None, None]:
        """Return the gradient of x."""
        return flash.gather_heads_backward(grads[0], *ctx.saved_tensors), None, None, None


def gather_keys(x: Tensor, documents: Documents) -> Tensor:
    """Return what each document attends to, [K, ...], from x [T, heads, head_dim] or [T, C]; differentiable."""
    if documents.kv_index is None:
        return x
    inverse = (documents.kv_index, documents.kv_order, documents.kv_starts)
    return _Gathered.apply(x, *inverse)  # type: ignore[no-any-return,no-untyped-call]


def _documents(options: dict[str, Any]) -> Documents:
    """Take the document plan out of the options; refuse what a model asks for and these functions do not do."""
    unknown = [name for name in ("s_aux", "position_bias") if options.get(name) is not None]
    if unknown:
        raise ModelError(
            f"this model's attention uses {unknown[0]}, which attune does not compute. Choose another model."
        )
    documents = options.get("documents")
    assert isinstance(documents, Documents), "flat attention was called without its documents"
    return documents


_FUNCTIONS: dict[str, Callable[..., Any]] = {EXACT: exact_attention, VARLEN: varlen_attention, FLASH4: flash4_attention}
# No mask function beside them: the documents say who sees whom, and where there is none transformers asks the device
# nothing, while it would look for documents in the positions otherwise, and wait for the answer.
for _name, _function in _FUNCTIONS.items():
    AttentionInterface.register(_NAMES[_name], _function)
