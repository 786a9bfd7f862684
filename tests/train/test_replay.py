"""Replayed texts: where they come from, that a resumed run has the same ones, and what a step gets of them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from attune.config import Config
from attune.data.encoding.tokenizer import load_tokenizer
from attune.data.prepare import Prepared, prepare
from attune.errors import CheckpointError, ConfigError, DataError, ModelError
from attune.model.divergence import top_log_probs
from attune.model.folder import model_length
from attune.model.load import load_model
from attune.record import RunFolder
from attune.train.defaults import replay_weights
from attune.train.replay import Replay, prepare_replay
from tests.tiny import write_model_folder, write_rows

CHAT = (
    "{% for m in messages %}<|start|>{{ m.role }}:{{ m.content }}<|end|>{% endfor %}"
    "{% if add_generation_prompt %}<|start|>assistant:{% endif %}"
)


class Case:
    """A model folder with its data, and a run folder to prepare replay in."""

    def __init__(self, folder: Path, *, chat: bool = False, **settings: Any) -> None:
        self.base = write_model_folder(folder / "base", dtype=torch.float64)
        if chat:
            (self.base / "chat_template.jinja").write_text(CHAT)
        self.rows = write_rows(folder / "rows.jsonl", 24)
        self.config = Config(model=str(self.base), device="cpu", precision="float64").with_values(
            {
                "data.train": str(self.rows),
                "data.valid_share": 0.3,
                "data.cache": "off",
                "train.steps": 4,
                "train.batch_rows": 4,
                "train.micro_tokens": 120,
                "replay.max_tokens": 32,
                "replay.rows": 10,
                **{key.replace("__", "."): value for key, value in settings.items()},
            }
        )
        self.run = RunFolder.create(folder / "run")
        self.model = load_model(self.base, precision="float64")

    @property
    def prepared(self) -> Prepared:
        """The rows as they are trained."""
        return prepare(self.config, load_tokenizer(self.base), model_length=model_length(self.base))

    def replay(self) -> Replay:
        """Return what is replayed."""
        found = prepare_replay(self.config, self.prepared, self.model, self.run)
        assert found is not None
        return found


def write_general(path: Path, count: int = 12) -> Path:
    """Write paragraphs of plain text."""
    path.write_text(
        "\n\n".join(f"Paragraph {number} tells of the sea, the ships and the wind." for number in range(count))
    )
    return path


def taken(replay: Replay, steps: range) -> list[list[int]]:
    """Return the rows of each step."""
    return [[row for batch, _ in replay.batches(step, 120) for row in batch.rows] for step in steps]


def test_without_a_source_nothing_is_replayed(tmp_path: Path) -> None:
    """No source: no replay, and no file in the run folder."""
    case = Case(tmp_path)
    assert prepare_replay(case.config, case.prepared, case.model, case.run) is None
    assert not (case.run.path / "replay").exists()


def test_a_file_is_cut_and_every_token_but_the_first_is_learned(tmp_path: Path) -> None:
    """At most so many texts of at most so many tokens; no divergence is kept where it has no weight."""
    replay = Case(tmp_path, replay__source=str(write_general(tmp_path / "general.txt"))).replay()
    assert replay.corpus.num_rows == 10
    assert replay.corpus.lengths.max() == 32
    assert replay.corpus.num_learned == replay.corpus.lengths.sum() - 10
    assert not replay.corpus.learned[replay.corpus.offsets[:-1]].any()
    assert replay.base is None and replay.kl == 0
    assert f"10 texts of {replay.corpus.lengths.sum():,} tokens" in replay.notes[-1]


def test_the_model_writes_its_own_texts(tmp_path: Path) -> None:
    """They are samples of the model, all different, follow the seed, and leave torch's random state alone."""
    texts = []
    for number, seed in enumerate((0, 0, 1)):
        (folder := tmp_path / str(number)).mkdir()
        case = Case(folder, replay__source="self", seed=seed)
        torch.manual_seed(7)
        texts.append(case.replay().corpus)
        after = torch.rand(1)
        torch.manual_seed(7)
        assert torch.equal(after, torch.rand(1))
    rows = [tuple(texts[0].row(row)[0].tolist()) for row in range(texts[0].num_rows)]
    assert len(set(rows)) == len(rows) >= 5
    assert {row[0] for row in rows} == {0}, "they begin with the begin token"
    assert np.array_equal(texts[0].tokens, texts[1].tokens)
    assert not np.array_equal(texts[0].tokens, texts[2].tokens)


def test_a_chat_model_writes_questions_and_their_answers(tmp_path: Path) -> None:
    """Half of the texts begin as its own template opens a user's turn, and those that ended got an answer."""
    case = Case(tmp_path, chat=True, replay__source="self", replay__rows=60, replay__max_tokens=64)
    end = case.model.get_output_embeddings().weight[1]
    with torch.no_grad():  # a random model ends a turn about every tenth token
        case.model.transformer.ln_f.bias.copy_(3.2 * end / end.square().sum())
    replay = case.replay()
    tokenizer = load_tokenizer(case.base)
    texts = [tokenizer.decode(replay.corpus.row(row)[0].tolist()) for row in range(replay.corpus.num_rows)]
    chats = [text for text in texts if text.startswith("<|start|>user:")]
    assert len(chats) >= 5
    assert all("<|end|><|start|>assistant:" in chat for chat in chats)
    assert any(not text.startswith("<|start|>user:") for text in texts)


def test_a_resumed_run_replays_the_same(tmp_path: Path) -> None:
    """Texts and what the model made of them come from the run folder: a changed file and model change no bit."""
    source = write_general(tmp_path / "general.txt")
    case = Case(tmp_path, replay__source=str(source), replay__kl=0.5)
    first = case.replay()
    source.write_text("Something else is written here now, in the same place.")
    with torch.no_grad():
        for weight in case.model.parameters():
            weight.add_(1)
    again = case.replay()
    assert first.base is not None and again.base is not None
    for mine, other in zip(first.base, again.base, strict=True):
        assert torch.equal(mine, other)
    for step in range(1, 9):
        for (one, one_base), (two, two_base) in zip(first.batches(step, 64), again.batches(step, 64), strict=True):
            assert torch.equal(one.tokens, two.tokens) and torch.equal(one.targets, two.targets)
            assert one_base is not None and two_base is not None and torch.equal(one_base.ids, two_base.ids)


def test_each_batch_gets_the_base_of_its_own_tokens(tmp_path: Path) -> None:
    """However a step is cut, the kept log-probabilities are those that the model has at the batch's tokens."""
    case = Case(tmp_path, replay__source="self", replay__share=3.0)
    replay = case.replay()
    assert replay.kl == 1
    for micro_tokens in (40, 120, 4096):
        for batch, base in replay.batches(2, micro_tokens):
            fresh = top_log_probs(case.model, batch)
            assert base is not None and batch.learned_tokens == len(base.ids)
            torch.testing.assert_close(base.logp, fresh.logp)
            assert torch.equal(base.ids, fresh.ids)


def test_steps_take_all_texts_in_turn(tmp_path: Path) -> None:
    """Steps have about the asked tokens, depend on step and seed alone, and take all texts before one comes twice."""
    general = str(write_general(tmp_path / "general.txt", 40))
    case = Case(tmp_path, replay__source=general, replay__rows=40, replay__share=2.0)
    replay = case.replay()
    steps = range(1, 61)
    rows = taken(replay, steps)
    assert rows[4] == taken(replay, range(5, 6))[0]
    flat = [row for step in rows for row in step]
    for first in range(0, len(flat) - 40, 40):
        assert sorted(flat[first : first + 40]) == list(range(40))
    mean = np.mean([replay.corpus.lengths[step].sum() for step in rows])
    assert mean == pytest.approx(replay.tokens, rel=0.15)
    assert replay.tokens == pytest.approx(2 * 4 * case.prepared.train.lengths.mean(), rel=0.3)


def test_validation_rows_are_never_replayed(tmp_path: Path) -> None:
    """A file that holds the run's own rows replays those that are trained, and says how many were left out."""
    case = Case(tmp_path, replay__rows=100, replay__max_tokens=200)
    case.config = case.config.with_values({"replay.source": str(case.rows)})
    replay, prepared = case.replay(), case.prepared
    assert prepared.valid is not None
    held = {prepared.valid.row(row)[0].tobytes() for row in range(prepared.valid.num_rows)}
    replayed = {replay.corpus.row(row)[0].tobytes() for row in range(replay.corpus.num_rows)}
    assert held and replayed and not held & replayed
    assert f"{len(held)} texts are copies of validation rows" in replay.notes[0]


def test_a_file_of_nothing_but_validation_rows_is_refused(tmp_path: Path) -> None:
    """Nothing is left to replay, so nothing is silently skipped."""
    case = Case(tmp_path, replay__max_tokens=200)
    lines = case.rows.read_text().splitlines()
    prepared = case.prepared
    assert prepared.valid is not None
    held = [lines[place.line - 1] for place in prepared.valid.places]
    (tmp_path / "held.jsonl").write_text("".join(line + "\n" for line in held))
    case.config = case.config.with_values({"replay.source": str(tmp_path / "held.jsonl")})
    with pytest.raises(DataError, match="validation rows"):
        case.replay()


def test_a_model_that_writes_nothing_is_refused(tmp_path: Path) -> None:
    """A model that stops at once has no texts to replay; the error names the way out."""
    case = Case(tmp_path, replay__source="self", replay__rows=3)
    with torch.no_grad():
        case.model.transformer.ln_f.bias.copy_(1000 * case.model.get_output_embeddings().weight[1])
    with pytest.raises(ModelError, match="stops at once"):
        case.replay()


@pytest.mark.parametrize(
    ("settings", "word"),
    [
        ({"replay.weight": 0.0}, "replay.weight"),
        ({"train.gradient_release": True, "train.clip": 1e6}, "gradient_release"),
        ({"replay.max_tokens": 7}, "replay.max_tokens is 7"),
    ],
)
def test_settings_that_cannot_be_are_refused(tmp_path: Path, settings: dict[str, Any], word: str) -> None:
    """Replay that changes nothing, that the update of a step cannot wait for, or of no texts at all, is an error."""
    case = Case(tmp_path, replay__source=str(write_general(tmp_path / "general.txt")))
    case.config = case.config.with_values(settings)
    with pytest.raises(ConfigError, match=word):
        case.replay()


@pytest.mark.parametrize(
    ("source", "weight", "kl", "expected"),
    [
        ("self", "auto", "auto", (0.0, 1.0)),
        ("self", "auto", 0.0, (1.0, 0.0)),
        ("self", 0.5, "auto", (0.5, 1.0)),
        ("x.txt", "auto", "auto", (1.0, 0.0)),
        ("x.txt", "auto", 0.3, (1.0, 0.3)),
    ],
)
def test_own_texts_hold_the_model_and_files_are_learned(
    source: str, weight: float | str, kl: float | str, expected: tuple[float, float]
) -> None:
    """A number is what it says; auto never leaves both at 0."""
    wish = Config().replay.model_copy(update={"source": source, "weight": weight, "kl": kl})
    assert replay_weights(wish) == expected


@pytest.mark.parametrize("damage", ["torn", "other"])
def test_a_damaged_cache_is_refused(tmp_path: Path, damage: str) -> None:
    """A base that is torn or of other texts stops the run in words."""
    case = Case(tmp_path, replay__source="self")
    case.replay()
    if damage == "torn":
        path = case.run.path / "replay/base.safetensors"
        path.write_bytes(path.read_bytes()[:50])
    else:
        path = case.run.path / "replay/texts.jsonl"
        path.write_text("".join(line + "\n" for line in path.read_text().splitlines()[:-1]))
        assert all(json.loads(line)["tokens"] for line in path.read_text().splitlines())
    with pytest.raises(CheckpointError, match="start a new run"):
        case.replay()
