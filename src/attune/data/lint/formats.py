"""The format of an answer: JSON, XML, YAML, a table, code, Markdown, a label or plain words."""

from __future__ import annotations

import json
import re
from typing import Any, Literal, NamedTuple

import orjson

Format = Literal["json", "fenced json", "xml", "yaml", "table", "code", "markdown", "label", "plain"]
FORMATS: tuple[Format, ...] = (
    "json",
    "fenced json",
    "xml",
    "yaml",
    "table",
    "code",
    "markdown",
    "label",
    "plain",
)
LABEL_CHARACTERS = 48
LABEL_WORDS = 5
READ_LINES = 24
READ_CHARACTERS = 3000  # of an answer, when its lines are looked at


class Reading(NamedTuple):
    """An answer's format. `value` is what its JSON says; `fault` why it breaks the format that it begins with."""

    format: Format
    value: dict[str, Any] | list[Any] | None = None
    fault: str = ""


_FENCE = re.compile(r"```[ \t]*(\w*)[^\n]*\n(.*?)\n?[ \t]*```", re.DOTALL)
_ATTEMPT = re.compile(r'\{\s*["\'][^"\'\n]{1,60}["\']\s*:|\[\s*\{\s*["\'][^"\'\n]{1,60}["\']\s*:')
_TAG = re.compile(r"<(/?)([A-Za-z_][\w:.-]*)(?:\s[^<>]*?)?(/?)>")
_WRAPPED = re.compile(r"<[A-Za-z_][\w:.-]*(?:\s[^<>]*)?>")
_HTML = re.compile(
    r"<(?:!doctype|html|head|body|div|p|a|span|script|style|ul|ol|li|h[1-6]|img|table|form)\b", re.IGNORECASE
)
_YAML_LINE = re.compile(r"(?:[a-z_][\w-]+:(?: .*)?|\s+\S.*|- \S.*|---|#.*)$")
_YAML_KEY = re.compile(r"([a-z_][\w-]+):(?= |$)")
_TABLE = re.compile(r"^\s*\|?\s*:?-{2,}:?\s*(?:\|\s*:?-{2,}:?\s*)+\|?\s*$", re.MULTILINE)
_CODE_START = re.compile(
    r"#!|#include\b|import [\w.{*]|from [\w.]+ import |(?:async )?def \w+\(|class \w+\s*[:({]|@\w+"
    r"|(?:public|private|protected|static) (?:\w+[ (])|package \w|using [\w.]+;|namespace \w|func \w+\(|fn \w+"
    r"|(?:export |async )*function\b\s*\*?\s*\w*\(|(?:const|let|var) [\w{\[][^=\n]*="
    r"|console\.log\(|\$\(|print\(|<\?php|<!doctype"
    r"|<(?:html|head|body|div|script|style)\b|(?:SELECT|INSERT INTO|UPDATE|DELETE FROM|CREATE TABLE|ALTER TABLE|WITH) "
    r"|<\?php|for ?\(|if ?\(|while ?\(|//|/\*|[\w.]+ = [\w\[{(\"']|[\w.#*:>, -]+ \{\n",
)
_CODE_SIGNS, _CODE_ENDS, _CODE_END = ";{}", ":/>", ("):", "*/", "/>")
_CODE_WORDS = (
    *("import ", "from ", "def ", "class ", "return ", "print(", "elif ", "else:", "try:", "except", "with open("),
    *(
        "#include",
        "#!",
        "//",
        "/*",
        "echo ",
        "fi",
        "done",
        "</",
        "end",
        "public ",
        "private ",
        "const ",
        "let ",
        "var ",
    ),
    *("SELECT ", "FROM ", "WHERE ", "ORDER BY ", "GROUP BY ", "INSERT ", "CREATE "),
)
_ASSIGNED = re.compile(
    r"(?:\w+ )?[A-Za-z_$][\w.$]*(?:\[[^]]*\])? (?:[-+*/]?=|:=) ?(?!.*(?:<<|[^\W\d_] [^\W\d_]+ [^\W\d_]+ [^\W\d_]))\S"
    r"|\w+(?:\.\w+)*\(.*\)$"
)
_MARKDOWN = re.compile(r"#{1,6} \S|\s*[-*+] \S|\s*\d{1,3}[.)] \S|> \S")
_MARKS = frozenset("#-*+> \t0123456789")
_SENTENCE_END = (".", "!", "?", "。", "！", "？", "…", ":", ",")


def classify(answer: str) -> Format:
    """Return the format of an answer; JSON that does not parse counts as JSON where it is plainly meant so."""
    return read(answer).format


def read(answer: str) -> Reading:
    """Return an answer's format with what its JSON says, or what is wrong with it."""
    text = answer.strip()
    first = text[:1]
    if first in {"{", "["}:
        reading = _read_json(text)
        if reading:
            return reading
    elif first == "`" and text.startswith("```"):
        return _read_fence(text)
    elif first == "<" and not _HTML.match(text) and _WRAPPED.match(text) and text.endswith(">"):
        return Reading("xml", None, tag_fault(text))
    if "\n" not in text:
        return _LABEL if _is_label(text) else _CODE if _is_code_line(text) else _PLAIN
    return _read_lines(text)


def begins_as_code(text: str) -> bool:
    """Return whether a text begins as a program does."""
    return bool(_CODE_START.match(text))


def json_in(text: str) -> bool:
    """Return whether a text that is no JSON was meant to be: it opens like JSON or holds keys in quotes."""
    stripped = text.strip()
    return stripped[:1] in {"{", "["} or stripped[-1:] == "}" or bool(_KEY.search(stripped))


_KEY = re.compile(r'["\'][\w $.-]{1,60}["\']\s*:\s*(?:["\'\[{\d-]|true\b|false\b|null\b)')
_PLAIN, _LABEL, _CODE, _MARKED = Reading("plain"), Reading("label"), Reading("code"), Reading("markdown")


def _read_json(text: str) -> Reading | None:
    """Return the reading of a text that begins like JSON; None where it is none."""
    try:
        value = orjson.loads(text)
    except orjson.JSONDecodeError as error:
        if text[-1] in "}]" and "\n" in text:
            lines = _json_lines(text)
            if lines:
                return Reading("json", lines)
        if _ATTEMPT.match(text):
            return Reading("json", None, _parse_fault(text, error))
        return None
    return Reading("json", value, twice_fault(text, value))


def _json_lines(text: str) -> list[Any] | None:
    """Return the values of a text in which each line is a JSON object; None where one is not."""
    values = []
    for line in text.split("\n"):
        if line.strip():
            try:
                value = orjson.loads(line)
            except orjson.JSONDecodeError:
                return None
            if type(value) is not dict:
                return None
            values.append(value)
    return values


def _parse_fault(text: str, error: orjson.JSONDecodeError) -> str:
    """Return why a text is no JSON, in words."""
    at = error.pos
    if at >= len(text):
        return "ends before its JSON does"
    if "trailing comma" in error.msg:
        return f'a comma before "{text[at + 1 :].lstrip()[:1]}"'
    if text[at] == "'":
        return "single quotes around a key or text"
    if error.msg == "unexpected content after document":
        return f'more text after the JSON: "{text[at : at + 20].strip()}"'
    return f'no JSON from "{text[max(0, at - 10) : at + 10].strip()}" on (character {at + 1})'


def count_keys(value: Any) -> int:
    """Return how many keys all objects of a JSON value have together."""
    count, open_parts = 0, [value]  # no recursion: JSON may be 1024 levels deep
    while open_parts:
        part = open_parts.pop()
        if type(part) is dict:
            count += len(part)
            open_parts.extend(part.values())
        elif type(part) is list:
            open_parts.extend(part)
    return count


def twice_fault(text: str, value: Any) -> str:
    """Return which key an object of valid JSON holds twice, in words; parsers keep one of the two silently.

    Only a text with more key-like places than `value` has keys is parsed again.
    """
    if text.count('":') + text.count('" :') <= count_keys(value):
        return ""
    twice: list[str] = []

    def note(pairs: list[tuple[str, Any]]) -> None:
        keys = [key for key, _ in pairs]
        if len(set(keys)) < len(keys):
            twice.extend(key for key in dict.fromkeys(keys) if keys.count(key) > 1)

    try:
        json.loads(text, object_pairs_hook=note)
    except (ValueError, RecursionError):
        return ""  # orjson has taken it: nesting that the slow parser does not reach
    return f'the key "{twice[0][:40]}" twice' if twice else ""


def _read_fence(text: str) -> Reading:
    """Return the reading of a text that begins with a code fence."""
    whole = _FENCE.fullmatch(text)
    if not whole:
        return _MARKED
    inner = whole[2].strip()
    if inner[:1] in {"{", "["} and whole[1].lower() in {"", "json", "jsonc", "json5"}:
        reading = _read_json(inner)
        if reading:
            return Reading("fenced json", reading.value, reading.fault)
    return _MARKED if "```" in inner else _CODE


def tag_fault(text: str) -> str:
    """Return which tag of an XML text is not closed or never opened, in words; empty where all agree."""
    open_tags: list[str] = []
    for closing, name, alone in _TAG.findall(text):
        if alone:
            continue
        if not closing:
            open_tags.append(name)
        elif not open_tags:
            return f"</{name[:40]}> closes what was never opened"
        elif open_tags.pop() != name:
            return f"</{name[:40]}> closes another tag"
    return f"<{open_tags[-1][:40]}> is never closed" if open_tags else ""


def _is_label(text: str) -> bool:
    """Return whether one line says one thing and is no sentence: a class, a name, a number."""
    if not text or len(text) > LABEL_CHARACTERS or text[0] == "<":
        return False
    words = text.count(" ") + 1
    return words == 1 or (words <= LABEL_WORDS and not text.endswith(_SENTENCE_END))


def _is_code_line(text: str) -> bool:
    return text.endswith((";", ")", "}")) and bool(_CODE_START.match(text))


def _read_lines(text: str) -> Reading:
    """Return the reading of a text of several lines that is neither JSON, nor XML, nor a fence."""
    if "|" in text and _TABLE.search(text):
        return Reading("table")
    lines = [
        line for line in text[:READ_CHARACTERS].split("\n", READ_LINES)[:READ_LINES] if line and not line.isspace()
    ]
    if _is_separated(lines):
        return Reading("table")
    code = sum(map(_is_line_of_code, lines))
    if code >= 0.6 * len(lines) or (code >= 0.25 * len(lines) and _CODE_START.match(text)):
        return _CODE
    if _is_yaml(lines):
        return Reading("yaml")
    return _MARKED if _is_marked(text, lines) else _PLAIN


def _is_line_of_code(line: str) -> bool:
    line = line.strip()
    last = line[-1]
    if last in _CODE_SIGNS or line.startswith(_CODE_WORDS):
        return True
    return (last in _CODE_ENDS and line.endswith(_CODE_END)) or (
        ("=" in line or last == ")") and bool(_ASSIGNED.match(line))
    )


def _is_marked(text: str, lines: list[str]) -> bool:
    """Return whether a text holds Markdown: headings, list items, quotes, bold words or a fence."""
    return "**" in text or "```" in text or any(line[0] in _MARKS and _MARKDOWN.match(line) for line in lines)


def _is_separated(lines: list[str]) -> bool:
    """Return whether at least three lines are cut into equally many short cells by commas, semicolons or tabs."""
    if len(lines) < 3:
        return False
    for sign in ("\t", ",", ";"):
        cells = lines[0].count(sign)
        if cells and (cells > 1 or sign == "\t") and all(line.count(sign) == cells for line in lines[1:]):
            return all(len(line) < 20 * (cells + 1) and ", " not in line for line in lines)
    return False


def _is_yaml(lines: list[str]) -> bool:
    """Return whether all lines read as YAML with at least two keys, none of them twice (a dialogue repeats names)."""
    if not _YAML_KEY.match(lines[0]) and lines[0] != "---":
        return False
    keys = [hit[1] for hit in map(_YAML_KEY.match, lines) if hit]
    if len(keys) < 2 or len(set(keys)) < len(keys):
        return False
    return all(map(_YAML_LINE.match, lines)) and sum(map(len, lines)) < 120 * len(lines)
