"""The cases of gpu.py: models, rows and settings, and what each is to reach. Needs numpy alone, so every side reads it.

Rows are random token ids in the lengths of real fine-tuning data; nothing is ever zeros, on which a GPU is faster.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

LEARNED = 0.6  # the share of a row that is answer
SPARE = 1.3  # rows made for so many times the steps: what packs them may fit more of them into a step
LORA = {"rank": 16, "alpha": 32}  # on every linear layer but the head, without dropout

_LLAMA: dict[str, Any] = {
    "vocab_size": 128256,
    "max_position_embeddings": 8192,
    "rms_norm_eps": 1e-5,
    "initializer_range": 0.02,
    "rope_parameters": {"rope_type": "default", "rope_theta": 500000.0},
}
MODELS: Mapping[str, Mapping[str, Any]] = {
    "1B": {  # the shape of Llama-3.2-1B
        **_LLAMA,
        "hidden_size": 2048,
        "intermediate_size": 8192,
        "num_hidden_layers": 16,
        "num_attention_heads": 32,
        "num_key_value_heads": 8,
        "head_dim": 64,
        "tie_word_embeddings": True,
    },
    "8B": {  # the shape of Llama-3.1-8B
        **_LLAMA,
        "hidden_size": 4096,
        "intermediate_size": 14336,
        "num_hidden_layers": 32,
        "num_attention_heads": 32,
        "num_key_value_heads": 8,
        "head_dim": 128,
        "tie_word_embeddings": False,
    },
}
TINY_MODEL: Mapping[str, Any] = {
    **_LLAMA,
    "vocab_size": 512,
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "tie_word_embeddings": True,
}


@dataclass(frozen=True, slots=True)
class Sizes:
    """How long rows and steps are, in tokens."""

    step_tokens: int = 16384
    median: int = 350  # of the lognormal lengths of kind "chat"
    sigma: float = 0.9
    shortest: int = 32
    longest: int = 4096
    prefix: int = 512  # what every row of kind "prefix" begins with
    question: int = 110
    answer: int = 190
    prefix_rows: int = 64  # of one step
    even: int = 2048  # every row of kind "even"


TINY = Sizes(step_tokens=512, median=40, shortest=8, longest=128, prefix=32, question=8, answer=12, even=64)


@dataclass(frozen=True, slots=True)
class Aim:
    """What a case is to reach; None: nothing was set."""

    ratio: float | None = None  # to the fastest peer
    tokens_per_s: float | None = None
    gib: float | None = None  # the most memory allocated
    no_more_memory: bool = False  # than the fastest peer


@dataclass(frozen=True, slots=True)
class Case:
    """One kind of training, on every side.

    `settings`: of attune. `peers`: for each peer the ways it is run, by name; the fastest way counts. `as_in`: the case
    whose peers do the same work, so that they need not run twice.
    """

    name: str
    words: str
    model: str
    adapter: str  # full, lora or qlora
    rows: str = "chat"  # or prefix, or even
    settings: Mapping[str, Any] = field(default_factory=dict)
    peers: Mapping[str, Mapping[str, Mapping[str, Any]]] = field(default_factory=dict)
    as_in: str = ""
    aim: Aim = field(default_factory=Aim)


_TRL: Mapping[str, Any] = {"checkpointing": False, "liger": True}
_BOTH: Mapping[str, Mapping[str, Mapping[str, Any]]] = {
    "trl": {"packed": _TRL},
    "unsloth": {"packed": {"checkpointing": False}},
}

CASES: Mapping[str, Case] = {
    case.name: case
    for case in (
        Case(
            "1b-full", "1B, all weights", "1B", "full",
            peers={"trl": {"packed": _TRL}}, aim=Aim(ratio=1.15, no_more_memory=True),
        ),
        Case(
            "1b-full-8bit", "1B, all weights, moments of 8 bits", "1B", "full",
            settings={"train.optimizer": "adamw_8bit"}, as_in="1b-full", aim=Aim(ratio=1.15, no_more_memory=True),
        ),
        Case("1b-lora", "1B, LoRA", "1B", "lora", peers=_BOTH, aim=Aim(ratio=3.0)),
        Case("8b-lora", "8B, LoRA", "8B", "lora", peers=_BOTH, aim=Aim(ratio=1.75, gib=70)),
        Case(
            "8b-lora-fp8", "8B, LoRA, frozen weights in FP8", "8B", "lora",
            settings={"train.fp8": True}, as_in="8b-lora", aim=Aim(ratio=2.3),
        ),
        Case(
            "8b-full", "8B, all weights", "8B", "full",
            settings={"train.optimizer": "adamw_8bit"}, aim=Aim(tokens_per_s=13000, gib=139),
        ),
        Case(
            "1b-full-prefix", "1B, all weights, 512 tokens shared", "1B", "full", rows="prefix",
            settings={"train.micro_tokens": 20480}, peers={"trl": {"packed": {**_TRL, "accumulate": 3}}},
            aim=Aim(ratio=2.4),
        ),
        Case(
            "8b-lora-prefix", "8B, LoRA, 512 tokens shared", "8B", "lora", rows="prefix",
            settings={"train.micro_tokens": 20480}, peers={"trl": {"packed": {**_TRL, "accumulate": 3}}},
            aim=Aim(ratio=4.5),
        ),
        Case(
            "8b-lora-prefix-fp8", "8B, LoRA, 512 tokens shared, frozen weights in FP8", "8B", "lora", rows="prefix",
            settings={"train.micro_tokens": 20480, "train.fp8": True}, as_in="8b-lora-prefix", aim=Aim(ratio=4.5),
        ),
        Case(
            "8b-qlora", "8B, QLoRA, rows of 2,048 tokens, checkpointing", "8B", "qlora", rows="even",
            settings={"train.checkpointing": "full", "train.micro_tokens": 8192},
            peers={"unsloth": {"16 bits": {"checkpointing": "unsloth"},
                               "4 bits": {"checkpointing": "unsloth", "four_bits": True}}},
            aim=Aim(gib=12),
        ),
    )
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Rows:
    """Random rows laid end to end, and which of them each step takes.

    tokens: int32 [N]; learned: bool [N]; offsets: int64 [rows + 1]; steps: row numbers. Rows beyond the last step are
    spare.
    """

    tokens: NDArray[np.int32]
    learned: NDArray[np.bool_]
    offsets: NDArray[np.int64]
    steps: tuple[NDArray[np.int64], ...]

    @property
    def lists(self) -> list[tuple[list[int], list[int]]]:
        """Each row's tokens, and 1 where a token is learned."""
        spans = zip(self.offsets[:-1].tolist(), self.offsets[1:].tolist(), strict=True)
        return [(self.tokens[a:b].tolist(), self.learned[a:b].astype(int).tolist()) for a, b in spans]

    @property
    def learned_share(self) -> float:
        """The share of the tokens that is learned."""
        return float(self.learned.mean())


def model_shape(case: Case, *, tiny: bool) -> Mapping[str, Any]:
    """Return the arguments of LlamaConfig."""
    return TINY_MODEL if tiny else MODELS[case.model]


def make_rows(case: Case, sizes: Sizes, *, steps: int, vocabulary: int, seed: int) -> Rows:
    """Return the rows of `steps` steps, and spare ones; the same on every side."""
    random = np.random.default_rng([seed, sum(map(ord, case.rows))])
    prompts, lengths, counts = _lengths(case.rows, sizes, math.ceil(SPARE * steps), random)
    offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
    tokens = random.integers(3, vocabulary, int(offsets[-1]), dtype=np.int32)
    within = np.arange(offsets[-1]) - np.repeat(offsets[:-1], lengths)
    if case.rows == "prefix":
        shared = random.integers(3, vocabulary, sizes.prefix, dtype=np.int32)
        tokens = np.where(within < sizes.prefix, shared[np.minimum(within, sizes.prefix - 1)], tokens)
    firsts = np.concatenate([[0], np.cumsum(counts)])
    return Rows(
        tokens=tokens,
        learned=within >= np.repeat(prompts, lengths),
        offsets=offsets,
        steps=tuple(np.arange(a, b) for a, b in pairwise(firsts[: steps + 1])),
    )


def _lengths(
    kind: str, sizes: Sizes, steps: int, random: np.random.Generator
) -> tuple[NDArray[np.int64], NDArray[np.int64], list[int]]:
    """Return each row's prompt and whole length, and how many rows each step takes."""
    if kind == "prefix":
        number = steps * sizes.prefix_rows
        prompt = sizes.prefix + sizes.question
        return np.full(number, prompt), np.full(number, prompt + sizes.answer), [sizes.prefix_rows] * steps
    if kind == "even":
        per_step = sizes.step_tokens // sizes.even
        lengths = np.full(steps * per_step, sizes.even)
        return _prompts(lengths), lengths, [per_step] * steps
    found: list[int] = []
    counts: list[int] = []
    while len(counts) < steps:
        rows: list[int] = []
        while True:
            drawn = round(float(np.clip(random.lognormal(np.log(sizes.median), sizes.sigma), 0, sizes.longest)))
            length = max(drawn, sizes.shortest)
            if sum(rows) + length > sizes.step_tokens:
                break
            rows.append(length)
        found += rows
        counts.append(len(rows))
    lengths = np.array(found)
    return _prompts(lengths), lengths, counts


def plain_flos(case: Case, rows: Rows, *, tiny: bool) -> float:
    """Return the operations of training per token of the rows when no beginning is shared, counted as attune counts.

    2 for each weight of a matrix forward, 2 for the gradient of its input and 2 for its own where it trains; the head
    on learned tokens only; attention 12 for each pair of a token and one it sees, times width and layers.
    """
    shape = model_shape(case, tiny=tiny)
    hidden, inner, layers = shape["hidden_size"], shape["intermediate_size"], shape["num_hidden_layers"]
    queries = shape["num_attention_heads"] * shape["head_dim"]
    keys = shape["num_key_value_heads"] * shape["head_dim"]
    linear = layers * hidden * (2 * queries + 2 * keys + 3 * inner)
    head = hidden * shape["vocab_size"]
    each = 6 if case.adapter == "full" else 4
    beside = (
        0
        if case.adapter == "full"
        else 6 * LORA["rank"] * layers * (4 * hidden + 2 * (queries + keys) + 3 * (hidden + inner))
    )
    lengths = np.diff(rows.offsets)
    pairs = float((lengths * (lengths + 1) / 2).sum() / lengths.sum())
    return float(each * (linear + head * rows.learned_share) + beside + 12 * queries * layers * pairs)


def _prompts(lengths: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return how many tokens of each row are not learned: at least the first."""
    return np.maximum(np.round(lengths * (1 - LEARNED)).astype(np.int64), 1)
