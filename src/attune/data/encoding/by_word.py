"""Byte-pair encoding by whole words: the tokenizer encodes each different word once; then words are only looked up."""

from __future__ import annotations

import json
import re
import unicodedata
from collections.abc import Mapping, Sequence
from functools import cache
from itertools import chain, islice
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer as Backend

MOST_WORDS = 1_000_000  # kept with their ids; then they are forgotten, so that memory stays bounded
PROVED_FIRST, PROVED_EVERY = 16, 256  # rows that the tokenizer encodes, too: the first ones, then one in so many
# What byte-level GPT-2 cuts text by, where tokenizer.json only names it; words come first here, as most of a text is.
GPT2 = r" \p{L}+|\p{L}+|'(?:[sdmt]|ll|re|ve)| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
# Where known characters stand: alphabets, signs and pictures. A text with a character that is not known is left to
# the tokenizer, and so are scripts that put no space between words: there each word would be a new one.
BLOCKS = (
    *((0x00, 0x7F), (0xA1, 0x052F), (0x0531, 0x05FF), (0x1E00, 0x1FFF), (0x2010, 0x2027), (0x2030, 0x205E)),
    *((0x20A0, 0x20BF), (0x2100, 0x27BF), (0xFE00, 0xFE0F), (0xFEFF, 0xFEFF)),
)
PICTURES = (0x1F300, 0x1FAFF)  # emoji: no version of Unicode has letters, numbers or spaces there
TURNED = "\u017f\u212a"  # letters that are an s or a k where case does not count, in one dialect only
SPACES = r"\t-\r "  # of the known ones
NEVER = r"(?!)"  # matches nothing
_ESCAPE = re.compile(r"\\(?:p\{(L[ultmo]?|N|M)\}|([sSrnt]))")


class Tokens(Protocol):
    """A text as ids, and which of them stands at a character: the tokenizer's own Encoding is one."""

    @property
    def ids(self) -> Sequence[int] | NDArray[np.int32]:
        """The ids of the whole text."""

    def char_to_token(self, char_pos: int, /) -> int | None:
        """Return the number of the first token that holds a character; None where none does."""


class WordMismatchError(Exception):
    """A text that the tokenizer encodes otherwise than word by word: look up no more, start again."""


class _Numbers(dict[str, int]):
    """The number of each word; a word that is asked for the first time gets the next one."""

    def __missing__(self, word: str) -> int:
        number = self[word] = len(self)
        return number


class _Chunk:
    """The words of some texts one after another, with where each ends, in characters and in tokens."""

    def __init__(self, encoder: WordEncoder, numbers: NDArray[np.int64]) -> None:
        self.encoder, self.numbers = encoder, numbers
        self.sizes, self.lengths = encoder.sizes[numbers], encoder.lengths[numbers]
        self.token_ends, self.char_ends = np.cumsum(self.sizes), np.cumsum(self.lengths)

    def ids(self) -> NDArray[np.int32]:
        """Return the ids of all words, int32 [tokens]."""
        starts = self.encoder.starts[self.numbers]
        total = int(self.token_ends[-1]) if len(self.token_ends) else 0
        at = np.repeat(starts - (self.token_ends - self.sizes), self.sizes) + np.arange(total)
        return self.encoder.flat[at]


class WordTokens:
    """One text encoded by words."""

    __slots__ = ("_chunk", "_first_char", "_first_token", "_length", "ids")

    def __init__(self, chunk: _Chunk, ids: NDArray[np.int32], begins: tuple[int, int], length: int) -> None:
        """`begins`: its first token and character in the chunk. `length`: its characters."""
        self._chunk, self.ids = chunk, ids
        (self._first_token, self._first_char), self._length = begins, length

    def char_to_token(self, char_pos: int, /) -> int | None:
        """Return the number of the first token that holds a character; None where none does."""
        if not 0 <= char_pos < self._length:
            return None
        chunk, at = self._chunk, self._first_char + char_pos
        word = int(chunk.char_ends.searchsorted(at, side="right"))
        first = int(chunk.token_ends[word] - chunk.sizes[word]) - self._first_token
        if chunk.sizes[word] == 1:
            return first
        inside = at - int(chunk.char_ends[word] - chunk.lengths[word])
        for number, (start, end) in enumerate(chunk.encoder.offsets_of(int(chunk.numbers[word]))):
            if start <= inside < end:
                return first + number
        return None


class WordEncoder:
    """Encodes texts as the tokenizer does, several times as fast: `open_words` says for which tokenizers it can."""

    def __init__(self, backend: Backend, pattern: str, added: Sequence[str]) -> None:
        self._backend = backend
        self._find = re.compile(pattern).findall
        self._cut = _finder(added).split if added else None
        self._seen = 0
        self._forget()

    def _forget(self) -> None:
        self._numbers, self._offsets = _Numbers(), dict[int, list[tuple[int, int]]]()
        self._words: list[str] = []
        self.flat = np.zeros(0, np.int32)  # the ids of all known words
        self.starts, self.sizes, self.lengths = (np.zeros(0, np.int64) for _ in range(3))  # in it; in characters

    def encode(self, texts: Sequence[str]) -> list[Tokens]:
        """Return the encodings of texts.

        Raises: WordMismatchError when a row of the sample that is encoded twice comes out differently.
        """
        if len(self._numbers) > MOST_WORDS:
            self._forget()
        by_word = [text.isascii() or _unknown().search(text) is None for text in texts]
        others = iter(self._encode([text for text, can in zip(texts, by_word, strict=True) if not can]))
        own = iter(self._look_up([text for text, can in zip(texts, by_word, strict=True) if can]))
        return [next(own) if can else next(others) for can in by_word]

    def _encode(self, texts: Sequence[str]) -> list[Any]:
        return self._backend.encode_batch(list(texts), add_special_tokens=False) if texts else []

    def _look_up(self, texts: Sequence[str]) -> list[Tokens]:
        words: list[str] = []
        ends = np.zeros(len(texts) + 1, np.int64)  # of each text's words
        for row, text in enumerate(texts, start=1):
            if self._cut is None:
                words += self._find(text)
            else:
                pieces = self._cut(text)
                for piece, control in zip(pieces[::2], pieces[1::2], strict=False):
                    words += self._find(piece)
                    words.append(control)
                words += self._find(pieces[-1])
            ends[row] = len(words)
        numbers = np.fromiter(map(self._numbers.__getitem__, words), np.int64, len(words))
        self._learn_new()
        chunk = _Chunk(self, numbers)
        ids = chunk.ids()
        chars = np.concatenate((np.zeros(1, np.int64), chunk.char_ends))[ends].tolist()
        tokens = np.concatenate((np.zeros(1, np.int64), chunk.token_ends))[ends].tolist()
        found: list[Tokens] = []
        for row, text in enumerate(texts):
            if chars[row + 1] - chars[row] != len(text):
                raise WordMismatchError
            own = ids[tokens[row] : tokens[row + 1]]
            found.append(WordTokens(chunk, own, (tokens[row], chars[row]), len(text)))
        self._prove(texts, found)
        return found

    def _learn_new(self) -> None:
        """Have the words encoded that were met for the first time."""
        new = list(islice(self._numbers, len(self._words), None))
        if not new:
            return
        self._words += new
        encodings = self._backend.encode_batch_fast(new, add_special_tokens=False)
        ids = [encoding.ids for encoding in encodings]
        sizes = np.fromiter(map(len, ids), np.int64, len(ids))
        lengths = np.fromiter(map(len, new), np.int64, len(new))
        starts = len(self.flat) + np.cumsum(sizes) - sizes
        flat = np.fromiter(chain.from_iterable(ids), np.int32, int(sizes.sum()))
        self.flat, self.starts = np.concatenate((self.flat, flat)), np.concatenate((self.starts, starts))
        self.sizes, self.lengths = np.concatenate((self.sizes, sizes)), np.concatenate((self.lengths, lengths))

    def offsets_of(self, number: int) -> list[tuple[int, int]]:
        """Return where the tokens of a word stand in it, in characters."""
        known = self._offsets.get(number)
        if known is None:
            known = self._offsets[number] = self._encode([self._words[number]])[0].offsets
        return known

    def _prove(self, texts: Sequence[str], found: Sequence[Tokens]) -> None:
        """Compare a sample of texts with what the tokenizer makes of them. Raises: WordMismatchError."""
        rows = [
            row
            for row in range(len(texts))
            if self._seen + row < PROVED_FIRST or (self._seen + row) % PROVED_EVERY == 0
        ]
        self._seen += len(texts)
        for row, encoding in zip(rows, self._encode([texts[row] for row in rows]), strict=True):
            if not np.array_equal(encoding.ids, found[row].ids):
                raise WordMismatchError


def open_words(backend: Backend) -> WordEncoder | None:
    """Return what encodes texts by words; None for a tokenizer whose words cannot be encoded one by one.

    It can where the tokens of a word depend on the word alone: byte-pair encoding after one cut by a regular
    expression, nothing done to the text before it, and control tokens that swallow no space.
    """
    rules = json.loads(backend.to_str())
    model, added = rules["model"], rules.get("added_tokens") or []
    if model.get("type") != "BPE" or model.get("dropout") or rules.get("normalizer") is not None:
        return None
    if any(token["lstrip"] or token["rstrip"] or token["single_word"] for token in added):
        return None
    if len({token["normalized"] for token in added}) > 1 or '"trim_offsets": true' in json.dumps(
        rules.get("post_processor")
    ):
        return None
    pattern = _pattern_of(rules.get("pre_tokenizer"))
    translated = translate(pattern) if pattern else None
    return WordEncoder(backend, translated, [token["content"] for token in added]) if translated else None


def _pattern_of(rule: Mapping[str, Any] | None) -> str | None:
    """Return the regular expression by which a pre-tokenizer cuts; None where it does something else, too."""
    if rule is None:
        return None
    if rule.get("type") == "ByteLevel":
        return GPT2 if rule.get("use_regex", True) and not rule.get("add_prefix_space") else None
    parts: list[Mapping[str, Any]] = rule.get("pretokenizers") or []
    if [part.get("type") for part in parts] != ["Split", "ByteLevel"]:
        return None
    split, bytes_only = parts
    if bytes_only.get("use_regex", True) or bytes_only.get("add_prefix_space"):
        return None
    is_plain = split.get("behavior") == "Isolated" and not split.get("invert")
    pattern = split.get("pattern") or {}
    return pattern.get("Regex") if is_plain else None


def translate(pattern: str) -> str | None:
    """Return a tokenizer's regular expression in Python's dialect, right for known characters; None if that is unsure.

    Both dialects try alternatives from left to right; only the classes of characters are written out.
    """
    parts: list[str] = []
    at, opened = 0, -1  # `opened`: how many parts there were when a class of characters began
    while at < len(pattern):
        sign = pattern[at]
        escape = _ESCAPE.match(pattern, at)
        if escape:
            part = _written_out(escape, in_class=opened >= 0)
            if part is None:
                return None
            parts += [part] if part else []
            at = escape.end()
            continue
        if not sign.isascii() or sign == "\\" or (opened < 0 and not _is_plain(pattern, at)):
            return None
        if opened >= 0 and (sign in "[&" or (sign == "]" and len(parts) == opened + ("^" in parts[opened:]))):
            return None
        if sign in "[]":
            opened = len(parts) + 1 if sign == "[" else -1
        parts.append(sign)
        at += 1
    return "".join(parts)


def _is_plain(pattern: str, at: int) -> bool:
    """Return whether a sign outside of a class means the same in both dialects."""
    sign, rest = pattern[at], pattern[at + 1 :]
    if sign in ".^$" or (sign in "+*?}" and rest[:1] == "+"):  # the latter gives nothing back
        return False
    return sign != "(" or not rest.startswith("?") or rest.startswith(("?i:", "?!", "?:", "?="))


def _written_out(escape: re.Match[str], *, in_class: bool) -> str | None:
    """Return an escaped class as the known characters in it; None where it cannot be put into another class."""
    kind, sign = escape[1], escape[2]
    if sign in {"r", "n", "t"}:
        return f"\\{sign}"
    if sign == "S":
        return None if in_class else f"[^{SPACES}]"
    characters = SPACES if sign == "s" else _characters(kind)
    if in_class:
        return characters
    return f"[{characters}]" if characters else NEVER


@cache
def _characters(kind: str) -> str:
    """Return the known characters of a Unicode category, such as L or Lu, as ranges of a class."""
    return _ranges([code for code in _known() if unicodedata.category(chr(code)).startswith(kind)])


def _ranges(codes: Sequence[int]) -> str:
    """Return ascending characters as ranges of a class."""
    ranges: list[list[int]] = []
    for code in codes:
        if ranges and code == ranges[-1][1] + 1:
            ranges[-1][1] = code
        else:
            ranges.append([code, code])
    return "".join(f"{re.escape(chr(low))}-{re.escape(chr(high))}" for low, high in ranges)


@cache
def _known() -> tuple[int, ...]:
    """Return the characters whose kind all versions of Unicode agree about: what they were in 2002 they are today."""
    codes = [code for low, high in BLOCKS for code in range(low, high + 1) if chr(code) not in TURNED]
    return tuple(code for code in codes if _is_settled(chr(code)))


def _is_settled(sign: str) -> bool:
    """Return whether a character is what it was in Unicode 3.2 (signs may be of another kind), and no odd space."""
    then, now = unicodedata.ucd_3_2_0.category(sign), unicodedata.category(sign)
    is_alike = then == now or (then[0] in "PS" and now[0] in "PS")
    return is_alike and (sign.isascii() or not (now[0] == "Z" or now == "Cc"))


@cache
def _unknown() -> re.Pattern[str]:
    """Return what finds a character that is not known."""
    return re.compile(f"[^{_ranges([*_known(), *range(PICTURES[0], PICTURES[1] + 1)])}]")


def _finder(added: Sequence[str]) -> re.Pattern[str]:
    """Return what finds the strings of added tokens, the longest first, as one group."""
    low, high = min(added), max(added)
    # one beginning is looked for much faster than many words
    start = low[: next((at for at, (a, b) in enumerate(zip(low, high, strict=False)) if a != b), len(low))]
    rests = sorted((text[len(start) :] for text in added), key=len, reverse=True)
    return re.compile(f"({re.escape(start)}(?:{'|'.join(map(re.escape, rests))}))")
