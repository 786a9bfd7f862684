"""The guard of answers' ends: is the stop token learned where it is due, and only there (G9)."""

from __future__ import annotations

from collections.abc import Iterator

from attune.evals.guards.catalog import make_alarm
from attune.evals.guards.history import History
from attune.evals.guards.statistics import share_below
from attune.types import Alarm, ProbeRecord, Severity


def ends(history: History, probe: ProbeRecord) -> list[Alarm]:
    """Return what a probe shows of the ends of answers; the model before training is not judged."""
    if not probe.step:
        return []
    return [*_not_learned(history, probe), *_runs_on(history, probe), *_stops_early(history, probe)]


def _worst(history: History, step: int, *, knew: bool) -> Severity | None:
    """Return the worst that may be said at a step: ends take time to learn, unless the model knew them before."""
    limits, share = history.thresholds, step / max(history.facts.total_steps, 1)
    if knew:
        return "error"
    if step < limits.stop_fewest_steps or share < limits.stop_warm:
        return None
    return "error" if share >= limits.stop_error_warm else "warning"


def _before(history: History) -> ProbeRecord | None:
    """Return the probe of the model before training."""
    return history.probes[0] if history.probes and history.probes[0].step == 0 else None


def _not_learned(history: History, probe: ProbeRecord) -> Iterator[Alarm]:
    """The stop token is not ranked first where an answer is over."""
    limits, before, recall = history.thresholds, _before(history), probe.stop_recall
    if recall is None or recall >= limits.stop_recall:
        return
    knew = before is not None and before.stop_recall is not None and before.stop_recall >= limits.stop_recall
    worst = _worst(history, probe.step, knew=knew)
    if worst is None:
        return
    ends = probe.finish_rate is not None and probe.finish_rate >= limits.finish_share * history.facts.reference_finish
    is_error = worst == "error" and recall < limits.stop_error_recall and not ends
    yield make_alarm(
        "stop-not-learned",
        probe.step,
        "error" if is_error else "warning",
        figure=recall,
        threshold=limits.stop_error_recall if is_error else limits.stop_recall,
        message=f"After {100 * recall:.0f} % of the validation answers the model ranks a stop token first: the others "
        "would run on.",
        fix="See that training rows teach their end: attune check --model shows it. --data.template auto or plain ends "
        "each answer; --data.overlong split or drop instead of cut.",
    )


def _runs_on(history: History, probe: ProbeRecord) -> Iterator[Alarm]:
    """Answers do not end by themselves though the references are short enough."""
    limits, before = history.thresholds, _before(history)
    if probe.finish_rate is None or probe.answers < limits.collapse_answers:
        return
    due, finished = history.facts.reference_finish, round(probe.finish_rate * probe.answers)
    knew = before is not None and before.finish_rate is not None and before.finish_rate >= limits.finish_share * due
    worst = _worst(history, probe.step, knew=knew)
    if worst is None or share_below(finished, probe.answers, limits.finish_share * due) >= limits.finish_p:
        return
    repeats = probe.stop_recall is not None and probe.stop_recall >= limits.stop_recall
    unlearned = probe.stop_recall is None or probe.stop_recall < limits.stop_error_recall
    is_error = worst == "error" and unlearned and probe.finish_rate < limits.finish_error_share * due
    yield make_alarm(
        "runs-on",
        probe.step,
        "error" if is_error else "warning",
        figure=probe.finish_rate,
        threshold=due * (limits.finish_error_share if is_error else limits.finish_share),
        message=f"{finished} of {probe.answers} answers end by themselves; {100 * due:.0f} % of the references are "
        "short enough to. "
        + ("The stop token is learned, so they go in circles." if repeats else "The stop token is not learned well."),
        fix="Read samples.jsonl. "
        + (
            f"Train longer, or --train.learning_rate {history.facts.learning_rate / 3:.1g} if they were better before."
            if repeats
            else "See that rows end with a stop token: attune check --model; --data.template auto or plain writes it."
        ),
    )


def _stops_early(history: History, probe: ProbeRecord) -> Iterator[Alarm]:
    """More than one stop token is expected before an answer is over.

    A model whose probabilities are right expects one stop in a whole answer, however unsure it is where.
    """
    limits, before = history.thresholds, _before(history)
    if probe.stop_leak is None or probe.reference_tokens is None:
        return
    expected = probe.stop_leak * max(probe.reference_tokens - 1, 0)
    if expected <= limits.early_stops:
        return
    if before is not None and before.stop_leak is not None and probe.stop_leak <= before.stop_leak:
        return
    yield make_alarm(
        "stops-early",
        probe.step,
        "warning",
        figure=expected,
        threshold=limits.early_stops,
        message=f"Inside an answer of {probe.reference_tokens:.0f} tokens the model expects {expected:.1f} stop "
        "tokens, more than uncertainty explains: answers will be cut short.",
        fix="Look for answers that are cut off (attune check, D08) and for --data.overlong cut; --data.overlong split "
        "teaches no end where none is.",
    )
