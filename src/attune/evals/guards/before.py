"""The guards that look before the first step: template, end tokens, mask, truncation, evenness (G8 to G12)."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from attune.evals.guards.catalog import make_alarm
from attune.evals.guards.history import Facts
from attune.evals.guards.thresholds import DEFAULT, Thresholds
from attune.types import Alarm

OWN, PLAIN = "tokenizer", "plain"  # names of the templates that a run's own one may have been mistaken for


@dataclass(frozen=True, slots=True)
class Start:
    """What was measured and counted before the first step. Losses are in nats per learned token; None: not measured.

    template_loss: of the same answers under the run's template, the tokenizer's own and the plain one, by their names.
    step_tokens: learned tokens of the first planned steps.
    """

    template: str  # the name of the run's
    template_loss: Mapping[str, float]
    base_loss: float | None  # of the first rows
    stop_share: float | None  # of the rows that were not cut, those whose learned part ends with a stop token
    lost_share: float  # of the learned tokens, lost to truncation
    lost_stops: int  # rows that lost their end
    mask_expected: int  # learned tokens of the first step's rows
    mask_found: int  # those of them that its batches learn, as they should and nothing else
    step_tokens: Sequence[int]


def before_training(start: Start, facts: Facts, thresholds: Thresholds = DEFAULT) -> list[Alarm]:
    """Return what is wrong before a single weight has changed, worst guards first by number; step 0."""
    found = (
        _wrong_template(start, thresholds),
        _strange_text(start, facts, thresholds),
        _stop_not_taught(start, thresholds),
        _mask(start),
        _truncation(start, thresholds),
        _uneven(start, thresholds),
    )
    return [alarm for alarms in found for alarm in alarms]


def _wrong_template(start: Start, limits: Thresholds) -> Iterator[Alarm]:
    """G8: the same answers are likelier under another template."""
    chosen = start.template_loss.get(start.template, math.nan)
    for name in (OWN, PLAIN):
        other = start.template_loss.get(name)
        least = limits.template_ratio if name == OWN else limits.template_plain_ratio
        if name == start.template or other is None:
            continue
        if not (chosen > least * other and chosen - other > limits.template_difference):
            continue
        words = "the tokenizer's own template" if name == OWN else "plain text without markup"
        yield make_alarm(
            "wrong-template",
            0,
            "error" if name == OWN else "warning",
            figure=chosen / other if other > 0 else chosen,
            threshold=least,
            message=f"The answers cost the model {chosen:.2f} nats a token under the template {start.template}, "
            f"{other:.2f} under {words}: training would spend itself on new markup.",
            fix="--data.template auto takes the tokenizer's own."
            if name == OWN
            else "--data.template plain, unless the model must learn this template; then this alarm goes by itself.",
        )
        return


def _strange_text(start: Start, facts: Facts, limits: Thresholds) -> Iterator[Alarm]:
    """G8: the base model can make nothing of the rows."""
    limit = limits.start_share * math.log(facts.vocabulary)
    if start.base_loss is None or not start.base_loss > limit:
        return
    yield make_alarm(
        "strange-text",
        0,
        "error",
        figure=start.base_loss,
        threshold=limit,
        message=f"Before training the answers cost {start.base_loss:.2f} nats a token; guessing costs "
        f"{math.log(facts.vocabulary):.2f}. The model knows next to nothing of this text.",
        fix="See that --model holds trained weights with their own tokenizer, and look at the rows: "
        "attune check --model shows them as tokens.",
    )


def _stop_not_taught(start: Start, limits: Thresholds) -> Iterator[Alarm]:
    """G9: rows that never show how to stop."""
    share = start.stop_share
    if share is None or share >= limits.stop_rows_share:
        return
    is_error = share < limits.stop_rows_error_share
    yield make_alarm(
        "stop-not-taught",
        0,
        "error" if is_error else "warning",
        figure=share,
        threshold=limits.stop_rows_error_share if is_error else limits.stop_rows_share,
        message=f"Only {100 * share:.1f} % of the rows end with a stop token that is learned: the tuned model's "
        "answers will run on.",
        fix="--data.template auto or plain ends each answer; a template of your own must write the end token after "
        "the answer, and no row may exclude its last turn.",
    )


def _mask(start: Start) -> Iterator[Alarm]:
    """G10: the batches of the first step learn other tokens than the rows say."""
    if start.mask_found == start.mask_expected > 0:
        return
    yield make_alarm(
        "mask",
        0,
        "error",
        figure=float(start.mask_found),
        threshold=float(start.mask_expected),
        message=f"The first step should learn {start.mask_expected:,} tokens, answers and their end tokens; "
        f"{start.mask_found:,} of them are learned as they should.",
        fix="attune check --model shows what is learned of each row (--data.mask). --data.share_prefixes false rules "
        "out shared beginnings; if that helps, report it as a bug.",
    )


def _truncation(start: Start, limits: Thresholds) -> Iterator[Alarm]:
    """G11: learned tokens that no step will see."""
    if start.lost_share <= limits.lost_share:
        return
    is_error = start.lost_share > limits.lost_error_share
    yield make_alarm(
        "truncation",
        0,
        "error" if is_error else "warning",
        figure=start.lost_share,
        threshold=limits.lost_error_share if is_error else limits.lost_share,
        message=f"{100 * start.lost_share:.1f} % of the learned tokens lie beyond data.max_length and are lost; "
        f"{start.lost_stops:,} row{'s' * (start.lost_stops != 1)} lost the end of the answer.",
        fix="Raise --data.max_length, or --data.overlong split keeps all tokens.",
    )


def _uneven(start: Start, limits: Thresholds) -> Iterator[Alarm]:
    """G12: steps of very different size."""
    tokens = np.asarray(start.step_tokens, dtype=np.float64)
    if len(tokens) < limits.uneven_steps or tokens.mean() <= 0:
        return
    variation = float(tokens.std() / tokens.mean())
    if variation <= limits.uneven_variation:
        return
    yield make_alarm(
        "uneven-batches",
        0,
        "warning",
        figure=variation,
        threshold=limits.uneven_variation,
        message=f"Steps hold {tokens.min():,.0f} to {tokens.max():,.0f} learned tokens, {variation:.2f} of their mean "
        "in standard deviation: a token in a small step moves the weights more than one in a large step.",
        fix="--train.batch_tokens fills each step with tokens instead of rows; larger --train.batch_rows "
        "evens them out, too.",
    )
