"""The schema itself: its defaults, its strictness, and that no setting is idle."""

from __future__ import annotations

import ast
from collections import Counter
from pathlib import Path

import pytest
from pydantic import ValidationError

from attune.config import Config
from attune.config_words import setting_fields

SOURCE = Path(__file__).resolve().parents[1] / "src" / "attune"
SCHEMA = {"config.py", "config_file.py", "config_text.py", "config_words.py"}


def test_settings_promised_to_the_outside_exist() -> None:
    """Names that other people's scripts rely on are there."""
    promised = """model out seed data.train data.valid data.columns data.template data.mask data.max_length
    data.overlong adapter.kind adapter.rank adapter.alpha train.steps train.epochs train.batch_rows train.batch_tokens
    valid.every train.micro_tokens train.learning_rate train.schedule train.warmup train.weight_decay train.clip
    train.optimizer checkpoint.every checkpoint.keep early_stop.metric early_stop.patience log.every"""
    assert set(promised.split()) <= set(setting_fields())


def test_a_config_is_a_value() -> None:
    """Defaults are valid, nothing can be changed afterwards, and unknown names are refused."""
    config = Config()
    with pytest.raises(ValidationError):
        config.seed = 3
    with pytest.raises(ValidationError):
        Config.model_validate({"sed": 3})


def test_with_values_checks_again() -> None:
    """Replacing a setting gives a new config, and a bad value is refused."""
    config = Config()
    assert config.with_values({"train.steps": 5}).train.steps == 5
    assert config.train.steps == "auto"
    with pytest.raises(ValidationError):
        config.with_values({"train.steps": 0})


@pytest.mark.parametrize(
    ("settings", "way_out"),
    [
        ({"train.gradient_release": True}, r"--train\.clip 1e\+06"),
        ({"train.compile": True, "train.offload": True}, r"Leave train\.compile or it off"),
        ({"adapter.rslora": True}, r"adapter\.rslora: .*adapter\.kind is full"),
        ({"adapter.dora": True}, r"Set adapter\.kind lora, or leave adapter\.dora off"),
        ({"train.fp8": True, "adapter.kind": "qlora"}, r"adapter\.kind lora in place of qlora"),
        ({"early_stop.reduce": 0.3}, r"early_stop\.patience is 0, so it would never be used"),
        ({"adapter.dropout": 1.0}, "less than 1"),
        ({"train.label_smoothing": 1.0}, "less than 1"),
        ({"train.beta1": 1.0, "train.beta2": 1.0}, "less than 1"),
    ],
)
def test_wishes_that_exclude_each_other_are_refused_at_once(settings: dict[str, object], way_out: str) -> None:
    """Before any data is read, with the way out."""
    with pytest.raises(ValidationError, match=way_out):
        Config().with_values(settings)


def read_names() -> set[str]:
    """Return what the code outside the schema reads: attributes, with the name before them, and dotted strings."""
    names: set[str] = set()
    for path in SOURCE.rglob("*.py"):
        if path.name in SCHEMA:
            continue
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Attribute):
                owner = node.value
                before = owner.attr if isinstance(owner, ast.Attribute) else getattr(owner, "id", "")
                names |= {node.attr, f"{before}.{node.attr}"}
            elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                names.add(node.value)
    return names


def test_no_setting_is_idle() -> None:
    """Every setting is read by the code; a name that two groups share must be read from its own group."""
    names = read_names()
    shared = Counter(name.rpartition(".")[2] for name in setting_fields())
    idle = []
    for name in setting_fields():
        group, _, key = name.rpartition(".")
        wanted = {name, f"config.{key}"} if not group else {name}
        wanted |= {key} if shared[key] == 1 and group else set()
        if not wanted & names:
            idle.append(name)
    assert not idle
