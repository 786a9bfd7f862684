"""What a model makes of every answer: does the prompt help it, and which answers does it find far less likely?"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from attune.config import Config
from attune.data.corpus import Corpus
from attune.data.lint.catalog import Found
from attune.data.lint.thresholds import DEFAULT, Thresholds
from attune.data.lint.verdict import to_findings
from attune.data.lint.waivers import open_waivers
from attune.data.prepare import Prepared
from attune.data.stream import shuffled
from attune.errors import DataError
from attune.evals.heldout import measure
from attune.model.folder import count_parameters, locate
from attune.model.loss import LossOptions
from attune.train.defaults import Facts, resolve, stream_of
from attune.train.session import Session
from attune.types import Finding
from attune.world import open_world, resolve_device

EPOCHS = 2.0  # over one half: enough to know the task, too few to learn its rows by heart
FEWEST_TOKENS = 5  # shorter answers are not judged: a few tokens are too little evidence
FEWEST_ROWS = 20  # rows of about one length that an outlier is measured against
ROBUST_SIGMA = 1.4826  # a standard deviation in median absolute deviations, for a normal distribution


def score_answers(prepared: Prepared, config: Config, thresholds: Thresholds = DEFAULT) -> list[Finding]:
    """Return rules D17 and D18 over the training rows, judged by a model that never saw the row.

    The rows are cut in two halves, near-duplicates together; a model tuned on one half scores the other. D17:
    instruction-following difficulty, the answer's perplexity after its prompt over that without it; above 1 the prompt
    makes the answer less likely, and where prompts help much, one that helps less than half as much is odd. D18:
    answers whose loss lies far above the median of answers of about their length. Both are reports: nothing is left
    out for them.
    Source: Li et al. 2024, "From Quantity to Quality", arXiv 2308.12032 (instruction-following difficulty).
    """
    corpus = prepared.train
    after_prompt, alone = _scored_by_halves(prepared, config)
    tokens = np.add.reduceat(corpus.learned, corpus.offsets[:-1], dtype=np.int64)
    numbers = _survey_numbers(prepared)
    difficulty = np.exp(np.minimum(after_prompt - alone, 50.0))
    is_long = tokens >= FEWEST_TOKENS
    weak = is_long & ((difficulty > thresholds.ifd) | is_weak(after_prompt - alone, tokens, thresholds))
    distance = outlier_distance(after_prompt, tokens)
    odd = is_long & (distance > thresholds.loss_z)
    usual = float(np.nanmedian(difficulty))
    times = [
        f"perplexity {value:.2f} times that without the prompt; {usual:.2f} is usual" for value in difficulty[weak]
    ]
    far = [f"{value:.1f} deviations above the median" for value in distance[odd]]
    found = [_found("weak-prompt", numbers[weak], times), _found("loss-outlier", numbers[odd], far)]
    waivers = open_waivers(config.data.allow, config.data.ignore)
    return to_findings(
        [one for one in found if one.rows], prepared.surveyed.places.__getitem__, corpus.num_rows, waivers=waivers
    )


def _survey_numbers(prepared: Prepared) -> NDArray[np.int64]:
    """Return the survey's number of each row of the training corpus, int64 [rows]."""
    places = prepared.surveyed.places
    number_of = {(place.file, place.offset): number for number, place in enumerate(places)}
    return np.array([number_of[place.file, place.offset] for place in prepared.train.places], dtype=np.int64)


def _scored_by_halves(prepared: Prepared, config: Config) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return the loss of each training row after its prompt and without it, by a model tuned on the other half."""
    corpus = prepared.train
    after_prompt, alone = np.zeros(corpus.num_rows), np.zeros(corpus.num_rows)
    tokenizer = prepared.template.tokenizer
    begin = tokenizer.bos_id if tokenizer.bos_id is not None else tokenizer.eos_id
    half = choose_half(prepared.surveyed.duplicates.cluster_of[_survey_numbers(prepared)], seed=config.seed)
    if half.all() or not half.any():
        raise DataError(f"--score needs rows that differ: all {corpus.num_rows} training rows repeat one another.")
    for is_judged in (half, ~half):
        judged = corpus.keep(is_judged)
        session = _tuned_on(replace(prepared, train=corpus.keep(~is_judged), valid=None), config)
        for target, rows in ((after_prompt, judged), (alone, answers_alone(judged, begin or 0))):
            target[is_judged] = measure(
                session.model,
                rows,
                micro_tokens=int(session.config.train.micro_tokens),
                device=session.world.device,
                precision=session.config.precision,
                loss=LossOptions.of(session.config.train),
            ).row_loss
    return after_prompt, alone


def choose_half(groups: NDArray[np.int64], *, seed: int) -> NDArray[np.bool_]:
    """Return about half of the rows, those of one group all or none of them, bool [rows]."""
    known, group = np.unique(groups, return_inverse=True)
    is_first = np.zeros(len(known), dtype=bool)
    is_first[shuffled(len(known), seed=seed, epoch=0)[: len(known) // 2]] = True
    chosen: NDArray[np.bool_] = is_first[group]
    return chosen


def _tuned_on(prepared: Prepared, config: Config) -> Session:
    """Return a session whose model was tuned for a few epochs; nothing is written."""
    no_stop = {"early_stop.patience": 0, "early_stop.reduce": 1.0, "early_stop.metric": "auto"}
    config = config.with_values({"train.steps": "auto", "train.epochs": EPOCHS, **no_stop})
    base = locate(config.model)
    stream = stream_of(prepared.train, config)
    facts = Facts(
        parameters=count_parameters(base),
        device=resolve_device(config.device),
        steps=stream.steps_in(EPOCHS),
        steps_per_epoch=stream.steps_per_epoch(0),
        has_valid=False,
        max_length=prepared.max_length,
        max_length_reason=prepared.max_length_reason,
    )
    settled, _ = resolve(config, facts)
    session = Session(settled, prepared, base=base, world=open_world(str(settled.device)))
    for _ in session.train():
        pass
    return session


def answers_alone(corpus: Corpus, begin: int) -> Corpus:
    """Return the learned tokens of every row after one begin token, without what stands before and between them."""
    learned = np.add.reduceat(corpus.learned, corpus.offsets[:-1], dtype=np.int64)
    offsets = np.concatenate([np.zeros(1, np.int64), np.cumsum(learned + 1)])
    tokens = np.full(int(offsets[-1]), begin, dtype=np.int32)
    is_learned = np.ones(len(tokens), dtype=bool)
    is_learned[offsets[:-1]] = False
    tokens[is_learned] = corpus.tokens[corpus.learned]
    return Corpus(tokens, is_learned, offsets, corpus.places, corpus.sources)


def is_weak(
    gains: NDArray[np.float64], tokens: NDArray[np.int64], thresholds: Thresholds = DEFAULT
) -> NDArray[np.bool_]:
    """Return where a prompt helps less than half as much as usual, and far less than others, bool [rows].

    gains: nats per token that the prompt adds to the loss of its answer; below 0 it helps.
    """
    far: NDArray[np.bool_] = outlier_distance(gains, tokens) > thresholds.weak_prompt_z
    return far & (gains > 0.5 * float(np.nanmedian(gains)))


def outlier_distance(losses: NDArray[np.float64], tokens: NDArray[np.int64]) -> NDArray[np.float64]:
    """Return how far each loss lies above the median of rows with about as many tokens, in robust deviations.

    Rows are compared within powers of two of their learned tokens; with too few of them, with all rows.
    """
    buckets = np.floor(np.log2(np.maximum(tokens, 1))).astype(np.int64)
    distance = np.zeros(len(losses))
    for bucket in np.unique(buckets):
        inside = buckets == bucket
        peers = losses[inside] if inside.sum() >= FEWEST_ROWS else losses
        peers = peers[np.isfinite(peers)]
        if len(peers) < FEWEST_ROWS:
            continue
        middle = float(np.median(peers))
        spread = ROBUST_SIGMA * float(np.median(np.abs(peers - middle)))
        distance[inside] = (losses[inside] - middle) / max(spread, 1e-6)
    return np.nan_to_num(distance, nan=0.0)


def _found(name: str, rows: NDArray[np.int64], texts: list[str]) -> Found:
    told = dict(zip(rows.tolist(), texts, strict=True))
    return Found(name, sorted(told), told)
