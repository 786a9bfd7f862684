"""The live page's server: one page over run folders, on this machine only, for whoever holds its token.

Every answer but a refusal needs the token in the address and a Host header that names this machine: another page in the
same browser, or another user of the machine, learns nothing. It only reads, and only files of the runs it was given.
"""

from __future__ import annotations

import ipaddress
import secrets
import socket
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from urllib.parse import parse_qs

import orjson
import uvicorn
from starlette.applications import Starlette
from starlette.datastructures import Headers, MutableHeaders
from starlette.middleware import Middleware
from starlette.middleware.gzip import GZipMiddleware
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from attune.errors import ConfigError
from attune.show.charts import SMALL, Curve
from attune.show.live_runs import FILES, Runs, WatchedRun, compare_settings, file_of
from attune.show.live_tail import News, read_news, readable
from attune.show.page import fill, part, plotly_source

NAMES = ("127.0.0.1", "localhost", "::1")  # of this machine, as ssh -L and a browser on it write them
SCRIPTS = ("live_charts.js", "live_details.js", "live.js")
STYLES = ("report.css", "live.css")
MORE = (  # curves beside those that the report has over steps
    Curve("loss", "Loss", "loss", "nats per learned token"),
    Curve("replay_loss", "Loss of replayed texts", "replay_loss", "nats per token"),
    Curve("general_loss", "Loss on general text", "general_loss", "nats per token"),
    Curve("kl_general", "Distance from the base", "kl_general", "KL on general text, nats per token", from_zero=True),
)
LEFT_OUT = ("epoch", "train_flos")
CURVES = tuple({curve.id: curve for curve in (*MORE[:1], *SMALL, *MORE[1:]) if curve.id not in LEFT_OUT}.values())
LOGGED = ("loss", "perplexity", "grad_norm", "replay_loss", "general_loss")  # that the button for a log axis is for
POLICY = (
    "default-src 'none'; script-src 'self'; connect-src 'self'; img-src data:; base-uri 'none'; form-action 'none'; "
    "style-src 'self' 'sha256-47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU='"  # the hash of nothing, for Plotly
)
_HEADERS = {
    "Cache-Control": "no-store",
    "Content-Security-Policy": f"{POLICY}; frame-ancestors 'none'",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",  # the token is in the address
    "X-Content-Type-Options": "nosniff",
}
_REFUSAL = "The token is missing or wrong. Open the address that attune watch printed, all of it.\n"
_BAD_HOST = (
    "This server answers for its own machine only. Open it as http://127.0.0.1:PORT/, through ssh -L if need be.\n"
)


@dataclass(frozen=True, slots=True)
class Guard:
    """Refuses what lacks the token or names another host (DNS rebinding), and adds our headers to every answer."""

    app: ASGIApp
    token: str
    names: frozenset[str]  # that the Host header may give

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message).update(_HEADERS)
            await send(message)

        refusal = self._refuse(scope) if scope["type"] == "http" else None
        await (refusal or self.app)(scope, receive, send_with_headers)

    def _refuse(self, scope: Scope) -> Response | None:
        if not _is_named(Headers(scope=scope).get("host", ""), self.names):
            return PlainTextResponse(_BAD_HOST, status_code=403)
        given = parse_qs(scope["query_string"].decode("latin-1")).get("token", [""])[-1]
        if not secrets.compare_digest(given.encode("utf-8", "replace"), self.token.encode()):
            return PlainTextResponse(_REFUSAL, status_code=403)
        return None


def build_app(runs: Runs, token: str, *, host: str = NAMES[0]) -> Starlette:
    """Return the server's application for `runs`; `host` is the address that it will listen at."""
    sources: dict[str, Callable[[], str]] = {name: partial(part, name) for name in (*SCRIPTS, *STYLES)}
    sources["plotly.js"] = plotly_source
    guard = Middleware(Guard, token=token, names=_names(host))
    return Starlette(
        routes=[
            Route("/", _page(token)),
            *(Route(f"/{name}", _text(source, name)) for name, source in sources.items()),
            Route("/api/runs", _runs(runs)),
            Route("/api/settings", _settings(runs)),
            *(Route(f"/api/{kind}", _records(runs, kind)) for kind in FILES),
        ],
        middleware=[guard, Middleware(GZipMiddleware, minimum_size=2000, compresslevel=4)],
    )


def listen(host: str, port: int) -> socket.socket:
    """Return a listening socket; port 0 takes a free one. Raises ConfigError when the address cannot be had."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        return socket.create_server((host, port), family=family)
    except OSError as error:
        raise ConfigError(
            f"--host {host} --port {port} cannot be listened at: {error.strerror or error}. "
            "Leave --port out: a free one is taken."
        ) from error


def make_server(app: Starlette) -> uvicorn.Server:
    """Return the server of an application. Addresses are not logged: the token is in them."""
    config = uvicorn.Config(
        app,
        loop="asyncio",
        http="h11",
        ws="none",
        lifespan="off",
        log_level="warning",
        access_log=False,
        server_header=False,
        timeout_graceful_shutdown=1,
    )
    return uvicorn.Server(config)


def _names(host: str) -> frozenset[str]:
    """Return the names by which a request may ask for us: more than our own only where we listen to the network."""
    if host in NAMES:
        return frozenset(NAMES)
    return frozenset((*NAMES, host.lower(), socket.gethostname().lower(), socket.getfqdn().lower(), "*"))


def _is_named(header: str, names: frozenset[str]) -> bool:
    """Return whether a Host header names us; where we listen to the network, as "*" says, any address will do."""
    name = header[: header.rfind("]") + 1].strip("[]") if header.startswith("[") else header.partition(":")[0]
    if name.lower() in names:
        return True
    try:
        ipaddress.ip_address(name)  # an address cannot be rebound, a name can
    except ValueError:
        return False
    return "*" in names


def _page(token: str) -> Callable[[Request], Response]:
    values = {"policy": POLICY, "token": token, "scripts": SCRIPTS, "styles": STYLES}

    def page(_: Request) -> Response:
        """Answer with the page."""
        return Response(fill("live.html", curves=CURVES, logged=LOGGED, **values), media_type="text/html")

    return page


def _text(source: Callable[[], str], name: str) -> Callable[[Request], Response]:
    kind = "text/css" if name.endswith(".css") else "text/javascript"

    def text(_: Request) -> Response:
        """Answer with a style or script."""
        return Response(source(), media_type=kind)

    return text


def _runs(runs: Runs) -> Callable[[Request], Response]:
    def all_runs(_: Request) -> Response:
        """Answer with what every run has come to."""
        return _json({"runs": [readable(run.describe()) for run in runs.update()]})

    return all_runs


def _settings(runs: Runs) -> Callable[[Request], Response]:
    def settings(request: Request) -> Response:
        """Answer with the settings in which the named runs differ."""
        found = [run for name in request.query_params.getlist("run") if (run := runs.find(name)) is not None]
        return _json({"runs": [run.name for run in found], "settings": compare_settings(found)})

    return settings


def _records(runs: Runs, kind: str) -> Callable[[Request], Response]:
    def records(request: Request) -> Response:
        """Answer with the whole lines of a run's file since a byte offset, and the offset to go on at."""
        given = request.query_params
        run = runs.find(given.get("run", ""))
        offset = given.get("offset", "0")
        if run is None:
            return PlainTextResponse("There is no such run here.\n", status_code=404)
        if not offset.isascii() or not offset.isdigit() or len(offset) > 18:
            return PlainTextResponse("offset: a number of bytes from 0 is wanted.\n", status_code=400)
        return _json(_news(run, kind, int(offset), given.get("mark", "")))

    return records


def _news(run: WatchedRun, kind: str, offset: int, mark: str) -> dict[str, object]:
    """Return what a run's file of records holds since an offset, as the page takes it."""
    path = file_of(run, kind)
    news = News() if path is None else read_news(path, offset, mark)
    return {
        "records": readable(news.records),
        "offset": news.offset,
        "mark": news.mark,
        "restarted": news.restarted,
        "more": news.more,
    }


def _json(value: object) -> Response:
    return Response(orjson.dumps(value), media_type="application/json")
