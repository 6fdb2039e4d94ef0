"""A block of a relayed stream goes straight from the provider's socket to the client's."""

from __future__ import annotations

import threading
from pathlib import Path
from types import FrameType
from typing import Any

import harness
from plain_apps import Running
from raw_server import RawServer

import choreo_wsgi

OURS = str(Path(choreo_wsgi.__file__).parent)


def test_at_most_eight_functions_stand_between() -> None:
    """No event follows a pattern: each goes the whole way, and none the short one."""
    ways: list[list[str]] = []

    def watch(frame: FrameType | None, event: str, called: Any) -> None:
        if event != "c_call" or getattr(called, "__name__", "") != "recv":
            return
        way = []
        while frame is not None:
            if frame.f_code.co_filename.startswith(OURS):
                way.append(frame.f_code.co_name)
            frame = frame.f_back
        if "_send_next" in way:  # which sends what it was given
            ways.append(way[: way.index("_send_next")])

    with RawServer() as upstream:
        section = {"type": "openai", "base_url": upstream.base_url, "api_key": "k", "models": "m"}
        app = harness.make_app({"listen": "127.0.0.1:0"}, {"provider up": section})
        threading.setprofile(watch)
        try:
            running = Running(app)
        finally:
            threading.setprofile(None)  # type: ignore[arg-type]
        with running.connect() as client:
            asked = {"model": "m", "stream": True, "messages": [{"role": "user", "content": "x"}]}
            client.request("POST", "/v1/chat/completions", asked)
            peer = upstream.call()
            peer.head()
            for number in range(20):
                choice = {"index": 0, "delta": {"content": "a"}, "finish_reason": None}
                peer.frame({"id": "c", "object": "chat.completion.chunk", "created": 1,
                            "model": "m", "choices": [choice], f"x{number}": number})  # fmt: skip
                if not number:
                    client.read_head()
                while f'"x{number}"'.encode() not in client.read_chunk():
                    pass
            peer.reset()
        running.close()
    blocks = ways[-15:]  # behind the head
    assert [way[0] for way in blocks] == ["receive"] * 15
    assert max(map(len, blocks)) <= 8, max(blocks, key=len)
