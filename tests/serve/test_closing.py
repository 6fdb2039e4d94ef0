"""What is given back, said and closed at the ends of answers, in order."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from email.utils import parsedate_to_datetime
from typing import Any

import harness
import pytest
from harness import everything, wait_until
from plain_apps import Running, body_app, stream_app

from choreo_wsgi.serve.channel import READ
from choreo_wsgi.streams.poller import IN

RunApp = Callable[..., Running]


class Body:
    """A body of *blocks*, after which ``ready`` raises what is no block; notes who closes it."""

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


def test_a_body_that_fails_before_the_head_is_closed(run_app: RunApp) -> None:
    body = Body(RuntimeError("a bug"))
    with run_app(app_of(body)).connect() as client:
        assert client.exchange("GET", "/").status == 500
    assert len(body.closed_by) == 1


def test_the_loop_sends_the_end_and_closes(run_app: RunApp) -> None:
    """Not the worker that has waited for it: the client's next request would be quicker."""
    body = Body(b"a", b"b")
    running = run_app(app_of(body))
    with running.connect() as client:
        assert client.exchange("GET", "/").body == b"ab"
    wait_until(lambda: body.closed_by, "it is closed")
    assert body.closed_by == [running._thread]


def test_a_body_that_fails_to_close_is_told_of_and_its_connection_ends(
    run_app: RunApp, caplog: pytest.LogCaptureFixture
) -> None:
    with run_app(app_of(Body(b"a", closing=RuntimeError("stuck")))).connect() as client:
        client.request("GET", "/")
        client.read_head()
        assert client.read_body() == b"a"
        assert client.socket.recv(1) == b""
    assert [record.exc_info is not None for record in caplog.records] == [True]
    assert "stuck" in caplog.text and "an answer to / failed" in caplog.text


def test_a_client_that_is_cut_off_is_told_of(
    run_app: RunApp, caplog: pytest.LogCaptureFixture
) -> None:
    """And it is reset, so that nothing is kept for it any more."""
    caplog.set_level(logging.INFO, "choreo_wsgi")

    def endless() -> Iterator[bytes]:
        while True:
            yield b"x" * 100_000

    running = run_app(stream_app(endless()), send_timeout=0.2)
    with running.connect() as client:
        client.request("GET", "/")
        wait_until(lambda: running.server.connections, "it is connected")
        wait_until(lambda: not running.server.connections, "it is cut off")
        assert "a client accepted no byte for 0.2 s and was cut off" in caplog.text
        with pytest.raises(ConnectionResetError):
            while client.socket.recv(1 << 20):
                pass


def test_the_date_is_now(run_app: RunApp) -> None:
    with run_app(body_app(b"x")).connect() as client:
        told = parsedate_to_datetime(client.exchange("GET", "/").headers["date"])
    assert abs(told.timestamp() - time.time()) < 60


def test_a_body_without_a_length_ends_with_an_older_clients_connection(run_app: RunApp) -> None:
    """However much it wants to keep that: it would wait for the end for ever."""
    with run_app(stream_app([b"a", b"b"])).connect() as client:
        client.send(b"GET / HTTP/1.0\r\nConnection: keep-alive\r\n\r\n")
        raw = everything(client)
    assert raw.endswith(b"\r\nConnection: close\r\n\r\nab")


def test_no_more_is_read_than_a_few_requests_ahead(run_app: RunApp) -> None:
    """Who sends on and on beside an answer that waits fills no memory."""
    go = threading.Event()

    def handler(environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        assert go.wait(harness.DEADLINE)
        start_response("200 OK", [])
        return [b"x"]

    running = run_app(handler)
    request = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"
    try:
        with running.connect() as client:
            client.send(request)
            wait_until(lambda: running.server.connections, "it is connected")
            (channel,) = running.server.connections
            client.socket.settimeout(0.0)
            with pytest.raises(BlockingIOError):
                while True:  # until the system keeps no more for us
                    client.socket.send(request * 1000)
            wait_until(lambda: not channel.events & IN, "nothing more is read")
            assert len(channel.requests) <= READ // len(request) + 2
    finally:
        go.set()
