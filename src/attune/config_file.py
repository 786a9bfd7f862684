"""From a config file, the command line and Python keywords to one checked Config; every fault is named by its place."""

from __future__ import annotations

import difflib
import json
import os
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import ValidationError
from pydantic.fields import FieldInfo

from attune.config import Config, SourceConfig
from attune.config_text import Group, Text, read_tree, write_yaml
from attune.config_words import (
    choices_of,
    describe_kind,
    field_of,
    is_known,
    is_list_of_texts,
    is_table,
    kinds_of,
    nearest_setting,
    section_keys,
    setting_fields,
)
from attune.errors import ConfigError

CONFIG_SUFFIXES = (".yaml", ".yml", ".toml")
SOURCE = SourceConfig.__name__  # as pydantic names it in the place of a fault
MAX_PROBLEMS = 6  # lines of one message
INTEGER = re.compile(r"[+-]?\d[\d_]*")
NUMBER = re.compile(r"[+-]?(\d[\d_]*\.?\d*|\.\d+)([eE][+-]?\d+)?")
ASSIGNMENT = re.compile(r"[A-Za-z_][\w.-]*=")
PLACED = re.compile(r"\S.*?:(\d+):(\d+) ")
TRUE = ("true", "yes", "on")
FALSE = ("false", "no", "off")


@dataclass(frozen=True, slots=True)
class Setting:
    """A value for one setting, and where it was given: a place in a file, "command line" or "settings"."""

    name: str  # dotted
    value: Any
    where: str
    spelling: str = ""  # of an option, such as --train.steps; empty: a key

    def __post_init__(self) -> None:
        if isinstance(self.value, os.PathLike):
            object.__setattr__(self, "value", os.fspath(self.value))


def load_config(
    path: str | os.PathLike[str] | None, overrides: Sequence[str] = (), flags: Mapping[str, Any] | None = None
) -> Config:
    """Return the checked Config of a file (YAML or TOML), dotted flags and command-line words; later ones win.

    `overrides` are words such as ["--train.steps", "50", "train.clip=1"]; `flags` are dotted names, or groups as
    dicts, with Python values. Raises ConfigError with one line per fault, at most six.
    """
    positionals, given = parse_arguments(overrides)
    if positionals:
        raise ConfigError(f'command line: unexpected "{positionals[0]}"; a setting is written train.steps=50')
    return build_config(path, [flags or {}], given)


def load_run_config(folder: Path, find: Callable[[str], str]) -> Config:
    """Return the config of a run folder; `find` says where a path that the run was given stands now."""
    config = load_config(folder / "config.yaml")
    data = {f"data.{key}": getattr(config.data, key) for key in ("valid", "template", "ignore", "answer_schema")}
    values: dict[str, Any] = {name: find(path) for name, path in {"model": config.model, **data}.items()}
    values["data.train"] = _found(config.data.train, find)
    values["data.test"] = [find(path) for path in config.data.test]
    return config.with_values(values)


def _found(train: Any, find: Callable[[str], str]) -> Any:
    """Return data.train with every path as `find` gives it."""
    if isinstance(train, str):
        return find(train)
    return [find(item) if isinstance(item, str) else {**item.model_dump(), "path": find(item.path)} for item in train]


def make_config(
    source: str | os.PathLike[str] | Sequence[str | os.PathLike[str]] | Config, *flags: Mapping[str, Any]
) -> Config:
    """Return the Config of sources of rows, a config file or a Config, changed by Python settings; later ones win."""
    if isinstance(source, Config):
        return build_config(None, [source.model_dump(), *flags], [])
    path, first = train_source(source, None)
    return build_config(path, [first, *flags], [])


def build_config(
    path: str | os.PathLike[str] | None, flags: Sequence[Mapping[str, Any]], given: Sequence[Setting]
) -> Config:
    """Return the checked Config of a file, then flags, then settings from the command line; later ones win."""
    problems: list[str] = []
    settings: list[Setting] = []
    if path is not None:
        settings += _flatten(read_tree(Path(path)), "", problems)
    for group in flags:
        settings += _flatten_flags(group, "", problems)
    settings += given
    known: dict[str, Setting] = {}
    for setting in settings:
        fault = _fault_of_name(setting)
        if fault:
            problems.append(fault)
        else:
            known[setting.name] = setting
    config = _validate(known, problems)
    if problems or config is None:
        raise ConfigError(_one_message(problems))
    return config


def dump_yaml(config: Config, comments: Mapping[str, str] | None = None) -> str:
    """Return a config as YAML that load_config reads back; `comments` by dotted name stand behind their value."""
    return write_yaml(config.model_dump(), comments)


def json_schema() -> dict[str, Any]:
    """Return the JSON Schema of a config file, for editors."""
    return Config.model_json_schema()


def train_source(
    targets: str | os.PathLike[str] | Sequence[str | os.PathLike[str]] | None, config: str | None
) -> tuple[str | None, dict[str, Any]]:
    """Return (config file, flags) of words that name either a config or sources of rows, beside an option --config."""
    if not targets:
        return config, {}
    words = [targets] if isinstance(targets, (str, os.PathLike)) else targets
    names = [os.fspath(word) for word in words]
    target = next((name for name in names if name.lower().endswith(CONFIG_SUFFIXES)), None)
    if target is None:
        return config, {"data.train": names[0] if len(names) == 1 else names}
    if len(names) > 1:
        raise ConfigError(f"a config file ({target}) and other names are given: {', '.join(names[:4])}. Keep one.")
    if config is not None:
        raise ConfigError(f"two config files are given: {target} and {config}. Keep one.")
    return target, {}


def parse_arguments(words: Sequence[str]) -> tuple[list[str], list[Setting]]:
    """Split command-line words into positional ones and settings: --a.b c, --a.b=c, a.b=c, a.b = c.

    Raises ConfigError.
    """
    positionals: list[str] = []
    settings: list[Setting] = []
    rest = list(words)
    while rest:
        word = rest.pop(0)
        if word.startswith("--") and len(word) > 2:
            option, equals, text = word.partition("=")
            name = option[2:]
            if not equals:
                text = _option_value(name, rest)
        elif ASSIGNMENT.match(word):
            name, _, text = word.partition("=")
            option = ""
        elif rest[:1] == ["="] and len(rest) > 1 and is_known(word):  # as messages and documents write it
            name, option, text = word, "", rest[1]
            del rest[:2]
        elif word.startswith("-") and word != "-":
            raise ConfigError(f'unknown option "{word}"; options and settings begin with --')
        else:
            positionals.append(word)
            continue
        settings.append(Setting(name, Text(text, quoted=False), "command line", option))
    return positionals, settings


def _option_value(name: str, rest: list[str]) -> str:
    field = setting_fields().get(name)
    is_switch = field is not None and kinds_of(field) == {bool}
    if is_switch and not (rest and rest[0].lower() in TRUE + FALSE):
        return "true"
    if rest and not rest[0].startswith("--"):
        return rest.pop(0)
    if field is None:
        return ""  # an unknown option: the caller names it
    raise ConfigError(f"--{name} wants a value: {describe_kind(name)}")


def _flatten(node: Group, prefix: str, problems: list[str]) -> Iterator[Setting]:
    for key, (where, value) in node.entries.items():
        name = prefix + key
        if isinstance(value, Group) and (section_keys(name) or is_table(name)):
            yield from _flatten(value, f"{name}.", problems)
        elif section_keys(name) and value is not None:
            problems.append(f"{where} {_group_wanted(name, value)}")
        elif value is None and is_known(name):
            problems.append(f'{where} "{name}" is empty - give a value or take the line out')
        elif value is not None or not section_keys(name):
            yield Setting(name, value, where)


def _flatten_flags(flags: Mapping[str, Any], prefix: str, problems: list[str]) -> Iterator[Setting]:
    for key, value in flags.items():
        name = prefix + str(key)
        if isinstance(value, Mapping) and (section_keys(name) or is_table(name)):
            yield from _flatten_flags(value, f"{name}.", problems)
        elif section_keys(name):
            problems.append(f"settings: {_group_wanted(name, value)}")
        else:
            yield Setting(name, value, "settings")


def _group_wanted(name: str, value: Any) -> str:
    return f"{name} must be a group of settings ({', '.join(section_keys(name)[:4])}, ...), found {_shown(value)}"


def _fault_of_name(setting: Setting) -> str:
    """Say what is wrong with a setting's name; empty if nothing is."""
    name, key = setting.name, setting.name.rpartition(".")[2]
    if is_known(name):
        return ""
    if section_keys(name):
        return f"{setting.where}: {_group_wanted(name, setting.value)}"
    match = nearest_setting(name)
    if setting.spelling:
        hint = f" - did you mean --{match}?" if match else "; every setting is listed by --help"
        return f"unknown option {setting.spelling}{hint}"
    group, in_file = name.rpartition(".")[0], ":" in setting.where
    keys = section_keys(group) or section_keys("")
    hint = f" - {group if group and section_keys(group) else 'the top'} has: {', '.join(keys)}"
    if match:
        near = match.rpartition(".")[2] if in_file and match.rpartition(".")[0] == group else match
        hint = f' - did you mean "{near}"?'
    return f'{setting.where} unknown key "{key}"{hint}' if in_file else f'{setting.where}: unknown key "{name}"{hint}'


def _validate(settings: Mapping[str, Setting], problems: list[str]) -> Config | None:
    tree: dict[str, Any] = {}
    for name, setting in settings.items():
        *path, key = name.split(".")
        node = tree
        for part in path:
            node = node.setdefault(part, {})
        node[key] = _typed(setting.value, field_of(name))
    try:
        return Config.model_validate(tree)
    except ValidationError as error:
        found: dict[str, str] = {}
        # of a list of sources the fault of one source says more than that the whole is no path
        for item in sorted(error.errors(include_url=False), key=lambda item: SOURCE not in item["loc"]):
            name, text = _fault_of_value(item, settings)
            found.setdefault(name, text)
        problems.extend(found.values())
        return None


def _typed(value: Any, field: FieldInfo) -> Any:
    """Read plain text as what the setting wants, so that 1e-4 is a number and a folder called no stays text.

    Where only a list of texts is wanted, text is one with commas between its items.
    """
    if isinstance(value, list):
        return [_item(item) for item in value]
    if not isinstance(value, Text):
        return value
    if all(map(is_list_of_texts, kinds_of(field) or {str})):
        return [part.strip() for part in value.text.split(",") if part.strip()]
    if value.quoted:
        return value.text
    kinds, text = kinds_of(field), value.text
    if int in kinds and INTEGER.fullmatch(text):
        return int(text)
    if kinds & {int, float} and NUMBER.fullmatch(text):
        number = float(text)
        return int(number) if float not in kinds and number.is_integer() else number
    if bool in kinds and text.lower() in TRUE + FALSE:
        return text.lower() in TRUE
    return text


def _item(value: Any) -> Any:
    """Return an item of a list in a config file as plain values: a text, or a source with its weight."""
    if isinstance(value, Group):
        return {
            key: float(item.text)
            if key == "weight" and isinstance(item, Text) and not item.quoted and NUMBER.fullmatch(item.text)
            else _item(item)
            for key, (_, item) in value.entries.items()
        }
    return value.text if isinstance(value, Text) else value


def _fault_of_value(item: Any, settings: Mapping[str, Setting]) -> tuple[str, str]:
    """Turn one of pydantic's errors into (setting, line): our words, at the place where the value was given."""
    loc = [str(part) for part in item["loc"]]
    name = next((".".join(loc[:n]) for n in range(len(loc), 0, -1) if ".".join(loc[:n]) in settings), "")
    own_text = str(item["ctx"]["error"]) if item["type"] == "value_error" else ""
    if not name:  # a check across settings: its text names them, and stands where the first of them was given
        given = [s for s in settings.values() if s.name in own_text]
        place = f"{given[0].where}{'' if ':' in given[0].where else ':'} " if given else ""
        return own_text, place + (own_text or str(item["msg"]))
    setting = settings[name]
    start = f"{setting.where} {name}" if ":" in setting.where else f"{setting.where}: {setting.spelling or name}"
    if own_text:
        return name, f"{start}: {own_text}"
    if SOURCE in item["loc"]:
        return name, f"{start}: {_fault_of_source(item)}"
    return name, f"{start} must be {describe_kind(name)}, found {_shown(setting.value)}{_hint(name, setting.value)}"


def _fault_of_source(item: Any) -> str:
    """Say what is wrong with one source of data.train."""
    at = item["loc"].index(SOURCE)
    number, key = item["loc"][at - 1] + 1, ".".join(map(str, item["loc"][at + 1 :]))
    keys = tuple(SourceConfig.model_fields)
    if item["type"] == "missing":
        return f"source {number} has no {key}"
    if item["type"] == "extra_forbidden":
        near = difflib.get_close_matches(key, keys, n=1)
        hint = f'did you mean "{near[0]}"?' if near else f"a source has: {', '.join(keys)}"
        return f'source {number} has an unknown key "{key}" - {hint}'
    if not key:
        return f"source {number} must be a path, or {{{', '.join(keys)}}}, found {_shown(item['input'])}"
    kind = "a number above 0" if key == "weight" else "text"
    found = f"{item['input']:g}" if isinstance(item["input"], float) else _shown(item["input"])
    return f"{key} of source {number} must be {kind}, found {found}"


def _hint(name: str, value: Any) -> str:
    text = value.text if isinstance(value, Text) else value
    if not isinstance(text, str):
        return ""
    if kinds_of(field_of(name)) & {int, float} and NUMBER.fullmatch(text) and getattr(value, "quoted", True):
        return " as text - take the quotes off"
    near = difflib.get_close_matches(text, choices_of(field_of(name)), n=1)
    return f' - did you mean "{near[0]}"?' if near else ""


def _shown(value: Any) -> str:
    if isinstance(value, Group):
        return "a group of settings"
    if isinstance(value, (list, tuple, dict)):
        return "a list" if not isinstance(value, dict) else "a group of settings"
    if value is None:
        return "nothing"
    if isinstance(value, Text) and not value.quoted and NUMBER.fullmatch(value.text):
        return value.text
    text = value.text if isinstance(value, Text) else value
    if not isinstance(text, (str, bool, int, float)):
        return f"an object of type {type(text).__name__}"
    shown = json.dumps(text, ensure_ascii=False)
    return shown if len(shown) <= 60 else f'{shown[:57]}..."'


def _one_message(problems: Sequence[str]) -> str:
    """Join lines, in the order of the file and then of the command line, cut to what a person reads."""
    places = {line: [int(n) for n in found.groups()] for line in problems if (found := PLACED.match(line))}
    lines = sorted(dict.fromkeys(problems), key=lambda line: places.get(line, [10**9, 0]))
    if len(lines) > MAX_PROBLEMS:
        lines = [*lines[: MAX_PROBLEMS - 1], f"and {len(lines) - MAX_PROBLEMS + 1} more faults like these"]
    return "\n".join(lines)
