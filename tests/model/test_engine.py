"""The engine: what it chooses, what it refuses, and that it finds a broken kernel before it trains with it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch._dynamo.testing import CompileCounterWithBackend

from attune.config import AdapterConfig, Config
from attune.errors import ConfigError
from attune.model import block, engine
from attune.model.adapter import attach_adapter
from attune.model.checkpointing import has_own_forward
from attune.model.engine import COMPILE_FROM, tune_up
from attune.model.head import narrows
from attune.model.loss import loss_sums
from attune.model.projection import Projection
from tests.tiny import flat_batch, make_model, make_rows

FUSED = "fused layers: 2, proven equal to those of transformers"


def wishes(**values: Any) -> Config:
    """Return a config of float64 arithmetic and some settings of train."""
    return Config().with_values({"precision": "float64", **{f"train.{key}": value for key, value in values.items()}})


def adapted(model: nn.Module, **settings: Any) -> Any:
    """Return a model with LoRA matrices."""
    return attach_adapter(model, AdapterConfig(kind="lora", rank=2, **settings), seed=0, base="base")


def is_plain(model: nn.Module) -> bool:
    """Whether all is as transformers made it."""
    return not any(has_own_forward(part) for part in model.modules()) and not narrows(model)


def learned_from(model: nn.Module, lengths: tuple[int, ...] = (7, 1, 20)) -> list[Tensor]:
    """Return the loss of a batch and all its gradients."""
    model.zero_grad()
    loss = loss_sums(model, flat_batch(make_rows(lengths))).loss
    loss.backward()
    return [loss.detach(), *(part.grad for part in model.parameters() if part.grad is not None)]


@pytest.fixture
def as_on_cuda(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the engine choose as it does on a CUDA device."""
    monkeypatch.setattr(engine, "_is_on_cuda", lambda _: True)


@pytest.fixture
def compiled(monkeypatch: pytest.MonkeyPatch) -> list[nn.Module]:
    """The layers that were compiled; nothing is."""
    layers: list[nn.Module] = []
    monkeypatch.setattr(nn.Module, "compile", lambda self, **_: layers.append(self))
    return layers


@pytest.mark.parametrize(
    ("name", "config", "notes"),
    [
        ("llama", wishes(), ()),
        ("llama", wishes(kernels="plain"), ()),
        ("llama", wishes(kernels="fused"), (FUSED,)),
        ("llama", wishes(compile=True), ("compiled layers: 2 (asked for)",)),
        ("llama", wishes(steps=COMPILE_FROM + 1), ()),
        ("gpt2", wishes(compile=True, kernels="plain"), ("compiled layers: 2 (asked for)",)),
    ],
)
def test_choices_on_a_processor(name: str, config: Config, notes: tuple[str, ...], compiled: list[nn.Module]) -> None:
    """Nothing is fused or compiled unless asked for, and what is done is told."""
    model = make_model(name)
    assert tune_up(model, config) == notes
    assert is_plain(model) == (notes != (FUSED,))
    assert len(compiled) == (2 if "compiled" in "".join(notes) else 0)


@pytest.mark.parametrize(
    ("name", "config", "note"),
    [
        ("llama", wishes(), FUSED),
        ("qwen3", wishes(steps=COMPILE_FROM + 1), FUSED),
        ("mistral", wishes(kernels="fused"), FUSED),
        ("llama", wishes(kernels="plain"), "plain layers (asked for)"),
        ("llama", wishes(kernels="plain", steps=COMPILE_FROM + 1), "compiled layers: 2 (asked for)"),
        ("llama", wishes(compile=True), "compiled layers: 2 (asked for)"),
        ("gemma2", wishes(), "plain layers (Gemma2DecoderLayer has no fused form)"),
        ("gemma2", wishes(steps=COMPILE_FROM), "plain layers (Gemma2DecoderLayer has no fused form)"),
        ("gemma2", wishes(steps=COMPILE_FROM + 1), "compiled layers: 2 (Gemma2DecoderLayer has no fused form)"),
        ("gpt2", wishes(), "plain layers (GPT2Block has no fused form)"),
        ("gpt2", wishes(steps=COMPILE_FROM + 1, compile=False), "plain layers (GPT2Block has no fused form)"),
    ],
)
@pytest.mark.usefixtures("as_on_cuda")
def test_choices_on_cuda(name: str, config: Config, note: str, compiled: list[nn.Module]) -> None:
    """Layers are fused where they have such a form, else compiled in long runs; never both."""
    model = make_model(name)
    assert tune_up(model, config) == (note,)
    assert is_plain(model) == (note != FUSED)
    assert len(compiled) == (2 if note.startswith("compiled") else 0)


@pytest.mark.usefixtures("as_on_cuda")
@pytest.mark.parametrize("form", ["rslora", "dora"])
def test_the_form_of_the_adapter_decides(form: str, compiled: list[nn.Module]) -> None:
    """Rank-stabilised LoRA is LoRA with another scale, and fused; DoRA is another product, and stays as PEFT has it."""
    model = adapted(make_model(), **{form: True})
    (note,) = tune_up(model, wishes(steps=COMPILE_FROM + 1))
    plain = "plain layers (the adapter is not plain LoRA (dropout, DoRA or several adapters))"
    assert note == (FUSED if form == "rslora" else plain)
    assert is_plain(model) == (form == "dora")
    assert not compiled, "DoRA would be compiled for each layer anew"


def with_attention_dropout() -> nn.Module:
    """Return a model that drops attention at random."""
    model: Any = make_model()
    model.model.layers[1].self_attn.attention_dropout = 0.1
    return model  # type: ignore[no-any-return]


@pytest.mark.parametrize(
    ("model", "config", "text"),
    [
        (make_model, wishes(kernels="fused", compile=True), r"train\.compile: fused layers are not compiled"),
        (lambda: make_model("gemma2"), wishes(kernels="fused"), "cannot run here: Gemma2DecoderLayer has no fused"),
        (lambda: make_model("gpt2"), wishes(kernels="fused"), "cannot run here: GPT2Block has no fused form"),
        (with_attention_dropout, wishes(kernels="fused"), "LlamaDecoderLayer has dropout"),
        (lambda: adapted(make_model(), dropout=0.1), wishes(kernels="fused"), "the adapter is not plain LoRA"),
        (lambda: adapted(make_model(), dora=True), wishes(kernels="fused"), r"not plain LoRA \(dropout, DoRA"),
        (lambda: make_model(attention="sdpa"), wishes(kernels="fused"), "has no layers that attune knows"),
        (lambda: nn.Linear(2, 2), wishes(compile=True), "Linear has no layers that can be compiled"),
    ],
)
def test_wishes_that_cannot_be_met(model: Callable[[], nn.Module], config: Config, text: str) -> None:
    """They are errors that name the setting and a next step, and the model stays as it is."""
    made = model()
    with pytest.raises(ConfigError, match=text) as caught:
        tune_up(made, config)
    assert str(caught.value).startswith("train.")
    assert any(word in str(caught.value) for word in ("Use train.kernels auto", "Leave"))
    assert not any(has_own_forward(part) for part in made.modules())


def after(change: Callable[[Any], Any]) -> Callable[[Any], Any]:
    """Return what makes a function change its result."""
    return lambda right: lambda *inputs, **options: change(right(*inputs, **options))


def scaled(place: int, factor: float) -> Callable[[Any], Any]:
    """Return what makes a function multiply one part of its result."""
    return after(lambda found: (*found[:place], found[place] * factor, *found[place + 1 :]))


def turned(right: Any) -> Any:
    """Return the gradient of a rotation, turned the wrong way."""
    return lambda grads, cos, sin, **options: right(grads, cos, -sin, **options)


FAULTS: dict[str, tuple[str, Callable[[Any], Any], str]] = {  # the function, its fault, where that shows
    "a norm": ("rms_norm", after(lambda found: (found[0], found[1].mul_(1.01))), "its output"),
    "the gradient of a norm": ("rms_norm_backward", scaled(0, 1.01), "the gradient of input"),
    "the gradient of a gain": ("rms_norm_backward", scaled(1, 0.5), "the gradient of input_layernorm.weight"),
    "queries": ("rotate", scaled(0, 1.1), "its output"),
    "the gradient of queries": ("rotate_backward", turned, "the gradient of"),
    "gate and up": ("swiglu", after(lambda found: found.mul_(0.99)), "its output"),
    "their product": ("swiglu_backward", after(lambda found: found * 0.5), "the gradient of mlp.down_proj.weight"),
    "attention": ("attend", after(lambda found: (found[0].mul_(1.02), found[1])), "its output"),
    "the gradient of keys": ("attend_backward", scaled(1, -1.0), "the gradient of"),
}


@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.usefixtures("as_on_cuda")
def test_a_broken_kernel_is_found(fault: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """By itself it takes the plain layers and says why, a wish for fused is an error; either way all is put back."""
    name, wrong, where = FAULTS[fault]
    monkeypatch.setattr(block, name, wrong(getattr(block, name)))
    model, wanted = make_model(), learned_from(make_model())
    (note,) = tune_up(model, wishes())
    assert note.startswith(f"plain layers (layer 0 computed by fused kernels differs in {where}")
    assert is_plain(model)
    for one, other in zip(learned_from(model), wanted, strict=True):
        assert torch.equal(one, other)
    with pytest.raises(ConfigError, match=r"(?s)layer 0 computed by fused.*Use train\.kernels plain"):
        tune_up(model, wishes(kernels="fused"))
    assert is_plain(model)


@pytest.mark.usefixtures("as_on_cuda")
def test_a_kernel_that_fails_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """What it raises is the reason for plain layers; memory that is short is not its fault."""

    def fail(*_: Any, **__: Any) -> None:
        raise RuntimeError("no kernel image\n is available")

    monkeypatch.setattr(block, "swiglu", fail)
    model = make_model()
    (note,) = tune_up(model, wishes())
    assert note.endswith("computed by fused kernels fails: RuntimeError: no kernel image is available)")
    assert is_plain(model)

    def run_out(*_: Any, **__: Any) -> None:
        raise torch.OutOfMemoryError

    monkeypatch.setattr(block, "swiglu", run_out)
    with pytest.raises(torch.OutOfMemoryError):
        tune_up(model, wishes())


@pytest.mark.usefixtures("as_on_cuda")
def test_a_fault_of_the_last_layer_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """Layers may differ, in their window for example: the last is tried too."""

    def fuse(layer: Any, kernel: str, *, is_last: bool) -> None:
        block.fuse_layer(layer, kernel, is_last=is_last)
        whole = layer.forward
        if is_last:
            layer.forward = lambda states, **options: whole(states, **options) * 1.01

    monkeypatch.setattr(engine, "fuse_layer", fuse)
    model = make_model()
    assert "layer 1 computed by fused kernels differs" in tune_up(model, wishes())[0]
    assert is_plain(model)


@pytest.mark.usefixtures("as_on_cuda")
def test_a_broken_gradient_of_adapters_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """LoRA's gradients are compared too, in the state in which adapters start."""
    right = Projection.back_parameters

    def wrong(self: Projection, *inputs: Any, **options: Any) -> Any:
        return [None if grad is None else 2 * grad for grad in right(self, *inputs, **options)]

    model = adapted(make_model())
    assert tune_up(adapted(make_model()), wishes()) == (FUSED,)
    monkeypatch.setattr(Projection, "back_parameters", wrong)
    assert "differs in the gradient of self_attn.q_proj.lora_" in tune_up(model, wishes())[0]
    assert is_plain(model)


@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf")  # dynamo looks at it
def test_compiled_layers_serve_all_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is compiled for the first batch serves a run of others, and their results are those of plain layers."""
    torch.compiler.reset()
    counter = CompileCounterWithBackend("eager")
    usual = nn.Module.compile
    monkeypatch.setattr(nn.Module, "compile", lambda self, **options: usual(self, backend=counter, **options))
    model, other = (make_model("gpt2", dtype=torch.float32) for _ in range(2))
    tune_up(model, wishes(compile=True))
    counts = []
    for lengths in ((9, 4, 7), (5, 6), (11, 3, 8, 2, 30), (40, 20), (90, 1)):
        for one, two in zip(learned_from(model, lengths), learned_from(other, lengths), strict=True):
            torch.testing.assert_close(one, two)
        counts.append(counter.frame_count)
    assert counts[0] > 0
    assert counts == [counts[0]] * 5
