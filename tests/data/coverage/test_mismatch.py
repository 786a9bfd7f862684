"""The comparison of training prompts with real ones: it fires on two topics and hardly ever on one."""

from __future__ import annotations

import json
import math
import random
from itertools import product
from pathlib import Path

import numpy as np
import pytest

from attune.bundled import tickets_folder
from attune.data.coverage.mismatch import (
    Mismatch,
    area_interval,
    area_under_curve,
    compare_prompts,
    find_mismatch,
    null_error,
)
from attune.types import Place

FRAME = "how do i what is the best way to can you tell me which one should we take with or without and for"
TOPICS = {
    "cooking": "soup bread oven salt pepper onion garlic butter flour sugar knife pan boil roast bake stir",
    "travel": "train hotel ticket flight visa border luggage museum beach guide map station airport delay",
}


def prompts(topic: str, count: int, seed: int = 0) -> list[str]:
    """Return different prompts of one topic, among words that all topics share."""
    draw, frame, own = random.Random(f"{topic} {seed}"), FRAME.split(), TOPICS[topic].split()
    texts = (" ".join(draw.choices(frame, k=6) + draw.choices(own, k=4)) for _ in range(count))
    return [f"{text} {number}?" for number, text in enumerate(texts)]


def places(count: int) -> list[Place]:
    """Return the places of so many prompts."""
    return [Place("real.jsonl", line, 0) for line in range(1, count + 1)]


def test_two_halves_of_one_set_do_not_fire() -> None:
    """Of 12 draws of two halves of one set none fires, and z is spread as its standard error says."""
    pool = prompts("cooking", 1000)
    found = []
    for draw in range(12):
        taken = random.Random(draw).sample(pool, 300)
        found.append(compare_prompts(taken[:150], taken[150:], seed=draw))
    assert {mismatch.verdict for mismatch in found} == {"alike"}
    spread = float(np.std([mismatch.z for mismatch in found if mismatch.z is not None]))
    assert 0.5 < spread < 1.6


@pytest.mark.parametrize("draw", range(5))
def test_a_mixture_of_two_topics_fires(draw: int) -> None:
    """Real prompts of which half are of another topic are a mismatch, and the other topic's words are named."""
    real = prompts("cooking", 150, seed=draw) + prompts("travel", 150, seed=draw)
    mismatch = compare_prompts(prompts("cooking", 300, seed=100 + draw), real, seed=draw)
    assert mismatch.verdict == "mismatch"
    assert {found.word for found in mismatch.words_real[:5]} <= set(TOPICS["travel"].split())
    assert all("travel" in _topic(real[prompt.at]) for prompt in mismatch.unlike)


def _topic(text: str) -> str:
    return next(name for name, words in TOPICS.items() if set(words.split()) & set(text.split()))


def test_the_bundled_real_prompts_are_worded_unlike_the_bundled_training_set() -> None:
    """The tickets' training prompts and its real prompts can be told apart every time."""
    folder = tickets_folder()
    train, real = (
        [json.loads(line)["prompt"] for line in (folder / name).read_text(encoding="utf-8").splitlines()]
        for name in ("train.jsonl", "real_prompts.jsonl")
    )
    mismatch = compare_prompts(train, real)
    assert mismatch.verdict == "strong mismatch"
    assert mismatch.auc is not None and mismatch.auc > 0.99
    assert mismatch.low is not None and mismatch.low < mismatch.auc  # the interval keeps a width
    assert mismatch.length_gap > 0.5
    finding = find_mismatch(mismatch, places(len(real)))
    assert (finding.id, finding.severity) == ("D11", "warning")
    assert finding.rows > 100
    assert finding.examples[0]["text"] == real[finding.examples[0]["line"] - 1]
    assert json.loads(json.dumps(mismatch.document()))["rows_real"] == len(real)


def test_few_prompts_are_not_judged() -> None:
    """With fewer than a hundred different prompts on a side there is no verdict, only a note that says so."""
    real = prompts("travel", 99)
    mismatch = compare_prompts(prompts("cooking", 300), real * 5)
    assert mismatch == Mismatch("too few prompts", 300, 99)
    finding = find_mismatch(mismatch, places(len(real)))
    assert finding.severity == "info"
    assert "99 different real prompts" in finding.message


def test_repeats_do_not_count() -> None:
    """Prompts that stand there many times, in other case or spacing, change nothing."""
    train, real = prompts("cooking", 200), prompts("travel", 200)
    again = [*real, *(text.upper().replace(" ", "  ") for text in real)]
    assert compare_prompts(train * 3, again).auc == compare_prompts(train, real).auc


def test_the_order_of_prompts_does_not_matter() -> None:
    """Shuffled prompts give the same figures."""
    train, real = prompts("cooking", 200), prompts("cooking", 200, seed=1)
    shuffled = random.Random(0).sample(train, len(train))
    assert compare_prompts(train, real).auc == compare_prompts(shuffled, real[::-1]).auc


def test_listed_prompts_are_not_all_the_same() -> None:
    """Of prompts that differ in a number only, one is listed."""
    real = [f"my train ticket to the beach number {number} is lost" for number in range(300)] + prompts("travel", 100)
    mismatch = compare_prompts(prompts("cooking", 300), real)
    assert sum("is lost" in prompt.text for prompt in mismatch.unlike) == 1


def test_weights_draw_training_prompts_that_are_like_the_real_ones() -> None:
    """A training prompt of the real prompts' topic weighs more than one of another, within the bounds."""
    train = prompts("cooking", 200) + prompts("travel", 200)
    mismatch = compare_prompts(train, prompts("travel", 200, seed=1))
    weights = np.array(mismatch.weights)
    assert len(weights) == len(train)
    assert weights.min() >= 0.2 and weights.max() <= 5
    assert weights[200:].mean() > 1.5 * weights[:200].mean()


def test_area_under_curve_counts_pairs() -> None:
    """The AUC is the share of pairs in order, equal ones half."""
    draw = np.random.default_rng(0)
    one, other = draw.integers(0, 5, 30).astype(float), draw.integers(0, 5, 40).astype(float)
    counted = np.mean([(a > b) + 0.5 * (a == b) for a, b in product(one, other)])
    assert area_under_curve(one, other) == pytest.approx(counted)


def test_interval_covers_and_keeps_a_width() -> None:
    """The interval holds the measured value, is as wide as twice the null error at 0.5, and does not vanish at 1."""
    low, high = area_interval(0.5, 100, 100)
    assert low < 0.5 < high
    assert (high - low) / 2 == pytest.approx(1.96 * null_error(100, 100), rel=0.05)
    low, high = area_interval(1.0, 50, 50)
    assert high == pytest.approx(1.0)
    assert 0.9 < low < 0.99
    assert null_error(50, 50) == pytest.approx(math.sqrt(101 / (12 * 2500)))


def test_topics_of_real_data_differ(shared: Path) -> None:
    """Questions about sums are unlike questions to a bank; two halves of the bank's are alike."""
    lines = (shared / "data/sft/gsm8k_test.jsonl").read_text(encoding="utf-8").split("\n")
    sums = [json.loads(line)["question"] for line in lines if line]
    lines = (shared / "data/sft/banking77_test.csv").read_text(encoding="utf-8").splitlines()[1:]
    bank = [line.rsplit(",", 1)[0] for line in lines]
    random.Random(0).shuffle(bank)
    assert compare_prompts(sums[:500], bank[:500]).verdict == "strong mismatch"
    assert compare_prompts(bank[:500], bank[500:1000]).verdict == "alike"
