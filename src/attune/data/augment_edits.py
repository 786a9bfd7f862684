"""A user turn in other words: requests and questions put politely or plainly, and edits that keep the sense."""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Literal

from attune.data.augment_limits import is_english, kept_spans, may_be_edited, may_be_framed, may_change
from attune.data.coverage.tongues import guess
from attune.data.lint.fences import is_code

Kind = Literal["order", "question", "problem", "other"]
Edits = Mapping[str, Callable[[str], str]]  # name -> how it changes a text; the same text where it does not apply

_WORDS = {
    "verbs": "write create describe explain generate give tell identify suggest provide compare classify summarize "
    "summarise translate rewrite convert calculate compute determine solve develop construct compose analyze analyse "
    "evaluate discuss propose recommend choose select arrange categorize categorise replace remove insert combine "
    "extract predict estimate brainstorm define imagine invent formulate produce prepare elaborate expand simplify "
    "paraphrase rephrase improve optimize optimise modify transform assess interpret assign verify demonstrate find "
    "make illustrate",
    # nouns, too, unless a little word follows
    "verbs or nouns": "list name design plan group match rank sort edit label state fix change help take pick complete "
    "correct highlight outline draft show prove come add fill check put arrange use answer",
    "after a verb": "a an the all any some each every this these those your his her its their our me us how what why "
    "whether which who when where if up out for from in into with at one two three four five six seven eight nine ten",
    "after a noun": "of is are was were",
    "asks": "what why how who whom whose when where which is are was were do does did will",
}
_VERBS, _VERBS_OR_NOUNS, _AFTER_VERB, _AFTER_NOUN, _ASKS = (frozenset(words.split()) for words in _WORDS.values())
_PLEASE = re.compile(r"(?:please,? |kindly )(?=\w)", re.IGNORECASE)
_REQUEST = re.compile(
    r"(?:(?:can|could) you (?:please |kindly )?|(?:would|will) you (?:please|kindly) )(?=\w)", re.IGNORECASE
)
_FIRST_WORDS = re.compile(r"([A-Za-z]+) ([A-Za-z]+|\d+)\b")
_INNER_STOP = re.compile(r"[.!?;][\"')\]]*\s")
_SENTENCE_END = re.compile(r"(?<=[^\W\d_]{4}[.!?]) (?=[^\W\d_a-z])")  # not after Mr. and the like
_SUBJECT = r"(?! (?:i|you|he|she|it|we|they|the|this|that|these|those|there|your|my|his|her|our|their|any\w*)\b)"
_SHORT = {
    "do not": "don't", "does not": "doesn't", "did not": "didn't", "is not": "isn't", "are not": "aren't",
    "was not": "wasn't", "were not": "weren't", "has not": "hasn't", "have not": "haven't", "had not": "hadn't",
    "could not": "couldn't", "should not": "shouldn't", "would not": "wouldn't", "will not": "won't",
    "cannot": "can't",
}  # fmt: skip
_LONG = {short: long for long, short in _SHORT.items()}
_SHORTEN = re.compile(rf"\b(?:{'|'.join(_SHORT)})\b(?=[ ,.;])", re.IGNORECASE)
_LENGTHEN = re.compile(rf"\b(?:{'|'.join(_LONG)})\b(?=[ ,.;]){_SUBJECT}", re.IGNORECASE)
PROSE_WORDS = 8  # of an answer that is no label
SPARE = 3  # variants beyond those asked for, since some may turn out to be other rows


def reworded(
    text: str, *, answers: Sequence[str], instructions: Sequence[str], count: int, seed: float
) -> list[tuple[str, str]]:
    """Return up to `count` + SPARE variants of a user turn as (edits, text), all different, none the text itself.

    Rewordings come first, in an order drawn from `seed`, then lesser edits, then both together. `instructions`: what
    was said before, system prompt and all. `answers`: all that is said after. Text that is no English is only spaced
    and stopped otherwise; what an answer may depend on stays.
    """
    if not text.strip() or is_code(text):
        return []
    answer = answers[-1] if answers else ""
    frames: Edits = _FRAMES[_kind_of(text, answer)] if may_be_framed(text, instructions, answer) else {}
    lesser: Edits = _LESSER_ENGLISH if is_english(text) else _LESSER
    if not may_be_edited([*instructions, text]):
        lesser = {}
    order = random.Random(seed)
    first, second = (order.sample(list(edits.items()), len(edits)) for edits in (frames, lesser))
    chains = [(one,) for one in (*first, *second)] + [(two, one) for two in second for one in first]
    found: dict[str, str] = {}
    kept = kept_spans(text)
    for chain in chains:
        new = _applied(text, chain, kept, answers)
        if new and new != text and new not in found:
            found[new] = ", ".join(name for name, _ in chain)
            if len(found) >= count + SPARE:
                break
    return [(name, new) for new, name in found.items()]


def _applied(
    text: str,
    chain: Sequence[tuple[str, Callable[[str], str]]],
    kept: Sequence[tuple[int, int]],
    answers: Sequence[str],
) -> str:
    """Return a text after some edits one after another; empty where one of them does not apply or may not."""
    for at, (_, edit) in enumerate(chain):
        new = edit(text)
        if new == text or not may_change(text, new, kept if at == 0 else kept_spans(text), answers):
            return ""
        text = new
    return text


def _kind_of(text: str, answer: str) -> Kind:
    """Return whether an English text begins with an order or a question, or tells something and then asks.

    Such a problem may be one only where its answer is prose: what is told may else be what is labelled.
    """
    plain = _REQUEST.sub("", _PLEASE.sub("", text, count=1), count=1) if text[:1].isalpha() else text
    words = _FIRST_WORDS.match(plain)
    if words:
        first, second = words[1].lower(), words[2].lower()
        if (first in _VERBS and second not in _AFTER_NOUN) or (
            first in _VERBS_OR_NOUNS and (second in _AFTER_VERB or second.isdigit())
        ):
            return "order" if guess(text) in ("", "en") else "other"
        if first in _ASKS and _head(text).endswith("?") and is_english(text):
            return "question"
    is_prose = len(answer.split()) >= PROSE_WORDS and answer[:1] not in "{[<"
    return "problem" if is_prose and text.rstrip().endswith("?") and is_english(text) else "other"


def _head(text: str) -> str:
    """Return the first line of a text: the request, where material follows."""
    return text.split("\n", 1)[0].rstrip()


def _is_whole(text: str) -> bool:
    """Return whether a text is a request alone, of one sentence, with no material behind it."""
    return "\n" not in text.strip() and ":" not in text and not _INNER_STOP.search(text.strip())


def _order(text: str) -> str:
    """Return an order without please or could you, beginning with a small letter."""
    plain = _PLEASE.sub("", text, count=1) if _PLEASE.match(text) else text
    asked = _REQUEST.match(plain)
    if asked:
        plain = plain[asked.end() :]
        head = _head(plain)
        if head.endswith("?") and ":" not in head and not _INNER_STOP.search(head):
            plain = f"{head[:-1]}.{plain[len(head) :]}"
    return plain[:1].lower() + plain[1:]


def _framed(before: str) -> Callable[[str], str]:
    """Return the edit that puts words before an order; please is said once."""

    def edit(text: str) -> str:
        order = _order(text)
        return text if "please" in before.lower() and "please" in order.lower() else before + order

    return edit


def _asked(before: str) -> Callable[[str], str]:
    """Return the edit that makes a question of an order of one sentence."""

    def edit(text: str) -> str:
        order = _order(text)
        head = _head(order)
        if _INNER_STOP.search(head) or head[-1:] in "?!" or "please" in order.lower():
            return text
        # behind a colon stands material, whose mark stays
        asked = head if ":" in head else f"{head.removesuffix('.')}?"
        return f"{before}{asked}{order[len(head) :]}"

    return edit


def _plain_order(text: str) -> str:
    order = _order(text)
    return order[:1].upper() + order[1:]


def _before(words: str) -> Callable[[str], str]:
    """Return the edit that puts words before a text."""
    return lambda text: words + text


def _thanked(text: str) -> str:
    stripped = text.rstrip()
    is_open = stripped[-1:] in ".?!" and _is_whole(text) and "thank" not in text.lower()
    return f"{stripped} Thank you." if is_open else text


def _small_first(text: str) -> str:
    return text[:1].lower() + text[1:]


def _unmarked(text: str) -> str:
    """Return a text without the mark at its end; three dots stay."""
    stripped = text.rstrip()
    return stripped[:-1] if stripped[-1:] in ".\u3002" and stripped[-3:] != "..." else text


def _unasked(text: str) -> str:
    stripped = text.rstrip()
    return stripped[:-1] if stripped.endswith("?") and _is_whole(text) else text


def _at_first_joint(joint: str) -> Callable[[str], str]:
    """Return the edit that parts the first two sentences of a text otherwise."""
    return lambda text: _SENTENCE_END.sub(joint, text, count=1)


def _contracted(text: str) -> str:
    return _SHORTEN.sub(lambda found: _cased(_SHORT[found[0].lower()], found[0]), text, count=1)


def _in_full(text: str) -> str:
    return _LENGTHEN.sub(lambda found: _cased(_LONG[found[0].lower()], found[0]), text, count=1)


def _cased(word: str, like: str) -> str:
    """Return a word with a capital letter where another one has it."""
    return word.capitalize() if like[:1].isupper() else word


_LESSER: Edits = {
    "no final mark": _unmarked,
    "wider space": _at_first_joint("  "),
    "line break": _at_first_joint("\n"),
}
_LESSER_ENGLISH: Edits = {**_LESSER, "contraction": _contracted, "full form": _in_full}
_FRAMES: dict[Kind, Edits] = {
    "order": {
        "please": _framed("Please "),
        "could you": _asked("Could you "),
        "can you please": _asked("Can you please "),
        "would like": _framed("I would like you to "),
        "need": _framed("I need you to "),
        "task": _framed("Your task is to "),
        "plain order": _plain_order,
        "small letter": lambda text: _small_first(_plain_order(text)),
        "greeting": _before("Hello! "),
        "thanks": _thanked,
    },
    "question": {
        "answer this": _before("Please answer this question: "),
        "question": _before("Question: "),
        "tell me": lambda text: f"Can you tell me: {_small_first(text)}",
        "want to know": lambda text: f"I would like to know: {_small_first(text)}",
        "small letter": _small_first,
        "no question mark": _unasked,
        "greeting": _before("Hello! "),
        "thanks": _thanked,
    },
    "problem": {
        "answer this": _before("Please answer this question: "),
        "question": _before("Question: "),
        "question for you": _before("Here is a question for you. "),
        "greeting": _before("Hello! "),
    },
    "other": {},
}
