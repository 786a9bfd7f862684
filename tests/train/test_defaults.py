"""Every `auto` is settled with a reason, and what the user chose stays."""

from __future__ import annotations

from dataclasses import replace

from attune.config import Config
from attune.train.defaults import Facts, learning_rate_for, resolve

FACTS = Facts(
    parameters=10_000_000,
    device="cpu",
    steps=90,
    steps_per_epoch=30,
    has_valid=True,
    max_length=512,
    max_length_reason="the model",
)


def autos(config: Config) -> list[str]:
    """Return the settings that are still `auto`."""
    tree = config.model_dump()
    return [f"{s}.{k}" for s, group in tree.items() if isinstance(group, dict) for k, v in group.items() if v == "auto"]


def test_nothing_stays_auto() -> None:
    """After resolving, only the template's own word auto is left, and each filled value has a reason."""
    config, reasons = resolve(Config(), FACTS)
    assert autos(config) == ["data.template"]
    assert (config.device, config.precision, config.train.steps, config.data.max_length) == ("cpu", "float32", 90, 512)
    assert all(reason for _, reason in reasons.values())


def test_what_the_user_chose_stays() -> None:
    """Chosen values are neither changed nor listed as resolved."""
    config, reasons = resolve(
        Config().with_values({"train.steps": 7, "train.learning_rate": 0.5, "precision": "float64"}), FACTS
    )
    assert (config.train.steps, config.train.learning_rate, config.precision) == (7, 0.5, "float64")
    assert not {"train.steps", "train.learning_rate", "precision"} & set(reasons)


def test_precision_follows_device_and_adapter() -> None:
    """On cuda a full fine-tuning keeps float32 weights; LoRA keeps its frozen weights in bfloat16."""
    cuda = replace(FACTS, device="cuda")
    assert resolve(Config(), cuda)[0].precision == "mixed"
    assert resolve(Config().with_values({"adapter.kind": "lora"}), cuda)[0].precision == "bfloat16"


def test_smaller_models_and_lora_get_larger_rates() -> None:
    """The rule's values at named points."""
    assert learning_rate_for("full", 10**9) == 2e-5
    assert learning_rate_for("full", 10**7) == 2e-4
    assert learning_rate_for("lora", 10**9) == 2e-4
    assert learning_rate_for("full", 10**4) == 1e-3
