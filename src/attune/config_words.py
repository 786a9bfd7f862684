"""What every setting is called and what it takes, in words: for --help and for messages about wrong ones."""

from __future__ import annotations

import difflib
import types
from collections.abc import Iterator, Sequence
from functools import lru_cache
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic.fields import FieldInfo

from attune.config import Config, Section

# What other tools call a setting: too far from our name for difflib to find.
FAMILIAR = {
    "lr": "train.learning_rate",
    "batch_size": "train.batch_rows",
    "max_steps": "train.steps",
    "num_epochs": "train.epochs",
    "num_train_epochs": "train.epochs",
    "warmup_steps": "train.warmup",
    "warmup_ratio": "train.warmup",
    "max_grad_norm": "train.clip",
    "lr_scheduler_type": "train.schedule",
    "max_seq_length": "data.max_length",
    "dataset": "data.train",
    "lora_r": "adapter.rank",
    "lora_alpha": "adapter.alpha",
    "output_dir": "out",
    "base_model": "model",
    "model_name_or_path": "model",
    "eval_steps": "valid.every",
    "save_steps": "checkpoint.every",
    "logging_steps": "log.every",
}


@lru_cache(maxsize=1)
def setting_fields() -> dict[str, FieldInfo]:
    """Return every setting by its dotted name, in the order of the schema."""
    return dict(_walk_fields(Config, ""))


def _walk_fields(section: type[Section], prefix: str) -> Iterator[tuple[str, FieldInfo]]:
    for key, field in section.model_fields.items():
        if isinstance(field.annotation, type) and issubclass(field.annotation, Section):
            yield from _walk_fields(field.annotation, f"{prefix}{key}.")
        else:
            yield prefix + key, field


def section_keys(name: str) -> list[str]:
    """Return the keys of a group such as "train" ("" is the top); empty if there is no such group."""
    prefix = f"{name}." if name else ""
    keys = [dotted[len(prefix) :].split(".")[0] for dotted in setting_fields() if dotted.startswith(prefix)]
    return list(dict.fromkeys(keys))


def field_of(name: str) -> FieldInfo:
    """Return the field of a dotted setting, or of the table that it is an entry of (data.columns.prompt)."""
    fields = setting_fields()
    return fields[name] if name in fields else fields[name.rpartition(".")[0]]


def is_table(name: str) -> bool:
    """Return whether a setting holds names of the user's own, such as data.columns."""
    field = setting_fields().get(name)
    return field is not None and get_origin(field.annotation) is dict


def is_known(name: str) -> bool:
    """Return whether a dotted name is a setting, or an entry of a table such as data.columns.prompt."""
    parent, _, key = name.rpartition(".")
    return name in setting_fields() or bool(key and is_table(parent))


def nearest_setting(name: str) -> str:
    """Return the setting that a misspelt dotted name most likely means; empty if none is near."""
    names = list(setting_fields())
    name = name.replace("-", "_") if name.replace("-", "_") in names else name
    if name in names:
        return name
    if name.rpartition(".")[2] in FAMILIAR:
        return FAMILIAR[name.rpartition(".")[2]]
    group, _, key = name.rpartition(".")
    siblings = {dotted.rpartition(".")[2]: dotted for dotted in names if dotted.rpartition(".")[0] == group}
    near = difflib.get_close_matches(key, siblings, n=1, cutoff=0.7)
    if near:
        return siblings[near[0]]
    by_key: dict[str, str] = {}
    for dotted in names:
        by_key.setdefault(dotted.rpartition(".")[2], dotted)
    near = difflib.get_close_matches(name, names, n=1, cutoff=0.75) or [
        by_key[match] for match in difflib.get_close_matches(key, by_key, n=1, cutoff=0.8)
    ]
    return near[0] if near else ""


def _parts(annotation: Any, metadata: Sequence[Any] = ()) -> Iterator[tuple[Any, dict[str, Any]]]:
    """Yield each alternative of a type with its bounds: (int, {"gt": 0}), (Literal["auto"], {})."""
    origin = get_origin(annotation)
    if origin is Annotated:
        inner, *extra = get_args(annotation)
        yield from _parts(inner, [*metadata, *extra])
    elif origin in (Union, types.UnionType):
        for part in get_args(annotation):
            yield from _parts(part, metadata)
    else:
        flat = [bound for item in metadata for bound in (item.metadata if isinstance(item, FieldInfo) else [item])]
        yield annotation, {key: getattr(b, key) for b in flat for key in ("gt", "ge", "le", "lt") if hasattr(b, key)}


def kinds_of(field: FieldInfo) -> set[Any]:
    """Return the types that a setting takes, without its fixed words."""
    return {part for part, _ in _parts(field.annotation) if get_origin(part) is not Literal}


def is_list_of_texts(kind: Any) -> bool:
    """Return whether a type is a list of texts, free or out of fixed ones: on the command line commas part them."""
    item = get_args(kind)[0] if get_origin(kind) is list else None
    return item is str or get_origin(item) is Literal


def choices_of(field: FieldInfo) -> list[str]:
    """Return the fixed words that a setting takes."""
    return [str(c) for part, _ in _parts(field.annotation) if get_origin(part) is Literal for c in get_args(part)]


def describe_kind(name: str) -> str:
    """Say in words what a setting takes, such as: a number above 0, or auto."""
    field = field_of(name)
    if name not in setting_fields():
        return "text"
    words = []
    for part, bounds in _parts(field.annotation, field.metadata):
        if part in (int, float):
            noun = "a whole number" if part is int else "a number"
            if "gt" in bounds:
                noun += f" above {bounds['gt']}" + (f", at most {bounds['le']}" if "le" in bounds else "")
            elif "le" in bounds:
                noun += f" from {bounds.get('ge')} to {bounds['le']}"
            elif "lt" in bounds:
                noun += f" from {bounds.get('ge')} to below {bounds['lt']}"
            elif "ge" in bounds:
                noun += f" of {bounds['ge']} or more"
            words.append(noun)
        elif part is bool:
            words.append("true or false")
        elif part is str:
            words.append("text")
        elif get_origin(part) is dict:
            words.append("a group such as {prompt: question}")
        elif get_origin(part) is list:
            choices = ", ".join(map(str, get_args(get_args(part)[0])))
            texts = f"any of {choices} with commas between" if choices else "texts with commas between"
            words.append(texts if is_list_of_texts(part) else "a list of sources")
    *most, last = [*words, *choices_of(field)] or [""]
    joint = ", or " if words and most else " or "
    return f"{', '.join(most)}{joint if most else ''}{last}"


def setting_lines() -> list[tuple[str, list[tuple[str, str]]]]:
    """Return all settings for a help page: groups as (title, [(option, sentence, what it takes, default)])."""
    groups: dict[str, list[tuple[str, str]]] = {}
    for name, field in setting_fields().items():
        default = field.get_default(call_default_factory=True)
        shown = f"default {default}" if default not in ("", {}, []) else "no default"
        text = f"{field.description} [{describe_kind(name)}; {shown}]"
        groups.setdefault(name.rpartition(".")[0] or "run", []).append((f"--{name}", text))
    return list(groups.items())
