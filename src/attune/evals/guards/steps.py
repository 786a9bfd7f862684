"""The guards that look at each step: spikes, what is not finite, divergence (G5 to G7)."""

from __future__ import annotations

import math
from collections.abc import Iterator
from statistics import median

from attune.evals.guards.catalog import make_alarm
from attune.evals.guards.history import History, Spike
from attune.types import Alarm, StepRecord


def after_step(history: History) -> list[Alarm]:
    """Return what the last step shows. The rows of a spike or of a step that is not finite are the caller's to name."""
    record = history.last
    if record is None:
        return []
    if history.not_finite_in_a_row:
        return [_not_finite(history, record)]
    found = [*_divergence(history, record), *_clipping(history, record)]
    return [*found, _spike(history.spike, record, history)] if history.spike else found


def _not_finite(history: History, record: StepRecord) -> Alarm:
    """G6: a step whose numbers went wrong."""
    count = history.not_finite_in_a_row
    done = "only weights whose gradient is finite were updated" if history.facts.releases else "nothing was updated"
    return make_alarm(
        "not-finite",
        record.step,
        "error",
        figure=float(count),
        threshold=1.0,
        message=f"Step {record.step}: loss {record.loss:.4g}, gradient norm {record.grad_norm:.4g}; {done} with it. "
        f"{count} such step{'s' * (count != 1)} in a row.",
        fix=f"Look at the rows named here; lower --train.learning_rate (it is {record.learning_rate:.2g}), or "
        "--precision float32 if it is another.",
    )


def _divergence(history: History, record: StepRecord) -> Iterator[Alarm]:
    """G7: the loss is higher than before training, or than anything learned should be."""
    facts, limits = history.facts, history.thresholds
    if record.step <= facts.warmup_steps or history.steps <= limits.recent_steps:
        return
    # a single wild step lifts the average, but not the median of the last ones
    start, now = history.start_loss, min(history.smooth_loss, median(history.recent))
    guessing = limits.uniform_share * math.log(facts.vocabulary)
    is_above_start = now > start + limits.divergence_rise
    if not is_above_start and not (now > guessing and history.steps >= limits.clipped_window):
        return
    fall = f"--train.learning_rate {facts.learning_rate / 3:.1g} instead of {facts.learning_rate:.2g}"
    yield make_alarm(
        "divergence",
        record.step,
        "error",
        figure=now,
        threshold=start + limits.divergence_rise if is_above_start else guessing,
        message=f"The loss of the last steps is {now:.2f} nats a token; it began at {start:.2f}"
        + (
            ": the model unlearns what it knew."
            if is_above_start
            else f", and guessing costs {math.log(facts.vocabulary):.2f}: nothing is learned."
        ),
        fix=f"{fall}; a longer --train.warmup helps if it breaks away early. Start again: these weights are damaged."
        if is_above_start
        else f"{fall}, or a larger one if the loss has not moved; see that the rows fit this model.",
    )


def _clipping(history: History, record: StepRecord) -> Iterator[Alarm]:
    """G7: the clip decides how long most gradients are."""
    limits, clipped = history.thresholds, history.clipped
    if len(clipped) < limits.clipped_steps:
        return
    share = sum(clipped) / len(clipped)
    if share <= limits.clipped_share:
        return
    if history.smooth_loss < (1 - limits.clipped_fall) * history.start_loss:
        return  # harmless as long as the loss falls: AdamW scales steps by itself
    yield make_alarm(
        "clipping",
        record.step,
        "warning",
        figure=share,
        threshold=limits.clipped_share,
        message=f"{100 * share:.0f} % of the last {len(clipped)} gradients were longer than train.clip "
        f"({history.facts.clip:g}) and were scaled down; the loss has not fallen since the start.",
        fix=f"--train.learning_rate {history.facts.learning_rate / 3:.1g}, or more rows a step (--train.batch_rows).",
    )


def _spike(spike: Spike, record: StepRecord, history: History) -> Alarm:
    """G5: a step that stands out; a gradient alone is clipped and does little harm."""
    limits = history.thresholds
    both = min(spike.loss_z, spike.norm_z) > limits.spike_both_z
    only_norm = not both and spike.loss_z <= limits.spike_loss_z
    one = limits.spike_norm_z if only_norm else limits.spike_loss_z
    before = min(limits.spike_window, history.steps - 1)
    return make_alarm(
        "spike",
        record.step,
        "info" if only_norm else "warning",
        figure=min(spike.loss_z, spike.norm_z) if both else spike.norm_z if only_norm else spike.loss_z,
        threshold=limits.spike_both_z if both else one,
        message=f"Step {record.step} stands out from the {before} before it: loss {record.loss:.3f} "
        f"(usually {spike.median:.3f}, {spike.loss_z:.0f} deviations), gradient norm {record.grad_norm:.3g} "
        f"({spike.norm_z:.0f} deviations).",
        fix="Look at the rows named here: mend or drop what is damaged. If they are fine, lower --train.clip or "
        "--train.learning_rate.",
    )
