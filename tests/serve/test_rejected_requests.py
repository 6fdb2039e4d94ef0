"""Requests that the server rejects before the application; overdue connections."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable, Iterable
from typing import Any

import harness
import pytest
from plain_apps import Running, body_app

from choreo_wsgi.serve import channel as channels
from choreo_wsgi.serve.parser import Parser

RunApp = Callable[..., Running]

SECOND = b"GET /smuggled HTTP/1.1\r\nHost: a\r\n\r\n"


def rejection(server: Running, request: bytes) -> tuple[harness.Answer, bool]:
    """Send *request*; return the response and whether the connection ends after it."""
    with server.connect() as client:
        client.send(request)
        return client.read_answer(), client.at_end()


@pytest.fixture
def paths() -> list[str]:
    """The paths of the requests that the application received."""
    return []


@pytest.fixture
def server(run_app: RunApp, paths: list[str]) -> Running:
    def handler(environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        paths.append(environ["PATH_INFO"])
        environ["wsgi.input"].read()
        return body_app(b"ok")(environ, start_response)

    return run_app(handler, max_body_bytes=4096)


@pytest.mark.parametrize(
    "fields",
    [
        b"Content-Length: 4\r\nTransfer-Encoding: chunked",
        b"Content-Length: 0\r\nTransfer-Encoding: chunked",
        b"content-length: 4\r\ntransfer-ENCODING: Chunked",
        b"Transfer-Encoding: chunked, chunked",
        b"Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked",
        b"Transfer-Encoding:",
        b"Transfer-Encoding: chunked\r\n ,chunked",
        b"Transfer-Encoding : chunked",
        b"Content-Length: 4\r\nContent-Length: 5",
        b"Content-Length: 4, 4",
        b"Content-Length: +4",
        b"Content-Length:",
        b"Content-Length: " + b"9" * 5000,
    ],
)
def test_rejects_ambiguous_body_length(server: Running, paths: list[str], fields: bytes) -> None:
    request = b"POST / HTTP/1.1\r\nHost: a\r\n%b\r\n\r\n0\r\n\r\n" % fields
    answer, ended = rejection(server, request + SECOND)
    assert answer.status == 400
    assert answer.error["type"] == "invalid_request_error"
    assert answer.headers["content-type"] == "application/json"
    assert answer.headers["x-request-id"]
    assert ended
    assert paths == []


@pytest.mark.parametrize(
    ("line", "limit", "rest"),
    [(b"1;a=", 1024, b"\r\nx\r\n0\r\n\r\n"), (b"0\r\nX: ", 8192, b"\r\n\r\n")],
)
def test_limits_length_of_chunk_size_line_and_trailer(
    server: Running, line: bytes, limit: int, rest: bytes
) -> None:
    """Each packet would search a longer line again."""
    head = b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n"
    with server.connect() as client:
        client.send(head + line + b"a" * (limit - 20))
        client.send(rest)
        assert client.read_answer().status == 200
        client.send(head + line + b"a" * (limit + 20))
        assert client.read_answer().status == 400


@pytest.mark.parametrize("coding", [b"gzip, chunked", b"x\x0bchunked"])
def test_rejects_unsupported_transfer_coding(
    server: Running, paths: list[str], coding: bytes
) -> None:
    request = b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: %b\r\n\r\n0\r\n\r\n" % coding
    answer, ended = rejection(server, request + SECOND)
    assert answer.status in (400, 501)
    assert answer.error["type"] == "invalid_request_error"
    assert ended
    assert paths == []


def test_rejects_transfer_coding_in_http_1_0(server: Running, paths: list[str]) -> None:
    request = b"POST / HTTP/1.0\r\nConnection: keep-alive\r\nTransfer-Encoding: chunked\r\n\r\n"
    answer, ended = rejection(server, request + b"0\r\n\r\n" + SECOND)
    assert "Transfer-Encoding needs HTTP/1.1" in answer.error["message"]
    assert (answer.status, ended, paths) == (400, True, [])


@pytest.mark.parametrize(
    "chunks", [b"0x2\r\nab\r\n0\r\n\r\n", b"+2\r\nab\r\n0\r\n\r\n", b"2\r\nabc\r\n0\r\n\r\n"]
)
def test_rejects_invalid_chunks(server: Running, paths: list[str], chunks: bytes) -> None:
    request = b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n" + chunks
    answer, ended = rejection(server, request + SECOND)
    assert (answer.status, ended, paths) == (400, True, [])


@pytest.mark.parametrize("coding", [b"chunked", b"Chunked"])
def test_serves_chunked_request(server: Running, paths: list[str], coding: bytes) -> None:
    head = b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: %b\r\n\r\n" % coding
    request = head + b"2\r\nab\r\n0\r\n\r\n"
    with server.connect() as client:
        client.send(request + b"GET /second HTTP/1.1\r\nHost: a\r\n\r\n")
        assert client.read_answer().body == b"ok"
        assert client.read_answer().body == b"ok"
    assert paths == ["/", "/second"]


def test_parses_little_of_a_chunked_body_at_once(
    server: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    """64 KiB of chunks of one byte would stop all streams for 46 ms."""
    sizes, received = [], Parser.received

    def record(self: Parser, data: bytes) -> int:
        sizes.append(len(data))
        return received(self, data)

    monkeypatch.setattr(Parser, "received", record)
    with server.connect() as client:
        client.send(b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n")
        harness.wait_until(lambda: sizes, "the head is received")
        client.send(b"1\r\na\r\n" * 10_000 + b"0\r\n\r\n")
        assert client.read_answer().body == b"ok"
    assert sum(sizes[1:]) == 60_005 and max(sizes) <= channels.READ_CHUNKED


@pytest.mark.parametrize("request_line", [b"GET", b"get / HTTP/1.1", b"\x16\x03\x01\x02\x00"])
def test_rejects_invalid_request_line(server: Running, request_line: bytes) -> None:
    answer, ended = rejection(server, request_line + b"\r\nHost: a\r\n\r\n")
    assert (answer.status, ended) == (400, True)
    assert answer.error["type"] == "invalid_request_error"


def test_rejects_a_tls_handshake_at_once(server: Running) -> None:
    """Its bytes have no empty line: the rest of a head would never arrive."""
    answer, ended = rejection(server, b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03")
    assert (answer.status, ended) == (400, True)
    assert "plain http" in answer.error["message"]


def test_rejection_returns_x_request_id(server: Running) -> None:
    request = b"POST / HTTP/1.1\r\nX-Request-Id: mine-1\r\nContent-Length: x\r\n\r\n"
    answer, _ = rejection(server, request)
    assert answer.headers["x-request-id"] == "mine-1"


def test_rejects_too_long_head_with_431(server: Running) -> None:
    with server.connect() as client:
        assert client.exchange("GET", "/", headers={"X": "x" * 65_000}).status == 200
    answer, ended = rejection(server, b"GET / HTTP/1.1\r\nX: %b\r\n\r\n" % (b"x" * 70_000))
    assert (answer.status, ended) == (431, True)
    assert answer.error["type"] == "invalid_request_error"


def test_client_can_read_rejection_while_sending(server: Running) -> None:
    """Closing with unread bytes would reset the connection and lose the response."""
    with server.connect() as client:
        client.send(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5000000\r\n\r\n")
        for _ in range(50):
            client.send(b"x" * 100_000)
        answer = client.read_answer()
    assert answer.status == 413
    assert answer.error["code"] == "body_too_large"


def test_rejects_endless_chunked_body_with_413(server: Running) -> None:
    with server.connect() as client:
        client.send(b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n")
        for _ in range(20):
            client.send(b"1000\r\n" + b"x" * 4096 + b"\r\n")
        answer = client.read_answer()
    assert answer.status == 413
    assert answer.error["code"] == "body_too_large"


def test_rejected_body_gets_no_100_continue(server: Running) -> None:
    with server.connect() as client:
        client.send(
            b"POST / HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: 5000000\r\n\r\n"
        )
        assert client.read_head().status == 413


def test_sends_100_continue_before_body(server: Running) -> None:
    with server.connect() as client:
        client.send(
            b"POST / HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: 2\r\n\r\n"
        )
        assert client.socket.recv(100) == b"HTTP/1.1 100 Continue\r\n\r\n"
        client.send(b"ab")
        assert client.read_answer().body == b"ok"


def test_slow_request_is_overdue_by_its_start(run_app: RunApp) -> None:
    """Bytes that keep arriving do not extend its time."""
    server = run_app(body_app(b"ok"))
    with server.connect() as client:
        assert client.exchange("GET", "/").body == b"ok"
        channel, carrier = only_channel(server), server.server.carrier
        channel.began -= 100  # the time of an earlier request does not count
        client.send(b"GET / HTTP/1.1\r\nHost: ")
        harness.wait_until(lambda: channel.request, "the request has begun")
        now = time.monotonic()
        assert channel.due > now + 15
        channel.began -= 30  # although a byte has just been received
        assert channel.due <= now
        carrier.call(lambda: carrier.step(channel))
        assert client.at_end()


def only_channel(server: Running) -> Any:
    connections = server.server.connections
    harness.wait_until(lambda: connections, "the client is connected")
    return next(iter(connections))


def test_silent_connection_is_overdue_like_a_request(run_app: RunApp) -> None:
    """Earlier than a connection that is idle between two requests."""
    server = run_app(body_app(b"ok"))
    with server.connect():
        channel = only_channel(server)
        now = time.monotonic()
        assert channel.due > now + 15
        assert channel.due <= now + 25


def test_stalled_body_is_overdue(run_app: RunApp) -> None:
    """The bytes it has sent would allow a client that keeps sending two minutes."""
    server = run_app(body_app(b"ok"))
    with server.connect() as client:
        client.send(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 200000\r\n\r\n")
        client.send(b"x" * 120_000)
        channel = only_channel(server)

        def received() -> bool:
            return bool(channel.request) and channel.request.body_bytes_received == 120_000

        harness.wait_until(received, "the bytes are received")
        now = time.monotonic()
        assert channel.due > now + 15
        assert channel.due <= now + 25
        channel.began -= 125  # 120,000 bytes may take 117 s, and 20 s more
        assert channel.due > now
        channel.began -= 20
        assert channel.due <= now


def test_rejected_client_that_keeps_sending_is_overdue(server: Running) -> None:
    with server.connect() as client:
        client.send(b"POST / HTTP/1.1\r\n")
        channel = only_channel(server)
        harness.wait_until(lambda: channel.request is not None, "the head has begun")
        channel.began -= 10  # the time of the head does not count
        client.send(b"Host: a\r\nContent-Length: 5000000\r\n\r\n")
        client.send(b"x" * 1000)
        assert client.read_answer().status == 413
        harness.wait_until(lambda: channel._discarding, "its bytes are discarded")
        client.send(b"x" * 1000)
        now = time.monotonic()
        assert channel.due > now + 1
        assert channel.due <= now + 5


def test_ignores_empty_lines_before_request(server: Running, paths: list[str]) -> None:
    with server.connect() as client:
        client.send(b"\r\n\r\n")
        assert client.exchange("GET", "/").body == b"ok"
    assert paths == ["/"]


def test_thousands_of_empty_lines_cost_one_parser(
    server: Running, paths: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A parser for each would keep every stream waiting for as long as a large body."""
    parsers: list[Parser] = []

    def count(*args: Any) -> Parser:
        parsers.append(Parser(*args))
        return parsers[-1]

    monkeypatch.setattr(channels, "Parser", count)
    lines = b"\r\n" * 8192
    with server.connect() as client:
        client.send(lines + b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
        assert client.read_answer().body == b"ok"
    assert paths == ["/"]
    assert len(parsers) <= 64  # one or two for each packet, of which loopback makes large ones


def test_bytes_after_rejection_are_not_parsed(server: Running, paths: list[str]) -> None:
    with server.connect() as client:
        client.send(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5000000\r\n\r\n")
        channel = only_channel(server)
        assert client.read_answer().status == 413
        assert client.at_end()
        client.send(b"GET /second HTTP/1.1\r\nHost: a\r\n\r\n")
        before = channel.last_received
        client.send(b"GET /third HTTP/1.1\r\nHost: a\r\n\r\n")
        harness.wait_until(lambda: channel.last_received > before, "the bytes are read")
        assert channel.requests == [] and channel.request is None
    harness.wait_until(lambda: not server.server.connections, "the connection has ended")
    assert paths == []


def test_connection_failure_is_logged_and_ends_only_that_one(
    run_app: RunApp, caplog: pytest.LogCaptureFixture
) -> None:
    server = run_app(body_app(b"ok"))
    with server.connect() as other, server.connect() as client:
        assert other.exchange("GET", "/").body == b"ok"
        assert client.exchange("GET", "/").body == b"ok"
        for channel in list(server.server.connections):
            if channel.socket.getpeername() == client.socket.getsockname():
                channel._receive = None  # type: ignore[method-assign, assignment]
        client.request("GET", "/")
        assert client.at_end()
        assert other.exchange("GET", "/").body == b"ok"
    (record,) = [one for one in caplog.records if one.levelname == "ERROR"]
    assert record.exc_info is not None and "connection failed" in record.getMessage()
    caplog.clear()


def test_failed_connection_counts_as_disconnect(
    run_app: RunApp, caplog: pytest.LogCaptureFixture
) -> None:
    """The request that is being answered is told."""
    begun, seen = threading.Event(), threading.Event()

    def handler(environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        begun.set()
        harness.wait_until(environ["waitress.client_disconnected"], "it counts as disconnected")
        seen.set()
        return body_app(b"late")(environ, start_response)

    server = run_app(handler)
    with server.connect() as client:
        client.request("GET", "/")
        assert begun.wait(harness.DEADLINE)
        only_channel(server)._receive = None
        client.request("GET", "/")
        assert seen.wait(harness.DEADLINE)
    caplog.clear()


def test_client_that_leaves_before_its_rejection_is_not_logged(
    run_app: RunApp, caplog: pytest.LogCaptureFixture
) -> None:
    server = run_app(body_app(b"ok"))
    client, refuse, left = server.connect(), server.app.refuse, threading.Event()

    def late(*arguments: Any) -> Any:
        client.reset()
        left.set()
        return refuse(*arguments)

    server.app.refuse = late
    client.send(b"no request\r\n\r\n")
    assert left.wait(harness.DEADLINE)
    harness.wait_until(lambda: not server.server.connections, "the connection has ended")
    assert caplog.records == []


def test_rejected_client_that_is_cut_off_is_not_waited_for(
    run_app: RunApp, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("choreo_wsgi.serve.channel.LINGER_SECONDS", 10 * harness.DEADLINE)
    server = run_app(body_app(b"ok"))
    refuse = server.app.refuse

    def late(*arguments: Any) -> Any:
        only_channel(server).abort()
        return refuse(*arguments)

    server.app.refuse = late
    with server.connect() as client:
        client.send(b"no request\r\n\r\n")
        with pytest.raises(ConnectionResetError):
            client.at_end()


def test_client_that_leaves_before_100_continue_is_not_logged(
    server: Running, caplog: pytest.LogCaptureFixture
) -> None:
    client, left = server.connect(), threading.Event()

    def admit(environ: dict[str, Any]) -> None:
        client.reset()
        left.set()

    server.app.admit = admit
    client.send(b"POST / HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: 2\r\n\r\n")
    assert left.wait(harness.DEADLINE)
    harness.wait_until(lambda: not server.server.connections, "the connection has ended")
    assert caplog.records == []


def test_pipelined_request_gets_100_continue_in_its_turn(run_app: RunApp) -> None:
    """Its head arrives while the previous request is still being answered."""
    begun, proceed = threading.Event(), threading.Event()

    def handler(environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        if environ["PATH_INFO"] == "/first":
            begun.set()
            proceed.wait(harness.DEADLINE)
        return body_app(environ["wsgi.input"].read() or b"first")(environ, start_response)

    server = run_app(handler)
    with server.connect() as client:
        client.send(b"GET /first HTTP/1.1\r\nHost: a\r\n\r\n")
        assert begun.wait(harness.DEADLINE)
        client.send(
            b"POST / HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: 2\r\n\r\n"
        )
        channel = only_channel(server)
        harness.wait_until(
            lambda: channel.request and channel.request.headers_finished, "the head is received"
        )
        proceed.set()
        assert client.read_answer().body == b"first"
        assert client.read_head().status == 100
        client.send(b"ab")
        assert client.read_answer().body == b"ab"


def test_idle_time_starts_at_end_of_response(run_app: RunApp) -> None:
    """A response under way is never overdue."""
    ends: list[float] = []
    overdue: list[bool] = []

    def handler(environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        (channel,) = server.server.connections
        channel.last_received -= 100  # as if the response had taken so long
        overdue.append(channel.due < math.inf)
        ends.append(time.monotonic())
        return body_app(b"ok")(environ, start_response)

    server = run_app(handler)
    with server.connect() as client:
        assert client.exchange("GET", "/").body == b"ok"
        channel = only_channel(server)
        harness.wait_until(lambda: not channel.requests, "the request has ended")
        assert channel.last_received >= ends[0] and overdue == [False]


def test_idle_connection_is_kept_longer_than_a_slow_request(run_app: RunApp) -> None:
    server = run_app(body_app(b"ok"))
    with server.connect() as client:
        assert client.exchange("GET", "/").body == b"ok"
        channel = only_channel(server)
        harness.wait_until(lambda: not channel.requests, "the request has ended")
        now = time.monotonic()
        assert channel.due > now + 60
        assert channel.due <= now + 80


def test_rejection_is_logged(server: Running, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO", "choreo_wsgi.access")
    request = b"POST /x HTTP/1.1\r\nHost: a\r\nX-Request-Id: odd-1\r\nContent-Length: -1\r\n\r\n"
    answer, _ = rejection(server, request)
    assert answer.headers["x-request-id"] == "odd-1"
    (line,) = [record.getMessage() for record in caplog.records]
    assert line.startswith("id=odd-1 ") and " status=400 outcome=" in line
    assert line.endswith(" client=127.0.0.1")
