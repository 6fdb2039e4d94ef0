"""Large requests are in memory once while they wait, and not at all after their answer."""

from __future__ import annotations

import json
import sys
import threading
from collections.abc import Callable
from typing import Any

import pytest
from harness import DEADLINE
from raw_server import Peer, RawServer, answer

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="needs /proc")

COUNT, SIZE = 12, 6_000_000


def body(texts: int) -> bytes:
    turns = [{"role": "user", "content": "x" * (SIZE // texts)} for _ in range(texts)]
    return json.dumps({"model": "m", "stream": True, "messages": turns}).encode()


@pytest.mark.parametrize("texts", [1, 800])
def test_large_requests_that_wait(command: Callable[..., Any], texts: int) -> None:
    waiting, go = threading.Semaphore(0), threading.Event()

    def late(peer: Peer) -> None:
        assert peer.request.json()["messages"][-1]["content"].strip("x") == ""
        waiting.release()
        go.wait(DEADLINE)
        peer.stream(answer("ho"))

    def ask(sent: bytes) -> None:
        with server.connect() as client:
            fields = {"Content-Type": "application/json"}
            got = client.exchange("POST", "/v1/chat/completions", sent, fields)
            assert b"ho" in got.body
            answered.release()

    with RawServer(late) as upstream:
        server = command(OPENAI_BASE_URL=upstream.base_url, OPENAI_API_KEY="k")
        answered = threading.Semaphore(0)
        go.set()
        ask(body(texts))  # what a first large request loads stays
        go.clear()
        waiting.acquire()
        idle, large = server.resident(), body(texts)
        clients = [threading.Thread(target=ask, args=(large,)) for _ in range(COUNT)]
        for one in clients:
            one.start()
        assert all(waiting.acquire(timeout=DEADLINE) for _ in clients)
        meanwhile = server.resident() - idle
        go.set()
        for one in clients:
            one.join()
        assert all(answered.acquire(timeout=0) for _ in clients[1:])
        assert meanwhile < 1.25 * COUNT * SIZE
        assert server.resident() - idle < COUNT * SIZE / 4
