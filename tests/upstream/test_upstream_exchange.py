"""Exchanges over real sockets: phases, deadlines, the pool, cancellation, TLS, proxies."""

from __future__ import annotations

import contextlib
import errno
import os
import re
import resource
import select
import socket
import ssl
import threading
import time
import tracemalloc
import weakref
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from harness import DEADLINE, wait_until
from raw_server import Peer, RawServer, chunk, chunked, head, sized, until_close
from upstream_fixtures import idle_in
from work import collected

from choreo_wsgi.errors import (
    ChoreoError,
    Exhausted,
    ProviderTimeout,
    ProviderUnavailable,
    UpstreamInvalid,
    UpstreamTruncated,
)
from choreo_wsgi.upstream import connection
from choreo_wsgi.upstream.exchange import Exchange
from choreo_wsgi.upstream.framing import Sized
from choreo_wsgi.upstream.head import head_end
from choreo_wsgi.upstream.pool import Client
from choreo_wsgi.upstream.request import HTTPRequest, Timeouts

Start = Callable[..., RawServer]
Make = Callable[..., Client]


def post(url: str, body: bytes = b"{}") -> HTTPRequest:
    return HTTPRequest(
        "POST", f"{url}/v1/chat/completions", {"Content-Type": "application/json"}, body
    )


def read(exchange: Exchange, timeout: float = 0.25) -> bytes:
    body = b""
    deadline = time.monotonic() + 60  # polling without waiting takes long on a busy machine
    while not exchange.ended:
        assert time.monotonic() < deadline
        # A name is only looked up by a receive that may wait.
        must_wait = exchange.fileno() is None and exchange.due is None
        body += exchange.receive(0.25 if must_wait else timeout)
    return body


def failure(exchange: Exchange, timeout: float = 0.25) -> tuple[bytes, ChoreoError]:
    """Read until it fails; return the bytes before the failure, and the failure."""
    body = b""
    try:
        while not exchange.ended:
            body += exchange.receive(timeout)
    except ChoreoError as error:
        return body, error
    pytest.fail("the exchange did not fail")


def descriptors() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


def test_body_is_received_as_it_is_sent(upstream: Start, client: Make) -> None:
    more = threading.Event()

    def answer(peer: Peer) -> None:
        peer.send(head("200 OK", "text/event-stream", "Transfer-Encoding: chunked"))
        peer.send(chunk(b"first"))
        more.wait(DEADLINE)
        peer.send(chunk(b"second") + b"0\r\n\r\n")

    server = upstream(answer)
    exchange = client().send(post(server.url, b'{"a":1}'))
    body = b""
    while not body:
        body = exchange.receive(0.25)
    assert body == b"first" and not exchange.ended  # before the second was sent
    assert exchange.chunks() is not None
    exchange.unread = b"x"  # as by a relay that cannot use it
    assert exchange.chunks() is None
    exchange.unread = b""
    assert exchange.status == 200
    assert exchange.headers.get("content-TYPE") == "text/event-stream"
    more.set()
    assert read(exchange) == b"second"
    request = server.requests[0]
    assert request.body == b'{"a":1}'
    assert request.headers["Accept-Encoding"] == "identity"
    assert request.headers["Host"] == f"127.0.0.1:{server.port}"


def test_receive_with_timeout_zero_never_blocks(upstream: Start, client: Make) -> None:
    go = threading.Event()

    def answer(peer: Peer) -> None:
        go.wait(DEADLINE)
        peer.send(sized(b"hello"))

    exchange = client().send(post(upstream(answer).url))
    for _ in range(200):
        assert exchange.receive(0) == b""
    go.set()
    body = b""
    while not exchange.ended:
        number = exchange.fileno()
        if number is not None:
            select.select([number], [], [], 5)
        body += exchange.receive(0)
    assert body == b"hello"


@pytest.mark.parametrize(("size", "timeout"), [(1, 0.25), (100, 0)])
def test_reads_an_answer_sent_in_small_pieces(
    upstream: Start, client: Make, size: int, timeout: float
) -> None:
    raw = chunked([b"data: {}\n\n"] * 40)
    exchange = client().send(post(upstream(lambda peer: peer.send(raw, piece=size)).url))
    assert read(exchange, timeout) == b"data: {}\n\n" * 40


def test_connections_are_reused(upstream: Start, client: Make) -> None:
    server = upstream(lambda peer: peer.send(chunked([b"x"])))
    pool = client()
    for _ in range(5):
        assert read(pool.send(post(server.url))) == b"x"
    assert server.accepted == 1 and idle_in(pool) == 1
    pool.close()
    assert server.wait(lambda: server.open == 0)


def test_hundred_exchanges_leak_no_descriptor(upstream: Start, client: Make) -> None:
    server = upstream(lambda peer: peer.send(chunked([b"x"] * 5)))
    pool = client()
    read(pool.send(post(server.url)))
    before = descriptors()
    for number in range(100):
        exchange = pool.send(post(server.url))
        if number % 2:
            read(exchange)
        else:
            exchange.receive(0)
        exchange.close()
    assert server.wait(lambda: server.open <= 1)
    assert descriptors() <= before + 2


@pytest.mark.parametrize(
    "answer",
    [
        *(answer + b"more" for answer in (sized(b""), sized(b"x"), chunked([b"x"]))),
        until_close([b"x"]),
        head("200 OK", "text/plain", "Content-Length: 1", "Connection: close") + b"x",
    ],
)
def test_keeps_a_connection_only_after_clean_ends(
    upstream: Start, client: Make, answer: bytes
) -> None:
    def once(peer: Peer) -> None:
        peer.send(answer)
        peer.close()

    server = upstream(once)
    pool = client()
    assert read(pool.send(post(server.url))) in (b"x", b"")
    assert idle_in(pool) == 0


def test_replaces_a_connection_that_died_idle(upstream: Start, client: Make) -> None:
    served = threading.Semaphore(0)

    def answer(peer: Peer) -> None:
        peer.send(sized(b"hello"))
        peer.close()
        served.release()

    server = upstream(answer)
    pool = client()
    for _ in range(3):
        assert read(pool.send(post(server.url))) == b"hello"
        assert served.acquire(timeout=DEADLINE)
        assert server.wait(lambda: server.open == 0)
    assert len(server.requests) == 3


def test_retries_once_when_a_kept_connection_dies(upstream: Start, client: Make) -> None:
    def answer(peer: Peer) -> None:
        if len(server.requests) == 2:
            peer.close()  # after the request on the kept connection, without a byte
        else:
            peer.send(sized(b"hello"))

    server = upstream(answer)
    pool = client()
    assert read(pool.send(post(server.url))) == b"hello"
    assert read(pool.send(post(server.url, b"second"))) == b"hello"
    assert [request.body for request in server.requests] == [b"{}", b"second", b"second"]
    assert server.accepted == 2


@pytest.mark.parametrize(
    ("seconds", "round_trip", "retried"), [(1.0, 0.0, False), (3.0, 0.0, False), (1.0, 0.8, True)]
)
def test_does_not_retry_a_request_that_may_have_begun(
    upstream: Start,
    client: Make,
    monkeypatch: pytest.MonkeyPatch,
    seconds: float,
    round_trip: float,
    retried: bool,
) -> None:
    """The provider has had the request for a while, by the clock, when the connection breaks.

    Over a long round trip the end of a connection may take as long to arrive.
    """
    late = 0.0
    real = time.monotonic
    monkeypatch.setattr("choreo_wsgi.upstream.exchange.time.monotonic", lambda: real() + late)
    go = threading.Event()

    def answer(peer: Peer) -> None:
        if len(server.requests) != 2:
            peer.send(sized(b"hello"))
        else:
            go.wait(DEADLINE)
            peer.close()

    server = upstream(answer)
    pool = client()
    read(pool.send(post(server.url)))
    (kept,) = next(iter(pool._idle.values()))
    kept.round_trip = round_trip
    exchange = pool.send(post(server.url))
    assert exchange.receive(0) == b""
    assert server.wait(lambda: len(server.requests) == 2)
    late = seconds
    go.set()
    if retried:
        assert read(exchange) == b"hello" and len(server.requests) == 3
        return
    _, error = failure(exchange)
    assert isinstance(error, UpstreamTruncated) and len(server.requests) == 2


def test_retries_a_get_at_any_time(
    upstream: Start, client: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("choreo_wsgi.upstream.exchange._CLOSE_NOTICE", -10.0)

    def answer(peer: Peer) -> None:
        if len(server.requests) == 2:
            peer.close()
        else:
            peer.send(sized(b"hello"))

    server = upstream(answer)
    pool = client()
    for _ in range(2):
        assert read(pool.send(HTTPRequest("GET", server.url))) == b"hello"
    assert len(server.requests) == 3


def test_retries_a_body_that_was_sent_in_part(
    upstream: Start, client: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No provider begins to generate before the request is complete."""
    monkeypatch.setattr("choreo_wsgi.upstream.exchange._CLOSE_NOTICE", -10.0)
    server = upstream(lambda peer: peer.send(sized(b"hello")))
    pool = client(first_byte=30)
    assert read(pool.send(post(server.url))) == b"hello"
    (kept,) = next(iter(pool._idle.values()))
    assert kept.sock is not None
    kept.sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
    exchange = pool.send(post(server.url, b"x" * 8_000_000))
    assert exchange.receive(0) == b""
    kept.abort()
    assert read(exchange) == b"hello"
    assert len(server.requests[-1].body) == 8_000_000


@pytest.mark.parametrize("begun", [False, True])
def test_exchange_closed_before_its_answer_is_freed_without_the_collector(
    upstream: Start, client: Make, begun: bool
) -> None:
    """With the request, which may be megabytes long, and the descriptor that it is polled by."""
    server = upstream(lambda peer: peer.wait_until_left())
    pool = client()
    with collected():
        before = descriptors()
        exchange = pool.send(post(server.url, bytes(10_000_000)))
        if begun:
            exchange.receive(0.05)
            assert exchange.fileno() is not None and descriptors() > before
        gone = weakref.ref(exchange)
        exchange.close()
        del exchange
        assert gone() is None
        # The server's end of the connection is in this process too.
        assert server.wait(lambda: server.open == 0)
        wait_until(lambda: descriptors() == before, "no descriptor is left open")


def test_close_wakes_a_waiting_receive(upstream: Start, client: Make) -> None:
    """It is called from another thread, and the receive has a long time-out."""
    begun, done = threading.Event(), threading.Event()

    def answer(peer: Peer) -> None:
        peer.send(head("200 OK", "text/event-stream", "Transfer-Encoding: chunked"))
        peer.send(chunk(b"first"))
        done.wait(2 * DEADLINE)

    exchange = client(idle=3600).send(post(upstream(answer).url))
    while exchange.receive(0.25) != b"first":
        pass

    def wait() -> ChoreoError:
        begun.set()
        return failure(exchange, 3600)[1]

    try:
        with ThreadPoolExecutor(1) as pool:
            waiting = pool.submit(wait)
            assert begun.wait(DEADLINE)
            exchange.close()
            assert isinstance(waiting.result(DEADLINE), ProviderUnavailable)
    finally:
        done.set()


@pytest.mark.parametrize("name", ["REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE", "SSL_CERT_FILE"])
def test_environment_names_the_trusted_certificates(
    name: str, tls: tuple[ssl.SSLContext, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A file of certificates, or a folder of them in OpenSSL's form."""
    _, file = tls
    timeouts = Timeouts(connect=1, first_byte=1, idle=1)
    environ = {"SSL_CERT_FILE": str(tmp_path), name: file}
    assert len(Client(timeouts, environ=environ).ssl_context.get_ca_certs()) == 1
    assert Client(timeouts, environ={name: str(tmp_path)}).ssl_context.get_ca_certs() == []
    monkeypatch.setenv(name, file)
    assert len(Client(timeouts).ssl_context.get_ca_certs()) == 1
    monkeypatch.setattr("certifi.where", lambda: str(tmp_path))
    assert Client(timeouts, environ={}).ssl_context.get_ca_certs() == []


def test_idle_connection_holds_no_request(upstream: Start, client: Make) -> None:
    server = upstream(lambda peer: peer.send(sized(b"hello")))
    pool = client()
    read(pool.send(post(server.url)))
    tracemalloc.start()
    try:
        body = b"x" * 4_000_000
        assert read(pool.send(post(server.url, body))) == b"hello"
        del body
        ours = [tracemalloc.Filter(True, name) for name in ("*/choreo_wsgi/*", __file__)]
        traces = tracemalloc.take_snapshot().filter_traces(ours).traces
        held = sum(trace.size for trace in traces)
    finally:
        tracemalloc.stop()
    assert idle_in(pool) == 1
    assert held < 1_000_000


def test_lack_of_descriptors_raises_exhausted(client: Make) -> None:
    pool = client()
    with socket.create_server(("127.0.0.1", 0)) as listener:
        closed_url = f"http://127.0.0.1:{listener.getsockname()[1]}/"
    failure(pool.send(post(closed_url)))  # the modules that it needs are loaded
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    with Path(os.devnull).open() as last:
        resource.setrlimit(resource.RLIMIT_NOFILE, (last.fileno(), limits[1]))
        try:
            _, error = failure(pool.send(post(closed_url)))
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, limits)
    assert isinstance(error, Exhausted)
    assert (error.status, error.code, error.retry_after) == (503, "service_overloaded", 1)
    _, error = failure(pool.send(post(closed_url)))
    assert isinstance(error, ProviderUnavailable)


def test_ended_exchange_has_no_descriptor(upstream: Start, client: Make) -> None:
    """Its connection may belong to another exchange, which polls the same descriptor."""
    server = upstream(lambda peer: peer.send(chunked([b"all"])))
    pool = client()
    first = pool.send(post(server.url))
    assert read(first) == b"all"
    assert (first.fileno(), first.due) == (None, 0.0)
    second = pool.send(post(server.url))
    assert second.receive(0) in (b"", b"all")
    assert server.accepted == 1 and first.fileno() is None
    second.close()
    assert (second.fileno(), second.due) == (None, 0.0)


def test_pending_failure_is_due_at_once(upstream: Start, client: Make) -> None:
    """No more bytes arrive, so the descriptor would not become readable."""
    bad = chunked([b"all"])[:-5] + b"no size\r\n"
    exchange = client().send(post(upstream(lambda peer: peer.send(bad)).url))
    while not (body := exchange.receive(0.25)):
        pass
    assert (body, exchange.due) == (b"all", 0.0)
    with pytest.raises(UpstreamInvalid):
        exchange.receive(0)


def test_end_of_tls_received_with_the_body_is_due_at_once(
    upstream: Start, client: Make, tls: tuple[ssl.SSLContext, str]
) -> None:
    """The provider leaves the TCP connection open."""
    go, sent = threading.Event(), threading.Event()

    def answer(peer: Peer) -> None:
        peer.send(until_close([]))
        go.wait(DEADLINE)
        peer.send(b"all")
        peer.sock.settimeout(0.1)
        with contextlib.suppress(OSError):  # the client does not reply
            peer.sock.unwrap()  # type: ignore[attr-defined]
        sent.set()
        peer.is_left()

    server = upstream(answer, context=tls[0])
    exchange = client(environ={"SSL_CERT_FILE": tls[1]}).send(post(server.url))
    while exchange.status is None:
        assert exchange.receive(0.25) == b""
    go.set()
    assert sent.wait(DEADLINE)
    assert (exchange.receive(0.25), exchange.due) == (b"all", 0.0)
    assert exchange.receive(0) == b"" and exchange.ended


def test_end_of_tls_without_an_answer_is_not_waited_for(
    upstream: Start, client: Make, tls: tuple[ssl.SSLContext, str]
) -> None:
    def answer(peer: Peer) -> None:
        peer.sock.settimeout(0.1)
        with contextlib.suppress(OSError):  # the client does not reply
            peer.sock.unwrap()  # type: ignore[attr-defined]
        peer.is_left()

    server = upstream(answer, context=tls[0])
    exchange = client(environ={"SSL_CERT_FILE": tls[1]}, first_byte=1000).send(post(server.url))
    _, error = failure(exchange)
    assert isinstance(error, UpstreamTruncated)


def test_body_until_the_close_may_end_without_an_alert_of_tls(
    upstream: Start, client: Make, tls: tuple[ssl.SSLContext, str]
) -> None:
    server = upstream(lambda peer: peer.send(until_close([b"hello"])) or peer.cut(), context=tls[0])
    exchange = client(environ={"SSL_CERT_FILE": tls[1]}).send(post(server.url))
    assert read(exchange) == b"hello"


def test_does_not_retry_on_a_new_connection(upstream: Start, client: Make) -> None:
    server = upstream(lambda peer: peer.close())
    _, error = failure(client().send(post(server.url)))
    assert isinstance(error, UpstreamTruncated) and len(server.requests) == 1


def test_does_not_retry_once_a_byte_was_received(upstream: Start, client: Make) -> None:
    def answer(peer: Peer) -> None:
        peer.send(sized(b"hello"), cut=None if len(server.requests) == 1 else 5)

    server = upstream(answer)
    pool = client()
    read(pool.send(post(server.url)))
    _, error = failure(pool.send(post(server.url)))
    assert isinstance(error, UpstreamTruncated) and len(server.requests) == 2


def test_keeps_a_connection_whose_last_chunk_is_late(upstream: Start, client: Make) -> None:
    go = threading.Event()

    def answer(peer: Peer) -> None:
        peer.send(chunked([b"all"])[:-5])
        go.wait(DEADLINE)
        peer.send(b"0\r\n\r\n")
        go.clear()

    server = upstream(answer)
    pool = client()
    exchange = pool.send(post(server.url))
    exchange.finish()  # before the exchange has begun
    while not exchange.receive(0.25):
        pass
    for _ in range(2):
        exchange.finish()
        assert exchange.ended and idle_in(pool) == 1
    assert exchange.chunks() is None  # the connection may belong to another exchange
    go.set()
    while go.is_set():
        time.sleep(0.001)
    go.set()
    assert read(pool.send(post(server.url))) == b"all"
    assert server.accepted == 1


def test_does_not_reuse_a_connection_left_inside_a_body(upstream: Start, client: Make) -> None:
    def answer(peer: Peer) -> None:
        peer.send(chunked([b"all"])[:-5])
        if len(server.requests) == 1:
            peer.is_left()
        else:
            peer.send(b"0\r\n\r\n")

    server = upstream(answer)
    pool = client()
    exchange = pool.send(post(server.url))
    while not exchange.receive(0.25):
        pass
    exchange.finish()
    assert read(pool.send(post(server.url))) == b"all"
    assert server.accepted == 2


@pytest.mark.parametrize("framing", [chunked, until_close, lambda pieces: sized(b"".join(pieces))])
def test_reset_loses_no_received_bytes(upstream: Start, client: Make, framing: Any) -> None:
    is_read = threading.Event()

    def answer(peer: Peer) -> None:
        peer.send(framing([b"hello", b"world"])[:-9])
        is_read.wait(DEADLINE)
        peer.reset()

    exchange = client().send(post(upstream(answer).url))
    body = b""
    while not body:
        body = exchange.receive(0.25)
    is_read.set()
    rest, error = failure(exchange)
    assert b"helloworld".startswith(body + rest) and isinstance(error, UpstreamTruncated)


def test_returns_good_chunks_before_a_bad_one(upstream: Start, client: Make) -> None:
    raw = head("200 OK", "x/y", "Transfer-Encoding: chunked") + chunk(b"good") + b"bad\nsize\r\n"
    body, error = failure(client().send(post(upstream(lambda peer: peer.send(raw)).url)))
    assert body == b"good" and isinstance(error, UpstreamInvalid)


def test_skips_informational_heads(upstream: Start, client: Make) -> None:
    raw = b"HTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\nHTTP/1.1 100 Continue\r\n\r\n" + sized(b"x")
    for piece in (None, 1):
        server = upstream(lambda peer, piece=piece: peer.send(raw, piece=piece))
        exchange = client().send(post(server.url))
        assert read(exchange) == b"x" and exchange.status == 200


def test_rejects_endless_informational_heads(upstream: Start, client: Make) -> None:
    raw = b"HTTP/1.1 102 Processing\r\n\r\n" * 4000 + sized(b"x")
    server = upstream(lambda peer: peer.send(raw))
    body, error = failure(client().send(post(server.url)))
    assert not body and isinstance(error, UpstreamInvalid)


@pytest.mark.parametrize("ends", ["\r\n", "\n"])
def test_searches_each_byte_of_a_head_once(
    upstream: Start, client: Make, monkeypatch: pytest.MonkeyPatch, ends: str
) -> None:
    searched = []

    def counted_search(data: bytes, seen: int = 0) -> int:
        searched.append(len(data) - seen)
        return head_end(data, seen)

    monkeypatch.setattr("choreo_wsgi.upstream.exchange.head_end", counted_search)
    raw = (f"HTTP/1.1 200 OK{ends}A: {'b' * 900}{ends}Content-Length: 1{ends}{ends}x").encode()
    server = upstream(lambda peer: peer.send(raw, piece=1))
    assert read(client().send(post(server.url))) == b"x"
    assert sum(searched) <= len(raw)


def test_redirects_are_not_followed(upstream: Start, client: Make) -> None:
    raw = head("307 Temporary Redirect", "text/plain", "Location: /x", "Content-Length: 0")
    server = upstream(lambda peer: peer.send(raw))
    exchange = client().send(post(server.url))
    assert read(exchange) == b"" and exchange.status == 307 and len(server.requests) == 1


# -- deadlines -------------------------------------------------------------------------


def test_connecting_has_a_deadline(client: Make) -> None:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)
        address = listener.getsockname()
        fill = [socket.socket() for _ in range(4)]  # a full backlog: no answer to SYN
        for sock in fill:
            sock.setblocking(False)
            sock.connect_ex(address)
        url = f"http://127.0.0.1:{address[1]}/"
        _, error = failure(client(connect=0.3).send(post(url)))
        assert isinstance(error, ProviderTimeout)
        for sock in fill:
            sock.close()


@pytest.mark.parametrize("reply", [b"", b"HTTP/1.1 200 OK\r\n\r\n"])
def test_tunnel_and_handshake_have_the_deadline_of_connecting(
    upstream: Start, client: Make, reply: bytes
) -> None:
    """The proxy, or the server behind it, is silent."""
    proxy = upstream(lambda peer: (peer.send(reply), peer.is_left(5), peer.close()))
    environ = {"https_proxy": proxy.url}
    _, error = failure(client(connect=0.3, environ=environ).send(post("https://example.com/")))
    assert isinstance(error, ProviderTimeout)


def test_the_head_has_a_deadline(upstream: Start, client: Make) -> None:
    server = upstream(lambda peer: peer.send(b"HTTP/1.1 200 ") or peer.is_left())
    _, error = failure(client(first_byte=0.2).send(post(server.url)))
    assert isinstance(error, ProviderTimeout)
    assert server.wait(lambda: server.open == 0)


@pytest.mark.parametrize("at_once", [-11, 0], ids=["head at once, like vLLM", "head late"])
def test_prefill_may_last_longer_than_idle(upstream: Start, client: Make, at_once: int) -> None:
    quiet, sent = threading.Event(), chunked([b"x"])

    def answer(peer: Peer) -> None:
        peer.send(sent[:at_once])
        quiet.wait(DEADLINE)
        peer.send(sent[at_once:])

    server = upstream(answer)
    exchange = client(idle=0.1).send(post(server.url))
    while not server.requests or (at_once and exchange.status is None):
        exchange.receive(0.05)
    assert exchange.receive(0.3) == b""  # three times idle
    quiet.set()
    assert read(exchange).endswith(b"x")


def test_silence_in_a_body_has_a_deadline(upstream: Start, client: Make) -> None:
    server = upstream(lambda peer: peer.send(chunked([b"x", b"y"])[:-9]) or peer.is_left())
    body, error = failure(client(idle=0.2).send(post(server.url)))
    assert body == b"x" and isinstance(error, ProviderTimeout)


def test_each_piece_of_a_body_moves_the_deadline(upstream: Start, client: Make) -> None:
    more = threading.Event()

    def answer(peer: Peer) -> None:
        peer.head().body(b"first")
        more.wait(DEADLINE)
        peer.body(b"second")
        peer.is_left()

    exchange = client().send(post(upstream(answer).url))
    while exchange.receive(0.25) != b"first":
        pass
    due = exchange.due
    more.set()
    while exchange.receive(0.25) != b"second":
        pass
    assert due is not None and exchange.due is not None and exchange.due > due
    exchange.close()


def test_first_byte_ends_its_own_deadline(upstream: Start, client: Make) -> None:
    server = upstream(lambda peer: peer.send(chunked([b"x", b"y"])[:-9]) or peer.is_left())
    exchange = client(first_byte=1000.0, idle=50.0).send(post(server.url))
    while exchange.receive(0.25) != b"x":
        pass
    assert exchange.due is not None and exchange.due <= time.monotonic() + 50.0
    exchange.close()


def test_tries_only_one_of_many_connections_that_died_idle(upstream: Start, client: Make) -> None:
    """Not each in turn, as a provider might begin to generate for each."""
    hold, dying = threading.Event(), threading.Event()

    def answer(peer: Peer) -> None:
        assert hold.wait(DEADLINE)
        if dying.is_set() and peer.number <= 3:
            peer.close()
        else:
            peer.send(sized(b"hello"))

    server = upstream(answer)
    pool = client()
    exchanges = [pool.send(post(server.url)) for _ in range(3)]
    for exchange in exchanges:
        while len(server.requests) <= exchanges.index(exchange):
            exchange.receive(0.01)
    hold.set()
    for exchange in exchanges:
        assert read(exchange) == b"hello"
    assert idle_in(pool) == 3
    dying.set()
    assert read(pool.send(post(server.url, b"more"))) == b"hello"
    assert [one.body for one in server.requests].count(b"more") == 2


def test_receive_raises_again_after_a_failure(upstream: Start, client: Make) -> None:
    exchange = client().send(post(upstream(lambda peer: peer.close()).url))
    failure(exchange)
    with pytest.raises(ChoreoError):
        exchange.receive(0.25)


# -- closing ---------------------------------------------------------------------------


def no_answer(peer: Peer) -> None:
    disconnected.append(peer.is_left())


def in_prefill(peer: Peer) -> None:
    peer.send(head("200 OK", "text/event-stream", "Transfer-Encoding: chunked"))
    disconnected.append(peer.is_left())


def in_body(peer: Peer) -> None:
    peer.send(chunked([b"x" * 10, b"y"])[:-9])
    disconnected.append(peer.is_left())


disconnected: list[float | None] = []


@pytest.mark.parametrize(
    ("answer", "secure", "by_other_thread"),
    [
        (no_answer, False, False),
        (no_answer, True, True),
        (in_prefill, False, True),
        (in_body, True, False),
    ],
)
def test_close_reaches_the_server_at_once(
    upstream: Start,
    client: Make,
    tls: tuple[ssl.SSLContext, str],
    answer: Callable[[Peer], None],
    secure: bool,
    by_other_thread: bool,
) -> None:
    disconnected.clear()
    server = upstream(answer, context=tls[0] if secure else None)
    exchange = client(environ={"SSL_CERT_FILE": tls[1]}).send(post(server.url))
    while not server.requests or (answer is not no_answer and exchange.status is None):
        exchange.receive(0.05)
    if by_other_thread:
        closer = threading.Timer(0.05, exchange.close)
        closer.start()
        with pytest.raises(ProviderUnavailable):
            while True:
                exchange.receive(5)  # close wakes it up
        closer.join()
    else:
        exchange.close()
    exchange.close()
    assert server.wait(lambda: bool(disconnected)) and disconnected[0]
    assert server.wait(lambda: server.open == 0)


def test_close_while_a_long_body_is_sent(upstream: Start, client: Make) -> None:
    stop = threading.Event()
    # The server does not read the body, so its bytes fill the kernel's buffers.
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        url = f"http://127.0.0.1:{listener.getsockname()[1]}/"
        exchange = client().send(post(url, b"x" * 8_000_000))
        peer = None
        while exchange.fileno() is not None or exchange.receive(0.05) or peer is None:
            peer = peer or listener.accept()[0]
            if exchange.events & select.POLLOUT and exchange._connection.sock is not None:
                exchange.receive(0.1)
                break
        assert not exchange._sent
        exchange.close()
        stop.set()
        peer.settimeout(DEADLINE)
        while peer.recv(1 << 20):
            pass
        peer.close()


def test_descriptor_is_readable_when_more_can_be_sent(client: Make) -> None:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        url = f"http://127.0.0.1:{listener.getsockname()[1]}/"
        exchange = client().send(post(url, b"x" * 8_000_000))
        exchange.receive(0)
        with listener.accept()[0] as peer:
            while not _is_stuck(exchange):
                exchange.receive(0)
            descriptor = exchange.fileno()
            assert descriptor is not None and exchange.events & select.POLLOUT
            peer.settimeout(DEADLINE)
            while not select.select([descriptor], [], [], 0)[0]:
                assert peer.recv(1 << 20)
            exchange.close()


def _is_stuck(exchange: Any) -> bool:
    descriptor = exchange.fileno()
    return descriptor is not None and not select.select([descriptor], [], [], 0.05)[0]


def test_close_while_connecting(client: Make) -> None:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)
        fill = [socket.socket() for _ in range(4)]
        for sock in fill:
            sock.setblocking(False)
            sock.connect_ex(listener.getsockname())
        exchange = client().send(post(f"http://127.0.0.1:{listener.getsockname()[1]}/"))
        assert exchange.receive(0.05) == b""
        closer = threading.Timer(0.05, exchange.close)
        closer.start()
        with pytest.raises(ProviderUnavailable):
            exchange.receive(5)
        closer.join()
        for sock in fill:
            sock.close()


def test_close_during_the_handshake(client: Make) -> None:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        url = f"https://127.0.0.1:{listener.getsockname()[1]}/"
        exchange = client().send(post(url))
        exchange.receive(0.05)
        peer, _ = listener.accept()
        assert peer.recv(65536)  # the client's hello; it gets no answer
        exchange.close()
        peer.settimeout(DEADLINE)
        assert peer.recv(1) == b""
        peer.close()


def test_close_during_the_last_receive_keeps_no_connection(
    upstream: Start, client: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = Sized.feed

    def feed(framing: Sized, data: bytes) -> bytes:
        with ThreadPoolExecutor(1) as other:
            other.submit(exchange.close).result(DEADLINE)
        return real(framing, data)

    monkeypatch.setattr(Sized, "feed", feed)
    pool = client()
    exchange = pool.send(post(upstream(lambda peer: peer.send(sized(b"x"))).url))
    assert read(exchange) == b"x" and idle_in(pool) == 0


def test_close_before_the_first_receive_sends_nothing(upstream: Start, client: Make) -> None:
    server = upstream(no_answer)
    exchange = client().send(post(server.url))
    exchange.close()
    with pytest.raises(ProviderUnavailable):
        exchange.receive(0.25)
    assert server.accepted == 0


def test_close_after_the_end_keeps_the_reused_connection(upstream: Start, client: Make) -> None:
    server = upstream(lambda peer: peer.send(sized(b"x")))
    pool = client()
    first = pool.send(post(server.url))
    read(first)
    second = pool.send(post(server.url))
    body = second.receive(0)
    first.close()
    assert body + read(second) == b"x" and server.accepted == 1


# -- unix sockets, TLS, names, proxies ---------------------------------------------------


def test_reuses_a_connection_to_a_unix_socket(
    upstream: Start, client: Make, tmp_path: Path
) -> None:
    path = str(tmp_path / "s")
    server = upstream(lambda peer: peer.send(sized(b"x")), path=path)
    pool = client(unix_socket=path, environ={"http_proxy": "http://127.0.0.1:1"})
    for _ in range(2):
        assert read(pool.send(post(server.url))) == b"x"
    assert server.accepted == 1 and server.requests[0].headers["Host"] == "localhost"


def test_unix_socket_with_a_full_queue_is_unavailable(client: Make, tmp_path: Path) -> None:
    """No connection is made, so that the request may be sent elsewhere."""
    path = str(tmp_path / "s")
    with socket.socket(socket.AF_UNIX) as listener, socket.socket(socket.AF_UNIX) as first:
        listener.bind(path)
        listener.listen(0)
        first.connect(path)
        with pytest.raises(ProviderUnavailable, match="no connection"):
            read(client(unix_socket=path).send(post("http://localhost")))


@pytest.mark.parametrize("timeout", [0, 0.25])
def test_streams_and_reuses_connections_over_tls(
    upstream: Start, client: Make, tls: tuple[ssl.SSLContext, str], timeout: float
) -> None:
    raw = chunked([b"%d " % number * 50 for number in range(2000)])
    server = upstream(lambda peer: peer.send(raw), context=tls[0])
    pool = client(environ={"REQUESTS_CA_BUNDLE": tls[1]})
    for _ in range(2):
        body = read(pool.send(post(server.url, b"y" * 200_000)), timeout)
        assert body == b"".join(b"%d " % number * 50 for number in range(2000))
    assert server.accepted == 1


@pytest.mark.parametrize("secure", [False, True])
def test_a_long_body_is_not_copied(
    upstream: Start, client: Make, tls: tuple[ssl.SSLContext, str], secure: bool
) -> None:
    body = bytes(range(256)) * 40_000
    received: list[bool] = []

    def answer(peer: Peer) -> None:
        received.append(peer.request.body == body)
        peer.send(sized(b"x"))

    server = upstream(answer, context=tls[0] if secure else None)
    pool = client(environ={"SSL_CERT_FILE": tls[1]})
    assert read(pool.send(post(server.url))) == b"x"
    ours = [tracemalloc.Filter(True, "*/choreo_wsgi/*")]
    tracemalloc.start()
    try:
        exchange = pool.send(post(server.url, body))
        answer_body = b""
        while not exchange._sent:
            answer_body += exchange.receive(0.25)
            found = tracemalloc.take_snapshot().filter_traces(ours).statistics("lineno")
            assert sum(one.size for one in found) < len(body) / 10, found[:3]
        assert answer_body + read(exchange) == b"x" and received == [False, True]
    finally:
        tracemalloc.stop()


def test_long_body_is_encrypted_in_blocks(
    upstream: Start,
    client: Make,
    tls: tuple[ssl.SSLContext, str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    sizes: list[int] = []
    encrypt = connection.TLS.encrypt

    def note(self: connection.TLS, data: bytes) -> None:
        sizes.append(len(data))
        encrypt(self, data)

    monkeypatch.setattr(connection.TLS, "encrypt", note)
    server = upstream(lambda peer: peer.send(sized(b"x")), context=tls[0])
    exchange = client(environ={"SSL_CERT_FILE": tls[1]}).send(post(server.url, b"y" * 1_000_000))
    assert read(exchange) == b"x"
    assert sum(sizes) > 1_000_000 and max(sizes) <= connection.BLOCK


def test_returns_all_of_a_tls_record_before_waiting(
    upstream: Start, client: Make, tls: tuple[ssl.SSLContext, str]
) -> None:
    hold = threading.Event()

    def answer(peer: Peer) -> None:
        peer.send(chunked([b"x" * 16000])[:-5])  # one record, then silence
        hold.wait(DEADLINE)
        peer.send(b"0\r\n\r\n")

    server = upstream(answer, context=tls[0])
    exchange = client(environ={"SSL_CERT_FILE": tls[1]}).send(post(server.url))
    body = b""
    while len(body) < 16000:
        body += exchange.receive(0.25)
    hold.set()
    assert read(exchange) == b""


def test_rejects_an_untrusted_certificate(
    upstream: Start, client: Make, tls: tuple[ssl.SSLContext, str]
) -> None:
    server = upstream(lambda peer: peer.send(sized(b"x")), context=tls[0])
    _, error = failure(client().send(post(server.url)))
    assert isinstance(error, ProviderUnavailable)
    assert "certificate is invalid: self-signed" in error.message
    assert not server.requests


def test_rejects_a_certificate_for_another_name(
    upstream: Start, client: Make, tls: tuple[ssl.SSLContext, str]
) -> None:
    server = upstream(lambda peer: peer.send(sized(b"x")), context=tls[0])
    url = server.url.replace("127.0.0.1", "127.0.0.2")
    exchange = client(environ={"SSL_CERT_FILE": tls[1]}).send(post(url))
    _, error = failure(exchange)
    assert isinstance(error, ProviderUnavailable)
    assert not server.requests


def test_refused_connection_raises_provider_unavailable(client: Make) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{free.getsockname()[1]}/"
    _, error = failure(client().send(post(url)))
    assert isinstance(error, ProviderUnavailable)
    assert error.message == "no connection to the provider: Connection refused"


def test_server_without_tls_raises_provider_unavailable(client: Make) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener, ThreadPoolExecutor(1) as pool:
        url = f"https://127.0.0.1:{listener.getsockname()[1]}/"
        found = pool.submit(failure, client().send(post(url)))
        with listener.accept()[0] as peer:
            peer.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n")
            _, error = found.result(DEADLINE)
    assert isinstance(error, ProviderUnavailable)
    problem = r"no connection to the provider: TLS: [A-Z_]+ \(the server may speak plain http\)"
    assert re.fullmatch(problem, error.message)


def test_only_a_receive_that_may_wait_looks_a_name_up(
    upstream: Start, client: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    looked_up: list[str] = []
    real = socket.getaddrinfo

    def look_up(host: str, port: int, **kinds: Any) -> Any:
        looked_up.append(host)
        return real("127.0.0.1", port, **kinds)

    monkeypatch.setattr(socket, "getaddrinfo", look_up)
    server = upstream(lambda peer: peer.send(sized(b"x")))
    exchange = client().send(post(server.url.replace("127.0.0.1", "name.test")))
    for _ in range(2):
        assert exchange.receive(0) == b""
        assert (exchange.fileno(), exchange.due, looked_up) == (None, None, [])
    assert read(exchange) == b"x"
    exchange = client().send(post(server.url))  # an address needs no lookup
    assert exchange.receive(0) in (b"", b"x") and exchange.due is not None
    exchange.close()


def test_only_a_receive_that_may_wait_reads_the_certificates(
    upstream: Start, client: Make, tls: tuple[ssl.SSLContext, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[ssl.SSLContext] = []
    create = ssl.create_default_context

    def create_context(**location: Any) -> ssl.SSLContext:
        made.append(create(**location))
        return made[-1]

    monkeypatch.setattr(ssl, "create_default_context", create_context)
    server = upstream(lambda peer: peer.send(sized(b"x")), context=tls[0])
    one = client(environ={"SSL_CERT_FILE": tls[1]})
    exchange = one.send(post(server.url))
    assert exchange.receive(0) == b""
    assert (exchange.fileno(), exchange.due, made) == (None, None, [])
    assert read(exchange) == b"x"
    exchange = one.send(post(server.url))
    assert exchange.receive(0) in (b"", b"x") and exchange.due is not None
    assert read(exchange) == b"x" and len(made) == 1


@pytest.mark.parametrize("code", [errno.EMFILE, errno.ENFILE])
def test_lack_of_descriptors_anywhere_raises_exhausted(
    client: Make, monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    def fail(*_: Any) -> None:
        raise OSError(code, "none is left")

    exchange = client().send(post("http://127.0.0.1:1/"))
    monkeypatch.setattr(socket, "socket", fail)
    with pytest.raises(Exhausted):
        exchange.receive(1.0)


def test_unknown_host_raises_provider_unavailable(client: Make) -> None:
    _, error = failure(client().send(post("http://name.invalid/")))
    assert isinstance(error, ProviderUnavailable)


def test_tries_the_second_address(upstream: Start, client: Make, monkeypatch: Any) -> None:
    server = upstream(lambda peer: peer.send(sized(b"x")))
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        closed = free.getsockname()
    real = socket.getaddrinfo

    def both(host: str, port: int, **kinds: Any) -> Any:
        found = real("127.0.0.1", port, **kinds)
        return [(*found[0][:4], closed), *found]

    monkeypatch.setattr(socket, "getaddrinfo", both)
    assert read(client().send(post(server.url))) == b"x"


def relay_bytes(source: socket.socket, to: socket.socket) -> None:
    try:
        while data := source.recv(65536):
            to.sendall(data)
        to.shutdown(socket.SHUT_WR)
    except OSError:
        pass


def tunnel(port: int) -> Callable[[Peer], None]:
    def answer(peer: Peer) -> None:
        if peer.request.headers["Proxy-Authorization"] != "Basic dTpw":
            peer.send(head("407 Proxy Authentication Required", "text/plain", "Content-Length: 0"))
            return
        with socket.create_connection(("127.0.0.1", port)) as there:
            peer.send(b"HTTP/1.1 200 Connection established\r\n\r\n")
            back = threading.Thread(target=relay_bytes, args=(there, peer.sock))
            back.start()
            relay_bytes(peer.sock, there)
            back.join(DEADLINE)
        peer.close()

    return answer


def test_https_uses_a_tunnel_through_the_proxy(
    upstream: Start, client: Make, tls: tuple[ssl.SSLContext, str]
) -> None:
    server = upstream(lambda peer: peer.send(sized(b"x")), context=tls[0])
    proxy = upstream(tunnel(server.port))
    environ = {"HTTPS_PROXY": f"http://u:p@127.0.0.1:{proxy.port}", "SSL_CERT_FILE": tls[1]}
    pool = client(environ=environ)
    for _ in range(2):
        assert read(pool.send(post(server.url))) == b"x"
    assert proxy.requests[0].line == f"CONNECT 127.0.0.1:{server.port} HTTP/1.1"
    assert len(proxy.requests) == 1 and proxy.requests[0].headers["Authorization"] is None
    assert server.requests[0].headers["Proxy-Authorization"] is None


def test_refusal_by_the_proxy_raises_provider_unavailable(upstream: Start, client: Make) -> None:
    proxy = upstream(tunnel(1))
    environ = {"https_proxy": f"http://127.0.0.1:{proxy.port}"}
    _, error = failure(client(environ=environ).send(post("https://example.com/")))
    assert isinstance(error, ProviderUnavailable) and "answered 407 Proxy Auth" in error.message


def test_refusal_by_the_proxy_may_have_any_coding(upstream: Start, client: Make) -> None:
    refusal = b"HTTP/1.1 407 Proxy Auth\r\nContent-Encoding: br\r\nContent-Length: 1\r\n\r\nx"
    proxy = upstream(lambda peer: peer.send(refusal) or peer.is_left())
    _, error = failure(
        client(environ={"https_proxy": proxy.url}).send(post("https://example.com/"))
    )
    assert isinstance(error, ProviderUnavailable) and "answered 407 Proxy Auth" in error.message


def test_rejects_bytes_after_the_head_of_a_proxy(upstream: Start, client: Make) -> None:
    """They come from the proxy, as the client of TLS sends the first bytes."""
    proxy = upstream(lambda peer: peer.send(b"HTTP/1.1 200 OK\r\n\r\nmore") or peer.is_left())
    environ = {"https_proxy": f"http://127.0.0.1:{proxy.port}"}
    _, error = failure(client(environ=environ).send(post("https://example.com/")))
    assert isinstance(error, ProviderUnavailable) and "the proxy answered 200" in error.message


def test_answer_of_a_proxy_that_is_not_http_is_unavailable(upstream: Start, client: Make) -> None:
    proxy = upstream(lambda peer: peer.send(b"SSH-2.0-OpenSSH\r\n\r\n"))
    environ = {"https_proxy": f"http://127.0.0.1:{proxy.port}"}
    _, error = failure(client(environ=environ).send(post("https://example.com/")))
    assert isinstance(error, ProviderUnavailable) and "answer cannot be read" in error.message


def test_proxy_receives_the_absolute_url_of_http(upstream: Start, client: Make) -> None:
    proxy = upstream(lambda peer: peer.send(sized(b"x")))
    environ = {"HTTP_PROXY": f"http://u:p@127.0.0.1:{proxy.port}"}
    assert read(client(environ=environ).send(post("http://example.com"))) == b"x"
    request = proxy.requests[0]
    assert request.line == "POST http://example.com/v1/chat/completions HTTP/1.1"
    assert request.headers["Host"] == "example.com"
    assert request.headers["Proxy-Authorization"] == "Basic dTpw"


def test_reads_an_answer_sent_before_the_whole_request(client: Make) -> None:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        pool = client()
        url = f"http://127.0.0.1:{listener.getsockname()[1]}/"
        exchange = pool.send(post(url, b"x" * 8_000_000))
        assert exchange.receive(0.05) == b""
        peer, _ = listener.accept()
        peer.recv(1000)
        peer.sendall(sized(b"too large", "413 Content Too Large"))
        assert read(exchange) == b"too large" and exchange.status == 413
        assert idle_in(pool) == 0  # as the rest of the request was not sent
        peer.close()


def test_first_bytes_that_are_not_http_fail_the_exchange_at_once(
    upstream: Start, client: Make
) -> None:
    """A server of another protocol sends a greeting and then waits."""
    server = upstream(lambda peer: (peer.send(b"SSH-2.0-OpenSSH_9"), peer.wait_until_left()))
    with pytest.raises(UpstreamInvalid, match="it is not HTTP"):
        read(client().send(post(server.url)))


def test_bytes_that_are_read_late_are_no_silence(upstream: Start, client: Make) -> None:
    """Only time in which the provider sent nothing counts, whatever kept this process busy."""

    def answer(peer: Peer) -> None:
        peer.send(head("200 OK", "text/event-stream", "Content-Length: 4") + b"ab")
        assert going_on.wait(DEADLINE)
        peer.send(b"c")
        peer.wait_until_left()

    going_on = threading.Event()
    exchange = client(idle=DEADLINE).send(post(upstream(answer).url))
    received = b""
    while received != b"ab":
        received += exchange.receive(0.25)
    going_on.set()
    number = exchange.fileno()
    assert number is not None and select.select([number], [], [], DEADLINE)[0]
    exchange.last_received = 0.0
    assert exchange.receive(0) == b"c"
    exchange.last_received = 0.0
    with pytest.raises(ProviderTimeout):
        exchange.receive(0)
