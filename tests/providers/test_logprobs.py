"""Log probabilities of long answers are forwarded unchanged and take little memory."""

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

#: The memory that the values may take beside the text, as documented.
ROOM = 8 * 1024 * 1024
EVENTS = (
    b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nConnection: close\r\n\r\n"  # until EOF
)
#: A string whose characters take four bytes each.
WIDE = '"\U0001f600 as wide as it may be"'.encode()
USAGE = {"prompt_tokens": 1, "completion_tokens": 1, "total_tokens": 2}


def tokens(count: int, top: int) -> list[Any]:
    """Return the log probabilities of *count* tokens, each with *top* alternatives."""
    word = 'caf\u00e9 \\"] \U0001f600'
    one = {"token": word, "logprob": -0.25, "bytes": [99, 97, 102, 195, 169]}
    return [{**one, "top_logprobs": [one] * top}] * count


def encode(value: Any, **how: Any) -> bytes:
    return json.dumps(value, **{"separators": (",", ":"), **how}).encode()


def completion(values: Any, **more: Any) -> dict[str, Any]:
    message = {"role": "assistant", "content": 'a "logprobs":[1] b', **more}
    choice = {"index": 0, "message": message, "finish_reason": "stop", "logprobs": values}
    head = {"id": "c", "object": "chat.completion", "created": 1, "model": "m"}
    return {**head, "choices": [choice], "usage": USAGE}


def response(values: Any) -> dict[str, Any]:
    part = {"type": "output_text", "text": '"logprobs":[1]', "annotations": [], "logprobs": values}
    item = {"type": "message", "id": "m", "role": "assistant", "content": [part]}
    return {"id": "r", "object": "response", "model": "m", "output": [item], "usage": None}


def client_answer(api: str, answer: bytes, stream: bool = False) -> bytes:
    """Return the client's answer if the upstream sends *answer* to a request of *api*."""
    body: dict[str, Any] = {"model": "m", "stream": stream}
    body |= (
        {"input": "hi"} if api == "responses" else {"messages": [{"role": "user", "content": "hi"}]}
    )
    request = load(api).read(encode(body))
    with RawServer.playing(answer) as upstream:
        options = {"api_key": "k", "base_url": upstream.url, "apis": "chat, responses"}
        provider = provider_class("openai")("up", options, Settings())
        reply = provider.answer(request, load(api).writer(request))
        return read_reply(provider, reply)


@pytest.mark.parametrize("how", [{}, {"ensure_ascii": False}, {"indent": 1}], ids=str)
def test_forwards_a_plain_answer_byte_for_byte(how: dict[str, Any]) -> None:
    body = encode(completion({"content": tokens(2_500, 20), "refusal": None}), **how)
    assert client_answer("chat", sized(body)) == body


def test_a_repaired_plain_answer_keeps_its_logprobs() -> None:
    sent = completion({"refusal": [], "content": tokens(2_500, 20)})
    del sent["object"]
    received = json.loads(client_answer("chat", sized(encode(sent))))
    assert received == {**sent, "object": "chat.completion"}


def test_forwards_a_response_byte_for_byte() -> None:
    body = encode(response(tokens(2_500, 20)))
    assert client_answer("responses", sized(body)) == body


def test_forwards_events_of_a_response_byte_for_byte() -> None:
    events = [
        {"type": "response.created", "sequence_number": 0, "response": response([])},
        {
            "type": "response.completed",
            "sequence_number": 1,
            "response": {**response(tokens(2_500, 20)), "status": "completed"},
        },
    ]
    sent = b"".join(sse.frame(encode(one), event=str(one["type"])) for one in events)
    assert client_answer("responses", EVENTS + sent, stream=True) == sent


def test_a_chat_event_keeps_its_logprobs() -> None:
    chunk = completion({"content": tokens(2_500, 20)})
    choice = chunk["choices"][0]
    choice["delta"] = choice.pop("message")
    sent = sse.frame(encode({**chunk, "object": "chat.completion.chunk"}))
    relay = EventRelay(Normaliser(1), include_usage=True)
    received = [json.loads(one[6:]) for one in relay.receive_data(sent).split(b"\n\n")[:-1]]
    (found,) = [one["logprobs"] for chunk in received for one in chunk["choices"] if one["delta"]]
    assert found == choice["logprobs"]


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
def test_rejects_logprobs_that_are_not_json(broken: Callable[[bytes], bytes]) -> None:
    body = encode(completion({"content": tokens(300, 20)}))
    changed = broken(body)
    assert changed != body
    short, marks = logprobs.shorten(changed)
    assert (bytes(short), marks) == (changed, {})
    with pytest.raises(UpstreamInvalid):
        client_answer("chat", sized(changed))


def test_ignores_logprobs_inside_strings() -> None:
    inside = encode({"logprobs": tokens(300, 20)}).decode()
    call = {"id": "t", "type": "function", "function": {"name": "f", "arguments": inside}}
    body = encode(completion(None, tool_calls=[call], reasoning_content=inside))
    assert logprobs.shorten(body) == (body, {})


def test_log_probabilities_in_arguments_are_part_of_their_text() -> None:
    given = {"logprobs": tokens(300, 20)}
    call = {"id": "t", "type": "function", "function": {"name": "f", "arguments": given}}
    document = json.loads(client_answer("chat", sized(encode(completion(None, tool_calls=[call])))))
    (made,) = document["choices"][0]["message"]["tool_calls"]
    assert json.loads(made["function"]["arguments"]) == given


def test_a_window_may_end_anywhere() -> None:
    value = {"x": "y" * 100, "logprobs": [{"a": " "}, *tokens(60, 20), 12.5e3, None, "\\"]}
    for how in ({}, {"ensure_ascii": False}, {"indent": 1}):
        body = encode([value, value], **how)
        short, marks = logprobs.shorten(body)
        assert len(marks) == 2
        assert len(short) < 1_000
        assert len(parse_json(bytes(short))[0]["logprobs"]) == 1
        assert restore(bytes(short), marks) == body


@pytest.mark.parametrize("make", [completion, response])
def test_parsing_logprobs_takes_little_memory(make: Callable[[Any], Any]) -> None:
    values = tokens(2_500, 20)
    body = encode(make(values if make is response else {"content": values}))
    marks: Marks = {}
    with traced() as memory:
        short = long.shorten(body, marks) if make is completion else None
        if short is None:
            short = logprobs.shorten_into(marks, body)
        parse_json(short, most_values(short))
    assert memory.peak < 2 * 1024 * 1024
    assert restore(short, marks) == body


@pytest.mark.parametrize("one", [b"{}", b"1234"])
def test_elements_of_any_kind_take_little_memory(one: bytes) -> None:
    body = b'{"logprobs":[' + one + (b"," + one) * 90_000 + b"]}"
    with traced() as memory:
        short, marks = logprobs.shorten(body)
    assert memory.peak < 4 * len(body) + ROOM / 4
    assert restore(bytes(short), marks) == body


def test_too_many_elements_are_not_set_aside() -> None:
    body = b'{"logprobs":[],"choices":[{"logprobs":{"content":[0' + b",0" * 100_001 + b"]}}]}"
    assert logprobs.shorten(body) == (body, {})


@pytest.mark.parametrize("one", [b'{"a":1}', b"1.5"])
def test_limits_the_number_of_other_values(one: bytes) -> None:
    """The allowed number takes less than four times their bytes and ROOM; more are rejected."""
    end = encode(completion(None))

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
    assert client_answer("chat", sized(body)) == body
    with pytest.raises(UpstreamInvalid, match=r"holds more than 3\d,\d{3} values"):
        parse_object(event(50_000)[6:])
