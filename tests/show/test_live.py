"""The live page's server: what it answers, and to whom it answers nothing."""

from __future__ import annotations

import http.client
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import pytest

pytest.importorskip("uvicorn")
pytest.importorskip("starlette")

from attune.errors import ConfigError
from attune.show import live
from attune.show.live import SCRIPTS, STYLES, Guard, build_app, listen
from attune.show.live_runs import FILES, Runs
from tests.show.growing_run import GrowingRun
from tests.show.live_server import TOKEN, Served, serving

PAGES = ("/", "/plotly.js", *(f"/{name}" for name in (*SCRIPTS, *STYLES)), "/api/runs", "/api/settings")
LOOPBACKS = ("127.0.0.1", "localhost", "[::1]")


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> GrowingRun:
    """A run with some of everything."""
    run = GrowingRun(tmp_path_factory.mktemp("runs") / "tickets-1")
    run.validate()
    run.train(20)
    run.validate()
    run.alarm()
    return run


@pytest.fixture(scope="module")
def served(run: GrowingRun) -> Iterator[Served]:
    """A server over that run."""
    with serving(run.path.parent) as served:
        yield served


def ask(
    served: Served, path: str, *, host: str = "", method: str = "GET"
) -> tuple[int, http.client.HTTPMessage, bytes]:
    """Ask for exactly this path, under a Host header; return status, headers and body."""
    connection = http.client.HTTPConnection("127.0.0.1", served.port, timeout=10)
    try:
        connection.putrequest(method, path, skip_host=True)
        connection.putheader("Host", host or f"127.0.0.1:{served.port}")
        connection.endheaders()
        answer = connection.getresponse()
        return answer.status, answer.headers, answer.read()
    finally:
        connection.close()


def api(served: Served, kind: str, **given: object) -> Any:
    """The JSON of an API call with the token."""
    status, _, body = ask(served, f"/api/{kind}?{urlencode({**given, 'token': TOKEN})}")
    assert status == 200, body
    return json.loads(body)


@pytest.mark.parametrize("path", [*PAGES, *(f"/api/{kind}" for kind in FILES), "/nothing"])
def test_nothing_without_the_token(served: Served, path: str) -> None:
    """Every path refuses who lacks the token, has a wrong one or part of it, in the same words."""
    answers = {
        ask(served, path + query)[::2]
        for query in ("", "?token=", "?token=%C3%A9", f"?token={TOKEN[:-1]}", f"?tok={TOKEN}")
    }
    assert len(answers) == 1
    status, body = answers.pop()
    assert status == 403
    assert b"Open the address that attune watch printed" in body
    assert TOKEN.encode() not in body


@pytest.mark.parametrize("path", PAGES)
def test_every_page_is_there_and_kept_by_nobody(served: Served, path: str) -> None:
    """With the token each path answers, is not stored, and its policy lets nothing in from elsewhere."""
    status, headers, body = ask(served, f"{path}?token={TOKEN}")
    assert (status, headers["Cache-Control"], headers["Referrer-Policy"]) == (200, "no-store", "no-referrer")
    assert headers["Content-Security-Policy"].startswith("default-src 'none'; script-src 'self';")
    assert body


@pytest.mark.parametrize("name", LOOPBACKS)
@pytest.mark.parametrize("port", ["", ":1", ":8080"])
def test_this_machine_by_any_port(served: Served, name: str, port: str) -> None:
    """The Host header may name this machine with any port: a tunnel may begin at another one."""
    assert ask(served, f"/api/runs?token={TOKEN}", host=name + port)[0] == 200


@pytest.mark.parametrize(
    "host", ["evil.example", "evil.example:80", "127.0.0.1.evil.example", "10.0.0.1", "[::2]", "[", "x[::1]", ":80"]
)
def test_no_other_host(served: Served, host: str) -> None:
    """A page that had its own name point here (DNS rebinding) is refused though it has the token."""
    assert ask(served, f"/api/runs?token={TOKEN}", host=host)[0] == 403


def test_only_reading(served: Served) -> None:
    """Nothing can be sent."""
    for method in ("POST", "PUT", "DELETE", "OPTIONS"):
        assert ask(served, f"/api/runs?token={TOKEN}", method=method)[0] == 405


@pytest.mark.parametrize(
    "path",
    [
        "/../manifest.json",
        "/%2e%2e/manifest.json",
        "/api/../manifest.json",
        "/api/manifest",
        "/api/metrics.jsonl",
        "//etc/passwd",
    ],
)
def test_no_path_leads_out(served: Served, path: str) -> None:
    """Paths that climb find nothing."""
    assert ask(served, f"{path}?token={TOKEN}")[0] == 404


@pytest.mark.parametrize("name", ["", "..", "../runs/tickets-1", "tickets-1/", "/etc", "tickets-1\0", "tickets-2"])
def test_only_runs_by_name(served: Served, name: str) -> None:
    """A run is found by its name alone, never by a path."""
    query = urlencode({"run": name, "token": TOKEN})
    for kind in FILES:
        assert ask(served, f"/api/{kind}?{query}")[0] == 404


@pytest.mark.parametrize("offset", ["-1", "x", "1e3", "\u0663", "9" * 30, " 1"])
def test_a_wrong_offset_is_told(served: Served, offset: str) -> None:
    """An offset that is no number of bytes is a fault of whoever asks."""
    query = urlencode({"run": "tickets-1", "offset": offset, "token": TOKEN})
    assert ask(served, f"/api/metrics?{query}")[0] == 400


def test_records_since_an_offset(run: GrowingRun, served: Served) -> None:
    """The records of each file are those on disk, each comes once, and what is appended comes next."""
    for kind in FILES:
        assert api(served, kind, run="tickets-1")["records"] == run.run.read_lines(f"{kind}.jsonl")
    before = api(served, "metrics", run="tickets-1")
    again = api(served, "metrics", run="tickets-1", offset=before["offset"], mark=before["mark"])
    assert (again["records"], again["offset"]) == ([], before["offset"])
    run.train(1)
    after = api(served, "metrics", run="tickets-1", offset=before["offset"], mark=before["mark"])
    assert [record["step"] for record in after["records"]] == [run.step]
    assert not after["restarted"]


def test_runs_say_what_there_is_to_read(run: GrowingRun, served: Served) -> None:
    """The list of runs names the size of each file, so that nothing is asked for that has not grown."""
    (known,) = api(served, "runs")["runs"]
    assert (known["name"], known["step"], known["status"]) == ("tickets-1", run.step, "running")
    for kind in FILES:
        news = api(served, kind, run="tickets-1")
        assert known["files"][kind] == [news["mark"], news["offset"]]


def test_numbers_that_are_none(tmp_path: Path) -> None:
    """NaN, which the run folder holds as text, reaches the page as text, in JSON that any reader takes."""
    run = GrowingRun(tmp_path / "run")
    run.run.append("metrics.jsonl", {"step": 1, "loss": float("nan"), "time": 0.5})
    with serving(run.path) as served:
        assert api(served, "metrics", run="run")["records"] == [{"step": 1, "loss": "nan", "time": 0.5}]
        assert api(served, "runs")["runs"][0]["loss"] is None


def test_a_port_in_use_is_told() -> None:
    """A port that another program has is an error with a way out."""
    with listen("127.0.0.1", 0) as taken, pytest.raises(ConfigError, match="Leave --port out"):
        listen("127.0.0.1", taken.getsockname()[1])


@pytest.mark.parametrize(
    ("host", "header", "is_let_in"),
    [
        ("127.0.0.1", "192.168.1.5", False),
        ("0.0.0.0", "192.168.1.5:8000", True),
        ("0.0.0.0", "evil.example", False),
        ("::", "[fe80::1]:8000", True),
        ("192.168.1.5", "192.168.1.5", True),
    ],
)
def test_hosts_of_a_server_for_others(tmp_path: Path, host: str, header: str, is_let_in: bool) -> None:
    """Where it listens to the network, any address names it, but no foreign name does."""
    run = GrowingRun(tmp_path / "run")
    guard = Guard(build_app(Runs([str(run.path)]), TOKEN), TOKEN, live._names(host))
    scope = {"type": "http", "query_string": f"token={TOKEN}".encode(), "headers": [(b"host", header.encode())]}
    assert (guard._refuse(scope) is None) == is_let_in
