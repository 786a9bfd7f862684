"""What the guards know before the first step: settings, what references look like, and what the base makes of rows."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from attune.config import Config
from attune.data.corpus import Corpus
from attune.data.prepared import Prepared
from attune.evals.basis import Machine
from attune.evals.guards.before import OWN, PLAIN, Start
from attune.evals.guards.history import Facts
from attune.evals.probe_plan import ProbePlan
from attune.evals.questions import learned_tokens
from attune.evals.tasks import applicable
from attune.evals.template_probe import mask_check, probe_examples, template_losses
from attune.evals.wording import commonest_opener
from attune.model.folder import model_length
from attune.types import Example, ProbeRecord

if TYPE_CHECKING:
    from attune.train.run import Inputs
    from attune.train.session import Session

MOST_STEPS = 1000  # of a run whose sizes are compared
STRUCTURED = {"label_accuracy": "labels", "numeric_match": "numbers", "json_valid": "JSON"}


def structure_of_answers(examples: Sequence[Example]) -> str:
    """Return what the last answers of conversations are, if labels, numbers or JSON; empty for free text."""
    answers = [one.messages[-1].content for one in examples if one.messages and one.messages[-1].role == "assistant"]
    found = applicable(answers, has_schema=False) if answers else []
    return next((words for metric, words in STRUCTURED.items() if metric in found), "")


def facts_of(config: Config, prepared: Prepared, *, vocabulary: int, plan: ProbePlan | None) -> Facts:
    """Return what is known of a run before its first step; `config` is resolved."""
    train, steps = config.train, int(config.train.steps)
    tokenizer = prepared.template.tokenizer
    references = [tokenizer.encode(question.reference) for question in plan.questions] if plan else []
    openings = [tokenizer.encode(question.reference) for question in plan.openings] if plan else []
    limit = plan.max_new_tokens if plan else 0
    return Facts(
        vocabulary=vocabulary,
        clip=train.clip,
        warmup_steps=round(train.warmup * steps if train.warmup < 1 else train.warmup),
        total_steps=steps,
        kind=config.adapter.kind,
        rank=config.adapter.rank,
        learning_rate=float(train.learning_rate),
        replay_source=config.replay.source,
        metric=str(config.early_stop.metric),
        is_structured=bool(structure_of_answers(prepared.valid_examples)),
        reference_finish=float(np.mean([len(ids) < limit for ids in references])) if references else 1.0,
        releases=train.gradient_release,
        reference_opener=tokenizer.decode(commonest_opener(openings)[0]) if openings else "",
    )


def measure_start(inputs: Inputs, session: Session, *, base: Sequence[ProbeRecord]) -> Start:
    """Return what was measured and counted before the first step; `base`: the probe of the model before training."""
    config, prepared = inputs.config, inputs.prepared
    template, ledger = prepared.template, prepared.ledger
    machine = Machine(session.world.device, config.precision, session.room.micro_tokens)
    examples = probe_examples(config, prepared)
    losses = template_losses(session.model, examples, template, machine=machine, context=model_length(inputs.base))
    rows, batches = session.first_batches()
    expected, found = mask_check(session.corpus, rows, batches, bos_id=template.tokenizer.bos_id)
    learned = learned_tokens(session.corpus)
    steps = range(1, min(session.total_steps, MOST_STEPS) + 1)
    return Start(
        template=template.name,
        template_loss={_key(name, template.name): loss for name, loss in losses.items()},
        base_loss=base[0].probe_loss if base and base[0].step == 0 else None,
        stop_share=_stop_share(session.corpus, template.stop_ids, cut=ledger.counts["cut"]) if examples else None,
        lost_share=ledger.learned_lost / max(ledger.learned_in, 1),
        lost_stops=ledger.counts["cut"],
        mask_expected=expected,
        mask_found=found,
        step_tokens=[int(learned[session.stream.rows(step)].sum()) for step in steps],
    )


def _key(name: str, chosen: str) -> str:
    """Return how the guard calls a template: the chosen one by its name, another one plain, or the tokenizer's own."""
    return name if name == chosen else PLAIN if name == "plain" else OWN


def _stop_share(corpus: Corpus, stop_ids: Sequence[int], *, cut: int) -> float:
    """Return the share of the rows, `cut` ones aside, whose last learned token is one at which a model stops."""
    places = np.flatnonzero(corpus.learned)
    last = np.searchsorted(places, corpus.offsets[1:], side="left") - 1
    teaches = learned_tokens(corpus) > 0
    ends = np.isin(corpus.tokens[places[last[teaches]]], list(stop_ids)).sum()
    return min(1.0, float(ends) / max(int(teaches.sum()) - cut, 1))
