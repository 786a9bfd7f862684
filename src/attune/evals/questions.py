"""The rows of an evaluation: what is asked, what was wanted, and the same rows as tokens for the held-out loss."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from attune.config import Config
from attune.data.corpus import Corpus, to_corpus
from attune.data.encoding.mask import Masker, encode_prompt
from attune.data.encoding.template import ChatTemplate, ShapeMismatchError
from attune.data.prepare import read_examples
from attune.data.reading.schema_file import read_schema
from attune.errors import ConfigError, DataError, RefusedError
from attune.evals.tasks import Schema, applicable
from attune.record import RunFolder
from attune.types import Example, Place

SHOWN_PLACES = 5  # rows that a message names


@dataclass(frozen=True, slots=True)
class Question:
    """A row to be answered: the conversation up to its last answer, which is the reference."""

    place: Place
    prompt: str  # as a person reads it
    prompt_ids: tuple[int, ...]  # as the model sees it, in the run's chat template
    reference: str


@dataclass(frozen=True)
class Task:
    """The rows of an evaluation and how they are measured. `questions` is empty for plain text: only loss applies."""

    template: ChatTemplate
    examples: tuple[Example, ...]
    questions: tuple[Question, ...]
    corpus: Corpus
    measurable: np.ndarray[Any, np.dtype[np.bool_]]  # bool [rows]: fits into the model's context, so it has a loss
    metrics: tuple[str, ...]
    schema: Schema | None
    max_new_tokens: int
    max_new_tokens_reason: str


def held_out_examples(run: RunFolder, config: Config) -> list[Example]:
    """Return the rows that the run held out, in file order.

    Raises: ConfigError when there are none, RefusedError when a data file changed since.
    """
    lines: dict[str, set[int]] = {}
    for entry in run.read_lines("ledger.jsonl"):
        if entry.get("state") == "held_out":
            lines.setdefault(entry["file"], set()).add(entry["line"])
    if not lines:
        raise ConfigError(
            f"{run.path} held out no rows: there is nothing it has not learned from. Give some: --data FILE"
        )
    known = {file["file"]: file["sha256"] for file in run.read_json("manifest.json")["data"]["files"]}
    examples = []
    for given, wanted in lines.items():
        file = run.find(given)
        _refuse_changed(file, known.get(given))
        examples += [example for example in read_examples(file, config.data) if example.place.line in wanted]
    return examples


def _refuse_changed(file: str, sha256: str | None) -> None:
    """Raise RefusedError unless a data file is the one the run was started with."""
    if not Path(file).is_file():
        raise RefusedError(f"{file} is gone: it holds the run's held-out rows. Restore it, or give rows: --data FILE")
    if sha256 is not None and hashlib.sha256(Path(file).read_bytes()).hexdigest() != sha256:
        raise RefusedError(
            f"{file} changed since the run: its held-out rows cannot be told from learned ones.\n"
            "Restore it, or give other rows: --data FILE"
        )


def spread(examples: Sequence[Example], limit: int | None) -> list[Example]:
    """Return at most `limit` rows, evenly spread over all of them."""
    if limit is None or limit >= len(examples):
        return list(examples)
    return [examples[row] for row in np.linspace(0, len(examples) - 1, limit).round().astype(int)]


def to_questions(examples: Sequence[Example], template: ChatTemplate, *, context: int | None) -> list[Question]:
    """Return conversations as questions. Raises: DataError when a prompt leaves no room in the model's context."""
    questions = [_to_question(example, template) for example in examples]
    full = [q for q in questions if context is not None and len(q.prompt_ids) >= context]
    if full:
        more = f" and {len(full) - SHOWN_PLACES} more" if len(full) > SHOWN_PLACES else ""
        raise DataError(
            f"{len(full)} of {len(questions)} prompts fill the context of {context:,} tokens: no room to answer.\n"
            f"They stand at {', '.join(str(q.place) for q in full[:SHOWN_PLACES])}{more}.\n"
            "Shorten them, or take them out of the file."
        )
    return questions


def _to_question(example: Example, template: ChatTemplate) -> Question:
    *history, last = example.messages
    if last.role != "assistant":
        raise DataError(f"{example.place} ends with a {last.role} turn: there is no answer to compare with. Add one.")
    if last.tool_calls:  # calls are text only as the template writes them
        reference = template.render(example).turns[-1].expected.removesuffix(template.terminator)
    else:
        reference = last.content
    ids = encode_prompt(template, history, example.tools)
    return Question(example.place, _readable(example), tuple(ids), reference)


def _readable(example: Example) -> str:
    """Return the words before the last answer: of a lone question as they are, else with the roles."""
    history = example.messages[:-1]
    if len(history) == 1:
        return history[0].content
    return "\n".join(f"{message.role}: {message.content}" for message in history)


def to_rows(examples: Sequence[Example], template: ChatTemplate, mask: str) -> Corpus:
    """Return examples as tokens with their learned marks, one row each. Raises: TemplateError as training does."""
    try:
        rows = Masker(template, mask).encode(examples)
    except ShapeMismatchError:
        template.compiles = False
        rows = Masker(template, mask).encode(examples)
    assert len(rows) == len(examples), "a row of an evaluation was lost on its way to tokens"
    return to_corpus(rows)


def learned_tokens(corpus: Corpus) -> np.ndarray[Any, np.dtype[np.int64]]:
    """Return how many tokens of each row carry loss: int64 [rows]."""
    sums = np.concatenate([np.zeros(1, np.int64), np.cumsum(corpus.learned, dtype=np.int64)])
    return np.diff(sums[corpus.offsets])


def answer_limit(questions: Sequence[Question], template: ChatTemplate, wish: int | None) -> tuple[int, str]:
    """Return the longest answer in tokens that a model may give, and why."""
    if wish is not None:
        return wish, "asked for"
    lengths = [len(template.tokenizer.encode(question.reference)) + 1 for question in questions]
    usual = float(np.quantile(lengths, 0.99))
    limit = min(512, max(16, int(np.ceil(1.5 * usual))))
    return limit, f"1.5 times the 99th percentile of the references ({usual:.0f} tokens), within 16 to 512"


def plan(
    examples: Sequence[Example],
    template: ChatTemplate,
    config: Config,
    *,
    schema: str | None,
    wish: int | None,
    context: int | None,
) -> Task:
    """Return what is to be measured on `examples`, before any model is loaded."""
    opened = _open_schema(schema) if schema is not None else None
    is_text = examples[0].text is not None  # a file has one layout
    questions = [] if is_text else to_questions(examples, template, context=context)
    limit, reason = answer_limit(questions, template, wish) if questions else (0, "plain text is not asked for answers")
    corpus = to_rows(examples, template, config.data.mask)
    fits = np.ones(corpus.num_rows, dtype=bool) if context is None else corpus.lengths <= context
    return Task(
        template=template,
        examples=tuple(examples),
        questions=tuple(questions),
        corpus=corpus,
        measurable=fits & (learned_tokens(corpus) > 0),
        metrics=tuple(applicable([q.reference for q in questions], has_schema=opened is not None)),
        schema=opened,
        max_new_tokens=limit,
        max_new_tokens_reason=reason,
    )


def _open_schema(path: str) -> Schema:
    """Return the JSON Schema in a file. Raises: ConfigError when there is none."""
    return Schema(read_schema(path, "schema"), path)
