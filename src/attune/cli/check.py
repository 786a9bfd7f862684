"""`attune check`: is my data fit to train on?"""

from __future__ import annotations

import shlex
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple

import typer

from attune.cli.options import Allow, ConfigFile, Ignore, Json, read_settings, words_of

if TYPE_CHECKING:
    from attune.train.check import Checked

Against = Annotated[
    str | None,
    typer.Option("--against", metavar="FILE", help="Real prompts that the training prompts should be like."),
]
Test = Annotated[
    list[str] | None,
    typer.Option("--test", metavar="FILE", help="Test set that training rows must not repeat; repeatable."),
]
SchemaFile = Annotated[
    str | None, typer.Option("--schema", metavar="FILE", help="JSON Schema that every answer must meet.")
]
Show = Annotated[int, typer.Option("--show", metavar="N", min=0, help="Print N training rows, learned tokens marked.")]
Score = Annotated[bool, typer.Option("--score", help="Score every answer with --model: rules D17 and D18.")]
Fix = Annotated[
    str | None, typer.Option("--fix", metavar="OUT", help="Write a cleaned copy and a ledger of what was done.")
]
Report = Annotated[str | None, typer.Option("--report", metavar="HTML", help="Write a page that opens offline.")]
Sarif = Annotated[str | None, typer.Option("--sarif", metavar="FILE", help="Write the findings as SARIF 2.1.0.")]

SHORT = {"data.allow": "--allow", "data.ignore": "--ignore"}  # options of attune train as well


def check(
    context: typer.Context,
    *,
    config: ConfigFile = None,
    against: Against = None,
    test: Test = None,
    schema: SchemaFile = None,
    allow: Allow = None,
    ignore: Ignore = None,
    show: Show = 0,
    score: Score = False,
    fix: Fix = None,
    report: Report = None,
    sarif: Sarif = None,
    json: Json = False,
) -> None:
    """Say whether rows are fit to train on.

    Reads every row as training would and says what is wrong, line by line: attune check rows.jsonl

    With --model FOLDER also tokens, lengths, the chat template and the mask are checked.
    """
    own = {
        "data.test": list(test or ()),
        "data.answer_schema": schema,
        "data.allow": words_of(allow),
        "data.ignore": ignore,
    }
    settings = read_settings(context, config, own)
    from attune.cli.screen import Screen
    from attune.errors import DataError
    from attune.train.check import check_fix_target, check_rows, unusable

    _refuse_folders(report=report, sarif=sarif)
    if fix:
        check_fix_target(settings, Path(fix))
    with Screen(json=json, progress=sys.stderr) as screen:
        try:
            checked = check_rows(settings, against=against or "", with_scores=score)
        except DataError as error:
            if not json:
                raise
            screen.finish(unusable(error))
            raise typer.Exit(DataError.exit_code) from None
        document = dict(checked.document)
        if fix:
            document["fixed"] = checked.fix(Path(fix))
        _write_files(checked, document, report=report, sarif=sarif)
        words = _Words(list(context.args), [*(["--config", config] if config else []), *_typed(own)])
        end = _end_lines(document, words, has_model=bool(settings.model), report=report or "")
        screen.finish(document, end, rows=() if json else _shown(checked, show))
    if not document["ok"]:
        raise typer.Exit(DataError.exit_code)


class _Words(NamedTuple):
    """What was typed: words that are settings or name data, and the options that a next command needs as well."""

    given: list[str]
    options: list[str]

    def whole(self) -> str:
        """Return all of them for a shell."""
        return shlex.join([*self.given, *self.options])

    def about(self, other: str) -> str:
        """Return them for a shell, with other data in the place of those that were named."""
        from attune.config_file import CONFIG_SUFFIXES, parse_arguments

        targets, settings = parse_arguments(self.given)
        kept = [word for one in settings for word in (f"--{one.name}", one.value.text)]
        kept += [word for name in targets if name.lower().endswith(CONFIG_SUFFIXES) for word in ("--config", name)]
        return shlex.join([other, *kept, *self.options])


def _typed(own: Mapping[str, Any]) -> list[str]:
    """Return the settings that the verb's own options gave, as every verb takes them."""
    return [
        word
        for name, value in own.items()
        if value
        for word in (SHORT.get(name, f"--{name}"), value if isinstance(value, str) else ",".join(value))
    ]


def _end_lines(document: dict[str, Any], typed: _Words, *, has_model: bool, report: str) -> list[str]:
    """Return what was found and what to type next."""
    from attune.show.summary import MAX_CHECK_LINES, check_lines

    if "fixed" in document:
        again = f"attune check {typed.about(document['fixed']['path'])}"
        lines = [*check_lines(document, again, report=report, most=MAX_CHECK_LINES - 2)]
        if not document["ok"]:
            lines.append(f"next      {again}")  # these rows are as bad as they were; the copy is not
        return [f"fixed     {document['fixed']['stated']}", *lines]
    words = typed.whole()
    training = f"attune train {words}{'' if has_model else ' --model FOLDER'}"
    return list(check_lines(document, training, fix_command=f"attune check {words} --fix OUT", report=report))


def _shown(checked: Checked, count: int) -> list[str]:
    """Return rows for a terminal, with colours where it has them."""
    if not count:
        return []
    from attune.show.row_lines import row_lines

    return list(row_lines(checked.rows(count), colours=sys.stdout.isatty()))


def _refuse_folders(**files: str | None) -> None:
    """Raise ConfigError where a file that is to be written is a folder; reads no row."""
    from attune.errors import ConfigError

    for option, path in files.items():
        if path and Path(path).is_dir():
            raise ConfigError(f"--{option}: {path} is a folder. Name a file.")


def _make_room(path: str) -> Path:
    """Return a path whose folder is there. Raises: ResourceError when it cannot be made."""
    from attune.errors import ResourceError

    try:
        Path(path).parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ResourceError(f"{path}: its folder cannot be made: {error.strerror}.") from None
    return Path(path)


def _write_files(checked: Checked, document: dict[str, Any], *, report: str | None, sarif: str | None) -> None:
    if report:
        from attune.show.data_report import write_data_report

        write_data_report(checked.with_texts(), checked.rows(), _make_room(report))
    if sarif:
        from attune.record import json_text, write_atomic
        from attune.show.sarif import sarif as to_sarif

        write_atomic(_make_room(sarif), json_text(to_sarif(document)).encode())
