"""A reverse proxy before an S3 server that does what networks and busy buckets do: it refuses, cuts off, forgets.

with FaultyS3(upstream, seed=1, rates={"503": 0.05, "cut": 0.02}) as proxy: ...   # serve at proxy.url
"""

import random
import socket
import struct
import time
from collections import Counter, deque
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from http.client import HTTPConnection, HTTPResponse
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Lock, Thread
from typing import Any
from urllib.parse import urlsplit

import pytest

from noisystudent_core.storage import retries
from noisystudent_core.storage.s3 import S3

ERRORS = {"500": "InternalError", "503": "SlowDown", "403": "AccessDenied", "409": "ConditionalRequestConflict"}
FAULTS = (
    *ERRORS,  # refused with this status, before it reaches the server
    "reset",  # the connection is reset before the request reaches the server
    "cut",  # the connection ends in the middle of the answer's body
    "short",  # the answer holds half the body, and says that this is its length
    "lost",  # the server has done it, the connection ends without an answer
)
HOP_BY_HOP = ("connection", "keep-alive", "transfer-encoding", "expect", "date", "server")


class FaultyS3:
    """Forwards to the S3 server at `upstream`; `faults` counts what was done to requests, `requests` what was asked.

    Each request suffers a fault with the probabilities `rates`, drawn with `seed` in the order of arrival; first come
    those that `next_faults` asks for. "cut" and "short" befall reading, "409" and "lost" writing alone. An answer takes
    `delay_s` seconds more than the server needs; `most_at_once` requests were on their way at the same time.
    """

    def __init__(self, upstream: str, *, seed: int = 0, rates: Mapping[str, float] | None = None) -> None:
        self.rates, self.delay_s = dict(rates or {}), 0.0
        self.most_at_once = self._at_once = 0
        self.faults: Counter[str] = Counter()
        self.requests: Counter[str] = Counter()
        self._upstream = urlsplit(upstream).netloc
        self._seed, self._draws, self._lock = seed, random.Random(seed), Lock()
        self._next: deque[str] = deque()
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), _Handler)
        self._server.proxy = self  # pyright: ignore[reportAttributeAccessIssue]
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_port}"

    def __enter__(self) -> "FaultyS3":
        Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()
        return self

    def __exit__(self, *_: Any) -> None:
        self._server.shutdown()
        self._server.server_close()

    def next_faults(self, *faults: str) -> None:
        """What is done to the next requests that these faults can happen to; "ok" spares one."""
        with self._lock:
            self._next.extend(faults)

    def forget(self) -> None:
        """Count from nothing, and do no more harm."""
        with self._lock:
            self.rates, self._draws = {}, random.Random(self._seed)
            self.delay_s, self.most_at_once = 0.0, 0
            self._next.clear()
            self.faults.clear()
            self.requests.clear()

    def draw(self, method: str) -> str:
        """The fault of a request of this method."""
        with self._lock:
            self.requests["all"] += 1
            self.requests[method] += 1
            if self._next and _befalls(self._next[0], method):
                return self._next.popleft()
            if self._next:
                return "ok"
            drawn = self._draws.random()
            for fault, rate in self.rates.items():
                drawn -= rate
                if drawn < 0:
                    return fault if _befalls(fault, method) else "ok"
            return "ok"

    def count(self, fault: str) -> None:
        """Note a fault that happened."""
        with self._lock:
            self.faults[fault] += 1

    def forward(self, handler: "_Handler", body: bytes) -> tuple[HTTPResponse, bytes]:
        """What the server answers."""
        connection = HTTPConnection(self._upstream, timeout=60)
        with self._lock:
            self._at_once += 1
            self.most_at_once = max(self.most_at_once, self._at_once)
        try:
            time.sleep(self.delay_s)
            headers = {name: value for name, value in handler.headers.items() if name.lower() not in HOP_BY_HOP}
            connection.request(handler.command, handler.path, body, headers)
            answer = connection.getresponse()
            return answer, answer.read()
        finally:
            connection.close()
            with self._lock:
                self._at_once -= 1


@contextmanager
def refusing_s3(code: str) -> Iterator[str]:
    """The address of a store that refuses whoever asks, with status 403 and this code, as for wrong credentials."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Refusing)
    server.daemon_threads = True
    server.code = code  # pyright: ignore[reportAttributeAccessIssue]
    Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()


class _Refusing(BaseHTTPRequestHandler):
    """Answers as a store does that knows the key not, or another secret."""

    protocol_version = "HTTP/1.1"

    def answer(self) -> None:
        """Refuse; the key that was given is repeated, as stores do."""
        self.rfile.read(int(self.headers.get("Content-Length", 0)))
        code: str = self.server.code  # pyright: ignore[reportAttributeAccessIssue]
        text = f"<Code>{code}</Code><Message>Not with these.</Message><AWSAccessKeyId>KEY</AWSAccessKeyId>"
        data = b"" if self.command == "HEAD" else f"<Error>{text}</Error>".encode()
        self.send_response(403)
        self.send_header("Content-Type", "application/xml")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    do_GET = do_PUT = do_POST = do_HEAD = do_DELETE = answer

    def log_message(self, format: str, *args: Any) -> None:
        """Nobody needs to know."""


class _Handler(BaseHTTPRequestHandler):
    """One connection of a client."""

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    def answer(self) -> None:
        """Forward a request and answer it, or not."""
        proxy: FaultyS3 = self.server.proxy  # pyright: ignore[reportAttributeAccessIssue]
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        fault = proxy.draw(self.command)
        if fault in ERRORS:
            proxy.count(fault)
            self._refuse(int(fault), ERRORS[fault])
        elif fault == "reset":
            proxy.count(fault)
            self._reset()
        else:
            answer, data = proxy.forward(self, body)
            if fault == "lost":
                proxy.count(fault)
                self._reset()
            elif fault in ("cut", "short") and len(data) > 1:
                proxy.count(fault)
                self._send(answer, data[: len(data) // 2], announced=len(data) if fault == "cut" else len(data) // 2)
            else:
                self._send(answer, data, announced=len(data))

    do_GET = do_PUT = do_POST = do_HEAD = do_DELETE = answer

    def log_message(self, format: str, *args: Any) -> None:
        """Requests are counted, not told."""

    def _refuse(self, status: int, code: str) -> None:
        data = (
            b"" if self.command == "HEAD" else f"<Error><Code>{code}</Code><Message>Not now.</Message></Error>".encode()
        )
        self.send_response(status)
        self.send_header("Content-Type", "application/xml")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def _send(self, answer: HTTPResponse, data: bytes, announced: int) -> None:
        self.send_response_only(answer.status, answer.reason)
        for name, value in answer.getheaders():
            if name.lower() not in (*HOP_BY_HOP, "content-length"):
                self.send_header(name, value)
        length = answer.getheader("Content-Length", "0") if self.command == "HEAD" else str(announced)
        self.send_header("Content-Length", length)
        self.end_headers()
        self.wfile.write(data)
        if len(data) < announced:
            self.wfile.flush()
            self.close_connection = True

    def _reset(self) -> None:
        self.close_connection = True
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.connection.close()


def _befalls(fault: str, method: str) -> bool:
    """Whether this can happen to such a request."""
    if fault in ("cut", "short"):
        return method == "GET"
    if fault == "409":
        return method in ("PUT", "POST")
    return fault != "lost" or method in ("PUT", "POST", "DELETE")


@pytest.fixture(scope="session")
def _proxy(s3_environment: Mapping[str, str]) -> Iterator[tuple[FaultyS3, dict[str, Any]]]:
    """One proxy, and the client that knows it: to make a client takes a second."""
    with FaultyS3(s3_environment["AWS_ENDPOINT_URL"]) as proxy:
        yield proxy, {}


@pytest.fixture
def faulty_s3(_proxy: tuple[FaultyS3, dict[str, Any]], monkeypatch: pytest.MonkeyPatch) -> Iterator[FaultyS3]:
    """The S3 server as it is reached through a proxy that does no harm yet; child processes reach it so, too.

    Waits before another attempt are short here.
    """
    proxy, clients = _proxy
    monkeypatch.setattr(retries, "FIRST_WAIT_S", 0.01)
    monkeypatch.setattr(retries, "LONGEST_WAIT_S", 0.05)
    monkeypatch.setattr(S3, "_cache", clients)
    monkeypatch.setenv("AWS_ENDPOINT_URL", proxy.url)
    proxy.forget()
    yield proxy
    proxy.forget()
