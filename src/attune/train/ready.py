"""A loaded model becomes one that trains: its adapter, its engine, its checkpointing."""

from __future__ import annotations

from dataclasses import dataclass

from torch import nn
from transformers import PreTrainedModel

from attune.config import Config
from attune.model.adapter import attach_adapter
from attune.model.checkpointing import decoder_layers, enable_checkpointing
from attune.model.engine import tune_up
from attune.model.fp8 import HeldInFp8, hold_in_fp8
from attune.model.neftune import enable_neftune
from attune.train.metrics import FlosCounter


@dataclass(frozen=True, slots=True)
class Ready:
    """A model that trains, the count of its operations, and what there is to tell about it."""

    model: nn.Module
    flos: FlosCounter
    notes: tuple[str, ...]


def make_ready(loaded: PreTrainedModel, config: Config, *, base: str) -> Ready:
    """Return a model from `load_model` as `config` trains it; it is changed in place. `base`: its name for an adapter.

    Raises: ConfigError or ModelError when a wish cannot be met.
    """
    told = [_told(hold_in_fp8(loaded, is_frozen=config.adapter.kind != "full"))] if config.train.fp8 else []
    model = attach_adapter(loaded, config.adapter, seed=config.seed, base=base)
    enable_neftune(model, config.train.neftune_alpha)
    flos = FlosCounter.of(model)
    train = config.train
    notes = [*told, *tune_up(model, config)]
    again = enable_checkpointing(model, train.checkpointing, offload=train.offload)
    if again:
        kept = "their inputs are kept in host memory" if train.offload else "their inputs are kept"
        notes.append(f"{again} of {len(decoder_layers(model))} layers are computed again in the backward pass; {kept}")
    return Ready(model, flos, tuple(notes))


def _told(held: HeldInFp8) -> str:
    """Say how many layers multiply in 8 bits, and which do not."""
    names = ", ".join(dict.fromkeys(name.rpartition(".")[2] for name in held.left_out))
    return f"products in 8 bits: {held.layers} layers" + (f", not those of {names}" if names else "")
