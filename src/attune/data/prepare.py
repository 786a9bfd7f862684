"""From data files to what is trained on: flat arrays, a ledger that reconciles, findings, and rows to look at."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from attune.config import Config
from attune.data.augment import Augmented, augment
from attune.data.cache import open_cache
from attune.data.collect import Collection
from attune.data.corpus import STATES, Corpus, Entries
from attune.data.encoding.by_word import WordMismatchError, open_words
from attune.data.encoding.mask import Masker
from attune.data.encoding.template import ChatTemplate, ShapeMismatchError, open_template
from attune.data.encoding.tokenizer import Tokenizer
from attune.data.files import DataFile, list_files
from attune.data.findings import find, find_ignored_files, in_order
from attune.data.join import Joined, join_entries
from attune.data.lint.rows import RowOptions
from attune.data.lint.waivers import Waivers, open_waivers
from attune.data.parallel import Desk, Order, open_crew
from attune.data.prepared import Prepared
from attune.data.preview import preview_rows
from attune.data.reading.hub import is_hub
from attune.data.reading.intake import Intake, read_examples
from attune.data.reading.schema_file import open_answer_schema
from attune.data.split import choose_held_out
from attune.data.survey import Survey, Surveyed
from attune.errors import ConfigError, DataError
from attune.types import Example, Ledger

__all__ = ["Prepared", "prepare", "read_examples", "resolve_max_length"]

LONGEST_BY_DEFAULT = 4096
LARGE_BYTES = 2 * 1024 * 1024  # of data files: from here on another way to encode them is worth its opening
HELD_OUT = "validation"


def prepare(config: Config, tokenizer: Tokenizer, *, model_length: int | None, with_coverage: bool = False) -> Prepared:
    """Return the data of a run, verified row by row. `model_length`: the most tokens the model can attend to.

    Raises: ConfigError, DataError or TemplateError, before anything is trained.
    """
    if not config.data.train:
        raise ConfigError("data.train is not set: name the file with the training rows.")
    limit = resolve_max_length(config, model_length)
    template = open_template(config.data.template, tokenizer)
    preparation = _Preparation(
        config,
        template,
        list_files(config),
        waivers=open_waivers(config.data.allow, config.data.ignore),
        limit=limit,
        with_coverage=with_coverage,
    )
    cache = open_cache(config, preparation.files, template, limit)
    if cache is None:
        return preparation.run()
    found = cache.read(template, look=lambda: _look(preparation.run()))
    return found or cache.write(preparation.run())


def _look(prepared: Prepared) -> tuple[Surveyed, tuple[Collection, ...]]:
    return prepared.surveyed, prepared.collections


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


class _Preparation:
    """All that a preparation starts from; `run` goes through all files."""

    def __init__(
        self,
        config: Config,
        template: ChatTemplate,
        files: Sequence[DataFile],
        *,
        waivers: Waivers,
        limit: tuple[int, str],
        with_coverage: bool,
    ) -> None:
        self.config, self.template, self.files, self.waivers = config, template, files, waivers
        self.limit, self.reason = limit
        self.with_coverage = with_coverage
        self.schema = open_answer_schema(config.data.answer_schema)

    def run(self) -> Prepared:
        """Return the rows of all files as what is trained on and what is known of it."""
        size = sum(0 if is_hub(file.path) else Path(file.path).stat().st_size for file in self.files)
        self.words = open_words(self.template.tokenizer.backend) if size >= LARGE_BYTES else None
        while True:
            options = RowOptions(special_tokens=tuple(self.template.tokenizer.special_tokens))
            self.survey = Survey(options, self.schema, with_coverage=self.with_coverage)
            order = Order.of(
                self.config,
                self.template,
                by_word=self.words is not None,
                limit=self.limit,
                with_coverage=self.with_coverage,
            )
            try:
                with open_crew(Desk(order, self.template, self.words)) as self.crew:
                    return self._run()
            except ShapeMismatchError:
                # the template looks at the words of a message: render every row with Jinja itself
                self.template.compiles = False
            except WordMismatchError:
                self.words = None

    def _run(self) -> Prepared:
        data, files = self.config.data, self.files
        sources = [file for file in files if file.part == "train"]
        trained = [self._collect(file) for file in sources]
        if not any(collection.num_pieces for collection in trained):
            raise DataError(_nothing_text(trained, self.limit, data.overlong))
        held = [self._collect(file) for file in files if file.part == "valid"]
        for collection in held:
            if not collection.num_pieces:
                raise DataError(_nothing_text([collection], self.limit, data.overlong))
        tests = [self._look_at(file) for file in files if file.part == "test"]
        surveyed = self.survey.finish()
        joined = Joined(trained, [source.weight for source in sources])
        copies = np.zeros(joined.corpus.num_rows, dtype=bool)
        if data.duplicates == "drop":
            copies = joined.repeats(surveyed.duplicates)
            joined.mark(copies, "duplicate", "repeats an earlier row")
        if held:
            joined_held = Joined(held, [1.0] * len(held))
            joined_held.mark(np.ones(joined_held.corpus.num_rows, dtype=bool), "held_out", HELD_OUT)
            train = joined.corpus.keep(~copies) if copies.any() else joined.corpus
            valid: Corpus | None = joined_held.corpus
            examples = tuple(example for collection in held for example in collection.examples)
        else:
            train, valid, examples = self._split(joined, copies, surveyed)
        collections = (*trained, *held, *tests)
        made = self._augment(train, list(zip(trained, sources, strict=True)), (*held, *tests), surveyed)
        entries = join_entries(collections)
        ledger = _ledger(entries, trained, made)
        ledger.check()
        return Prepared(
            train=made.corpus,
            valid=valid,
            ledger=ledger,
            entries=entries,
            findings=in_order(
                [*find(collections, self.template, surveyed, self.waivers), *find_ignored_files(data.train)]
            ),
            preview=preview_rows(made.corpus, self.template.tokenizer, entries, augmented=len(made.edits)),
            template=self.template,
            layouts={collection.intake.path: collection.intake.stated for collection in collections},
            valid_examples=examples,
            max_length=self.limit,
            max_length_reason=self.reason,
            look=lambda: (surveyed, collections),
            notes=made.notes,
            augmented=made.edits,
        )

    def _augment(
        self,
        train: Corpus,
        trained: Sequence[tuple[Collection, DataFile]],
        others: Sequence[Collection],
        surveyed: Surveyed,
    ) -> Augmented:
        """Return the training rows with the variants that data.augment asks for."""
        if not self.config.data.augment:
            return Augmented(train)
        return augment(
            train,
            [(collection, file.weight) for collection, file in trained],
            others,
            words=surveyed.store,
            config=self.config,
            masker=Masker(self.template, self.config.data.mask),
            limit=self.limit,
        )

    def _collection(self, file: DataFile) -> Collection:
        data = self.config.data
        intake, masker = Intake(file.path, data, file.source), Masker(self.template, data.mask, self.words)
        return Collection(intake, masker, self.survey, part=file.part, limit=self.limit, policy=data.overlong)

    def _collect(self, file: DataFile) -> Collection:
        """Return a file taken in, in several processes where that is faster."""
        collection = self._collection(file)
        draws_lots = file.part == "train" and not self.config.data.valid and self.config.data.valid_share > 0
        seed, keeps = self.config.seed if draws_lots else None, file.part == "valid"
        tasks = self.crew.cut(file, draw_seed=seed, keeps_examples=keeps)
        parts = self.crew.collect(tasks)
        if not parts:
            collection.run(draw_seed=seed, keeps_examples=keeps)
            return collection
        collection.intake.form, collection.intake.layout = parts[0].intake.form, parts[0].intake.layout
        for part in parts:
            collection.absorb(part)
        collection.close()
        return collection

    def _look_at(self, file: DataFile) -> Collection:
        """Return a test set that was looked at and not encoded: its rows are only compared with training rows."""
        collection = self._collection(file)
        collection.look_only()
        return collection

    def _split(
        self, joined: Joined, copies: NDArray[np.bool_], surveyed: Surveyed
    ) -> tuple[Corpus, Corpus | None, tuple[Example, ...]]:
        """Return training rows, held-out rows (None if there are none) and the held-out examples.

        Rows that nearly repeat each other draw one lot together, so none is held out while its like is trained on.
        """
        data = self.config.data
        everything = joined.corpus
        chosen = np.zeros(everything.num_rows, dtype=bool)
        if data.valid_share > 0:
            draws = joined.draws_of(surveyed.duplicates.cluster_of)
            chosen[~copies] = choose_held_out(draws[~copies], data.valid_share, most=data.valid_rows)
        if not chosen.any():
            return everything.keep(~copies) if copies.any() else everything, None, ()
        if (chosen | copies).all():
            raise DataError(
                f"data.valid_share = {data.valid_share} holds out all {int(chosen.sum())} rows: "
                "nothing is left to train on."
            )
        joined.mark(chosen, "held_out", HELD_OUT)
        held = everything.keep(chosen)
        held = Corpus(held.tokens, held.learned, held.offsets, held.places, held.sources, held.weights)
        return everything.keep(~(chosen | copies)), held, joined.examples_of(chosen)


def _nothing_text(collections: Sequence[Collection], limit: int, policy: str) -> str:
    """Say why no row of some files can be learned."""
    path = ", ".join(collection.intake.path for collection in collections[:3])
    rows = sum(collection.intake.rows for collection in collections)
    needs = [collection.toll.shortest_need for collection in collections if collection.toll.rows]
    if needs:
        return (
            f"{path}: 0 of {rows} rows keep an answer token at data.max_length {limit}; shortest needs {min(needs)}.\n"
            f"Set data.max_length = {min(needs)} or more (the model must be able to attend to that many)"
            + (", or data.overlong = split." if policy != "split" else ".")
        )
    bad = sum(len(collection.intake.bad) for collection in collections)
    empty = sum(len(collection.intake.empty) for collection in collections)
    return (
        f"{path}: 0 of {rows} rows can be learned from: {bad} bad, {empty} with an empty answer.\n"
        'Rows with an empty answer stay with data.on_empty = "keep".'
    )


def _ledger(entries: Entries, trained: Sequence[Collection], made: Augmented) -> Ledger:
    """Return the sums. Tokens are those of the training rows: held-out rows and copies are neither learned nor lost."""
    counts = np.bincount(entries.states, minlength=len(STATES))
    reasons = Counter(zip(entries.states.tolist(), entries.reasons.tolist(), strict=True))
    named = {
        f"{STATES[state]}: {entries.words[word]}": count
        for (state, word), count in sorted(reasons.items())
        if entries.words[word]
    }
    tokens, kept = 0, 0
    for collection in trained:
        fates = collection.fates
        states = np.array(fates.states, dtype=np.int8)
        is_in = (states != STATES.index("held_out")) & (states != STATES.index("duplicate"))
        tokens += int(np.array(fates.tokens, dtype=np.int64)[is_in].sum())
        kept += int(np.array(fates.kept, dtype=np.int64)[is_in].sum())
    return Ledger(
        rows=sum(1 for _ in entries.states),
        counts={state: int(count) for state, count in zip(STATES, counts, strict=True)},
        reasons=named,
        tokens_in=tokens,
        tokens_learned=made.corpus.num_learned,
        tokens_context=kept + made.tokens - made.corpus.num_learned,
        tokens_lost=tokens - kept,
        learned_in=sum(collection.learned_in for collection in trained),
        learned_lost=sum(collection.toll.lost(collection.policy) for collection in trained),
        augmented=len(made.edits),
        tokens_augmented=made.tokens,
    )
