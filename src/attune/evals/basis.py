"""A model beside its base: the divergence of what they predict, from an adapter switched off or from kept predictions.

LoRA has its base in itself, and the whole vocabulary is compared. What the base's layers make of the same tokens never
changes, so its hidden states are kept where there is room, and only the head is computed again. A fully trained model's
base is gone after the first step, so its likeliest tokens are kept: all others count as one, and the divergence found
is at most the true one.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import torch
import xxhash
from numpy.typing import NDArray
from safetensors.numpy import load_file, save
from torch import Tensor, nn

from attune.data.batch import on_device, to_batch
from attune.data.corpus import Corpus
from attune.errors import CheckpointError
from attune.evals.heldout import arithmetic
from attune.model.divergence import TopK, top_log_probs
from attune.model.generate import vocabulary_of
from attune.model.loss import learned_logits, learned_states, logits_of
from attune.record import write_atomic
from attune.types import Batch

_BYTES = 2**26  # of log-probabilities that are compared at once
_MOST_KEPT = 2**30  # bytes of hidden states on the host


@dataclass(frozen=True, slots=True)
class Machine:
    """How a model computes: on which device, in which precision, and how many tokens at once."""

    device: torch.device
    precision: str
    micro_tokens: int


@dataclass(frozen=True, slots=True)
class Compared:
    """What a model predicts at each learned token of a corpus, in its order, all [tokens].

    nll: nats of the token itself; kl: nats, KL(base || model); stops_first: whether a stop token is the likeliest one;
    stop_share: the probability of all stop tokens together.
    """

    nll: NDArray[np.float64]
    kl: NDArray[np.float64]
    stops_first: NDArray[np.bool_]
    stop_share: NDArray[np.float64]


def has_adapter(model: nn.Module) -> bool:
    """Whether what was tuned can be switched off, so that the model is its own base."""
    return hasattr(model, "peft_config")


def without_adapter(model: Any) -> AbstractContextManager[Any]:
    """Return the context in which an adapted model is its base; nothing changes for one without an adapter."""
    return model.disable_adapter() if has_adapter(model) else nullcontext()


@torch.no_grad()
def compare(
    model: nn.Module, corpus: Corpus, base: TopK | Tensor | None, *, machine: Machine, stop_ids: Sequence[int]
) -> Compared:
    """Return what `model` predicts on `corpus` beside its base.

    base: its kept predictions, or its hidden states [tokens, H] as `keep_states` returns them; None: the model's
    adapter is switched off. The model computes in the mode it is in.
    """
    assert isinstance(base, TopK) or has_adapter(model), "a model without an adapter has no base in it"
    parts: list[Tensor] = []
    done = 0
    for batch in _in_order(corpus, machine):
        tokens = slice(done, done + batch.learned_tokens)
        own = TopK(base.ids[tokens], base.logp[tokens]) if isinstance(base, TopK) else base
        own = own[tokens] if isinstance(own, Tensor) else own
        with arithmetic(machine.precision, machine.device):
            parts += _compare_batch(model, batch, own, stop_ids)
        done = tokens.stop
    nll, kl, first, share = torch.cat(parts, dim=1).double().cpu().numpy() if parts else np.zeros((4, 0))
    return Compared(nll, kl, first > 0, share)


@torch.no_grad()
def keep_base(model: nn.Module, corpus: Corpus, machine: Machine) -> TopK:
    """Return what `model` predicts at each learned token of `corpus`, in its order, to be compared with later."""
    kept = []
    for batch in _in_order(corpus, machine):
        with arithmetic(machine.precision, machine.device):
            top = top_log_probs(model, batch)
        kept.append(TopK(top.ids.cpu(), top.logp.cpu()))
    return TopK(torch.cat([top.ids for top in kept]), torch.cat([top.logp for top in kept]))


@torch.no_grad()
def keep_states(model: nn.Module, corpus: Corpus, machine: Machine) -> Tensor | None:
    """Return the base's last hidden states at the learned tokens of `corpus`, [tokens, H] on the host.

    None where they take too much memory, or where the head that makes predictions of them may have changed.
    """
    kept, size = [], 0
    with without_adapter(model):
        for batch in _in_order(corpus, machine):
            with arithmetic(machine.precision, machine.device):
                states = learned_states(model, batch)
            if states is None or (size := size + states.nbytes) > _MOST_KEPT:
                return None
            kept.append(states.cpu())
    return torch.cat(kept)


def write_base(path: Path, kept: Mapping[str, TopK], corpora: Mapping[str, Corpus]) -> None:
    """Write kept predictions, with what tells later whether they belong to the same rows."""
    arrays = {f"{name}.{field}": getattr(top, field).numpy() for name, top in kept.items() for field in TopK._fields}
    marks = {name: _fingerprint(corpora[name]) for name in kept}
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomic(path, save(arrays, metadata=marks))


def read_base(path: Path, corpora: Mapping[str, Corpus]) -> dict[str, TopK]:
    """Return the predictions kept for some corpora. Raises: CheckpointError when they are not there or of other rows.

    They are the base's, and a model that was trained since cannot make them again.
    """
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="numpy") as file:
            marks = file.metadata() or {}
        arrays = load_file(path)
    except (OSError, SafetensorError) as error:
        raise CheckpointError(
            f"{path} cannot be read: {error}.\nIt holds what the base model predicted: restore it, or start a new run."
        ) from error
    for name, corpus in corpora.items():
        if marks.get(name) != _fingerprint(corpus):
            raise CheckpointError(f"{path} is of other {name} rows than this run's. Restore it, or start a new run.")
    return {name: TopK(*(torch.from_numpy(arrays[f"{name}.{field}"]) for field in TopK._fields)) for name in corpora}


def _fingerprint(corpus: Corpus) -> str:
    digest = xxhash.xxh3_128()
    for array in (corpus.tokens, corpus.learned, corpus.offsets):
        digest.update(np.ascontiguousarray(array).tobytes())
    return digest.hexdigest()


def _in_order(corpus: Corpus, machine: Machine) -> Iterator[Batch]:
    """Yield the rows of a corpus as batches without changing their order, however much memory there is."""
    rows: list[int] = []
    tokens = 0
    for row, length in enumerate(corpus.lengths.tolist()):
        if rows and tokens + length > machine.micro_tokens:
            yield on_device(to_batch(corpus, rows), machine.device)
            rows, tokens = [], 0
        rows.append(row)
        tokens += length
    if rows:
        yield on_device(to_batch(corpus, rows), machine.device)


def _compare_batch(
    model: nn.Module, batch: Batch, base: TopK | Tensor | None, stop_ids: Sequence[int]
) -> Iterator[Tensor]:
    """Yield nll, kl, whether a stop token is first, and its share, [4, some], of the learned tokens in order."""
    learned = batch.learned if batch.learned is not None else torch.nonzero(batch.targets >= 0).squeeze(1)
    known = [one for one in stop_ids if one < vocabulary_of(model)]  # a tokenizer may have more than the model
    targets, stops = batch.targets[learned], torch.tensor(known, dtype=torch.int64, device=batch.targets.device)
    theirs = None if isinstance(base, TopK) else _base_logits(model, batch, base)
    first = 0
    for logits in learned_logits(model, batch):
        others = None if theirs is None else next(theirs)
        for rows in _slices(logits):
            span = slice(first + rows.start, first + rows.stop)
            q = torch.log_softmax(logits[rows], dim=1)
            if others is not None:
                kl = _divergence(torch.log_softmax(others[rows], dim=1), q)
            else:
                assert isinstance(base, TopK), "without an adapter predictions were kept"
                kl = _divergence_of_top(TopK(base.ids[span], base.logp[span]), q)
            nll = -q.gather(1, targets[span, None]).squeeze(1)
            stops_first = torch.isin(q.argmax(dim=1), stops).to(q.dtype)
            yield torch.stack([nll, kl, stops_first, q[:, stops].exp().sum(dim=1)])
        first += len(logits)


def _base_logits(model: nn.Module, batch: Batch, states: Tensor | None) -> Iterator[Tensor]:
    """Return the base's logits in the pieces in which the model's own come."""
    if states is not None:
        return logits_of(model, states.to(batch.targets.device))
    chunks = learned_logits(model, batch)
    with without_adapter(model):
        ahead = next(chunks, None)  # with the first piece all hidden states are computed
    return iter(()) if ahead is None else chain((ahead,), chunks)


def _slices(logits: Tensor) -> Iterator[slice]:
    size = max(1, _BYTES // (logits.shape[1] * logits.itemsize))
    for start in range(0, len(logits), size):
        yield slice(start, min(start + size, len(logits)))


def _divergence(p: Tensor, q: Tensor) -> Tensor:
    """Return KL(p || q) of each row, nats, for log-probabilities [n, V]."""
    return torch.nn.functional.kl_div(q, p, reduction="none", log_target=True).sum(dim=1)


def _divergence_of_top(base: TopK, q: Tensor) -> Tensor:
    """Return KL(base || q) of each row, nats, where all tokens but the kept ones are one: at most the true one.

    To lump outcomes together never raises a divergence (the data processing inequality).
    """
    ids, p = base.ids.to(q.device, torch.int64), base.logp.to(q.device, q.dtype)
    kept = (p.exp() * (p - q.gather(1, ids))).sum(dim=1)
    rest_q = q.scatter(1, ids, -torch.inf).logsumexp(dim=1)
    rest_p = 1 - p.exp().sum(dim=1)
    # a rest of rounding alone, or none where the whole vocabulary is kept, says nothing
    is_rest = (rest_p > _ROUNDING) & torch.isfinite(rest_q)
    lump = rest_p * (rest_p.clamp(min=_ROUNDING).log() - rest_q)
    return kept + torch.where(is_rest, lump, 0)


_ROUNDING = 1e-6  # of a sum of probabilities in float32
