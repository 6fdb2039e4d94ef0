"""500 streams, each cut several times and resumed: no frame is lost or sent twice."""

from __future__ import annotations

import json
import random
import re
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import harness
import requests
from harness import Client, Server, make_app, wait_until
from nightly import examples
from proxy import Proxy

STREAMS = examples(500)
AT_ONCE = 25


def frames_of(client: Client, limit: int) -> list[bytes]:
    """Return up to *limit* frames, fewer if the stream ends; pings are dropped."""
    frames: list[bytes] = []
    while len(frames) < limit:
        frame = client.read_frame()
        if not frame:
            break
        if not frame.startswith(b":"):
            frames.append(frame)
    return frames


def number(frame: bytes) -> int:
    found = re.match(rb"id: (\d+)\ndata: ", frame)
    assert found, frame
    return int(found[1])


def read_with_cuts(
    port: int, body: dict[str, Any], chance: random.Random
) -> tuple[str, list[bytes]]:
    """Stream *body*, cut off up to four times; return the stream's id and all its frames."""
    id, frames, cuts = "", list[bytes](), chance.randint(1, 4)
    while True:
        proxy = Proxy(port) if chance.random() < 0.3 else None
        client = Client(("127.0.0.1", proxy.port if proxy else port))
        if id:
            headers = {"Last-Event-ID": str(number(frames[-1]) if frames else 0)}
            client.request("GET", f"/v1/streams/{id}", headers=headers)
        else:
            client.request("POST", "/v1/chat/completions", body, {"Choreo-Resumable": "1"})
        head = client.read_head()
        assert head.status == 200, client.read_body()
        id = head.headers["choreo-stream-id"]
        frames += frames_of(client, chance.randint(0, 14) if cuts else 1 << 30)
        if proxy:
            proxy.kill()
            client.close()
        elif chance.random() < 0.5:
            client.reset()
        else:
            client.close()
        cuts -= 1
        if cuts < 0 or (frames and frames[-1].endswith(b"data: [DONE]\n\n")):
            return id, frames


def texts(frames: list[bytes]) -> tuple[list[str], dict[str, Any] | None]:
    """Return the text of each choice and the usage."""
    found: dict[int, str] = {}
    usage = None
    for frame in frames:
        data = frame.partition(b"data: ")[2].strip()
        if data == b"[DONE]":
            continue
        chunk = json.loads(data)
        usage = chunk.get("usage") or usage
        for choice in chunk["choices"]:
            piece = choice["delta"].get("content", "")
            found[choice["index"]] = found.get(choice["index"], "") + piece
    return [found[index] for index in sorted(found)], usage


def test_streams_cut_at_random_resume_without_loss(
    serve: Callable[..., Server], replay_url: str
) -> None:
    """With n=2 and usage: the received frames equal the log, and the text is complete."""
    section = {"type": "echo", "delay_ms": "1", "models": "slow"}
    app = make_app({"replay": replay_url, "max_streams": "600"}, {"provider slow": section})
    server = serve(app, threads=3 * AT_ONCE)

    def run(seed: int) -> None:
        chance = random.Random(seed)
        words = [f"w{seed}-{n}é\u2028" for n in range(chance.randint(3, 12))]
        body: dict[str, Any] = {
            "model": "slow",
            "n": 2,
            "stream": True,
            "stream_options": {"include_usage": True},
            "messages": [{"role": "user", "content": " ".join(words)}],
        }
        id, frames = read_with_cuts(server.port, body, chance)
        assert [number(frame) for frame in frames] == list(range(1, len(frames) + 1))
        whole = requests.get(f"{server.url}/v1/streams/{id}", timeout=harness.DEADLINE)
        assert b"".join(frames) == whole.content.replace(b": ping\n", b"")
        text, usage = texts(frames)
        assert text == [" ".join(words)] * 2
        assert usage and usage["completion_tokens"] == 2 * len(words)
        assert frames[-1].endswith(b"data: [DONE]\n\n")

    try:
        with ThreadPoolExecutor(AT_ONCE) as pool:
            list(pool.map(run, range(STREAMS)))
        wait_until(lambda: app.active == 0, "all streams have ended")
    finally:
        app.close()
