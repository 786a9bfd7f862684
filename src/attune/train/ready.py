"""A loaded model becomes one that trains: its adapter, its engine, its checkpointing."""

from __future__ import annotations

from dataclasses import dataclass

from torch import nn
from transformers import PreTrainedModel

from attune.config import Config
from attune.errors import ConfigError
from attune.model.adapter import attach_adapter
from attune.model.checkpointing import decoder_layers, enable_checkpointing
from attune.model.engine import tune_up
from attune.model.fp8 import hold_in_fp8
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
    if config.train.fp8:
        hold_in_fp8(loaded, is_frozen=config.adapter.kind != "full")
    model = attach_adapter(loaded, config.adapter, seed=config.seed, base=base)
    flos = FlosCounter.of(model)
    train = config.train
    if train.compile is True and train.offload:
        raise ConfigError(
            "train.offload: compiled layers cannot keep their inputs in host memory.\nLeave train.compile or it off."
        )
    notes = [*tune_up(model, config)]
    again = enable_checkpointing(model, train.checkpointing, offload=train.offload)
    if again:
        kept = "their inputs are kept in host memory" if train.offload else "their inputs are kept"
        notes.append(f"{again} of {len(decoder_layers(model))} layers are computed again in the backward pass; {kept}")
    return Ready(model, flos, tuple(notes))
