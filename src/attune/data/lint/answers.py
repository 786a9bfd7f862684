"""D08: answers that seem cut off."""

from __future__ import annotations

import re

from attune.data.lint.fences import is_code, is_fence_open, prose_of
from attune.data.lint.quote import shorten
from attune.data.lint.thresholds import Thresholds

_LIST_ITEM = re.compile(r"\s*(?:[-*+\u2022\u2013]|\(?\d{1,3}[.):]|\(?[A-Za-z][.)])\s")
_NO_PROSE = re.compile(r"https?://|www\.|[#@]\w|\||\t|[{}=\\<>]|\A\s*#|-lrb-|[:;]-?[pPdDxX]\Z")
# words after which a sentence goes on
_GOES_ON = re.compile(
    r"(?i)(?:a|an|the|of|to|and|or|but|with|from|by|as|at|for|into|than|that|which|who|whose|is|are|was|were|be|"
    r"been|has|have|had|will|would|can|could|should|may|might|must|its|their|his|her|our|your|my|this|these|"
    r"those|such|because|if|when|while|not|very|more|most|through|between|among|within|without|under)"
)
_EMPTY_ITEM = re.compile(r"\n[ \t]*(\d\d?)[.)]\Z")
_SENTENCE = re.compile(r"[.!?][\"')]?\s+[A-Z\u00c0-\u00de\u0391-\u03a9\u0410-\u042f]")  # one ends, another begins
_FAREWELL = re.compile(
    r"(?i)regards|wishes|sincerely|yours|truly|\blove\b|thanks|thank you|cheers|respectfully|cordially"
)
_SPEAKER = re.compile(r"[A-Z][\w .'-]{0,20}: ")
_ENDS = tuple(".!?:;\u2026\"'\u201d\u2019)]*_`>")


def find_cut(answer: str, thresholds: Thresholds) -> str | None:
    """Return the end of an answer that seems cut off, or None.

    Cut is a code fence or HTML page that is never closed, a list number with nothing after it, or a last line of prose
    that ends in the middle of a sentence where the other lines do not end so (a poem's do).
    """
    body = answer.rstrip()
    if not body:
        return None
    if ("```" in body or "~~~" in body) and is_fence_open(body):
        return "a code fence is opened and never closed"
    if "<html" in body and "</html>" not in body and "<html" in prose_of(body) and is_code(body):
        return f"the HTML page is never closed: ... {body[-40:]}"
    if body[-1] in ".)" and _ends_with_empty_item(body):
        return f"the list ends with an empty item: ... {body[-40:]}"
    if not (body[-1] in ",-\u2014" or body[-1].islower() or body[-1].isupper()):
        return None
    if len(body) < thresholds.truncated_words or len(body.split()) < thresholds.truncated_words:
        return None
    return _find_cut_sentence(body, thresholds)


def _ends_with_empty_item(body: str) -> bool:
    """Return whether the last line is only the number of a list item, after the one before it."""
    number = _EMPTY_ITEM.search(body[-40:])
    return number is not None and bool(re.search(rf"^[ \t]*{int(number[1]) - 1}[.)]\s+\S", body, re.MULTILINE))


def _find_cut_sentence(body: str, thresholds: Thresholds) -> str | None:
    """Return the last words of a text that ends in the middle of a sentence."""
    lines = [line.rstrip() for line in prose_of(body).splitlines() if line.strip()]
    last = lines[-1]
    words = last.split()
    end = " ".join(words[-8:])
    if not words or _NO_PROSE.search(end) or _is_dialogue(lines) or is_code("\n".join(lines)):
        return None
    is_item = bool(_LIST_ITEM.match(last))
    others = [line for line in lines[:-1] if len(line.split()) >= 4 and bool(_LIST_ITEM.match(line)) is is_item]
    stopped = sum(line.endswith(_ENDS) for line in others)
    if others and stopped * 2 < len(others):
        return None  # verses, headings, notes
    least = thresholds.truncated_list_item_words if is_item else thresholds.truncated_last_line_words
    if body[-1] == "," and _FAREWELL.search(last):
        return None
    goes_on = bool(_GOES_ON.fullmatch(words[-1])) or (body[-1] == "," and len(words) > 3)
    is_title = all(word[0].isupper() for word in words[is_item:])
    if goes_on or (len(others) >= 2 and stopped >= thresholds.truncated_stopped_share * len(others) and not is_title):
        least = thresholds.truncated_going_on_item_words if is_item else thresholds.truncated_going_on_words
    elif not _SENTENCE.search(body):
        return None
    return shorten(f"... {end}") if len(words) >= least else None


def _is_dialogue(lines: list[str]) -> bool:
    """Return whether the last line and one before it begin with a speaker's name: chat has no full stops."""
    return bool(_SPEAKER.match(lines[-1])) and any(map(_SPEAKER.match, lines[:-1]))
