"""The estimate of a training's memory against the memory that torch's tensors really take."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
import torch
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM, PretrainedConfig, Qwen3Config

from attune.config import Config
from attune.data.corpus import Corpus
from attune.data.prepare import Prepared
from attune.model.divergence import KEPT, TopK
from attune.train.estimate import HEAP, Load, footprint
from attune.train.measure import _Given
from attune.train.replay import Replay
from attune.train.session import Session
from attune.train.trace import ATTENTION, trace
from attune.world import World
from tests.tiny import make_corpus

CLOSE = 0.2  # how far the estimate may be off: plain layers are within 0.03, the twins of kernels hold more on a CPU
ROWS, LENGTH = 16, 64
DORA: dict[str, Any] = {"adapter.kind": "lora", "adapter.dora": True}
SIZES: dict[str, Any] = {
    "vocab_size": 1000, "hidden_size": 128, "intermediate_size": 352, "num_hidden_layers": 6,
    "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 32, "bos_token_id": 1, "eos_token_id": 2,
}  # fmt: skip
CONFIGS: dict[str, PretrainedConfig] = {
    "llama": LlamaConfig(**SIZES, tie_word_embeddings=True),
    "qwen3": Qwen3Config(**SIZES),
}


class Held(TorchDispatchMode):
    """Counts the bytes of all storages that operations made and that are still there; `peak` is the most at once."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.peak = 0
        self._most = 0  # what there is with all that may be gone by now
        self._found: dict[int, tuple[StorageWeakRef, int]] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        for x in tree_leaves(out):
            if isinstance(x, torch.Tensor):
                storage = x.untyped_storage()
                self._most += storage.nbytes() - self._found.get(storage._cdata, (None, 0))[1]
                self._found[storage._cdata] = (StorageWeakRef(storage), storage.nbytes())
        if self._most > self.peak:
            self._found = {key: pair for key, pair in self._found.items() if not pair[0].expired()}
            self._most = sum(size for _, size in self._found.values())
            self.peak = max(self.peak, self._most)
        return out


@pytest.mark.parametrize(
    ("name", "values"),
    [
        ("llama", {}),
        ("llama", {"train.kernels": "fused"}),
        ("llama", {"precision": "bfloat16", "train.kernels": "fused"}),
        ("llama", {"adapter.kind": "lora"}),
        ("llama", {"adapter.kind": "lora", "train.kernels": "fused"}),
        ("llama", {"train.checkpointing": 2}),
        ("llama", {"train.checkpointing": 4, "train.kernels": "fused"}),
        ("llama", {"train.micro_tokens": ROWS * LENGTH // 2}),
        ("llama", {"precision": "bfloat16", "train.optimizer": "adamw_8bit"}),
        ("qwen3", {"train.kernels": "fused"}),
        ("qwen3", {}),
        ("llama", DORA),
        ("llama", DORA | {"train.checkpointing": 6}),
        ("llama", DORA | {"train.micro_tokens": LENGTH, "train.batch_rows": 4}),
        ("qwen3", DORA | {"precision": "bfloat16", "train.micro_tokens": 128, "train.batch_rows": 4}),
    ],
)
def test_the_estimate_is_what_tensors_take(name: str, values: dict[str, Any], tmp_path: Path) -> None:
    """The peak of two steps, counted storage by storage, is near the estimate, with and without fused layers."""
    torch.manual_seed(0)
    AutoModelForCausalLM.from_config(CONFIGS[name]).save_pretrained(tmp_path)
    given = {
        "model": str(tmp_path), "device": "cpu", "precision": "float32", "train.steps": 2, "train.batch_rows": ROWS,
        "train.micro_tokens": ROWS * LENGTH, "train.learning_rate": 1e-5, "train.checkpointing": "none",
        "adapter.rank": 4, "data.share_prefixes": False, "train.compile": False,
    }  # fmt: skip
    config = Config().with_values(given | values)
    corpus = make_corpus([LENGTH] * ROWS)
    wish = config.train.checkpointing
    expected = footprint(tmp_path, config).memory(
        _load(corpus, int(config.train.micro_tokens)), checkpointed=wish if isinstance(wish, int) else 0
    )
    with Held() as held:
        session = Session(config, cast(Prepared, _Given(corpus)), base=tmp_path, world=World())
        held.peak = 0  # what loading took is not looked at
        assert len(list(session.train())) == 2
    heap = HEAP["dora" if config.adapter.dora else config.adapter.kind]
    tensors = expected.total - expected.activations * (1 - 1 / heap)
    assert tensors / held.peak == pytest.approx(1, abs=CLOSE), (tensors, held.peak)


@pytest.mark.parametrize("kl", [0.0, 1.0])
def test_the_estimate_counts_what_is_replayed(kl: float, tmp_path: Path) -> None:
    """Replayed texts come when gradients are there, all of their tokens are learned, and logits are compared."""
    torch.manual_seed(0)
    wide = LlamaConfig(**{**SIZES, "vocab_size": 6000, "num_hidden_layers": 2})
    AutoModelForCausalLM.from_config(wide).save_pretrained(tmp_path)
    config = Config().with_values({
        "model": str(tmp_path), "device": "cpu", "precision": "float32", "train.steps": 2, "train.batch_rows": ROWS,
        "train.micro_tokens": ROWS * LENGTH, "train.learning_rate": 1e-5, "train.checkpointing": "none",
        "data.share_prefixes": False, "train.compile": False,
    })  # fmt: skip
    corpus, tokens = make_corpus([LENGTH] * ROWS), ROWS * LENGTH
    texts = replace(corpus, learned=np.tile(np.arange(LENGTH) > 0, ROWS))
    learned, kept = ROWS * (LENGTH - 1), KEPT if kl else 0
    base = TopK(torch.arange(KEPT).expand(learned, KEPT).int(), torch.full((learned, KEPT), -5.0)) if kl else None
    expected = footprint(tmp_path, config).memory(
        Load(tokens, learned, ROWS * LENGTH**2, accumulates=True, kept=kept), checkpointed=0
    )
    alone = footprint(tmp_path, config).memory(_load(corpus, tokens))
    with Held() as held:
        session = Session(config, cast(Prepared, _Given(corpus)), base=tmp_path, world=World())
        session.take_replay(Replay(texts, base, tokens, 1.0, kl, seed=0))
        held.peak = 0
        assert len(list(session.train())) == 2
    heap = expected.activations * (1 - 1 / HEAP["full"])
    assert (expected.total - heap) / held.peak == pytest.approx(1, abs=CLOSE)
    assert (alone.total - alone.activations * (1 - 1 / HEAP["full"])) / held.peak < 1 - CLOSE


def _load(corpus: Corpus, micro_tokens: int) -> Load:
    """Return the first rows of a corpus that fill a micro-batch; all rows are of one length."""
    rows = micro_tokens // LENGTH
    learned = int(np.sum(corpus.learned[: rows * LENGTH]))
    return Load(rows * LENGTH, learned, rows * LENGTH**2, accumulates=rows < corpus.num_rows)


def test_what_a_forward_pass_stores_is_counted_exactly() -> None:
    """The bytes traced on the meta device are those that autograd really keeps of the same model on a CPU."""
    settings = LlamaConfig(
        vocab_size=50, hidden_size=32, intermediate_size=48, num_hidden_layers=3, num_attention_heads=4,
        num_key_value_heads=2, attn_implementation=ATTENTION,
    )  # fmt: skip
    model = LlamaForCausalLM(settings)
    kept: dict[int, torch.UntypedStorage] = {}
    weights = {p.untyped_storage().data_ptr() for p in (*model.parameters(), *model.buffers())}

    def keep(x: torch.Tensor) -> torch.Tensor:
        storage = x.untyped_storage()
        if storage.data_ptr() not in weights:
            kept[storage.data_ptr()] = storage
        return x

    def stored(length: int) -> int:
        kept.clear()
        tokens = torch.zeros(1, length, dtype=torch.long)
        with torch.autograd.graph.saved_tensors_hooks(keep, lambda x: x):
            model(input_ids=tokens, position_ids=torch.arange(length)[None], use_cache=False, logits_to_keep=1)
        return sum(storage.nbytes() for storage in kept.values())

    with torch.device("meta"):
        imagined = LlamaForCausalLM(settings)
    traced = trace(imagined, mixed=False)
    per_token = (stored(64) - stored(32)) / 32
    assert traced.layers == 3
    assert 3 * traced.layer + traced.rest == pytest.approx(per_token)
    assert traced.layer_input == 4 * 32
