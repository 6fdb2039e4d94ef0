"""500 streams, each cut off several times and resumed: nothing is lost, nothing comes twice."""

from __future__ import annotations

import random
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import harness
import requests
from cutting import number, read_with_cuts, texts
from harness import Server, make_app, wait_until

STREAMS = 500
AT_ONCE = 25


def test_streams_cut_at_random_are_whole(serve: Callable[..., Server], replay_url: str) -> None:
    """With n=2 and usage: the frames that came are those of the log, the text is whole."""
    section = {"type": "echo", "delay_ms": "1", "models": "slow"}
    app = make_app({"replay": replay_url, "max_streams": "600"}, {"provider slow": section})
    server = serve(app, threads=3 * AT_ONCE)

    def one(seed: int) -> None:
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
            list(pool.map(one, range(STREAMS)))
        wait_until(lambda: app.active == 0, "nothing is left running")
    finally:
        app.close()
