"""Loading: a folder or Hub id becomes a transformers model in a stated precision, with our attention plugged in."""

from __future__ import annotations

import json
import warnings
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import AutoModelForCausalLM, PreTrainedModel
from transformers.modeling_layers import GradientCheckpointingLayer
from transformers.utils import logging as transformers_logging

from attune.errors import ModelError
from attune.model.attention import AttentionChoice, choose_attention, set_attention
from attune.model.folder import check_folder, locate
from attune.model.nf4 import quantise_linears

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float64": torch.float64, "mixed": torch.float32}


def load_model(
    folder: Path | str,
    *,
    device: str = "cpu",
    precision: str = "float32",
    attention: str = "exact",
    trust_remote_code: bool = False,
    quantise: bool = False,
) -> PreTrainedModel:
    """Return the model of a local folder in evaluation mode, on `device`, with flat-batch attention plugged in.

    `precision` is float32, bfloat16, float64, or mixed (float32 weights, bfloat16 arithmetic under autocast).
    `quantise`: hold linear layers in 4 bits, one after the other, so that `device` never holds them in 16.
    Raises ModelError when it cannot be loaded.
    """
    folder = Path(folder)
    check_folder(folder)
    quiet = transformers_logging.get_verbosity()
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    try:
        model, found = AutoModelForCausalLM.from_pretrained(
            folder,
            output_loading_info=True,
            dtype=DTYPES[precision],
            use_safetensors=True,
            local_files_only=True,
            trust_remote_code=trust_remote_code,
        )
    except (ValueError, OSError, KeyError, RuntimeError, ImportError) as error:
        raise ModelError(_why_not(folder, error)) from error
    finally:
        transformers_logging.set_verbosity(quiet)
    if missing := sorted(found["missing_keys"]):
        raise ModelError(
            f"{folder}: {len(missing)} tensors that config.json asks for are not in the weights (first: {missing[0]});"
            "\nthey would be random numbers. Fetch config.json and the weights from one place."
        )
    compute = torch.bfloat16 if precision == "mixed" else DTYPES[precision]
    choice = choose_attention(attention, device=device, dtype=compute, model_class=type(model), config=model.config)
    set_attention(model, choice)
    model.attention_choice = choice
    if quantise:
        quantise_linears(model, device=device)
    return model.to(device).eval()


def _why_not(folder: Path, error: Exception) -> str:
    """Say why transformers could not load a model, with the next step where one is known."""
    text = " ".join(str(error).split())
    if "trust_remote_code" in text:
        return (
            f"{folder}: the model asks to run Python code of its own (auto_map in config.json): refused.\n"
            "If you trust where it comes from: --trust_remote_code true"
        )
    if "ignore_mismatched_sizes" in text:
        return f"{folder}: the weights have other shapes than config.json says. Fetch both from one place."
    return f"{folder}: transformers cannot load it: {text[:300]}"


def compile_layers(model: nn.Module) -> int:
    """Compile each decoder layer of `model` by itself, for any number of tokens, and return how many there are.

    One small graph serves all layers, so compiling is quick; the head and the loss stay as they are.
    """
    layers = [part for part in model.modules() if isinstance(part, GradientCheckpointingLayer)]
    for layer in layers:
        layer.compile(dynamic=True)
    return len(layers)


def attention_choice(model: Any) -> AttentionChoice:
    """Return which attention `load_model` chose for this model, and why."""
    choice = getattr(model, "attention_choice", None)
    assert isinstance(choice, AttentionChoice), "the model was not loaded by load_model"
    return choice


def load_tuned(
    folder: Path | str,
    *,
    device: str = "cpu",
    precision: str = "float32",
    attention: str = "exact",
    trust_remote_code: bool = False,
    quantise: bool = False,
) -> Any:
    """Return a tuned model from its folder: all weights, or a PEFT adapter on the base model its config names.

    The base has its full weights, whatever it had when the adapter learned (4 bits under qlora, 8 under train.fp8);
    `quantise` holds its linear layers in 4 bits.
    """
    options: dict[str, Any] = {
        "device": device,
        "precision": precision,
        "attention": attention,
        "trust_remote_code": trust_remote_code,
        "quantise": quantise,
    }
    folder = Path(folder)
    adapter = folder / "adapter_config.json"
    if not adapter.is_file():
        return load_model(folder, **options)
    from peft import PeftModel

    base = locate(json.loads(adapter.read_text())["base_model_name_or_path"])
    model = load_model(base, **options)
    with warnings.catch_warnings():  # PEFT says that it sees that layers of 4 bits are not transposed as GPT-2's were
        warnings.filterwarnings("ignore", message="fan_in_fan_out is set to True", category=UserWarning)
        return PeftModel.from_pretrained(model, folder, local_files_only=True).eval()
