"""The ``choreoai`` client against llama.cpp's own server."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from pathlib import Path

from choreo_wsgi.local.process import Endpoint, ModelProcess
from choreoai import AsyncChoreoAI, ChoreoAI

MESSAGES = [{"role": "user", "content": "Count to five."}]
DEADLINE = 60.0


def wait_ready(process: ModelProcess) -> Endpoint:
    """Return the endpoint of the model process once it is ready."""
    run = process.run()
    deadline = time.monotonic() + DEADLINE
    while (endpoint := run.wait(0.25)) is None:
        assert time.monotonic() < deadline, "the model has not started"
    return endpoint


def test_client_streams_from_llama_cpp(
    start: Callable[..., ModelProcess], model_file: Path
) -> None:
    """Sync and async: text, finish reason and usage."""
    endpoint = wait_ready(start(model_file, unix=False))
    arguments = {
        "model": "any",
        "messages": MESSAGES,
        "max_tokens": 8,
        "temperature": 0,
        "stream_options": {"include_usage": True},
    }
    with ChoreoAI(api_key=endpoint.key, base_url=endpoint.url) as client:
        stream = client.chat.completions.create(**arguments, stream=True)
        pieces = list(stream.text)
        final = stream.get_final_completion()
        plain = client.chat.completions.create(**{**arguments, "stream_options": None})
    assert len(pieces) > 1
    assert "".join(pieces) == final.choices[0].message.content == plain.choices[0].message.content
    assert final.choices[0].finish_reason == "length"
    assert final.usage.completion_tokens == 8

    async def stream_async() -> str:
        async with AsyncChoreoAI(api_key=endpoint.key, base_url=endpoint.url) as client:
            stream = await client.chat.completions.create(**arguments, stream=True)
            return "".join([piece async for piece in stream.text])

    assert asyncio.run(stream_async()) == "".join(pieces)
