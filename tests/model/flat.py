"""Small layouts of documents that share keys, and attention written out, for tests of the attention functions."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from attune.model.attention import Documents
from attune.model.flash import Layout


def make_documents(paths: Sequence[Sequence[int]], lengths: Sequence[int]) -> Documents:
    """Return documents of some lengths, where document d sees all documents in paths[d], last itself."""
    starts = torch.tensor([0, *lengths]).cumsum(0)
    seen = [torch.cat([torch.arange(int(starts[one]), int(starts[one + 1])) for one in path]) for path in paths]
    index = torch.cat(seen)
    order = torch.argsort(index, stable=True)
    held = torch.searchsorted(index[order], torch.arange(sum(lengths) + 1)).int()
    kv_lengths = tuple(len(one) for one in seen)
    is_shared = any(len(path) > 1 for path in paths)
    return Documents(
        starts.int(),
        tuple(lengths),
        64,
        torch.tensor([0, *kv_lengths]).cumsum(0).int(),
        kv_lengths,
        64,
        kv_index=index if is_shared else None,
        kv_order=order if is_shared else None,
        kv_starts=held if is_shared else None,
    )


def gathered(documents: Documents) -> tuple[Tensor, Tensor, Tensor]:
    """Return the keys' places of documents that share some, and what inverts them."""
    index, order, starts = documents.kv_index, documents.kv_order, documents.kv_starts
    assert index is not None
    assert order is not None
    assert starts is not None
    return index, order, starts


def _shares(q: Tensor, k: Tensor, layout: Layout) -> tuple[Tensor, Tensor]:
    """Return attention's shares of one document [heads, queries, keys], and their log-sum-exp."""
    groups = q.shape[1] // k.shape[1]
    scores = torch.einsum("qhd,khd->hqk", q, k.repeat_interleave(groups, 1)) * layout.scale
    ahead = torch.arange(k.shape[0])[None] - torch.arange(q.shape[0])[:, None] - (k.shape[0] - q.shape[0])
    hidden = (ahead > 0) if layout.window is None else (ahead > 0) | (ahead <= -layout.window)
    scores = scores.masked_fill(hidden, -torch.inf)
    return scores.softmax(-1), scores.logsumexp(-1)


def plain_forward(q: Tensor, k: Tensor, v: Tensor, layout: Layout) -> tuple[Tensor, Tensor]:
    """Attention as a flash kernel is called, in plain torch."""
    out, sums = [], []
    for number in range(len(layout.offsets) - 1):
        asked = slice(*layout.offsets[number : number + 2].tolist())
        seen = slice(*layout.kv_offsets[number : number + 2].tolist())
        shares, lse = _shares(q[asked], k[seen], layout)
        out.append(torch.einsum("hqk,khd->qhd", shares, v[seen].repeat_interleave(q.shape[1] // k.shape[1], 1)))
        sums.append(lse)
    return torch.cat(out), torch.cat(sums, 1).float()


def plain_backward(
    grad: Tensor, inputs: tuple[Tensor, Tensor, Tensor], outputs: tuple[Tensor, Tensor], layout: Layout
) -> tuple[Tensor, Tensor, Tensor]:
    """The backward of `plain_forward`, written out: inside an operation autograd does not record."""
    q, k, v = inputs
    groups = q.shape[1] // k.shape[1]
    dq, dk, dv = torch.zeros_like(q), torch.zeros_like(k), torch.zeros_like(v)
    for number in range(len(layout.offsets) - 1):
        asked = slice(*layout.offsets[number : number + 2].tolist())
        seen = slice(*layout.kv_offsets[number : number + 2].tolist())
        shares, _ = _shares(q[asked], k[seen], layout)
        wide_k, wide_v = (part[seen].repeat_interleave(groups, 1) for part in (k, v))
        ups = torch.einsum("qhd,khd->hqk", grad[asked], wide_v)
        deltas = (grad[asked] * outputs[0][asked]).sum(-1).T[..., None]
        scores = shares * (ups - deltas) * layout.scale
        dq[asked] = torch.einsum("hqk,khd->qhd", scores, wide_k)
        dk[seen] += torch.einsum("hqk,qhd->khd", scores, q[asked]).unflatten(1, (-1, groups)).sum(2)
        dv[seen] += torch.einsum("hqk,qhd->khd", shares, grad[asked]).unflatten(1, (-1, groups)).sum(2)
    return dq, dk, dv
