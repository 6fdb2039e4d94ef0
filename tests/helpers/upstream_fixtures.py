"""Fixtures for what talks to upstreams: see ``misbehave.py``."""

from __future__ import annotations

import ssl
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from misbehave import Answer, Upstream, certificate

from choreo_wsgi.upstream import Client, Timeouts


@pytest.fixture(scope="session")
def tls(tmp_path_factory: pytest.TempPathFactory) -> tuple[ssl.SSLContext, str]:
    """A server's TLS context, and the file of the certificate to trust."""
    return certificate(tmp_path_factory.mktemp("tls"))


@pytest.fixture
def upstream() -> Iterator[Callable[..., Upstream]]:
    """``upstream(answer)``: a server that answers so, closed when the test is over."""
    servers: list[Upstream] = []

    def start(answer: Answer, **options: Any) -> Upstream:
        servers.append(Upstream(answer, **options))
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
