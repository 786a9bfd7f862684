"""The live page's server in a thread of the test."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from attune.show.live import build_app, listen, make_server
from attune.show.live_runs import Runs

TOKEN = "a-token-of-the-test"


@dataclass(frozen=True)
class Served:
    """A server that answers: its port and the address of its page."""

    port: int

    @property
    def url(self) -> str:
        """What attune watch prints."""
        return f"http://127.0.0.1:{self.port}/?token={TOKEN}"


@contextmanager
def serving(folder: Path) -> Iterator[Served]:
    """Serve the runs of a folder on a free port until the block ends."""
    with listen("127.0.0.1", 0) as listening:
        server = make_server(build_app(Runs([str(folder)]), TOKEN))
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]})
        thread.start()
        while not server.started:
            time.sleep(0.01)
        yield Served(listening.getsockname()[1])
        server.should_exit = True
        thread.join()
