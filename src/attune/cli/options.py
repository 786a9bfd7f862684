"""Options that verbs share, and the help page that lists every setting."""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.core import TyperCommand

if TYPE_CHECKING:
    from attune.config import Config

Json = Annotated[bool, typer.Option("--json", help="Print one JSON document on stdout, and all else on stderr.")]
ConfigFile = Annotated[str | None, typer.Option("--config", "-c", metavar="FILE", help="Config file, YAML or TOML.")]
Allow = Annotated[
    list[str] | None,
    typer.Option("--allow", metavar="ID", help="Let a rule be broken, by id or name; repeatable."),
]
Ignore = Annotated[str | None, typer.Option("--ignore", metavar="FILE", help="File of findings to pass over.")]
RunArgument = Annotated[str, typer.Argument(metavar="RUN", help="A run folder, such as runs/tickets-1.")]

# Words that are no option of the verb are settings: the config reader knows them, with did-you-mean and all.
SETTINGS = {"ignore_unknown_options": True, "allow_extra_args": True}


class SettingsCommand(TyperCommand):
    """A verb that takes every setting of the config; its help lists them with default and sentence."""

    def format_epilog(self, ctx: Any, formatter: Any) -> None:
        """Append the settings to the help page, one group after another."""
        from attune.config_words import setting_lines

        formatter.write_paragraph()
        formatter.write_text(
            "Settings, as --train.steps 50, train.steps=50 or in the config file; the command line wins over the file:"
        )
        for title, rows in setting_lines():
            with formatter.section(title):
                formatter.write_dl(rows, col_max=34)
        super().format_epilog(ctx, formatter)


def read_settings(context: typer.Context, config_file: str | None, own: Mapping[str, Any] | None = None) -> Config:
    """Return the config of a verb called as VERB [CONFIG|DATA...] [--config FILE] [SETTINGS]. Raises ConfigError.

    `own`: settings that the verb's own options give, by dotted name; None or empty where an option was not given.
    """
    from attune.config_file import build_config, parse_arguments, train_source
    from attune.config_words import is_known
    from attune.errors import ConfigError

    targets, given = parse_arguments(context.args)
    options = [name for option in context.command.params for name in option.opts if name.startswith("--")]
    for setting in given:
        near = difflib.get_close_matches(setting.spelling, options, n=1, cutoff=0.8)
        if near and not is_known(setting.name):
            raise ConfigError(f"unknown option {setting.spelling} - did you mean {near[0]}?")
    path, flags = train_source(targets, config_file)
    chosen = {name: value for name, value in (own or {}).items() if value}
    return build_config(path, [flags, chosen], given)


def words_of(values: Sequence[str] | None) -> list[str]:
    """Return the words of an option that may be repeated and may hold several with commas between."""
    return [word.strip() for value in values or () for word in value.split(",") if word.strip()]
