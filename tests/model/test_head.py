"""The head with its loss in one, against the plainest torch; and the proof that a model's head is a plain one."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import AutoModelForCausalLM, CohereConfig, GraniteConfig, PreTrainedModel

from attune.config import AdapterConfig
from attune.model import head as head_room
from attune.model.adapter import attach_adapter
from attune.model.attention import AttentionChoice, documents_of, set_attention
from attune.model.head import HeadTask, body_hidden, has_plain_head, head_loss, head_of, logits_loss, softcap_of
from attune.model.kernels.cross_entropy import LossOptions, RowLosses, cross_entropy
from tests.tiny import CONFIGS, flat_batch, make_model, make_rows

ROWS, WIDTH, COLUMNS = 11, 6, 19
SCALED = {"cohere": CohereConfig, "granite": GraniteConfig}  # heads that multiply or divide their logits


def make_case(dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Return hidden states, weight and bias of a head that need gradients, targets and weights."""
    source = torch.Generator().manual_seed(0)
    shapes = ((ROWS, WIDTH), (COLUMNS, WIDTH), (COLUMNS,))
    hidden, weight, bias = (torch.randn(shape, generator=source).to(dtype).requires_grad_() for shape in shapes)
    targets = torch.randint(0, COLUMNS, (ROWS,), generator=source)
    return hidden, weight, bias, targets, torch.rand(ROWS, generator=source) + 0.5


def fused_loss(
    hidden: Tensor, weight: Tensor, targets: Tensor, weights: Tensor | None = None, *, bias: Tensor | None = None,
    **wishes: Any,
) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    """Return the sums of the head's loss, asked for as `wishes` say."""
    return head_loss(hidden, weight, bias, HeadTask(targets, weights, **wishes))


def plain_loss(
    logits: Tensor, targets: Tensor, weights: Tensor | None, options: LossOptions, *, softcap: float | None = None
) -> Tensor:
    """Return the summed loss of logits by torch's own functions."""
    logits = torch.tanh(logits / softcap) * softcap if softcap else logits
    losses = F.cross_entropy(logits, targets, reduction="none", label_smoothing=options.label_smoothing)
    if options.kind == "dft":
        losses = losses * torch.softmax(logits, 1).gather(1, targets[:, None])[:, 0].detach()
    losses = losses + options.z_loss * logits.logsumexp(1).square()
    return (losses if weights is None else losses * weights).sum()


def compare(
    options: LossOptions, *, softcap: float | None, is_weighted: bool, chunk: int, has_bias: bool = True
) -> None:
    """Compare loss and gradients of the fused loss with those of plain torch, in float64."""
    hidden, weight, bias, targets, weights = make_case()
    inputs = (hidden, weight, bias) if has_bias else (hidden, weight)
    chosen = weights if is_weighted else None
    expected = plain_loss(F.linear(*inputs), targets, chosen, options, softcap=softcap)
    wanted = torch.autograd.grad(expected / 7, inputs)
    for scale in (1.0, 1 / 7):
        loss, nll, correct = fused_loss(
            hidden,
            weight,
            targets,
            chosen,
            bias=bias if has_bias else None,
            softcap=softcap,
            options=options,
            chunk=chunk,
            scale=scale,
        )
        torch.testing.assert_close(loss, expected * scale)
        torch.testing.assert_close(nll, plain_loss(F.linear(*inputs), targets, chosen, LossOptions(), softcap=softcap))
        hits = (F.linear(*inputs).argmax(1) == targets).double()
        torch.testing.assert_close(correct, (hits * weights).sum() if is_weighted else hits.sum())
        assert not nll.requires_grad and not correct.requires_grad
        found = torch.autograd.grad(loss / (7 * scale), inputs)
        for mine, other in zip(found, wanted, strict=True):
            torch.testing.assert_close(mine, other)


@pytest.mark.parametrize("kind", ["nll", "dft"])
@pytest.mark.parametrize("softcap", [None, 2.0])
@pytest.mark.parametrize("chunk", [0, 1, 4, 11])
def test_the_fused_loss_is_plain_torch(kind: Any, softcap: float | None, chunk: int) -> None:
    """Loss and gradients of hidden states, weight and bias, for every option, weights, chunk size and scale."""
    for smoothing, z_loss, is_weighted in itertools.product((0.0, 0.1), (0.0, 1e-2), (False, True)):
        compare(LossOptions(kind, smoothing, z_loss), softcap=softcap, is_weighted=is_weighted, chunk=chunk)
    compare(LossOptions(kind), softcap=softcap, is_weighted=True, chunk=chunk, has_bias=False)


def test_a_broken_loss_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    """The comparison fails if the target's own share is not taken off, or if a later chunk overwrites the weight's."""

    def without_target(logits: Tensor, targets: Tensor, *rest: Any, **options: Any) -> RowLosses:
        rows = cross_entropy(logits, targets, *rest, **options)
        logits.scatter_add_(1, targets[:, None], torch.ones_like(logits[:, :1]))
        return rows

    add = head_room._add_product
    with monkeypatch.context() as patch:
        patch.setattr(head_room, "cross_entropy", without_target)
        with pytest.raises(AssertionError, match="not close"):
            compare(LossOptions(), softcap=None, is_weighted=False, chunk=4)
    with monkeypatch.context() as patch:
        patch.setattr(head_room, "_add_product", lambda total, left, right, **_: add(total, left, right, is_first=True))
        with pytest.raises(AssertionError, match="not close"):
            compare(LossOptions(), softcap=None, is_weighted=False, chunk=4)
    compare(LossOptions(), softcap=None, is_weighted=False, chunk=4)


@pytest.mark.parametrize("options", [LossOptions(), LossOptions(label_smoothing=0.1, z_loss=1e-2)])
def test_gradients_are_slopes(options: LossOptions) -> None:
    """The gradients agree with finite differences (dft, whose factor is held constant, has none)."""
    hidden, weight, bias, targets, weights = make_case()
    inputs = tuple(part.detach()[:count].requires_grad_() for part, count in ((hidden, 3), (weight, 5), (bias, 5)))

    def loss(hidden: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        sums = fused_loss(
            hidden, weight, targets[:3] % 5, weights[:3], bias=bias, softcap=3.0, options=options, chunk=2, scale=0.3
        )
        return sums[0]

    assert torch.autograd.gradcheck(loss, inputs)


def test_only_what_learns_gets_a_gradient() -> None:
    """A frozen head gets none, frozen hidden states get none, and under no_grad there is nothing to differentiate."""
    hidden, weight, bias, targets, _ = make_case()
    loss, _, _ = fused_loss(hidden, weight.detach(), targets, bias=bias.detach())
    assert [part is None for part in loss.grad_fn.saved_tensors] == [False, True, True]  # type: ignore[union-attr]
    loss, _, _ = fused_loss(hidden.detach(), weight, targets)
    assert [part is None for part in loss.grad_fn.saved_tensors] == [True, False, True]  # type: ignore[union-attr]
    with torch.no_grad():
        quiet, _, _ = fused_loss(hidden, weight, targets)
    assert not quiet.requires_grad
    torch.testing.assert_close(quiet, loss.detach())


def test_nothing_learned_is_a_differentiable_zero() -> None:
    """Without rows the loss is 0 and all gradients are zeros, not missing and not NaN."""
    hidden, weight, bias, targets, weights = make_case()
    sums = fused_loss(hidden[:0], weight, targets[:0], weights[:0], bias=bias)
    assert [part.item() for part in sums] == [0.0, 0.0, 0.0]
    for part in torch.autograd.grad(sums[0], (hidden, weight, bias)):
        assert not part.any()


def gradient_of_weight(chunk: int) -> Tensor:
    """Return the float32 gradient of a head's weight under 16-bit arithmetic, from 512 rows, `chunk` at once."""
    source = torch.Generator().manual_seed(0)
    hidden, weight = torch.randn(512, 8, generator=source), torch.randn(16, 8, generator=source).requires_grad_()
    targets = torch.randint(0, 16, (512,), generator=source)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        fused_loss(hidden, weight, targets, chunk=chunk)[0].backward()
    assert weight.grad is not None and weight.grad.dtype == torch.float32
    return weight.grad


def test_many_chunks_are_as_exact_as_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """The weight's gradient is summed in float32 over 256 chunks of 16-bit products; in 16 bits it would drift."""
    torch.testing.assert_close(gradient_of_weight(2), gradient_of_weight(512), rtol=1e-5, atol=1e-5)
    add = head_room._add_product

    def rounded(total: Tensor, left: Tensor, right: Tensor, *, is_first: bool) -> None:
        add(total, left, right, is_first=is_first)
        total.copy_(total.to(torch.bfloat16))

    monkeypatch.setattr(head_room, "_add_product", rounded)
    assert (gradient_of_weight(2) - gradient_of_weight(512)).abs().max() > 1e-2


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_mixed_and_16_bit_heads_compute_as_torch_would(dtype: torch.dtype) -> None:
    """Float32 weights under autocast and 16-bit weights: the logits are rounded to 16 bits, nothing else is."""
    hidden, weight, bias, targets, _ = make_case(dtype)
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=dtype == torch.float32):
        loss, _, _ = fused_loss(hidden, weight, targets, bias=bias, chunk=4)
        logits = F.linear(hidden, weight, bias)
    assert logits.dtype == torch.bfloat16 and loss.dtype == torch.float32
    expected = F.cross_entropy(logits.float(), targets, reduction="sum")
    torch.testing.assert_close(loss, expected, rtol=1e-6, atol=1e-6)
    wanted = torch.autograd.grad(expected, (hidden, weight, bias))
    for mine, other in zip(torch.autograd.grad(loss, (hidden, weight, bias)), wanted, strict=True):
        assert mine.dtype == other.dtype == dtype
        torch.testing.assert_close(mine, other, rtol=2e-2, atol=2e-2)


def test_what_comes_in_backward_is_not_rounded_to_16_bits() -> None:
    """A 16-bit gradient times 1/3 is rounded once; a third rounded first would be off for all of them alike."""
    hidden, weight, _, targets, _ = make_case(torch.bfloat16)
    (whole,) = torch.autograd.grad(fused_loss(hidden, weight, targets)[0], hidden)
    (third,) = torch.autograd.grad(fused_loss(hidden, weight, targets)[0] / 3, hidden)
    assert torch.equal(third, (whole.double() / 3).to(torch.bfloat16))
    assert not torch.equal(third, whole * torch.tensor(1 / 3, dtype=torch.bfloat16))


@pytest.mark.parametrize("options", [LossOptions(), LossOptions("dft", 0.1, 1e-2)])
def test_logits_that_exist_are_left_alone(options: LossOptions) -> None:
    """The loss of a model's own logits and its gradient are those of plain torch; the logits are not overwritten."""
    _, _, _, targets, weights = make_case()
    logits = torch.randn(ROWS, COLUMNS, dtype=torch.float64, requires_grad=True)
    before = logits.detach().clone()
    loss, _, _ = logits_loss(logits, HeadTask(targets, weights, options=options, scale=0.25))
    expected = 0.25 * plain_loss(logits, targets, weights, options)
    torch.testing.assert_close(loss, expected)
    (mine,), (other,) = torch.autograd.grad(loss, logits), torch.autograd.grad(expected, logits)
    torch.testing.assert_close(mine, other)
    assert torch.equal(logits.detach(), before)


def test_chunks_fit_memory_and_are_about_equal() -> None:
    """Rows are shared out evenly, in multiples of 64."""
    weight = torch.empty(2**17, 1, dtype=torch.bfloat16)  # 256 KiB a row of logits: 256 rows at once
    sizes = [head_room._chunk_rows(count, weight, is_trained=True) for count in (0, 5, 256, 257, 600)]
    assert sizes == [1, 5, 256, 192, 256]


def scaled_model(name: str) -> PreTrainedModel:
    """Return a tiny model whose head does more than a product."""
    torch.manual_seed(0)
    config = SCALED[name](
        vocab_size=61, hidden_size=32, intermediate_size=48, num_hidden_layers=1, num_attention_heads=4,
        num_key_value_heads=2, max_position_embeddings=64, bos_token_id=1, eos_token_id=2, pad_token_id=None,
    )  # fmt: skip
    if name == "granite":
        config.logits_scaling = 1.01
    model = AutoModelForCausalLM.from_config(config, dtype=torch.float64)
    set_attention(model, AttentionChoice("exact", "test"))
    return model


@pytest.mark.parametrize("name", CONFIGS)
def test_plain_heads_are_proven(name: str) -> None:
    """All five architectures have one, also under PEFT, and the states that it reads are the body's."""
    model, batch = make_model(name), flat_batch(make_rows((7, 5)))
    assert has_plain_head(model)
    wrapped = attach_adapter(make_model(name), AdapterConfig(kind="lora", rank=2), seed=0, base="b")
    assert has_plain_head(wrapped)
    logits = F.linear(body_hidden(wrapped, batch), head_of(model).weight)
    cap = softcap_of(model)
    logits = torch.tanh(logits / cap) * cap if cap else logits
    theirs = model(
        input_ids=batch.tokens[None], position_ids=batch.positions[None], documents=documents_of(batch), use_cache=False
    ).logits[0]
    torch.testing.assert_close(logits, theirs)


@pytest.mark.parametrize("name", SCALED)
def test_scaled_heads_are_seen(name: str) -> None:
    """A head that scales its logits, if only by a hundredth, is not a plain one."""
    assert not has_plain_head(scaled_model(name))


def test_a_cap_that_the_config_does_not_name_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    """The proof's logits are large enough for a cap to show, whatever the model's own weights make of them."""
    monkeypatch.setattr(head_room, "softcap_of", lambda _: None)
    assert not has_plain_head(make_model("gemma2"))


def test_what_is_around_a_head_is_seen() -> None:
    """An adapter on the head, a hook on it, or attention that is not plugged in: the general path."""
    adapted = attach_adapter(
        make_model(), AdapterConfig(kind="lora", rank=2, targets="q_proj,lm_head"), seed=0, base="b"
    )
    assert not has_plain_head(adapted)
    hooked = make_model()
    head_of(hooked).register_forward_hook(lambda *_: None)
    assert not has_plain_head(hooked)
    assert not has_plain_head(make_model(attention="eager"))


def test_the_proof_leaves_no_trace() -> None:
    """Modes of the modules, random numbers and hooks are as before; another head is proven anew."""
    model = make_model("gpt2").train()
    model.transformer.h[0].eval()
    modes, state = [module.training for module in model.modules()], torch.get_rng_state()
    assert has_plain_head(model)
    assert modes == [module.training for module in model.modules()]
    assert torch.equal(state, torch.get_rng_state())
    assert not model.base_model._forward_hooks
    model.set_output_embeddings(nn.Linear(32, 61, dtype=torch.float64))
    assert has_plain_head(model)
    model.set_output_embeddings(nn.Sequential(nn.Linear(32, 61, dtype=torch.float64)))
    assert not has_plain_head(model)
