"""The fetch loop on Node, which takes whatever a read returns for whole frames."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from pathlib import Path

import harness
import pytest
from launched import Launched
from real_server import Answer, ask, read_printed, read_rest

LOOP = Path(__file__).with_name("web") / "fetch_loop.mjs"


def start(url: str, model: str, prompt: str) -> subprocess.Popen[bytes]:
    node = harness.require_tool("node", "nodejs")
    words = [node, str(LOOP), url, model, prompt]
    return subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE)


def test_streams_by_arrival(server: Launched, answer: Callable[[], Answer]) -> None:
    """Each word is on the screen before the next is said."""
    with start(server.url, "told", "Hello") as process:
        said = answer().begin()
        for word in ("once ", "upon ", "ä 🎈"):
            said.say(word)
            read_printed(process, word)
        said.finish()
        assert read_rest(process) == ""


def test_nothing_is_lost(server: Launched) -> None:
    """As long as the client keeps up: its socket's reads are 64 KiB, of which this fills one."""
    text = " ".join(f"wörd{number}🎈" for number in range(250))
    with start(server.url, "paced", text) as process:
        assert read_rest(process) == text


@pytest.mark.parametrize("headers", [{}, {"Choreo-Resumable": "1"}], ids=["plain", "resumable"])
def test_each_write_is_whole_frames(server: Launched, headers: dict[str, str]) -> None:
    """However fast they come: the server's chunks never begin or end within a frame."""
    text = " ".join(f"wörd{number}🎈" for number in range(2000))
    start = b"id: " if headers else b"data: "
    with server.connect() as client:
        client.request("POST", "/v1/chat/completions", ask(text, model="echo"), headers)
        assert client.read_head().headers["transfer-encoding"] == "chunked"
        chunks = list(iter(client.read_chunk, b""))
    assert len(chunks) > 100
    for chunk in chunks:
        chunk = chunk.removeprefix(b": ping\n")
        assert not chunk or (chunk.startswith(start) and chunk.endswith(b"\n\n"))


def test_the_local_model(local_server: Launched) -> None:
    with start(local_server.url, "gpt-4", "Say hello.") as process:
        assert read_rest(process).strip()
