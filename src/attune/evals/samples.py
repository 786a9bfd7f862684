"""Answers to the same few prompts at every validation: what a person reads, and what collapse shows in."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import nn

from attune.data.corpus import Corpus
from attune.data.encoding.template import ChatTemplate
from attune.data.stream import shuffled
from attune.errors import TemplateError
from attune.evals.heldout import predicted_tokens
from attune.evals.questions import Question, to_questions
from attune.evals.tasks import Schema, applicable, score
from attune.evals.wording import OPENER_TOKENS, Wording, commonest_opener, compare_wording
from attune.model.generate import BATCH_ROWS, generate
from attune.types import Example
from attune.world import mix_seed

LEAST_ROOM = 16  # tokens: a prompt that leaves less of the context is not asked
FEWEST_FINISHED = 4  # references that must fit into an answer before it is said how many answers end


@dataclass(frozen=True, slots=True)
class Asked:
    """The prompts that are answered at every validation, and what answers are held against.

    reference_ids: tokens of each reference, at most `max_new_tokens`; fits: whether it would end within them.
    """

    questions: tuple[Question, ...]
    max_new_tokens: int
    reference_ids: tuple[tuple[int, ...], ...]
    fits: tuple[bool, ...]
    metrics: tuple[str, ...]
    schema: Schema | None
    openings: tuple[Question, ...] = ()  # of which the beginning of an answer is sampled
    reference_openings: tuple[tuple[int, ...], ...] = ()  # how their references begin


@dataclass(frozen=True, slots=True)
class Answered:
    """What a model made of the prompts; `scores` are means, `finish_rate` is of answers whose reference fits.

    opening and reference_opening: the most frequent beginning and its share, of `openings` answers sampled at
    temperature 1: the likeliest answers of a sound model may begin alike, what it would say as a whole does not.
    """

    texts: tuple[str, ...]
    finished: tuple[bool, ...]
    finish_rate: float | None
    wording: Wording
    reference: Wording
    scores: dict[str, float]
    openings: int
    opening: tuple[tuple[int, ...], float]
    reference_opening: tuple[tuple[int, ...], float]


def choose_questions(
    examples: Sequence[Example], template: ChatTemplate, *, count: int, context: int | None, seed: int
) -> list[Question]:
    """Return at most `count` validation rows as questions, in the order of their file; the same for the same seed.

    Left out are rows without an answer at the end, and prompts that fill the model's context or cannot be shown.
    """
    found: list[tuple[int, Question]] = []
    for row in shuffled(len(examples), seed=mix_seed("prompts", seed), epoch=0).tolist():
        if len(found) == count:
            break
        example = examples[row]
        if not example.messages or example.messages[-1].role != "assistant":
            continue
        try:
            (question,) = to_questions([example], template, context=None)
        except TemplateError:
            continue
        if context is None or len(question.prompt_ids) + LEAST_ROOM <= context:
            found.append((row, question))
    return [question for _, question in sorted(found, key=lambda pair: pair[0])]


def prepare_asked(
    questions: Sequence[Question],
    template: ChatTemplate,
    *,
    openings: Sequence[Question],
    max_new_tokens: int,
    schema: Schema | None,
) -> Asked:
    """Return questions with what their answers are held against."""
    references = [template.tokenizer.encode(question.reference) for question in questions]
    metrics = applicable([question.reference for question in questions], has_schema=schema is not None)
    return Asked(
        questions=tuple(questions),
        max_new_tokens=max_new_tokens,
        reference_ids=tuple(tuple(ids[:max_new_tokens]) for ids in references),
        fits=tuple(len(ids) < max_new_tokens for ids in references),
        metrics=tuple(metrics),
        schema=schema,
        openings=tuple(openings),
        reference_openings=tuple(
            tuple(template.tokenizer.encode(question.reference)[:OPENER_TOKENS]) for question in openings
        ),
    )


def begun_answers(questions: Sequence[Question], corpus: Corpus, is_right: NDArray[np.bool_]) -> list[tuple[int, ...]]:
    """Return with which tokens the greedy answer to each question begins, as far as a pass over its row has told.

    These are the first tokens of the reference that the model ranks first, its end perhaps among them. is_right:
    `token_right` of what was measured on `corpus`; a question whose row is not in it, or is written there in other
    tokens, gets none.
    """
    right = np.zeros(len(corpus.tokens), dtype=bool)
    right[predicted_tokens(corpus)] = is_right
    rows = {place: row for row, place in enumerate(corpus.places)}
    found: list[tuple[int, ...]] = []
    for question in questions:
        row = rows.get(question.place)
        start, end = (0, 0) if row is None else corpus.offsets[row : row + 2].tolist()
        first = start + len(question.prompt_ids)
        if tuple(corpus.tokens[start : min(first, end)].tolist()) != question.prompt_ids:
            found.append(())
            continue
        wrong = np.flatnonzero(~right[first:end])
        found.append(tuple(corpus.tokens[first : first + int(wrong[0]) if len(wrong) else end].tolist()))
    return found


def answer(
    model: nn.Module,
    asked: Asked,
    template: ChatTemplate,
    *,
    micro_tokens: int,
    begun: Sequence[Sequence[int]] = (),
) -> Answered:
    """Return the model's greedy answers to at least one question, with all that is measured on them and on openings.

    micro_tokens: positions that are computed at once; training found room for as many, and those here take less.
    begun: with which tokens each answer is known to begin.
    """
    prompts = [question.prompt_ids for question in asked.questions]
    longest = max(map(len, prompts)) + asked.max_new_tokens
    made = generate(
        model,
        prompts,
        stop_ids=template.stop_ids,
        max_new_tokens=asked.max_new_tokens,
        batch_rows=max(1, min(BATCH_ROWS, micro_tokens // longest)),
        begun=begun,
    )
    decode = template.tokenizer.decode
    texts = tuple(decode(one.tokens) for one in made)
    finished = tuple(one.finished for one in made)
    ends = [is_end for is_end, fits in zip(finished, asked.fits, strict=True) if fits]
    own, reference = compare_wording(
        ([one.tokens for one in made], texts),
        (asked.reference_ids, [decode(ids) for ids in asked.reference_ids]),
    )
    return Answered(
        texts=texts,
        finished=finished,
        finish_rate=fmean(ends) if len(ends) >= min(FEWEST_FINISHED, len(finished)) else None,
        wording=own,
        reference=reference,
        scores=_mean_scores(asked, texts, finished),
        openings=len(asked.openings),
        opening=_sampled_opening(model, asked, template, micro_tokens=micro_tokens),
        reference_opening=commonest_opener(asked.reference_openings),
    )


def _sampled_opening(
    model: nn.Module, asked: Asked, template: ChatTemplate, *, micro_tokens: int
) -> tuple[tuple[int, ...], float]:
    """Return the most frequent beginning of sampled answers, and its share."""
    prompts = [question.prompt_ids for question in asked.openings]
    longest = max(map(len, prompts)) + OPENER_TOKENS
    made = generate(
        model,
        prompts,
        stop_ids=template.stop_ids,
        max_new_tokens=OPENER_TOKENS,
        batch_rows=max(1, min(BATCH_ROWS, micro_tokens // longest)),
        temperature=1.0,
    )
    return commonest_opener([one.tokens for one in made])


def sample_lines(step: int, asked: Asked, answered: Answered) -> Iterator[dict[str, Any]]:
    """Yield a record of samples.jsonl for each prompt; step 0 is the model before training."""
    for question, text, finished in zip(asked.questions, answered.texts, answered.finished, strict=True):
        yield {
            "step": step,
            "system": "tuned" if step else "base",
            "file": question.place.file,
            "line": question.place.line,
            "prompt": question.prompt,
            "reference": question.reference,
            "answer": text,
            "finished": finished,
        }


def _mean_scores(asked: Asked, texts: Sequence[str], finished: Sequence[bool]) -> dict[str, float]:
    """Return the mean of each metric over the answers to which it applies."""
    values: dict[str, list[float]] = {name: [] for name in asked.metrics}
    for question, text, is_end in zip(asked.questions, texts, finished, strict=True):
        scores = score(asked.metrics, text, question.reference, finished=is_end, schema=asked.schema)
        for name, value in scores.items():
            values[name].append(value)
    return {name: fmean(found) for name, found in values.items() if found}
