"""The pool of idle connections, and how connections are made."""

from __future__ import annotations

import contextlib
import os
import select
import socket
import ssl
import struct
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from harness import DEADLINE
from raw_server import Peer, RawServer, chunk, head, sized
from upstream_fixtures import idle_in
from work import collected, traced

from choreo_wsgi.errors import ChoreoError, ProviderUnavailable, UpstreamInvalid
from choreo_wsgi.upstream import connection as connection_module
from choreo_wsgi.upstream import pool as pool_module
from choreo_wsgi.upstream.address import parse_url
from choreo_wsgi.upstream.connect import connect
from choreo_wsgi.upstream.connection import Connection
from choreo_wsgi.upstream.exchange import PAUSE, Exchange
from choreo_wsgi.upstream.framing import Chunked
from choreo_wsgi.upstream.pool import Client
from choreo_wsgi.upstream.request import HTTPRequest, Overdue, Timeouts

Start = Callable[..., RawServer]
Make = Callable[..., Client]


def post(url: str) -> HTTPRequest:
    return HTTPRequest("POST", url, {"Content-Type": "application/json"}, b"{}")


def read(exchange: Exchange) -> bytes:
    body = b""
    deadline = time.monotonic() + 10
    while not exchange.ended:
        assert time.monotonic() < deadline
        body += exchange.receive(0.25)
    return body


def begin_exchange(server: RawServer, pool: Client) -> Exchange:
    """Return an exchange whose request has reached *server*, which does not answer yet."""
    known = len(server.requests)
    exchange = pool.send(post(server.url))
    deadline = time.monotonic() + 10
    while len(server.requests) == known:
        assert time.monotonic() < deadline
        exchange.receive(0.01)
    return exchange


def read_concurrently(server: RawServer, pool: Client, count: int, hold: threading.Event) -> None:
    """Open *count* exchanges at once, then read each to its end."""
    hold.clear()
    exchanges = [begin_exchange(server, pool) for _ in range(count)]
    hold.set()
    for exchange in exchanges:
        assert read(exchange) == b"x"


@pytest.fixture
def hold() -> threading.Event:
    return threading.Event()


@pytest.fixture
def server(upstream: Start, hold: threading.Event) -> RawServer:
    """A server that answers ``x`` once *hold* is set."""

    def answer(peer: Peer) -> None:
        assert hold.wait(DEADLINE)
        peer.send(sized(b"x"))

    return upstream(answer)


def test_keeps_at_most_max_idle_connections(
    server: RawServer, client: Make, hold: threading.Event, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pool_module, "MAX_IDLE", 3)
    pool = client()
    read_concurrently(server, pool, 8, hold)
    assert server.accepted == 8
    assert server.wait(lambda: server.open == 3), f"{server.open} connections are open"
    assert idle_in(pool) == 3


def test_closes_a_connection_that_was_idle_too_long(
    server: RawServer, client: Make, hold: threading.Event
) -> None:
    hold.set()
    pool = client()
    for seconds in (30, 61):
        assert read(pool.send(post(server.url))) == b"x"
        assert idle_in(pool) == server.accepted == 1
        (kept,) = next(iter(pool._idle.values()))
        kept.idle_since -= seconds
    assert read(pool.send(post(server.url))) == b"x"
    assert server.accepted == 2, "the old connection was reused"
    assert server.wait(lambda: server.open <= 1), "the old connection is still open"


def test_returning_a_connection_closes_those_idle_too_long(
    server: RawServer, client: Make, hold: threading.Event, monkeypatch: pytest.MonkeyPatch
) -> None:
    pool = client()
    read_concurrently(server, pool, 4, hold)
    assert server.wait(lambda: server.open == 4)
    hold.clear()
    exchange = begin_exchange(server, pool)
    monkeypatch.setattr(pool_module, "MAX_IDLE_SECONDS", -1.0)
    hold.set()
    assert read(exchange) == b"x"
    assert server.wait(lambda: server.open <= 1), f"{server.open} connections are open"


def test_closed_client_keeps_no_connection(
    server: RawServer, client: Make, hold: threading.Event
) -> None:
    pool = client()
    exchange = begin_exchange(server, pool)
    pool.close()
    hold.set()
    assert read(exchange) == b"x"
    assert server.wait(lambda: server.open == 0), "the connection was kept"
    assert idle_in(pool) == 0


def test_connections_have_nodelay_and_keepalive(
    server: RawServer, client: Make, hold: threading.Event, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without TCP_NODELAY a request that follows another waits for an acknowledgement."""
    made: list[socket.socket] = []
    real = socket.socket

    class Watched(real):  # type: ignore[misc, valid-type]
        def connect(self, place: Any) -> None:
            made.append(self)
            super().connect(place)

    monkeypatch.setattr(socket, "socket", Watched)
    hold.set()
    assert read(client().send(post(server.url))) == b"x"
    (sock,) = made
    assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
    # With keep-alive the kernel notices a provider that vanishes without closing.
    assert sock.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)


def test_hanging_address_leaves_time_for_the_next(monkeypatch: pytest.MonkeyPatch) -> None:
    """The first of two addresses gets half the time, then the second is tried."""
    with contextlib.ExitStack() as stack:
        full = stack.enter_context(socket.socket())
        full.bind(("127.0.0.1", 0))
        full.listen(0)
        for _ in range(4):  # a full accept queue: SYNs are dropped, as by a dead host
            sock = stack.enter_context(socket.socket())
            sock.setblocking(False)
            sock.connect_ex(full.getsockname())
        place = socket.getaddrinfo(*full.getsockname(), type=socket.SOCK_STREAM)
        monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: place * 2)
        address, _ = parse_url("http://two.test/", {})
        connection = Connection(address)
        now = time.monotonic()
        steps = connect(connection, "", ssl.create_default_context, now + 100)
        assert next(steps) == (0, now + 100)  # the next step blocks: it looks the name up
        assert 49 < next(steps)[1] - now < 51
        first = connection.sock
        assert 99 < steps.throw(Overdue())[1] - now < 101
        assert connection.sock is not first
        steps.close()


def test_round_trip_of_a_slow_connection_counts_as_one_second(
    server: RawServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A retry is only safe within two round trips, which are never that long."""
    late = 0.0
    clock = SimpleNamespace(monotonic=lambda: time.monotonic() + late)
    monkeypatch.setattr("choreo_wsgi.upstream.connect.time", clock)
    connection = Connection(parse_url(server.url, {})[0])
    for events, _ in connect(connection, "", ssl.create_default_context, time.monotonic() + 100):
        assert connection.wait(events, DEADLINE)
        late = 50.0
    assert connection.round_trip == 1.0
    connection.close()


def test_proxy_that_closes_raises_provider_unavailable(upstream: Start, client: Make) -> None:
    proxy = upstream(lambda peer: peer.close())
    environ = {"https_proxy": f"http://127.0.0.1:{proxy.port}"}
    exchange = client(environ=environ).send(post("https://example.com/"))
    with pytest.raises(ProviderUnavailable, match="proxy"):
        read(exchange)


def test_rejects_a_chunk_that_does_not_end_with_crlf(upstream: Start, client: Make) -> None:
    """Whole in one read: size, data, and ``XX`` where CRLF must be (RFC 9112, 7.1)."""
    good = chunk(b"good")
    bad = b"3\r\nbadXX" + b"0\r\n\r\n"
    server = upstream(
        lambda peer: peer.send(head("200 OK", "x/y", "Transfer-Encoding: chunked") + good + bad)
    )
    exchange = client().send(post(server.url))
    body, failure = b"", None
    while failure is None and not exchange.ended:
        try:
            body += exchange.receive(0.25)
        except ChoreoError as error:
            failure = error
    assert isinstance(failure, UpstreamInvalid)
    assert body in (b"good", b"goodbad")


def test_unix_socket_ignores_every_proxy(tmp_path: Path) -> None:
    with RawServer(lambda peer: peer.send(sized(b"x")), path=str(tmp_path / "s")) as server:
        timeouts = Timeouts(DEADLINE, DEADLINE, DEADLINE)
        proxies = {"HTTP_PROXY": "http://u:p@proxy.test:1", "ALL_PROXY": "http://proxy.test:1"}
        with contextlib.closing(
            Client(timeouts, unix_socket=str(tmp_path / "s"), environ=proxies)
        ) as pool:
            assert read(pool.send(post("http://somewhere.test/v1"))) == b"x"
        assert server.requests[0].path == "/v1"
        assert "proxy-authorization" not in server.requests[0].headers


def test_client_is_in_no_reference_cycle() -> None:
    """Each request to the local model has a client of its own."""
    with collected():
        pool = Client(Timeouts(), unix_socket="/missing", environ={})
        pool.send(post("http://localhost")).close()
        gone = weakref.ref(pool)
        del pool
        assert gone() is None


def test_offers_only_http_1_1(tls: Any) -> None:
    """Otherwise a server that prefers HTTP/2 would choose it."""
    context, bundle = tls[0], tls[1]
    context.set_alpn_protocols(["h2", "http/1.1"])
    protocols: list[Any] = []

    def answer(peer: Peer) -> None:
        protocols.append(peer.sock.selected_alpn_protocol())  # type: ignore[attr-defined]
        peer.send(sized(b"x"))

    with RawServer(answer, context=context) as server:
        timeouts = Timeouts(DEADLINE, DEADLINE, DEADLINE)
        with contextlib.closing(Client(timeouts, environ={"SSL_CERT_FILE": str(bundle)})) as pool:
            assert read(pool.send(post(server.url))) == b"x"
    assert protocols == ["http/1.1"]


@pytest.fixture
def connected() -> Iterator[tuple[Connection, socket.socket]]:
    """A connection and its other end."""
    address, _ = parse_url("http://host.test/", {})
    connection = Connection(address)
    ours, theirs = socket.socketpair()
    with ours, theirs:
        connection.sock = ours
        yield connection, theirs


Connected = tuple[Connection, socket.socket]


def test_reply_to_a_key_update_is_sent_after_unsent_bytes(connected: Connected) -> None:
    connection, peer = connected
    connection.queue_raw(bytes(10_000_000))
    assert not connection.flush()
    connection.queue_raw(b"update")
    peer.setblocking(False)
    received = bytearray()
    while not connection.flush() or not received.endswith(b"update"):
        with contextlib.suppress(BlockingIOError):
            received += peer.recv(1_000_000)
    assert received == bytes(10_000_000) + b"update"


def test_receive_sends_what_tls_has_to_send(connected: Connected) -> None:
    """The reply to a key update, which the ssl module cannot request."""
    connection, peer = connected
    tls: Any = SimpleNamespace(ended=False, feed=bool, decrypt=bytes, outgoing=lambda: b"update")
    connection.tls = tls
    peer.sendall(b"request")
    assert connection.receive(DEADLINE) is None
    assert peer.recv(100) == b"update"


def test_unsent_bytes_are_not_copied_for_nothing(connected: Connected) -> None:
    """TLS has nothing to send after most reads."""
    connection, _ = connected
    connection.queue_raw(bytes(10_000_000))
    assert not connection.flush()
    with traced() as memory:
        connection.queue_raw(b"")
    assert memory.peak < 1_000_000


@pytest.mark.parametrize(
    ("received", "reusable"),
    [
        (b"0\r\n\r\n", True),
        (b"", False),
        (b"0\r\n", False),
        (b"0\r\n\r\nmore", False),
        (chunk(b"x") + b"0\r\n\r\n", False),
        (b"no size\r\n", False),
    ],
)
def test_reuses_a_connection_only_after_a_clean_end(
    connected: Connected, received: bytes, reusable: bool
) -> None:
    connection, peer = connected
    assert connection.is_reusable()
    connection.framing = Chunked()
    peer.sendall(received)
    assert connection.is_reusable() is reusable
    connection.framing = None
    peer.sendall(b"x")
    assert not connection.is_reusable()
    connection.close()
    assert not connection.is_reusable()


@pytest.mark.skipif(not connection_module._KERNEL_TIMEOUTS, reason="needs Linux")
def test_kernel_timeout_is_that_of_the_last_receive(connected: Connected) -> None:
    connection, peer = connected
    assert connection.receive(1e-9) is None
    peer.sendall(b"x")
    assert connection.receive(30.0) == b"x"
    assert connection.sock is not None
    option = connection.sock.getsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, 16)
    assert struct.unpack("@ll", option)[0] == 30


def test_without_a_free_descriptor_writability_is_checked_soon(
    client: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(_: int) -> None:
        raise OSError("no descriptor is left")

    monkeypatch.setattr(select, "epoll", fail, raising=False)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        url = f"http://127.0.0.1:{listener.getsockname()[1]}/"
        exchange = client().send(HTTPRequest("POST", url, {}, b"x" * 8_000_000))
        assert exchange.receive(0.01) == b"" and exchange.events & select.POLLOUT
        assert exchange.fileno() is None
        assert exchange.due is not None and exchange.due <= time.monotonic() + PAUSE
        exchange.close()


def test_uses_the_connection_that_was_returned_last(upstream: Start, client: Make) -> None:
    numbers: list[int] = []
    hold = threading.Event()

    def answer(peer: Peer) -> None:
        assert hold.wait(DEADLINE)
        numbers.append(peer.number)
        peer.send(sized(b"x"))

    server, pool = upstream(answer), client()
    exchanges = [begin_exchange(server, pool) for _ in range(2)]
    hold.set()
    for exchange in (*exchanges, pool.send(post(server.url))):
        assert read(exchange) == b"x"
    assert numbers[2] == 2


@pytest.mark.skipif(not hasattr(select, "epoll"), reason="needs epoll")
def test_keeps_one_epoll_descriptor_until_all_is_sent(connected: Connected) -> None:
    connection, peer = connected
    connection.queue(bytes(10_000_000))
    assert not connection.flush()
    events = select.POLLIN | select.POLLOUT
    number = connection.fileno(events)
    assert number is not None
    peer.settimeout(DEADLINE)
    with select.epoll() as poller:
        poller.register(number, select.EPOLLIN)
        assert connection.fileno(events) == number and poller.poll(0) == []
        while not poller.poll(0):
            peer.recv(1_000_000)
    while not connection.flush():
        peer.recv(1_000_000)
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(number)


@pytest.mark.skipif(not hasattr(select, "epoll"), reason="needs epoll")
def test_polls_the_second_address_once_the_first_has_failed(connected: Connected) -> None:
    connection, peer = connected
    connection.queue(bytes(10_000_000))
    assert not connection.flush() and connection.fileno(select.POLLOUT) is not None
    connection.sock = peer
    number = connection.fileno(select.POLLOUT)
    assert select.select([number], [], [], 0)[0] == [number]
