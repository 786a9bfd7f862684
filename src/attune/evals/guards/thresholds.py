"""Every threshold of the guards, once: a guard's number stands here and nowhere else."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Thresholds:
    """The numbers behind the alarms. Losses are in nats per token, shares from 0 to 1, z in standard errors."""

    # G1 overfit: validation rows against themselves at the best validation so far
    overfit_z: float = 2.0  # paired test over rows, as the z of a normal distribution, against the best of several
    overfit_rise: float = 0.02  # of the best validation loss: less is no rise, however sure
    overfit_in_a_row: int = 3  # validations, from which the warning is an error
    overfit_error_z: float = 3.0  # that an error needs besides: the best validation may have been a lucky one
    overfit_error_rise: float = 0.05  # of the best validation loss, likewise
    overfit_rows: int = 8  # fewer validation rows say nothing by a test
    overfit_few_rise: float = 0.2  # of the best validation loss: what so few rows must show instead ...
    overfit_few_in_a_row: int = 2  # ... in so many validations
    overfit_most_rows: int = 2000  # rows that are compared, those that the run folder keeps
    # G1 mismatch: what training rows gained against what validation rows gained
    mismatch_fall: float = 0.3  # loss on training rows must have fallen so much before they are compared
    mismatch_share: float = 0.35  # of that fall; validation rows that gained less are of another kind
    mismatch_passes: float = 2.0  # over the rows; later a small gain may be overfitting
    # G2 memorised
    memorised_accuracy: float = 0.98  # share of the learned tokens of training rows that are ranked first
    # G3 collapse: answers against references
    opener_share: float = 0.2  # of answers that begin with the same three tokens
    opener_times: float = 2.0  # the share among the references (or of the model before training, if that is larger)
    opener_p: float = 0.01  # one-sided binomial test against that share
    opener_error_share: float = 0.5
    opener_in_a_row: int = 2  # validations, from which it is an error
    reference_opener_share: float = 0.5  # of free-text references
    distinct_ratio: float = 0.6  # different pairs of words, answers over references
    compression_ratio: float = 1.5  # answers over references
    repetition_in_a_row: int = 3  # validations; a model that only begins to learn repeats itself for a while
    collapse_answers: int = 8  # fewer answers, or sampled beginnings, say nothing
    # G4 forgetting: general text, against the model before training
    general_rise: float = 0.1  # perplexity times 1.1
    general_error_rise: float = 0.7  # perplexity times 2
    general_kl: float = 0.1  # KL of the base model to the tuned one, per token
    general_error_kl: float = 0.7
    # G5 spikes: against the last steps, in robust deviations of the logarithm
    spike_window: int = 30  # steps that a step is compared with; more of them reach back to where the loss fell
    spike_fewest: int = 15  # steps before which none is judged
    spike_both_z: float = 4.5  # of loss and gradient norm at once
    spike_loss_z: float = 5.5  # of the loss alone
    spike_norm_z: float = 8.0  # of the gradient norm alone
    spike_least_deviation: float = 0.05  # of the logarithm: steadier runs are judged as if they varied so much
    spike_least_rise: float = 0.1  # of the loss above the median, less is no spike
    spike_most: int = 5  # alarms of a run; further spikes are counted
    # G6 not finite
    not_finite_in_a_row: int = 3  # steps that are skipped before the run stops
    # G7 divergence
    smooth_steps: int = 20  # of the moving average of the loss
    recent_steps: int = 5  # whose median must agree with the average; the first ones' mean is the start without probes
    divergence_rise: float = 0.5  # of the average above the loss at the start
    uniform_share: float = 0.8  # of the loss of guessing evenly (ln of the vocabulary)
    clipped_window: int = 100  # steps that are looked at
    clipped_share: float = 0.5  # of them whose gradient was clipped
    clipped_fall: float = 0.05  # of the loss at the start: a run whose loss fell so much is well in spite of it
    clipped_steps: int = 50  # steps after warm-up before which it is not judged
    # G8 wrong template: answers of some rows before training
    template_ratio: float = 1.1  # loss under the chosen template over that under another one
    template_plain_ratio: float = 1.5  # over that without any markup, which models without chat training like best
    template_difference: float = 0.05  # smaller differences are noise
    start_share: float = 0.9  # of the loss of guessing evenly
    # G9 end of answers
    stop_rows_share: float = 0.99  # of rows that are whole and whose learned part ends with a stop token
    stop_rows_error_share: float = 0.9
    stop_recall: float = 0.9  # share of answers after which the model ranks a stop token first
    stop_error_recall: float = 0.5
    finish_share: float = 0.9  # of the share of references that are short enough
    finish_error_share: float = 0.5
    finish_p: float = 0.05  # one-sided binomial test, as answers are few
    early_stops: float = 1.5  # stop tokens expected before an answer is over; 1 is the most that uncertainty explains
    stop_warm: float = 0.3  # share of the steps after which ends are judged; at once where the model knew them before
    stop_fewest_steps: int = 10  # before which none is judged, as few steps teach no end; likewise
    stop_error_warm: float = 0.5  # share of the steps after which it can be an error
    # G11 truncation
    lost_share: float = 0.005  # of the learned tokens
    lost_error_share: float = 0.05
    # G12 uneven batches
    uneven_variation: float = 0.5  # standard deviation over mean of the learned tokens of a step
    uneven_steps: int = 4  # fewer steps say nothing


DEFAULT = Thresholds()
