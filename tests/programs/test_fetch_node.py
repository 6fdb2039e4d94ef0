"""A fetch loop on Node that takes each read for whole frames."""

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


def test_prints_each_word_before_the_next_is_sent(
    server: Launched, answer: Callable[[], Answer]
) -> None:
    with start(server.url, "told", "Hello") as process:
        reply = answer().begin()
        for word in ("once ", "upon ", "ä 🎈"):
            reply.say(word)
            read_printed(process, word)
        reply.finish()
        assert read_rest(process) == ""


def test_prints_all_of_a_fast_answer(server: Launched) -> None:
    """The client reads 64 KiB at a time, and the answer fills one read."""
    text = " ".join(f"wörd{number}🎈" for number in range(250))
    with start(server.url, "paced", text) as process:
        assert read_rest(process) == text


@pytest.mark.parametrize("headers", [{}, {"Choreo-Resumable": "1"}], ids=["plain", "resumable"])
def test_each_chunk_holds_whole_frames(server: Launched, headers: dict[str, str]) -> None:
    """However fast the frames are, no chunk begins or ends within one."""
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


def test_prints_the_local_models_answer(local_server: Launched) -> None:
    with start(local_server.url, "gpt-4", "Say hello.") as process:
        assert read_rest(process).strip()
