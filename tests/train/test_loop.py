"""The loop does what plain torch does on the same rows, and stops before an update that would break the model."""

from __future__ import annotations

import copy
import math
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from attune.config import TrainConfig
from attune.data.batch import to_batch
from attune.data.corpus import Corpus
from attune.errors import TrainingError
from attune.model.attention import AttentionChoice, set_attention
from attune.model.loss import loss_sums
from attune.train.feed import Step
from attune.train.loop import NotFiniteError, train_steps
from attune.train.metrics import FlosCounter, Meter
from attune.train.optim import build_optimizer
from attune.types import StepRecord
from attune.world import World
from tests.tiny import flat_batch, make_corpus, make_model, make_rows

LENGTHS = [5, 11, 3, 17]
PLACES = [f"rows.jsonl:{line}" for line in (1, 2, 3, 4, 5)]


def learn(model: torch.nn.Module, corpus: Corpus, **options: Any) -> list[StepRecord]:
    """Return the records of some steps, as `follow` yields them."""
    return list(follow(model, corpus, **options))


def follow(
    model: torch.nn.Module,
    corpus: Corpus,
    *,
    parts: Sequence[Sequence[int]] = ((0, 1, 2, 3),),
    clip: float = 1e9,
    rate: Callable[[int], float] = lambda step: 1.0,
    steps: int = 1,
    runs_ahead: Callable[[int], bool] = lambda step: False,
) -> Iterator[StepRecord]:
    """Yield the records of some steps over the same rows, with plain gradient descent (no momentum)."""
    batches = tuple(to_batch(corpus, part) for part in parts)
    made = (Step(number, number / 4, batches, lambda: PLACES) for number in range(1, steps + 1))
    return train_steps(
        model,
        torch.optim.SGD(model.parameters(), lr=0.0),
        made,
        learning_rate=rate,
        meter=Meter(FlosCounter.of(model), device=torch.device("cpu")),
        world=World(),
        seed=0,
        clip=clip,
        precision="float64",
        runs_ahead=runs_ahead,
    )


def moved(model: torch.nn.Module, start: torch.nn.Module) -> float:
    """Return how far the weights are from those of `start`."""
    pairs = zip(model.parameters(), start.parameters(), strict=True)
    return math.sqrt(sum(float((one - two).detach().square().sum()) for one, two in pairs))


def test_a_record_says_what_plain_torch_finds() -> None:
    """Loss and accuracy are means over all learned tokens of the step, the gradient norm is that of this mean."""
    corpus, model, plain = make_corpus(LENGTHS), make_model(), make_model()
    (record,) = learn(model, corpus, parts=[[0, 3], [1], [2]])
    batch = to_batch(corpus, [0, 1, 2, 3])
    sums = loss_sums(plain, batch)
    loss = sums.loss / sums.tokens
    gradients = torch.autograd.grad(loss, list(plain.parameters()))
    assert record.loss == pytest.approx(loss.item(), rel=1e-9)
    assert record.perplexity == pytest.approx(math.exp(loss.item()), rel=1e-9)
    assert record.accuracy == pytest.approx((sums.correct / sums.tokens).item())
    assert record.grad_norm == pytest.approx(math.sqrt(sum(float(g.square().sum()) for g in gradients)), rel=1e-6)
    assert (record.step, record.epoch, record.tokens) == (1, 0.25, sum(LENGTHS))
    assert record.learned_tokens == corpus.num_learned == int(sums.tokens)


def test_an_update_is_the_rate_times_the_gradient() -> None:
    """With plain descent the weights move by learning rate x gradient norm; the rate is that of each step."""
    model = make_model()
    records = learn(model, make_corpus(LENGTHS), rate=lambda step: 0.125 / step, steps=2)
    assert [record.learning_rate for record in records] == [0.125, 0.0625]
    once = make_model()
    (first,) = learn(once, make_corpus(LENGTHS), rate=lambda step: 0.125)
    assert moved(once, make_model()) == pytest.approx(0.125 * first.grad_norm, rel=1e-6)
    assert records[1].loss < records[0].loss


@pytest.mark.parametrize("clip", [0.5, 1e6])
def test_long_gradients_are_scaled_to_the_limit(clip: float) -> None:
    """A gradient over train.clip is shortened to it, a shorter one is left alone; the record keeps the norm it had."""
    model = make_model()
    (record,) = learn(model, make_corpus(LENGTHS), clip=clip)
    assert record.grad_norm > 1
    assert moved(model, make_model()) == pytest.approx(min(clip, record.grad_norm), rel=1e-5)


def test_operations_add_up_over_steps() -> None:
    """train_flos is cumulative: equal steps add equal amounts."""
    first, second, third = learn(make_model(), make_corpus(LENGTHS), rate=lambda step: 1e-3, steps=3)
    assert second.train_flos == 2 * first.train_flos > 0
    assert third.train_flos == 3 * first.train_flos


def test_only_the_ratio_of_weights_counts() -> None:
    """Rows that all weigh the same train as rows without weights; other weights give another mean."""
    corpus = make_corpus(LENGTHS)
    of_rows = np.repeat(np.array([1, 2, 1, 5], np.float32), corpus.lengths[:4])
    uneven_weights = np.ones(len(corpus.tokens), np.float32)
    uneven_weights[: len(of_rows)] = of_rows
    plain, tripled, uneven = (
        learn(make_model(), replace(corpus, weights=weights))[0]
        for weights in (None, np.full(len(corpus.tokens), 3, np.float32), uneven_weights)
    )
    assert tripled.loss == pytest.approx(plain.loss, rel=1e-9)
    assert tripled.grad_norm == pytest.approx(plain.grad_norm, rel=1e-6)
    assert abs(uneven.loss - plain.loss) > 1e-4


def test_the_next_step_may_be_launched_before_a_record() -> None:
    """All records are those of a loop that waits; where it may run ahead, the weights are one step further."""
    corpus, rate = make_corpus(LENGTHS), 1e-2
    waits, runs = make_model(), make_model()
    records = follow(runs, corpus, rate=lambda step: rate, steps=5, runs_ahead=lambda step: step != 3)
    after: list[torch.nn.Module] = []
    plain = []
    for record in follow(waits, corpus, rate=lambda step: rate, steps=5):
        plain.append(record)
        after.append(copy.deepcopy(waits))
    for number, record in enumerate(records, 1):
        stands_at = number if number in {3, 5} else number + 1
        assert moved(runs, after[stands_at - 1]) == 0, f"at record {number}"
        assert replace(record, tokens_per_s=0, memory_gb=0) == replace(plain[number - 1], tokens_per_s=0, memory_gb=0)
    assert number == 5


def test_a_fault_comes_after_the_record_before_it() -> None:
    """What goes wrong while a step is launched is raised when the step before it has been told."""
    model, corpus = make_model(), make_corpus(LENGTHS)

    def rate(step: int) -> float:
        if step == 3:
            raise TrainingError("no rate")
        return 1e-2

    told: list[int] = []
    with pytest.raises(TrainingError, match="no rate"):
        told.extend(record.step for record in follow(model, corpus, rate=rate, steps=4, runs_ahead=lambda step: True))
    assert told == [1, 2]


def test_a_loss_that_is_not_a_number_is_found_when_the_next_step_runs() -> None:
    """The record that went wrong is named, not the one that was launched meanwhile."""
    model, corpus = make_model(), make_corpus(LENGTHS)
    records = follow(model, corpus, rate=lambda step: math.inf if step == 2 else 1e-2, steps=6, runs_ahead=bool)
    with pytest.raises(NotFiniteError, match="step 3: loss nan") as caught:
        list(records)
    assert caught.value.record.step == 3


def test_a_loss_that_is_not_a_number_stops_before_the_update() -> None:
    """Exit code 5, the step, the rows and the next step to take are named; no weight and no moment was touched."""
    model = make_model()
    start = {name: weight.clone() for name, weight in model.state_dict().items()}
    with torch.no_grad():
        model.get_output_embeddings().weight[7] = math.nan
    with pytest.raises(TrainingError) as caught:
        learn(model, make_corpus(LENGTHS), steps=3)
    text = str(caught.value)
    assert caught.value.exit_code == 5
    assert text.startswith("step 1: loss nan, gradient norm nan; nothing was updated with it.")
    assert all(place in text for place in PLACES[:4])
    assert PLACES[4] not in text
    assert "Lower train.learning_rate" in text
    assert len(text.splitlines()) <= 6
    changed = {name for name, weight in model.state_dict().items() if not torch.equal(weight, start[name])}
    assert changed == {"lm_head.weight"}, "only the weight that was broken on purpose differs"


def test_a_gradient_that_is_not_finite_stops_too() -> None:
    """A finite loss does not hide an infinite gradient."""
    model = make_model()
    model.get_input_embeddings().weight.register_hook(lambda gradient: gradient * math.inf)
    with pytest.raises(TrainingError, match=r"step 1: loss \d+\.\d+, gradient norm (nan|inf)"):
        learn(model, make_corpus(LENGTHS))
    assert moved(model, make_model()) == 0


def test_a_loss_that_is_infinite_stops_too() -> None:
    """A loss can be infinite while its gradient is not (a token that the model rules out): nothing is updated."""
    model = make_model()
    bias = torch.zeros(61, dtype=torch.float64)
    bias[int(make_corpus(LENGTHS).tokens[4])] = -math.inf
    model.lm_head.bias = torch.nn.Parameter(bias, requires_grad=False)
    with pytest.raises(TrainingError, match="step 1: loss inf"):
        learn(model, make_corpus(LENGTHS))
    del model.lm_head.bias
    start = dict(make_model().named_parameters())
    assert all(torch.equal(weight, start[name]) for name, weight in model.named_parameters())


def test_a_step_without_learned_tokens_is_told() -> None:
    """Zero learned tokens give no mean: the step is refused like any number that went wrong."""
    tokens, targets = make_rows([5])[0]
    batch = flat_batch([(tokens, torch.full_like(targets, -100))])
    model = make_model()
    steps = [Step(1, 1.0, (batch,), lambda: PLACES[:1])]
    with pytest.raises(TrainingError, match="step 1: loss nan"):
        list(
            train_steps(
                model,
                torch.optim.SGD(model.parameters(), lr=0.0),
                steps,
                learning_rate=lambda step: 1.0,
                meter=Meter(FlosCounter.of(model), device=torch.device("cpu")),
                world=World(),
                seed=0,
                clip=1.0,
                precision="float64",
            )
        )


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_on_cuda_nothing_in_a_step_waits_for_the_device() -> None:
    """Torch counts no wait in a step, however many micro-batches it has: only its numbers are waited for."""
    device = torch.device("cuda")
    model = make_model(dtype=torch.bfloat16).to(device).train()
    set_attention(model, AttentionChoice("varlen", "test"))
    batches = tuple(to_batch(make_corpus(LENGTHS), part) for part in ([0, 3], [1], [2]))
    records = train_steps(
        model,
        build_optimizer(model, TrainConfig()),
        (Step(number, 0.0, batches) for number in range(1, 7)),
        learning_rate=lambda step: 1e-4,
        meter=Meter(FlosCounter.of(model), device=device),
        world=World(device=device),
        seed=0,
        clip=1.0,
        precision="bfloat16",
    )
    next(records)  # the first step makes the optimizer's state and tries the head out
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        torch.cuda.set_sync_debug_mode("warn")
        try:
            next(records)
        finally:
            torch.cuda.set_sync_debug_mode("default")
    waits = [f"{one.filename}:{one.lineno}" for one in caught if "called a synchronizing" in str(one.message)]
    assert not waits, waits
    assert len(list(records)) == 4
