"""Fixtures: our own server around the whole application, in a thread."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import harness
import pytest

from choreo_wsgi.server import Server


class Running:
    """The application as ``choreo-wsgi serve`` runs it, on a free port."""

    def __init__(self, **settings: str) -> None:
        app = harness.make_app(
            {"listen": "127.0.0.1:0", "drain_seconds": "0", "max_streams": "8", **settings}
        )
        self._server = Server(app)
        self.port = int(self._server.addresses[0].rpartition(":")[2])
        self._thread = threading.Thread(target=self._server.run, daemon=True)
        self._thread.start()

    def connect(self) -> harness.Client:
        return harness.Client(("127.0.0.1", self.port))

    def close(self) -> None:
        self._server.drain()
        self._thread.join(harness.DEADLINE)
        assert not self._thread.is_alive(), "the server does not end"


@pytest.fixture(scope="session")
def keyless() -> Iterator[Running]:
    """A server without keys, whose default model is the echo."""
    server = Running(default_model="echo", max_body_bytes="20000")
    yield server
    server.close()


@pytest.fixture(scope="session")
def keyed() -> Iterator[Running]:
    """A server with the key ``right-key`` and one page that may call."""
    server = Running(api_keys="right-key, other-key", cors_origins="https://app.test")
    yield server
    server.close()
