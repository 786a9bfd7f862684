"""What the user lets pass: rules that may be broken, and a file of findings that were looked at and are meant."""

from __future__ import annotations

import difflib
import re
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path

from attune.data.lint.catalog import RULES
from attune.errors import ConfigError
from attune.types import Place

WHERE = re.compile(r"(?P<file>.+?)(?::(?P<first>\d+)(?:-(?P<last>\d+))?)?")
SHORT_ID = re.compile(r"^([A-Z])(\d)$")
OTHERS = (  # findings that stand outside the catalog; bad rows have a setting of their own, data.skip_bad_rows
    *(f"R0{number}" for number in (1, 4, 6, 7)),
    *(f"T{number:02}" for number in range(1, 11)),
    *("layout", "empty-answer", "files-not-read", "lossy-tokenizer", "rewritten-history", "no-system-role"),
    *("double-begin-token", "prompt-not-a-prefix"),
)


@dataclass(frozen=True, slots=True)
class Waiver:
    """A line of an ignore file: a rule, and the places for which it does not count; no file means everywhere."""

    rule: str
    file: str = ""
    first: int = 0
    last: int = 0

    def covers(self, place: Place) -> bool:
        """Return whether a place is meant; a file may be named by the end of its path."""
        if not self.file:
            return True
        is_file = place.file == self.file or place.file.endswith(f"/{self.file}")
        return is_file and (not self.first or self.first <= place.line <= self.last)


@dataclass(frozen=True, slots=True)
class Waivers:
    """Everything that may pass."""

    allowed: frozenset[str] = frozenset()  # ids and names of rules
    lines: tuple[Waiver, ...] = ()

    def allows(self, identity: str, name: str) -> bool:
        """Return whether findings of a rule are only told."""
        return identity in self.allowed or name in self.allowed

    def passes(self, name: str, place: Place) -> bool:
        """Return whether one row of a finding is passed over."""
        identity = RULES[name].id
        return any(waiver.rule in (identity, name) and waiver.covers(place) for waiver in self.lines)


def open_waivers(allow: Sequence[str], ignore: str) -> Waivers:
    """Return what data.allow and the file data.ignore let pass. Raises: ConfigError for a rule that does not exist."""
    for word in allow:
        _check_rule(word, f"data.allow: {word}", OTHERS)
    if not ignore:
        return Waivers(frozenset(allow))
    try:
        text = Path(ignore).read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"data.ignore: {ignore} cannot be read: {error}.") from None
    waivers = []
    for number, line in enumerate(text.splitlines(), 1):
        words = line.split("#", 1)[0].strip()
        if words:
            waivers.append(_read_line(words, f"{ignore}:{number}"))
    return Waivers(frozenset(allow), tuple(waivers))


def _read_line(words: str, where: str) -> Waiver:
    rule, _, rest = words.partition(" ")
    _check_rule(rule, f"{where} {rule}", ())
    rest = rest.strip()
    if not rest:
        return Waiver(rule)
    found = WHERE.fullmatch(rest)
    assert found is not None, "a file name matches anything"
    first = int(found["first"] or 0)
    last = int(found["last"] or first)
    if found["first"] and not first:
        raise ConfigError(f"{where} {words}: lines count from 1.")
    if last < first:
        raise ConfigError(f"{where} {words}: the last line is before the first.")
    return Waiver(rule, found["file"], first, last)


def _check_rule(word: str, where: str, others: Collection[str]) -> None:
    known = {*RULES, *(rule.id for rule in RULES.values()), *others}
    if word not in known:
        identity = SHORT_ID.sub(r"\g<1>0\2", word.upper())  # D5 and d05 are D05, not the likeliest looking id
        near = [identity] if identity in known else difflib.get_close_matches(word, sorted(known), n=1, cutoff=0.5)
        hint = f' - did you mean "{near[0]}"?' if near else f". Rules: {', '.join(sorted(known))}."
        raise ConfigError(f"{where} is no rule of the check{hint}")
