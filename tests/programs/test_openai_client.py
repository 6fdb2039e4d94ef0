"""The current ``openai`` package, unchanged: it streams, raises, and ignores pings."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import openai
import pytest
from launched import Launched, running
from proxy import Proxy
from raw_server import RawServer
from real_server import KEY, Answer, ask, read_event, told_ini

MESSAGES: Any = [{"role": "user", "content": "Hello"}]
RESUMABLE = {"Choreo-Resumable": "1"}

#: Sends a request with one of the package's two clients, and yields the chunks.
Request = Callable[..., Iterator[Any]]


def send_sync(url: str, key: str = "any", **members: Any) -> Iterator[Any]:
    with openai.OpenAI(base_url=f"{url}/v1", api_key=key, max_retries=0) as client:
        yield from client.chat.completions.create(
            messages=MESSAGES, **{"model": "told", "stream": True, **members}
        )


async def _send_async(url: str, key: str, members: dict[str, Any]) -> AsyncIterator[Any]:
    async with openai.AsyncOpenAI(base_url=f"{url}/v1", api_key=key, max_retries=0) as client:
        stream = await client.chat.completions.create(
            messages=MESSAGES, **{"model": "told", "stream": True, **members}
        )
        async with stream:
            async for chunk in stream:
                yield chunk


def send_async(url: str, key: str = "any", **members: Any) -> Iterator[Any]:
    chunks = _send_async(url, key, members)
    with asyncio.Runner() if hasattr(asyncio, "Runner") else _Runner() as runner:
        try:
            while True:
                try:
                    yield runner.run(_next(chunks))
                except StopAsyncIteration:
                    return
        finally:
            runner.run(_close(chunks))


async def _next(chunks: Any) -> Any:
    return await chunks.__anext__()


async def _close(chunks: Any) -> None:
    await chunks.aclose()


class _Runner:
    """Like ``asyncio.Runner``, which exists since Python 3.11."""

    def __enter__(self) -> _Runner:
        self._loop = asyncio.new_event_loop()
        return self

    def run(self, coroutine: Any) -> Any:
        return self._loop.run_until_complete(coroutine)

    def __exit__(self, *exc: object) -> None:
        self._loop.run_until_complete(self._loop.shutdown_asyncgens())
        self._loop.close()


@pytest.fixture(params=[send_sync, send_async], ids=["sync", "async"])
def send(request: pytest.FixtureRequest) -> Request:
    chosen: Request = request.param
    return chosen


def text(chunks: list[Any], index: int = 0) -> str:
    return "".join(
        choice.delta.content or ""
        for chunk in chunks
        for choice in chunk.choices
        if choice.index == index
    )


def test_yields_each_chunk_before_the_next_is_sent(
    server: Launched, answer: Callable[[], Answer], send: Request
) -> None:
    chunks = send(server.url)
    reply: list[Answer] = []
    thread = threading.Thread(target=lambda: reply.append(answer().begin()))
    thread.start()
    first = next(chunks)
    thread.join()
    assert first.choices[0].delta.role == "assistant"
    for word in ("once ", "upon ", "ä 🎈\u2028time"):
        reply[0].say(word)
        assert next(chunks).choices[0].delta.content == word
    reply[0].finish()
    last = next(chunks)
    assert last.choices[0].finish_reason == "stop"
    assert next(chunks, None) is None


def test_streams_two_choices(server: Launched, send: Request) -> None:
    chunks = list(send(server.url, model="echo", n=2))
    assert [text(chunks, 0), text(chunks, 1)] == ["Hello", "Hello"]
    finished = [(c.index, c.finish_reason) for x in chunks for c in x.choices if c.finish_reason]
    assert sorted(finished) == [(0, "stop"), (1, "stop")]


def test_usage_is_sent_only_when_requested(server: Launched, send: Request) -> None:
    """It is in one last chunk without choices."""
    chunks = list(send(server.url, model="echo", stream_options={"include_usage": True}))
    *before, last = chunks
    assert [chunk.usage for chunk in before] == [None] * len(before)
    assert last.choices == []
    assert (last.usage.prompt_tokens, last.usage.completion_tokens) == (1, 1)
    assert all(chunk.usage is None for chunk in send(server.url, model="echo"))


def test_an_error_before_the_stream_raises(
    server: Launched, keyed_server: Launched, send: Request
) -> None:
    with pytest.raises(openai.NotFoundError) as not_found:
        next(send(server.url, model="unknown"))
    assert not_found.value.code == "model_not_found"
    with pytest.raises(openai.AuthenticationError) as unauthorized:
        next(send(keyed_server.url, "wrong"))
    assert unauthorized.value.code == "invalid_api_key"
    assert text(list(send(keyed_server.url, KEY, model="echo"))) == "Hello"
    with pytest.raises(openai.BadRequestError) as bad:
        next(send(server.url, temperature=3))
    assert bad.value.param == "temperature"


def test_error_status_of_the_upstream_raises(
    upstream: RawServer, answer: Callable[[], Answer], send: Request, tmp_path: Path
) -> None:
    """However late it is, unless a heartbeat has begun the stream."""
    thread = threading.Thread(target=lambda: _send_429(answer()))
    thread.start()
    with (
        running(tmp_path, told_ini(upstream, heartbeat_seconds=60)) as patient,
        pytest.raises(openai.RateLimitError) as rate_limited,
    ):
        next(send(patient.url))
    thread.join()
    assert rate_limited.value.response.headers["retry-after"] == "7"
    assert "slow down" in str(rate_limited.value)


def _send_429(answer: Answer) -> None:
    answer.call.head("429 Too Many Requests", "application/json", Retry_After="7")
    answer.call.body(b'{"error":{"message":"slow down","type":"x","param":null,"code":"x"}}')
    answer.call.end()


def test_an_error_in_the_stream_raises(
    server: Launched, answer: Callable[[], Answer], send: Request
) -> None:
    """The answer of a cut upstream never looks complete."""

    def cut() -> None:
        answer().begin().say("once ").call.cut()

    thread = threading.Thread(target=cut)
    thread.start()
    received = []
    with pytest.raises(openai.APIError) as error:
        for chunk in send(server.url):
            received.append(chunk)
    thread.join()
    assert text(received) == "once "
    assert error.value.code == "upstream_truncated"


@pytest.mark.parametrize("headers", [{}, RESUMABLE], ids=["plain", "resumable"])
def test_package_ignores_pings(
    server: Launched, answer: Callable[[], Answer], send: Request, headers: dict[str, str]
) -> None:
    """Three heartbeats of silence before the first word and three within the answer."""
    with Proxy(server.port) as proxy:

        def speak() -> None:
            reply = answer()
            proxy.wait_for_pings(3)
            reply.begin().say("late ")
            proxy.wait_for_pings(6)
            reply.say("but whole")
            reply.finish()

        thread = threading.Thread(target=speak)
        thread.start()
        chunks = list(send(proxy.url, extra_headers=headers))
        thread.join()
    assert text(chunks) == "late but whole"
    assert chunks[-1].choices[0].finish_reason == "stop"
    assert (b"\nid: 1\n" in proxy.seen) is bool(headers)


@pytest.mark.parametrize("headers", [{}, RESUMABLE], ids=["plain", "resumable"])
def test_raw_client_receives_the_pings(
    server: Launched, answer: Callable[[], Answer], headers: dict[str, str]
) -> None:
    with server.connect() as client:
        client.request("POST", "/v1/chat/completions", ask(), headers)
        reply = answer()
        assert client.read_head().status == 200
        assert [client.read_frame() for _ in range(3)] == [b": ping\n"] * 3
        reply.begin()
        event = read_event(client)
        assert isinstance(event, dict) and event["choices"][0]["delta"]["role"] == "assistant"
        assert [client.read_frame() for _ in range(3)] == [b": ping\n"] * 3
        reply.finish()
        frames = iter(client.read_frame, b"")
        last = [frame for frame in frames if frame != b": ping\n"][-1]
        assert last == (b"id: 3\ndata: [DONE]\n\n" if headers else b"data: [DONE]\n\n")


def test_closing_the_stream_cancels_the_generation(
    server: Launched, answer: Callable[[], Answer], send: Request
) -> None:
    chunks = send(server.url)
    reply: list[Answer] = []
    thread = threading.Thread(target=lambda: reply.append(answer().begin()))
    thread.start()
    next(chunks)
    thread.join()
    chunks.close()  # type: ignore[attr-defined]
    assert reply[0].call.is_left()


def test_streams_from_the_local_model(local_server: Launched, send: Request) -> None:
    """Two choices, for the model name of the specification's example."""
    chunks = list(send(local_server.url, model="gpt-4", n=2, max_tokens=12, temperature=0.8))
    assert {chunk.model for chunk in chunks} == {"gpt-4"}
    for index in (0, 1):
        assert text(chunks, index).strip()
    assert len(chunks) > 6
    reasons = {c.index: c.finish_reason for x in chunks for c in x.choices if c.finish_reason}
    assert sorted(reasons) == [0, 1]
    assert set(reasons.values()) <= {"stop", "length"}
