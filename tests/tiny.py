"""Tiny real objects for tests: models of several architectures with random weights, and flat batches of random rows."""

from __future__ import annotations

from collections.abc import Sequence

import torch
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

from attune.model.attention import AttentionChoice, set_attention
from attune.types import NOT_LEARNED, Batch

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
    "gemma2": Gemma2Config(**_SIZES, sliding_window=5, attn_logit_softcapping=20.0, final_logit_softcapping=10.0, query_pre_attn_scalar=8),
    "gpt2": GPT2Config(vocab_size=VOCABULARY, n_embd=32, n_layer=2, n_head=4, n_positions=128, bos_token_id=1, eos_token_id=2),
}


def make_model(name: str = "llama", *, dtype: torch.dtype = torch.float64, seed: int = 0, attention: str = "exact") -> PreTrainedModel:
    """Return a model with random weights, in evaluation mode; `attention` as attune's, or a name transformers knows."""
    torch.manual_seed(seed)
    model = AutoModelForCausalLM.from_config(CONFIGS[name], dtype=dtype).eval()
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
    )
