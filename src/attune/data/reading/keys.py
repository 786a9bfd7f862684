"""Keys that a line of JSON writes twice in one object; parsers keep the last one silently."""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import cache
from typing import Any

# of the turns in a list: role and content
_TURN_KEYS = {"messages": (b'"role"', b'"content"'), "conversations": (b'"from"', b'"value"')}
_ALL_TURN_KEYS = frozenset(("role", "content", "from", "value"))


def key_written_twice(raw: bytes, value: Mapping[str, Any], names: tuple[str, ...]) -> str:
    """Return a key that matters and stands twice in one object of a line; "" if none does.

    `names` are the keys of the row that matter; in lists of turns those of a turn do too. Cheap for most rows: only a
    line in which such a name is written otherwise than expected is parsed again.
    """
    if not raw or _is_as_expected(raw, value, names):
        return ""
    watched = _ALL_TURN_KEYS.union(names)
    twice: list[str] = []

    def keep(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        seen = dict(pairs)
        if len(seen) < len(pairs):
            keys = [key for key, _ in pairs]
            twice.extend(key for key in seen if key in watched and keys.count(key) > 1)
        return seen

    try:
        json.loads(raw, object_pairs_hook=keep)
    except (ValueError, RecursionError):
        return ""  # odd JSON that the reader has already judged
    return twice[0] if twice else ""


def _is_as_expected(raw: bytes, value: Mapping[str, Any], names: tuple[str, ...]) -> bool:
    """Return whether every name is written as often as the parsed row has it."""
    if raw.count(b'"') == _num_quotes(value):
        return True  # one key more would be two quotes more
    quoted = _quoted(names)
    own = _TURN_KEYS.get(names[0])
    if own is None:
        return max(map(raw.count, quoted)) <= 1
    turns = value[names[0]]
    expected = len(turns) if type(turns) is list else -1
    return raw.count(own[0]) == expected == raw.count(own[1]) and raw.count(quoted[0]) == 1


def _num_quotes(value: Mapping[str, Any]) -> int:
    """Return the quotes around the keys and texts of a row of texts and turns of texts; -1 for any other row."""
    quotes = 0
    for cell in value.values():
        if type(cell) is str:
            quotes += 4
        elif type(cell) is list:
            quotes += 2
            for turn in cell:
                if type(turn) is not dict or len(turn) != 2:
                    return -1
                first, second = turn.values()
                if type(first) is not str or type(second) is not str:
                    return -1
                quotes += 8
        else:
            return -1
    return quotes


@cache
def _quoted(names: tuple[str, ...]) -> tuple[bytes, ...]:
    """Return names as they stand in JSON."""
    return tuple(f'"{name}"'.encode() for name in names)
