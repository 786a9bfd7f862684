"""Before the first step: does the chat template suit the model, and do the batches teach what the rows say?"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import islice
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray
from torch import nn

from attune.config import Config
from attune.data.corpus import Corpus
from attune.data.encoding.template import ChatTemplate, open_template
from attune.data.files import list_files
from attune.data.prepared import Prepared
from attune.data.reading.intake import Intake
from attune.errors import TemplateError
from attune.evals.basis import Machine
from attune.evals.heldout import measure
from attune.evals.questions import learned_tokens, spread, to_rows
from attune.model.generate import vocabulary_of
from attune.types import NOT_LEARNED, Batch, Example

ROWS = 32  # conversations on which templates are compared
_READ = 8  # rows of a file that are read for each of them
_CLOSE = 1e-4  # sums of loss weights, which are float32, may differ by this share


def probe_examples(config: Config, prepared: Prepared) -> list[Example]:
    """Return at most ROWS conversations of the run's data: of the held-out rows, else of the beginning of its files."""
    chats = [example for example in prepared.valid_examples if example.messages]
    if not chats:
        for file in list_files(config):
            rows = islice(Intake(file.path, config.data).stream(), _READ * ROWS)
            chats += [row for row in rows if isinstance(row, Example) and row.messages]
            if len(chats) >= ROWS:
                break
    return spread(chats, ROWS)


def template_losses(
    model: nn.Module,
    examples: Sequence[Example],
    template: ChatTemplate,
    *,
    machine: Machine,
    context: int | None = None,
) -> dict[str, float]:
    """Return the loss of last answers, without their end, under the run's template, the tokenizer's own and the plain.

    By the template's name; the run's comes first. Nats per token, where the tokens of all are counted as the run's
    template has them, so that values compare: what differs is how likely the same answers are. A template that cannot
    show the rows is left out, and so are rows longer than the context; {} where no row can be measured.
    """
    chats = [example for example in examples if example.messages]
    shown = {one.name: rows for one in _candidates(template) if (rows := _answers(chats, one)) is not None}
    if template.name not in shown:
        return {}
    known = vocabulary_of(model)
    shown = {name: corpus for name, corpus in shown.items() if name == template.name or corpus.tokens.max() < known}
    fits = np.ones(len(chats), dtype=bool)
    for corpus in shown.values():
        fits &= (corpus.lengths <= (context or np.inf)) & (learned_tokens(corpus) > 0)
    if not fits.any():
        return {}
    tokens = learned_tokens(shown[template.name])[fits].sum()
    found = {}
    for name, corpus in shown.items():
        measured = measure(
            model,
            corpus.keep(fits),
            micro_tokens=machine.micro_tokens,
            device=machine.device,
            precision=machine.precision,
        )
        found[name] = float(measured.token_loss.sum(dtype=np.float64) / tokens)
    return found


def mask_check(
    corpus: Corpus, rows: Sequence[int] | NDArray[np.integer], batches: Sequence[Batch], *, bos_id: int | None = None
) -> tuple[int, int]:
    """Return the learned tokens of some rows, and how many of them the batches made of these rows teach.

    Every token counts, with the one before it, with its loss weight and as often as it is learned. The second number is
    the first less what is learned too seldom, too often or after another token: both are equal where all is right. A
    row that teaches nothing or, with `bos_id`, begins with two begin tokens counts as a wrong token.
    """
    wanted: list[_Taught] = []
    odd = 0
    for row in rows:
        tokens, learned = corpus.row(int(row))
        at = np.flatnonzero(learned[1:]) + 1
        weights = None if corpus.weights is None else corpus.weights[corpus.offsets[row] + at]
        wanted.append(_pairs(tokens[at - 1], tokens[at], weights))
        odd += not len(at) or (bos_id is not None and tokens[:2].tolist() == [bos_id, bos_id])
    taught: list[_Taught] = []
    for batch in batches:
        targets = batch.targets.cpu().numpy()
        at = np.flatnonzero(targets != NOT_LEARNED)
        weights = None if batch.weights is None else batch.weights.cpu().numpy()[at]
        taught.append(_pairs(batch.tokens.cpu().numpy()[at], targets[at], weights))
    keys, weights = (np.concatenate(parts) for parts in zip(*wanted, *taught, strict=True))
    num_wanted = sum(len(one[0]) for one in wanted)
    weights[num_wanted:] *= -1
    _, pair = np.unique(keys, return_inverse=True)
    off = np.abs(np.bincount(pair, weights=weights))
    mean = weights[:num_wanted].sum() / max(num_wanted, 1)
    faults = int(np.ceil(off[off > _CLOSE * max(mean, 1)].sum() / max(mean, _CLOSE))) + odd
    return num_wanted, max(0, num_wanted - faults)


_Taught: TypeAlias = "tuple[NDArray[np.int64], NDArray[np.float64]]"


def _pairs(before: NDArray[Any], target: NDArray[Any], weights: NDArray[Any] | None) -> _Taught:
    """Return each learned token with the one before it as one number, and their weights."""
    keys = (before.astype(np.int64) << 32) | target.astype(np.int64)
    return keys, np.ones(len(keys)) if weights is None else weights.astype(np.float64)


def _candidates(template: ChatTemplate) -> list[ChatTemplate]:
    """Return the run's template, then those that it may have been mistaken for."""
    found = {template.source: template}
    for name in ("auto", "plain"):
        try:
            other = open_template(name, template.tokenizer)
        except TemplateError:
            continue
        found.setdefault(other.source, other)
    return list(found.values())


def _answers(examples: Sequence[Example], template: ChatTemplate) -> Corpus | None:
    """Return conversations in a template, with the words of the last answer learned; None if it cannot show them."""
    if not examples:
        return None
    try:
        corpus = to_rows(examples, template, "last")
    except TemplateError:
        return None
    return replace(corpus, learned=corpus.learned & ~np.isin(corpus.tokens, template.stop_ids))
