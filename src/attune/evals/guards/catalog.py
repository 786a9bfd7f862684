"""The guards by name: what each watches, when it looks, and how its alarms are made."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from attune.types import Alarm, Severity

Moment = Literal["before training", "each step", "each validation", "at the end"]


@dataclass(frozen=True, slots=True)
class Guard:
    """A kind of alarm. `severity` is the worst that it gives."""

    id: str
    name: str
    severity: Severity
    moment: Moment
    watches: str
    formula: str  # with the names of the thresholds


GUARDS = {
    guard.name: guard
    for guard in (
        Guard(
            "G1",
            "overfit",
            "error",
            "each validation",
            "Validation rows become less likely than at the best validation, training rows likelier.",
            "Paired t-test over rows against the best of the validations (Sidak), as z > `overfit_z`, and a rise of "
            "`overfit_rise` of the best loss. An error after `overfit_in_a_row` validations with z > "
            "`overfit_error_z` and a rise of `overfit_error_rise`, unless the task metric holds. Below `overfit_rows` "
            "rows: a rise of `overfit_few_rise`, `overfit_few_in_a_row` times in a row.",
        ),
        Guard(
            "G1",
            "mismatch",
            "warning",
            "each validation",
            "Training rows are learned and validation rows gain little: they are of another kind, or answers do not "
            "follow from prompts.",
            "Fall of validation loss over fall of training loss (of at least `mismatch_fall`) < `mismatch_share`, in "
            "the first `mismatch_passes` passes.",
        ),
        Guard(
            "G2",
            "memorised",
            "info",
            "each validation",
            "Training rows are predicted almost without a mistake: more passes add nothing.",
            "Token accuracy on training rows >= `memorised_accuracy`.",
        ),
        Guard(
            "G3",
            "opener-collapse",
            "error",
            "each validation",
            "Answers, sampled at temperature 1, begin with the same three tokens far more often than the references.",
            "Share >= max(`opener_share`, `opener_times` x that of the references or of the base model), binomial p < "
            "`opener_p`. An error from `opener_error_share`, `opener_in_a_row` times in a row, on free text.",
        ),
        Guard(
            "G3",
            "same-openers",
            "warning",
            "each validation",
            "The references themselves open alike, in words: the model will learn it.",
            "Share >= `reference_opener_share`, on free text.",
        ),
        Guard(
            "G3",
            "repetition",
            "warning",
            "each validation",
            "Answers repeat themselves or each other more than the references, and more than before training.",
            "Distinct pairs, answers over references < `distinct_ratio`, or compression > `compression_ratio`, "
            "`repetition_in_a_row` times in a row, on free text.",
        ),
        Guard(
            "G4",
            "forgetting",
            "error",
            "each validation",
            "General text became less likely, or is predicted otherwise, than before training.",
            "Rise of the loss > `general_rise` (error `general_error_rise`), or KL of the base model to this one > "
            "`general_kl` (error `general_error_kl`).",
        ),
        Guard(
            "G5",
            "spike",
            "warning",
            "each step",
            "Loss or gradient stand out from the steps before; the alarm names the rows. Only the gradient: an info.",
            "Robust z of the logarithm over `spike_window` steps: both > `spike_both_z`, loss > `spike_loss_z` or "
            "gradient > `spike_norm_z`; at most `spike_most` alarms.",
        ),
        Guard(
            "G5",
            "spikes-in-all",
            "warning",
            "at the end",
            "More steps stood out than were told one by one.",
            "Number of spikes > `spike_most`.",
        ),
        Guard(
            "G6",
            "not-finite",
            "error",
            "each step",
            "Loss or gradient norm are NaN or infinite; nothing is updated with them.",
            "Any such step; `not_finite_in_a_row` stop a run that skips them.",
        ),
        Guard(
            "G6",
            "not-finite-in-all",
            "warning",
            "at the end",
            "More steps were not finite than were told one by one.",
            "Number of such steps > `spike_most`.",
        ),
        Guard(
            "G7",
            "divergence",
            "error",
            "each step",
            "The loss stands above where it started, or near that of guessing.",
            "Moving average over `smooth_steps` steps, and the median of `recent_steps`, > start + `divergence_rise` "
            "or > `uniform_share` x ln(vocabulary), after warm-up.",
        ),
        Guard(
            "G7",
            "clipping",
            "warning",
            "each step",
            "Most gradients are clipped and the loss has not fallen.",
            "Share of the last `clipped_window` steps after warm-up > `clipped_share`, and a fall of the loss since "
            "the start <= `clipped_fall` of it.",
        ),
        Guard(
            "G8",
            "wrong-template",
            "error",
            "before training",
            "The model finds the answers likelier under another chat template. Where that is no template: a warning.",
            "Loss of the answers over that under the other > `template_ratio` (`template_plain_ratio` for plain).",
        ),
        Guard(
            "G8",
            "strange-text",
            "error",
            "before training",
            "The first rows are almost as unlikely as random tokens: other weights, another tokenizer or language.",
            "Loss of the answers > `start_share` x ln(vocabulary).",
        ),
        Guard(
            "G9",
            "stop-not-taught",
            "error",
            "before training",
            "Whole rows do not end with a stop token that is learned: answers will run on.",
            "Share of rows that do < `stop_rows_share` (error `stop_rows_error_share`).",
        ),
        Guard(
            "G9",
            "stop-not-learned",
            "error",
            "each validation",
            "After the last token of an answer the model does not expect its end.",
            "Share of validation answers where it does < `stop_recall` (error `stop_error_recall`), after `stop_warm` "
            "of the steps and at least `stop_fewest_steps`; at once where it did before training.",
        ),
        Guard(
            "G9",
            "runs-on",
            "error",
            "each validation",
            "Answers do not end by themselves. Where the stop token is learned (they repeat): a warning.",
            "Share that end < `finish_share` x that of short enough references (error `finish_error_share` "
            "and a stop recall below `stop_error_recall`), binomial p < `finish_p`; from the same step on as "
            "`stop-not-learned`.",
        ),
        Guard(
            "G9",
            "stops-early",
            "warning",
            "each validation",
            "Stop tokens are likely inside answers, and more so than before training: they will be cut short.",
            "Expected stop tokens before the end of an answer > `early_stops`.",
        ),
        Guard(
            "G10",
            "mask",
            "error",
            "before training",
            "What the first step learns is not what the rows teach: answers and their end tokens, once each.",
            "Learned tokens found in the batches of the first step are not those expected.",
        ),
        Guard(
            "G11",
            "truncation",
            "error",
            "before training",
            "Learned tokens are lost to `data.max_length`.",
            "Share lost > `lost_share` (error `lost_error_share`).",
        ),
        Guard(
            "G12",
            "uneven-batches",
            "warning",
            "before training",
            "Steps hold very different numbers of learned tokens: those of small steps count for more.",
            "Standard deviation over mean > `uneven_variation`, over the first steps.",
        ),
    )
}


def make_alarm(
    name: str, step: int, severity: Severity, *, figure: float, threshold: float, message: str, fix: str
) -> Alarm:
    """Return an alarm of the guard of that name."""
    return Alarm(
        id=GUARDS[name].id,
        name=name,
        step=step,
        severity=severity,
        figure=figure,
        threshold=threshold,
        message=message,
        fix=fix,
    )
