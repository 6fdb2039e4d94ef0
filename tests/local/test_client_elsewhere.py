"""The client against a server that is not ours: llama.cpp's own."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from pathlib import Path

from choreo_wsgi.local.process import Endpoint, ModelProcess
from choreoai import AsyncChoreoAI, ChoreoAI

MESSAGES = [{"role": "user", "content": "Count to five."}]
DEADLINE = 60.0


def endpoint(process: ModelProcess) -> Endpoint:
    """Return where the model answers, once it does."""
    run = process.run()
    deadline = time.monotonic() + DEADLINE
    while (found := run.wait(0.25)) is None:
        assert time.monotonic() < deadline, "the model does not start"
    return found


def test_streams_from_llama_cpp(start: Callable[..., ModelProcess], model_file: Path) -> None:
    """Sync and async: pieces of text, a finish reason and usage, as its own server says them."""
    where = endpoint(start(model_file, unix=False))
    asked = {
        "model": "any",
        "messages": MESSAGES,
        "max_tokens": 8,
        "temperature": 0,
        "stream_options": {"include_usage": True},
    }
    with ChoreoAI(api_key=where.key, base_url=where.url) as client:
        stream = client.chat.completions.create(**asked, stream=True)
        pieces = list(stream.text)
        final = stream.get_final_completion()
        plain = client.chat.completions.create(**{**asked, "stream_options": None})
    assert len(pieces) > 1
    assert "".join(pieces) == final.choices[0].message.content == plain.choices[0].message.content
    assert final.choices[0].finish_reason == "length"
    assert final.usage.completion_tokens == 8

    async def again() -> str:
        async with AsyncChoreoAI(api_key=where.key, base_url=where.url) as client:
            stream = await client.chat.completions.create(**asked, stream=True)
            return "".join([piece async for piece in stream.text])

    assert asyncio.run(again()) == "".join(pieces)
