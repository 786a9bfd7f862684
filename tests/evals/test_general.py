"""General text: pieces of a file that keep their places, and texts that a model writes."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from attune.config import DataConfig
from attune.data.encoding.template import ChatTemplate, open_template
from attune.data.encoding.tokenizer import load_tokenizer
from attune.errors import DataError
from attune.evals.general import read_general, text_start, write_texts, written_corpus
from attune.model.load import load_model
from tests.tiny import write_model_folder, write_rows


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model folder."""
    return write_model_folder(tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="module")
def template(folder: Path) -> ChatTemplate:
    """Its default template."""
    return open_template("auto", load_tokenizer(folder))


def test_paragraphs_of_a_plain_text_keep_their_lines(tmp_path: Path, template: ChatTemplate) -> None:
    """Paragraphs stand between empty lines, are cut to the longest piece, and all but the first token is learned."""
    path = tmp_path / "book.txt"
    path.write_bytes(b"A first paragraph\r\nof two lines.\r\n\r\n\r\n" + b"x" * 50 + b"\n\nshort\n")
    corpus = read_general(str(path), DataConfig(), template, rows=9, max_tokens=40, setting="guards.general")
    texts = [template.tokenizer.decode(corpus.row(row)[0].tolist()) for row in range(corpus.num_rows)]
    assert texts == ["A first paragraph\nof two lines.<|end|>", "x" * 40, "x" * 10 + "<|end|>"]
    assert [place.line for place in corpus.places] == [1, 5, 5]
    assert [corpus.row(row)[1].tolist()[:2] for row in range(3)] == [[False, True]] * 3
    assert corpus.num_learned == len(corpus.tokens) - 3


def test_rows_of_any_layout_are_general_text(tmp_path: Path, template: ChatTemplate) -> None:
    """Conversations come in the template, texts as they are; of a long file a few rows are taken, spread over it."""
    chats = write_rows(tmp_path / "chats.jsonl", 40)
    corpus = read_general(str(chats), DataConfig(), template, rows=5, max_tokens=256, setting="x")
    assert corpus.num_rows == 5
    assert template.tokenizer.decode(corpus.row(0)[0].tolist()).startswith("User: 0 ")
    assert corpus.places[4].line > 16
    texts = tmp_path / "texts.jsonl"
    texts.write_text("".join(json.dumps({"text": f"text number {n}"}) + "\n" for n in range(3)))
    plain = read_general(str(texts), DataConfig(), template, rows=5, max_tokens=256, setting="x")
    assert [template.tokenizer.decode(plain.row(row)[0].tolist()) for row in range(3)] == [
        f"text number {n}<|end|>" for n in range(3)
    ]


def test_a_file_without_text_is_refused_in_words(tmp_path: Path, template: ChatTemplate) -> None:
    """The message names the setting and the file, be it of rows or of plain text, and so for one that is no text."""
    (tmp_path / "empty.txt").write_text("\n\na\n")
    (tmp_path / "empty.jsonl").write_text("")
    (tmp_path / "latin.txt").write_bytes("gr\u00fc\u00dfe an alle \u00e4rzte und \u00f6konomen\n".encode("latin-1"))
    for name in ("empty.txt", "absent.txt", "empty.jsonl", "absent.jsonl", "latin.txt"):
        with pytest.raises(DataError, match=f"guards.general: .*{name}"):
            read_general(str(tmp_path / name), DataConfig(), template, rows=5, max_tokens=9, setting="guards.general")


def test_a_model_writes_the_same_texts_from_the_same_seed(folder: Path, template: ChatTemplate) -> None:
    """Texts begin with the begin token, are at most as long as asked, differ, and come again."""
    model = load_model(folder)
    start = text_start(template.tokenizer)
    assert start == (template.tokenizer.bos_id,)
    made = [write_texts(model, [start] * 6, (1,), max_tokens=20, seed=seed) for seed in (3, 3, 4)]
    assert made[0] == made[1] != made[2]
    assert len(set(made[0])) == len(made[0])
    assert all(text[0] == 0 and 8 <= len(text) <= 20 for text in made[0])
    corpus = written_corpus(made[0])
    np.testing.assert_array_equal(corpus.row(1)[0], made[0][1])
    assert corpus.num_learned == len(corpus.tokens) - len(made[0])
