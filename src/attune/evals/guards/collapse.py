"""The guard of the form of answers: openers, repetition, against references and the base model (G3)."""

from __future__ import annotations

from collections.abc import Iterator

from attune.evals.guards.catalog import make_alarm
from attune.evals.guards.history import History
from attune.evals.guards.statistics import share_above
from attune.types import Alarm, ProbeRecord


def collapse(history: History, probe: ProbeRecord) -> list[Alarm]:
    """Return what a probe shows of the form of answers. References are judged before training, answers after it.

    Source: Shaib et al. 2024, arXiv 2403.00553 (compression and distinct n-grams as measures of diversity).
    """
    found, fewest = [*_same_openers(history, probe)], history.thresholds.collapse_answers
    if probe.step and probe.openings >= fewest:
        found += _openers(history, probe)
    if probe.step and probe.answers >= fewest:
        found += _repetition(history, probe)
    return found


def _has_words(opener: str) -> bool:
    """Whether an opener is language: markup, brackets and digits open alike by their nature."""
    return opener[:1] not in set("{[<`#|") and sum(letter.isalpha() for letter in opener) >= 2


def _same_openers(history: History, probe: ProbeRecord) -> Iterator[Alarm]:
    """The references of free text begin alike: what is in the data will be in the model."""
    facts, least, share = history.facts, history.thresholds.reference_opener_share, probe.reference_opener_share
    if share is None or share < least or facts.is_structured or probe.openings < history.thresholds.collapse_answers:
        return
    if facts.reference_opener and not _has_words(facts.reference_opener):
        return
    words = f' ("{_short(facts.reference_opener)}")' if facts.reference_opener else ""
    yield make_alarm(
        "same-openers",
        probe.step,
        "warning",
        figure=share,
        threshold=least,
        message=f"{100 * share:.0f} % of the validation answers begin with the same three tokens{words}: expect every "
        "reply to, whatever is asked.",
        fix="Rewrite or drop most of these openings; attune check --fix lists them (D09). If they are meant, go on.",
    )


def _excess(history: History, probe: ProbeRecord) -> float | None:
    """Return the share of openers that is to be expected, if the answers exceed it surely; else None."""
    limits, share = history.thresholds, probe.opener_share
    if share is None or probe.reference_opener_share is None or not probe.step:
        return None
    expected = probe.reference_opener_share
    start = history.probes[0]
    if start.step == 0 and start.opener is not None and start.opener == probe.opener:
        expected = max(expected, start.opener_share or 0.0)
    if share < max(limits.opener_share, limits.opener_times * expected):
        return None
    count = round(share * probe.openings)
    # one answer in n is the least that n references can show of an opener
    p = share_above(count, probe.openings, max(expected, 1 / probe.openings))
    return expected if p < limits.opener_p else None


def _openers(history: History, probe: ProbeRecord) -> Iterator[Alarm]:
    """Answers begin alike, references do not."""
    limits, expected, share = history.thresholds, _excess(history, probe), probe.opener_share
    if expected is None or share is None:
        return
    in_a_row = 0
    for earlier in reversed(history.probes):
        if _excess(history, earlier) is None or (earlier.opener_share or 0.0) < limits.opener_error_share:
            break
        in_a_row += 1
    # answers of a closed set begin alike while the model still takes the most frequent one
    is_error = in_a_row >= limits.opener_in_a_row and not history.facts.is_structured
    opener = f' "{_short(probe.opener)}"' if probe.opener else " alike"
    yield make_alarm(
        "opener-collapse",
        probe.step,
        "error" if is_error else "warning",
        figure=share,
        threshold=limits.opener_error_share if is_error else max(limits.opener_share, limits.opener_times * expected),
        message=f"{round(share * probe.openings)} of {probe.openings} sampled answers begin{opener}; references do so "
        f"in at most {100 * (probe.reference_opener_share or 0.0):.0f} %.",
        fix=f"Read samples.jsonl. Fewer passes (--train.epochs), --train.learning_rate "
        f"{history.facts.learning_rate / 3:.1g}, or more varied rows; an earlier step may be better.",
    )


def _repetition(history: History, probe: ProbeRecord) -> Iterator[Alarm]:
    """Answers are poorer than the references, and poorer than before training, in several validations in a row."""
    limits = history.thresholds
    if history.facts.is_structured:  # labels and fields come from few words
        return
    last = [one for one in history.probes if one.step][-limits.repetition_in_a_row :]
    found = [_poorer(history, one) for one in last]
    if len(last) < limits.repetition_in_a_row or None in found or found[-1] is None:
        return
    figure, threshold, said = found[-1]
    yield make_alarm(
        "repetition",
        probe.step,
        "warning",
        figure=figure,
        threshold=threshold,
        message=f"{said}, less varied than before training: they repeat themselves or each other.",
        fix=f"Read samples.jsonl. Fewer passes (--train.epochs), --train.learning_rate "
        f"{history.facts.learning_rate / 3:.1g}; a small set needs more rows.",
    )


def _poorer(history: History, probe: ProbeRecord) -> tuple[float, float, str] | None:
    """Return by how much answers are poorer, the threshold and what that is in words; None if they are not."""
    limits, start = history.thresholds, history.probes[0]
    distinct = _ratio(probe.distinct_2, probe.reference_distinct_2)
    dense = _ratio(probe.compression, probe.reference_compression)
    before = start if start.step == 0 else None
    by_distinct = distinct is not None and distinct < limits.distinct_ratio
    by_compression = dense is not None and dense > limits.compression_ratio
    if before is not None and before.distinct_2 is not None and probe.distinct_2 is not None:
        by_distinct = by_distinct and probe.distinct_2 < before.distinct_2
    if before is not None and before.compression is not None and probe.compression is not None:
        by_compression = by_compression and probe.compression > before.compression
    if by_distinct and distinct is not None:
        said = f"Answers hold {100 * distinct:.0f} % of the different word pairs of the references"
        return distinct, limits.distinct_ratio, said
    if by_compression and dense is not None:
        return dense, limits.compression_ratio, f"Answers compress {dense:.1f} times as well as the references"
    return None


def _ratio(value: float | None, reference: float | None) -> float | None:
    return None if value is None or not reference else value / reference


def _short(text: str) -> str:
    """Return the beginning of a text in one line."""
    line = " ".join(text.split())
    return line if len(line) <= 40 else f"{line[:37]}..."
