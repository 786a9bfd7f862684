"""Sample answers: prompts that stay the same, answers that are greedy, and what is measured on them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from attune.config import DataConfig
from attune.data.encoding.template import ChatTemplate, open_template
from attune.data.encoding.tokenizer import load_tokenizer
from attune.data.prepare import read_examples
from attune.evals.samples import answer, choose_questions, prepare_asked, sample_lines
from attune.evals.wording import OPENER_TOKENS, commonest_opener
from attune.model.generate import generate
from attune.model.load import load_model
from attune.types import Example, Message
from tests.tiny import write_model_folder, write_rows


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model folder with rows beside it."""
    folder = write_model_folder(tmp_path_factory.mktemp("model"))
    write_rows(folder / "rows.jsonl", 30)
    return folder


@pytest.fixture
def template(folder: Path) -> ChatTemplate:
    """The folder's default template."""
    return open_template("auto", load_tokenizer(folder))


@pytest.fixture
def examples(folder: Path) -> Sequence[Example]:
    """The rows of the folder."""
    return read_examples(folder / "rows.jsonl", DataConfig())


def test_the_same_prompts_are_chosen_again(examples: Sequence[Example], template: ChatTemplate) -> None:
    """Prompts are a function of the seed, in file order; more of them are a superset."""
    chosen = [
        [q.place.line for q in choose_questions(examples, template, count=count, context=None, seed=seed)]
        for count, seed in ((8, 0), (8, 0), (12, 0), (8, 1), (99, 0))
    ]
    assert chosen[0] == chosen[1] == sorted(chosen[0])
    assert len(chosen[0]) == 8
    assert set(chosen[0]) < set(chosen[2])
    assert chosen[3] != chosen[0]
    assert chosen[4] == list(range(1, 31))


def test_prompts_that_cannot_be_asked_are_left_out(examples: Sequence[Example], template: ChatTemplate) -> None:
    """Too long for the context, without an answer at the end, or plain text: such rows are no questions."""
    first, second, third, *_ = examples
    long = replace(first, messages=(Message("user", "x" * 200), Message("assistant", "y")))
    odd = [long, replace(second, messages=second.messages[:1]), replace(third, messages=(), text="only text")]
    found = choose_questions([*odd, *examples[3:9]], template, count=20, context=100, seed=0)
    assert [q.place for q in found] == [example.place for example in examples[3:9]]


def test_answers_are_greedy_and_their_figures_their_own(
    folder: Path, examples: Sequence[Example], template: ChatTemplate
) -> None:
    """Answers are those of `generate`; lengths, ends and scores are counted from them."""
    model = load_model(folder)
    questions = choose_questions(examples, template, count=6, context=256, seed=0)
    asked = prepare_asked(questions, template, openings=questions, max_new_tokens=24, schema=None)
    found = answer(model, asked, template, micro_tokens=100)
    made = generate(model, [q.prompt_ids for q in questions], stop_ids=template.stop_ids, max_new_tokens=24)
    assert found.texts == tuple(template.tokenizer.decode(one.tokens) for one in made)
    assert found.finished == tuple(one.finished for one in made)
    assert found.wording.tokens == pytest.approx(sum(len(one.tokens) for one in made) / 6)
    assert found.reference.tokens == pytest.approx(sum(min(len(q.reference), 24) for q in questions) / 6), "bytes"
    assert found.scores["stop_rate"] == pytest.approx(sum(found.finished) / 6)
    assert found.scores["exact_match"] == 0
    lines = list(sample_lines(0, asked, found)), list(sample_lines(5, asked, found))
    assert [line["answer"] for line in lines[0]] == list(found.texts)
    assert [{line["system"] for line in part} for part in lines] == [{"base"}, {"tuned"}]
    assert lines[1][2]["step"] == 5
    assert lines[1][2]["prompt"] == questions[2].prompt
    assert lines[1][2]["line"] == questions[2].place.line


def test_long_references_do_not_count_as_unfinished(
    folder: Path, examples: Sequence[Example], template: ChatTemplate
) -> None:
    """Where no reference would end within the limit, nothing is said of how many answers do."""
    model = load_model(folder)
    questions = choose_questions(examples, template, count=6, context=256, seed=0)
    asked = prepare_asked(questions, template, openings=questions, max_new_tokens=2, schema=None)
    assert not any(asked.fits)
    found = answer(model, asked, template, micro_tokens=4096)
    assert found.finish_rate is None
    assert found.reference.tokens == 2


def test_openings_are_sampled_the_same_each_time(
    folder: Path, examples: Sequence[Example], template: ChatTemplate
) -> None:
    """Beginnings are drawn at temperature 1 by a seed of their own, counted over all openings, and disturb nothing."""
    model = load_model(folder)
    many = choose_questions(examples, template, count=24, context=256, seed=0)
    questions = many[::6]
    asked = prepare_asked(questions, template, openings=many, max_new_tokens=12, schema=None)
    few = prepare_asked(questions, template, openings=many[:5], max_new_tokens=12, schema=None)
    found = []
    for seed, given in ((1, asked), (2, asked), (3, few)):
        torch.manual_seed(seed)
        random = torch.get_rng_state()
        found.append(answer(model, given, template, micro_tokens=4096))
        assert torch.equal(torch.get_rng_state(), random)
    assert found[0] == found[1]
    assert [one.openings for one in found] == [24, 24, 5]
    assert found[2].texts == found[0].texts, "answers are greedy whatever is sampled beside them"
    assert found[2].wording == found[0].wording

    def begun(temperature: float) -> tuple[tuple[int, ...], float]:
        """The commonest opener of all prompts at a temperature."""
        prompts, stops = [question.prompt_ids for question in many], template.stop_ids
        made = generate(model, prompts, stop_ids=stops, max_new_tokens=OPENER_TOKENS, temperature=temperature)
        return commonest_opener([one.tokens for one in made])

    assert found[0].opening == begun(1.0)
    assert found[0].opening[1] < begun(0.0)[1], "a model that knows nothing says the likeliest again and again"


def test_openings_of_references_are_counted_over_the_same_prompts(
    folder: Path, examples: Sequence[Example], template: ChatTemplate
) -> None:
    """Three of five references that begin alike are 0.6, whichever prompts are answered as a whole."""
    texts = ["Sure, it is", "No.", "Sure, why not", "Maybe", "Surprise"]
    told = [
        replace(one, messages=(Message("user", "x"), Message("assistant", text)))
        for one, text in zip(examples, texts, strict=False)
    ]
    many = choose_questions(told, template, count=5, context=256, seed=0)
    asked = prepare_asked(many[1:3], template, openings=many, max_new_tokens=4, schema=None)
    found = answer(load_model(folder), asked, template, micro_tokens=4096)
    assert (len(found.texts), found.openings) == (2, 5)
    assert found.reference_opening == (tuple(template.tokenizer.encode("Sur")), 3 / 5)
    assert found.opening[1] * 5 == pytest.approx(round(found.opening[1] * 5))
