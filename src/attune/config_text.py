"""The text of a config file, YAML or TOML: read to a tree whose every key knows its place, and written back."""

from __future__ import annotations

import difflib
import json
import os
import re
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from typing import Any

import yaml

from attune.errors import ConfigError

tomllib: Any = import_module("tomllib" if sys.version_info >= (3, 11) else "tomli")

MAX_BYTES = 1024 * 1024  # a config is a page; more is a data file given by mistake
MAX_DEPTH = 16
NULLS = ("", "~", "null", "Null", "NULL")
TOML_PLACE = re.compile(r"\(at line (\d+), column (\d+)\)|\(at end of document\)")
TOML_LINE = re.compile(r"""\s*(?P<table>\[)?\s*(?P<key>(?:[\w.-]|"[^"]*"|'[^']*')+)\s*(?:\]|=)""")
YAML_FRAME = (yaml.StreamStartEvent, yaml.StreamEndEvent, yaml.DocumentStartEvent, yaml.DocumentEndEvent)
PLAIN = re.compile(r"[A-Za-z_./~][\w./~+-]*")
YAML_WORDS = {"true", "false", "yes", "no", "on", "off", "null", "y", "n", "~"}


@dataclass(frozen=True, slots=True)
class Text:
    """A value as it was written; its type is decided by the setting that it is for."""

    text: str
    quoted: bool


@dataclass(frozen=True, slots=True)
class Group:
    """Keys with their places ("config.yaml:7:3") and values: Text, None, a list, a Group, or a typed value of TOML."""

    entries: dict[str, tuple[str, Any]] = field(default_factory=dict)


def read_tree(path: Path) -> Group:
    """Return the keys and values of a config file. Raises ConfigError naming file:line:col."""
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        raise ConfigError(f"{path} not found.{_nearby_configs(path)}") from None
    except OSError as error:
        raise ConfigError(f"{path} cannot be read: {error.strerror}.") from None
    if len(data) > MAX_BYTES:
        raise ConfigError(f"{path} is {len(data) / 1e6:.1f} MB, too large for a config file. Is it data?")
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        byte = data[error.start]
        raise ConfigError(f"{path}:{line} byte 0x{byte:02X} is not UTF-8. Save the file as UTF-8.") from None
    return _read_toml(text, path) if path.suffix.lower() == ".toml" else _read_yaml(text, path)


def _nearby_configs(path: Path) -> str:
    folder = path.parent
    items = folder.iterdir() if folder.is_dir() else ()
    names = sorted(item.name for item in items if item.suffix in (".yaml", ".yml", ".toml"))
    near = difflib.get_close_matches(path.name, names, n=1)
    if near:
        return f" Did you mean {folder / near[0]}?"
    return f" In {folder}{os.sep} there are: {', '.join(names[:5])}." if names else ""


def _read_yaml(text: str, path: Path) -> Group:
    try:
        events = _yaml_events(text, path)
        root = _yaml_node(next(events, None), events, path, 0)
        if next(events, None) is not None:
            raise ConfigError(f"{path}: holds more than one YAML document (---). Keep one.")
    except yaml.MarkedYAMLError as error:
        place = f":{error.problem_mark.line + 1}:{error.problem_mark.column + 1}" if error.problem_mark else ""
        context = f"{error.context}, " if error.context else ""
        hint = " (indent with spaces)" if "'\\t'" in str(error.problem) else ""
        raise ConfigError(f"{path}{place} is not YAML: {context}{error.problem}{hint}") from None
    except yaml.YAMLError as error:
        raise ConfigError(f"{path} is not YAML: {' '.join(str(error).split())}") from None
    if root is None:
        return Group()
    if not isinstance(root, Group):
        raise ConfigError(f"{path}:1:1 a config file holds keys and values, such as model: NAME")
    return root


def _yaml_events(text: str, path: Path) -> Iterator[Any]:
    """Yield the events that carry content. What a config has no use for, and an attack has, is refused here."""
    events: Iterator[Any] = yaml.parse(text, Loader=yaml.SafeLoader)
    for event in events:
        if isinstance(event, YAML_FRAME):
            continue
        if getattr(event, "anchor", None):
            sign = "*" if isinstance(event, yaml.AliasEvent) else "&"
            what = f"anchors and aliases ({sign}{event.anchor})"
            raise ConfigError(f"{_place(event, path)} {what} are not allowed: write the value out.")
        if getattr(event, "tag", None):
            tag = event.tag.replace("tag:yaml.org,2002:", "!!")
            raise ConfigError(f"{_place(event, path)} tags ({tag}) are not allowed: write a plain value.")
        yield event


def _place(event: Any, path: Path) -> str:
    return f"{path}:{event.start_mark.line + 1}:{event.start_mark.column + 1}"


def _yaml_node(event: Any, events: Iterator[Any], path: Path, depth: int) -> Any:
    if event is None:
        return None
    if depth > MAX_DEPTH:
        raise ConfigError(f"{_place(event, path)} is nested deeper than {MAX_DEPTH} levels.")
    if isinstance(event, yaml.ScalarEvent):
        quoted = event.style is not None
        return None if not quoted and event.value in NULLS else Text(event.value, quoted)
    if isinstance(event, yaml.SequenceStartEvent):
        items = []
        while not isinstance(item := next(events), yaml.SequenceEndEvent):
            items.append(_yaml_node(item, events, path, depth + 1))
        return items
    group = Group()
    while not isinstance(key := next(events), yaml.MappingEndEvent):
        where = _place(key, path)
        if not isinstance(key, yaml.ScalarEvent):
            raise ConfigError(f"{where} a key must be a name.")
        if key.value in group.entries:
            raise ConfigError(f'{where} "{key.value}" is already set at {group.entries[key.value][0]}. Keep one.')
        group.entries[key.value] = (where, _yaml_node(next(events), events, path, depth + 1))
    return group


def _read_toml(text: str, path: Path) -> Group:
    try:
        tree = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        found = TOML_PLACE.search(str(error))
        problem = TOML_PLACE.sub("", str(error)).strip()
        line, column = (found[1], found[2]) if found and found[1] else (text.count("\n") + 1, 1)
        raise ConfigError(f"{path}:{line}:{column} is not TOML: {problem}") from None
    except RecursionError:
        raise ConfigError(f"{path} is nested deeper than a config can be.") from None
    return _toml_group(tree, "", _toml_places(text), str(path))


def _toml_places(text: str) -> dict[str, str]:
    """Map each dotted key to "line:col". Keys inside inline tables are missing and take the place of their table."""
    places: dict[str, str] = {}
    table, closing = "", ""
    for number, line in enumerate(text.splitlines(), 1):
        if closing:
            closing = "" if closing in line else closing
            continue
        match = TOML_LINE.match(line)
        if not match:
            continue
        key = match["key"].replace('"', "").replace("'", "")
        name = key if match["table"] else f"{table}{key}"
        table = f"{key}." if match["table"] else table
        places.setdefault(name, f"{number}:{match.start('key') + 1}")
        value = line[match.end() :].lstrip()
        fence = value[:3] if value[:3] in ('"""', "'''") else ""
        closing = fence if fence and fence not in value[3:] else ""
    return places


def _toml_group(tree: Mapping[str, Any], prefix: str, places: Mapping[str, str], path: str) -> Group:
    group = Group()
    for key, value in tree.items():
        name = prefix + key
        known = next((name[:n] for n in _ends(name) if name[:n] in places), "")
        where = f"{path}:{places[known]}" if known else f"{path}:1:1"
        group.entries[key] = (where, _toml_group(value, f"{name}.", places, path) if isinstance(value, dict) else value)
    return group


def _ends(name: str) -> list[int]:
    """Where a dotted name and each of its parents end, longest first."""
    return [len(name), *(i for i in range(len(name) - 1, -1, -1) if name[i] == ".")]


def write_yaml(tree: Mapping[str, Any], comments: Mapping[str, str] | None = None) -> str:
    """Return nested settings as YAML text; `comments` by dotted name stand behind their value."""
    return "\n".join(_yaml_lines(tree, "", comments or {})) + "\n"


def _yaml_lines(tree: Mapping[str, Any], prefix: str, comments: Mapping[str, str]) -> Iterator[str]:
    indent = "  " * prefix.count(".")
    for key, value in tree.items():
        name = prefix + key
        if isinstance(value, Mapping) and value:
            yield f"{indent}{_yaml_scalar(key)}:"
            yield from _yaml_lines(value, f"{name}.", comments)
        else:
            comment = f"  # {' '.join(comments[name].split())}" if name in comments else ""
            yield f"{indent}{_yaml_scalar(key)}: {_yaml_scalar(value)}{comment}"


def _yaml_scalar(value: Any) -> str:
    if isinstance(value, Mapping):
        return "{}"
    if isinstance(value, float):  # YAML 1.1 takes 1e-05 for text, and 1.0e-05 for a number
        text = repr(value)
        return text.replace("e", ".0e", 1) if "e" in text and "." not in text else text
    if not isinstance(value, str):
        return json.dumps(value)
    if PLAIN.fullmatch(value) and value.lower() not in YAML_WORDS:
        return value
    return f'"{"".join(map(_yaml_character, value))}"'


def _yaml_character(character: str) -> str:
    if character in '"\\':
        return f"\\{character}"
    return character if character.isprintable() else f"\\U{ord(character):08x}"
