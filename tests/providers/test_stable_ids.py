"""All chunks of a stream have the same id and time, whatever the provider sends."""

from __future__ import annotations

import json

import pytest

from choreo_wsgi import sse
from choreo_wsgi.chat.normalise import Normaliser
from choreo_wsgi.providers.openai.relay import EventRelay


def chunk(number: int, delta: dict[str, str], reason: str | None = None) -> bytes:
    body = {
        "choices": [{"index": 0, "delta": delta, "finish_reason": reason}],
        "created": 1700000000 + number // 3,  # increases, as llama.cpp's does
        "id": f"chatcmpl-{number // 5}",
        "model": "m",
        "object": "chat.completion.chunk",
    }
    return b"data: " + json.dumps(body, separators=(",", ":")).encode() + b"\n\n"


@pytest.mark.parametrize("size", [1, 400, 100_000])
def test_chunks_keep_the_first_id_and_time(size: int) -> None:
    texts = [f"word {number}" for number in range(40)]
    body = chunk(0, {"role": "assistant", "content": ""})
    body += b"".join(chunk(number, {"content": text}) for number, text in enumerate(texts))
    body += chunk(50, {}, "stop") + b"data: [DONE]\n\n"
    relay = EventRelay(Normaliser())
    out = b"".join(relay.receive_data(body[at : at + size]) for at in range(0, len(body), size))
    out += relay.end()
    chunks = [json.loads(event.data) for event in sse.Decoder().receive_data(out)]
    assert {(one["id"], one["created"]) for one in chunks} == {("chatcmpl-0", 1700000000)}
    assert [one["choices"][0]["delta"].get("content", "") for one in chunks[1:-1]] == texts
    assert chunks[-1]["choices"][0]["finish_reason"] == "stop"
