"""Answers that refuse: what share of a set they are, told by how they begin."""

from __future__ import annotations

import re
from array import array

from attune.data.lint.catalog import Found
from attune.data.lint.thresholds import Thresholds
from attune.data.lint.view import RowView
from attune.types import Severity

# every English refusal holds one of the first words and one of the second; searching for plain texts is ten times
# cheaper than the pattern, and most answers hold none
_DENIALS = ("not", "n't", "unable", "decline", "against my")
_HINTS = (
    *("sorry", "can't", "cannot", "can not", "unable", "not able", "won't", "will not", "an ai", "language model"),
    *("decline", "apolog", "not comfortable", "the ability", "against my", "unfortunately", "not programmed"),
    *("not designed", "artificial intelligence"),
)
_ACT = (
    r"(?:help|assist|provide|fulfil|fulfill|comply|answer|do (?:that|this|so)|generate|create|write|complete|support"
    r"|engage|offer|give|share|discuss|participate|access|perform|predict|browse|display|show|process|respond|continue|produce"
    r"|translate|summari[sz]e|determine|identify|view|draw)"
)
_HOW = r"(?:(?:currently|simply|not|really|personally|also|directly|physically|actually|accurately|ethically|just) )*"
_NOT = r"(?:can't|cannot|can not|won't|unable|not able|don't have|do not have|don't possess|do not possess|not capable)"
_NO_OPINION = r"(?! (?:personal|emotion|feeling|opinion|preference|a favou?rite|experience|memor|physical))"
_REFUSAL = re.compile(
    rf"i(?:'m| am)? {_HOW}(?:can't|cannot|can not|won't|will not|unable to|not able to) {_HOW}(?:be able to )?{_ACT}\b"
    rf"|(?:sorry|apologi[sz]e|apologies|unfortunately)[^.!?]{{0,90}}?\b(?:i|we)(?:'m| am| are)? {_NOT}{_NO_OPINION}"
    r"|(?:\ban? ai|artificial intelligence|language model)\b[^.!?]{0,60}?(?:\bi(?:'m| am)?|\band|\bso|,) "
    rf"{_NOT}{_NO_OPINION}"
    r"|i(?:'m| am) not comfortable (?:with )?(?:\w+ing)"
    r"|i (?:must|have to|will|would|respectfully) (?:respectfully )?decline"
    r"|i (?:don't|do not) have the ability"
    r"|(?:not programmed|not designed) to |against my (?:programming|guidelines|principles)"
)
_OTHER_HINTS = (
    "tut mir leid",
    "désol",
    "lo siento",
    "mi dispiace",
    "desculpe",
    "sinto muito",
    "извините",
    "к сожалению",
)
_CJK_REFUSAL = re.compile(
    r"(?:抱歉|对不起|對不起)[^。！？]{0,12}?(?:无法|不能|無法|不可以|没有办法)"
    r"|我(?:无法|不能|無法)(?:提供|回答|帮助|协助|满足|完成|生成)"
    r"|申し訳(?:ありません|ございません)[^。]{0,30}?(?:できません|できかねます|いたしかねます)"
    r"|죄송(?:합니다|하지만)[^.]{0,40}?(?:수 없|어렵)"
)
_OTHER_REFUSAL = re.compile(
    r"tut mir leid[^.!?]{0,60}?(?:kann|darf|werde) (?:ich|dir|ihnen)?[^.!?]{0,80}?(?:nicht|keine)"
    r"|désol[^.!?]{0,60}?je ne (?:peux|suis pas|pourrai)"
    r"|lo siento[^.!?]{0,60}?no (?:puedo|podemos|me es posible|soy capaz)"
    r"|mi dispiace[^.!?]{0,60}?non (?:posso|sono in grado)"
    r"|(?:desculpe|sinto muito)[^.!?]{0,60}?não (?:posso|consigo)"
    r"|(?:извините|к сожалению)[^.!?]{0,60}?(?:не могу|не в состоянии)"
)


class Refusals:
    """Takes every row once; counts those in which an answer begins by refusing."""

    def __init__(self, thresholds: Thresholds) -> None:
        self._thresholds = thresholds
        self._rows = array("q")
        self._texts: dict[int, str] = {}
        self._total = 0

    def take(self, row: RowView) -> None:
        """Look at the beginnings of a row's learned answers."""
        self._total += 1
        for answer in row.answers:
            text = refusal_in(answer, self._thresholds.refusal_characters)
            if text:
                self._rows.append(row.number)
                if len(self._texts) < self._thresholds.most_examples:
                    self._texts[row.number] = text
                return

    def absorb(self, part: Refusals, base: int) -> None:
        """Add the rows that another one took, which follow; `base`: the number of the first of them."""
        self._total += part._total
        self._rows.extend(row + base for row in part._rows)
        left = self._thresholds.most_examples - len(self._texts)
        self._texts |= {row + base: text for row, text in list(part._texts.items())[:left]}

    def found(self) -> list[Found]:
        """Return the rows that refuse; a share that is usual for chat data is only told."""
        if not self._rows:
            return []
        share = len(self._rows) / self._total
        detail = f"{share:.1%} of all rows."
        severity: Severity = "warning" if share > self._thresholds.refusal_share else "info"
        return [Found("refusal", list(self._rows), self._texts, detail, severity)]


def refusal_in(answer: str, characters: int) -> str:
    """Return the words with which the beginning of an answer refuses; empty where it does not."""
    head = answer[:characters].lower()
    is_ascii = head.isascii()
    if not is_ascii:
        head = head.replace("\u2019", "'")
    if _holds(head, _DENIALS) and _holds(head, _HINTS):
        text = _hit(_REFUSAL, head)
        if text:
            return text
    if _holds(head, _OTHER_HINTS):
        return _hit(_OTHER_REFUSAL, head)
    return "" if is_ascii else _hit(_CJK_REFUSAL, head)


def _holds(head: str, hints: tuple[str, ...]) -> bool:
    for hint in hints:  # noqa: SIM110 - any() with a generator takes three times as long
        if hint in head:
            return True
    return False


def _hit(pattern: re.Pattern[str], head: str) -> str:
    hit = pattern.search(head)
    return head[hit.start() : hit.start() + 100].replace("\n", " ") if hit else ""
