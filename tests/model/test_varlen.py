"""On a CUDA device: the varlen kernel gives what exact attention gives, to the rounding of bfloat16."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
import torch

from attune.data.batch import on_device
from attune.evals.heldout import arithmetic
from attune.model.attention import AttentionChoice, Documents, attend, attend_backward, set_attention
from attune.model.load import compile_layers
from attune.model.loss import loss_sums
from attune.model.obstacles import has_flash4
from tests.model.flat import make_documents
from tests.tiny import flat_batch, make_model, make_rows

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")]
LENGTHS = (7, 1, 90, 2, 128, 33)
TREE = make_documents([[0], [0, 1], [0, 2], [0, 1, 3], [0, 1, 4], [5]], [150, 30, 1, 140, 2, 77])


def gradients(
    name: str, attention: str, *, dtype: torch.dtype, compiled: bool = False, window: bool = True
) -> tuple[float, list[torch.Tensor]]:
    """Return loss per token and gradients of a model on the device."""
    device = torch.device("cuda")
    model: Any = make_model(name, dtype=dtype)
    if not window:
        model.config.sliding_window = None
    set_attention(model, AttentionChoice(attention, "test"))
    model.to(device)
    if compiled:
        compile_layers(model)
    with arithmetic("mixed" if dtype == torch.float32 else "bfloat16", device):
        sums = loss_sums(model, on_device(flat_batch(make_rows(LENGTHS)), device))
    (sums.loss / sums.tokens).backward()
    return float(sums.loss.detach() / sums.tokens), [p.grad.float() for p in model.parameters()]


@pytest.mark.parametrize("name", ["llama", "qwen3", "mistral", "gpt2"])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32], ids=["bfloat16", "mixed"])
def test_varlen_equals_exact(name: str, dtype: torch.dtype) -> None:
    """Loss and gradients agree for grouped heads, norms on queries, sliding windows and absolute positions."""
    loss, grads = gradients(name, "varlen", dtype=dtype)
    other, others = gradients(name, "exact", dtype=dtype)
    assert loss == pytest.approx(other, rel=5e-3)
    for mine, one in zip(grads, others, strict=True):
        assert float((mine - one).norm() / one.norm().clamp_min(1e-6)) < 5e-2


def test_the_comparison_sees_a_window() -> None:
    """Without its sliding window a model has clearly other gradients: the test above would see a wrong window."""
    _, windowed = gradients("mistral", "varlen", dtype=torch.bfloat16)
    _, whole = gradients("mistral", "varlen", dtype=torch.bfloat16, window=False)
    differences = [
        float((mine - one).norm() / one.norm().clamp_min(1e-6)) for mine, one in zip(windowed, whole, strict=True)
    ]
    assert max(differences) > 0.2


@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf")  # dynamo looks at it
def test_compiled_layers_give_the_same() -> None:
    """torch.compile of the layers changes rounding only."""
    loss, grads = gradients("llama", "varlen", dtype=torch.float32, compiled=True)
    other, others = gradients("llama", "varlen", dtype=torch.float32)
    assert loss == pytest.approx(other, rel=5e-3)
    for mine, one in zip(grads, others, strict=True):
        assert float((mine - one).norm() / one.norm().clamp_min(1e-6)) < 5e-2


def moved(documents: Documents) -> Documents:
    """Return documents with their tensors on the device."""
    names = ("offsets", "kv_offsets", "kv_index", "kv_order", "kv_starts")
    on_it = {name: getattr(documents, name).cuda() for name in names}
    return dataclasses.replace(documents, longest=192, longest_keys=384, **on_it)


@pytest.mark.parametrize("name", ["varlen", "flash4"])
@pytest.mark.parametrize("window", [None, 50])
@pytest.mark.parametrize(("heads", "groups", "width"), [(4, 1, 64), (8, 4, 128), (6, 2, 80)])
def test_raw_functions_equal_exact_attention(
    name: str, window: int | None, heads: int, groups: int, width: int
) -> None:
    """Outputs and gradients of documents that share keys, from views of a fused projection, to bfloat16's rounding."""
    if name == "flash4" and not has_flash4():
        pytest.skip("FlashAttention-4 is not installed")
    keys = heads // groups
    source = torch.Generator().manual_seed(0)
    fused = torch.randn(400, (heads + 2 * keys) * width, generator=source).to("cuda", torch.bfloat16)
    q, k, v = (part.unflatten(1, (-1, width)) for part in fused.split([heads * width, keys * width, keys * width], 1))
    grad = torch.randn(400, heads, width, generator=source).to("cuda", torch.bfloat16)
    documents = moved(TREE)
    out, saved = attend(q, k, v, documents, scale=width**-0.5, window=window, name=name)
    exact, plain = attend(q.float(), k.float(), v.float(), documents, scale=width**-0.5, window=window, name="exact")
    mine = (out, *attend_backward(grad, saved))
    others = (exact, *attend_backward(grad.float(), plain))
    for one, other in zip(mine, others, strict=True):
        assert one.is_contiguous()
        assert float((one.float() - other).norm() / other.norm()) < 0.01
