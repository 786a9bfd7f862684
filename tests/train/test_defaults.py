"""Every `auto` is settled with a reason, and what the user chose stays."""

from __future__ import annotations

from dataclasses import replace

import pytest

from attune.config import Config
from attune.errors import ConfigError
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

ELSEWHERE = {  # the template's own word, what preparation has settled before, and what the loaded model settles
    "data.template", "data.cache", "data.workers", "data.share_prefixes", "train.kernels", "train.compile",
    "guards.rows", "guards.prompts", "guards.max_new_tokens",
}  # fmt: skip


def autos(config: Config) -> list[str]:
    """Return the settings that are still `auto`."""
    tree = config.model_dump()
    return [f"{s}.{k}" for s, group in tree.items() if isinstance(group, dict) for k, v in group.items() if v == "auto"]


def test_nothing_stays_auto() -> None:
    """After resolving, only what is settled elsewhere is left, and each filled value has a reason."""
    config, reasons = resolve(Config(), FACTS)
    assert set(autos(config)) == ELSEWHERE
    assert (config.device, config.precision, config.train.steps, config.data.max_length) == ("cpu", "float32", 90, 512)
    assert all(reason for _, reason in reasons.values())


def test_what_the_user_chose_stays() -> None:
    """Chosen values are neither changed nor listed as resolved."""
    config, reasons = resolve(
        Config().with_values({"train.steps": 7, "train.learning_rate": 0.5, "precision": "float64"}), FACTS
    )
    assert (config.train.steps, config.train.learning_rate, config.precision) == (7, 0.5, "float64")
    assert not {"train.steps", "train.learning_rate", "precision"} & set(reasons)


def test_early_stopping_needs_held_out_rows() -> None:
    """Without validation rows nothing could stop the run, so the wish is refused."""
    wish = Config().with_values({"early_stop.patience": 3})
    assert resolve(wish, FACTS)[0].early_stop.patience == 3
    with pytest.raises(ConfigError, match=r"early_stop\.patience is 3, but no rows are held out"):
        resolve(wish, replace(FACTS, has_valid=False))


def test_a_metric_asked_for_needs_held_out_rows() -> None:
    """The default may stand idle without them; what was asked for, even the default's own value, is refused."""
    bare = replace(FACTS, has_valid=False)
    settled = resolve(Config(), bare)[0]
    for metric in ("val_loss", "exact_match"):
        wish = Config().with_values({"early_stop.metric": metric})
        assert resolve(wish, FACTS)[0].early_stop.metric == metric
        with pytest.raises(ConfigError, match=rf"early_stop\.metric is {metric}, but no rows .*\n.*--data\.valid FILE"):
            resolve(wish, bare)
    assert resolve(settled, bare)[0] == settled, "the config of a run can be resumed and run again"


def test_precision_follows_device_and_adapter() -> None:
    """On cuda all weights are bfloat16, and the reason says who keeps what that cannot hold; on a CPU float32."""
    cuda = replace(FACTS, device="cuda")
    for kind, reason in (("full", "the optimizer keeps"), ("lora", "the adapter itself is float32")):
        config, reasons = resolve(Config().with_values({"adapter.kind": kind}), cuda)
        assert config.precision == "bfloat16"
        assert reason in reasons["precision"][1]
    assert resolve(Config().with_values({"adapter.kind": "lora"}), FACTS)[0].precision == "float32"


def test_smaller_models_and_lora_get_larger_rates() -> None:
    """The rule's values at named points."""
    assert learning_rate_for("full", 10**9) == 2e-5
    assert learning_rate_for("full", 10**7) == 2e-4
    assert learning_rate_for("lora", 10**9) == 2e-4
    assert learning_rate_for("full", 10**4) == 1e-3
