"""D08: answers that seem cut off."""

from __future__ import annotations

import re

from attune.data.lint.fences import is_code, is_fence_open, prose_of
from attune.data.lint.quote import shorten
from attune.data.lint.thresholds import Thresholds

_LIST_ITEM = re.compile(r"\s*(?:[-*+\u2022\u2013]|\(?\d{1,3}[.):]|\(?[A-Za-z][.)])\s")
_NO_PROSE = re.compile(r"https?://|www\.|[#@]\w|\||\t|[{}=\\<>]|\A\s*#")
# words after which a sentence goes on
_GOES_ON = re.compile(
    r"(?i)(?:a|an|the|of|to|and|or|but|with|from|by|as|at|in|on|for|into|than|that|which|who|whose|is|are|was|were|be|"
    r"been|has|have|had|will|would|can|could|should|may|might|must|its|their|his|her|our|your|my|this|these|"
    r"those|such|because|if|when|while|not|very|more|most|through|between|among|within|without|about|over|under)"
)
_ENDS = tuple(".!?:;\u2026\"'\u201d\u2019)]*_`>")


def find_cut(answer: str, thresholds: Thresholds) -> str | None:
    """Return the end of an answer that seems cut off, or None.

    Cut is a code fence that is never closed; or a last line of prose that ends in the middle of a sentence, where
    the other lines do not end so (a poem's do).
    """
    if ("```" in answer or "~~~" in answer) and is_fence_open(answer):
        return "a code fence is opened and never closed"
    body = answer.rstrip()
    if not body or not (body[-1] in ",-\u2014" or body[-1].islower() or body[-1].isupper()):
        return None
    if len(body) < thresholds.truncated_words or len(body.split()) < thresholds.truncated_words:
        return None
    lines = [line for line in prose_of(body).splitlines() if line.strip()]
    last = lines[-1]
    words = last.split()
    if _NO_PROSE.search(last) or not words:
        return None
    goes_on = body[-1] == "," or bool(_GOES_ON.fullmatch(words[-1]))
    least = thresholds.truncated_last_line_words
    if _LIST_ITEM.match(last):
        least = thresholds.truncated_list_item_words
    if len(words) < (least // 2 if goes_on else least) or _is_style(lines, least) or is_code(body):
        return None
    return shorten(f"... {' '.join(words[-10:])}")


def _is_style(lines: list[str], least: int) -> bool:
    """Return whether other lines that are as long end without a full stop too: verses, headings, notes."""
    others = [line.rstrip() for line in lines[:-1] if len(line.split()) >= min(least, 4)]
    return bool(others) and sum(not line.endswith(_ENDS) for line in others) * 2 > len(others)
