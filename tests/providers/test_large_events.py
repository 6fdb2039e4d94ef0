"""A large event is parsed in a blocking read, not in the thread that carries all streams."""

from __future__ import annotations

import gzip
import json
import select
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from aws_events import encode
from harness import DEADLINE
from raw_server import RawServer, chunked, sized

from choreo_wsgi.apis import load
from choreo_wsgi.chat.items import Delta, Finish
from choreo_wsgi.chat.source import Reply
from choreo_wsgi.providers.openai.chunks import OpenAITranslator
from choreo_wsgi.providers.registry import provider_class
from choreo_wsgi.providers.translating import MAX_BATCH
from choreo_wsgi.settings import Settings
from choreo_wsgi.streams.carrier import Carrier
from choreo_wsgi.streams.load import Load
from choreo_wsgi.streams.workers import Workers

LARGE = "x" * 500_000


def events(*values: Any) -> bytes:
    return b"".join(b"data: %b\n\n" % json.dumps(value).encode() for value in values)


def chat(text: str) -> bytes:
    frame = {"id": "c", "object": "chat.completion.chunk", "created": 1, "model": "m"}
    first = {"index": 0, "delta": {"role": "assistant", "content": text}, "finish_reason": None}
    last = {"index": 0, "delta": {}, "finish_reason": "stop"}
    return events(*({**frame, "choices": [one]} for one in (first, last))) + b"data: [DONE]\n\n"


def document(text: str) -> bytes:
    message = {"role": "assistant", "content": text}
    choice = {"index": 0, "message": message, "finish_reason": "stop"}
    return json.dumps({"id": "c", "created": 1, "model": "m", "choices": [choice]}).encode()


def claude(text: str) -> bytes:
    sent: list[dict[str, Any]] = [
        {"type": "message_start", "message": {"id": "m", "model": "m", "usage": {}}},
        {"type": "content_block_start", "index": 0, "content_block": {"type": "text", "text": ""}},
        {
            "type": "content_block_delta",
            "index": 0,
            "delta": {"type": "text_delta", "text": text},
        },
        {"type": "content_block_stop", "index": 0},
        {"type": "message_delta", "delta": {"stop_reason": "end_turn"}, "usage": {}},
        {"type": "message_stop"},
    ]
    return b"".join(b"event: %b\n" % one["type"].encode() + events(one) for one in sent)


def gemini(text: str) -> bytes:
    part = {"content": {"parts": [{"text": text}]}, "finishReason": "STOP"}
    return events({"candidates": [part]})


def ollama(text: str) -> bytes:
    line = {"message": {"content": text}, "done": True, "done_reason": "stop"}
    return json.dumps(line).encode() + b"\n"


def bedrock(text: str) -> bytes:
    return b"".join(
        encode({":message-type": "event", ":event-type": kind}, json.dumps(value).encode())
        for kind, value in (
            ("contentBlockDelta", {"contentBlockIndex": 0, "delta": {"text": text}}),
            ("messageStop", {"stopReason": "end_turn"}),
        )
    )


Make = Callable[[str], bytes]
STREAMS: list[tuple[str, str, Make]] = [
    ("openai", "chat", chat),
    ("openai", "messages", chat),
    ("anthropic", "messages", claude),
    ("anthropic", "chat", claude),
    ("gemini", "responses", gemini),
    ("ollama", "chat", ollama),
    ("bedrock", "chat", bedrock),
]


@contextmanager
def opened(name: str, api: str, answer: bytes, stream: bool = True) -> Iterator[Reply]:
    body: dict[str, Any] = {"model": "m", "stream": stream, "input": "hi"}
    if api != "responses":
        body = {"model": "m", "stream": stream, "max_tokens": 9}
        body["messages"] = [{"role": "user", "content": "hi"}]
    request = load(api).read(json.dumps(body).encode())
    with RawServer.playing(answer) as upstream:
        options = {"api_key": "k", "base_url": f"http://127.0.0.1:{upstream.port}"}
        provider = provider_class(name)(name, options, Settings())
        reply = provider.answer(request, load(api).writer(request))
        try:
            yield reply
        finally:
            reply.close()
            provider.close()


def read(reply: Reply) -> tuple[bytes, list[int]]:
    """Return the bytes read, and the sizes of the blocks that needed a blocking read."""
    out, blocking = b"", []
    while not reply.ended:
        number, due = reply.fileno(), reply.due
        must_wait = number is None and due is None
        block = reply.receive(DEADLINE if must_wait else 0)
        out += block
        if must_wait:
            blocking.append(len(block))
        elif number is not None and not block:
            select.select([number], [], [], DEADLINE)
    return out, blocking


@pytest.mark.parametrize(("name", "api", "make"), STREAMS)
def test_a_large_event_needs_a_blocking_read(name: str, api: str, make: Make) -> None:
    """A small one does not; of a large one the carrier's thread only receives the bytes."""
    kinds = {"ollama": "application/x-ndjson", "bedrock": "application/vnd.amazon.eventstream"}
    kind = kinds.get(name, "text/event-stream")
    for text in ("x", LARGE):
        with opened(name, api, sized(make(text), kind=kind)) as reply:
            out, blocking = read(reply)
        assert out.count(b"x") >= len(text)
        if text == LARGE:
            assert max(blocking) > 100_000
        else:
            assert not blocking


@pytest.mark.parametrize(
    ("api", "coding"), [("chat", "identity"), ("messages", "identity"), ("chat", "gzip")]
)
def test_many_small_events_need_no_blocking_read(api: str, coding: str) -> None:
    text = {"type": "text_delta", "text": "x" * 300}
    piece = events({"type": "content_block_delta", "index": 0, "delta": text})
    data = claude("x" * 300).replace(
        piece, piece + 1000 * (b"event: content_block_delta\n" + piece)
    )
    body = gzip.compress(data) if coding == "gzip" else data
    kind = f"text/event-stream\r\nContent-Encoding: {coding}"
    with opened("anthropic", api, sized(body, kind=kind)) as reply:
        out, blocking = read(reply)
    assert out.count(b"x") > 300_000 and not blocking


@pytest.mark.parametrize("folded", [False, True])
def test_a_large_document_needs_a_blocking_read(folded: bool) -> None:
    for text in ("x", LARGE):
        made = sized(document(text))
        if folded:
            made = sized(chat(text), kind="text/event-stream")
        with opened("openai", "chat", made, stream=False) as reply:
            out, blocking = read(reply)
        assert json.loads(out)["choices"][0]["message"]["content"] == text
        assert bool(blocking) == (text == LARGE)


def test_a_large_document_for_a_stream_needs_a_blocking_read() -> None:
    with opened("openai", "chat", sized(document(LARGE))) as reply:
        out, blocking = read(reply)
    assert LARGE.encode() in out.replace(b'"},"finish_reason"', b"")
    assert max(blocking) > 100_000


def test_the_carrier_leaves_a_large_event_to_a_worker() -> None:
    """Meanwhile it carries the other streams."""
    threads: list[str] = []
    done = threading.Event()

    class Reading(Load):
        def __init__(self, reply: Reply) -> None:
            super().__init__()
            self.reply = reply
            self.fileno = reply.fileno  # type: ignore[method-assign]

        @property
        def due(self) -> float | None:
            return self.reply.due

        def step(self, patience: float) -> None:
            if len(self.reply.receive(patience)) > 100_000:
                threads.append(threading.current_thread().name)
            self.ended = self.reply.ended

        def release(self) -> None:
            done.set()

    carrier = Carrier(Workers(2))
    with opened("openai", "chat", chunked([chat(LARGE)])) as reply:
        carrier.start()
        try:
            carrier.carry(Reading(reply))
            assert done.wait(DEADLINE)
        finally:
            carrier.close()
    assert threads and "carrier" not in threads


def event_of_many(size: int) -> bytes:
    """Return an event of many calls with long arguments that have one character of four bytes."""
    arguments = json.dumps('{"a":"\U0001f600%s"}' % ("x" * size), ensure_ascii=False)
    calls = ",".join(
        f'{{"index":{at},"id":"c{at}","type":"function","function":'
        f'{{"name":"f","arguments":{arguments}}}}}'
        for at in range(200)
    )
    delta = f'{{"index":0,"delta":{{"tool_calls":[{calls}]}},"finish_reason":null}}'
    return f'data: {{"id":"i","model":"m","choices":[{delta}]}}\n\n'.encode()


@pytest.mark.parametrize("patient", [True, False])
def test_decodes_long_arguments_of_many_calls_in_batches(patient: bool) -> None:
    translator = OpenAITranslator()
    items = translator.receive_data(event_of_many(5_000))
    assert translator.waiting and len(items) < 200
    end = b'data: {"choices":[{"index":0,"delta":{},"finish_reason":"tool_calls"}]}\n\n'
    while patient and translator.waiting:
        more = translator.receive_data(b"")
        assert (
            0 < sum(len(call.arguments) for one in more for call in one.tool_calls) < 2 * MAX_BATCH
        )
        items += more
    items += [*translator.receive_data(end + b"data: [DONE]\n\n"), *translator.end()]
    assert not translator.waiting
    arguments: dict[int, str] = {}
    for item in items:
        for call in item.tool_calls if isinstance(item, Delta) else ():
            arguments[call.index] = arguments.get(call.index, "") + call.arguments
    assert [*arguments] == [*range(200)]
    assert {*arguments.values()} == {'{"a":"\U0001f600%s"}' % ("x" * 5_000)}
    assert isinstance(items[-1], Finish)
