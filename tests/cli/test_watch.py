"""`attune watch`: what it prints, how it ends, what it refuses; the server and the terminal as a user starts them."""

from __future__ import annotations

import http.client
import json
import os
import pty
import select
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from attune.cli.main import main
from tests.show.growing_run import GrowingRun

SECONDS = 60.0  # that a test waits at most for another process


@pytest.fixture
def run(tmp_path: Path) -> GrowingRun:
    """A run that has come to step 10."""
    run = GrowingRun(tmp_path / "runs" / "tickets-1")
    run.validate()
    run.train(10)
    return run


@contextmanager
def watching(*words: object) -> Iterator[subprocess.Popen[str]]:
    """Start attune watch; it is ended by force if the test did not end it."""
    command = [sys.executable, "-m", "attune", "watch", *map(str, words)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        try:
            yield process
        finally:
            if process.poll() is None:
                process.kill()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_serves_until_it_is_ended(run: GrowingRun, number: signal.Signals) -> None:
    """The document comes first and is true: the page is there; Ctrl-C is the good end, without a complaint."""
    pytest.importorskip("uvicorn")
    with watching(run.path.parent, "--json") as process:
        assert process.stdout is not None
        text = ""
        while not text.endswith("}\n"):
            text += process.stdout.readline()
        known = json.loads(text)
        assert known["runs"] == ["tickets-1"]
        assert known["url"] == f"http://127.0.0.1:{known['port']}/?token={known['token']}"
        assert len(known["token"]) >= 32
        with urllib.request.urlopen(known["url"], timeout=SECONDS) as page:
            assert b"<h1" in page.read()
        with pytest.raises(urllib.error.HTTPError, match="403"):
            urllib.request.urlopen(f"http://127.0.0.1:{known['port']}/", timeout=SECONDS)
        # A browser keeps its connection open; that must not hold the end up.
        kept = http.client.HTTPConnection("127.0.0.1", known["port"], timeout=SECONDS)
        kept.request("GET", f"/api/runs?token={known['token']}")
        assert kept.getresponse().read()
        process.send_signal(number)
        rest, said = process.communicate(timeout=SECONDS)
        kept.close()
    assert process.returncode == (0 if number == signal.SIGINT else -signal.SIGTERM)
    assert rest == ""
    assert f"ssh -L {known['port']}:127.0.0.1:{known['port']} " in said
    assert "Traceback" not in said
    assert len(said.splitlines()) == 2  # its own two lines and no log


def test_for_others_only_with_a_warning(run: GrowingRun) -> None:
    """The address and the tunnel stand on stdout; one that lets other machines in is warned about before."""
    pytest.importorskip("uvicorn")
    with watching(run.path, "--host", "0.0.0.0") as process:
        assert process.stdout is not None
        lines = [process.stdout.readline(), process.stdout.readline()]
        process.send_signal(signal.SIGINT)
        _, said = process.communicate(timeout=SECONDS)
    assert lines[0].startswith("watch     http://")
    assert "ssh -L" in lines[1]
    assert said.startswith("warning   0.0.0.0 lets other machines in, unencrypted")
    assert len(said.splitlines()) == 1


def test_a_missing_package_is_named(
    run: GrowingRun, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Without the server's packages the error names the command that installs them, and the way without."""
    monkeypatch.setitem(sys.modules, "uvicorn", None)
    monkeypatch.delitem(sys.modules, "attune.show.live", raising=False)
    assert main(["watch", str(run.path)]) == 2
    said = capsys.readouterr().err
    assert "uvicorn is not installed" in said
    assert "pip install starlette uvicorn" in said
    assert "--terminal" in said


@pytest.mark.parametrize("words", [[], ["--terminal"], ["--once"]])
def test_no_run_is_refused(run: GrowingRun, words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    """A folder without a run is an error that names the runs nearby."""
    assert main(["watch", str(run.path.parent / "tickets-2"), *words]) == 2
    assert "tickets-1" in capsys.readouterr().err


def test_once(run: GrowingRun, capsys: pytest.CaptureFixture[str]) -> None:
    """--once prints the picture, and with --json the same as one document."""
    assert main(["watch", str(run.path.parent), "--once"]) == 0
    assert capsys.readouterr().out.startswith("tickets-1  running  step 10 of 200")
    assert main(["watch", str(run.path), "--once", "--json"]) == 0
    (known,) = json.loads(capsys.readouterr().out)["runs"]
    assert (known["name"], known["step"], known["total_steps"]) == ("tickets-1", 10, 200)


def test_on_a_terminal(run: GrowingRun) -> None:
    """On a terminal the picture follows the run in place; Ctrl-C ends it well and gives the screen back."""
    leader, follower = pty.openpty()
    command = [sys.executable, "-m", "attune", "watch", str(run.path), "--terminal"]
    environment = {**os.environ, "TERM": "xterm", "COLUMNS": "90", "LINES": "20"}
    with subprocess.Popen(
        command, stdin=follower, stdout=follower, stderr=follower, env=environment, start_new_session=True
    ) as process:
        os.close(follower)
        try:
            seen = read_until(leader, "step 10 of 200")
            run.train(5)
            seen += read_until(leader, "step 15 of 200")
            process.send_signal(signal.SIGINT)
            seen += read_until(leader, "\x1b[?1049l")
            assert process.wait(timeout=SECONDS) == 0
        finally:
            process.kill()
            os.close(leader)
    assert seen.index("\x1b[?1049h") < seen.index("step 10 of 200")
    assert "Traceback" not in seen


def read_until(terminal: int, wanted: str) -> str:
    """Read what a terminal shows until a text comes."""
    seen, deadline = b"", time.monotonic() + SECONDS
    while wanted.encode() not in seen:
        assert time.monotonic() < deadline, seen
        if select.select([terminal], [], [], 1.0)[0]:
            seen += os.read(terminal, 65536)
    return seen.decode("utf-8", errors="replace")
