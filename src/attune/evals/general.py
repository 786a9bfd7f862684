"""General text, to see what tuning costs elsewhere: a file of the user's, or what the model itself writes untuned."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path

import numpy as np
from torch import nn

from attune.config import DataConfig
from attune.data.corpus import Corpus, to_corpus
from attune.data.encoding.template import ChatTemplate
from attune.data.encoding.tokenizer import Tokenizer
from attune.data.reading.intake import Intake
from attune.errors import DataError, TemplateError
from attune.evals.questions import to_rows
from attune.model.generate import generate, vocabulary_of
from attune.types import Encoded, Example, Place

FEWEST_TOKENS = 8  # a shorter piece says little, and models write it when they stop at once
MOST_BYTES = 16 * 1024 * 1024  # of a plain text that are read
MOST_BROKEN = 0.01  # share of its characters that may be unreadable: a few scars, not another encoding
READ_ROWS = 4  # rows of a file that are read for each that is wanted; those taken are spread over them
WRITTEN = "(written by the model)"  # what stands for a file


def read_general(
    path: str, data: DataConfig, template: ChatTemplate, *, rows: int, max_tokens: int, setting: str
) -> Corpus:
    """Return at most `rows` pieces of at most `max_tokens` tokens of a file, spread over its beginning, all learned.

    A name that ends in .txt or .md is plain text, with a piece for each paragraph; else rows of any layout that
    training takes, conversations in the run's template. Reading stops soon after enough was found.
    Raises: DataError naming `setting` when the file cannot be read or holds nothing of use.
    """
    texts = _paragraphs(path, setting) if Path(path).suffix in (".txt", ".md") else _rows(path, data, setting)
    pieces: list[Encoded] = []
    for examples in _chunks(texts, 64):
        pieces += [piece for row in _encode(examples, template) for piece in _cut(row, max_tokens)]
        if len(pieces) >= READ_ROWS * rows:
            break
    if not pieces:
        raise DataError(f"{setting}: {path} holds no text of {FEWEST_TOKENS} tokens or more. Give another file.")
    chosen = np.linspace(0, len(pieces) - 1, min(rows, len(pieces))).round().astype(int)
    return to_corpus([pieces[at] for at in chosen])


def write_texts(
    model: nn.Module, starts: Sequence[Sequence[int]], stop_ids: Sequence[int], *, max_tokens: int, seed: int
) -> list[tuple[int, ...]]:
    """Return a text for each start, sampled by the model at temperature 1: its tokens with start and stop token.

    At most `max_tokens` each; those that stop before FEWEST_TOKENS are left out, and starts with tokens that the model
    does not know.
    """
    starts = [start for start in starts if max(start) < vocabulary_of(model)]
    if not starts:
        return []
    longest = max(len(start) for start in starts)
    made = generate(
        model, starts, stop_ids=stop_ids, max_new_tokens=max(1, max_tokens - longest), temperature=1.0, seed=seed
    )
    texts = [
        (*start, *text.tokens, *stop_ids[:1]) if text.finished else (*start, *text.tokens)
        for start, text in zip(starts, made, strict=True)
    ]
    return [text for text in texts if len(text) >= FEWEST_TOKENS]


def text_start(tokenizer: Tokenizer) -> tuple[int, ...]:
    """Return what stands before a text of its own: the begin token, else the end token, after which texts begin too."""
    begin = tokenizer.bos_id if tokenizer.bos_id is not None else tokenizer.eos_id
    assert begin is not None, "a template was opened, so there is an end token"
    return (begin,)


def written_corpus(texts: Sequence[Sequence[int]], name: str = WRITTEN) -> Corpus:
    """Return texts given as tokens as a corpus in which all but the first token of each is learned."""
    return to_corpus([_piece(Place(name, line, 0), np.array(text, np.int32)) for line, text in enumerate(texts, 1)])


def _piece(place: Place, tokens: np.ndarray) -> Encoded:
    learned = np.ones(len(tokens), dtype=bool)
    learned[:1] = False  # nothing stands before it to predict it from
    return Encoded(place, tokens, learned)


def _cut(row: Encoded, max_tokens: int) -> Iterator[Encoded]:
    """Yield a row in pieces, the last of which may be too short to be of use."""
    for first in range(0, len(row.tokens), max_tokens):
        tokens = row.tokens[first : first + max_tokens]
        if len(tokens) >= FEWEST_TOKENS:
            yield _piece(row.place, tokens)


def _encode(examples: Sequence[Example], template: ChatTemplate) -> list[Encoded]:
    """Return rows as tokens; those that the template refuses are left out: what is general need not be complete."""
    rows = []
    for example in examples:
        try:
            rows.append(_piece(example.place, to_rows([example], template, "all").tokens))
        except TemplateError:
            continue
    return rows


def _rows(path: str, data: DataConfig, setting: str) -> Iterator[Example]:
    """Yield the good rows of a file of rows; its faults are told as those of `setting`."""
    try:
        for row in Intake(path, data.model_copy(update={"columns": {}})).stream():
            if isinstance(row, Example):
                yield row
    except DataError as error:
        raise DataError(f"{setting}: {error}") from error


def _paragraphs(path: str, setting: str) -> Iterator[Example]:
    """Yield the paragraphs of a plain text: what stands between empty lines.

    Raises: DataError when the file cannot be read, or is in another encoding than UTF-8 or no text at all.
    """
    try:
        with Path(path).open("rb") as file:
            text = file.read(MOST_BYTES).decode("utf-8", "replace").replace("\r\n", "\n")
    except OSError as error:
        raise DataError(f"{setting}: {path} cannot be read: {error.strerror}.") from error
    if (broken := text.count("\ufffd") + text.count("\0")) > MOST_BROKEN * len(text):
        raise DataError(
            f"{setting}: {path} is not UTF-8 text: {broken / len(text):.0%} of its characters cannot be read.\n"
            "Convert it (iconv -f latin1 -t utf-8 if it is Latin-1), or give another file."
        )
    lines: list[str] = []
    first = 1
    for number, line in enumerate([*text.split("\n"), ""], start=1):
        if line.strip():
            first = first if lines else number
            lines.append(line)
        elif lines:
            yield Example(Place(path, first, 0), text="\n".join(lines))
            lines = []


def _chunks(examples: Iterator[Example], size: int) -> Iterator[list[Example]]:
    while chunk := list(islice(examples, size)):
        yield chunk
