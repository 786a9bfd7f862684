"""The numbers of a step: operations against a count by hand and torch's own counter, speed by the clock."""

from __future__ import annotations

import math

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from attune.config import AdapterConfig
from attune.evals.heldout import perplexity
from attune.model.adapter import attach_adapter
from attune.model.loss import loss_sums
from attune.train.metrics import Counts, FlosCounter, Meter, memory_gb
from attune.types import StepRecord
from tests.tiny import CONFIGS, flat_batch, make_model, make_rows

CPU = torch.device("cpu")
# The tiny Llama: width 32, 4 heads of 8 with 2 key heads, 48 inside, 2 layers, 61 tokens.
LAYER = 32 * 32 + 32 * 16 + 32 * 16 + 32 * 32 + 3 * 32 * 48  # queries, keys, values, output, and the three of the MLP
HEAD = 61 * 32
# Rows of 5 and 3 tokens; tests/tiny.py learns the second half of a row: 2 tokens and 1.
TOKENS, LEARNED, PAIRS = 5 + 3, 2 + 1, (1 + 2 + 3 + 4 + 5) + (1 + 2 + 3)
ATTENTION = 2 * 2 * 32 * 2 * PAIRS  # two products of 2 operations, 32 wide, in 2 layers, for every pair


def test_full_training_of_a_tiny_llama_by_hand() -> None:
    """Every weight and pair counts forward once and backward twice."""
    batch = flat_batch(make_rows([5, 3]))
    forward = 2 * TOKENS * 2 * LAYER + 2 * LEARNED * HEAD + ATTENTION
    assert FlosCounter.of(make_model()).count([batch]) == 3 * forward


def test_lora_of_a_tiny_llama_by_hand() -> None:
    """Frozen weights count forward once and backward once; the matrices backward twice; the head has none."""
    batch = flat_batch(make_rows([5, 3]))
    model = attach_adapter(make_model(), AdapterConfig(kind="lora", rank=4), seed=0, base="b")
    # rank x (inputs + outputs) of queries, keys, values, output, gate, up and down
    matrices = 2 * 4 * ((32 + 32) + (32 + 16) + (32 + 16) + (32 + 32) + 3 * (32 + 48))
    frozen = 2 * 2 * (TOKENS * 2 * LAYER + LEARNED * HEAD)
    trained = 3 * 2 * TOKENS * matrices
    assert FlosCounter.of(model).count([batch]) == frozen + trained + 3 * ATTENTION


@pytest.mark.parametrize("name", CONFIGS)
def test_linear_layers_agree_with_torchs_counter(name: str) -> None:
    """What torch counts while it trains on the batch, but for attention, is what we count without training."""
    model, batch = make_model(name), flat_batch(make_rows([9, 4]))
    loss_sums(model, batch)  # the first call tries the model's head out
    with FlopCounterMode(display=False) as counter:
        loss_sums(model, batch).loss.backward()
    by_torch = counter.get_flop_counts()["Global"]
    linear = sum(count for operation, count in by_torch.items() if operation.__name__ in {"mm", "addmm"})
    ours = FlosCounter.of(model)
    pairs = 9 * 10 // 2 + 4 * 5 // 2
    assert ours.count([batch]) == linear + 12 * ours.attention * pairs


def test_batches_add_up() -> None:
    """Rows in one micro-batch or in several are the same work."""
    rows = make_rows([9, 4, 6])
    counter = FlosCounter.of(make_model())
    assert counter.count([flat_batch(rows)]) == counter.count([flat_batch([row]) for row in rows])


def record(meter: Meter, step: int) -> StepRecord:
    """Return the record of a step of 8 tokens."""
    counts = Counts.of([flat_batch(make_rows([5, 3]))])
    return meter.record(step, 0.5, counts, loss=1.0, accuracy=0.5, learning_rate=0.1, grad_norm=2.0)


def test_speed_is_that_of_the_step_alone() -> None:
    """Tokens per second are positions over the time since the step began; validating and saving do not count."""
    now = [100.0]
    meter = Meter(FlosCounter.of(make_model()), device=CPU, clock=lambda: now[0])
    now[0] = 102.0
    first = record(meter, 1)
    assert (first.tokens, first.learned_tokens, first.tokens_per_s) == (8, 3, 4.0)
    now[0] = 200.0  # a validation
    meter.restart_clock()
    now[0] = 200.5
    assert record(meter, 2).tokens_per_s == 16.0


def test_what_is_not_known_is_not_guessed() -> None:
    """A CPU has no peak, so no share of it; memory is this process's own."""
    meter = Meter(FlosCounter.of(make_model()), device=CPU, flos=7.0)
    made = record(meter, 1)
    assert made.mfu is None
    assert 0.05 < made.memory_gb <= memory_gb(CPU) < 1000
    assert made.train_flos == 7.0 + FlosCounter.of(make_model()).count([flat_batch(make_rows([5, 3]))])


def test_perplexity_of_a_huge_loss_is_infinite() -> None:
    """e^loss overflows to infinity instead of ending the run."""
    assert perplexity(1.0) == math.e
    assert perplexity(1e6) == math.inf
