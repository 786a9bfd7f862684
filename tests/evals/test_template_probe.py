"""Before the first step: a model prefers the template it was tuned with, and batches teach what the rows say."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from attune.config import Config
from attune.data.batch import pad_to, step_batches
from attune.data.encoding.template import open_template
from attune.data.encoding.tokenizer import load_tokenizer
from attune.data.prepare import prepare, read_examples
from attune.evals.basis import Machine
from attune.evals.questions import to_rows
from attune.evals.template_probe import ROWS, mask_check, probe_examples, template_losses
from attune.model.load import load_model
from attune.train.run import finetune
from attune.types import Batch
from tests.tiny import make_corpus, write_model_folder, write_rows

MACHINE = Machine(torch.device("cpu"), "float32", 2048)
OTHER = (
    "{% for message in messages %}"
    "{% if message['role'] == 'assistant' %}{{ ' >> ' + message['content'] + eos_token }}"
    "{% else %}{{ '[[' + message['content'] + ']]' }}{% endif %}"
    "{% endfor %}{% if add_generation_prompt %}{{ ' >> ' }}{% endif %}"
)


@pytest.fixture(scope="module")
def tuned(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run whose model learned to answer with the last word of its prompt, in the plain template."""
    folder = tmp_path_factory.mktemp("tuned")
    config = Config(model=str(write_model_folder(folder / "model")), out=str(folder / "run"), device="cpu").with_values(
        {
            "data.train": str(write_rows(folder / "rows.jsonl", 64)),
            "data.valid_share": 0.0,
            "train.steps": 60,
            "train.learning_rate": 0.01,
            "guards.enabled": False,
        }
    )
    return finetune(config).folder


def test_a_model_prefers_the_template_that_it_was_tuned_with(tuned: Path, tmp_path: Path) -> None:
    """Under another template the same answers are far less likely; the tokenizer's own and the plain one are tried."""
    config = Config(model=str(tuned / "model")).with_values({"data.train": str(tuned.parent / "rows.jsonl")})
    model = load_model(tuned / "model")
    tokenizer = load_tokenizer(tuned / "model")
    (tmp_path / "other.jinja").write_text(OTHER)
    other = open_template(str(tmp_path / "other.jinja"), tokenizer)
    examples = read_examples(config.data.train, config.data)[:ROWS]  # type: ignore[arg-type]
    found = template_losses(model, examples, other, machine=MACHINE)
    assert next(iter(found)) == "other.jinja"
    assert found["other.jinja"] > 1.1 * min(found.values())
    own = template_losses(model, examples, open_template("plain", tokenizer), machine=MACHINE)
    assert own["plain"] == min(own.values())
    assert own["plain"] == pytest.approx(min(found.values()), rel=1e-4), "bytes: both count the same tokens"


def test_losses_are_those_of_the_answers_without_their_end(tmp_path: Path) -> None:
    """Each template's loss is that of the model over the words of the last answer, counted as the run's tokens."""
    folder = write_model_folder(tmp_path / "model")
    model, tokenizer = load_model(folder), load_tokenizer(folder)
    template = open_template("plain", tokenizer)
    config = Config(model=str(folder)).with_values({"data.train": str(write_rows(tmp_path / "rows.jsonl", 6))})
    examples = read_examples(str(tmp_path / "rows.jsonl"), config.data)
    (found,) = template_losses(model, examples, template, machine=MACHINE).values()
    assert template_losses(model, examples, template, machine=MACHINE, context=3) == {}
    assert template_losses(model, [], template, machine=MACHINE) == {}
    model.set_attn_implementation("eager")
    corpus = to_rows(examples, template, "last")
    total = count = 0.0
    for row in range(corpus.num_rows):
        tokens, learned = corpus.row(row)
        with torch.no_grad():
            logits = model(input_ids=torch.from_numpy(tokens.astype(np.int64))[None], use_cache=False).logits[0]
        at = np.flatnonzero(learned)[:-1]  # the end token comes last
        total -= float(torch.log_softmax(logits[at - 1].double(), -1)[np.arange(len(at)), tokens[at]].sum())
        count += len(at)
    assert found == pytest.approx(total / count, rel=1e-5)


def test_examples_come_from_held_out_rows_or_from_the_files(tmp_path: Path) -> None:
    """Without validation rows the beginning of the training file is read; at most ROWS conversations."""
    folder = write_model_folder(tmp_path / "model")
    rows = write_rows(tmp_path / "rows.jsonl", 100)
    for share, most in ((0.0, ROWS), (0.05, 12)):
        config = Config(model=str(folder)).with_values({"data.train": str(rows), "data.valid_share": share})
        prepared = prepare(config, load_tokenizer(folder), model_length=256)
        found = probe_examples(config, prepared)
        assert 0 < len(found) <= most
        held = {example.place.line for example in prepared.valid_examples}
        assert {example.place.line for example in found} <= (held or set(range(1, 101)))


@pytest.mark.parametrize("share", [False, True])
@pytest.mark.parametrize("weighted", [False, True])
def test_right_batches_teach_all_that_is_expected(share: bool, weighted: bool) -> None:
    """Shared beginnings, weights, padding and several micro-batches change nothing in what is learned."""
    corpus = make_corpus([30, 30, 30, 12, 7, 2])
    corpus.tokens[30:48] = corpus.tokens[60:78] = corpus.tokens[:18]  # learned tokens stand in what is shared
    if weighted:
        corpus = replace(corpus, weights=np.linspace(0.5, 2, len(corpus.tokens)).astype(np.float32))
    rows = [0, 1, 2, 3, 3, 4]
    batches = [pad_to(batch, 16) for batch in step_batches(corpus, rows, 64, share=share)]
    assert not share or sum(len(batch.tokens) for batch in batches) < 150
    expected, found = mask_check(corpus, rows, batches)
    assert found == expected == sum(corpus.row(row)[1][1:].sum() for row in rows)


def spoilt(batch: Batch, how: str) -> Batch:
    """Return a batch with one fault."""
    targets = batch.targets.clone()
    at = int(torch.nonzero(targets >= 0)[3])
    if how == "missing":
        targets[at] = -100
    elif how == "shifted":
        targets = targets.roll(1)
    elif how == "prompt learned":
        targets[0] = batch.tokens[1]
    else:
        targets[at] = targets[at] % 50 + 7
    return replace(batch, targets=targets)


@pytest.mark.parametrize("how", ["missing", "shifted", "prompt learned", "another token"])
def test_a_single_wrong_target_shows(how: str) -> None:
    """A target that is missing, shifted, added or replaced makes the second number smaller."""
    corpus = make_corpus([30, 12, 7])
    (batch,) = step_batches(corpus, [0, 1, 2], 64, share=False)
    expected, found = mask_check(corpus, [0, 1, 2], [spoilt(batch, how)])
    assert found < expected


def test_empty_rows_and_two_begin_tokens_show() -> None:
    """A row that teaches nothing or begins with two begin tokens is a fault."""
    corpus = make_corpus([30, 12])
    corpus.tokens[30:32] = 1
    batches = step_batches(corpus, [0, 1], 64, share=False)
    assert len(set(mask_check(corpus, [0, 1], batches))) == 1
    expected, found = mask_check(corpus, [0, 1], batches, bos_id=1)
    assert found == expected - 1
    corpus.learned[30:] = False
    batches = step_batches(corpus, [0, 1], 64, share=False)
    expected, found = mask_check(corpus, [0, 1], batches)
    assert found == expected - 1
