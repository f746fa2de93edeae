"""Decoding processes, which take seconds to start, shared by the tests of this room, and what sources need."""

import http.server
import threading
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import pytest

from noisystudent_core.data.decoders import Decoders
from tests.data.prepared import Prepared
from tests.data.processes import are_gone, processes

Workers = Callable[[int], Decoders]


@pytest.fixture(scope="session")
def workers() -> Iterator[Workers]:
    """`workers(n)`: decoders with n processes, which are gone once they are closed."""
    started: dict[int, Decoders] = {}

    def get(number: int) -> Decoders:
        if number not in started:
            started[number] = Decoders(number)
        return started[number]

    yield get
    pids = [pid for decoders in started.values() for pid in processes(decoders)]
    for decoders in started.values():
        decoders.close()
    assert are_gone(pids)


@pytest.fixture
def web(tmp_path: Path) -> Iterator[str]:
    """The address of a web server on this machine with the files of `tmp_path / "web"`."""
    folder = tmp_path / "web"
    folder.mkdir()

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, format: str, *args: object) -> None:
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(folder)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


@pytest.fixture
def prepared(tmp_path: Path) -> Prepared:
    """`prepared(source, **settings)`: the manifest of a source that was taken in."""
    return Prepared(tmp_path / "prepared")
