"""The guards that look at each validation: overfitting, forgetting, end tokens; collapse has its own file."""

from __future__ import annotations

import math
from collections.abc import Iterator

from attune.evals.guards.catalog import make_alarm
from attune.evals.guards.collapse import collapse
from attune.evals.guards.ends import ends
from attune.evals.guards.history import History, Validation
from attune.types import Alarm, ProbeRecord, Severity


def after_validation(history: History) -> list[Alarm]:
    """Return what the last validation and the probes beside it show; either may be absent."""
    probe = history.probes[-1] if history.probes else None
    valid = history.validations[-1] if history.validations else None
    if probe is not None and valid is not None and probe.step != valid.record.step:
        # what was measured at another step was judged then
        probe, valid = (None, valid) if valid.record.step > probe.step else (probe, None)
    found: list[Alarm] = []
    if valid is not None:
        found += _overfit(history, valid)
        found += _mismatch(history, valid, probe)
    if probe is not None:
        found += _memorised(history, probe, valid)
        found += collapse(history, probe)
        found += _forgetting(history, probe)
        found += ends(history, probe)
    return found


def _is_rise(history: History, found: Validation) -> bool:
    """Whether validation rows are surely and noticeably worse off than at the best validation before."""
    limits = history.thresholds
    if found.best is None or found.rows < limits.overfit_rows:
        return found.best is not None and _share_of_rise(found) > limits.overfit_few_rise
    least = limits.overfit_rise * found.best.val_loss
    # by rows and by tokens: a few long rows must not decide alone
    return found.z > limits.overfit_z and found.rise > least and found.record.val_loss - found.best.val_loss > least


def _share_of_rise(found: Validation) -> float:
    """Return how much higher the validation loss is than the best one, as a share of that."""
    assert found.best is not None
    return found.record.val_loss / max(found.best.val_loss, 1e-12) - 1


def _train_losses(history: History, found: Validation) -> tuple[float, float]:
    """Return the loss on training rows at the best validation and now: by the probes, else by the steps."""
    assert found.best is not None
    probes = {probe.step: probe.probe_loss for probe in history.probes}
    before, now = probes.get(found.best.step), probes.get(found.record.step)
    if before is not None and now is not None:
        return before, now
    start = found.best_train_loss
    return start if math.isfinite(start) else history.start_loss, found.train_loss


def _overfit(history: History, found: Validation) -> Iterator[Alarm]:
    """G1: validation rows get worse while training rows do not."""
    limits, best, record = history.thresholds, found.best, found.record
    if best is None or not _is_rise(history, found):
        return
    before, now = _train_losses(history, found)
    if now >= before:  # nothing more is learned of training rows either: that is no overfitting, see G7
        return
    in_a_row = 0
    for earlier in reversed(history.validations):
        if not _is_rise(history, earlier):
            break
        in_a_row += 1
    is_few = found.rows < limits.overfit_rows
    if is_few and in_a_row < limits.overfit_few_in_a_row:
        return
    sure = f"z {found.z:.1f} over {found.rows:,} rows"
    sure = f"{in_a_row} times in a row, over {found.rows:,} rows, too few for a test" if is_few else sure
    is_error = in_a_row >= limits.overfit_in_a_row and found.z > limits.overfit_error_z and not is_few
    is_error = is_error and found.rise > limits.overfit_error_rise * best.val_loss and not _task_holds(history, found)
    yield make_alarm(
        "overfit",
        record.step,
        "error" if is_error else "warning",
        figure=_share_of_rise(found) if is_few else found.z,
        threshold=limits.overfit_few_rise if is_few else limits.overfit_error_z if is_error else limits.overfit_z,
        message=f"Validation loss is {_nats(record.val_loss)}, up from {_nats(best.val_loss)} at step {best.step} "
        f"({sure}), while training loss {_went(before, now)}: rows are learned by "
        "heart.",
        fix=f"The best step is kept. --early_stop.patience 3 stops by itself; --train.steps {best.step} ends there; "
        "more rows, or --data.augment 2 for small sets."
        if best.step
        else "Training made it worse from the start: see that validation and training rows are of one kind "
        f"(attune check), and lower --train.learning_rate to {history.facts.learning_rate / 3:.1g}.",
    )


def _nats(loss: float) -> str:
    """Return a loss with as many digits as show a rise of a fiftieth, however near to 0 it is."""
    return f"{loss:.3f}" if loss >= 0.1 else f"{loss:.3g}"


def _went(before: float, now: float) -> str:
    """Return what a loss that has not risen did, in words."""
    start, end = _nats(before), _nats(now)
    return f"stays at {end}" if start == end else f"went from {start} to {end}"


def _task_holds(history: History, found: Validation) -> bool:
    """Whether the chosen task metric is no lower than where validation loss was best: then the loss alone may rise.

    Source: Zhou et al. 2023, arXiv 2305.11206: answers get better while held-out perplexity rises.
    """
    if not history.facts.has_task_metric or found.best is None:
        return False
    before, now = history.metric_at(found.best.step), history.metric_at(found.record.step)
    return before is not None and now is not None and now >= before


def _mismatch(history: History, found: Validation, probe: ProbeRecord | None) -> Iterator[Alarm]:
    """G1: training rows are learned, validation rows hardly gain from it, and that early."""
    limits, first = history.thresholds, history.validations[0].record
    epoch = history.last.epoch if history.last is not None else 0.0
    if probe is None or first.step or not found.record.step or not 0 < epoch <= limits.mismatch_passes:
        return
    fall = history.start_loss - probe.probe_loss
    if not fall >= limits.mismatch_fall or found.rows < limits.overfit_rows:
        return
    gained = first.val_loss - found.record.val_loss
    if gained >= limits.mismatch_share * fall:
        return
    yield make_alarm(
        "mismatch",
        found.record.step,
        "warning",
        figure=gained / fall,
        threshold=limits.mismatch_share,
        message=f"Training loss fell by {fall:.2f} nats, validation loss {'fell' if gained >= 0 else 'rose'} by "
        f"{abs(gained):.2f}: validation rows are of another kind, or answers do not follow from prompts (wrong or "
        "mixed-up labels).",
        fix="Compare the two sets: attune check TRAIN --against VALID. Without --data.valid, attune holds out training "
        "rows itself.",
    )


def _memorised(history: History, probe: ProbeRecord, valid: Validation | None) -> Iterator[Alarm]:
    """G2: there is nothing left to learn from the training rows."""
    least = history.thresholds.memorised_accuracy
    if not probe.step or probe.probe_accuracy < least:
        return
    beside = "" if valid is None else f", of validation rows {100 * valid.record.val_accuracy:.1f} %"
    yield make_alarm(
        "memorised",
        probe.step,
        "info",
        figure=probe.probe_accuracy,
        threshold=least,
        message=f"{100 * probe.probe_accuracy:.1f} % of the tokens of training rows are predicted right{beside}: more "
        "passes add nothing.",
        fix="Fewer --train.epochs, or more rows.",
    )


def _forgetting(history: History, probe: ProbeRecord) -> Iterator[Alarm]:
    """G4: what the model knew before. Source: Shenfeld et al. 2025, arXiv 2509.04259 (KL to the base model)."""
    limits, start = history.thresholds, history.probes[0]
    if not probe.step:
        return
    rise = math.nan
    if probe.general_loss is not None and start.step == 0 and start.general_loss is not None:
        rise = probe.general_loss - start.general_loss
    kl = math.nan if probe.kl_general is None else probe.kl_general
    severity: Severity
    if rise > limits.general_error_rise or kl > limits.general_error_kl:
        severity, by_loss, by_kl = "error", limits.general_error_rise, limits.general_error_kl
    elif rise > limits.general_rise or kl > limits.general_kl:
        severity, by_loss, by_kl = "warning", limits.general_rise, limits.general_kl
    else:
        return
    said = []
    if rise > 0 and start.general_loss is not None:
        said.append(f"general text costs {start.general_loss + rise:.2f} nats a token, {start.general_loss:.2f} before")
    if math.isfinite(kl):
        said.append(f"predictions moved by {kl:.2f} nats (KL to the base model)")
    is_loss = rise > by_loss
    yield make_alarm(
        "forgetting",
        probe.step,
        severity,
        figure=rise if is_loss else kl,
        threshold=by_loss if is_loss else by_kl,
        message=f"The model forgets: {'; '.join(said)}. Other tasks than this one suffer.",
        fix=_remedies(history),
    )


def _remedies(history: History) -> str:
    """Return what keeps general knowledge and is not in use yet, what helps most first."""
    facts = history.facts
    ways = []
    if not facts.replay_source:
        ways.append("--replay.source self (or a file of general text)")
    ways.append(f"--train.learning_rate {facts.learning_rate / 3:.1g}")
    if facts.kind == "full":
        ways.append("--adapter.kind lora")
    elif facts.rank > 1:
        ways.append(f"--adapter.rank {facts.rank // 2}")
    if facts.replay_source:
        ways.append("a larger --replay.share")
    return f"What helps, best first: {'; '.join(ways)}."
