"""Faults that no setting and no row can bring about, put into a run of this process from outside."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn.modules.module import register_module_forward_hook

from attune.data.corpus import Corpus
from attune.data.prepared import Prepared
from attune.train import run, session
from attune.types import NOT_LEARNED, Batch


@contextmanager
def poison_embeddings(step: int) -> Iterator[None]:
    """From a step on, the embeddings of the training rows are NaN; every step must be one micro-batch."""
    passes = 0

    def poison(module: nn.Module, _given: Any, out: Any) -> Any:
        nonlocal passes
        if not isinstance(module, nn.Embedding) or not module.training or not torch.is_grad_enabled():
            return None
        passes += 1
        return out * float("nan") if passes >= step else None

    hook = register_module_forward_hook(poison)
    try:
        yield
    finally:
        hook.remove()


@contextmanager
def replaced(module: Any, name: str, wrap: Callable[[Any], Any]) -> Iterator[None]:
    """Hold another function in a function's place."""
    known = vars(module)
    real = known[name]
    known[name] = wrap(real)
    try:
        yield
    finally:
        known[name] = real


def forget_ends(corpus: Corpus) -> Corpus:
    """Return the same rows with the last token of every answer not learned."""
    learned = np.array(corpus.learned)
    follows = np.append(learned[1:], np.False_)
    follows[corpus.offsets[1:] - 1] = False  # what follows a row is another row
    return dataclasses.replace(corpus, learned=learned & follows)


def without_ends(prepared: Prepared) -> Prepared:
    """Return the same preparation with no end token learned, in validation neither."""
    valid = None if prepared.valid is None else forget_ends(prepared.valid)
    return dataclasses.replace(prepared, train=forget_ends(prepared.train), valid=valid)


def with_prompts(batch: Batch) -> Batch:
    """Return a micro-batch in which all that is not learned, the questions, is learned too."""
    targets = batch.targets.clone()
    following = torch.roll(batch.tokens, -1)
    ends = batch.q_offsets[1:].long() - 1  # the last token of a document has none to predict
    following[ends] = targets[ends]
    unlearned = targets == NOT_LEARNED
    targets[unlearned] = following[unlearned]
    weights = None if batch.weights is None else torch.where(unlearned, torch.ones_like(batch.weights), batch.weights)
    learned = torch.nonzero(targets != NOT_LEARNED).flatten()
    return dataclasses.replace(batch, targets=targets, weights=weights, learned=learned, learned_tokens=len(learned))


def mask_ends() -> AbstractContextManager[None]:
    """Let no row learn its end token, as where the padding token is the end token and padding is masked."""
    return replaced(run, "prepare", lambda real: lambda *given, **named: without_ends(real(*given, **named)))


def learn_prompts() -> AbstractContextManager[None]:
    """Let the questions be learned beside the answers, between the checked rows and the device."""
    return replaced(
        session,
        "step_batches",
        lambda real: lambda *given, **named: tuple(with_prompts(batch) for batch in real(*given, **named)),
    )


POISONED_STEP = 24  # from which on the embeddings are NaN

FAULTS: Mapping[str, Callable[[], AbstractContextManager[None]]] = {
    "": nullcontext,
    "nan": lambda: poison_embeddings(POISONED_STEP),
    "ends": mask_ends,
    "prompts": learn_prompts,
}
