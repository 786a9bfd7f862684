"""Tiny real objects for tests: models of several architectures with random weights, and flat batches of random rows."""

from __future__ import annotations

import copy
import json
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tokenizers import Tokenizer
from tokenizers.decoders import ByteLevel as ByteLevelDecoder
from tokenizers.models import BPE
from tokenizers.pre_tokenizers import ByteLevel
from transformers import (
    AutoModelForCausalLM,
    Gemma2Config,
    GPT2Config,
    LlamaConfig,
    MistralConfig,
    PretrainedConfig,
    PreTrainedModel,
    Qwen3Config,
)

from attune.data.corpus import Corpus, Places
from attune.model.attention import AttentionChoice, set_attention
from attune.types import NOT_LEARNED, Batch, Place

VOCABULARY = 61
_SIZES = {
    "vocab_size": VOCABULARY,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "max_position_embeddings": 128,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": None,
}

CONFIGS: dict[str, PretrainedConfig] = {
    "llama": LlamaConfig(**_SIZES),
    "qwen3": Qwen3Config(**_SIZES),
    "mistral": MistralConfig(**_SIZES, sliding_window=5),
    "gemma2": Gemma2Config(
        **_SIZES, sliding_window=5, attn_logit_softcapping=20.0, final_logit_softcapping=10.0, query_pre_attn_scalar=8
    ),
    "gpt2": GPT2Config(
        vocab_size=VOCABULARY, n_embd=32, n_layer=2, n_head=4, n_positions=128, bos_token_id=1, eos_token_id=2
    ),
}


def make_model(
    name: str = "llama",
    *,
    dtype: torch.dtype = torch.float64,
    seed: int = 0,
    attention: str = "exact",
    positions: int = 128,
) -> PreTrainedModel:
    """Return a model with random weights, in evaluation mode; `attention` as attune's, or a name transformers knows."""
    torch.manual_seed(seed)
    config = copy.deepcopy(CONFIGS[name])
    config.max_position_embeddings = positions
    model = AutoModelForCausalLM.from_config(config, dtype=dtype).eval()
    for parameter in model.parameters():  # larger than the usual start, so that attention patterns matter
        parameter.data.add_(0.1 * torch.randn_like(parameter))
    if attention == "exact":
        set_attention(model, AttentionChoice("exact", "test"))
    else:
        model.set_attn_implementation(attention)
    return model


def make_rows(lengths: Sequence[int], *, seed: int = 0) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """Return random rows as (tokens, targets): the second half of each row is learned."""
    source = torch.Generator().manual_seed(seed)
    rows = []
    for length in lengths:
        tokens = torch.randint(3, VOCABULARY, (length,), generator=source)
        targets = torch.full_like(tokens, NOT_LEARNED)
        first = length // 2
        targets[first:-1] = tokens[first + 1 :]
        rows.append((tokens, targets))
    return rows


def flat_batch(rows: Sequence[tuple[torch.Tensor, torch.Tensor]]) -> Batch:
    """Lay rows end to end as one Batch."""
    lengths = tuple(len(tokens) for tokens, _ in rows)
    offsets = torch.tensor([0, *torch.tensor(lengths).cumsum(0)], dtype=torch.int32)
    return Batch(
        tokens=torch.cat([tokens for tokens, _ in rows]),
        positions=torch.cat([torch.arange(length) for length in lengths]),
        targets=torch.cat([targets for _, targets in rows]),
        q_offsets=offsets,
        kv_offsets=offsets,
        max_q=max(lengths),
        max_kv=max(lengths),
        lengths=lengths,
        rows=tuple(range(len(lengths))),
        row_tokens=sum(lengths),
        learned_tokens=sum(int((targets != NOT_LEARNED).sum()) for _, targets in rows),
    )


def make_tokenizer() -> Tokenizer:
    """Return a byte-level tokenizer without merges: 256 bytes and two control tokens, so every text round-trips."""
    alphabet = sorted(ByteLevel.alphabet())
    vocabulary = {"<|start|>": 0, "<|end|>": 1} | {piece: 2 + number for number, piece in enumerate(alphabet)}
    tokenizer = Tokenizer(BPE(vocabulary, []))
    tokenizer.pre_tokenizer = ByteLevel(add_prefix_space=False)
    tokenizer.decoder = ByteLevelDecoder()
    tokenizer.add_special_tokens(["<|start|>", "<|end|>"])
    return tokenizer


def write_model_folder(
    folder: Path, *, dropout: float = 0.0, seed: int = 0, dtype: torch.dtype = torch.float32
) -> Path:
    """Write a tiny GPT-2 with its tokenizer as a model folder; GPT-2 because it has dropout of its own."""
    torch.manual_seed(seed)
    config = GPT2Config(
        vocab_size=258, n_embd=32, n_layer=2, n_head=2, n_positions=256, bos_token_id=0, eos_token_id=1,
        attn_pdrop=dropout, embd_pdrop=dropout, resid_pdrop=dropout,
    )  # fmt: skip
    AutoModelForCausalLM.from_config(config, dtype=dtype).save_pretrained(folder)
    make_tokenizer().save(str(folder / "tokenizer.json"))
    names = {
        "tokenizer_class": "TokenizersBackend",
        "backend": "tokenizers",
        "bos_token": "<|start|>",
        "eos_token": "<|end|>",
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(names))
    return folder


def write_rows(path: Path, number: int, *, seed: int = 0) -> Path:
    """Write `number` distinct prompt/completion rows of varying length as JSONL."""
    source = random.Random(seed)
    words = ["red", "green", "blue", "seven", "eight", "nine", "stone", "river", "cloud", "lamp"]
    with path.open("w") as file:
        for row in range(number):
            prompt = f"{row} " + " ".join(source.choices(words, k=source.randint(1, 6)))
            completion = " ".join(source.choices(words, k=source.randint(1, 4)))
            file.write(json.dumps({"prompt": prompt, "completion": completion}) + "\n")
    return path


def small_run(folder: Path, base: Path, *, rows: int, valid: int) -> dict[str, Any]:
    """Write rows into `folder` and return the settings of a run on them, by dotted names."""
    return {
        "model": str(base),
        "out": str(folder / "run"),
        "seed": 5,
        "device": "cpu",
        "data.train": str(write_rows(folder / "rows.jsonl", rows)),
        "data.valid": str(write_rows(folder / "valid.jsonl", valid, seed=1)),
        "train.batch_rows": 4,
        "train.learning_rate": 0.01,
    }


def make_corpus(lengths: Sequence[int], *, seed: int = 0) -> Corpus:
    """Return a corpus of random rows; the second half of each is learned."""
    source = np.random.default_rng(seed)
    learned = np.concatenate([np.arange(length) > length // 2 for length in lengths])
    offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
    tokens = source.integers(3, VOCABULARY, int(offsets[-1]), dtype=np.int32)
    places = Places.of([Place("rows.jsonl", line + 1, 0) for line in range(len(lengths))])
    return Corpus(tokens, learned, offsets, places, ("rows",) * len(lengths))
