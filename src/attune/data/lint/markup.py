"""D02: chat markup inside a message, which the chat template would wrap a second time."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

from attune.data.lint.fences import prose_of
from attune.data.lint.quote import quote

# begin and end signs, role names and tool blocks of the families in use: ChatML, Llama 2 to 4, Gemma, Phi, Mistral,
# DeepSeek, Cohere, GLM, gpt-oss, InternLM and their kin
_KNOWN = (
    r"<\|[^\W\d][^\s<>|]{1,40}\|>",
    r"<\uff5c[^<>\n\uff5c]{1,40}\uff5c>",
    r"\[/?INST\]",
    r"<</?SYS>>",
    r"</?(?:start_of_turn|end_of_turn|bos|eos|eoh|eoa|sop)>",
    r"\[/?(?:AVAILABLE_TOOLS|TOOL_CALLS|TOOL_RESULTS|SYSTEM_PROMPT|gMASK)\]",
    r"^\#\#\#[ ](?:Response|Assistant|Human):",
    r"(?<!\S)GPT4 Correct (?:User|Assistant):",
)
_HEADINGS = re.compile(r"^### (?:Instruction|Input|User|System):", re.MULTILINE)
_EDGES = re.compile(r"\A\s*<s>|</s>\s*\Z|</s>\s*<s>")
# a chat written into one text; a mere mention of a dialogue does not begin with its first turn
_RENDERED = re.compile(
    r"\A\s*(?:USER|User|Human|HUMAN): .*^\s*(?:ASSISTANT|Assistant|AI): ?\Z"
    r"|\A\s*USER: .*\sASSISTANT:"
    r"|(?:\A\s*|\n\n)Human: .*\n\nAssistant:",
    re.DOTALL | re.MULTILINE,
)
_HTML = re.compile(r"(?i)\bhtml|strike|\btags?\b|markdown|\bxml\b")
_CONTENT = frozenset(("<think>", "</think>", "<tool_call>", "</tool_call>", "<tool_response>", "</tool_response>"))
# a cheap first look: a sign that few texts hold, and what markup that has it holds too
_FIRST_SIGNS = {
    "<": ("<|", "<\uff5c", "SYS>>", "_of_turn>", "<bos>", "<eos>", "<eo", "<sop>", "s>"),
    "]": ("INST]", "_TOOLS]", "_CALLS]", "_RESULTS]", "_PROMPT]", "[gMASK]"),
    "### ": ("\n### ",),
    "GPT4 ": ("GPT4 Correct ",),
}
_LATER_WORDS = ("\nUSER: ", "\nUser: ", "\nHuman: ", "\nHUMAN: ")
_FIRST_WORDS = ("###", "USER:", "User:", "Human:", "HUMAN:")


def markup_pattern(special_tokens: Iterable[str]) -> re.Pattern[str]:
    """Return what finds the markup of known families and of one tokenizer.

    A special token that is a plain word or sign says nothing; `<s>` and `</s>` are judged by their place; reasoning
    and tool calls are content.
    """
    judged_apart = ("<s>", "</s>", *_CONTENT)
    own = sorted({token for token in special_tokens if _is_markup(token) and token not in judged_apart}, key=len)
    return re.compile("|".join((*_KNOWN, *map(re.escape, reversed(own)))), re.MULTILINE)


def first_signs(special_tokens: Iterable[str]) -> dict[str, tuple[str, ...]]:
    """Return what `may_hold_markup` looks for: a rare sign, then texts of which one must be there too."""
    signs = {sign: list(texts) for sign, texts in _FIRST_SIGNS.items()}
    for token in sorted(filter(_is_markup, special_tokens)):
        known = next((sign for sign in signs if sign in token), token[:2])
        if not any(text in token for text in signs.setdefault(known, [])):
            signs[known].append(token)
    return {sign: tuple(texts) for sign, texts in signs.items()}


def may_hold_markup(text: str, signs: Mapping[str, tuple[str, ...]]) -> bool:
    """Return whether it is worth to look closer at the messages of which `text` is made."""
    for sign, texts in signs.items():
        if sign in text and any(map(text.__contains__, texts)):
            return True
    return text.startswith(_FIRST_WORDS) or any(map(text.__contains__, _LATER_WORDS))


def find_markup(content: str, pattern: re.Pattern[str], asked: str) -> str | None:
    """Return the markup in a message's content, or None. `asked` is the question it belongs to."""
    prose = prose_of(content)
    found = pattern.search(prose) or _RENDERED.search(prose)
    if found:
        start = found.start()
        return quote(content, start, min(found.end(), start + 30))
    headings = _HEADINGS.findall(prose)
    if len(set(headings)) > 1:
        return " ".join(dict.fromkeys(headings))
    if "s>" in prose and not _HTML.search(asked):
        edge = _EDGES.search(prose)
        if edge and not _is_strike_through(prose):
            return quote(content, edge.start(), edge.end())
    return None


def _is_markup(token: str) -> bool:
    return len(token) > 2 and not token.isalnum() and any(character.isalpha() for character in token)


def _is_strike_through(prose: str) -> bool:
    """Return whether `<s>` and `</s>` enclose words in the middle of the text, as HTML has it."""
    body = prose.strip()
    if body.startswith("<s>") and body.endswith("</s>"):
        return body.count("<s>") > 1 and "</s><s>" not in body.replace(" ", "")
    return body.count("<s>") == body.count("</s>") and "</s><s>" not in body.replace(" ", "")
