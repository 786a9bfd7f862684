"""`attune watch`: runs as they train, on a page of this machine or in the terminal."""

from __future__ import annotations

import secrets
import socket
import sys
from collections.abc import Sequence
from contextlib import suppress
from typing import Annotated

import typer

from attune.cli.options import Json

HOST = "127.0.0.1"
RunArguments = Annotated[list[str], typer.Argument(metavar="RUN...", help="Run folders, or a folder of runs.")]
Port = Annotated[int, typer.Option("--port", min=0, max=65535, help="Port of the page; 0 takes a free one.")]
Host = Annotated[
    str, typer.Option("--host", metavar="ADDRESS", help="Address to listen at; any but the default lets others in.")
]
Terminal = Annotated[bool, typer.Option("--terminal", help="Show the runs in the terminal, without a page.")]
Once = Annotated[bool, typer.Option("--once", help="Print the terminal's picture once and end.")]


def watch(
    runs: RunArguments,
    *,
    port: Port = 0,
    host: Host = HOST,
    terminal: Terminal = False,
    once: Once = False,
    json: Json = False,
) -> None:
    """Watch runs while they train.

    Opens a page on this machine and prints its address; a folder of runs shows all runs in it, and new ones as they
    come. --terminal shows the same figures as text. Ctrl-C ends it; training goes on.
    """
    if terminal or once:
        _show_in_terminal(runs, once=once, json=json)
    else:
        _serve(runs, host=host, port=port, json=json)


def _show_in_terminal(targets: Sequence[str], *, once: bool, json: bool) -> None:
    """Print what the runs have come to, once or until Ctrl-C."""
    from attune.record import json_text
    from attune.show.live_runs import Runs
    from attune.show.terminal import follow, show_once

    found = Runs(targets)
    if json:
        print(json_text({"runs": [run.describe() for run in found.update()]}), end="")
    elif once:
        show_once(found, sys.stdout)
    else:
        follow(found, sys.stdout)


def _serve(targets: Sequence[str], *, host: str, port: int, json: bool) -> None:
    """Serve the page until Ctrl-C, which is how it ends well."""
    from attune.errors import ConfigError
    from attune.record import json_text
    from attune.show.live_runs import Runs
    from attune.show.words import visible

    try:
        from attune.show.live import NAMES, build_app, listen, make_server
    except ModuleNotFoundError as error:
        raise ConfigError(
            f"attune watch serves its page with starlette and uvicorn, and {error.name} is not installed.\n"
            "Install them: pip install starlette uvicorn. Or watch without a page: attune watch RUN --terminal"
        ) from error
    found = Runs(targets)
    token = secrets.token_urlsafe(24)
    with suppress(KeyboardInterrupt), listen(host, port) as listening:
        bound = listening.getsockname()[1]
        url = f"http://{_in_address(host)}:{bound}/?token={token}"
        if host not in NAMES:
            print(f"warning   {visible(_open_to_others(host))}", file=sys.stderr, flush=True)
        if json:
            names = [run.name for run in found.update()]
            print(json_text({"url": url, "port": bound, "token": token, "runs": names}), end="", flush=True)
        out = sys.stderr if json else sys.stdout
        print(f"watch     {url}", file=out)
        print(f"from afar {_tunnel(bound)}, then the same address there; Ctrl-C ends", file=out, flush=True)
        make_server(build_app(found, token, host=host)).run(sockets=[listening])


def _in_address(host: str) -> str:
    """Return a host as an address bar takes it."""
    if host in ("0.0.0.0", "::"):  # noqa: S104 - everywhere is no place to go to
        return socket.gethostname()
    return f"[{host}]" if ":" in host else host


def _tunnel(port: int) -> str:
    """Return the command that brings the page to another machine."""
    return f"ssh -L {port}:{HOST}:{port} {socket.gethostname()}"


def _open_to_others(host: str) -> str:
    return (
        f"{host} lets other machines in, unencrypted: whoever sees the address sees the runs and their texts. "
        f"Safer: leave --host out and use ssh -L."
    )
