"""The end of a response: bodies closed, failures logged, connections kept or closed."""

from __future__ import annotations

import itertools
import logging
import math
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from email.utils import parsedate_to_datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import harness
import pytest
from harness import everything, wait_until
from plain_apps import Running, body_app, stream_app

from choreo_wsgi.serve import tasks
from choreo_wsgi.serve.channel import Channel
from choreo_wsgi.serve.tasks import GATHER, LARGE, Task
from choreo_wsgi.streams.poller import IN

RunApp = Callable[..., Running]


class Body:
    """A body of *blocks*, of which ``ready`` raises the exceptions; records who closes it."""

    due = None

    def __init__(self, *blocks: bytes | Exception, closing: Exception | None = None) -> None:
        self._blocks = list(blocks)
        self._closing = closing
        self.closed_by: list[threading.Thread] = []

    @property
    def ended(self) -> bool:
        return not self._blocks

    def fileno(self) -> None:
        return None

    def ready(self, patience: float) -> bytes:
        block = self._blocks.pop(0) if patience else b""
        if isinstance(block, Exception):
            raise block
        return block

    def close(self) -> None:
        self.closed_by.append(threading.current_thread())
        if self._closing is not None:
            raise self._closing


def app_of(body: Body) -> Any:
    def handler(environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        start_response("200 OK", [("Content-Type", "text/event-stream")])
        return body  # type: ignore[return-value]

    return handler


def test_closes_body_that_fails_before_head(run_app: RunApp) -> None:
    body = Body(RuntimeError("a bug"))
    with run_app(app_of(body)).connect() as client:
        assert client.exchange("GET", "/").status == 500
    assert len(body.closed_by) == 1


def test_loop_thread_sends_last_chunk_and_closes_body(run_app: RunApp) -> None:
    """Not the worker that waited for the block: the client's next request would overtake it."""
    body = Body(b"a", b"b")
    running = run_app(app_of(body))
    with running.connect() as client:
        assert client.exchange("GET", "/").body == b"ab"
    wait_until(lambda: body.closed_by, "the body is closed")
    assert body.closed_by == [running._thread]


def test_failure_in_close_is_logged_and_ends_connection(
    run_app: RunApp, caplog: pytest.LogCaptureFixture
) -> None:
    with run_app(app_of(Body(b"a", closing=RuntimeError("stuck")))).connect() as client:
        client.request("GET", "/")
        client.read_head()
        assert client.read_body() == b"a"
        assert client.socket.recv(1) == b""
    assert [record.exc_info is not None for record in caplog.records] == [True]
    assert "stuck" in caplog.text and "an answer to / failed" in caplog.text


def test_cut_off_client_is_logged_and_reset(
    run_app: RunApp, caplog: pytest.LogCaptureFixture
) -> None:
    """A reset, so that the kernel keeps no bytes for the client."""
    caplog.set_level(logging.INFO, "choreo_wsgi")

    def endless() -> Iterator[bytes]:
        while True:
            yield b"x" * 100_000

    running = run_app(stream_app(endless()), send_timeout=0.2)
    with running.connect() as client:
        client.request("GET", "/")
        wait_until(lambda: running.server.connections, "the client is connected")
        wait_until(lambda: not running.server.connections, "the client is cut off")
        assert "a client accepted no byte for 0.2 s and was cut off" in caplog.text
        with pytest.raises(ConnectionResetError):
            while client.socket.recv(1 << 20):
                pass


@pytest.mark.parametrize(
    ("size", "seconds", "blocks"),
    [(10, 0, 16), (LARGE + 1, 0, 1), (10, 0.01, 1)],
    ids=["small", "large", "slow"],
)
def test_other_connections_are_served_between_blocks(
    run_app: RunApp, monkeypatch: pytest.MonkeyPatch, size: int, seconds: float, blocks: int
) -> None:
    """A body that is always ready is sent 16 blocks, or one large or slow one, at a time."""
    body, counts, step = Body(*[b"x" * size] * 48), [], Task.step
    body.due = 0.0  # type: ignore[assignment]
    ready = body.ready
    body.ready = lambda patience: ready(1.0)  # type: ignore[method-assign]

    def counted(task: Task, timeout: float) -> None:
        before = len(body._blocks)
        step(task, timeout)
        counts.append(before - len(body._blocks))

    monkeypatch.setattr(Task, "step", counted)
    clock = itertools.count(0, seconds)
    monkeypatch.setattr(
        tasks, "time", SimpleNamespace(time=time.time, monotonic=lambda: next(clock))
    )
    running = run_app(app_of(body))
    running.app.blocks = lambda environ: False
    with running.connect() as client:
        client.request("GET", "/")
        client.read_head()
        assert len(client.read_body()) == 48 * size
    assert max(counts) == blocks


def test_bytes_that_are_not_accepted_at_once_are_sent_later(
    run_app: RunApp, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Wherever the system stops within a block, its chunk's end and the last chunk."""
    send, kept = Channel._send_some, [0]

    def send_some(channel: Channel, parts: Any, flags: int = 0) -> int:
        data = b"".join(parts)
        accepted, kept[0] = len(data) - kept[0], 0
        return send(channel, [data[:accepted]], flags)

    monkeypatch.setattr(Channel, "_send_some", send_some)
    body = b"x" * GATHER
    running = run_app(lambda environ, start_response: app_of(Body(body))(environ, start_response))
    for kept[0] in range(1, 16):
        with running.connect() as client:
            assert client.exchange("GET", "/").body == body


def test_starts_no_pipelined_request_after_disconnect(run_app: RunApp) -> None:
    paths: list[str] = []

    def handler(environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        paths.append(environ["PATH_INFO"])
        body = b"x" * 24_000_000 if environ["PATH_INFO"] == "/large" else b"x"
        return body_app(body)(environ, start_response)

    running = run_app(handler)
    with running.connect() as client, running.connect() as other:
        client.send(b"GET /large HTTP/1.1\r\nHost: a\r\n\r\nGET /next HTTP/1.1\r\nHost: a\r\n\r\n")
        client.read_head()
        client.reset()
        assert other.exchange("GET", "/other").body == b"x"
        wait_until(lambda: len(running.server.connections) == 1, "the connection has ended")
        assert other.exchange("GET", "/other").body == b"x"
    assert paths == ["/large", "/other", "/other"]


def test_failure_after_disconnect_leaves_server_running(run_app: RunApp) -> None:
    begun, gone = threading.Event(), threading.Event()

    def handler(environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        if environ["PATH_INFO"] == "/other":
            return body_app(b"x")(environ, start_response)
        begun.set()
        assert gone.wait(harness.DEADLINE)
        raise RuntimeError("a bug")

    running = run_app(handler)
    running.app.blocks = lambda environ: False  # the loop calls it
    client = running.connect()
    client.request("GET", "/")
    assert begun.wait(harness.DEADLINE)
    client.reset()
    gone.set()
    with running.connect() as other:
        assert other.exchange("GET", "/other").body == b"x"


def test_reset_of_paused_connection_causes_no_busy_loop(
    run_app: RunApp, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing is read from a connection with enough requests, not even its end."""
    proceed, steps, step = threading.Event(), [], Channel.step

    def handler(environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        assert environ["PATH_INFO"] == "/other" or proceed.wait(harness.DEADLINE)
        return body_app(b"x")(environ, start_response)

    def counted(channel: Channel, timeout: float) -> None:
        steps.append(channel)
        step(channel, timeout)

    monkeypatch.setattr(Channel, "step", counted)
    running = run_app(handler)
    client = running.connect()
    client.send(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n" * 3)
    wait_until(lambda: [one for one in running.server.connections if not one.events], "it pauses")
    (paused,) = running.server.connections
    client.reset()
    with running.connect() as other:
        for _ in range(20):
            assert other.exchange("GET", "/other").body == b"x"
    assert steps.count(paused) < 5
    proceed.set()


def test_date_field_is_current(run_app: RunApp) -> None:
    with run_app(body_app(b"x")).connect() as client:
        date = parsedate_to_datetime(client.exchange("GET", "/").headers["date"])
    assert abs(date.timestamp() - time.time()) < 60


def test_http_1_0_stream_ends_connection_despite_keep_alive(run_app: RunApp) -> None:
    """Otherwise the client would wait for the end of the body for ever."""
    with run_app(stream_app([b"a", b"b"])).connect() as client:
        client.send(b"GET / HTTP/1.0\r\nConnection: keep-alive\r\n\r\n")
        raw = everything(client)
    assert raw.endswith(b"\r\nConnection: close\r\n\r\nab")


def test_reads_only_few_pipelined_requests_ahead(run_app: RunApp) -> None:
    """A client that keeps sending while its response is pending fills no memory."""
    proceed = threading.Event()

    def handler(environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        assert proceed.wait(harness.DEADLINE)
        start_response("200 OK", [])
        return [b"x"]

    running = run_app(handler)
    request = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"
    try:
        with running.connect() as client:
            client.send(request)
            wait_until(lambda: running.server.connections, "the client is connected")
            (channel,) = running.server.connections
            client.socket.settimeout(0.0)
            with pytest.raises(BlockingIOError):
                while True:  # until the kernel's buffers are full
                    client.socket.send(request * 1000)
            wait_until(lambda: not channel.events & IN, "the server stops reading")
            # Parsed, a request takes twenty times its bytes: the others stay bytes.
            assert len(channel.requests) == running.server.lookahead + 1
    finally:
        proceed.set()


@pytest.mark.parametrize("first", [b"", b"begun"])
@pytest.mark.parametrize("kind", ["closed", "file", "raises", "due"])
def test_body_that_cannot_be_polled_ends_alone(
    run_app: RunApp, caplog: pytest.LogCaptureFixture, kind: str, first: bytes
) -> None:
    """Such as that of a provider whose socket has been closed."""

    class Broken(Body):
        asked = 0

        @property
        def due(self) -> float:  # type: ignore[override]
            self.asked += 1
            return math.inf if kind != "due" or self.asked == 1 else 1 / 0

        def fileno(self) -> Any:
            return {"closed": -1, "file": own.fileno()}.get(kind) or 1 // 0

        def ready(self, patience: float) -> bytes:
            assert not patience
            return self._blocks.pop(0) if len(self._blocks) > 1 else b""  # type: ignore[return-value]

    with Path(__file__).open("rb") as own:
        body = Broken(first, b"never")
        running = run_app(
            lambda environ, start_response: (
                app_of(body) if environ["PATH_INFO"] == "/broken" else body_app(b"plain")
            )(environ, start_response)
        )
        running.app.blocks = lambda environ: False
        with running.connect() as client, running.connect() as other:
            client.request("GET", "/broken")
            status = client.read_head().status
            if first:
                assert client.read_chunk() == first
                assert client.socket.recv(1) == b""
            assert other.exchange("GET", "/").body == b"plain"
    assert status == (200 if first else 500)
    assert len(body.closed_by) == 1
    assert "failed" in caplog.text
