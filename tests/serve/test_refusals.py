"""What the server refuses before the application sees it: our JSON, and no second request."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable
from typing import Any

import harness
import pytest
from plain_apps import Running, body_app

RunApp = Callable[..., Running]

_SECOND = b"GET /smuggled HTTP/1.1\r\nHost: a\r\n\r\n"


def _refused(server: Running, request: bytes) -> tuple[harness.Answer, bool]:
    """Send *request*; return the one answer and whether the connection ends after it."""
    with server.connect() as client:
        client.send(request)
        return client.read_answer(), client.at_end()


@pytest.fixture
def paths() -> list[str]:
    """The paths that the application was asked for."""
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
    ],
)
def test_an_ambiguous_length(server: Running, paths: list[str], fields: bytes) -> None:
    request = b"POST / HTTP/1.1\r\nHost: a\r\n%b\r\n\r\n0\r\n\r\n" % fields
    answer, ended = _refused(server, request + _SECOND)
    assert answer.status == 400
    assert answer.error["type"] == "invalid_request_error"
    assert answer.headers["content-type"] == "application/json"
    assert answer.headers["x-request-id"]
    assert ended
    assert paths == []


@pytest.mark.parametrize("what", [b"1;a=", b"0\r\nX: "])
def test_an_endless_line_of_a_chunked_body_is_refused(server: Running, what: bytes) -> None:
    """The size of a chunk, and the trailer, would be searched anew for each packet."""
    with server.connect() as client:
        client.send(b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n" + what)
        client.send(b"a" * 16_000)
        assert client.read_answer().status == 400


@pytest.mark.parametrize("coding", [b"gzip, chunked", b"x\x0bchunked"])
def test_a_transfer_coding_that_is_not_ours(
    server: Running, paths: list[str], coding: bytes
) -> None:
    request = b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: %b\r\n\r\n0\r\n\r\n" % coding
    answer, ended = _refused(server, request + _SECOND)
    assert answer.status in (400, 501)
    assert answer.error["type"] == "invalid_request_error"
    assert ended
    assert paths == []


def test_a_transfer_coding_before_http_1_1(server: Running, paths: list[str]) -> None:
    request = b"POST / HTTP/1.0\r\nConnection: keep-alive\r\nTransfer-Encoding: chunked\r\n\r\n"
    answer, ended = _refused(server, request + b"0\r\n\r\n" + _SECOND)
    assert (answer.status, ended, paths) == (400, True, [])


@pytest.mark.parametrize(
    "chunks", [b"0x2\r\nab\r\n0\r\n\r\n", b"+2\r\nab\r\n0\r\n\r\n", b"2\r\nabc\r\n0\r\n\r\n"]
)
def test_a_chunk_that_is_none(server: Running, paths: list[str], chunks: bytes) -> None:
    request = b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n" + chunks
    answer, ended = _refused(server, request + _SECOND)
    assert (answer.status, ended, paths) == (400, True, [])


def test_a_plain_chunked_request_is_served(server: Running, paths: list[str]) -> None:
    request = (
        b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nab\r\n0\r\n\r\n"
    )
    with server.connect() as client:
        client.send(request + b"GET /second HTTP/1.1\r\nHost: a\r\n\r\n")
        assert client.read_answer().body == b"ok"
        assert client.read_answer().body == b"ok"
    assert paths == ["/", "/second"]


@pytest.mark.parametrize("request_line", [b"GET", b"get / HTTP/1.1", b"\x16\x03\x01\x02\x00"])
def test_a_request_line_that_is_none(server: Running, request_line: bytes) -> None:
    answer, ended = _refused(server, request_line + b"\r\nHost: a\r\n\r\n")
    assert (answer.status, ended) == (400, True)
    assert answer.error["type"] == "invalid_request_error"


def test_the_callers_request_id_comes_back(server: Running) -> None:
    request = b"POST / HTTP/1.1\r\nX-Request-Id: mine-1\r\nContent-Length: x\r\n\r\n"
    answer, _ = _refused(server, request)
    assert answer.headers["x-request-id"] == "mine-1"


def test_headers_that_are_too_long(server: Running) -> None:
    answer, ended = _refused(server, b"GET / HTTP/1.1\r\nX: %b\r\n\r\n" % (b"x" * 70_000))
    assert (answer.status, ended) == (431, True)
    assert answer.error["type"] == "invalid_request_error"


def test_a_client_that_is_still_sending_can_read_why_it_was_refused(server: Running) -> None:
    """Closing with bytes unread would reset the connection and drop the answer."""
    with server.connect() as client:
        client.send(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5000000\r\n\r\n")
        for _ in range(50):
            client.send(b"x" * 100_000)
        answer = client.read_answer()
    assert answer.status == 413
    assert answer.error["code"] == "body_too_large"


def test_a_chunked_body_that_never_ends(server: Running) -> None:
    with server.connect() as client:
        client.send(b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n")
        for _ in range(20):
            client.send(b"1000\r\n" + b"x" * 4096 + b"\r\n")
        answer = client.read_answer()
    assert answer.status == 413
    assert answer.error["code"] == "body_too_large"


def test_a_body_that_is_refused_is_not_asked_for(server: Running) -> None:
    with server.connect() as client:
        client.send(
            b"POST / HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: 5000000\r\n\r\n"
        )
        assert client.read_head().status == 413


def test_a_body_is_asked_for(server: Running) -> None:
    with server.connect() as client:
        client.send(
            b"POST / HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: 2\r\n\r\n"
        )
        assert client.socket.recv(100) == b"HTTP/1.1 100 Continue\r\n\r\n"
        client.send(b"ab")
        assert client.read_answer().body == b"ok"


def test_a_request_that_dribbles_in_is_overdue(run_app: RunApp) -> None:
    """Each byte is news, so silence alone would never end it."""
    server = run_app(body_app(b"ok"))
    with server.connect() as client:
        client.send(b"GET / HTTP/1.1\r\nHost: ")
        channel = only_channel(server)
        harness.wait_until(lambda: channel.request, "the request's beginning")
        now = time.monotonic()
        assert channel.due > now + 15
        channel.began -= 30  # so long ago, and the last byte has just come
        assert channel.due <= now


def only_channel(server: Running) -> Any:
    connections = server.server.connections
    harness.wait_until(lambda: connections, "the connection")
    return next(iter(connections))


def test_a_connection_that_says_nothing_is_overdue(run_app: RunApp) -> None:
    """As soon as a request would be, and not with those that lie idle between two."""
    server = run_app(body_app(b"ok"))
    with server.connect():
        channel = only_channel(server)
        now = time.monotonic()
        assert channel.due > now + 15
        assert channel.due <= now + 25


def test_a_sender_that_stops_is_overdue(run_app: RunApp) -> None:
    """What it has sent would give a sender that goes on two minutes."""
    server = run_app(body_app(b"ok"))
    with server.connect() as client:
        client.send(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 200000\r\n\r\n")
        client.send(b"x" * 120_000)
        channel = only_channel(server)

        def came() -> bool:
            return bool(channel.request) and channel.request.body_bytes_received == 120_000

        harness.wait_until(came, "what was sent")
        now = time.monotonic()
        assert channel.due > now + 15
        assert channel.due <= now + 25


def test_a_refused_client_that_goes_on_sending_is_overdue(server: Running) -> None:
    with server.connect() as client:
        client.send(b"POST / HTTP/1.1\r\n")
        channel = only_channel(server)
        harness.wait_until(lambda: channel.request is not None, "the head has begun")
        channel.began -= 10  # the head took long: that counts no more
        client.send(b"Host: a\r\nContent-Length: 5000000\r\n\r\n")
        client.send(b"x" * 1000)
        assert client.read_answer().status == 413
        harness.wait_until(lambda: channel._discarding, "it is only listened to")
        client.send(b"x" * 1000)
        now = time.monotonic()
        assert channel.due > now + 1
        assert channel.due <= now + 5


def test_what_a_refused_client_sends_is_no_request(server: Running, paths: list[str]) -> None:
    with server.connect() as client:
        client.send(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5000000\r\n\r\n")
        channel = only_channel(server)
        assert client.read_answer().status == 413
        assert client.at_end()
        client.send(b"GET /second HTTP/1.1\r\nHost: a\r\n\r\n")
        came = channel.last_received
        client.send(b"GET /third HTTP/1.1\r\nHost: a\r\n\r\n")
        harness.wait_until(lambda: channel.last_received > came, "it was heard")
        assert channel.requests == [] and channel.request is None
    harness.wait_until(lambda: not server.server.connections, "the connection's end")
    assert paths == []


def test_a_failure_of_a_connection_is_logged_and_ends_it_alone(
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


def test_a_body_is_asked_for_when_its_turn_has_come(run_app: RunApp) -> None:
    """The request before it is still being answered when its head comes."""
    begun, go = threading.Event(), threading.Event()

    def handler(environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        if environ["PATH_INFO"] == "/first":
            begun.set()
            go.wait(harness.DEADLINE)
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
            lambda: channel.request and channel.request.headers_finished, "the second head"
        )
        go.set()
        assert client.read_answer().body == b"first"
        assert client.read_head().status == 100
        client.send(b"ab")
        assert client.read_answer().body == b"ab"


def test_a_connection_is_idle_from_the_end_of_its_answer_on(run_app: RunApp) -> None:
    ends: list[float] = []

    def handler(environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        (channel,) = server.server.connections
        channel.last_received -= 100  # so long has the answer taken
        ends.append(time.monotonic())
        return body_app(b"ok")(environ, start_response)

    server = run_app(handler)
    with server.connect() as client:
        assert client.exchange("GET", "/").body == b"ok"
        channel = only_channel(server)
        harness.wait_until(lambda: not channel.requests, "the request's end")
        assert channel.last_received >= ends[0]


def test_an_idle_connection_is_kept_longer_than_a_request_may_take(run_app: RunApp) -> None:
    server = run_app(body_app(b"ok"))
    with server.connect() as client:
        assert client.exchange("GET", "/").body == b"ok"
        channel = only_channel(server)
        harness.wait_until(lambda: not channel.requests, "the request's end")
        now = time.monotonic()
        assert channel.due > now + 60
        assert channel.due <= now + 80


def test_a_refusal_has_its_line_in_the_log(
    server: Running, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", "choreo_wsgi.access")
    request = b"POST /x HTTP/1.1\r\nHost: a\r\nX-Request-Id: odd-1\r\nContent-Length: -1\r\n\r\n"
    answer, _ = _refused(server, request)
    assert answer.headers["x-request-id"] == "odd-1"
    (line,) = [record.getMessage() for record in caplog.records]
    assert line.startswith("id=odd-1 ") and " status=400 outcome=" in line
    assert line.endswith(" client=127.0.0.1")
