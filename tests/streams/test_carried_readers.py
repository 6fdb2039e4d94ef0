"""Live readers of a log in memory: the loop carries them without threads."""

from __future__ import annotations

import os
import select
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace
from typing import Any

import harness
import pytest
from plain_apps import Running
from raw_server import Peer, RawServer, chunk, head
from replay_helpers import in_memory

from choreo_wsgi.replay import Store
from choreo_wsgi.replay import reader as replay_reader
from choreo_wsgi.replay.reader import Wake
from choreo_wsgi.streams.recording import LOOK, Playback, Recording
from choreo_wsgi.streams.stream import Control

READERS = 30
EVENT = (
    b'data: {"id":"c","object":"chat.completion.chunk","created":1,"model":"m","choices":'
    b'[{"index":0,"delta":{"content":"%d"},"finish_reason":%b}]}\n\n'
)


def test_readers_use_no_thread() -> None:
    more = threading.Event()

    def answer(peer: Peer) -> None:
        peer.send(head("200 OK", "text/event-stream", "Transfer-Encoding: chunked"))
        peer.send(chunk(EVENT % (1, b"null")))
        more.wait(harness.DEADLINE)
        peer.send(chunk(EVENT % (2, b'"stop"') + b"data: [DONE]\n\n") + chunk(b""))

    provider = RawServer(answer)
    up = {"type": "openai", "base_url": provider.base_url, "api_key": "k", "models": "m"}
    settings = {"listen": "127.0.0.1:0", "drain_seconds": "0"}
    served = Running(harness.make_app(settings, {"provider up": up}))
    body = b'{"model":"m","stream":true,"messages":[{"role":"user","content":"x"}]}'
    fields = {"Content-Type": "application/json", "Choreo-Resumable": "1"}
    readers = []
    try:
        with served.connect() as client:
            client.request("POST", "/v1/chat/completions", body, fields)
            location = client.read_head().headers["content-location"]
            first = client.read_frame()
            before = threading.active_count()
            for _ in range(READERS):
                readers.append(served.connect())
                readers[-1].request("GET", location)
            for reader in readers:
                assert reader.read_head().status == 200
                assert reader.read_frame() == first
            assert threading.active_count() <= before + 2
            more.set()
            rest = client.read_body()
            for reader in readers:
                assert reader.read_body() == rest
            assert rest.endswith(b"data: [DONE]\n\n")
    finally:
        more.set()
        for reader in readers:
            reader.close()
        served.close()
        provider.__exit__(None, None, None)


def readable(descriptor: int) -> bool:
    return bool(select.select([descriptor], [], [], 0)[0])


def store() -> Store:
    return in_memory(ttl=60, stream_bytes=10_000, total_bytes=100_000)


def test_reader_descriptor_is_readable_while_log_has_news() -> None:
    """Closing the reader frees it, even while another thread waits for the reader."""
    logs = store()
    writer = logs.create("o").writer
    assert writer is not None
    reader = logs.read(writer.id, "o")
    descriptor = reader.fileno()
    assert descriptor is not None and descriptor == reader.fileno()
    assert readable(descriptor)
    assert reader.receive(0) == b"" and not readable(descriptor)
    writer.append(b"id: 1\ndata: a\n\n", 1)
    assert readable(descriptor)
    assert reader.receive(0) == b"id: 1\ndata: a\n\n"
    assert not readable(descriptor)
    with ThreadPoolExecutor() as pool:
        waiting = pool.submit(reader.receive, 60)
        harness.wait_until(waiting.running, "the other thread waits")
        reader.close()
        assert waiting.result(harness.DEADLINE) == b""
    with pytest.raises(OSError):
        os.fstat(descriptor)
    assert reader.fileno() is None
    reader.close()
    writer.append(b"", 0, end=True)
    logs.close()


@pytest.mark.parametrize("kind", [Playback, Recording])
def test_silent_stream_is_polled_later_not_at_once(
    kind: type, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Otherwise the carrier would busy-loop; and nothing is logged."""
    logs = store()
    writer = logs.create("o").writer
    assert writer is not None
    monkeypatch.setattr(type(writer), "append", lambda *_, **__: pytest.fail("it is logged"))
    silence: Any = SimpleNamespace(receive=lambda _: b"", fileno=lambda: 3, due=None, ended=False)
    carried = (
        Playback(logs.read(writer.id, "o"), Control(), lambda _: None, lambda *_: b"")
        if kind is Playback
        else Recording(silence, writer, lambda _: True)
    )
    first = carried.due
    assert first is not None and first <= time.monotonic() + LOOK

    def later() -> bool:
        assert carried.receive(0) == b""
        assert carried.due is not None
        return carried.due > first

    harness.wait_until(later, "a poll postpones it")
    carried.close()
    logs.close()


def test_reader_waits_without_a_descriptor(monkeypatch: pytest.MonkeyPatch) -> None:
    class NoWake:
        def __init__(self) -> None:
            raise OSError("no descriptor is left")

    monkeypatch.setattr(replay_reader, "Wake", NoWake)
    logs = store()
    writer = logs.create("o").writer
    assert writer is not None
    reader = logs.read(writer.id, "o")
    assert reader.fileno() is None
    with ThreadPoolExecutor() as pool:
        waiting = pool.submit(reader.receive, 60)
        writer.append(b"id: 1\ndata: a\n\n", 1)
        assert waiting.result(harness.DEADLINE) == b"id: 1\ndata: a\n\n"
    reader.close()
    logs.close()


def test_wake_is_readable_from_set_to_clear() -> None:
    wake = Wake()
    for _ in range(3):
        wake.set()
        wake.set()
        assert readable(wake.fileno())
        wake.clear()
        wake.clear()
        assert not readable(wake.fileno())
    wake.close()
