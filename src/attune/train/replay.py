"""General text trained on beside the rows, so that the model forgets less: from a file, or written by the model."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from attune.config import Config, ReplayConfig
from attune.data.batch import step_batches
from attune.data.corpus import Corpus, to_corpus
from attune.data.encoding.mask import encode_prompt
from attune.data.encoding.template import ChatTemplate, open_template
from attune.data.encoding.turns import mark
from attune.data.prepare import Prepared
from attune.data.stream import Stream
from attune.errors import ConfigError, DataError, ModelError, TemplateError
from attune.evals.basis import Machine, keep_base, read_base, write_base
from attune.evals.general import FEWEST_TOKENS, read_general, text_start, write_texts, written_corpus
from attune.model.divergence import TopK
from attune.record import RunFolder
from attune.train.defaults import SELF, replay_weights, step_tokens, stream_of
from attune.train.room import needs_memory
from attune.types import Batch, Encoded, Message, Place
from attune.world import mix_seed

TEXTS, BASE, NAME = "replay/texts.jsonl", "replay/base.safetensors", "replay"
_LOOKED_STEPS = 100  # of the run, to know how many tokens a step has


@dataclass(frozen=True)
class Replay:
    """The replayed texts and their order. `base`: what the model before training made of each token, on the host.

    tokens: about how many a step gets; weight and kl: of the mean loss and the mean divergence on them.
    """

    corpus: Corpus
    base: TopK | None
    tokens: int
    weight: float
    kl: float
    seed: int
    notes: tuple[str, ...] = ()  # what a user should hear of where they come from

    @property
    def most_tokens(self) -> int:
        """Return the most tokens that a step gets, but for a single longer text."""
        # a step takes the texts that fit, so with half a text more it has as many tokens as wanted, on average
        return round(self.tokens + float(self.corpus.lengths.mean()) / 2)

    @cached_property
    def _stream(self) -> Stream:
        seed = mix_seed("replay", self.seed)
        return Stream(self.corpus.lengths, seed=seed, batch_rows=1, batch_tokens=self.most_tokens)

    def rows(self, step: int) -> NDArray[np.int64]:
        """Return the texts of a step: a function of seed and step alone; none comes twice before all have come once."""
        return self._stream.rows(step)

    def batches(self, step: int, micro_tokens: int) -> tuple[tuple[Batch, TopK | None], ...]:
        """Return the texts of a step in batches of at most `micro_tokens`, each with the base's part for its tokens.

        The batches' `learned_tokens` add up to what their sums are divided by.
        """
        return self.batches_of(self.rows(step), micro_tokens)

    def batches_of(self, rows: NDArray[np.int64], micro_tokens: int) -> tuple[tuple[Batch, TopK | None], ...]:
        """Return some texts likewise."""
        batches = step_batches(self.corpus, rows, micro_tokens, share=False)
        return tuple((batch, self._base_of(batch.rows)) for batch in batches)

    def _base_of(self, rows: Sequence[int]) -> TopK | None:
        if self.base is None:
            return None
        places = torch.from_numpy(_learned_places(self.corpus, rows))
        return TopK(*(part[places] for part in self.base))


def prepare_replay(config: Config, prepared: Prepared, model: nn.Module, run: RunFolder) -> Replay | None:
    """Return what is replayed in a run, None without replay.source; `model` is as it is before training.

    The texts, and what the model makes of them, are written into the run folder and read again when it is resumed.
    Exact copies of validation rows are left out.
    Raises: ConfigError for settings that contradict each other, DataError or ModelError when there is no text.
    """
    wish = config.replay
    if not wish.source:
        return None
    _refuse(config, prepared)
    notes: list[str] = []
    if not (run.path / TEXTS).is_file():
        with needs_memory("writing the texts to replay"):
            corpus = _write(config, prepared, model, notes) if wish.source == SELF else _read(config, prepared)
        corpus = _without_copies(corpus, prepared.valid, _longest(wish, prepared), notes)
        run.write_lines(TEXTS, _records(corpus, prepared.template))
    corpus = _corpus_of(run.read_lines(TEXTS))
    replay = _of_corpus(config, prepared, corpus, notes)
    if replay.kl == 0:
        return replay
    if not (run.path / BASE).is_file():
        write_base(run.path / BASE, {NAME: _keep_base(model, corpus, config)}, {NAME: corpus})
    return replace(replay, base=read_base(run.path / BASE, {NAME: corpus})[NAME])


def imagine_replay(config: Config, prepared: Prepared) -> Replay | None:
    """Return what a run will replay as far as that is known without its model, None without replay.source.

    In place of what the model will write stand as many texts of full length; there is no base.
    Raises: as `prepare_replay` does.
    """
    wish = config.replay
    if not wish.source:
        return None
    _refuse(config, prepared)
    longest = _longest(wish, prepared)
    if wish.source == SELF:
        corpus = written_corpus([np.resize(prepared.train.tokens, longest).tolist()] * wish.rows)
    else:
        corpus = _without_copies(_read(config, prepared), prepared.valid, longest, [])
    return _of_corpus(config, prepared, corpus, [])


def _of_corpus(config: Config, prepared: Prepared, corpus: Corpus, notes: list[str]) -> Replay:
    """Return texts as they are replayed, without a base."""
    assert config.train.steps != "auto", "the config was resolved"
    weight, kl = replay_weights(config.replay)
    of_step = step_tokens(stream_of(prepared.train, config), min(config.train.steps, _LOOKED_STEPS)).mean()
    tokens = max(1, round(config.replay.share * float(of_step)))
    return Replay(corpus, None, tokens, weight, kl, config.seed, (*notes, _told(corpus, config.replay, tokens)))


def _refuse(config: Config, prepared: Prepared) -> None:
    """Raise ConfigError for settings with which replay does nothing or cannot be."""
    wish = config.replay
    weight, kl = replay_weights(wish)
    if weight == 0 and kl == 0:
        raise ConfigError("replay.weight and replay.kl are both 0: replay would change nothing. Set one of them.")
    if config.train.gradient_release:
        raise ConfigError(
            "replay.source: train.gradient_release updates each weight in the first backward pass of a step,\n"
            "and replay needs a second one. Leave one of them off."
        )
    if (longest := _longest(wish, prepared)) < FEWEST_TOKENS:
        name = "data.max_length" if prepared.max_length < wish.max_tokens else "replay.max_tokens"
        raise ConfigError(
            f"{name} is {longest}, so no replayed text could have the {FEWEST_TOKENS} tokens from which on it teaches\n"
            f"anything. Set it to {FEWEST_TOKENS} or more."
        )


def _told(corpus: Corpus, wish: ReplayConfig, tokens: int) -> str:
    """Say what is replayed."""
    source = "written by the model" if wish.source == SELF else f"from {wish.source}"
    total = int(corpus.lengths.sum())
    few = f"; all of them in each step, replay.share {wish.share:g} would take {tokens:,}" if total < tokens else ""
    return f"replay: {corpus.num_rows:,} texts of {total:,} tokens {source}, about {min(tokens, total):,} a step{few}"


def _read(config: Config, prepared: Prepared) -> Corpus:
    """Return the texts of a file."""
    wish = config.replay
    return read_general(
        wish.source,
        config.data,
        prepared.template,
        rows=wish.rows,
        max_tokens=_longest(wish, prepared),
        setting="replay.source",
    )


def _longest(wish: ReplayConfig, prepared: Prepared) -> int:
    """Return the longest replayed text in tokens: no row of the run may be longer than data.max_length either."""
    return min(wish.max_tokens, prepared.max_length)


def _write(config: Config, prepared: Prepared, model: nn.Module, notes: list[str]) -> Corpus:
    """Return texts that the model writes: half of them conversations if it has a chat template of its own.

    Raises: ModelError when it writes nothing of use.
    Source: conversations sampled from the opening of a user's turn, Xu et al. 2024, arXiv 2406.08464.
    """
    wish, tokenizer = config.replay, prepared.template.tokenizer
    longest, seed = _longest(wish, prepared), mix_seed("replay", config.seed)
    chats: list[tuple[int, ...]] = []
    if tokenizer.chat_template:
        chats = _write_chats(
            model, tokenizer_template(prepared.template), wish.rows // 2, max_tokens=longest, seed=seed
        )
    starts = [text_start(tokenizer)] * (wish.rows - len(chats))
    stops = tuple(dict.fromkeys((*tokenizer.stop_ids, *prepared.template.stop_ids)))
    texts = [*chats, *write_texts(model, starts, stops, max_tokens=longest, seed=seed)]
    if not texts:
        raise ModelError(
            "replay.source self: the model wrote no text of use before training, it stops at once.\n"
            "Give a file of general text instead: --replay.source FILE"
        )
    if len(texts) < wish.rows:
        notes.append(f"replay: {wish.rows - len(texts):,} of {wish.rows:,} texts that the model wrote were too short")
    return written_corpus(texts)


def tokenizer_template(template: ChatTemplate) -> ChatTemplate | None:
    """Return the template that the model was made with, None if it has none that can be used."""
    if template.source == template.tokenizer.chat_template:
        return template
    try:
        return open_template("auto", template.tokenizer)
    except TemplateError:
        return None


def _write_chats(
    model: nn.Module, template: ChatTemplate | None, count: int, *, max_tokens: int, seed: int
) -> list[tuple[int, ...]]:
    """Return conversations of a question and its answer, both sampled from the model; fewer where questions fail."""
    opening = None if template is None else _opening(template)
    if template is None or not opening or count == 0:
        return []
    questions = write_texts(
        model, [opening] * count, template.stop_ids, max_tokens=len(opening) + max_tokens // 2, seed=seed
    )
    prompts = []
    for question in questions:
        if question[-1] not in template.stop_ids:
            continue  # no end was found, so it is no question
        words = template.tokenizer.decode(question[len(opening) : -1]).strip()
        try:
            prompt = encode_prompt(template, [Message("user", words)])
        except TemplateError:
            continue
        if words and len(prompt) <= max_tokens * 3 // 4:
            prompts.append(prompt)
    return write_texts(model, prompts, template.stop_ids, max_tokens=max_tokens, seed=seed + 1) if prompts else []


def _opening(template: ChatTemplate) -> list[int]:
    """Return the tokens that a user's first words follow."""
    try:
        before, found, _ = template.render_prompt([Message("user", mark(0))]).partition(mark(0))
    except TemplateError:
        return []
    return template.tokenizer.encode(before) if found else []


def _without_copies(corpus: Corpus, valid: Corpus | None, max_tokens: int, notes: list[str]) -> Corpus:
    """Return the texts that are no piece of a validation row cut alike. Raises: DataError when none is left."""
    held: set[bytes] = set()
    for row in range(0 if valid is None else valid.num_rows):
        assert valid is not None
        tokens = valid.row(row)[0]
        held.update(tokens[first : first + max_tokens].tobytes() for first in range(0, len(tokens), max_tokens))
    is_new = np.array([corpus.row(row)[0].tobytes() not in held for row in range(corpus.num_rows)])
    if is_new.all():
        return corpus
    if not is_new.any():
        raise DataError("replay.source: all of its texts are validation rows of this run. Give another file.")
    notes.append(f"replay: {int((~is_new).sum()):,} texts are copies of validation rows and are left out")
    return corpus.keep(is_new)


def _records(corpus: Corpus, template: ChatTemplate) -> list[dict[str, Any]]:
    """Return texts as the run folder keeps them: the tokens are what counts, the text is for reading."""
    records = []
    for row, place in enumerate(corpus.places):
        tokens = corpus.row(row)[0].tolist()
        records.append(
            {"file": place.file, "line": place.line, "text": template.tokenizer.decode(tokens), "tokens": tokens}
        )
    return records


def _corpus_of(records: Sequence[dict[str, Any]]) -> Corpus:
    """Return kept texts with all tokens learned but the first of each, which follows nothing."""
    rows = []
    for record in records:
        tokens = np.array(record["tokens"], dtype=np.int32)
        rows.append(Encoded(Place(record["file"], record["line"], 0), tokens, np.arange(len(tokens)) > 0))
    return to_corpus(rows)


def _learned_places(corpus: Corpus, rows: Sequence[int] | NDArray[np.integer]) -> NDArray[np.int64]:
    """Return where the learned tokens of some rows stand among those of all: a row has one fewer than tokens."""
    starts, ends = (np.asarray(corpus.offsets[np.asarray(rows) + end]) for end in (0, 1))
    spans = [np.arange(start, end - 1) - row for row, start, end in zip(rows, starts, ends, strict=True)]
    return np.concatenate(spans).astype(np.int64)


def _keep_base(model: nn.Module, corpus: Corpus, config: Config) -> TopK:
    """Return what the model predicts at every learned token; it is left in the mode it came in."""
    machine = Machine(next(model.parameters()).device, config.precision, int(config.train.micro_tokens))
    was_training = model.training
    model.eval()
    with needs_memory("measuring the texts to replay"):
        kept = keep_base(model, corpus, machine)
    model.train(was_training)
    return kept
