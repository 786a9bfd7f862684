"""How much the guards measure: as many rows and prompts as their share of the compute of training allows."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import islice

import numpy as np

from attune.config import Config
from attune.data.corpus import Corpus
from attune.data.prepared import Prepared
from attune.data.stream import shuffled
from attune.evals.questions import Question, answer_limit
from attune.evals.samples import choose_questions
from attune.evals.wording import OPENER_TOKENS
from attune.world import mix_seed

FEWEST_ROWS, MOST_ROWS = 16, 256  # of validation, whose ends are counted one by one
FEWER = 2  # times fewer of training and of general text, of which only means over tokens are taken
FEWEST_PROMPTS, MOST_PROMPTS = 8, 64
MOST_NEW_TOKENS = 128
OPENINGS = 24  # prompts to which the beginning of an answer is sampled
GENERAL_TOKENS = 256  # of a piece of a general file
WRITTEN_TOKENS = 64  # of a text that the model writes: each costs as much as several that are read
_STEPS = 32  # sizes between the fewest and the most that are tried

# What things cost, in tokens of a forward pass.
TRAINED_TOKEN = {"full": 3.0, "lora": 2.0, "qlora": 2.0}  # forward and back; frozen weights need no gradient
GENERATED_TOKEN = 2.0
DECODE_STEP = {"cpu": 40.0, "cuda": 2000.0}  # of one token for all prompts together: weights are read, kernels started


@dataclass(frozen=True, slots=True)
class ProbePlan:
    """What is measured at each validation. Rows are those of the corpora, ascending; without prompts none is answered.

    questions are answered; openings are the prompts of which only the beginning of an answer is sampled.
    general_tokens: the longest piece of general text; cost: share of the compute of training, by `probe_cost`.
    """

    train_rows: tuple[int, ...]
    task_rows: tuple[int, ...]
    general_rows: int
    general_tokens: int
    questions: tuple[Question, ...]
    openings: tuple[Question, ...]
    max_new_tokens: int
    cost: float
    reason: str


@dataclass(frozen=True, slots=True)
class Sizes:
    """Mean lengths in tokens, how many rows there are, and how often things are measured in a run."""

    train: float
    train_rows: int  # that there are
    task: float
    task_rows: int
    prompt: float
    new_tokens: float
    general: int
    validations: int
    writes: bool  # whether the model writes its general texts
    device: str
    fewer: int = FEWER  # how many times fewer rows of training and of general text than of validation


def plan_probes(config: Config, prepared: Prepared, *, context: int | None) -> ProbePlan:
    """Return what the guards of a run measure, the same whenever it is asked; `config` has no `auto` but its guards'.

    context: tokens that the model can attend to, None: not known. Where guards.cost decides, rows and prompts grow
    together from 16 and 8 to 256 and 64; the least is measured whatever it costs.
    """
    guards = config.guards
    valid = prepared.valid if prepared.valid is not None and prepared.valid.num_learned else None
    wished = MOST_PROMPTS if guards.prompts == "auto" else max(guards.prompts, OPENINGS if guards.prompts else 0)
    questions = (
        choose_questions(prepared.valid_examples, prepared.template, count=wished, context=context, seed=config.seed)
        if valid is not None
        else []
    )
    limit = _answer_limit(config, prepared, questions)
    sizes = _sizes(config, prepared, questions, limit=limit, context=context)
    between = _tokens_between(config, prepared.train)

    def share(rows: int, prompts: int) -> float:
        return probe_cost(sizes, rows, prompts) / (TRAINED_TOKEN[config.adapter.kind] * between)

    rows, prompts = _largest(config, share, len(questions))
    chosen = spread_evenly(len(questions), prompts)
    train_rows = _choose_rows(prepared.train, rows // sizes.fewer, seed=mix_seed("probe", config.seed))
    task_rows = () if valid is None else _choose_rows(valid, rows, seed=mix_seed("task", config.seed))
    measured = f"{len(task_rows)} validation and {len(train_rows)} training rows, {rows // sizes.fewer} general texts"
    return ProbePlan(
        train_rows=train_rows,
        task_rows=task_rows,
        general_rows=min(rows // sizes.fewer, MOST_ROWS) if sizes.writes else rows // sizes.fewer,
        general_tokens=sizes.general,
        questions=tuple(questions[at] for at in chosen),
        openings=tuple(questions[at] for at in spread_evenly(len(questions), OPENINGS if chosen else 0)),
        max_new_tokens=limit,
        cost=share(rows, prompts),
        reason=_reason(config, f"{measured} and {prompts} answers", share(rows, prompts)),
    )


def probe_cost(sizes: Sizes, rows: int, prompts: int) -> float:
    """Return what measuring once costs, in tokens of a forward pass, writing general texts spread over the run."""
    few = rows // sizes.fewer
    read = min(rows, sizes.task_rows) * sizes.task + min(few, sizes.train_rows) * sizes.train + few * sizes.general
    cost = read + _generating(sizes, prompts, sizes.new_tokens) + (prompts * sizes.prompt)
    if prompts:
        cost += OPENINGS * sizes.prompt + _generating(sizes, OPENINGS, OPENER_TOKENS)
    if sizes.writes:
        cost += _generating(sizes, few, sizes.general) / sizes.validations
    return cost


def spread_evenly(count: int, wanted: int) -> list[int]:
    """Return at most `wanted` of the numbers 0 to count - 1, evenly spread."""
    if not count or not wanted:
        return []
    return [int(at) for at in np.linspace(0, count - 1, min(wanted, count)).round()]


def _generating(sizes: Sizes, texts: int, tokens: float) -> float:
    """Return what it costs to write some texts at once."""
    return (texts * GENERATED_TOKEN + DECODE_STEP[sizes.device]) * tokens if texts else 0.0


def _largest(config: Config, share: Callable[[int, int], float], questions: int) -> tuple[int, int]:
    """Return the most rows and prompts whose cost is within the share that the config allows."""
    guards = config.guards
    for step in range(_STEPS, -1, -1):
        part = step / _STEPS
        rows = _between(FEWEST_ROWS, MOST_ROWS, part) if guards.rows == "auto" else guards.rows
        prompts = _between(FEWEST_PROMPTS, MOST_PROMPTS, part) if guards.prompts == "auto" else guards.prompts
        prompts = min(prompts, questions)
        if share(rows, prompts) <= guards.cost:
            break
    return rows, prompts


def _between(fewest: int, most: int, part: float) -> int:
    return fewest + round(part * (most - fewest))


def _sizes(
    config: Config, prepared: Prepared, questions: Sequence[Question], *, limit: int, context: int | None
) -> Sizes:
    """Return what the cost depends on."""
    writes = not config.guards.general
    general = WRITTEN_TOKENS if writes else GENERAL_TOKENS
    valid = prepared.valid
    assert config.train.steps != "auto" and config.valid.every != "auto", "the config is resolved"  # noqa: PT018
    return Sizes(
        train=float(prepared.train.lengths.mean()),
        train_rows=prepared.train.num_rows,
        task=0.0 if valid is None else float(valid.lengths.mean()),
        task_rows=0 if valid is None else valid.num_rows,
        prompt=float(np.mean([len(q.prompt_ids) for q in questions])) if questions else 0.0,
        new_tokens=limit / 1.5,  # answers end by themselves
        general=min(general, context or general),
        validations=1 + math.ceil(config.train.steps / config.valid.every),
        writes=writes,
        device=config.device,
        fewer=FEWER if config.guards.rows == "auto" else 1,
    )


def _answer_limit(config: Config, prepared: Prepared, questions: Sequence[Question]) -> int:
    """Return the longest answer: 1.5 times the 99th percentile of the references, within 16 to 128 tokens."""
    wish = config.guards.max_new_tokens
    if not questions:
        return 0
    if wish != "auto":
        return wish
    return min(MOST_NEW_TOKENS, answer_limit(questions, prepared.template, None)[0])


def _tokens_between(config: Config, train: Corpus) -> float:
    """Return the tokens of training between two validations."""
    per_step = config.train.batch_tokens or config.train.batch_rows * float(train.lengths.mean())
    assert config.valid.every != "auto" and config.train.steps != "auto", "the config is resolved"  # noqa: PT018
    return min(config.valid.every, config.train.steps) * per_step


def _choose_rows(corpus: Corpus, count: int, *, seed: int) -> tuple[int, ...]:
    """Return at most `count` rows that teach something, drawn by the seed, in ascending order."""
    drawn = shuffled(corpus.num_rows, seed=seed, epoch=0).tolist()
    return tuple(sorted(islice((row for row in drawn if corpus.row(row)[1].any()), count)))


def _reason(config: Config, measured: str, share: float) -> str:
    """Say what is measured and what it costs."""
    text = f"{measured} at each validation: about {share:.1%} of the compute"
    if share > config.guards.cost:
        is_asked = "auto" not in (config.guards.rows, config.guards.prompts)
        why = "as asked" if is_asked else "fewer would say too little"
        text += f", more than guards.cost {config.guards.cost:g}: {why}"
    return text
