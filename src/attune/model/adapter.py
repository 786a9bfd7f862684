"""Which weights train: all of them, or LoRA matrices that PEFT defines beside frozen ones, be they of 4 bits."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from attune.config import AdapterConfig
from attune.errors import ConfigError, ModelError
from attune.model.nf4 import quantise_linears
from attune.model.stores import HeldLinear
from attune.world import mix_seed


@dataclass(frozen=True, slots=True)
class Parameters:
    """How many numbers a model holds, and how many of them change."""

    total: int
    trainable: int


def attach_adapter(model: nn.Module, config: AdapterConfig, *, seed: int, base: str) -> nn.Module:
    """Return `model` ready to train: itself with all weights free (full), or wrapped by PEFT (lora, qlora).

    For qlora, linear layers are first held in 4 bits unless `load_model` has done so. `base` is written into the
    adapter's config as the model it belongs to. Adapter weights are float32 (float64 for a float64 model).
    Raises ConfigError when adapter.targets names no module of this model, or DoRA is asked for on weights of few bits.
    Source: LoRA, Hu et al. 2021, arXiv 2106.09685; rsLoRA, Kalajdzievski 2023, arXiv 2312.03732; DoRA, Liu et al.
    2024, arXiv 2402.09353.
    """
    if config.kind == "full":
        return model.requires_grad_(True)
    if config.dora and (config.kind == "qlora" or any(isinstance(part, HeldLinear) for part in model.modules())):
        raise ConfigError(
            "adapter.dora: DoRA measures the columns of every weight, which are not there to be read in 4 or 8 bits.\n"
            "Use adapter.kind lora without train.fp8, or leave adapter.dora off."
        )
    from peft import LoraConfig, get_peft_model

    if config.kind == "qlora" and not any(isinstance(part, HeldLinear) for part in model.modules()):
        quantise_linears(model)
    targets: str | list[str] = config.targets
    if targets != "all-linear":
        targets = [name.strip() for name in config.targets.split(",") if name.strip()]
    torch.manual_seed(mix_seed("adapter", seed))
    settings = LoraConfig(
        fan_in_fan_out=_stores_inputs_first(model, targets),
        r=config.rank,
        lora_alpha=config.alpha,
        lora_dropout=config.dropout,
        use_rslora=config.rslora,
        use_dora=config.dora,
        target_modules=targets,
        task_type="CAUSAL_LM",
        bias="none",
    )
    try:
        wrapped: Any = get_peft_model(model, settings)
    except ValueError as error:
        names = sorted(
            {name.rsplit(".", 1)[-1] for name, part in model.named_modules() if isinstance(part, (nn.Linear, Conv1D))}
        )
        raise ConfigError(
            f'adapter.targets: "{config.targets}" matches no module. Linear modules here: {", ".join(names)}.'
        ) from error
    for part in wrapped.modules():
        if hasattr(part, "lora_A"):
            part.get_base_layer().register_state_dict_post_hook(_lie_alone)
    saved = wrapped.peft_config["default"]
    saved.base_model_name_or_path = base
    # the files are those of an adapter for the model as it was loaded: GPT-2's layers are transposed there
    saved.fan_in_fan_out |= any(isinstance(part, HeldLinear) and part.was_transposed for part in model.modules())
    return wrapped  # type: ignore[no-any-return]


def _lie_alone(_: nn.Module, state: dict[str, Any], prefix: str, __: dict[str, Any]) -> None:
    """Give a weight whose adapter was merged or unloaded a memory of its own where it is saved.

    Fused layers keep it in one memory with its neighbours and the adapter's matrices, row by row, which neither
    transformers nor safetensors write. Below an adapter it stays as it is: of such a model the adapter alone is saved,
    and a copy of the base would be made in vain.
    """
    name = f"{prefix}weight"
    if not prefix.endswith("base_layer.") and name in state:
        state[name] = state[name].contiguous()


def _stores_inputs_first(model: nn.Module, targets: str | list[str]) -> bool:
    """Whether targeted modules keep their weights as [inputs, outputs], as GPT-2's Conv1D does."""
    names = [f".{name}" for name, part in model.named_modules() if isinstance(part, Conv1D)]
    if isinstance(targets, str):
        return bool(names)
    return any(name.endswith(f".{target}") for name in names for target in targets)


def count(model: nn.Module) -> Parameters:
    """Return the number of parameters of `model`, tied ones and those of fewer bits once, and of those that train."""
    sizes = [(p.numel(), p.requires_grad) for p in model.parameters()]
    held = sum(part.weight.numel() for part in model.modules() if isinstance(part, HeldLinear))
    return Parameters(held + sum(n for n, _ in sizes), sum(n for n, trains in sizes if trains))


def trainable_weights(model: nn.Module) -> dict[str, Tensor]:
    """Return the weights that change, by name; tied ones once."""
    return {name: p for name, p in model.named_parameters() if p.requires_grad}


def load_weights(model: nn.Module, weights: dict[str, Tensor]) -> None:
    """Copy saved weights into the trainable ones of `model`. Raises ModelError unless names and shapes agree."""
    own = trainable_weights(model)
    if own.keys() != weights.keys():
        odd = min(own.keys() ^ weights.keys())
        raise ModelError(
            f'saved weights do not fit this model: "{odd}" stands on one side only. Was the adapter or model changed?'
        )
    with torch.no_grad():
        for name, parameter in own.items():
            if parameter.shape != weights[name].shape:
                shapes = f"{tuple(weights[name].shape)}, expected {tuple(parameter.shape)}"
                raise ModelError(f'saved weights do not fit this model: "{name}" has shape {shapes}.')
            parameter.copy_(weights[name])


def save_model(model: nn.Module, folder: Path) -> None:
    """Write `model` as transformers (full) or PEFT (lora) loads it: safetensors, readable by everybody."""
    # the embeddings are frozen and belong to the base; left to itself, PEFT asks the Hub whether they were changed
    options = {"save_embedding_layers": False} if hasattr(model, "peft_config") else {}
    model.save_pretrained(folder, **options)  # type: ignore[operator]
    (folder / "README.md").unlink(missing_ok=True)  # PEFT's blank card; the run writes its own
    for file in folder.iterdir():
        file.chmod(0o644)  # safetensors makes them readable by the owner only
