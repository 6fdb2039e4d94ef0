"""Lanes: the loop forwards similar events unchanged, counts them and applies back-pressure.

Each event is sent after the previous one was received, so each is one chunk in one read.
"""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Iterator
from types import FrameType
from typing import Any

import harness
import pytest
from harness import wait_until
from plain_apps import Running
from raw_server import RawServer
from test_metrics_served import scrape

from choreo_wsgi import sse
from choreo_wsgi.providers.openai.lane import Lane
from choreo_wsgi.serve.channel import Channel

BODY = {"model": "m", "stream": True, "messages": [{"role": "user", "content": "x"}]}


def event(text: str, reason: str | None = None) -> dict[str, Any]:
    choice = {"index": 0, "delta": {"content": text}, "finish_reason": reason}
    return {
        "id": "c",
        "object": "chat.completion.chunk",
        "created": 1,
        "model": "m",
        "choices": [choice],
    }


class Served:
    """A server in a thread; *passed* has the results of all calls of ``Lane.forward``."""

    def __init__(self, upstream: RawServer) -> None:
        self.passed: list[Any] = []
        section = {"type": "openai", "base_url": upstream.base_url, "api_key": "k", "models": "m"}
        settings = {"listen": "127.0.0.1:0", "metrics": "true", "drain_seconds": "0"}
        app = harness.make_app(settings, {"provider up": section})
        threading.setprofile(self._watch)
        try:
            self.running = Running(app)
        finally:
            threading.setprofile(None)  # type: ignore[arg-type]

    def _watch(self, frame: FrameType | None, kind: str, result: Any) -> None:
        if kind == "return" and frame is not None and frame.f_code is Lane.forward.__code__:
            self.passed.append(result)

    @property
    def connection(self) -> Channel:
        (one,) = self.running.server.connections
        return one


@pytest.fixture
def upstream() -> Iterator[RawServer]:
    with RawServer() as one:
        yield one


@pytest.fixture
def served(upstream: RawServer) -> Iterator[Served]:
    one = Served(upstream)
    yield one
    one.running.close()


def test_lane_forwards_events_unchanged_and_counts_them(
    served: Served, upstream: RawServer
) -> None:
    words = [f"w{number}" for number in range(20)]
    with served.running.connect() as client:
        client.request("POST", "/v1/chat/completions", BODY)
        peer = upstream.call()
        peer.head()
        for number, word in enumerate(words):
            peer.frame(event(word))
            if not number:
                client.read_head()
            assert client.read_json()["choices"][0]["delta"]["content"] == word
        passed = served.passed.count(True)
        peer.frame(event("", "stop"))
        assert client.read_json()["choices"][0]["finish_reason"] == "stop"
        peer.end()
        assert client.read_frame() == sse.DONE
        assert client.read_frame() == b""
    assert passed >= len(words) - 5, "only the first few set up the lane"
    metrics = scrape(served.running)
    assert metrics["choreo_frames_total",] == len(words) + 2
    assert metrics["choreo_frame_gap_seconds_count",] == len(words) + 1
    assert metrics["choreo_loop_lag_seconds",] > 0


def test_http_1_0_client_receives_events_without_chunks(
    served: Served, upstream: RawServer
) -> None:
    body = json.dumps(BODY).encode()
    head = "POST /v1/chat/completions HTTP/1.0\r\nHost: localhost\r\n"
    head += f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
    with served.running.connect() as client:
        client.send(head.encode() + body)
        peer = upstream.call()
        peer.head()
        for number in range(12):
            peer.frame(event(f"w{number}"))
            if not number:
                client.read_head()
            assert client.read_json()["choices"][0]["delta"]["content"] == f"w{number}"
        peer.reset()


def test_client_that_does_not_read_pauses_its_lane(served: Served, upstream: RawServer) -> None:
    """It receives everything once it reads; nothing more is read from the provider meanwhile."""
    sent = []
    with served.running.connect() as client:
        client.request("POST", "/v1/chat/completions", BODY)
        peer = upstream.call()
        for sock, buffer in (
            (client.socket, socket.SO_RCVBUF),
            (served.connection.socket, socket.SO_SNDBUF),
        ):
            sock.setsockopt(socket.SOL_SOCKET, buffer, 4096)
        peer.head()
        while not served.connection.unsent:
            calls = len(served.passed)
            sent.append(f"{len(sent):06}" + "x" * 1000)
            peer.frame(event(sent[-1]))
            if len(sent) == 1:
                client.read_head()
            if len(sent) <= 8:  # from which the server learns the pattern
                assert client.read_json()["choices"][0]["delta"]["content"] == sent[-1]
            else:
                wait_until(lambda: len(served.passed) > calls, "the event is forwarded")  # noqa: B023
        calls = len(served.passed)
        peer.frame(event("", "stop"))
        peer.end()
        with served.running.connect() as other:
            assert other.exchange("GET", "/healthz").status == 200
        assert len(served.passed) == calls
        received = [client.read_json()["choices"][0]["delta"]["content"] for _ in sent[8:]]
        assert received == sent[8:]
        assert client.read_json()["choices"][0]["finish_reason"] == "stop"
        assert client.read_frame() == sse.DONE
    assert False in served.passed, "one event did not fit"


def test_upstream_reset_in_lane_ends_stream_with_error(served: Served, upstream: RawServer) -> None:
    with served.running.connect() as client:
        client.request("POST", "/v1/chat/completions", BODY)
        peer = upstream.call()
        peer.head()
        for number in range(8):
            peer.frame(event("a"))
            if not number:
                client.read_head()
            client.read_frame()
        assert served.passed[-1] is True
        peer.reset()
        assert client.read_json()["error"]["code"] == "upstream_truncated"
        assert client.read_frame() == b""
