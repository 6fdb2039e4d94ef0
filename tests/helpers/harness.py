"""Common helpers of the server's tests: a waitress on a free port, and a client of raw bytes.

Test modules import it as ``harness``; ``conftest.py`` offers the same as fixtures.
"""

from __future__ import annotations

import json
import os
import shutil
import socket
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple, NoReturn

import pytest
from waitress import wasyncore
from waitress.server import create_server

from choreo_wsgi.app.application import Application
from choreo_wsgi.chat.source import Reply
from choreo_wsgi.providers.base import Provider
from choreo_wsgi.settings import load

#: Seconds after which a test that waits for bytes or for an event fails.
DEADLINE = 30.0


def require_tool(name: str, package: str) -> str:
    """Return the path of the program *name* of the Debian *package*.

    Without it the test is skipped, or fails when ``CI=true``, where no test may be skipped.
    """
    path = shutil.which(name)
    return path or _do_without(f"{name} is not installed (package {package})")


def require_made(path: Path) -> Path:
    """Return *path*, which ``make test`` creates; skips without it, or fails when ``CI=true``."""
    if not path.exists():
        _do_without(f"{path} is missing; make test creates it")
    return path


def _do_without(missing: str) -> NoReturn:
    if os.environ.get("CI") == "true":
        pytest.fail(missing)
    pytest.skip(missing)


def busy(workers: Any) -> int:
    """Return the number of threads of *workers* that run a job."""
    return int(workers.started - len(workers._idle))


def wait_until(condition: Callable[[], object], text: str, seconds: float = DEADLINE) -> None:
    """Return as soon as *condition()* is true; fail the test with *text* after *seconds*."""
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            pytest.fail(f"waited {seconds} s in vain: {text}")
        time.sleep(0.005)


def make_app(
    settings: Mapping[str, str] | None = None,
    sections: Mapping[str, Mapping[str, str]] | None = None,
    environment: Mapping[str, str] | None = None,
) -> Application:
    """Return an application; *settings* as on the command line, *sections* as in the ini file.

    It uses *environment* instead of the environment that the tests run in.
    """
    environment = environment or {}
    return Application(load(settings or {}, environment, sections or {}), environment)


class Server:
    """A real waitress in a thread, on a free port of the loopback interface.

    *adjustments* are added to the waitress adjustments that streams need.
    """

    def __init__(self, app: Any, **adjustments: Any) -> None:
        self._map: dict[int, Any] = {}
        chosen: dict[str, Any] = {
            "host": "127.0.0.1",
            "port": 0,
            "threads": 16,
            "ident": None,
            "asyncore_use_poll": True,
            "channel_request_lookahead": 1,
            **adjustments,
        }
        self._server = create_server(app, map=self._map, **chosen)
        self.host = "127.0.0.1"
        self.port = int(self._server.effective_port)
        self.url = f"http://{self.host}:{self.port}"
        self._stopping = False
        self._thread = threading.Thread(target=self._run, name="test waitress", daemon=True)
        self._thread.start()

    def _run(self) -> None:
        while not self._stopping:
            wasyncore.loop(timeout=30, use_poll=True, map=self._map, count=1)

    def connect(self, timeout: float = DEADLINE) -> Client:
        """Return a client with a connection of its own."""
        return Client((self.host, self.port), timeout)

    def close(self) -> None:
        """Close all connections and end all threads."""
        self._stopping = True
        self._server.pull_trigger()
        self._thread.join(DEADLINE)
        assert not self._thread.is_alive(), "waitress's loop does not end"
        for channel in list(self._server.active_channels.values()):
            channel.handle_close()
        self._server.task_dispatcher.shutdown(timeout=DEADLINE)
        wasyncore.close_all(self._map, ignore_all=True)
        assert not self._server.task_dispatcher.threads, "a request does not end"

    def __enter__(self) -> Server:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()


class Head(NamedTuple):
    """The head of a response; *headers* have lower case names."""

    status: int
    reason: str
    headers: dict[str, str]
    raw: bytes


class Answer(NamedTuple):
    """A whole response."""

    status: int
    headers: dict[str, str]
    body: bytes

    def json(self) -> Any:
        """Return the body as parsed JSON."""
        return json.loads(self.body)

    @property
    def error(self) -> dict[str, Any]:
        """The body's error object."""
        error = self.json()["error"]
        assert sorted(error) == ["code", "message", "param", "type"]
        return dict(error)


class Client:
    """A raw HTTP/1.1 connection, which sends any bytes and reads piece by piece.

    A read fails the test if nothing is received for *timeout* seconds.
    """

    def __init__(self, address: tuple[str, int] | str, timeout: float = DEADLINE) -> None:
        family = socket.AF_UNIX if isinstance(address, str) else socket.AF_INET
        self.socket = socket.socket(family, socket.SOCK_STREAM)
        self.socket.settimeout(timeout)
        self.socket.connect(address)
        self._buffer = b""  # bytes received from the socket
        self._body = b""  # the body without its chunked coding
        self._chunked = False
        self._length: int | None = None  # of a body with Content-Length
        self._over = False

    # -- sending --------------------------------------------------------------------------

    def send(self, data: bytes) -> None:
        """Send exactly *data*."""
        self.socket.sendall(data)

    def request(
        self,
        method: str,
        path: str,
        body: Any = None,
        headers: Mapping[str, str] | Iterable[tuple[str, str]] = (),
    ) -> None:
        """Send a request; a *body* other than bytes is sent as JSON."""
        pairs = list(headers.items() if isinstance(headers, Mapping) else headers)
        names = {name.lower() for name, _ in pairs}
        if "host" not in names:
            pairs.insert(0, ("Host", "localhost"))
        if body is not None and not isinstance(body, bytes):
            body = json.dumps(body).encode()
        if body is not None:
            if "content-type" not in names:
                pairs.append(("Content-Type", "application/json"))
            if not names & {"content-length", "transfer-encoding"}:
                pairs.append(("Content-Length", str(len(body))))
        lines = [f"{method} {path} HTTP/1.1", *(f"{name}: {value}" for name, value in pairs)]
        self.send("\r\n".join([*lines, "", ""]).encode("latin-1") + (body or b""))

    # -- reading --------------------------------------------------------------------------

    def _receive(self) -> bool:
        """Add the next bytes to the buffer; return False at the end of the connection."""
        try:
            data = self.socket.recv(65536)
        except TimeoutError:
            pytest.fail(f"nothing was received after {self._buffer!r} / {self._body!r}")
        self._buffer += data
        return bool(data)

    def _take(self, marker: bytes) -> bytes:
        """Return the buffer up to and including *marker*."""
        while marker not in self._buffer:
            if not self._receive():
                raise ConnectionError(f"closed before {marker!r}: {self._buffer!r}")
        taken, found, self._buffer = self._buffer.partition(marker)
        return taken + found

    def _exactly(self, count: int) -> bytes:
        while len(self._buffer) < count:
            if not self._receive():
                raise ConnectionError(f"closed within {count} bytes: {self._buffer!r}")
        taken, self._buffer = self._buffer[:count], self._buffer[count:]
        return taken

    def read_head(self, method: str = "GET") -> Head:
        """Return the next response's head; *method* is that of its request."""
        raw = self._take(b"\r\n\r\n")
        first, *lines = raw.decode("latin-1").split("\r\n")[:-2]
        assert first.startswith("HTTP/1."), first
        _, status, reason = first.split(" ", 2)
        headers: dict[str, str] = {}
        for line in lines:
            name, _, value = line.partition(":")
            key = name.lower()
            headers[key] = f"{headers[key]}, {value.strip()}" if key in headers else value.strip()
        self._body = b""
        self._chunked = headers.get("transfer-encoding") == "chunked"
        length = headers.get("content-length")
        self._length = int(length) if length is not None else None
        self._over = method == "HEAD" or int(status) in (204, 304)
        return Head(int(status), reason, headers, raw)

    def read_chunk(self) -> bytes:
        """Return the next piece of the body as the server sent it, ``b""`` after the last.

        Raises ConnectionError if the body is cut.
        """
        if self._over:
            return b""
        if self._chunked:
            size = int(self._take(b"\r\n")[:-2].split(b";")[0], 16)
            data = self._exactly(size)
            assert self._exactly(2) == b"\r\n"
            self._over = size == 0
            return data
        if self._length is not None:
            data = self._exactly(self._length)
            self._over = True
            return data
        if not self._buffer and not self._receive():
            self._over = True
        data, self._buffer = self._buffer, b""
        return data

    def read_frame(self) -> bytes:
        """Return the next event or ping with its line end, ``b""`` at the body's end."""
        while True:
            if self._body.startswith(b":") and b"\n" in self._body:
                end = self._body.index(b"\n") + 1
            else:
                end = self._body.find(b"\n\n") + 2
            if end > 1:
                frame, self._body = self._body[:end], self._body[end:]
                return frame
            chunk = self.read_chunk()
            if not chunk:
                assert not self._body, f"the body ends within a frame: {self._body!r}"
                return b""
            self._body += chunk

    def read_json(self) -> Any:
        """Return the JSON of the next frame, which must be a plain ``data:`` line."""
        frame = self.read_frame()
        assert frame.startswith(b"data: ") and frame.endswith(b"\n\n"), frame
        return json.loads(frame[6:])

    def read_body(self) -> bytes:
        """Return the rest of the body."""
        pieces = [self._body]
        self._body = b""
        while piece := self.read_chunk():
            pieces.append(piece)
        return b"".join(pieces)

    def read_answer(self, method: str = "GET") -> Answer:
        """Return the whole next response."""
        head = self.read_head(method)
        return Answer(head.status, head.headers, self.read_body())

    def exchange(
        self,
        method: str,
        path: str,
        body: Any = None,
        headers: Mapping[str, str] | Iterable[tuple[str, str]] = (),
    ) -> Answer:
        """Send a request and return its answer."""
        self.request(method, path, body, headers)
        return self.read_answer(method)

    def at_end(self) -> bool:
        """Wait until the server closes the connection; return False if it sends more bytes."""
        return not self._buffer and not self._receive()

    def reset(self) -> None:
        """Close with a RST, as the system does for a client that crashed."""
        linger = b"\1\0\0\0\0\0\0\0"
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
        self.close()

    def close(self) -> None:
        """Close the connection."""
        self.socket.close()

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *raised: object) -> None:
        self.close()


def everything(client: Client) -> bytes:
    """Return all bytes that the server sends until it closes the connection."""
    raw = b""
    while piece := client.socket.recv(4096):
        raw += piece
    return raw


def read_reply(provider: Provider, reply: Reply) -> bytes:
    """Return all bytes of *reply*, and close it and its *provider*."""
    out, deadline = b"", time.monotonic() + DEADLINE
    try:
        while not reply.ended:
            assert time.monotonic() < deadline
            out += reply.receive(0.25)
    finally:
        reply.close()
        provider.close()
    return out
