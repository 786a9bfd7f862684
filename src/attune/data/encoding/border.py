"""Whether a row encoded as one text begins with the ids that the model sees when it is asked: the prompt's own."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from attune.data.encoding.proof import Span
from attune.data.encoding.tokenizer import Tokenizer

WORD_GAP = re.compile(r".*[A-Za-z](?= [A-Za-z])", re.DOTALL)  # up to the last space between two letters
FAR_BACK = 200  # characters before an answer in which that space is looked for
MOST_TAILS = 10_000  # last words kept with their ids
LOCAL_NORMALIZERS = ("Sequence", "Prepend", "Replace", "NFC", "NFD", "NFKC", "NFKD", "Lowercase", "StripAccents")
LOCAL_PRE_TOKENIZERS = (
    "Sequence",
    "ByteLevel",
    "Split",
    "Metaspace",
    "Digits",
    "Punctuation",
    "Whitespace",
    "WhitespaceSplit",
)


class Borders:
    """Judges the borders before answers for one tokenizer, and remembers what it found out."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self.tokenizer = tokenizer
        self._clean: dict[tuple[str, str], bool] = {}
        self._tails: dict[str, list[int]] = {}

    @cached_property
    def _is_local(self) -> bool:
        return cuts_at_words(self.tokenizer)

    @cached_property
    def _encode_tail(self) -> Callable[[str], list[int]]:
        """Encode a text that continues another; a second tokenizer is made for it only where the first adds a space."""
        encode = self.tokenizer.encode
        adds_space = encode("a a") != encode("a") + encode(" a")
        return self.tokenizer.encode_continuation if adds_space else encode

    def is_clean(self, text: str, span: Span, before: tuple[NDArray[np.int32], int]) -> bool:
        """Return whether the tokens before an answer are those of the text before it alone, as at inference.

        They differ where a tokenizer looks ahead (white space before a word, say). After a template's own text that
        depends only on this text and the first character after it, so it is found out once for each of them.
        `before`: the row's ids, and how many of them stand before the answer.
        """
        first = text[span.start]
        if first.isspace() or not span.border.strip():
            return self._ends_alike(text, span.start, before) or self._begins_alike(text, span.start, before)
        key = (span.border[-16:], "a" if first.isalpha() else "0" if first.isnumeric() else first)
        clean = self._clean.get(key)
        if clean is None:
            clean = self._clean[key] = self._begins_alike(text, span.start, before)
        return clean

    def _begins_alike(self, text: str, end: int, before: tuple[NDArray[np.int32], int]) -> bool:
        """Encode the whole text before an answer again, and compare."""
        ids, count = before
        return bool(ids[:count].tolist() == self.tokenizer.encode(text[:end]))

    def _ends_alike(self, text: str, end: int, before: tuple[NDArray[np.int32], int]) -> bool:
        """Return whether the last words before an answer have the ids that they have when the text ends with them.

        Then so has everything before them, because nothing looks across a space between two letters. False only means
        that the whole text has to be encoded to know.
        """
        gap = WORD_GAP.match(text, max(0, end - FAR_BACK), end) if self._is_local else None
        if gap is None:
            return False
        tail = text[gap.end() : end]
        alone = self._tails.get(tail)
        if alone is None:
            if len(self._tails) == MOST_TAILS:
                self._tails.clear()
            alone = self._tails[tail] = self._encode_tail(tail)
        ids, count = before
        return bool(ids[count - len(alone) : count].tolist() == alone)


def cuts_at_words(tokenizer: Tokenizer) -> bool:
    """Return whether the tokens on either side of a space between two letters surely do not depend on each other.

    So it is with byte-pair encoding: where its tokens meet at a place, each side is encoded as it is alone, since
    merges never go back. What is done to the text before it must not reach across such a space either.
    """
    rules = json.loads(tokenizer.backend.to_str())
    model, added = rules["model"], rules.get("added_tokens") or ()
    if model.get("type") != "BPE" or model.get("dropout") or model.get("ignore_merges"):
        return False
    if any(re.search("[A-Za-z] [A-Za-z]", token["content"]) for token in added):
        return False
    for rule in _steps(rules.get("normalizer")):
        if rule["type"] not in LOCAL_NORMALIZERS or "Regex" in rule.get("pattern", ()):
            return False
    return all(rule["type"] in LOCAL_PRE_TOKENIZERS for rule in _steps(rules.get("pre_tokenizer")))


def _steps(rule: dict[str, Any] | None) -> Iterator[dict[str, Any]]:
    """Yield a rule and the rules it is made of."""
    if rule is not None:
        yield rule
        for part in (*rule.get("normalizers", ()), *rule.get("pretokenizers", ())):
            yield from _steps(part)
