"""Reworded copies of training rows, for small sets: they bear their parents' places and are rows of nobody else."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from operator import itemgetter

import numpy as np
import xxhash
from numpy.typing import NDArray

from attune.config import Config
from attune.data.augment_edits import reworded
from attune.data.collect import CHUNK_ROWS, Collection
from attune.data.corpus import STATES, Corpus, to_corpus
from attune.data.duplicates.words import WordStore
from attune.data.encoding.mask import Masker
from attune.data.join import join_corpora
from attune.data.lint.view import view
from attune.data.split import draw
from attune.errors import ConfigError, TemplateError
from attune.types import Encoded, Example

MOST_ROWS = 20_000  # training rows
MANY_ROWS = 5_000  # from here on own words in more rows teach more than other words in the same ones


@dataclass(frozen=True)
class Augmented:
    """A corpus with variants of its rows at its end. `edits` says of each variant how it was made.

    tokens: of all variants.
    """

    corpus: Corpus
    edits: tuple[str, ...] = ()
    tokens: int = 0
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class _Variant:
    """A row made of another one. `parent`: its number in the survey; `copies`: how often it comes in an epoch."""

    example: Example
    edit: str
    parent: int
    copies: float


def augment(
    train: Corpus,
    trained: Sequence[tuple[Collection, float]],
    others: Sequence[Collection],
    *,
    words: WordStore,
    config: Config,
    masker: Masker,
    limit: int,
) -> Augmented:
    """Return the training rows with up to data.augment variants of each that is whole.

    A variant asks what no other row asks, trained on or held out, and its tokens are those of no other row.
    `trained`: the training files and how often their rows come; `others`: files of held-out rows; `words`: of all.

    Raises: ConfigError where there are too many rows, or only plain text.
    """
    parents = [(collection, weight, _whole_rows(collection)) for collection, weight in trained]
    total = sum(len(rows) for _, _, rows in parents)
    _refuse_large(total, config.data.augment)
    families: list[list[_Variant]] = []
    num_texts = 0
    for collection, copies, rows in parents:
        examples = collection.examples_at(set(rows))
        assert len(examples) == len(rows), "a training row was lost on its way to its variants"
        for row, example in zip(rows, examples, strict=True):
            num_texts += example.text is not None
            made = variants_of(example, config.data.augment, config.seed)
            parent = collection.fates.numbers[row]
            families.append([_Variant(variant, edit, parent, copies) for edit, variant in made])
    if num_texts == total:
        raise ConfigError(
            f"data.augment is {config.data.augment}, but all rows are plain text: there is no instruction to reword.\n"
            "Set data.augment = 0."
        )
    held = _held_out([collection for collection, _ in trained] + list(others))
    families = _without_others(families, words, held)
    chosen, rows_made = _encoded(families, train, masker, count=config.data.augment, limit=limit)
    return _joined(train, chosen, rows_made, _notes(chosen, total))


def variants_of(example: Example, count: int, seed: int) -> list[tuple[str, Example]]:
    """Return a row with its last user turn in other words, a few more than `count`: (edit, row) in order of preference.

    Which ones, depends on the row's content and the seed alone. None for plain text, and where that turn is learned.
    """
    answered = [at for at, turn in enumerate(example.messages) if turn.role == "assistant" and turn.train is not False]
    last = answered[-1] if answered else 0
    asked = next((at for at in range(last - 1, -1, -1) if example.messages[at].role == "user"), -1)
    if asked < 0 or example.messages[asked].train:
        return []
    turns = example.messages
    after = [f"{turn.content}{turn.reasoning or ''}{turn.tool_calls or ''}" for turn in turns[asked + 1 :]]
    made = reworded(
        turns[asked].content,
        answers=after,
        instructions=[turn.content for turn in turns[:asked] if turn.role in ("system", "user")],
        count=count,
        seed=draw(example, seed),
    )
    return [
        (edit, replace(example, messages=(*turns[:asked], replace(turns[asked], content=text), *turns[asked + 1 :])))
        for edit, text in made
    ]


def _whole_rows(collection: Collection) -> list[int]:
    """Return the input rows that are trained on as they are, neither cut nor split nor held out."""
    fates = collection.fates
    is_whole = (np.array(fates.states, np.int8) == STATES.index("used")) & (np.array(fates.reasons, np.int16) == 0)
    rows: list[int] = np.flatnonzero(is_whole).tolist()
    return rows


def _refuse_large(rows: int, wish: int) -> None:
    if rows > MOST_ROWS:
        raise ConfigError(
            f"data.augment is {wish}, but rewording is for sets of at most {MOST_ROWS:,} training rows; "
            f"this one has {rows:,}.\nSet data.augment = 0."
        )


def _held_out(collections: Sequence[Collection]) -> NDArray[np.int64]:
    """Return the survey's numbers of all rows that are held out, test sets among them."""
    numbers = [
        np.array(collection.fates.numbers, np.int64)[
            np.array(collection.fates.states, np.int8) == STATES.index("held_out")
        ]
        for collection in collections
    ]
    joined = np.concatenate(numbers)
    return joined[joined >= 0]


def _without_others(
    families: Sequence[list[_Variant]], words: WordStore, held: NDArray[np.int64]
) -> list[list[_Variant]]:
    """Return the variants whose question, word for word, is that of no row but their parent and its likes.

    Not even of those where one of them is held out.
    """
    keys = _question_keys(words)
    known, hidden = set(keys), {keys[row] for row in held.tolist()}
    store = WordStore()
    for number, variant in enumerate(variant for family in families for variant in family):
        store.take(view(number, variant.example))
    own = iter(_question_keys(store))
    left = []
    for family in families:
        fits = []
        for variant in family:
            key = next(own)
            if key not in hidden and (key not in known or key == keys[variant.parent]):
                fits.append(variant)
        left.append(fits)
    return left


def _question_keys(store: WordStore) -> list[int]:
    """Return for each row a hash of the words of all that comes before its last answer."""
    words = store.words()
    return [
        xxhash.xxh3_64_intdigest(words.flat[start:end].tobytes())
        for start, end in zip(words.starts[:-1].tolist(), words.answer_at.tolist(), strict=True)
    ]


def _encoded(
    families: Sequence[Sequence[_Variant]], train: Corpus, masker: Masker, *, count: int, limit: int
) -> tuple[list[_Variant], list[Encoded]]:
    """Return the first `count` variants of each family that fit and whose tokens are new, and their tokens."""
    waiting = [iter(family) for family in families]
    left = [count] * len(families)
    seen = {train.row(row)[0].tobytes() for row in range(train.num_rows)}
    found: list[tuple[int, _Variant, Encoded]] = []
    while batch := [(at, variant) for at, family in enumerate(waiting) for variant in islice(family, left[at])]:
        rows = _encode(masker, [variant.example for _, variant in batch])
        for (at, variant), row in zip(batch, rows, strict=True):
            if row is None or len(row.tokens) > limit or not row.learned.any() or row.tokens.tobytes() in seen:
                continue
            seen.add(row.tokens.tobytes())
            left[at] -= 1
            found.append((at, variant, row))
    found.sort(key=itemgetter(0))
    return [variant for _, variant, _ in found], [row for _, _, row in found]


def _encode(masker: Masker, examples: Sequence[Example]) -> Iterator[Encoded | None]:
    """Yield rows as tokens, a chunk at once; None for one whose learned tokens cannot be proved in its new words."""
    for first in range(0, len(examples), CHUNK_ROWS):
        chunk = examples[first : first + CHUNK_ROWS]
        try:
            yield from masker.encode(chunk)
        except TemplateError:
            for example in chunk:
                try:
                    yield from masker.encode([example])
                except TemplateError:
                    yield None


def _joined(train: Corpus, chosen: Sequence[_Variant], rows: Sequence[Encoded], notes: tuple[str, ...]) -> Augmented:
    """Return the training rows with the variants behind them."""
    if not rows:
        return Augmented(train, notes=notes)
    own = to_corpus(rows)
    copies = None
    if train.copies is not None:
        copies = np.concatenate([train.copies, np.array([variant.copies for variant in chosen], np.float32)])
    return Augmented(
        join_corpora([train, own], copies), tuple(variant.edit for variant in chosen), len(own.tokens), notes
    )


def _notes(chosen: Sequence[_Variant], rows: int) -> tuple[str, ...]:
    """Return what a user should hear of it."""
    parents = len({variant.parent for variant in chosen})
    said = f"augmented: {len(chosen):,} reworded rows of {parents:,} of {rows:,} training rows"
    if parents < rows:
        said += f"; {rows - parents:,} cannot be reworded without risk to their answers"
    if rows <= MANY_ROWS:
        return (said,)
    return said, f"data.augment is for small sets; among {rows:,} rows it seldom helps, and each epoch takes longer"
