"""A backend that does not reply delays only the clients that need it."""

from __future__ import annotations

import hashlib
import select
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import harness
import pytest
from plain_apps import Running
from raw_server import RawServer
from replay_helpers import RedisServer
from wsgi_calls import chat

from choreo_wsgi.app.request import LARGE, while_parsing

CHAT = "/v1/chat/completions"
KEY = "sk-ann"
SECTION = {"digest": hashlib.sha256(KEY.encode()).hexdigest()}
CASES = {
    "limits": ({"requests_per_minute": "9"}, "POST", CHAT, chat("x"), {}),
    "a resumable stream": ({}, "POST", CHAT, chat("x", stream=True), {"Choreo-Resumable": "1"}),
    "reading a stream": ({}, "GET", "/v1/streams/strm_" + "x" * 32, None, {}),
    "a response": ({}, "GET", "/v1/responses/resp_" + "x" * 32, None, {}),
}


@pytest.fixture
def redis(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[RedisServer]:
    """A Redis whose client waits longer than a test."""
    harness.require_tool("redis-server", "redis-server")
    monkeypatch.setattr("choreo_wsgi.replay.redis._TIMEOUT", 2 * harness.DEADLINE)
    server = RedisServer(tmp_path)
    server.start()
    yield server
    assert server.process is not None
    server.process.send_signal(signal.SIGCONT)
    server.stop()


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_serves_others_while_redis_is_stopped(redis: RedisServer, case: Any) -> None:
    limits, method, path, body, more = case
    settings = {"listen": "127.0.0.1:0", "drain_seconds": "0", "replay": redis.url}
    server = Running(harness.make_app(settings, {"key ann": {**SECTION, **limits}}))
    headers = {"Authorization": f"Bearer {KEY}", **more}
    try:
        with server.connect() as slow, server.connect() as quick:
            before = slow.exchange(method, path, body, headers).status
            assert redis.process is not None
            redis.process.send_signal(signal.SIGSTOP)
            slow.request(method, path, body, headers)
            for _ in range(3):
                assert quick.exchange("GET", "/healthz").status == 200
            assert not select.select([slow.socket], [], [], 0)[0]
            redis.process.send_signal(signal.SIGCONT)
            assert slow.read_answer().status == before
    finally:
        assert redis.process is not None
        redis.process.send_signal(signal.SIGCONT)
        server.close()


def test_serves_others_while_provider_lists_models() -> None:
    with RawServer() as upstream:
        section = {"type": "openai", "models": "*", "api_key": "k", "base_url": upstream.url}
        settings = {"listen": "127.0.0.1:0", "drain_seconds": "0"}
        server = Running(harness.make_app(settings, {"provider p": section}))
        try:
            with server.connect() as slow, server.connect() as quick:
                slow.request("GET", "/v1/models")
                peer = upstream.call()
                assert quick.exchange("GET", "/healthz").status == 200
                assert not select.select([slow.socket], [], [], 0)[0]
                peer.close()
                assert slow.read_answer().status == 200
        finally:
            server.close()


def test_serves_others_while_large_request_waits() -> None:
    """Large requests are parsed one at a time, on a thread."""
    server = Running(harness.make_app({"listen": "127.0.0.1:0", "drain_seconds": "0"}))
    try:
        with server.connect() as slow, server.connect() as quick:
            with while_parsing(LARGE + 1):
                slow.request("POST", CHAT, chat("x " * LARGE))
                harness.wait_until(lambda: harness.busy(server.server.carrier.workers), "queued")
                assert quick.exchange("GET", "/healthz").status == 200
            assert slow.read_answer().status == 200
    finally:
        server.close()
