"""D10: slots that nobody filled, and answers that are only a filler."""

from __future__ import annotations

import re

from attune.data.lint.fences import is_code, prose_of
from attune.data.lint.quote import shorten

_ORDERS = (
    r"(?:INSERT|Insert|insert|YOUR|Your|your|ENTER|ADD|FILL|PUT"  # "[Enter Hamlet]" is a stage direction
    r"|(?:[Ee]nter|[Aa]dd|[Ff]ill[ ]in|[Pp]ut)(?=[ _](?:your|the|a|an|name|date|number|amount|text|here)\b))"
)
_SLOT = re.compile(
    rf"""[\[{{<](?:  # one set of first characters: the search skips to them
    (?<=\{{)(?P<braces>\{{[ ]*[^\W\d][\w .\-]{{0,38}}[ ]*\}}\}}(?!\}}))
    | (?<=\[)(?P<brackets>[ ]?{_ORDERS}[ _'][^\[\]\n]{{1,60}}\](?!\())
    | (?<=<)(?P<angles>[ ]?{_ORDERS}[ _-][^<>\n]{{1,40}}>)
    | (?<=\{{)(?P<single>(?:(?:first|last|full|user|customer|company|product|bot|model|assistant|agent)
        [ _]?name|name|author|company|customer|username|email|phone|address|developer|organization|city|date)\}}(?!\}}))
    )""",
    re.VERBOSE,
)
_NOT_BEFORE = tuple("\\^_{}$%")  # LaTeX, f-strings and shells, where braces mean something else
_LATIN = re.compile(r"[Ll]orem ipsum dolor|\A\s*[Ll]orem ipsum")
_FILLER = re.compile(
    r"""(?ix) [\s\W_]* (?:
        todo | tbd | tba | fixme | xxx+ | placeholder | lorem\ ipsum
        | no[ _]?(?:input|output|response|answer)
        | (?:(?:your|insert|enter|the|add|put)\ )?(?:answer|response|output|text|content)\ (?:goes\ )?here
        | fill\ (?:this\ )?in | (?:to\ be|not\ yet)\ (?:done|written|added|filled(?:\ in)?|determined|completed)
    ) [\s\W_]* (?:\b(?:later|soon)\b[\s\W_]*)? | \.{2,} | \u2026+ | -{2,} | _{2,} | nan
    | [\[<({]+ (?:answer|response|output|completion|reply|assistant|content|text) [\]>)}]+"""
)
_BEGINS_UNWRITTEN = re.compile(r"\A\W*(?:TODO|TBD|FIXME)\b\W*[:\-]")
# questions after which slots are the answer, or part of one
_ASKS_SLOTS = re.compile(
    r"(?i)template|placeholder|fill[- ]?in|\bblanks?\b|mad ?libs?|jinja|mustache|handlebars|angular|\bvue|liquid|"
    r"ansible|\bhelm\b|latex|f-string|string format|interpolat|\{|lorem|dummy text|filler text|\bslots?\b"
)
_ASKS_LETTER = re.compile(
    r"(?i)\b(?:write|compose|draft|creat|generat|mak|design|prepar|provid|giv|send|suggest|construct|develop|build|"
    r"formulat|craft|put|need|want|help|outlin|fill)\w*\b.{0,80}?\b(?:e-?mails?|letters?|memos?|messages?|invit\w+|"
    r"agenda|contracts?|agreements?|resumes?|r\u00e9sum\u00e9s?|cv|speech|script|forms?|notices?|press releases?|"
    r"announcements?|complaints?|petitions?|toasts?|bios?|profiles?|invoices?|polic(?:y|ies)|introductions?|conversations?)\b"
)
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
    slots: list[re.Match[str]] = []
    if "[" in answer or "{" in answer or "<" in answer:
        slots += (slot for slot in _SLOT.finditer(answer) if slot[0][0] != "{" or _is_free(answer, slot.start()))
    if "orem ipsum" in answer:
        slots += _LATIN.finditer(answer)
    if not slots:
        return None
    prose = prose_of(answer)
    left = [f[0] for f in slots if prose[f.start()] == answer[f.start()] and not _is_wanted(f, question)]
    return shorten(", ".join(dict.fromkeys(left))) if left and not is_code(prose) else None


def _is_free(answer: str, start: int) -> bool:
    """Return whether braces stand by themselves and are no part of an expression, as in LaTeX or a shell."""
    return answer[start - 1 : start] not in _NOT_BEFORE


def _is_wanted(found: re.Match[str], question: str) -> bool:
    """Return whether the question itself holds the slot, or asks for a text with slots."""
    if found[0].strip("{}[]<> ") in question or _ASKS_SLOTS.search(question):
        return True
    return found.lastgroup in ("brackets", "angles") and bool(_ASKS_LETTER.search(question))
