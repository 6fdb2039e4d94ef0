"""However large one event is, the process grows by a few times its bytes."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from raw_server import Peer, RawServer, chunk, head

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="needs /proc")

SIZE = 7_000_000


def called(count: int, size: int, start: str = "") -> list[dict[str, Any]]:
    """Return so many calls with *size* bytes of arguments."""
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


SAID: dict[str, Callable[[int], dict[str, Any]]] = {
    "text": lambda size: {"content": "x" * size},
    "emoji": lambda size: {"content": "\U0001f600" + "x" * size},
    "arguments": lambda size: {"tool_calls": called(1, size)},
    "many calls": lambda size: {"tool_calls": called(1000, size // 1000)},
    "many emoji": lambda size: {"tool_calls": called(1000, size // 1000, "\U0001f600")},
}
ASKED = {
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
def test_a_large_event(command: Callable[..., Any], kind: str, path: str, stream: bool) -> None:
    sent: list[int] = []

    def answer(peer: Peer) -> None:
        data = events(SAID[kind](SIZE if b"large" in peer.request.body else 2000))
        sent.append(len(data))
        peer.send(head("200 OK", "text/event-stream", "Transfer-Encoding: chunked"))
        peer.send(chunk(data) + chunk(b""))

    def ask(word: str) -> bytes:
        body = json.dumps({"model": "m", "stream": stream, **ASKED[path]}).replace("%s", word)
        with server.connect() as client:
            sender = {"Content-Type": "application/json"}
            return bytes(client.exchange("POST", path, body.encode(), sender).body)

    with RawServer(answer) as upstream:
        # malloc keeps memory for each thread: in one arena it is not luck which thread works.
        server = command(
            OPENAI_BASE_URL=upstream.base_url, OPENAI_API_KEY="k", MALLOC_ARENA_MAX="1"
        )
        process = Path(f"/proc/{server.process.pid}")
        ask("small")
        first, grown = server.resident(), []
        for _ in range(5):
            before = server.resident()
            (process / "clear_refs").write_text("5")  # the most so far is what there is now
            received = ask("large")
            assert len(received) > SIZE and b"error" not in received[-200:]
            most = int((process / "status").read_text().partition("VmHWM:")[2].split()[0]) * 1024
            grown.append(most - before)
        assert max(grown) < 4 * sent[-1]
        # Nothing holds an answer that is over, if only until the next look for cycles.
        assert server.resident() - first < 4 * sent[-1]
