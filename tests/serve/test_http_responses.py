"""Responses over a real socket: framing, keep-alive, clients that read slowly or disconnect."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import harness
import pytest
from harness import everything
from plain_apps import Running, body_app, stream_app

from choreo_wsgi.streams.poller import Selecting, new_poller

RunApp = Callable[..., Running]


@pytest.mark.parametrize("size", [16, 16 * 1024 - 1, 16 * 1024, 300_000])
def test_each_block_becomes_one_chunk(run_app: RunApp, size: int) -> None:
    """A small block is copied into its chunk; a large one is sent without a copy."""
    block = bytes(range(256)) * (size // 256) + b"x" * (size % 256)
    with run_app(stream_app([block, b"end"])).connect() as client:
        client.request("GET", "/")
        head = client.read_head()
        assert head.headers["transfer-encoding"] == "chunked"
        assert "connection" not in head.headers
        assert client.read_body() == block + b"end"


def test_chunked_response_bytes_are_exact(run_app: RunApp) -> None:
    with run_app(stream_app([b"hello", b"", b"x" * 26])).connect() as client:
        client.send(b"GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
        raw = everything(client)
    head, _, body = raw.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 200 OK\r\n")
    assert b"\r\nConnection: close" in head
    assert body == b"5\r\nhello\r\n1A\r\n" + b"x" * 26 + b"\r\n0\r\n\r\n"


def test_sends_each_frame_before_next_is_made(run_app: RunApp) -> None:
    proceed = threading.Semaphore(0)

    def frames() -> Iterator[bytes]:
        for number in range(3):
            yield b"data: %d\n\n" % number
            assert proceed.acquire(timeout=harness.DEADLINE)

    with run_app(stream_app(frames())).connect() as client:
        client.request("GET", "/")
        client.read_head()
        for number in range(3):
            assert client.read_frame() == b"data: %d\n\n" % number
            proceed.release()
        assert client.read_frame() == b""


def test_list_body_has_content_length(run_app: RunApp) -> None:
    def handler(environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        start_response("200 OK", [])
        return [b"all", b" of ", b"it"]

    with run_app(handler).connect() as client:
        answer = client.exchange("GET", "/")
    assert (answer.headers["content-length"], answer.body) == ("9", b"all of it")
    assert "transfer-encoding" not in answer.headers


def test_keeps_connection_across_many_responses(run_app: RunApp) -> None:
    """Streams, bodies with a length, and responses to HEAD, one after the other."""

    def handler(environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        if environ["PATH_INFO"] == "/none":
            start_response("204 No Content", [])
            return []
        app = stream_app([b"a", b"b"]) if environ["PATH_INFO"] == "/stream" else body_app(b"whole")
        body = app(environ, start_response)
        return [] if environ["REQUEST_METHOD"] == "HEAD" else body

    with run_app(handler).connect() as client:
        for _ in range(3):
            assert client.exchange("GET", "/stream").body == b"ab"
            assert client.exchange("GET", "/").body == b"whole"
            head = client.exchange("HEAD", "/")
            assert (head.headers["content-length"], head.body) == ("5", b"")
            assert client.exchange("HEAD", "/stream").body == b""
            assert client.exchange("OPTIONS", "/none").status == 204


def test_answers_pipelined_requests_in_order(run_app: RunApp) -> None:
    def handler(environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        return body_app(environ["PATH_INFO"].encode())(environ, start_response)

    with run_app(handler).connect() as client:
        paths = [f"/{number}" for number in range(20)]
        client.send(b"".join(b"GET %b HTTP/1.1\r\nHost: a\r\n\r\n" % p.encode() for p in paths))
        assert [client.read_answer().body.decode() for _ in paths] == paths


def test_unknown_http_version_is_answered_as_1_0(run_app: RunApp) -> None:
    with run_app(body_app(b"plain")).connect() as client:
        client.send(b"GET / HTTP/1.2\r\nHost: a\r\n\r\n")
        assert everything(client).startswith(b"HTTP/1.0 200 ")


def test_collapses_leading_slashes_of_path(run_app: RunApp) -> None:
    def handler(environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        return body_app(environ["PATH_INFO"].encode())(environ, start_response)

    with run_app(handler).connect() as client:
        assert client.exchange("GET", "//a//b").body == b"/a//b"


def test_http_1_0_body_ends_with_connection(run_app: RunApp) -> None:
    with run_app(stream_app([b"a", b"b"])).connect() as client:
        client.send(b"GET / HTTP/1.0\r\n\r\n")
        raw = everything(client)
    head, _, body = raw.partition(b"\r\n\r\n")
    assert b"Transfer-Encoding" not in head
    assert body == b"ab"


def test_http_1_0_keep_alive_is_honoured(run_app: RunApp) -> None:
    with run_app(body_app(b"plain")).connect() as client:
        for _ in range(2):
            client.send(b"GET / HTTP/1.0\r\nConnection: keep-alive\r\n\r\n")
            answer = client.read_answer()
            assert (answer.headers["connection"], answer.body) == ("Keep-Alive", b"plain")


@pytest.mark.parametrize(
    ("version", "field", "kept"),
    [
        ("1.1", "x-other, CLOSE", False),
        ("1.1", "x-other", True),
        ("1.0", "Keep-Alive", True),
        ("1.0", "keep-alive, close", False),
        ("1.0", "x-other", False),
    ],
)
def test_connection_field_decides_keep_alive(
    run_app: RunApp, version: str, field: str, kept: bool
) -> None:
    with run_app(body_app(b"plain")).connect() as client:
        client.send(f"GET / HTTP/{version}\r\nHost: a\r\nConnection: {field}\r\n\r\n".encode())
        assert client.read_answer().body == b"plain"
        if kept:
            assert client.exchange("GET", "/").body == b"plain"
        else:
            assert client.at_end()


def test_rejects_response_field_with_line_break(run_app: RunApp) -> None:
    def handler(environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        start_response("200 OK", [("X-Given", "a\r\nX-Made: b")])
        return [b"ab"]

    with run_app(handler).connect() as client:
        client.send(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
        raw = everything(client)
    assert raw.startswith(b"HTTP/1.1 500 ") and b"X-Made" not in raw


def test_failure_mid_body_omits_last_chunk(run_app: RunApp) -> None:
    def frames() -> Iterator[bytes]:
        yield b"first"
        raise RuntimeError("in the middle")

    with run_app(stream_app(frames())).connect() as client:
        client.send(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
        raw = everything(client)
    assert raw.endswith(b"5\r\nfirst\r\n")


def test_failure_before_head_returns_json_500(run_app: RunApp) -> None:
    def handler(environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        raise RuntimeError("a secret")

    with run_app(handler).connect() as client:
        answer = client.exchange("GET", "/", headers={"x-request-id": "mine"})
    assert answer.status == 500
    assert answer.error["code"] == "internal_error"
    assert b"secret" not in answer.body
    assert answer.headers["x-request-id"] == "mine"


class Endless:
    """Yields *block* until it is closed."""

    def __init__(self, block: bytes) -> None:
        self._block = block
        self.sent = 0
        self.closed = threading.Event()

    def __iter__(self) -> Endless:
        return self

    def __next__(self) -> bytes:
        self.sent += len(self._block)
        return self._block

    def close(self) -> None:
        self.closed.set()


def endless_app(stream: Endless) -> Any:
    def handler(environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        start_response("200 OK", [("Content-Type", "text/event-stream")])
        return stream

    return handler


@pytest.mark.parametrize("how", ["close", "reset"])
def test_closes_body_when_blocked_client_disconnects(
    run_app: RunApp, how: str, caplog: pytest.LogCaptureFixture
) -> None:
    """Nothing is logged."""
    stream = Endless(b"x" * 100_000)
    client = run_app(endless_app(stream)).connect()
    client.request("GET", "/")
    client.read_head()
    before = -1

    def stuck() -> bool:
        nonlocal before
        before, last = stream.sent, before
        return last == before

    harness.wait_until(stuck, "the kernel's buffers are full", 30)
    getattr(client, how)()
    assert stream.closed.wait(harness.DEADLINE)
    assert [record for record in caplog.records if record.name.startswith("choreo")] == []


def test_end_of_drain_closes_body_of_blocked_client(
    run_app: RunApp, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Even if the loop is late."""
    monkeypatch.setattr("choreo_wsgi.serve.server.LAST_FRAMES", 0.05)
    stream, late = Endless(b"x" * 100_000), threading.Event()
    server = run_app(endless_app(stream))
    carrier = server.server.carrier
    with server.connect() as client:
        client.request("GET", "/")
        client.read_head()
        (channel,) = server.server.connections
        harness.wait_until(lambda: channel.unsent, "the kernel's buffers are full")
        monkeypatch.setattr(carrier, "step_all", lambda: carrier.call(late.wait))
        server.server.drain()
        late.set()
        assert stream.closed.wait(harness.DEADLINE)


def test_cuts_off_client_that_reads_nothing(run_app: RunApp) -> None:
    stream = Endless(b"x" * 100_000)
    with run_app(endless_app(stream), send_timeout=0.5).connect() as client:
        client.request("GET", "/")
        assert stream.closed.wait(8)  # after 10.5 s the kernel would give up
        # A reset; or an end within a chunk if the client reads before the reset arrives.
        last = b""
        with contextlib.suppress(ConnectionResetError):
            while data := client.socket.recv(1 << 20):
                last = (last + data)[-5:]
        assert last != b"0\r\n\r\n"


def test_slow_reader_is_not_cut_off(run_app: RunApp) -> None:
    """``send_timeout`` applies to each send, not to the whole body."""
    body, pause = b"x" * 24_000_000, threading.Event()
    with run_app(body_app(body), send_timeout=2).connect() as client:
        client.request("GET", "/")
        received = 0
        for _ in range(15):
            pause.wait(0.2)
            received += len(client.socket.recv(1 << 20))
        while received < len(body):
            piece = client.socket.recv(1 << 20)
            assert piece, f"cut off after {received} bytes"
            received += len(piece)


@pytest.mark.parametrize("poller", [new_poller, Selecting])
def test_partial_sends_lose_no_byte(
    run_app: RunApp, poller: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The kernel accepts parts of blocks, split at any place of a chunk."""
    monkeypatch.setattr("choreo_wsgi.streams.carrier.new_poller", poller)
    blocks = [bytes([65 + n % 26]) * (1 + n * 7919 % 200_000) for n in range(200)]
    with run_app(stream_app(blocks)).connect() as client:
        client.request("GET", "/")
        client.read_head()
        assert client.read_body() == b"".join(blocks)


def test_detects_disconnect_while_nothing_is_sent(run_app: RunApp) -> None:
    begun, seen = threading.Event(), threading.Event()

    def handler(environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        begun.set()
        harness.wait_until(environ["waitress.client_disconnected"], "the client has disconnected")
        seen.set()
        return body_app(b"late")(environ, start_response)

    client = run_app(handler).connect()
    client.request("GET", "/")
    assert begun.wait(harness.DEADLINE)  # a request of a disconnected client is not started
    client.close()
    assert seen.wait(harness.DEADLINE)


def test_half_close_serves_client_that_shut_down_sending(run_app: RunApp) -> None:
    proceed = threading.Event()

    def handler(environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        assert environ["PATH_INFO"] == "/other" or proceed.wait(harness.DEADLINE)
        return body_app(b"answer")(environ, start_response)

    server = run_app(handler, half_close=True)
    with server.connect() as client, server.connect() as other:
        client.request("GET", "/")
        client.socket.shutdown(1)
        assert other.exchange("GET", "/other").body == b"answer"  # by now the end of file is read
        proceed.set()
        assert client.read_answer().body == b"answer"


def test_requests_beyond_threads_wait_and_are_answered(run_app: RunApp) -> None:
    server = run_app(body_app(b"ok"), max_streams=1)
    clients = [server.connect() for _ in range(60)]
    for client in clients:
        client.request("GET", "/")
    for client in clients:
        assert client.read_answer().body == b"ok"
        client.close()
