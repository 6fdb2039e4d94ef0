"""However large an event is, memory grows by a small multiple of its size."""

from __future__ import annotations

import json
import platform
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from raw_server import Peer, RawServer, chunk, head

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="needs /proc")

SIZE = 7_000_000


def make_calls(count: int, size: int, start: str = "") -> list[dict[str, Any]]:
    """Return *count* tool calls with *size* bytes of arguments each."""
    arguments = json.dumps({"a": start + "x" * size})
    return [
        {
            "index": number,
            "id": f"c{number}",
            "type": "function",
            "function": {"name": "f", "arguments": arguments},
        }
        for number in range(count)
    ]


DELTAS: dict[str, Callable[[int], dict[str, Any]]] = {
    "text": lambda size: {"content": "x" * size},
    "emoji": lambda size: {"content": "\U0001f600" + "x" * size},
    "arguments": lambda size: {"tool_calls": make_calls(1, size)},
    "many calls": lambda size: {"tool_calls": make_calls(500, size // 500)},
    "many emoji": lambda size: {"tool_calls": make_calls(500, size // 500, "\U0001f600")},
}
BODIES = {
    "/v1/responses": {"input": "%s"},
    "/v1/messages": {"max_tokens": 9, "messages": [{"role": "user", "content": "%s"}]},
}


def events(delta: dict[str, Any]) -> bytes:
    made = b""
    reason = "tool_calls" if "tool_calls" in delta else "stop"
    for one, finish in ((delta, None), ({}, reason)):
        choice = {"index": 0, "delta": one, "finish_reason": finish}
        made += b"data: %b\n\n" % json.dumps({"id": "c", "choices": [choice]}).encode()
    return made + b"data: [DONE]\n\n"


@pytest.mark.parametrize(
    ("kind", "path", "stream"),
    [
        ("text", "/v1/responses", True),
        ("emoji", "/v1/responses", False),
        ("arguments", "/v1/responses", True),
        ("arguments", "/v1/messages", False),
        ("many calls", "/v1/responses", True),
        ("many calls", "/v1/messages", False),
        ("many emoji", "/v1/messages", False),
    ],
)
def test_large_event_uses_few_times_its_size(
    command: Callable[..., Any], kind: str, path: str, stream: bool
) -> None:
    sent: list[int] = []

    def answer(peer: Peer) -> None:
        data = events(DELTAS[kind](SIZE if b"large" in peer.request.body else 2000))
        sent.append(len(data))
        peer.send(head("200 OK", "text/event-stream", "Transfer-Encoding: chunked"))
        peer.send(chunk(data) + chunk(b""))

    def exchange(word: str) -> bytes:
        body = json.dumps({"model": "m", "stream": stream, **BODIES[path]}).replace("%s", word)
        with server.connect() as client:
            sender = {"Content-Type": "application/json"}
            return bytes(client.exchange("POST", path, body.encode(), sender).body)

    with RawServer(answer) as upstream:
        server = command(OPENAI_BASE_URL=upstream.base_url, OPENAI_API_KEY="k")
        process = Path(f"/proc/{server.process.pid}")
        exchange("small")
        first, grown = server.resident(), []
        for _ in range(5):
            before = server.resident()
            (process / "clear_refs").write_text("5")  # reset the peak to the current size
            received = exchange("large")
            assert len(received) > SIZE and b"error" not in received[-200:]
            peak = int((process / "status").read_text().partition("VmHWM:")[2].split()[0]) * 1024
            grown.append(peak - before)
        assert max(grown) < 4 * sent[-1]
        # No finished reply stays alive, not even until the next garbage collection.
        assert server.resident() - first < 2 * sent[-1]


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="glibc's allocator")
def test_threads_share_one_heap(command: Callable[..., Any]) -> None:
    """What a thread frees in a heap of its own, no other can use.  glibc reserves 64 MiB for it."""
    server = command(ini="[provider it]\ntype = echo\nmodels = *\n")
    body = {"model": "m", "messages": [{"role": "user", "content": "x" * 100_000}]}
    with server.connect() as client:
        sender = {"Content-Type": "application/json"}
        path = "/v1/chat/completions"
        answer = client.exchange("POST", path, json.dumps(body).encode(), sender)  # on a worker
        assert answer.status == 200
    maps = Path(f"/proc/{server.process.pid}/maps").read_text()
    reserved = re.findall("^([0-9a-f]+)-([0-9a-f]+) ---p 0+ 00:00 0 *$", maps, re.MULTILINE)
    assert max(int(end, 16) - int(start, 16) for start, end in reserved) < 32 * 1024 * 1024
