"""A relayed block passes few functions from the provider's socket to the client's."""

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


def test_relays_block_through_at_most_eight_functions() -> None:
    """The events share no pattern, so no lane forwards them."""
    stacks: list[list[str]] = []

    def watch(frame: FrameType | None, event: str, called: Any) -> None:
        if event != "c_call" or getattr(called, "__name__", "") != "recv":
            return
        stack = []
        while frame is not None:
            if frame.f_code.co_filename.startswith(OURS):
                stack.append(frame.f_code.co_name)
            frame = frame.f_back
        if "_send_next" in stack:  # the function that sends the block
            stacks.append(stack[: stack.index("_send_next")])

    with RawServer() as upstream:
        section = {"type": "openai", "base_url": upstream.base_url, "api_key": "k", "models": "m"}
        app = harness.make_app({"listen": "127.0.0.1:0"}, {"provider up": section})
        threading.setprofile(watch)
        try:
            running = Running(app)
        finally:
            threading.setprofile(None)  # type: ignore[arg-type]
        with running.connect() as client:
            body = {"model": "m", "stream": True, "messages": [{"role": "user", "content": "x"}]}
            client.request("POST", "/v1/chat/completions", body)
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
    blocks = stacks[-15:]  # after the head
    assert [stack[0] for stack in blocks] == ["receive"] * 15
    assert max(map(len, blocks)) <= 8, max(blocks, key=len)
