"""Borders before answers: the quick judgement never differs from encoding the whole text again."""

from __future__ import annotations

from itertools import islice, product
from pathlib import Path

import numpy as np
import orjson
import pytest
from tokenizers import AddedToken, Regex, models, normalizers, pre_tokenizers
from tokenizers import Tokenizer as Backend

from attune.data.encoding.border import Borders, cuts_at_words
from attune.data.encoding.proof import Span
from attune.data.encoding.tokenizer import Tokenizer, load_tokenizer

NAMES = ("stories260K", "babyllama-361byte-1.0M", "tokenizer-gpt2", "tokenizer-llama-spm-32k", "tokenizer-phi3-chat")
ENDS = (
    "",
    " ",
    "  ",
    "\n",
    "\n\n",
    "\t ",
    ":",
    ": ",
    "?\n",
    "'",
    "(",
    '"',
    "1",
    "12 ",
    "a b",
    "a  b",
    "</s>",
    "é",
    "你",
    "🙂",
    "...",
    "_",
    "-",
)
STARTS = (
    "a",
    "Yes",
    " a",
    "  a",
    "\n",
    "\n\na",
    "1",
    "23",
    "'s",
    "s",
    ")",
    ".",
    "..",
    "é",
    "\u0301",
    "你",
    "🙂",
    "<s>",
    "_",
    "\u00a0x",
    "\u200b",
)


def check(tokenizer: Tokenizer, pairs: list[tuple[str, str]]) -> int:
    """Compare every judgement with the whole text before the answer encoded again; return how many were clean."""
    borders, clean = Borders(tokenizer), 0
    for prompt, answer in pairs:
        text = prompt + answer
        encoding = tokenizer.backend.encode(text, add_special_tokens=False)
        at = encoding.char_to_token(len(prompt))
        if at is None or (prompt and encoding.char_to_token(len(prompt) - 1) == at):
            continue
        truth = encoding.ids[:at] == tokenizer.encode(prompt)
        before = np.array(encoding.ids, np.int32), at
        assert borders.is_clean(text, Span(len(prompt), len(text), "", answer), before) == truth, text
        clean += truth
    return clean


@pytest.mark.parametrize("name", NAMES)
def test_quick_judgement_is_the_slow_one(name: str, shared: Path) -> None:
    """Whatever stands at the border, real tokenizers give the same judgement as the whole prompt encoded again."""
    tokenizer = load_tokenizer(shared / "models" / name)
    assert cuts_at_words(tokenizer)
    stems = ("", "Tell me what it is", "So it ends in a b", "x y", "12 34", "say it. ")
    pairs = [(stem + end, start) for stem, end, start in product(stems, ENDS, STARTS)]
    with (shared / "data" / "sft" / "t0_train_50k_clean.jsonl").open("rb") as lines:
        rows = [orjson.loads(line) for line in islice(lines, 300)]
    pairs += [(row["prompt"], row["completion"]) for row in rows]
    assert check(tokenizer, pairs) > 1000


def byte_pairs() -> Backend:
    """Return a byte-pair tokenizer without merges over a few letters."""
    letters = [chr(number) for number in range(32, 127)]
    return Backend(models.BPE({letter: number for number, letter in enumerate(letters)}, []))


def opened(backend: Backend) -> Tokenizer:
    """Return a tokenizer as attune uses it."""
    return Tokenizer(Path("t"), backend, {}, ())


def test_far_reaching_rules_are_not_judged_quickly() -> None:
    """A tokenizer whose rules may look further than a word is always asked about the whole text."""
    assert cuts_at_words(opened(byte_pairs()))
    by_pattern, in_blocks, with_phrase, by_words = (byte_pairs() for _ in range(4))
    by_pattern.normalizer = normalizers.Replace(Regex("a.*$"), "b")
    in_blocks.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.FixedLength(5)])
    with_phrase.add_tokens([AddedToken("New York")])
    by_words = Backend(models.WordPiece({"a": 0, "[UNK]": 1}, unk_token="[UNK]"))
    for backend in (by_pattern, in_blocks, with_phrase, by_words):
        assert not cuts_at_words(opened(backend))
