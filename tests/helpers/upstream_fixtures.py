"""Fixtures for tests of connections to upstreams: see ``raw_server.py``."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
from raw_server import Answer, RawServer

from choreo_wsgi.upstream.pool import Client
from choreo_wsgi.upstream.request import Timeouts


@pytest.fixture
def upstream() -> Iterator[Callable[..., RawServer]]:
    """``upstream(answer)``: a server that answers with *answer*, closed after the test."""
    servers: list[RawServer] = []

    def start(answer: Answer, **options: Any) -> RawServer:
        servers.append(RawServer(answer, **options))
        return servers[-1]

    yield start
    for server in servers:
        server.__exit__(None, None, None)


@pytest.fixture
def client() -> Iterator[Callable[..., Client]]:
    """``client(idle=..., **options)``: a client that uses only the environment in *options*."""
    clients: list[Client] = []

    def make(connect: float = 5, first_byte: float = 5, idle: float = 5, **options: Any) -> Client:
        options.setdefault("environ", {})
        clients.append(Client(Timeouts(connect, first_byte, idle), **options))
        return clients[-1]

    yield make
    for made in clients:
        made.close()


def idle_in(pool: Client) -> int:
    """Return the number of idle connections in *pool*."""
    return sum(map(len, pool._idle.values()))
