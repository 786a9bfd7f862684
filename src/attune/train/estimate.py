"""How much memory a training will take, from shapes alone: weights, gradients, optimizer, activations, all in bytes."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from attune.config import Config
from attune.model.attention import EXACT, PER_ROW
from attune.model.block import obstacle_of
from attune.model.checkpointing import decoder_layers
from attune.model.divergence import CPU_BYTES, CUDA_BYTES
from attune.model.neftune import enable_neftune
from attune.train.metrics import FlosCounter
from attune.train.optim import state_bytes
from attune.train.trace import ATTENTION, Stored, imagine_model, trace

HEAD_ROWS = 8192  # learned tokens whose logits exist at once, at most
WORKING = 0.7  # of what a plain layer stores: what its backward pass holds besides (gradients of the wide products)
# on a CPU: memory held a byte of activations, for the heap has holes
HEAP = {"full": 1.25, "lora": 1.9, "dora": 1.6, "qlora": 1.9}
NF4_BYTES = 0.5 + 1 / 64 + 4 / (64 * 256)  # of a weight: 4 bits, a byte of scale for 64, a float for 256 scales


@dataclass(frozen=True, slots=True)
class Load:
    """The largest micro-batch: its tokens, how many of them are learned, and the squares of its rows' lengths, summed.

    `accumulates`: a step has several, so that gradients are already there when the next one is computed. `kept`: how
    many of the base's likeliest tokens each learned one is compared with, 0 for the usual loss.
    """

    tokens: int
    learned: int
    squares: int
    accumulates: bool
    kept: int = 0


@dataclass(frozen=True, slots=True)
class Memory:
    """Bytes by purpose. `total` is the peak: less than the sum where gradients come as activations go."""

    weights: int
    gradients: int
    optimizer: int
    activations: int
    total: int


@dataclass(frozen=True, slots=True)
class Head:
    """The language-model head: its sizes, the bytes of a number in arithmetic and in its weight, and if it trains.

    `room`: bytes of logits that exist at once; `beside`: bytes a logit that the loss takes besides, 0 in one kernel;
    `compared`: bytes of logits in float32 that are compared with the base's at once.
    """

    width: int
    vocabulary: int
    element: int
    weight_element: int
    trains: bool
    room: int
    beside: int
    compared: int

    def bytes(self, learned: int, kept: int = 0) -> float:
        """Return what the loss of so many learned tokens takes: their states and gradients, logits, and the weight's.

        The gradient of the weight is added up in float32; a weight wider than arithmetic is copied into its type.
        `kept`: as in Load; then logits are compared some rows at a time, in three copies that are no shorter than
        float32, two where they are themselves one.
        """
        rows = min(learned, HEAD_ROWS, max(self.room // (self.vocabulary * self.element), 64))
        logits = float(rows * self.vocabulary * (self.element + self.beside))
        if kept:
            wide = max(self.element, 4)
            some = min(rows, max(self.compared // (self.vocabulary * wide), 1))
            copies = some * self.vocabulary * wide * (2 if wide == self.element else 3)
            logits = rows * self.vocabulary * self.element + copies + learned * min(kept, self.vocabulary) * (12 + wide)
        size = self.vocabulary * self.width
        weight = (4 * size if self.trains else 0) + (self.element * size if self.weight_element > self.element else 0)
        return 2 * learned * self.width * self.element + logits + weight


@dataclass(frozen=True, slots=True)
class Footprint:
    """What a model takes in training whatever the batch, and what each token adds."""

    weights: int
    gradients: int
    optimizer: int
    stored: Stored  # as the layers that will run store it
    working: float  # bytes per token that a layer's backward pass holds besides
    scores: float  # bytes per squared row length: attention that writes its scores out
    head: Head
    flos: FlosCounter
    parameters: int
    heap: float  # bytes held for a byte of activations
    passing: int  # bytes that a layer's forward pass holds for a moment, whatever the batch
    shares: bool  # whether rows will share what they begin with

    def memory(self, load: Load, *, checkpointed: int = 0, offload: bool = False) -> Memory:
        """Return the peak of a step with such micro-batches, `checkpointed` layers being computed again."""
        stored = self.stored
        again = min(checkpointed, stored.layers)
        kept = 0.0 if offload else stored.layer_input
        layer = stored.layer * load.tokens + self.scores * load.squares
        held = (stored.layers - again) * layer + (again * kept + stored.rest) * load.tokens + stored.fixed
        working = max(self.working * load.tokens, self.passing) + (layer if again else self.scores * load.squares)
        activations = self.heap * (held + max(self.head.bytes(load.learned, load.kept), working))
        last = self.heap * (held / max(stored.layers, 1) + working)  # at the first layer, when all gradients are there
        both = activations + self.gradients if load.accumulates else max(activations, self.gradients + last)
        fixed = self.weights + self.optimizer
        return Memory(self.weights, self.gradients, self.optimizer, round(activations), round(fixed + both))


def footprint(base: Path, config: Config) -> Footprint:
    """Return what the model of a folder takes, trained as a resolved config says. Raises: ModelError, ConfigError."""
    model = imagine_model(base, config)
    settings: Any = model.config
    settings = settings.get_text_config()
    plain = trace(model, mixed=config.precision == "mixed")
    trained = [p for p in model.parameters() if p.requires_grad]
    sizes = [p.numel() * p.element_size() for p in trained]
    released = config.train.gradient_release
    fused = is_fused(model, config)
    return Footprint(
        weights=_weight_bytes(model, config),
        gradients=max(sizes, default=0) if released else sum(sizes),
        optimizer=state_bytes(model, config.train),
        stored=_lean(plain, settings, config) if fused else plain,
        working=WORKING * _without_dora(plain, base, config).layer,
        scores=_score_bytes(settings, config),
        head=_head(model, config),
        flos=FlosCounter.of(model),
        parameters=sum(p.numel() for p in model.parameters()),
        heap=HEAP["dora" if config.adapter.dora else config.adapter.kind] if config.device == "cpu" else 1.0,
        passing=_dora_bytes(model, config),
        shares=_shares(model, config),
    )


def is_fused(model: nn.Module, config: Config) -> bool:
    """Whether attune's own layers will run, which store less."""
    train, layers = config.train, decoder_layers(model)
    wanted = train.kernels == "fused" or (train.kernels == "auto" and config.device == "cuda")
    return wanted and train.compile is not True and bool(layers) and all(obstacle_of(part) is None for part in layers)


def _without_dora(plain: Stored, base: Path, config: Config) -> Stored:
    """Return what the same layers store without the copies that DoRA scales: these are gone when the rest begins."""
    if not config.adapter.dora:
        return plain
    return trace(imagine_model(base, config.with_values({"adapter.dora": False})), mixed=config.precision == "mixed")


def _dora_bytes(model: nn.Module, config: Config) -> int:
    """Return what measuring the columns of the largest adapted weight takes in every forward pass.

    PEFT multiplies the adapter's matrices with an identity matrix, all in float32, and adds their product to the weight
    in a copy of it, both of them of the type of the weight.
    """
    if not config.adapter.dora:
        return 0
    parts: list[Any] = [part for part in model.modules() if hasattr(part, "lora_magnitude_vector")]
    sizes = [(int(part.in_features), int(part.out_features)) for part in parts]
    rank, wide, own = config.adapter.rank, max(_element(config), 4), _element(config)
    return max((wide * (i * i + i * rank + i * o) + 2 * own * i * o for i, o in sizes), default=0)


def _shares(model: nn.Module, config: Config) -> bool:
    """Whether rows of this model will share what they begin with. Raises: ConfigError as training does."""
    from attune.train.session import shares_prefixes

    enable_neftune(model, config.train.neftune_alpha)
    counted = model.config._attn_implementation == ATTENTION  # type: ignore[union-attr]  # noqa: SLF001 - its only name
    return shares_prefixes(model, config, attention=EXACT if counted else PER_ROW)


def _element(config: Config) -> int:
    """Return the bytes of a number in arithmetic."""
    return {"bfloat16": 2, "mixed": 2, "float32": 4, "float64": 8}[config.precision]


def _lean(plain: Stored, settings: Any, config: Config) -> Stored:
    """Return what a fused layer stores: what enters its halves, queries, keys, values, their result, gate and up.

    Adapters add their narrow middles, 7 a layer.
    """
    element, hidden, heads = _element(config), settings.hidden_size, settings.num_attention_heads
    head_dim = getattr(settings, "head_dim", None) or hidden // heads
    queries, keys = heads * head_dim, settings.num_key_value_heads * head_dim
    numbers = 2 * queries + 2 * keys + 2 * settings.intermediate_size
    if config.adapter.kind != "full":
        numbers += 7 * config.adapter.rank
    layer = element * numbers + 2 * plain.layer_input + 4 * heads  # the log-sum-exp is float32
    return Stored(plain.layers, float(layer), plain.layer_input, plain.rest, 0.0)


def _frozen_weights(model: nn.Module) -> list[Tensor]:
    """Return the weights of frozen linear layers without the head: what is quantised where something is."""
    head = model.get_output_embeddings()  # type: ignore[operator]
    found = [part for part in model.modules() if isinstance(part, (nn.Linear, Conv1D)) and part is not head]
    weights: list[Tensor] = [part.weight for part in found]
    return [weight for weight in weights if not weight.requires_grad]


def _weight_bytes(model: nn.Module, config: Config) -> int:
    """Return the bytes of all weights as they will lie in memory, with the scratch that quantised ones need."""
    whole = sum(p.numel() * p.element_size() for p in (*model.parameters(), *model.buffers()))
    linears = _frozen_weights(model)
    if not linears or not (config.train.fp8 or config.adapter.kind == "qlora"):
        return whole
    numbers, before = sum(w.numel() for w in linears), sum(w.numel() * w.element_size() for w in linears)
    if config.adapter.kind == "qlora":
        scratch = 2 * 2 * max(w.numel() for w in linears)  # gate and up are unpacked together, to 16 bits
        return whole - before + round(numbers * NF4_BYTES) + scratch
    return whole - before + 2 * numbers  # 8 bits, once for each direction


def _score_bytes(settings: Any, config: Config) -> float:
    """Return the bytes that one layer's attention stores for each pair of tokens; fused attention stores none."""
    if not getattr(settings, "attn_logit_softcapping", None):
        return 0.0
    return float(settings.num_attention_heads * (2 * _element(config) + 4))


def _head(model: nn.Module, config: Config) -> Head:
    weight = model.get_output_embeddings().weight  # type: ignore[operator]
    fused = config.device == "cuda" and config.train.kernels != "plain"
    return Head(
        width=int(weight.shape[1]),
        vocabulary=int(weight.shape[0]),
        element=_element(config),
        weight_element=weight.element_size(),
        trains=bool(weight.requires_grad),
        room=2**30 if fused else 2**26,
        beside=0 if fused else (8 if _element(config) == 2 else 4),  # a copy, in float32 where they are shorter
        compared=CUDA_BYTES if config.device == "cuda" else CPU_BYTES,
    )
