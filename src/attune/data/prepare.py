"""From data files to what is trained on: flat arrays, a ledger that reconciles, findings, and rows to look at."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any

import numpy as np
from numpy.typing import NDArray

from attune.config import Config
from attune.data.collect import Collection
from attune.data.corpus import STATES, Corpus, Entries, Places
from attune.data.findings import find
from attune.data.intake import Intake, read_examples
from attune.data.mask import Masker
from attune.data.split import choose_held_out
from attune.data.template import ChatTemplate, ShapeMismatchError, open_template
from attune.data.tokenizer import Tokenizer
from attune.errors import ConfigError, DataError
from attune.types import Example, Finding, Ledger

__all__ = ["Prepared", "prepare", "read_examples", "resolve_max_length"]

LONGEST_BY_DEFAULT = 4096
PREVIEW_ROWS = 8


@dataclass(frozen=True)
class Prepared:
    """Everything that training needs to know of the data.

    `entries` has a line for every input row, the training file's first. `valid_examples` are the held-out rows before
    encoding, one for each input row of `valid`. `layouts` says for each file how it was read.
    """

    train: Corpus
    valid: Corpus | None
    ledger: Ledger
    entries: Entries
    findings: tuple[Finding, ...]
    preview: tuple[Mapping[str, Any], ...]
    template: ChatTemplate
    layouts: Mapping[str, str]
    valid_examples: tuple[Example, ...]
    max_length: int
    max_length_reason: str

    @property
    def largest_id(self) -> int:
        """The largest token id in any row."""
        corpora = (self.train, self.valid) if self.valid is not None else (self.train,)
        return max(int(corpus.tokens.max()) for corpus in corpora)


def prepare(config: Config, tokenizer: Tokenizer, *, model_length: int | None) -> Prepared:
    """Return the data of a run, verified row by row. `model_length`: the most tokens the model can attend to.

    Raises: ConfigError, DataError or TemplateError, before anything is trained.
    """
    if not config.data.train:
        raise ConfigError("data.train is not set: name the file with the training rows.")
    limit, reason = resolve_max_length(config, model_length)
    template = open_template(config.data.template, tokenizer)
    try:
        return _prepare(config, template, limit, reason)
    except ShapeMismatchError:
        # the template looks at the words of a message: render every row with Jinja itself
        template.compiles = False
        return _prepare(config, template, limit, reason)


def resolve_max_length(config: Config, model_length: int | None) -> tuple[int, str]:
    """Return the longest row in tokens and why. Raises: ConfigError when it is more than the model can attend to."""
    wished = config.data.max_length
    if wished != "auto":
        if model_length is not None and wished > model_length:
            raise ConfigError(
                f"data.max_length is {wished}, but the model attends to at most {model_length} tokens.\n"
                f"Set data.max_length = {model_length} or less."
            )
        return wished, "chosen"
    if model_length is not None and model_length <= LONGEST_BY_DEFAULT:
        return model_length, "what the model can attend to"
    return (
        LONGEST_BY_DEFAULT,
        f"the default limit; the model could attend to {model_length}" if model_length else "the default limit",
    )


def _prepare(config: Config, template: ChatTemplate, limit: int, reason: str) -> Prepared:
    trained = _collect(config.data.train, config, template, limit=limit)
    collections = [trained]
    valid: Corpus | None
    if config.data.valid:
        held = _collect(config.data.valid, config, template, limit=limit)
        collections.append(held)
        train, valid, examples = trained.corpus(), held.corpus(), tuple(held.examples)
        _mark_held_out(held, np.ones(held.num_pieces, dtype=bool))
    else:
        train, valid, examples = _split(trained, config)
    entries = _entries(collections)
    ledger = _ledger(entries, trained, train)
    ledger.check()
    return Prepared(
        train=train,
        valid=valid,
        ledger=ledger,
        entries=entries,
        findings=find(collections, template),
        preview=_preview(train, template.tokenizer, entries),
        template=template,
        layouts={collection.intake.path: collection.intake.stated for collection in collections},
        valid_examples=examples,
        max_length=limit,
        max_length_reason=reason,
    )


def _collect(path: str, config: Config, template: ChatTemplate, *, limit: int) -> Collection:
    """Return a file taken in. Raises: DataError when nothing of it can be used."""
    collection = Collection(
        Intake(path, config.data), Masker(template, config.data.mask), limit=limit, policy=config.data.overlong
    )
    is_valid = path == config.data.valid
    draws_lots = not config.data.valid and config.data.valid_share > 0
    collection.run(draw_seed=config.seed if draws_lots else None, keeps_examples=is_valid)
    if collection.num_pieces:
        return collection
    toll, intake = collection.toll, collection.intake
    if toll.rows:
        raise DataError(
            f"{path}: 0 of {intake.rows} rows keep an answer token at data.max_length {limit}; "
            f"shortest needs {toll.shortest_need}.\n"
            f"Set data.max_length = {toll.shortest_need} or more (the model must be able to attend to that many)"
            + (", or data.overlong = split." if config.data.overlong != "split" else ".")
        )
    raise DataError(
        f"{path}: 0 of {intake.rows} rows can be learned from: {len(intake.bad)} bad, "
        f"{len(intake.empty)} with an empty answer.\n"
        'Rows with an empty answer stay with data.on_empty = "keep".'
    )


def _split(trained: Collection, config: Config) -> tuple[Corpus, Corpus | None, tuple[Example, ...]]:
    """Return training rows, held-out rows (None if there are none) and the held-out examples."""
    everything = trained.corpus()
    chosen = (
        choose_held_out(np.array(trained.draws), config.data.valid_share, most=config.data.valid_rows)
        if config.data.valid_share > 0
        else np.zeros(everything.num_rows, dtype=bool)
    )
    if not chosen.any():
        return everything, None, ()
    if chosen.all():
        raise DataError(
            f"data.valid_share = {config.data.valid_share} holds out all {everything.num_rows} rows: "
            "nothing is left to train on."
        )
    _mark_held_out(trained, chosen)
    rows = {int(row) for row in np.array(trained.rows_of, dtype=np.int64)[chosen]}
    examples = sorted((-number, example) for _, number, example in trained.lowest if -number in rows)
    return everything.keep(~chosen), everything.keep(chosen), tuple(example for _, example in examples)


def _mark_held_out(collection: Collection, chosen: NDArray[np.bool_]) -> None:
    """Note in the fates which rows are held out; a row that was also cut keeps that as its reason."""
    fates = collection.fates
    for row in dict.fromkeys(np.array(collection.rows_of, dtype=np.int64)[chosen].tolist()):
        was_cut = STATES[fates.states[row]] == "cut"
        fates.change(row, "held_out", "validation, cut: too long" if was_cut else "validation")


def _entries(collections: Sequence[Collection]) -> Entries:
    """Return the ledger's lines of all files, in order."""
    words = list(dict.fromkeys(word for collection in collections for word in collection.fates.words))
    states, reasons, numbers, lines, offsets = [], [], [], [], []
    for number, collection in enumerate(collections):
        fates = collection.fates
        table = np.array([words.index(word) for word in fates.words], dtype=np.int16)
        states.append(np.array(fates.states, dtype=np.int8))
        reasons.append(table[np.array(fates.reasons, dtype=np.int16)])
        lines.append(np.array(fates.lines, dtype=np.int64))
        offsets.append(np.array(fates.offsets, dtype=np.int64))
        numbers.append(np.full(len(fates.lines), number, dtype=np.int16))
    files = [collection.intake.path for collection in collections]
    places = Places(files, np.concatenate(numbers), np.concatenate(lines), np.concatenate(offsets))
    return Entries(places, np.concatenate(states), np.concatenate(reasons), words)


def _ledger(entries: Entries, trained: Collection, train: Corpus) -> Ledger:
    """Return the sums. Tokens are those of the training rows: held-out rows are neither learned nor lost."""
    counts = np.bincount(entries.states, minlength=len(STATES))
    reasons = Counter(zip(entries.states.tolist(), entries.reasons.tolist(), strict=True))
    named = {
        f"{STATES[state]}: {entries.words[word]}": count
        for (state, word), count in sorted(reasons.items())
        if entries.words[word]
    }
    is_held = np.array(trained.fates.states, dtype=np.int8) == STATES.index("held_out")
    tokens = int(np.array(trained.fates.tokens, dtype=np.int64)[~is_held].sum())
    kept = int(np.array(trained.fates.kept, dtype=np.int64)[~is_held].sum())
    return Ledger(
        rows=sum(1 for _ in entries.states),
        counts={state: int(count) for state, count in zip(STATES, counts, strict=True)},
        reasons=named,
        tokens_in=tokens,
        tokens_learned=train.num_learned,
        tokens_context=kept - train.num_learned,
        tokens_lost=tokens - kept,
    )


def _preview(train: Corpus, tokenizer: Tokenizer, entries: Entries) -> tuple[Mapping[str, Any], ...]:
    """Return rows to look at, spread over the corpus: each as pieces of text with 1 for learned, 0 for context."""
    rows = np.unique(np.linspace(0, train.num_rows - 1, min(PREVIEW_ROWS, train.num_rows)).astype(int))
    state_of = {(place.file, place.line): "" for place in (train.places[int(row)] for row in rows)}
    lines = entries.places.lines
    for file, line in state_of:
        number = entries.places.files.index(file)
        hits = np.flatnonzero((lines == line) & (entries.places.numbers == number))
        state_of[file, line] = STATES[int(entries.states[hits[0]])]
    return tuple(_preview_row(train, int(row), tokenizer, state_of) for row in rows)


def _preview_row(
    train: Corpus, row: int, tokenizer: Tokenizer, state_of: Mapping[tuple[str, int], str]
) -> Mapping[str, Any]:
    place, (tokens, learned) = train.places[row], train.row(row)
    pieces: list[list[Any]] = []
    start = 0
    for is_learned, run in groupby(learned.tolist()):
        end = start + sum(1 for _ in run)
        ids = tokens[start:end].tolist()
        pieces.append([tokenizer.decode(ids) if start == 0 else tokenizer.decode_after(ids), int(is_learned)])
        start = end
    return {
        "file": place.file,
        "line": place.line,
        "state": state_of[place.file, place.line],
        "tokens": len(tokens),
        "learned": int(learned.sum()),
        "pieces": pieces,
    }
