"""What a model's forward pass stores for its gradient, counted without any weights or arithmetic."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.multiprocessing.reductions import StorageWeakRef
from transformers import AttentionInterface, AutoConfig, AutoModelForCausalLM
from transformers.masking_utils import AttentionMaskInterface

from attune.config import Config
from attune.errors import ModelError
from attune.model.adapter import attach_adapter
from attune.model.attention import EXACT, PER_ROW, choose_attention
from attune.model.checkpointing import decoder_layers
from attune.model.load import DTYPES

if TYPE_CHECKING:
    from typing_extensions import Self

ATTENTION = "attune_counted"  # the name under which transformers knows the attention below
_LENGTHS = (16, 48)  # tokens of the two passes: what they differ by is per token, the rest is there once


@dataclass(frozen=True, slots=True)
class Stored:
    """Bytes kept for the backward pass: by one layer, by the input of one and by the rest per token, and `fixed` once.

    `layers`: how many layers there are whose activations can be computed again instead.
    """

    layers: int
    layer: float
    layer_input: float
    rest: float
    fixed: float


def imagine_model(base: Path, config: Config) -> nn.Module:
    """Return the model of a folder as training would hold it, with its adapter, but on the meta device: no numbers.

    Raises: ModelError when transformers does not know it, or the attention that is asked for cannot run.
    """
    try:
        settings = AutoConfig.from_pretrained(base, local_files_only=True, trust_remote_code=config.trust_remote_code)
        with torch.device("meta"):
            model = AutoModelForCausalLM.from_config(
                settings, dtype=DTYPES[config.precision], trust_remote_code=config.trust_remote_code
            )
    except (ValueError, OSError, KeyError, ImportError) as error:
        first = " ".join(str(error).split())[:300]
        raise ModelError(f"{base}: transformers cannot build it: {first}") from error
    wish = EXACT if config.attention == "auto" else config.attention
    dtype = torch.bfloat16 if config.precision == "mixed" else DTYPES[config.precision]
    choice = choose_attention(
        wish, device=str(config.device), dtype=dtype, model_class=type(model), config=model.config
    )
    if choice.name != PER_ROW:
        model.set_attn_implementation(ATTENTION)
    kind = "full" if config.adapter.kind == "full" else "lora"
    with torch.device("meta"):
        return attach_adapter(model, config.adapter.model_copy(update={"kind": kind}), seed=0, base=str(base))


def trace(model: nn.Module, *, mixed: bool) -> Stored:
    """Return what the forward pass of a model on the meta device stores; `mixed`: bfloat16 arithmetic by autocast."""
    model.train()  # dropout stores its masks
    short, long = (_count(model, length, mixed=mixed) for length in _LENGTHS)
    between = _LENGTHS[1] - _LENGTHS[0]
    slope = {key: (long[key] - short[key]) / between for key in long}
    layers = decoder_layers(model)
    number = max(len(layers), 1)
    return Stored(
        layers=len(layers),
        layer=slope["layers"] / number,
        layer_input=slope["inputs"] / number,
        rest=slope["rest"],
        fixed=sum(short[key] - slope[key] * _LENGTHS[0] for key in ("layers", "rest")),
    )


def _count(model: nn.Module, length: int, *, mixed: bool) -> dict[str, float]:
    """Return the bytes that a pass over `length` tokens stores in layers and elsewhere, and what layers take in.

    Each storage counts once, weights not at all, nor what is gone when the pass is done: graphs whose result was
    detached, as DoRA's are. Shapes are worked out as on a CPU, whatever the device will be.
    """
    found = {"layers": 0.0, "rest": 0.0, "inputs": 0.0}
    kept: list[tuple[StorageWeakRef, str, int]] = []  # a weak reference keeps an address from being used twice
    with FakeTensorMode():
        state = {
            name: torch.empty(x.shape, dtype=x.dtype, device="cpu").requires_grad_(x.requires_grad)
            for name, x in (*model.named_parameters(), *model.named_buffers())
        }
        seen = {_storage(x) for x in state.values()}

        def keep(x: Tensor) -> Tensor:
            if _storage(x) not in seen:
                seen.add(_storage(x))
                place = "layers" if within.inside else "rest"
                kept.append((StorageWeakRef(x.untyped_storage()), place, x.untyped_storage().nbytes()))
            return x

        tokens = torch.zeros(1, length, dtype=torch.long)
        inputs = {"input_ids": tokens, "position_ids": torch.arange(length)[None], "use_cache": False}
        with (
            _Within(model, found) as within,
            torch.autocast("cpu", torch.bfloat16, enabled=mixed),
            torch.autograd.graph.saved_tensors_hooks(keep, lambda x: x),
        ):
            # the head is counted by itself: it sees learned tokens only
            out = torch.func.functional_call(model, state, (), {**inputs, "logits_to_keep": 1}, tie_weights=True)
        for reference, place, size in kept:
            found[place] += 0 if reference.expired() else size
        del out  # until here it holds what its gradient needs
    return found


def _storage(x: Tensor) -> int:
    """Return what two views of one storage have in common."""
    return int(StorageWeakRef(x.untyped_storage()).cdata)


class _Within:
    """Knows whether a forward pass is inside a layer, and adds up what layers take in."""

    def __init__(self, model: nn.Module, found: dict[str, float]) -> None:
        self.inside = False
        self._found = found
        self._model = model
        self._hooks: list[Any] = []

    def __enter__(self) -> Self:
        for layer in decoder_layers(self._model):
            self._hooks.append(layer.register_forward_pre_hook(self._enter, with_kwargs=True))
            self._hooks.append(layer.register_forward_hook(self._leave))
        return self

    def __exit__(self, *_: object) -> None:
        for hook in self._hooks:
            hook.remove()

    def _enter(self, _: nn.Module, positional: tuple[Any, ...], named: dict[str, Any]) -> None:
        self.inside = True
        hidden = positional[0] if positional else named["hidden_states"]
        self._found["inputs"] += hidden.numel() * hidden.element_size()

    def _leave(self, *_: object) -> None:
        self.inside = False


class _Attend(torch.autograd.Function):
    """Stores what flash attention stores, queries, keys, values, result and log-sum-exp, and computes nothing."""

    @staticmethod
    def forward(ctx: Any, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        """Return a result of the right shape: query [1, heads, T, head_dim] gives [1, T, heads, value dim]."""
        out = query.new_empty(1, query.shape[2], query.shape[1], value.shape[3])
        ctx.save_for_backward(query, key, value, out, query.new_empty(query.shape[:3], dtype=torch.float32))
        return out


def _counted(_: nn.Module, query: Tensor, key: Tensor, value: Tensor, *__: Any, **___: Any) -> tuple[Tensor, None]:
    """Stand for any flat-batch attention."""
    if torch.is_autocast_enabled("cpu"):
        dtype = torch.get_autocast_dtype("cpu")
        query, key, value = (part.to(dtype) for part in (query, key, value))
    return _Attend.apply(query, key, value), None  # type: ignore[no-untyped-call]


def _no_mask(*_: Any, **__: Any) -> None:
    """No mask tensor is made."""
    return


AttentionInterface.register(ATTENTION, _counted)
AttentionMaskInterface.register(ATTENTION, _no_mask)
