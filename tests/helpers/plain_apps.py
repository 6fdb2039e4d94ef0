"""Minimal applications for tests of ``choreo_wsgi.serve``, and its server in a thread."""

from __future__ import annotations

import functools
import threading
from collections.abc import Callable, Iterable
from typing import Any

import harness

from choreo_wsgi.app.application import Application, create_app
from choreo_wsgi.serve.server import Server
from choreo_wsgi.settings import Settings, configure
from choreo_wsgi.streams.carrier import Carrier

Handler = Callable[[dict[str, Any], Any], Iterable[bytes]]


class Blocks:
    """A body that can only be iterated, which a worker thread does."""

    due = None
    ended = False

    def __init__(self, body: Iterable[bytes]) -> None:
        self._next = iter(body)
        self.close = getattr(body, "close", lambda: None)

    def fileno(self) -> None:
        return None

    def ready(self, patience: float) -> bytes:
        block = next(self._next, None) if patience else b""
        self.ended = block is None
        return block or b""


class PlainApp:
    """An application that consists of one function, with the methods that the server calls."""

    def __init__(self, handler: Handler, settings: Settings) -> None:
        self._handler = handler
        self.settings = settings
        self.active = 0
        self.has_keys = False
        self.calls: list[str] = []

    def __call__(self, environ: dict[str, Any], start_response: Any) -> Any:
        body = self._handler(environ, start_response)
        return body if isinstance(body, list) or hasattr(body, "due") else Blocks(body)

    def carry_with(self, carrier: Carrier) -> None:
        pass

    def blocks(self, environ: dict[str, Any]) -> bool:
        """Whether the function may block."""
        return True

    def admit(self, environ: dict[str, Any]) -> None:
        """Admit every request."""

    @functools.cached_property
    def _real(self) -> Application:
        return create_app(configure({"default_model": "none"}, {}))

    def refuse(self, environ: dict[str, Any], start_response: Any, error: Any) -> Iterable[bytes]:
        """Answer as the real application does."""
        return self._real.refuse(environ, start_response, error)

    def drain(self) -> None:
        self.calls.append("drain")

    def stop(self) -> None:
        self.calls.append("stop")

    def close(self) -> None:
        self.calls.append("close")


class Running:
    """A server in a thread, on a free port."""

    def __init__(self, app: Any) -> None:
        self.app = app
        self.server = Server(app)
        self.port = int(self.server.addresses[0].rpartition(":")[2])
        self._thread = threading.Thread(target=self.server.run, daemon=True)
        self._thread.start()

    def connect(self) -> harness.Client:
        return harness.Client(("127.0.0.1", self.port))

    def close(self) -> None:
        """Drain the server and check that it ends."""
        if self._thread.is_alive():
            self.server.drain()
        self._thread.join(harness.DEADLINE)
        assert not self._thread.is_alive(), "the server does not end"


def body_app(body: bytes, content_type: str = "text/plain") -> Handler:
    """Return an application that answers with *body*, with Content-Length."""

    def handler(environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        head = [("Content-Type", content_type), ("Content-Length", str(len(body)))]
        start_response("200 OK", head)
        return [body]

    return handler


def stream_app(blocks: Iterable[bytes]) -> Handler:
    """Return an application that answers with *blocks*, without Content-Length."""

    def handler(environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        start_response("200 OK", [("Content-Type", "text/event-stream")])
        return iter(blocks)

    return handler
