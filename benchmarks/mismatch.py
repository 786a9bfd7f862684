"""How often the mismatch alarm is wrong: two halves of one set must not fire, a mixture of two topics must.

For every file, its prompts are drawn anew `--draws` times and cut into two halves, of several sizes: the alarm may fire
at most 5 times in 100 draws. Then training prompts of one file are compared with real prompts of which a share comes
from another file. Without files, prompts of two made-up topics take their place.
Run: python benchmarks/mismatch.py [FILE ...] [--draws 100]; exit code 1 where a promise is broken.
"""

from __future__ import annotations

import argparse
import itertools
import random
import sys
import time
from collections.abc import Sequence

import numpy as np

from attune.config import Config
from attune.data.coverage.mismatch import compare_prompts
from attune.data.lint.view import view
from attune.data.reading.intake import read_examples

SIZES = (100, 300, 1000)  # prompts on each side
MOST_FALSE = 0.05  # of the draws
SHARES = (0.25, 0.5, 1.0)  # of the real prompts that are of another topic
CERTAIN_SHARE = 0.5  # from here on the alarm must fire in every draw,
CERTAIN_SIZE = 300  # with so many prompts on each side

TOPICS = {
    "cooking": "soup bread oven salt pepper onion garlic butter flour sugar knife pan boil roast bake stir taste",
    "travel": "train hotel ticket flight visa border luggage museum beach guide map station airport delay seat booking",
}
FRAME = "how do i what is the best way to can you tell me which one should we take with or without and for my next"


def made_up(topic: str, count: int) -> list[str]:
    """Return prompts of one topic: words of their own among words that all topics share."""
    draw = random.Random(topic)
    own = TOPICS[topic].split()
    return [
        " ".join(draw.choices(FRAME.split(), k=8) + draw.choices(own, k=4)) + f" {number}?" for number in range(count)
    ]


def read_prompts(path: str) -> list[str]:
    """Return the questions of a file in any layout that attune reads."""
    examples = read_examples(path, Config().data)
    prompts = [view(number, example).question for number, example in enumerate(examples)]
    return [prompt for prompt in prompts if prompt.strip()]


def count_alarms(draws: Sequence[tuple[list[str], list[str]]]) -> tuple[int, float, float, float]:
    """Return how many draws fire, the mean AUC, the standard deviation of z (1 when calibrated), seconds per draw."""
    start = time.perf_counter()
    found = [compare_prompts(train, real, seed=number) for number, (train, real) in enumerate(draws)]
    seconds = (time.perf_counter() - start) / len(draws)
    judged = np.array([(mismatch.auc, mismatch.z) for mismatch in found if mismatch.auc is not None], dtype=np.float64)
    if not len(judged):
        return 0, float("nan"), float("nan"), seconds
    fired = sum(mismatch.verdict in {"mismatch", "strong mismatch"} for mismatch in found)
    return fired, float(judged[:, 0].mean()), float(judged[:, 1].std()), seconds


def table_line(name: str, sizes: str, counted: tuple[int, float, float, float], draws: int) -> str:
    """Return one line of the table."""
    fired, auc, spread, seconds = counted
    return f"{name:28s} {sizes}  {fired:4d} of {draws}  {auc:6.3f}  {spread:6.2f}  {seconds:6.2f} s"


def one_set(name: str, prompts: list[str], draws: int) -> bool:
    """Print how often two halves of one set fire; return whether that is rare enough."""
    kept = True
    for size in SIZES:
        # A fifth more than the size, so that the fewest allowed stay after prompts that are equal are counted once.
        if len(prompts) < 2.4 * size:
            continue
        taken = [random.Random(draw).sample(prompts, int(2.4 * size)) for draw in range(draws)]
        counted = count_alarms([(rows[: len(rows) // 2], rows[len(rows) // 2 :]) for rows in taken])
        kept &= counted[0] <= MOST_FALSE * draws
        print(table_line(f"{name:.28s}", f"{size:6d}      -", counted, draws))
    return kept


def mixed(names: tuple[str, str], own: list[str], other: list[str], draws: int) -> bool:
    """Print how often real prompts fire of which a share is of another topic; return whether it is often enough."""
    kept = True
    for least, share in itertools.product(SIZES, SHARES):
        size = least + least // 5
        strange = int(share * size)
        if len(own) < 2 * size - strange or len(other) < strange:
            continue
        taken = []
        for draw in range(draws):
            dice = random.Random(draw)
            rows = dice.sample(own, 2 * size - strange)
            taken.append((rows[:size], rows[size:] + dice.sample(other, strange)))
        counted = count_alarms(taken)
        if least >= CERTAIN_SIZE and share >= CERTAIN_SHARE:
            kept &= counted[0] == draws
        name = f"{names[0]:.13s} + {names[1]:.12s}"
        print(table_line(name, f"{least:6d}  {share:5.2f}", counted, draws))
    return kept


def main() -> int:
    """Print the table of alarms; return 1 where a promise is broken."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("files", nargs="*")
    parser.add_argument("--draws", type=int, default=100)
    arguments = parser.parse_args()
    sets = {path.replace("\\", "/").rsplit("/", 1)[-1]: read_prompts(path) for path in arguments.files}
    sets = sets or {topic: made_up(topic, 3000) for topic in TOPICS}
    print("prompts of                    each side  other  alarms      mean AUC  sd of z  a draw")
    kept = [one_set(name, prompts, arguments.draws) for name, prompts in sets.items()]
    pairs = itertools.pairwise(sets.items())
    kept += [mixed((one, two), own, other, arguments.draws) for (one, own), (two, other) in pairs]
    print("kept" if all(kept) else "BROKEN: more false alarms than 5 in 100, or a mixture that was missed")
    return 0 if all(kept) else 1


if __name__ == "__main__":
    sys.exit(main())
