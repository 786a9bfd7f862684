"""Good defaults: every `auto` becomes a value with its reason, from facts about the data, the model and the machine."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from attune.config import Config, ReplayConfig
from attune.data.corpus import Corpus
from attune.data.stream import Stream
from attune.errors import ConfigError

Resolved = dict[str, tuple[Any, str]]

MICRO_TOKENS = {"cpu": 4096, "cuda": 16384}
MOST_STEPS = 20_000  # of a run that are looked at one by one
SELF = "self"  # replay.source: texts that the model writes before training
_DIVISIONS = 8  # validations and printed lines in a run


@dataclass(frozen=True, slots=True)
class Facts:
    """What the defaults depend on. `steps_per_epoch` counts optimizer steps of one pass over the training rows."""

    parameters: int
    device: str
    steps: int  # of train.epochs passes
    steps_per_epoch: int  # of the first pass
    has_valid: bool
    max_length: int
    max_length_reason: str
    largest_step: int = 0  # tokens of the largest step, where one micro-batch must hold it
    structured: str = ""  # what validation answers are, if labels, numbers or JSON


def learning_rate_for(kind: str, parameters: int) -> float:
    """Return a peak learning rate that suits most runs.

    Full: 2e-5 at 1e9 parameters, larger for smaller models by the square root, within 5e-6 and 1e-3. LoRA: ten times
    that, as its matrices start at zero (Schulman et al. 2025, "LoRA Without Regret", find a factor of about ten), and
    at most 1e-3: with more, a model of 10 M parameters forgot general text.
    """
    full = min(max(2e-5 * math.sqrt(1e9 / max(parameters, 1)), 5e-6), 1e-3)
    return float(f"{full if kind == 'full' else min(10 * full, 1e-3):.2g}")


def replay_weights(config: ReplayConfig) -> tuple[float, float]:
    """Return the weights of loss and divergence on replayed tokens.

    Where they are auto, what the model wrote itself holds it where it was, and a file is learned.
    """
    kl = float(config.source == SELF) if config.kl == "auto" else config.kl
    weight = float(config.source != SELF or kl == 0) if config.weight == "auto" else config.weight
    return weight, kl


def resolve(config: Config, facts: Facts) -> tuple[Config, Resolved]:
    """Return the config without any `auto` left, and for each value filled in here, the reason.

    Raises: ConfigError when early stopping or its metric is asked for and nothing is held out to go by.
    """
    found: Resolved = {}

    def settle(key: str, value: Any, reason: str) -> Any:
        section, _, name = key.rpartition(".")
        current = getattr(getattr(config, section) if section else config, name)
        if current != "auto":
            return current
        found[key] = (value, reason)
        return value

    device = settle(
        "device", facts.device, "a CUDA device is there" if facts.device == "cuda" else "no CUDA device here"
    )
    kind = config.adapter.kind
    if device == "cpu":
        settle("precision", "float32", "fastest and exact on a CPU")
    elif kind == "full":
        settle("precision", "bfloat16", "fast, and the optimizer keeps what 16 bits cannot hold of each weight")
    else:
        settle("precision", "bfloat16", "frozen weights need no more; the adapter itself is float32")
    settle("data.max_length", facts.max_length, facts.max_length_reason)
    steps = settle(
        "train.steps",
        facts.steps,
        f"{config.train.epochs:g} epochs of {facts.steps_per_epoch} steps",
    )
    settle(
        "train.learning_rate",
        learning_rate_for(kind, facts.parameters),
        f"{kind}, {facts.parameters / 1e6:,.1f} M parameters",
    )
    if facts.largest_step > MICRO_TOKENS[device]:
        settle("train.micro_tokens", facts.largest_step, "the largest step, which gradient release needs in one piece")
    else:
        settle("train.micro_tokens", MICRO_TOKENS[device], f"fits most models on {device}; never changes the result")
    settle("train.checkpointing", "none", "fastest; `attune plan` says whether it fits")
    every = max(1, math.ceil(steps / _DIVISIONS))
    valid_every = settle(
        "valid.every",
        every,
        f"about {_DIVISIONS} validations in {steps} steps" if facts.has_valid else "no validation rows",
    )
    _settle_watching(config, facts, settle)
    settle("checkpoint.every", valid_every, "at each validation")
    settle("log.every", every, f"about {_DIVISIONS} lines in {steps} steps")
    if not facts.has_valid:
        _refuse_early_stop(config, is_resolved=not found)
    return config.with_values({key: value for key, (value, _) in found.items()}), found


def _refuse_early_stop(config: Config, *, is_resolved: bool) -> None:
    """Raise ConfigError for a wish of early stopping that nothing held out could meet.

    The config of an earlier run (`is_resolved`: it holds no `auto`) names a metric that nobody asked for.
    """
    wish = config.early_stop
    next_step = "Give some (--data.valid FILE, or a larger --data.valid_share), or leave"
    if wish.patience:
        raise ConfigError(
            f"early_stop.patience is {wish.patience}, but no rows are held out that could stop the run.\n"
            f"{next_step} early_stop.patience at 0."
        )
    if wish.metric != "auto" and not is_resolved:
        raise ConfigError(
            f"early_stop.metric is {wish.metric}, but no rows are held out on which it could choose the best step.\n"
            f"{next_step} early_stop.metric at auto."
        )


def _settle_watching(config: Config, facts: Facts, settle: Callable[[str, Any, str], Any]) -> None:
    """Settle what is replayed beside the rows and what chooses the best step."""
    weight, kl = replay_weights(config.replay)
    why = "the model's own texts say what it knew" if config.replay.source == SELF else "no texts of the model's own"
    settle("replay.weight", weight, why)
    settle("replay.kl", kl, why)
    settle(
        "early_stop.metric",
        "val_exact_match" if facts.structured else "val_loss",
        f"answers are {facts.structured}" if facts.structured else "answers are free text, or none are held out",
    )


def step_tokens(stream: Stream, steps: int) -> NDArray[np.int64]:
    """Return the tokens of the rows of each step, int64 [steps]; of a very long run those of the first steps."""
    looked = range(1, min(steps, MOST_STEPS) + 1)
    return np.array([stream.lengths[stream.rows(step)].sum() for step in looked], dtype=np.int64)


def stream_of(corpus: Corpus, config: Config) -> Stream:
    """Return the order in which the rows of a corpus are trained."""
    train = config.train
    return Stream(
        corpus.lengths,
        seed=config.seed,
        batch_rows=train.batch_rows,
        batch_tokens=train.batch_tokens,
        copies=corpus.copies,
    )
