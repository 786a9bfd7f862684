"""The bundled task keeps its promises: reproducible, valid, labelled from the text, and nothing leaks into the test."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections import Counter, defaultdict
from itertools import product
from pathlib import Path
from typing import Any

import jsonschema
import numpy as np
import pytest
import yaml

from attune.bundled import starter_folder, tickets_folder

RECIPE = Path(__file__).resolve().parents[2] / "recipes" / "tickets"
ROWS = {"train": 1500, "valid": 200, "test": 200}
FIELDS = ["product", "issue", "urgency", "action", "order"]
HELD_OUT = ("valid", "test")


def read(name: str) -> list[dict[str, str]]:
    """The rows of a file of the task."""
    return [json.loads(line) for line in (tickets_folder() / f"{name}.jsonl").read_text(encoding="ascii").splitlines()]


def read_words(name: str) -> Any:
    """A word list of the generator."""
    return yaml.safe_load((RECIPE / name).read_text(encoding="ascii"))


def answer(row: dict[str, str]) -> dict[str, Any]:
    """The completion of a row, parsed."""
    parsed: dict[str, Any] = json.loads(row["completion"])
    return parsed


def words(text: str) -> list[str]:
    """The words of a text in small letters."""
    return re.findall(r"[a-z0-9]+", text.lower())


def masked(row: dict[str, str]) -> str:
    """The message in small letters, its product and digits replaced: what is left is wording."""
    return re.sub(r"\d+", "0", row["prompt"].replace(answer(row)["product"], "PRODUCT")).lower()


def test_generator_reproduces_the_committed_files_byte_for_byte(tmp_path: Path) -> None:
    """The seed of the recipe writes exactly what travels in the package."""
    subprocess.run([sys.executable, str(RECIPE / "generate.py"), "--out", str(tmp_path)], check=True)
    written = sorted(tmp_path.iterdir())
    assert [path.name for path in written] == ["real_prompts.jsonl", "test.jsonl", "train.jsonl", "valid.jsonl"]
    for path in written:
        assert path.read_bytes() == (tickets_folder() / path.name).read_bytes(), path.name


def test_another_seed_writes_other_rows(tmp_path: Path) -> None:
    """The comparison above can fail: the bytes depend on the seed."""
    subprocess.run([sys.executable, str(RECIPE / "generate.py"), "--out", str(tmp_path), "--seed", "1"], check=True)
    assert (tmp_path / "test.jsonl").read_bytes() != (tickets_folder() / "test.jsonl").read_bytes()


@pytest.mark.parametrize("split", ROWS)
def test_every_answer_follows_the_schema_in_field_order(split: str) -> None:
    """Completions are compact JSON objects of the published schema, fields in one order."""
    schema = json.loads((tickets_folder() / "schema.json").read_text(encoding="ascii"))
    jsonschema.Draft202012Validator.check_schema(schema)
    assert list(schema["properties"]) == schema["required"] == FIELDS
    validator = jsonschema.Draft202012Validator(schema)
    rows = read(split)
    assert len(rows) == ROWS[split]
    for row in rows:
        assert list(row) == ["prompt", "completion"]
        assert list(answer(row)) == FIELDS
        assert row["completion"] == json.dumps(answer(row), separators=(",", ":"))
        validator.validate(answer(row))


@pytest.mark.parametrize("split", ROWS)
def test_product_and_order_stand_in_the_message(split: str) -> None:
    """A reader can copy product and order number; where the answer is null no number is called an order."""
    for row in read(split):
        label = answer(row)
        assert row["prompt"].count(label["product"]) == 1, row
        called_order = re.search(r"order\D{0,28}?\b\d{4,6}\b", re.sub(r"\b555 \d{4}", "", row["prompt"]), re.IGNORECASE)
        if label["order"] is None:
            assert not called_order or re.search(r"for|serial|in|since|postcode|On|on", called_order[0]), row
        else:
            assert re.search(rf"(?<!\d){label['order']}(?!\d)", row["prompt"]), row


def test_no_message_comes_twice() -> None:
    """Over all splits and the real prompts, each prompt is there once."""
    prompts = [row["prompt"].lower() for name in [*ROWS, "real_prompts"] for row in read(name)]
    assert len(set(prompts)) == len(prompts) == 2050


def wordings(phrase: str) -> set[str]:
    """Every way to say a phrase: its choices multiplied out, its slots left open."""
    pieces = re.split(r"\{([^{}]*)\}", re.sub(r"^\[[a-z ]+\] ", "", phrase.strip().lower()))
    ways = product(*(piece.split("|") if at % 2 else [piece] for at, piece in enumerate(pieces)))
    return {" ".join(words("".join(way))) for way in ways}


def pools() -> dict[str, dict[str, set[str]]]:
    """What each split may say, by kind of pool: phrases, brands' stems and endings, items, names."""
    found: dict[str, dict[str, set[str]]] = defaultdict(lambda: defaultdict(set))
    requests, frames, products = read_words("requests.yaml"), read_words("frames.yaml"), read_words("products.yaml")
    blocks = [*read_words("complaints.yaml").values(), *requests["action"].values(), *requests["urgency"].values()]
    blocks += [block for name, block in frames.items() if name not in ("joint", "typos")]
    for split in ROWS:
        for block in blocks:
            found["phrases"][split] |= {way for line in block[split].splitlines() for way in wordings(line)}
        found["joints"][split] = set(frames["joint"][split])
        for kind in ("stems", "endings", "words", "names"):
            found[kind][split] = set(products[split][kind].lower().split())
        for kind in ("powered", "furniture", "clothing"):
            found["items"][split] |= set(re.split(r",\s*", products[split][kind]))
    return found


def test_splits_share_no_wording_product_or_name() -> None:
    """Every way to say a phrase, every part of a brand, every item and first name belongs to one split alone."""
    for kind, by_split in pools().items():
        for held_out in HELD_OUT:
            for other in set(ROWS) - {held_out}:
                shared = by_split[held_out] & by_split[other]
                assert not shared, (kind, held_out, other, shared)


@pytest.mark.parametrize("split", HELD_OUT)
def test_products_and_names_of_held_out_rows_do_not_occur_in_training(split: str) -> None:
    """No training message contains a product, brand or first name of a held-out split."""
    training = [" ".join(words(row["prompt"])) for row in read("train")]
    text = "\n".join(training)
    brands = {answer(row)["product"].split()[1].lower() for row in read(split)}
    names = pools()["names"][split]
    assert len(brands) > 60
    for word in brands | names:
        assert not re.search(rf"\b{word}\b", text), word


@pytest.mark.parametrize("split", HELD_OUT)
def test_no_sentence_of_a_held_out_row_occurs_in_training(split: str) -> None:
    """Sentences of four words or more are new, products and numbers aside."""

    def sentences(row: dict[str, str]) -> set[str]:
        parts = re.split(r"[.!?;:] | - | -- ", masked(row).rstrip(".!?"))
        return {" ".join(words(part)) for part in parts if len(words(part)) >= 4}

    training = set().union(*(sentences(row) for row in read("train")))
    for row in read(split):
        assert sentences(row), row
        assert not sentences(row) & training, row


@pytest.mark.parametrize("split", HELD_OUT)
def test_held_out_rows_share_few_runs_of_eight_words_with_a_training_row(split: str) -> None:
    """At most a tenth of a held-out message's 8-grams stand in any one training message (a leak begins at a half)."""

    def runs(row: dict[str, str]) -> set[tuple[str, ...]]:
        text = words(row["prompt"])
        return {tuple(text[at : at + 8]) for at in range(len(text) - 7)}

    training = [runs(row) for row in read("train")]
    for row in read(split):
        own = runs(row)
        assert max(len(own & other) for other in training) <= 0.1 * len(own), row


@pytest.mark.parametrize("split", ROWS)
def test_labels_are_roughly_balanced(split: str) -> None:
    """No label is rare enough to be guessed away or frequent enough to be a good guess."""
    labels = [answer(row) for row in read(split)]
    for name, low, high in (("issue", 0.12, 0.13), ("urgency", 0.3, 0.37), ("action", 0.1, 0.21)):
        shares = [count / len(labels) for count in Counter(label[name] for label in labels).values()]
        assert low <= min(shares) <= max(shares) <= high, (name, shares)
    assert 0.35 <= sum(label["order"] is None for label in labels) / len(labels) <= 0.5


def test_each_issue_has_many_wordings_in_training() -> None:
    """At least 30 sentences and 60 ways to say them for each issue, before products and other slots are filled."""
    for issue, block in read_words("complaints.yaml").items():
        phrases = block["train"].splitlines()
        assert len(phrases) >= 30, issue
        assert len(set().union(*(wordings(phrase) for phrase in phrases))) >= 60, issue


def features(row: dict[str, str]) -> set[str]:
    """The words and word pairs of a message, without its product."""
    text = words(masked(row))
    return {*text, *(f"{one} {two}" for one, two in zip(text, text[1:]))}  # noqa: B905, RUF007 - one is shorter


def learn(inputs: np.ndarray, targets: np.ndarray, *, steps: int = 60, pull: float = 1e-3) -> np.ndarray:
    """Weights of a softmax regression [features, labels] by plain gradient descent with momentum."""
    weights = np.zeros((inputs.shape[1], int(targets.max()) + 1), dtype=np.float32)
    speed, wanted = np.zeros_like(weights), np.eye(weights.shape[1], dtype=np.float32)[targets]
    for _ in range(steps):
        scores = inputs @ weights
        chances = np.exp(scores - scores.max(axis=1, keepdims=True))
        chances /= chances.sum(axis=1, keepdims=True)
        speed = 0.9 * speed - inputs.T @ (chances - wanted) / len(inputs) - pull * weights
        weights += 0.3 * speed
    return weights


def test_a_bag_of_words_carries_each_label_over_to_new_wordings() -> None:
    """A regression over words and word pairs, learned on train, gets each label of test right: the cues are there."""
    train, test = read("train"), read("test")
    counts = Counter(feature for row in train for feature in features(row))
    known = sorted(feature for feature, count in counts.items() if count > 5)
    place = {feature: at for at, feature in enumerate(known)}
    inputs = {
        "train": np.zeros((len(train), len(known)), np.float32),
        "test": np.zeros((len(test), len(known)), np.float32),
    }
    for name, rows in (("train", train), ("test", test)):
        for at, row in enumerate(rows):
            inputs[name][at, [place[feature] for feature in features(row) if feature in place]] = 1
    for field in ("issue", "urgency", "action"):
        labels = sorted({answer(row)[field] for row in train})
        weights = learn(inputs["train"], np.array([labels.index(answer(row)[field]) for row in train]))
        guessed = (inputs["test"] @ weights).argmax(axis=1)
        right = sum(labels[at] == answer(row)[field] for at, row in zip(guessed, test, strict=True))
        assert right >= 0.82 * len(test), (field, right)  # guessing gets 0.13 to 0.4


def test_real_prompts_read_differently() -> None:
    """They have no answers, and far more of their words than of a test message's never occur in training."""
    real = read("real_prompts")
    assert len(real) == 150
    assert all(list(row) == ["prompt"] for row in real)
    known = {word for row in read("train") for word in words(row["prompt"])}

    def share_unknown(rows: list[dict[str, str]]) -> float:
        said = [word for row in rows for word in words(row["prompt"]) if not word.isdigit()]
        return sum(word not in known for word in said) / len(said)

    assert share_unknown(real) > 0.35
    assert share_unknown(read("test")) < 0.2


def test_files_are_small_plain_text() -> None:
    """The whole task is ASCII and takes less than 1.5 MB of the package; the starter model stands beside it."""
    files = [path for path in tickets_folder().iterdir() if path.is_file()]
    assert all(path.read_bytes().isascii() for path in files)
    assert sum(path.stat().st_size for path in files) < 1_500_000
    assert starter_folder().parent == tickets_folder().parent
