"""Duplicates: what repeats an earlier row, and what only looks like it."""

from __future__ import annotations

import random
from dataclasses import replace
from itertools import combinations
from pathlib import Path

import numpy as np
import pytest

from attune.data.duplicates.near import Duplicates, find_clusters, found
from attune.data.duplicates.shingles import Common, Spans, find_common, gather, row_spans, shingles_at
from attune.data.duplicates.shingles import jaccard as fast_jaccard
from attune.data.duplicates.sketch import BANDS, LARGE_BUCKET, NEIGHBOURS, find_candidates, sketch
from attune.data.lint.thresholds import DEFAULT
from attune.types import Example
from tests.data.duplicates.real import load
from tests.data.duplicates.rows import changed, chat, place_of, prose, store_of, text


def repeats(examples: list[Example]) -> dict[int, int]:
    """Each row that is in a cluster with an earlier one, and that one."""
    of = find_clusters(store_of(examples)).cluster_of.tolist()
    return {row: first for row, first in enumerate(of) if row != first}


def test_exact_copies_name_the_first_row() -> None:
    """Case and spacing make no other row."""
    rows = [chat("Hello there", "Hi"), chat("Bye now", "Bye"), chat("hello  there", "hi"), chat("Hello there", "Hi")]
    assert find_clusters(store_of(rows)).exact_of.tolist() == [0, 1, 0, 0]


@pytest.mark.parametrize("vocabulary", [30, 3000])
def test_a_changed_word_is_found_behind_a_long_template(vocabulary: int) -> None:
    """Rows that share 55 of 67 words are near-duplicates only if the rest agrees, wherever the changed word stands."""
    rng = random.Random(1)
    instruction, words = prose(rng, 55), [f"w{prose(rng, 1)}" for _ in range(vocabulary)]
    rows = [chat(f"{instruction} {' '.join(rng.choices(words, k=12))}", "done") for _ in range(600)]
    planted = {600 + place: place * 7 for place in range(12)}
    rows += [chat(changed(rows[of].messages[0].content, [55 + at]), "done") for at, of in enumerate(planted.values())]
    assert repeats(rows) == planted


def test_prose_with_a_few_changed_words_is_found() -> None:
    """Four words of 150 changed, in the question and in the answer."""
    rng = random.Random(2)
    rows = [chat(prose(rng, 50), prose(rng, 100)) for _ in range(300)]
    question, answer = (message.content for message in rows[17].messages)
    rows.append(chat(changed(question, [3, 40]), changed(answer, [20, 77])))
    assert repeats(rows) == {300: 17}


def test_another_question_about_the_same_document_is_no_duplicate() -> None:
    """A shared document of 200 words does not make rows equal when they ask other things, even if both say yes."""
    rng = random.Random(3)
    rows = []
    for _ in range(30):
        document = prose(rng, 200)
        rows += [chat(f"{document}\n\nIs it true that {prose(rng, 6)}?", "yes") for _ in range(2)]
        rows += [chat(f"{document}\n\nWhat is it?", answer) for answer in ("a horse", "a fish")]
    assert repeats(rows) == {}


def test_other_numbers_make_another_row() -> None:
    """A sum with other figures is another exercise; so is an answer with another figure."""
    rng = random.Random(4)
    story = prose(rng, 25)
    rows = [chat(f"{story} {a} apples and 3 pears", f"there are {a + 3} of them") for a in (2, 5, 9)]
    assert repeats(rows) == {}


def test_short_answers_must_agree() -> None:
    """Almost the same question with another label is no duplicate."""
    question = prose(random.Random(5), 30)
    rows = [chat(question, "refund"), chat(changed(question, [9]), "delivery"), chat(changed(question, [8]), "Refund.")]
    assert repeats(rows) == {2: 0}


def test_other_tools_make_another_row() -> None:
    """The same talk with other tools teaches something else."""
    row = chat(prose(random.Random(6), 30), "I cannot do that")
    other = Example(row.place, row.messages, tools=({"name": "book"},))
    assert repeats([row, other, row]) == {2: 0}


def test_rows_of_common_words_alone_repeat_only_what_has_the_same_words() -> None:
    """Where the template leaves nothing, all words must agree."""
    rows = [chat(f"Translate into French, please: {word}", "done") for word in ("cat", "dog", "cow")] * 20
    rows.append(chat("Translate into French, please - cat!", "done."))
    assert repeats(rows) == {row: row % 3 if row < 60 else 0 for row in range(3, 61)}


def test_plain_text_is_compared_as_a_whole() -> None:
    """Text without turns has near-duplicates, too."""
    rng = random.Random(7)
    rows = [text(prose(rng, 80)) for _ in range(50)]
    rows.append(text(changed(rows[4].text or "", [30])))
    assert repeats(rows) == {50: 4}


def test_large_groups_of_equal_words_cost_little() -> None:
    """A bucket of thousands of rows is compared along its neighbours: the number of pairs stays linear."""
    bands = np.zeros((25, 5000), np.uint64)
    assert len(find_candidates(bands, np.arange(5000))) <= 6 * 5000


def test_candidates_agree_with_exact_similarity() -> None:
    """Pairs of Jaccard 0.8 and more are candidates, all of them; datasketch's estimate agrees with the sketches."""
    datasketch = pytest.importorskip("datasketch")
    rng = random.Random(8)
    rows = [text(prose(rng, 40)) for _ in range(60)]
    rows += [text(changed(row.text or "", [5])) for row in rows[:30]]
    store = store_of(rows)
    words = store.words()
    numbers = np.arange(len(rows))
    positions, bounds = gather(row_spans(words, numbers))
    shingles = shingles_at(words, positions)
    pairs = {(int(a), int(b)) for a, b in find_candidates(sketch(shingles, bounds), numbers)}
    sets = [set(shingles[bounds[row] : bounds[row + 1]].tolist()) for row in numbers]
    exact = {pair for pair in combinations(range(len(rows)), 2) if jaccard(sets, pair) >= 0.8}
    assert len(exact) == 30
    assert exact <= pairs
    oracle = datasketch.MinHashLSH(threshold=0.7, num_perm=128)
    hashes = [datasketch.MinHash(num_perm=128) for _ in rows]
    for row, minhash in enumerate(hashes):
        minhash.update_batch([shingle.to_bytes(4, "little") for shingle in sets[row]])
        oracle.insert(row, minhash)
    theirs = {(min(a, b), max(a, b)) for a, minhash in enumerate(hashes) for b in oracle.query(minhash) if a != b}
    assert theirs <= pairs


def jaccard(sets: list[set[int]], pair: tuple[int, int]) -> float:
    """The share of common members."""
    a, b = (sets[row] for row in pair)
    return len(a & b) / len(a | b)


@pytest.mark.parametrize("is_single", [True, False])
def test_likeness_is_that_of_plain_sets(*, is_single: bool) -> None:
    """Whatever spans are paired, and however often, weights of shared and of all shingles are summed as over sets."""
    rng = random.Random(5)
    task = prose(rng, 8)
    asked = [f"{task if row % 3 else ''} {prose(rng, rng.randint(3, 40))}" for row in range(80)]
    words = store_of([chat(question, prose(rng, 2)) for question in asked]).words()
    common = find_common(words, np.arange(80), replace(DEFAULT, common_fewest_rows=3))
    assert len(common.shingles)
    rows = np.array([[rng.randrange(80), rng.randrange(80)] for _ in range(400)])
    cuts = np.array([[rng.randrange(4), rng.randrange(4)] for _ in range(400)])
    a, b = (Spans(words.starts[rows[:, at]] + cuts[:, at], words.starts[rows[:, at] + 1]) for at in (0, 1))
    alike, union = fast_jaccard(words, a, b, None if is_single else common)
    for pair in range(400):
        one, other = (
            set((words.flat[at] if is_single else shingles_at(words, at)).tolist())
            for at in (np.arange(a.begins[pair], a.ends[pair]), np.arange(b.begins[pair], b.ends[pair]))
        )
        weights = {value: 1.0 if is_single else weight_of(common, value) for value in one | other}
        total, shared = sum(weights.values()), sum(weights[value] for value in one & other)
        assert union[pair] == pytest.approx(total)
        assert alike[pair] == pytest.approx(shared / total if total else 1.0)


def weight_of(common: Common, shingle: int) -> float:
    """The weight of one shingle."""
    return float(common.weigh(np.array([shingle], np.uint32))[0])


def test_pairs_of_large_buckets_are_those_of_each_bucket_alone() -> None:
    """Rows of a large bucket are paired with its first and with those that follow in the order of the next bands."""
    rng = np.random.default_rng(3)
    bands = rng.integers(0, 9, size=(BANDS, 300), dtype=np.uint64)
    bands[7:] = np.arange(300)  # no bucket of two there
    pairs: set[tuple[int, int]] = set()
    for number in range(7):
        for value in range(9):
            bucket = np.flatnonzero(bands[number] == value)
            assert len(bucket) > LARGE_BUCKET
            ordered = bucket[np.lexsort([bands[number + step][bucket] for step in (3, 2, 1)])].tolist()
            pairs |= {(ordered[0], row) for row in ordered[1:]}
            pairs |= {(ordered[at], row) for at in range(len(ordered)) for row in ordered[at + 1 : at + 1 + NEIGHBOURS]}
    found_pairs = find_candidates(bands, np.arange(300))
    assert {tuple(pair) for pair in found_pairs.tolist()} == {(min(pair), max(pair)) for pair in pairs}


def test_common_shingles_are_those_of_many_rows() -> None:
    """A template's shingles weigh nothing, rare ones fully."""
    rng = random.Random(9)
    store = store_of(text(f"the fixed words of all {prose(rng, 5)}") for _ in range(200))
    words = store.words()
    common = find_common(words, np.arange(200), DEFAULT)
    row = shingles_at(words, np.arange(words.starts[1]))
    weights = common.weigh(row)
    assert weights[:6].max() == 0, "row mark, answer mark and the five fixed words"
    assert weights[7:].min() > 0.9


def test_findings_count_training_rows_only() -> None:
    """A held-out row that repeats a training row is a leak, not a duplicate."""
    duplicates = Duplicates(np.array([0, 0, 2, 0, 4]), np.array([0, 0, 2, 0, 2]))
    results = found(duplicates, ["train", "train", "train", "valid", "train"], place_of, most=10)
    assert [(result.name, list(result.rows)) for result in results] == [("duplicate", [1]), ("near-duplicate", [4])]
    assert results[0].texts == {1: "repeats f:1"}
    assert results[1].texts == {4: "almost repeats f:3"}


def test_clusters_come_largest_first() -> None:
    """Groups of one are no clusters."""
    duplicates = Duplicates(np.arange(6), np.array([0, 1, 0, 1, 1, 5]))
    assert [cluster.tolist() for cluster in duplicates.clusters] == [[1, 3, 4], [0, 2]]


def test_nothing_comes_of_nothing() -> None:
    """No rows and one row have no duplicates."""
    for rows in ([], [chat("a", "b")], [chat("", "")]):
        assert repeats(rows) == {}


def test_known_answers_on_real_data(shared: Path) -> None:
    """Alpaca's sample has 14 exact duplicates; GSM8K none of any kind."""
    duplicates = find_clusters(store_of(load(shared, "llamafactory_alpaca_en_demo.json")))
    rows = np.arange(len(duplicates.exact_of))
    assert int((duplicates.exact_of != rows).sum()) == 14
    assert int((duplicates.cluster_of != rows).sum()) == 14
    duplicates = find_clusters(store_of(load(shared, "gsm8k_train.jsonl")))
    assert duplicates.clusters == []


def test_a_copy_under_other_column_names_is_found(shared: Path) -> None:
    """The same rows as chat messages and as columns are the same rows."""
    rows = load(shared, "llamafactory_alpaca_en_demo.json")[:200]
    cluster_of = find_clusters(store_of(rows + [chat(*(m.content.upper() for m in row.messages)) for row in rows]))
    assert (cluster_of.exact_of[200:] == cluster_of.exact_of[:200]).all()
