"""The raw attention functions and the flash operation, on documents that share keys, against autograd."""

from __future__ import annotations

import copy
import dataclasses
from typing import Any

import pytest
import torch
from torch import Tensor
from torch._dynamo.testing import CompileCounterWithBackend
from transformers import AttentionInterface

from attune.model import attention, flash
from attune.model.attention import Documents, attend, attend_backward, exact_attention
from tests.model.flat import make_documents, plain_backward, plain_forward
from tests.tiny import make_model

TREE = make_documents([[0], [0, 1], [0, 2], [0, 1, 3], [0, 1, 4], [5]], [6, 3, 1, 4, 2, 5])
FLAT = make_documents([[0], [1], [2]], [6, 1, 14])
SCALE = 0.3


@pytest.fixture(autouse=True)
def _plain_kernel(monkeypatch: pytest.MonkeyPatch) -> None:
    """Stand a kernel in plain torch beside those of CUDA, under the name plain."""
    monkeypatch.setitem(flash.KERNELS, "plain", (plain_forward, plain_backward))


def inputs(dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return q, k, v as views of one fused projection, 4 heads over 2, and a gradient of the output."""
    source = torch.Generator().manual_seed(0)
    fused = torch.randn(21, (4 + 2 + 2) * 8, generator=source, dtype=dtype)
    q, k, v = (part.unflatten(1, (-1, 8)) for part in fused.split([32, 16, 16], 1))
    return q, k, v, torch.randn(21, 4, 8, generator=source, dtype=dtype)


def arguments(documents: Documents, window: int | None) -> tuple[object, ...]:
    """Return what the flash operation takes after q, k and v."""
    return (
        documents.offsets, documents.kv_offsets, 64, 64, SCALE, window, documents.kv_index, documents.kv_order,
        documents.kv_starts, "plain",
    )  # fmt: skip


@pytest.mark.parametrize("window", [None, 3])
@pytest.mark.parametrize("documents", [TREE, FLAT], ids=["tree", "flat"])
def test_raw_functions_agree(documents: Documents, window: int | None) -> None:
    """Exact attention differentiated by autograd and a flash kernel with its own backward give the same (float64)."""
    q, k, v, grad = inputs()
    results = []
    for name in ("exact", "plain"):
        out, saved = attend(q, k, v, documents, scale=SCALE, window=window, name=name)
        moved = dataclasses.replace(saved, q=q.clone(), k=k.clone(), v=v.clone())
        grads = attend_backward(grad, moved)
        assert all(part.is_contiguous() for part in grads)
        assert not out.requires_grad
        results.append((out, *grads))
    for one, other in zip(*results, strict=True):
        torch.testing.assert_close(one, other)


@pytest.mark.parametrize("window", [None, 3])
@pytest.mark.parametrize("documents", [TREE, FLAT], ids=["tree", "flat"])
def test_the_operation_has_the_gradients_of_autograd(documents: Documents, window: int | None) -> None:
    """What transformers' layers call gives outputs and gradients of exact attention, and obeys torch's rules."""
    q, k, v, grad = inputs()
    leaves = [part.clone().requires_grad_() for part in (q, k, v)]
    out, _ = flash.flash_attend(*leaves, *arguments(documents, window))
    want, saved = attend(q, k, v, documents, scale=SCALE, window=window, name="exact")
    torch.testing.assert_close(out, want)
    for one, other in zip(torch.autograd.grad(out, leaves, grad), attend_backward(grad, saved), strict=True):
        torch.testing.assert_close(one, other)
    torch.library.opcheck(flash.flash_attend, (*leaves, *arguments(documents, window)))


def test_a_wrong_order_is_seen() -> None:
    """The comparisons can fail: a gradient added to the wrong tokens differs."""
    q, k, v, grad = inputs()
    _, saved = attend(q, k, v, TREE, scale=SCALE, name="plain")
    assert TREE.kv_order is not None
    broken = dataclasses.replace(saved, documents=dataclasses.replace(TREE, kv_index=TREE.kv_index, kv_order=None))
    with pytest.raises(AssertionError, match="order"):
        attend_backward(grad, broken)
    _, exact = attend(q, k, v, dataclasses.replace(TREE, kv_index=TREE.kv_index.flip(0)), scale=SCALE, name="exact")  # type: ignore[union-attr]
    assert not torch.allclose(attend_backward(grad, exact)[1], attend_backward(grad, saved)[1])


def test_transformers_layout_is_the_raw_one_transposed() -> None:
    """The functions that transformers calls take [1, heads, T, head_dim] and return [1, T, heads, head_dim]."""
    q, k, v, _ = inputs()
    want, _ = attend(q, k, v, TREE, scale=SCALE, name="exact")
    parts = [part.transpose(0, 1)[None] for part in (q, k, v)]
    options = {"documents": TREE, "scaling": SCALE}
    out, _ = exact_attention(torch.nn.Identity(), *parts, None, **options)
    torch.testing.assert_close(out[0], want)
    torch.testing.assert_close(attention._flash_attention("plain", parts[0], (parts[1], parts[2]), options)[0], want)


def test_gathered_keys_are_differentiable_twice_the_same() -> None:
    """gather_keys takes rows of any shape, and its gradient is the sum over all places, the same to the bit."""
    x = torch.randn(21, 5, requires_grad=True)
    grads = [torch.autograd.grad(attention.gather_keys(x, TREE).square().sum(), x)[0] for _ in range(2)]
    assert torch.equal(*grads)
    assert TREE.kv_index is not None
    torch.testing.assert_close(grads[0], 2 * x * torch.bincount(TREE.kv_index)[:, None])
    assert attention.gather_keys(x, FLAT) is x


def test_lengths_are_rounded_up_to_few_values() -> None:
    """Over all lengths to 4,096 a kernel sees 13 bounds, none below the length and none over 1.5 times, from 64 on."""
    bounds = [attention._rounded_up(length) for length in range(1, 4097)]
    assert len(set(bounds)) == 13
    assert all(length <= bound <= max(64, 1.5 * length) for length, bound in enumerate(bounds, start=1))


def test_compiled_layers_are_not_compiled_anew() -> None:
    """A compiled layer serves batches of any shape with what it compiled for the first, shared and unshared."""
    torch.compiler.reset()
    model = make_model(dtype=torch.float32)
    layer = copy.deepcopy(model.model.layers[0])
    layer.self_attn.config._attn_implementation = "attune_plain"

    def plain(module: torch.nn.Module, query: Tensor, key: Tensor, value: Tensor, mask: None, **options: Any) -> Any:
        """Stand in for varlen_attention."""
        return attention._flash_attention("plain", query, (key, value), options), None

    AttentionInterface.register("attune_plain", plain)
    counter = CompileCounterWithBackend("aot_eager")
    compiled: Any = torch.compile(layer, backend=counter, dynamic=True)

    def step(lengths: list[int], *, share: bool) -> int:
        """Differentiate the layer on a batch; return how often it was compiled so far."""
        paths = [[0], *([0, number] if share else [number] for number in range(1, len(lengths)))]
        documents = make_documents(paths, lengths)
        bound = attention._rounded_up(max(documents.kv_lengths))
        documents = dataclasses.replace(documents, longest=bound, longest_keys=bound)
        states = torch.randn(1, sum(lengths), 32, requires_grad=True)
        places = torch.cat([torch.arange(length) for length in lengths])[None]
        rotary = model.model.rotary_emb(states, places)
        out = compiled(states, position_embeddings=rotary, position_ids=places, documents=documents)
        torch.autograd.backward(out.sum())
        return int(counter.frame_count)

    before = [step([9, 4, 7], share=share) for share in (False, True)][-1]
    for lengths in ([5, 6], [11, 3, 8, 2, 30], [100, 20], [300, 1]):
        for share in (False, True):
            assert step(lengths, share=share) == before
