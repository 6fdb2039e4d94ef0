"""Log probabilities of a long answer pass as they came, whatever they hold, and take little."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
from harness import read_reply
from raw_server import RawServer, sized
from work import traced

from choreo_wsgi import sse
from choreo_wsgi.apis import load
from choreo_wsgi.chat.items import Marks
from choreo_wsgi.chat.longtext import restore
from choreo_wsgi.chat.normalise import Normaliser
from choreo_wsgi.errors import UpstreamInvalid
from choreo_wsgi.providers import logprobs
from choreo_wsgi.providers.openai import long
from choreo_wsgi.providers.openai.relay import EventRelay
from choreo_wsgi.providers.reading import most_values, parse_json, parse_object
from choreo_wsgi.providers.registry import provider_class
from choreo_wsgi.settings import Settings

#: What the values may take beside the text: what the documentation says.
ROOM = 8 * 1024 * 1024
EVENTS = (
    b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nConnection: close\r\n\r\n"  # until EOF
)
#: A string whose characters take four bytes each.
WIDE = '"\U0001f600 as wide as it may be"'.encode()
USAGE = {"prompt_tokens": 1, "completion_tokens": 1, "total_tokens": 2}


def tokens(count: int, top: int) -> list[Any]:
    """Return what is told of *count* tokens, each with the *top* likeliest in its place."""
    word = 'caf\u00e9 \\"] \U0001f600'
    one = {"token": word, "logprob": -0.25, "bytes": [99, 97, 102, 195, 169]}
    return [{**one, "top_logprobs": [one] * top}] * count


def written(value: Any, **how: Any) -> bytes:
    return json.dumps(value, **{"separators": (",", ":"), **how}).encode()


def completion(told: Any, **more: Any) -> dict[str, Any]:
    message = {"role": "assistant", "content": 'a "logprobs":[1] b', **more}
    choice = {"index": 0, "message": message, "finish_reason": "stop", "logprobs": told}
    head = {"id": "c", "object": "chat.completion", "created": 1, "model": "m"}
    return {**head, "choices": [choice], "usage": USAGE}


def response(told: Any) -> dict[str, Any]:
    part = {"type": "output_text", "text": '"logprobs":[1]', "annotations": [], "logprobs": told}
    item = {"type": "message", "id": "m", "role": "assistant", "content": [part]}
    return {"id": "r", "object": "response", "model": "m", "output": [item], "usage": None}


def answered(api: str, answer: bytes, stream: bool = False) -> bytes:
    """Return what comes of *answer* to a request of *api*."""
    asked: dict[str, Any] = {"model": "m", "stream": stream}
    asked |= (
        {"input": "hi"} if api == "responses" else {"messages": [{"role": "user", "content": "hi"}]}
    )
    request = load(api).read(written(asked))
    with RawServer.playing(answer) as upstream:
        options = {"api_key": "k", "base_url": upstream.url, "apis": "chat, responses"}
        provider = provider_class("openai")("up", options, Settings())
        reply = provider.answer(request, load(api).writer(request))
        return read_reply(provider, reply)


@pytest.mark.parametrize("how", [{}, {"ensure_ascii": False}, {"indent": 1}], ids=str)
def test_a_plain_answer_passes_byte_for_byte(how: dict[str, Any]) -> None:
    body = written(completion({"content": tokens(2_500, 20), "refusal": None}), **how)
    assert answered("chat", sized(body)) == body


def test_a_plain_answer_that_is_mended_keeps_them() -> None:
    came = completion({"refusal": [], "content": tokens(2_500, 20)})
    del came["object"]
    made = json.loads(answered("chat", sized(written(came))))
    assert made == {**came, "object": "chat.completion"}


def test_a_response_passes() -> None:
    body = written(response(tokens(2_500, 20)))
    assert answered("responses", sized(body)) == body


def test_an_event_of_a_response_passes() -> None:
    told = [
        {"type": "response.created", "sequence_number": 0, "response": response([])},
        {
            "type": "response.completed",
            "sequence_number": 1,
            "response": {**response(tokens(2_500, 20)), "status": "completed"},
        },
    ]
    came = b"".join(sse.frame(written(one), event=str(one["type"])) for one in told)
    assert answered("responses", EVENTS + came, stream=True) == came


def test_an_event_of_chat_passes() -> None:
    chunk = completion({"content": tokens(2_500, 20)})
    choice = chunk["choices"][0]
    choice["delta"] = choice.pop("message")
    came = sse.frame(written({**chunk, "object": "chat.completion.chunk"}))
    relay = EventRelay(Normaliser(1), include_usage=True)
    passed = [json.loads(one[6:]) for one in relay.receive_data(came).split(b"\n\n")[:-1]]
    (told,) = [one["logprobs"] for chunk in passed for one in chunk["choices"] if one["delta"]]
    assert told == choice["logprobs"]


@pytest.mark.parametrize(
    "broken",
    [
        lambda body: body.replace(b"-0.25", b"NaN", 1),
        lambda body: body.replace(b'"token"', b'"to\nken"', 1),
        lambda body: body.replace(b'"token"', b'"to\xffken"', 1),
        lambda body: body.replace(b'"token"', rb'"to\xken"', 1),
        lambda body: body.replace(b"},{", b"},,{", 1),
        lambda body: body.replace(b"}]}]}}],", b"}]},]}}],"),
        lambda body: body.replace(b"[99,", b"[" * 70 + b"99" + b"]" * 70 + b",", 1),
        lambda body: body[: len(body) // 2],
    ],
)
def test_what_is_no_json_is_refused(broken: Callable[[bytes], bytes]) -> None:
    body = written(completion({"content": tokens(300, 20)}))
    changed = broken(body)
    assert changed != body
    short, marks = logprobs.shorten(changed)
    assert (bytes(short), marks) == (changed, {})
    with pytest.raises(UpstreamInvalid):
        answered("chat", sized(changed))


def test_what_a_text_says_of_them_is_no_member() -> None:
    inside = written({"logprobs": tokens(300, 20)}).decode()
    call = {"id": "t", "type": "function", "function": {"name": "f", "arguments": inside}}
    body = written(completion(None, tool_calls=[call], reasoning_content=inside))
    assert logprobs.shorten(body) == (body, {})


def test_those_of_an_object_elsewhere_stay() -> None:
    """Arguments that are an object become a text, in which no mark can stand."""
    call = {"function": {"name": "f", "arguments": {"logprobs": tokens(300, 20)}}}
    body = written(completion(None, tool_calls=[call]))
    marks: Marks = {}
    assert long.shorten(body, marks) == body
    assert not marks


def test_where_a_window_ends_does_not_matter() -> None:
    value = {"x": "y" * 100, "logprobs": [{"a": " "}, *tokens(60, 20), 12.5e3, None, "\\"]}
    for how in ({}, {"ensure_ascii": False}, {"indent": 1}):
        body = written([value, value], **how)
        short, marks = logprobs.shorten(body)
        assert len(marks) == 2
        assert len(short) < 1_000
        assert len(parse_json(bytes(short))[0]["logprobs"]) == 1
        assert restore(bytes(short), marks) == body


@pytest.mark.parametrize("make", [completion, response])
def test_they_take_no_more_than_their_bytes(make: Callable[[Any], Any]) -> None:
    told = tokens(2_500, 20)
    body = written(make(told if make is response else {"content": told}))
    marks: Marks = {}
    with traced() as memory:
        short = long.shorten(body, marks) if make is completion else None
        if short is None:
            short = logprobs.shorten_into(marks, body)
        parse_json(short, most_values(short))
    assert memory.peak < 2 * 1024 * 1024
    assert restore(short, marks) == body


@pytest.mark.parametrize("one", [b"{}", b"1234"])
def test_elements_of_any_kind_take_little(one: bytes) -> None:
    body = b'{"logprobs":[' + one + (b"," + one) * 90_000 + b"]}"
    with traced() as memory:
        short, marks = logprobs.shorten(body)
    assert memory.peak < 4 * len(body) + ROOM / 4
    assert restore(bytes(short), marks) == body


def test_no_more_elements_than_values_are_read() -> None:
    body = b'{"logprobs":[],"choices":[{"logprobs":{"content":[0' + b",0" * 100_001 + b"]}}]}"
    assert logprobs.shorten(body) == (body, {})


@pytest.mark.parametrize("one", [b'{"a":1}', b"1.5"])
def test_values_elsewhere_are_bounded(one: bytes) -> None:
    """As many as may be take less than the room beside four times the bytes; more are refused."""
    end = written(completion(None))

    def event(values: int) -> bytes:
        many = values // (1 + sum(map(one.count, (b"{", b"["))))
        return b'data: {"x":[' + (one + b",") * many + b"1]," + end[1:] + b"\n\n"

    data = event(30_000)
    relay = EventRelay(Normaliser(1))
    with traced() as memory:
        frames = relay.receive_data(data)
    assert one in frames
    assert memory.peak + len(data) < 4 * len(data) + ROOM
    body = data[6:].strip()
    assert answered("chat", sized(body)) == body
    with pytest.raises(UpstreamInvalid, match=r"holds more than 3\d,\d{3} values"):
        parse_object(event(50_000)[6:])
