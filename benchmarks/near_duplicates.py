"""Near-duplicates that were planted: how many are found, how many innocent rows are flagged, and what it costs.

python benchmarks/near_duplicates.py [--rows 10000] [--speed 20000,100000]
Beside `attune` stands the usual setting of other tools: MinHash of 5-word shingles, Jaccard 0.7, no template filter.
Exit code 1 when precision is below 0.98 or recall below 0.95 where both are promised.
"""

from __future__ import annotations

import argparse
import random
import resource
import sys
import time
from collections.abc import Iterator, Sequence
from itertools import chain

import numpy as np
import xxhash
from numpy.typing import NDArray

from attune.data.duplicates.near import find_clusters
from attune.data.duplicates.sketch import find_candidates, sketch
from attune.data.duplicates.words import WordStore
from attune.data.lint.view import view
from attune.types import Example, Message, Place

PLANTED = 118
LABELS = ("refund", "delivery", "complaint")
Row = tuple[str, str]  # question, answer; plain text where the answer is empty
Set = tuple[list[Row], dict[int, int]]  # rows, and which are planted: copy -> original


def vocabulary(size: int, rng: random.Random) -> list[str]:
    """Return made-up words, each once."""
    syllables = [consonant + vowel for consonant in "bdfgklmnprstvz" for vowel in "aeiou"]
    words: dict[str, None] = {}
    while len(words) < size:
        words["".join(rng.choices(syllables, k=rng.randint(2, 4)))] = None
    return list(words)


def plant(rows: list[Row], changes: int, words: Sequence[str], rng: random.Random, *, first: int = 0) -> Set:
    """Put copies of random rows at random places, each with some words of its question changed, from `first` on."""
    copies: list[tuple[Row, int]] = []
    for origin in rng.sample(range(len(rows)), PLANTED):
        question = rows[origin][0].split()
        for at in rng.sample(range(first, len(question)), changes):
            question[at] = rng.choice([word for word in words[:50] if word != question[at]])
        copies.append(((" ".join(question), rows[origin][1]), origin))
    tagged: list[tuple[Row, int, int]] = [(row, number, -1) for number, row in enumerate(rows)]
    tagged += [(row, -1, origin) for row, origin in copies]
    rng.shuffle(tagged)
    where = {number: at for at, (_, number, _) in enumerate(tagged) if number >= 0}
    return [row for row, _, _ in tagged], {at: where[origin] for at, (_, _, origin) in enumerate(tagged) if origin >= 0}


def templated(num_rows: int, changes: int, size: int, *, labels: Sequence[str], rng: random.Random) -> Set:
    """Return rows of a 55-word instruction, 12 words of their own out of `size` and a label."""
    words = vocabulary(size, rng)
    instruction = " ".join(rng.choices(vocabulary(200, rng), k=55))
    rows = [(f"{instruction} {' '.join(rng.choices(words, k=12))}", rng.choice(labels)) for _ in range(num_rows)]
    return plant(rows, changes, words, rng, first=55)


def prose(num_rows: int, changes: int, rng: random.Random) -> Set:
    """Return rows of a 50-word question and a 100-word answer, of words as frequent as in a language (Zipf)."""
    words = vocabulary(20_000, rng)
    weights = np.cumsum([1 / rank for rank in range(1, len(words) + 1)]).tolist()
    rows = []
    for _ in range(num_rows):
        drawn = rng.choices(words, cum_weights=weights, k=150)
        rows.append((" ".join(drawn[:50]), " ".join(drawn[50:])))
    return plant(rows, changes, words, rng)


def one_document(num_rows: int, rng: random.Random) -> Set:
    """Return rows of which ten each ask other things about one 200-word document: none repeats another."""
    words = vocabulary(5000, rng)
    rows: list[Row] = []
    while len(rows) < num_rows:
        document = " ".join(rng.choices(words, k=200))
        rows += [(f"{document} {' '.join(rng.choices(words, k=8))}?", rng.choice(LABELS)) for _ in range(10)]
    return rows, {}


def store_of(rows: Sequence[Row]) -> WordStore:
    """Return rows as the check takes them in."""
    store = WordStore()
    for number, (question, answer) in enumerate(rows):
        place = Place("made", number + 1, 0)
        messages = (Message("user", question), Message("assistant", answer))
        store.take(view(number, Example(place, messages) if answer else Example(place, text=question)))
    return store


def usual(rows: Sequence[Row]) -> NDArray[np.int64]:
    """Return the rows that 5-word shingles and Jaccard 0.7 would remove: those like an earlier row."""
    sets = []
    for question, answer in rows:
        words = f"{question} {answer}".lower().split()
        runs = (" ".join(words[at : at + 5]) for at in range(max(1, len(words) - 4)))
        sets.append(frozenset(xxhash.xxh32_intdigest(run.encode()) for run in runs))
    bounds = np.concatenate((np.zeros(1, np.int64), np.cumsum([len(runs) for runs in sets])))
    shingles = np.fromiter(chain.from_iterable(sets), np.uint32, int(bounds[-1]))
    pairs = find_candidates(sketch(shingles, bounds), np.arange(len(rows))).tolist()
    alike = {b for a, b in pairs if len(sets[a] & sets[b]) >= 0.7 * len(sets[a] | sets[b])}
    return np.array(sorted(alike), dtype=np.int64)


def score(flagged: NDArray[np.int64], planted: dict[int, int]) -> tuple[float, float]:
    """Return precision and recall; of a planted pair either row may be the one that is flagged."""
    pairs = {row: (row, origin) for row, origin in planted.items()} | {o: (r, o) for r, o in planted.items()}
    right = {pairs[row] for row in flagged.tolist() if row in pairs}
    wrong = sum(row not in pairs for row in flagged.tolist())
    return len(right) / max(1, len(right) + wrong), len(right) / max(1, len(planted))


def cases(num_rows: int) -> Iterator[tuple[str, Set, bool]]:
    """Yield each set with its name and whether precision and recall are promised for it."""
    for size in (20_000, 500, 50, 20):
        made = templated(num_rows, 1, size, labels=("",), rng=random.Random(1))
        yield f"template, 1 of 12 words, vocabulary {size}", made, True
    made = templated(num_rows, 1, 500, labels=LABELS, rng=random.Random(1))
    yield "the same, and one of three labels", made, True
    made = templated(num_rows, 2, 500, labels=("",), rng=random.Random(2))
    yield "template, 2 of 12 words, vocabulary 500", made, False
    yield "prose, 4 of 150 words (3 %)", prose(num_rows, 4, random.Random(3)), True
    yield "one document, other questions", one_document(num_rows, random.Random(4)), True


def measure_quality(num_rows: int) -> bool:
    """Print precision and recall; return whether all promises are kept."""
    print(f"{'':44}{'attune':>24}{'5-word shingles, 0.7':>26}")
    print(f"{'':44}{'flagged':>8}{'prec.':>8}{'recall':>8}{'flagged':>10}{'prec.':>8}{'recall':>8}")
    kept = True
    for name, (rows, planted), is_promised in cases(num_rows):
        store = store_of(rows)
        ours = np.flatnonzero(find_clusters(store).cluster_of != np.arange(len(rows)))
        theirs = usual(rows)
        precision, recall = score(ours, planted)
        if not planted:
            kept &= len(ours) <= 0.005 * len(rows)
            print(f"{name:44}{len(ours):8}{'':16}{len(theirs):10}")
            continue
        kept &= not is_promised or (precision >= 0.98 and recall >= 0.95)
        their_precision, their_recall = score(theirs, planted)
        print(
            f"{name:44}{len(ours):8}{precision:8.2f}{recall:8.2f}"
            f"{len(theirs):10}{their_precision:8.2f}{their_recall:8.2f}"
        )
    return kept


def measure_speed(sizes: Sequence[int]) -> None:
    """Print processor seconds for sets of 150 words a row, 1 % exact and 2 % near duplicates."""
    for num_rows in sizes:
        rng = random.Random(5)
        words = vocabulary(20_000, rng)
        weights = np.cumsum([1 / rank for rank in range(1, len(words) + 1)]).tolist()
        store, begun = WordStore(), 0.0
        recent: list[Row] = []
        for number in range(num_rows):
            drawn = rng.choices(words, cum_weights=weights, k=150)
            row = (" ".join(drawn[:50]), " ".join(drawn[50:]))
            lot = rng.random()
            if recent and lot < 0.03:
                row = rng.choice(recent) if lot < 0.01 else _changed(rng.choice(recent), words, rng)
            elif len(recent) < 1000:
                recent.append(row)
            messages = (Message("user", row[0]), Message("assistant", row[1]))
            taken = view(number, Example(Place("made", number + 1, 0), messages))
            at = time.process_time()
            store.take(taken)
            begun += time.process_time() - at
        at = time.process_time()
        found = find_clusters(store)
        search = time.process_time() - at
        repeats = int((found.cluster_of != np.arange(num_rows)).sum())
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
        print(
            f"{num_rows:9,} rows: {begun:6.1f} s words, {search:6.1f} s search, "
            f"{(begun + search) / num_rows * 1e6:5.1f} us a row, {repeats:,} repeats, peak {peak:.2f} GB"
        )


def _changed(row: Row, words: Sequence[str], rng: random.Random) -> Row:
    answer = row[1].split()
    for at in rng.sample(range(len(answer)), 3):
        answer[at] = rng.choice(words)
    return row[0], " ".join(answer)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=10_000)
    parser.add_argument("--speed", default="20000,100000", help="numbers of rows, with commas; empty: no timing")
    options = parser.parse_args()
    kept = measure_quality(options.rows) if options.rows else True
    measure_speed([int(size) for size in options.speed.split(",") if size])
    sys.exit(0 if kept else 1)


if __name__ == "__main__":
    main()
