"""Exchanges without socket time-outs of the kernel (macOS), and without poll() (Windows)."""

from __future__ import annotations

import select
import ssl
import threading
from collections.abc import Callable

import pytest
from harness import DEADLINE
from raw_server import Peer, RawServer

from choreo_wsgi.upstream import connection
from choreo_wsgi.upstream.pool import Client
from choreo_wsgi.upstream.request import HTTPRequest


@pytest.mark.parametrize("system", ["macOS", "Windows"])
@pytest.mark.parametrize("secure", [False, True])
def test_receive_waits_at_most_its_timeout(
    upstream: Callable[..., RawServer],
    client: Callable[..., Client],
    tls: tuple[ssl.SSLContext, str],
    secure: bool,
    system: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Before the answer to a long request, and within the answer."""
    monkeypatch.setattr(connection, "_KERNEL_TIMEOUTS", False)
    if system == "Windows":
        monkeypatch.delattr(select, "poll")
        monkeypatch.delattr(select, "epoll", raising=False)
    begin, more = threading.Event(), threading.Event()

    def script(peer: Peer) -> None:
        assert begin.wait(DEADLINE)
        peer.head().body(b"one ")
        assert more.wait(DEADLINE)
        peer.body(b"two").end()

    server = upstream(script, context=tls[0] if secure else None)
    pool = client(
        connect=DEADLINE,
        first_byte=DEADLINE,
        idle=DEADLINE,
        environ={"REQUESTS_CA_BUNDLE": tls[1]},
    )
    body = b"x" * 4_000_000
    exchange = pool.send(HTTPRequest("POST", f"{server.url}/v1", {}, body))
    while not server.requests:
        assert exchange.receive(0.01) == b""
    assert exchange.receive(0.01) == b""
    begin.set()
    answer = b""
    while answer != b"one ":
        answer += exchange.receive(DEADLINE)
    assert exchange.receive(0.01) == b""
    more.set()
    while not exchange.ended:
        answer += exchange.receive(DEADLINE)
    assert answer == b"one two" and server.requests[0].body == body
