"""What of a text is prose: the rest is code, in fences, in backticks, or as a whole."""

from __future__ import annotations

import re

_FENCE = re.compile(r"^[ \t>]*(`{3,}|~{3,})[ \t]*([^\n`]*)$", re.MULTILINE)
_INLINE = re.compile(r"(?<!`)(`{1,2})(?!`)[^\n]{1,300}?(?<!`)\1(?!`)")
_CODE_LINE = re.compile(
    r"""^\s*(?:
        (?:def|class|for|while|if|elif|else|try|with|switch|do|func|fn|sub|impl|match)\b.*[:{]\s*$
        | (?:import|from|package|using|require|include)\s+[\w.{*"'<]
        | (?:const|let|var|public|private|protected|static|final|void|int|float|double|string|bool|char)\s+[\w<>\[\]]+
        | (?:return|print|echo|console|System|printf|cout)\b.*[();]
        | (?:SELECT|INSERT|UPDATE|DELETE|CREATE|FROM|WHERE|JOIN|ORDER\ BY|GROUP\ BY)\b
        | [\w.\[\]"']+\s*[-+*/|&]?=\s*\S
        | [\w.]+\(.*\)\s*;?\s*$
        | [#]\s*include\b | [#]!/ | <\?php | <(?!(?i:insert|your|enter)\b)/?[a-zA-Z][\w-]*(?:\s[^<>]*)?/?>
        | [{}()\[\]]+[;,]?\s*$
        | .*[;{]\s*$
        | //|/\*|\*/|--\s | <!--
    )""",
    re.VERBOSE,
)
CODE_SHARE = 0.5  # of the lines of a text that look like code: from here on it is code as a whole


def is_fence_open(text: str) -> bool:
    """Return whether the last code fence of a text is never closed."""
    return bool(_fences(text)[1])


def prose_of(text: str) -> str:
    """Return a text of the same length in which fenced and inline code is blanked out."""
    if "`" not in text and "~~~" not in text:
        return text
    spans, is_open = _fences(text)
    if is_open:
        spans = [*spans[:-1], (spans[-1][0], len(text))]
    for start, end in spans:
        text = f"{text[:start]}{' ' * (end - start)}{text[end:]}"
    return _INLINE.sub(lambda found: " " * len(found[0]), text)


def is_code(text: str) -> bool:
    """Return whether a text without fences is code as a whole: at least half of its lines look like it."""
    lines = [line for line in text.splitlines() if line.strip()]
    return bool(lines) and sum(bool(_CODE_LINE.match(line)) for line in lines) >= CODE_SHARE * len(lines)


def _fences(text: str) -> tuple[list[tuple[int, int]], bool]:
    """Return the spans of fenced code, and whether the last one is open.

    A fence ends at one of the same sign that is as long and has no words after it (CommonMark).
    """
    spans: list[tuple[int, int]] = []
    opened = ""
    for found in _FENCE.finditer(text):
        sign, words = found[1], found[2].strip()
        if not opened:
            opened = sign
            spans.append((found.start(), found.end()))
        elif sign.startswith(opened) and not words:
            spans[-1] = (spans[-1][0], found.end())
            opened = ""
    return spans, bool(opened)
