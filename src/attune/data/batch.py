"""From rows of a corpus to micro-batches of tensors: rows laid end to end, what several begin with computed once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch
from numpy.typing import NDArray

from attune.data.corpus import Corpus
from attune.data.layout import lay_out
from attune.data.prefix import Part, plan_sharing, split
from attune.types import NOT_LEARNED, Batch

LONGEST_PADDING = 64  # tokens of one padding document
_TENSORS = (
    "tokens", "positions", "targets", "q_offsets", "kv_offsets", "weights", "kv_index", "kv_order", "kv_starts",
    "learned",
)  # fmt: skip


def step_batches(
    corpus: Corpus,
    rows: Sequence[int] | NDArray[np.integer],
    micro_tokens: int,
    *,
    share: bool,
    world_size: int = 1,
    rank: int = 0,
) -> tuple[Batch, ...]:
    """Return this rank's micro-batches of the rows of one step, each of at most `micro_tokens` computed tokens.

    With `share`, what rows begin with in common is computed once in each micro-batch. The sums of loss and gradient
    over all micro-batches are the same for any `micro_tokens`, with and without sharing. All ranks get the same number
    of micro-batches; one without rows holds a single padding token.
    """
    chosen = np.asarray(rows, dtype=np.int64)
    plan = plan_sharing(corpus, chosen) if share else None
    if plan is None:
        parts = lay_out(corpus.lengths[chosen], micro_tokens, world_size=world_size, rank=rank)
        return tuple(to_batch(corpus, chosen[part]) if part else _nothing() for part in parts)
    computed = plan.row_tokens - plan.saved
    families = split(plan.families, min(micro_tokens, -(-computed // world_size)))
    bins = lay_out([family.cost for family in families], micro_tokens, world_size=world_size, rank=rank)
    return tuple(shared_batch(corpus, [families[number] for number in one]) if one else _nothing() for one in bins)


def to_batch(corpus: Corpus, rows: Sequence[int] | NDArray[np.integer]) -> Batch:
    """Return the batch of some rows; each is a document with positions from 0.

    targets[t] is the token after t where that one is learned, else NOT_LEARNED; the last position of a row predicts
    nothing, so no row learns from the next one.
    """
    if not len(rows):
        raise ValueError("a batch needs at least one row")
    return _laid_out(corpus, [Part(0, int(corpus.lengths[row]), (int(row),)) for row in rows])


def shared_batch(corpus: Corpus, families: Sequence[Part]) -> Batch:
    """Return the batch of some families: every part is a document whose keys are those of all parts before it too.

    weights[t] is the sum of the weights of the rows that learn from position t.
    """
    parts = [part for family in families for part in family.walk()]
    batch = _laid_out(corpus, parts)
    if len(parts) == len(families):  # nothing to gather: a document sees itself
        return batch
    ranges = [one for family, first in _starts_of(families) for one in _key_ranges(family, first)]
    kv_lengths = [sum(stop - start for start, stop in seen) for seen in ranges]
    flat = np.array([one for seen in ranges for one in seen], dtype=np.int64)
    kv_index = _spans(flat[:, 0], flat[:, 1] - flat[:, 0])
    order = np.argsort(kv_index, kind="stable")
    held = np.bincount(kv_index, minlength=len(batch.tokens))
    return replace(
        batch,
        kv_offsets=_offsets(kv_lengths),
        max_kv=max(kv_lengths),
        kv_index=torch.from_numpy(kv_index),
        kv_order=torch.from_numpy(order),
        kv_starts=_offsets(held),
        kv_lengths=tuple(kv_lengths),
    )


def _starts_of(families: Sequence[Part]) -> list[tuple[Part, int]]:
    """Return each family with the place of its first token."""
    firsts = np.cumsum([0, *(family.cost for family in families)])
    return [(family, int(first)) for family, first in zip(families, firsts, strict=False)]


def _key_ranges(part: Part, first: int, before: tuple[tuple[int, int], ...] = ()) -> list[tuple[tuple[int, int], ...]]:
    """Return for a part laid at `first`, and for all that follow it, the ranges of tokens that it sees, root first."""
    seen = (*before, (first, first + part.end - part.start))
    ranges, place = [seen], seen[-1][1]
    for child in part.children:
        ranges.extend(_key_ranges(child, place, seen))
        place += child.cost
    return ranges


def _laid_out(corpus: Corpus, parts: Sequence[Part]) -> Batch:
    """Return parts end to end, each with its own positions as its only keys."""
    first_rows = np.array([part.rows[0] for part in parts])
    starts = np.array([part.start for part in parts])
    lengths = np.array([part.end for part in parts]) - starts
    index = _spans(corpus.offsets[first_rows] + starts, lengths)
    tokens = corpus.tokens[index].astype(np.int64)
    following = np.minimum(index + 1, len(corpus.tokens) - 1)
    learned = corpus.learned[following] & (index + 1 < np.repeat(corpus.offsets[first_rows + 1], lengths))
    targets = np.where(learned, corpus.tokens[following], NOT_LEARNED).astype(np.int64)
    weights = None
    rows = [row for part in parts if not part.children for row in part.rows]
    if corpus.weights is not None or any(len(part.rows) > 1 for part in parts):
        # a position carries the weight of the token that it predicts
        weights = np.ones(len(index), np.float32) if corpus.weights is None else corpus.weights[following]
        _add_up(corpus, parts, targets, weights)
    longest = int(lengths.max())
    offsets = _offsets(lengths)
    return Batch(
        tokens=torch.from_numpy(tokens),
        positions=torch.from_numpy(_spans(starts, lengths)),
        targets=torch.from_numpy(targets),
        q_offsets=offsets,
        kv_offsets=offsets,
        max_q=longest,
        max_kv=longest,
        lengths=tuple(int(length) for length in lengths),
        rows=tuple(rows),
        weights=None if weights is None else torch.from_numpy(weights),
        row_tokens=int(corpus.lengths[rows].sum()),
        learned_tokens=_count_learned(corpus, rows),
    )


def _add_up(corpus: Corpus, parts: Sequence[Part], targets: NDArray[np.int64], weights: NDArray[np.float32]) -> None:
    """Write into the positions of parts with several rows what any of them learns, and the sum of their weights."""
    place = 0
    for part in parts:
        length = part.end - part.start
        if len(part.rows) > 1:
            total, learned = np.zeros(length), np.zeros(length, bool)
            goal = corpus.row(part.rows[0])[0][part.start + 1 : part.end + 1].astype(np.int64)
            goal = np.append(goal, NOT_LEARNED)[:length]
            for row in part.rows:
                first = int(corpus.offsets[row]) + part.start + 1
                stop = max(first, min(first + length, int(corpus.offsets[row + 1])))
                mine = corpus.learned[first:stop]
                total[: stop - first] += mine if corpus.weights is None else mine * corpus.weights[first:stop]
                learned[: stop - first] |= mine
                if stop - first == length and mine[-1]:
                    goal[-1] = corpus.tokens[stop - 1]  # all who learn here learn this one: the plan sees to it
            targets[place : place + length] = np.where(learned, goal, NOT_LEARNED)
            weights[place : place + length] = total
        place += length


def _count_learned(corpus: Corpus, rows: Sequence[int]) -> int:
    """Return how many tokens some rows learn; a first token is predicted from nothing, so it is never one."""
    firsts, lengths = corpus.offsets[rows], corpus.lengths[rows]
    return int(corpus.learned[_spans(firsts + 1, lengths - 1)].sum())


def _spans(starts: NDArray[np.int64], lengths: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return start, start + 1, ... for `length` numbers of each span, one span after the other."""
    ends = np.cumsum(lengths)
    spans: NDArray[np.int64] = np.arange(ends[-1]) + np.repeat(starts - (ends - lengths), lengths)
    return spans


def _offsets(lengths: Sequence[int] | NDArray[np.int64]) -> torch.Tensor:
    """Return where things of some lengths start when laid end to end, int32 [len + 1]."""
    return torch.from_numpy(np.concatenate([[0], np.cumsum(lengths)]).astype(np.int32))


def _nothing() -> Batch:
    """Return a batch of no rows: one padding token, from which nothing is learned."""
    ends = torch.tensor([0, 1], dtype=torch.int32)
    zero = torch.zeros(1, dtype=torch.int64)
    return Batch(zero, zero, zero + NOT_LEARNED, ends, ends, max_q=1, max_kv=1, lengths=(1,), rows=())


def pad_to(batch: Batch, multiple: int) -> Batch:
    """Return the batch with padding documents appended, so that its tokens, and keys, are a multiple of `multiple`.

    Padding is token 0, learned by nobody, in documents of at most LONGEST_PADDING tokens that see only themselves; the
    last one sees its first token as often as the number of keys needs.
    """
    tokens = len(batch.tokens)
    keys = tokens if batch.kv_index is None else len(batch.kv_index)
    if tokens % multiple == 0 and keys % multiple == 0:
        return batch
    padding = -tokens % multiple or multiple
    lengths = np.array([LONGEST_PADDING] * (padding // LONGEST_PADDING) + [padding % LONGEST_PADDING or 0])
    lengths = lengths[lengths > 0]
    q_lengths = (*batch.lengths, *lengths.tolist())
    zeros = torch.zeros(padding, dtype=torch.int64)
    padded = replace(
        batch,
        tokens=torch.cat([batch.tokens, zeros]),
        positions=torch.cat([batch.positions, torch.from_numpy(_spans(np.zeros_like(lengths), lengths))]),
        targets=torch.cat([batch.targets, zeros + NOT_LEARNED]),
        weights=None if batch.weights is None else torch.cat([batch.weights, torch.ones(padding)]),
        q_offsets=_offsets(q_lengths),
        kv_offsets=_offsets(q_lengths),
        max_q=max(q_lengths),
        max_kv=max(q_lengths),
        lengths=q_lengths,
        padding=batch.padding + padding,
    )
    return padded if batch.kv_index is None else _with_padding_keys(padded, batch, multiple)


def _with_padding_keys(padded: Batch, batch: Batch, multiple: int) -> Batch:
    """Return `padded` with the keys of `batch`, those of its padding documents, and so many more as make a multiple."""
    assert batch.kv_index is not None, "there are keys to pad"
    assert batch.kv_lengths is not None, "gathered keys come with their lengths"
    old, new = len(batch.tokens), len(padded.tokens)
    extra = -(len(batch.kv_index) + new - old) % multiple
    own = np.array(padded.lengths[len(batch.lengths) :])
    index = np.concatenate([batch.kv_index.numpy(), np.arange(old, new)])
    index = np.insert(index, len(index) - own[-1], np.full(extra, new - own[-1]))
    own[-1] += extra
    kv_lengths = (*batch.kv_lengths, *own.tolist())
    return replace(
        padded,
        kv_offsets=_offsets(kv_lengths),
        max_kv=max(kv_lengths),
        kv_lengths=kv_lengths,
        kv_index=torch.from_numpy(index),
        kv_order=torch.from_numpy(np.argsort(index, kind="stable")),
        kv_starts=_offsets(np.bincount(index, minlength=new)),
    )


def on_device(batch: Batch, device: torch.device) -> Batch:
    """Return the batch with its tensors on `device`; copies from pinned memory do not wait for the device."""
    if device.type == "cpu":
        return batch
    if batch.learned is None and batch.targets.device.type == "cpu":  # found there, the host need not wait for it
        batch = replace(batch, learned=torch.nonzero(batch.targets != NOT_LEARNED).squeeze(1))
    tensors = {name: getattr(batch, name) for name in _TENSORS}
    return replace(
        batch,
        **{
            name: tensor.pin_memory().to(device, non_blocking=True)
            for name, tensor in tensors.items()
            if tensor is not None
        },
    )


def learned_weight(batch: Batch) -> float:
    """Return what the batch's summed loss is divided by: its learned tokens, or the sum of their weights."""
    learned = batch.targets != NOT_LEARNED
    return float(learned.sum() if batch.weights is None else batch.weights[learned].double().sum())


def saving(batches: Sequence[Batch]) -> float:
    """Return the share of the rows' tokens, 0 to 1, that is not computed because beginnings are shared."""
    rows = sum(batch.row_tokens for batch in batches)
    computed = sum(len(batch.tokens) - batch.padding for batch in batches if batch.rows)
    return 1 - computed / rows if rows else 0.0
