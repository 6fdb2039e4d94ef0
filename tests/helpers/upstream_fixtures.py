"""Fixtures for what talks to upstreams: see ``raw_server.py``."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
from raw_server import Answer, RawServer

from choreo_wsgi.upstream import Client, Timeouts


@pytest.fixture
def upstream() -> Iterator[Callable[..., RawServer]]:
    """``upstream(answer)``: a server that answers so, closed when the test is over."""
    servers: list[RawServer] = []

    def start(answer: Answer, **options: Any) -> RawServer:
        servers.append(RawServer(answer, **options))
        return servers[-1]

    yield start
    for server in servers:
        server.__exit__(None, None, None)


@pytest.fixture
def client() -> Iterator[Callable[..., Client]]:
    """``client(idle=..., **options)``: a client that sees no environment but the given one."""
    clients: list[Client] = []

    def make(
        *, connect: float = 5, first_byte: float = 5, idle: float = 5, **options: Any
    ) -> Client:
        options.setdefault("environ", {})
        clients.append(Client(Timeouts(connect, first_byte, idle), **options))
        return clients[-1]

    yield make
    for each in clients:
        each.close()


def idle_in(pool: Client) -> int:
    """Return how many connections *pool* keeps for the next exchange."""
    return sum(map(len, pool._idle.values()))
