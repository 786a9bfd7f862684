"""The door: verbs, exit codes and the one place where an error becomes a line of text."""

from __future__ import annotations

import errno
import io
import os
import sys
import traceback
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

import attune
from attune.cli.chat import chat
from attune.cli.check import check
from attune.cli.evaluate import evaluate
from attune.cli.options import SETTINGS, SettingsCommand
from attune.cli.plan import plan
from attune.cli.quickstart import quickstart
from attune.cli.report import report
from attune.cli.resume import resume
from attune.cli.train import train
from attune.cli.watch import watch
from attune.errors import ResourceError, UserError

BUG = 1
USAGE = 2
INTERRUPTED = 130
HELP = {"help_option_names": ["--help", "-h"], "max_content_width": 110}


Version = Annotated[bool, typer.Option("--version", help="Print the version.")]


def _attune(context: typer.Context, *, version: Version = False) -> None:
    """Supervised fine-tuning that shows its work: from a file of examples to a tuned model, with proofs.

    Try it: attune quickstart. Your own rows: attune train rows.jsonl --model FOLDER

    Any verb takes --json (one document on stdout) and --debug (the traceback of an error).
    """
    if version:
        print(f"attune {attune.__version__}")
    elif context.invoked_subcommand is None:
        print(context.get_help())


def build_app() -> typer.Typer:
    """Return the verbs."""
    app = typer.Typer(add_completion=False, rich_markup_mode=None, context_settings=HELP)
    app.callback(invoke_without_command=True)(_attune)
    app.command()(quickstart)
    app.command(cls=SettingsCommand, context_settings=SETTINGS, options_metavar="DATA [OPTIONS] [SETTINGS]")(check)
    for verb in (plan, train):
        app.command(cls=SettingsCommand, context_settings=SETTINGS, options_metavar="CONFIG|DATA [OPTIONS] [SETTINGS]")(
            verb
        )
    app.command()(resume)
    app.command("eval")(evaluate)
    app.command()(chat)
    app.command()(report)
    app.command()(watch)
    return app


def main(words: Sequence[str] | None = None) -> int:
    """Run a command line and return its exit code: 0 done, 1 a bug, else what the error says."""
    given = list(sys.argv[1:] if words is None else words)
    words = [word for word in given if word != "--debug"]
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # a terminal that lacks a character of the data shows it written out
            stream.reconfigure(errors="backslashreplace")
    as_json, debug = "--json" in words, len(words) < len(given)
    try:
        with warnings.catch_warnings():
            if not debug:  # libraries telling each other about their next versions
                warnings.simplefilter("ignore", FutureWarning)
            verbs = typer.main.get_command(build_app())
            code = verbs.main(args=words, prog_name="attune", standalone_mode=False, obj=tuple(words))
        if code == INTERRUPTED:  # typer turns Ctrl-C into this code
            return _fail("interrupted", INTERRUPTED, as_json=as_json)
        return code if isinstance(code, int) else 0
    except UserError as error:
        return _fail(str(error), error.exit_code, as_json=as_json, trace=debug)
    except (KeyboardInterrupt, typer.Abort):
        return _fail("interrupted", INTERRUPTED, as_json=as_json)
    except Exception as error:
        if hasattr(error, "format_message"):  # a usage error of typer, whatever class its version gives it
            return _fail(_usage(error, words), USAGE, as_json=as_json, trace=debug)
        if said := _shortage(error):
            return _fail(said, ResourceError.exit_code, as_json=as_json, trace=debug)
        where = "" if debug else f"\nSee where: attune {' '.join(words)} --debug"
        return _fail(f"a bug in attune: {_first_line(error)}{where}", BUG, as_json=as_json, trace=debug)


def _shortage(error: Exception) -> str:
    """Say what the machine ran out of; empty if that is not what happened."""
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":  # torch's own is no MemoryError
        return (
            f"out of memory: {_first_line(error)}\nSet a smaller train.micro_tokens: it changes memory, not the result."
        )
    if getattr(error, "errno", 0) == errno.ENOSPC or os.strerror(errno.ENOSPC) in str(
        error
    ):  # safetensors has no errno
        return f"the disk is full: {_first_line(error)}\nFree space, then go on with: attune resume RUN"
    return ""


def _usage(error: Any, words: Sequence[str]) -> str:
    context = getattr(error, "ctx", None)
    all_options = f"All options: {context.command_path if context else 'attune'} --help"
    if words and error.format_message().startswith("No such command") and Path(words[0]).is_file():
        return f"{words[0]} is a file, and a verb is wanted. Did you mean: attune train {words[0]} --model FOLDER"
    if type(error).__name__ != "NoSuchOption":
        return f"{error.format_message()}\n{all_options}"
    near = sorted(error.possibilities or [])
    return f"unknown option {error.option_name}" + (f" - did you mean {near[0]}?" if near else f"\n{all_options}")


def _first_line(error: Exception) -> str:
    first = str(error).strip().splitlines()[:1]
    return f"{type(error).__name__}: {first[0][:200]}" if first else type(error).__name__


def _fail(message: str, code: int, *, as_json: bool, trace: bool = False) -> int:
    """Print why a command ended, on stderr and with --json as a document too; return the exit code."""
    from attune.record import json_text
    from attune.show.words import visible

    if trace:
        traceback.print_exc()
    print(visible(message), file=sys.stderr)
    if as_json:
        print(json_text({"error": message, "exit_code": code}), end="")
    return code
