"""Scores of answers: what stands alone, which halves, what counts as far from the rest, and planted wrong answers."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from attune.bundled import tickets_folder
from attune.config_file import make_config
from attune.errors import ConfigError
from attune.train.check import check_rows
from attune.train.score import answers_alone, choose_half, is_weak, outlier_distance
from tests.tiny import make_corpus, write_model_folder


def test_answers_alone_are_the_learned_tokens_after_one_begin_token() -> None:
    """Each row becomes a begin token and its learned tokens, all of which are learned."""
    corpus = make_corpus([6, 9])
    alone = answers_alone(corpus, 1)
    for row in range(2):
        tokens, learned = corpus.row(row)
        bare, is_learned = alone.row(row)
        assert bare.tolist() == [1, *tokens[learned].tolist()]
        assert is_learned.tolist() == [False] + [True] * int(learned.sum())


def test_halves_keep_groups_whole() -> None:
    """About half of the groups are chosen, the same ones for the same seed, and no group is torn."""
    groups = np.repeat(np.arange(50), 3)
    half = choose_half(groups, seed=1)
    assert half.sum() == 75
    assert all(len(set(half[groups == group].tolist())) == 1 for group in range(50))
    assert (half == choose_half(groups, seed=1)).all()
    assert (half != choose_half(groups, seed=2)).any()


def test_outliers_are_measured_against_rows_of_about_their_length() -> None:
    """A loss that is usual for long answers is far out among short ones; without enough rows nothing is said."""
    numbers = np.random.default_rng(0)
    tokens = np.repeat([8, 100], 100)
    losses = np.concatenate([numbers.normal(1, 0.1, 100), numbers.normal(3, 0.1, 100)])
    losses[0] = 3.0
    distance = outlier_distance(losses, tokens)
    assert distance[0] > 10
    assert np.abs(distance[1:]).max() < 5
    assert not outlier_distance(losses[:10], tokens[:10]).any()


def test_a_prompt_is_weak_only_where_prompts_help() -> None:
    """Where prompts take 2 nats off, one that takes 0.5 off is weak; where they all help little, none is."""
    numbers = np.random.default_rng(0)
    tokens = np.full(200, 20)
    gains = numbers.normal(-2, 0.2, 200)
    gains[7] = -0.5
    assert np.flatnonzero(is_weak(gains, tokens)).tolist() == [7]
    assert not is_weak(numbers.normal(-0.1, 0.01, 200), tokens).any()


def test_scores_need_a_model(tmp_path: Path) -> None:
    """Without a model the error says what to give."""
    with pytest.raises(ConfigError, match="--model FOLDER"):
        check_rows(make_config(tickets_folder() / "valid.jsonl"), with_scores=True)


def test_planted_wrong_answers_are_found(tmp_path: Path) -> None:
    """Answers of noise among answers of one kind are far out; hardly any other row is."""
    base = write_model_folder(tmp_path / "base")
    words = ["red", "green", "blue", "black", "white"]
    rows = [
        {"prompt": f"{words[n % 5]} {words[n // 5 % 5]} {n}", "completion": f"it is {words[n % 5]} indeed"}
        for n in range(160)
    ]
    planted = set(range(1, 161, 20))
    for line in planted:
        rows[line - 1]["completion"] = "qzx vkw pbj zzqk xxvw"
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    settings: dict[str, object] = {"data.valid_share": 0.0, "train.batch_rows": 4, "train.learning_rate": 0.01}
    # the halves that are trained here hold nothing out, whatever the run itself is asked for
    settings |= {"early_stop.metric": "val_loss", "early_stop.patience": 2, "early_stop.reduce": 0.5}
    document = check_rows(make_config(path, {"model": str(base)}, settings), with_scores=True).document
    outliers = {example["line"] for one in document["findings"] if one["id"] == "D18" for example in one["examples"]}
    assert outliers >= planted
    assert len(outliers - planted) <= 2
