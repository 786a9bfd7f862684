"""Encoding by words: the same ids and places as the tokenizer's own, and no answer where that is unsure."""

from __future__ import annotations

import json
import random
import re
from pathlib import Path
from typing import Any

import pytest
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

from attune.data.encoding import by_word
from attune.data.encoding.by_word import GPT2, WordEncoder, WordMismatchError, WordTokens, open_words, translate

LLAMA3 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+"
    r"|\s+(?!\S)|\s+"
)
O200K = (
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?"
    r"|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?"
    r"|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
PATTERNS = {"gpt2": GPT2, "llama3": LLAMA3, "o200k": O200K}
CORPUS = [
    "The cat's 1,234 hats: it'll do! We'VE \t seen\n\n  more",
    "naïve café, 42nd Straße",
    "def f(x):\n    return x",
] * 9
CONTROLS = ["<|end|>", "<|end|>x", "<|user|>"]
ODD = "aZ'sSlLdD09 \t\n\r.,!?<|>-_/\x00\x1c\x1f\x7f\x85\xa0\xad\xb2\xbdéßſİ’“—…€™你ー🙂\u2028\u0301"


def backend(pattern: str, **changes: Any) -> Tokenizer:
    """Return a byte-level tokenizer that cuts by a pattern, trained on a few sentences."""
    made = Tokenizer(models.BPE())
    made.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Split(Regex(pattern), "isolated"), pre_tokenizers.ByteLevel(False, use_regex=False)]
    )
    made.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    made.train_from_iterator(CORPUS, trainers.BpeTrainer(vocab_size=400, initial_alphabet=alphabet))
    made.add_special_tokens(CONTROLS)
    for name, value in changes.items():
        setattr(made, name, value)
    return made


def texts(seed: int, count: int, signs: str = ODD) -> list[str]:
    """Return texts of odd characters, words and control tokens."""
    draw = random.Random(seed)
    words = [*CORPUS[:3], *CONTROLS, " the", "  ", "\n", "'ll"]
    return [
        "".join(draw.choice(words) if draw.random() < 0.2 else draw.choice(signs) for _ in range(draw.randrange(40)))
        for _ in range(count)
    ]


def opened(made: Tokenizer) -> WordEncoder:
    """Return the encoder of a tokenizer that must have one."""
    encoder = open_words(made)
    assert encoder is not None
    return encoder


@pytest.mark.parametrize("name", PATTERNS)
def test_equals_the_tokenizer(name: str) -> None:
    """Ids, and the token at every character, are the tokenizer's, for known characters and for all others."""
    made = backend(PATTERNS[name])
    encoder = opened(made)
    known = "".join(map(chr, by_word._known()))
    sample = [*texts(1, 400), *texts(2, 400, ODD[:29] + "éß’"), *texts(3, 900, known), "", "<|end|>x", *CORPUS]
    by_words = 0
    for text, mine in zip(sample, encoder.encode(sample), strict=True):
        own = made.encode(text, add_special_tokens=False)
        assert list(mine.ids) == own.ids, text
        places = range(len(text) + 1)
        assert [mine.char_to_token(at) for at in places] == [own.char_to_token(at) for at in places], text
        by_words += isinstance(mine, WordTokens)
    assert 1200 < by_words < len(sample)


@pytest.mark.parametrize("name", PATTERNS)
def test_every_known_character_is_cut_alike(name: str) -> None:
    """Beside letters, figures, spaces, marks and itself, each known character is cut as the tokenizer cuts it."""
    cut, pattern = pre_tokenizers.Split(Regex(PATTERNS[name]), "isolated"), translate(PATTERNS[name])
    assert pattern is not None
    find = re.compile(pattern).findall
    for code in (*by_word._known(), *range(by_word.PICTURES[0], by_word.PICTURES[1] + 1)):
        sign = chr(code)
        text = f"a{sign}b {sign}{sign} 1{sign}2  {sign}\n{sign}A{sign}a '{sign} {sign}'s"
        assert find(text) == [word for word, _ in cut.pre_tokenize_str(text)], hex(code)


def test_named_pattern_is_the_built_in_one() -> None:
    """A byte-level tokenizer that only names its pattern is encoded by words, too."""
    made = backend(GPT2)
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    sample = texts(3, 300, ODD[:29])
    assert [list(one.ids) for one in opened(made).encode(sample)] == [
        one.ids for one in made.encode_batch(sample, add_special_tokens=False)
    ]


def test_a_wrong_cut_is_noticed() -> None:
    """An encoder that cuts otherwise than its tokenizer does not get away with it."""
    wrong = translate(GPT2.replace(r"\p{L}+", r"\p{L}"))
    assert wrong is not None
    with pytest.raises(WordMismatchError):
        WordEncoder(backend(GPT2), wrong, CONTROLS).encode(CORPUS[:1])


def test_a_pattern_with_gaps_is_noticed() -> None:
    """A pattern that leaves characters out is no reason to leave them out."""
    with pytest.raises(WordMismatchError):
        WordEncoder(backend(GPT2), "[a-z]+", CONTROLS).encode(["the year 2024"])


@pytest.mark.parametrize(
    "changes",
    [
        {"normalizer": normalizers.Lowercase()},
        {"pre_tokenizer": pre_tokenizers.ByteLevel(add_prefix_space=True)},
        {"pre_tokenizer": pre_tokenizers.Metaspace()},
        {"pre_tokenizer": pre_tokenizers.Split(" ", "isolated")},
        {"post_processor": processors.ByteLevel(trim_offsets=True)},
        {"model": models.BPE(dropout=0.5)},
        {"model": models.WordPiece()},
    ],
    ids=lambda changes: next(iter(changes)),
)
def test_other_tokenizers_are_left_alone(changes: dict[str, Any]) -> None:
    """Where a word's tokens depend on more than the word, there is no encoder."""
    assert open_words(backend(GPT2, **changes)) is None


def test_control_tokens_that_swallow_spaces() -> None:
    """A control token that takes the space beside it, too, is more than a word."""
    made = backend(GPT2)
    made.add_special_tokens([AddedToken("<|gap|>", lstrip=True)])
    assert open_words(made) is None


@pytest.mark.parametrize("pattern", [r"\p{L}++", r"\p{Han}+", r".+", r"[\w]+", r"(?<=a)b", r"[[a]&&[b]]", r"[]x]", "é"])
def test_patterns_of_other_signs_are_refused(pattern: str) -> None:
    """What Python might read otherwise is not translated."""
    assert translate(pattern) is None


def test_memory_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """When too many words are known they are forgotten, and results stay the same."""
    monkeypatch.setattr(by_word, "MOST_WORDS", 20)
    made = backend(LLAMA3)
    encoder = opened(made)
    for seed in range(6):
        sample = texts(seed, 30, "ab c\n1")
        ids = [list(one.ids) for one in encoder.encode(sample)]
        assert ids == [one.ids for one in made.encode_batch(sample, add_special_tokens=False)]


def test_real_tokenizer(shared: Path) -> None:
    """Real rows with a real tokenizer."""
    made = Tokenizer.from_file(str(shared / "models" / "tokenizer-gpt2" / "tokenizer.json"))
    with (shared / "data" / "sft" / "gsm8k_train.jsonl").open(encoding="utf-8") as file:
        rows = [json.loads(line)["answer"] for line, _ in zip(file, range(300), strict=False)]
    mine = opened(made).encode(rows)
    assert [list(one.ids) for one in mine] == [one.ids for one in made.encode_batch(rows, add_special_tokens=False)]
    assert sum(isinstance(one, WordTokens) for one in mine) > 290
