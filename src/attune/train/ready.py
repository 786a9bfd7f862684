"""A loaded model becomes one that trains: its adapter, its engine, its checkpointing, its compiled layers."""

from __future__ import annotations

import shutil
from dataclasses import dataclass

from torch import nn
from transformers import PreTrainedModel

from attune.config import Config
from attune.errors import ConfigError
from attune.model.adapter import attach_adapter
from attune.model.checkpointing import decoder_layers, enable_checkpointing, has_own_forward
from attune.model.engine import tune_up
from attune.model.load import compile_layers
from attune.train.metrics import FlosCounter

WORTH_COMPILING = 200  # steps: compiling takes up to a minute


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
    model = attach_adapter(loaded, config.adapter, seed=config.seed, base=base)
    flos = FlosCounter.of(model)
    notes = [*tune_up(model, config)]
    train = config.train
    again = enable_checkpointing(model, train.checkpointing, offload=train.offload)
    if again:
        kept = "their inputs are kept in host memory" if train.offload else "their inputs are kept"
        notes.append(f"{again} of {len(decoder_layers(model))} layers are computed again in the backward pass; {kept}")
    notes += _compile(model, config)
    return Ready(model, flos, tuple(notes))


def _compile(model: nn.Module, config: Config) -> list[str]:
    """Compile the layers if asked to, or if it pays; return what there is to tell."""
    wish = config.train.compile
    if wish is True:
        if config.train.offload:
            raise ConfigError(
                "train.compile: compiled layers cannot keep their inputs in host memory.\n"
                "Leave train.compile or train.offload off."
            )
        if compile_layers(model) == 0:
            raise ConfigError(
                f"train.compile: {type(model).__name__} has no layers that can be compiled by themselves.\n"
                "Leave it off."
            )
        return []
    if wish is False or not _pays(model, config):
        return []
    count = compile_layers(model)
    return [f"{count} layers are compiled in the first steps: they have no fused form"] if count else []


def _pays(model: nn.Module, config: Config) -> bool:
    """Whether compiling saves more time than it takes: on cuda, in a long run, for layers of transformers' own."""
    layers = decoder_layers(model)
    is_long = config.train.steps != "auto" and config.train.steps > WORTH_COMPILING
    is_free = not config.train.offload and config.train.kernels != "plain"
    on_cuda = next(model.parameters()).is_cuda
    has_compiler = any(shutil.which(name) for name in ("cc", "gcc", "clang"))
    return on_cuda and is_long and is_free and has_compiler and not any(has_own_forward(layer) for layer in layers)
