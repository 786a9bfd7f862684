"""D10: slots that nobody filled, and answers that are only a filler."""

from __future__ import annotations

import re

from attune.data.lint.fences import is_code, prose_of
from attune.data.lint.quote import shorten

_ORDERS = r"(?:INSERT|Insert|insert|ENTER|Enter|enter|YOUR|Your|your|FILL|Fill|fill|ADD|Add|add|PUT|Put|put)"
_SLOT = re.compile(
    rf"""
    (?<![\\^_{{}}$\w%])(?P<braces>\{{\{{[ ]*[^\W\d][\w .\-]{{0,38}}[ ]*\}}\}})(?!\}})
    | (?P<brackets>\[[ ]?{_ORDERS}[ _'][^\[\]\n]{{1,60}}\](?!\())
    | (?P<angles><[ ]?{_ORDERS}[ _-][^<>\n]{{1,40}}>)
    | (?P<single>(?<![\\^_{{}}$\w%])\{{(?:(?:first|last|full|user|customer|company|product|bot|model|assistant|agent)
        [ _]?name|name|author|company|customer|username|email|phone|address|developer|organization|city|date)\}}(?!\}}))
    | (?P<latin>\b[Ll]orem\ ipsum\ dolor|\A\s*[Ll]orem\ ipsum)
    """,
    re.VERBOSE,
)
_FILLER = re.compile(
    r"""(?ix) [\s\W_]* (?:
        todo | tbd | tba | fixme | xxx+ | placeholder | lorem\ ipsum
        | no[ _]?(?:input|output|response|answer)
        | (?:(?:your|insert|enter|the|add|put)\ )?(?:answer|response|output|text|content)\ (?:goes\ )?here
        | (?:to\ be|not\ yet)\ (?:done|written|added|filled(?:\ in)?|determined|completed)
    ) [\s\W_]* (?:\b(?:later|soon)\b[\s\W_]*)? | \.{2,} | \u2026+ | -{2,} | _{2,} | nan"""
)
_BEGINS_UNWRITTEN = re.compile(r"\A\W*(?:TODO|TBD|FIXME)\b\W*[:\-]")
# questions after which slots are the answer, or part of one
_ASKS_SLOTS = re.compile(
    r"(?i)template|placeholder|fill[- ]?in|\bblanks?\b|mad ?libs?|jinja|mustache|handlebars|angular|\bvue|liquid|"
    r"ansible|\bhelm\b|latex|f-string|string format|interpolat|\{|lorem|dummy text|filler text|\bslots?\b"
)
_ASKS_LETTER = re.compile(
    r"(?i)\b(?:e-?mails?|letters?|memos?|messages?|invitations?|invit\w+|agenda|contracts?|agreements?|resumes?|"
    r"r\u00e9sum\u00e9s?|\bcv\b|cover|speech|script|forms?|notices?|press releases?|announcements?|reviews?|posts?|"
    r"complaints?|petitions?|toasts?|bios?|profiles?|tweets?|invoices?|polic(?:y|ies)|draft|outline|report|website)\b"
)
FIRST_SIGNS = ("{", "[", "<", "orem ipsum")
LONGEST_FILLER = 60  # characters


def find_placeholder(answer: str, question: str) -> str | None:
    """Return the unfilled slots of an answer, or the filler that it is; None if it holds neither."""
    if (
        len(answer) <= LONGEST_FILLER
        and _FILLER.fullmatch(answer.strip())
        and answer.strip().lower() not in question.lower()
    ):
        return f"the whole answer is {answer.strip()[:60]!r}"
    if _BEGINS_UNWRITTEN.match(answer):
        return shorten(answer[:60])
    if not any(sign in answer for sign in FIRST_SIGNS):
        return None
    prose = prose_of(answer)
    slots = [slot for slot in map(_slot, _SLOT.finditer(prose)) if not _is_wanted(slot, question)]
    if not slots or is_code(prose):
        return None
    return shorten(", ".join(dict.fromkeys(text for _, text in slots)))


def _slot(found: re.Match[str]) -> tuple[str, str]:
    return str(found.lastgroup), found[0]


def _is_wanted(slot: tuple[str, str], question: str) -> bool:
    """Return whether the question itself holds the slot, or asks for a text with slots."""
    kind, text = slot
    if text in question or text.strip("{}[]<> ") in question or _ASKS_SLOTS.search(question):
        return True
    return kind in ("brackets", "angles") and bool(_ASKS_LETTER.search(question))
