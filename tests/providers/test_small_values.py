"""A body of many small values takes at most four times its bytes and a fixed amount."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
from adapter_requests import MODELS
from work import traced

from choreo_wsgi.apis import load
from choreo_wsgi.errors import InvalidRequest
from choreo_wsgi.providers.http import HTTPProvider
from choreo_wsgi.providers.registry import provider_class
from choreo_wsgi.settings import Settings

#: The memory that the values may take beside the text, as documented.
ROOM = 8 * 1024 * 1024
USER = {"role": "user", "content": "hi"}


def tool_round(api: str, at: int) -> list[Any]:
    """Return a short call and its result."""
    id, found = f"t{at}", f"o{at}"
    if api == "responses":
        called = {"type": "function_call", "call_id": id, "name": "f", "arguments": "{}"}
        return [called, {"type": "function_call_output", "call_id": id, "output": found}]
    if api == "chat":
        call = {"id": id, "type": "function", "function": {"name": "f", "arguments": "{}"}}
        message = {"role": "assistant", "content": None, "tool_calls": [call]}
        return [message, {"role": "tool", "tool_call_id": id, "content": found}]
    use = {"type": "tool_use", "id": id, "name": "f", "input": {"a": "b"}}
    result = {"type": "tool_result", "tool_use_id": id, "content": found}
    return [{"role": "assistant", "content": [use]}, {"role": "user", "content": [result]}]


def turn(api: str, at: int) -> list[Any]:
    """Return a turn whose text is short and wide."""
    return [{"role": "user", "content": f"\U0001f600{at} {'y' * 60}"}]


def tool(api: str, at: int) -> list[Any]:
    """Return a tool of eight parameters."""
    parameters = {f"p{at}{key}": {"type": "string", "title": f"t{at}"} for key in "abcdefgh"}
    schema = {"type": "object", "properties": parameters}
    named: dict[str, Any] = {"name": f"f{at}", "description": "does it"}
    if api == "chat":
        return [{"type": "function", "function": {**named, "parameters": schema}}]
    if api == "responses":
        return [{"type": "function", **named, "parameters": schema}]
    return [{**named, "input_schema": schema}]


def body_of(shape: Callable[[str, int], list[Any]], api: str, values: int) -> bytes:
    """Return a body of *api* of so many *values*."""
    one = json.dumps(shape(api, 0))
    many = [made for at in range(values // (sum(map(one.count, ",[{")))) for made in shape(api, at)]
    name = "input" if api == "responses" else "messages"
    fields = {name: [USER], "tools": many} if shape is tool else {name: [USER, *many]}
    return json.dumps({"model": "m", "max_tokens": 9, **fields}, ensure_ascii=False).encode()


@pytest.mark.parametrize("api", ["chat", "responses", "messages"])
@pytest.mark.parametrize("shape", [tool_round, turn, tool])
def test_many_small_values_take_little_memory(
    shape: Callable[[str, int], list[Any]], api: str
) -> None:
    """The allowed number, for the provider with the longest names; more are rejected."""
    read = load(api).read
    provider = provider_class("bedrock")("bedrock", {"api_key": "k"}, Settings())
    assert isinstance(provider, HTTPProvider)
    body = body_of(shape, api, 19_900 if shape is turn else 20_000)  # wide texts count as more
    with traced() as memory:
        request = read(body).with_model(MODELS["bedrock"])
        sent = provider.encode(request).pieces
    provider.close()
    assert json.loads(b"".join(sent))
    assert memory.peak + len(body) < 4 * len(body) + ROOM
    with pytest.raises(InvalidRequest, match=r"holds more than \d+,\d{3} values"):
        read(body_of(shape, api, 31_000))


def part(api: str, at: int) -> list[Any]:
    """Return a part of a user's content."""
    return [{"type": "input_text" if api == "responses" else "text", "text": f"{at}{'y' * 80}"}]


def call(api: str, at: int) -> list[Any]:
    """Return a call of an assistant with many of them; Responses has them beside each other."""
    return tool_round(api, at)[0].get("tool_calls") or tool_round(api, at)[0].get("content")


@pytest.mark.parametrize("api", ["chat", "responses", "messages"])
@pytest.mark.parametrize("name", ["anthropic", "gemini", "ollama", "bedrock"])
@pytest.mark.parametrize("shape", [part, call])
def test_thousands_of_parts_of_one_turn_are_encoded_one_by_one(
    shape: Callable[[str, int], list[Any]], name: str, api: str
) -> None:
    many = [one for at in range(3_300) for one in (shape(api, at) or tool_round(api, at)[:1])]
    turn: dict[str, Any] = {"role": "user" if shape is part else "assistant", "content": many}
    if shape is call and api == "chat":
        turn = {"role": "assistant", "content": None, "tool_calls": many}
    turns = many if shape is call and api == "responses" else [turn]
    field = "input" if api == "responses" else "messages"
    fields = {"model": "m", "max_tokens": 9, field: [USER, *turns]}
    body = json.dumps(fields, separators=(",", ":")).encode()
    read = load(api).read
    provider = provider_class(name)(name, {"api_key": "k"}, Settings())
    assert isinstance(provider, HTTPProvider)
    with traced() as memory:
        request = read(body).with_model(MODELS[name])
        sent = provider.encode(request).pieces
    assert memory.peak + len(body) < ROOM
    found = json.loads(b"".join(sent))
    whole = read(body).with_model(MODELS[name]).whole()
    assert found == json.loads(b"".join(provider.encode(whole).pieces))
    assert str(found).count("t3299" if shape is call else "3299yyy") >= (name != "ollama")
    provider.close()


def test_response_repeats_thousands_of_tools_from_one_copy() -> None:
    api = load("responses")
    fields, marks = api.parse(body_of(tool, "responses", 19_000))
    tools = fields["tools"]
    writer = api.writer(api.request(fields, marks))
    assert json.loads(b"".join(writer.ending()))["tools"] == tools
    stream = api.writer(api.request({**fields, "stream": True}, marks))
    with traced() as memory:
        created, in_progress = stream.beginning()
    assert memory.peak < 2.5 * len(created)
    for event in (created, in_progress, *stream.ending()):
        assert json.loads(event.partition(b"data: ")[2])["response"]["tools"] == tools
