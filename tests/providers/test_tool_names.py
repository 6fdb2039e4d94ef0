"""Tool names that a provider rejects are changed in requests and restored in answers."""

from __future__ import annotations

import json
import re
from email.message import Message
from typing import Any

import pytest
from adapter_requests import MODELS, request
from aws_events import encode
from corpus_cases import Playback

from choreo_wsgi.apis.chat import ChunkWriter, Identity
from choreo_wsgi.providers.registry import provider_class
from choreo_wsgi.settings import Settings

PATTERNS = {
    "anthropic": r"[a-zA-Z0-9_-]{1,128}",
    "bedrock": r"[a-zA-Z0-9_-]{1,64}",
    "gemini": r"[a-zA-Z_][a-zA-Z0-9_.:-]{0,63}",
    "ollama": r"(?s).+",
}
NAMES = ["files.read", "files_read", "mcp:look up", "1st", "-x", "天気", "é" * 64, "a" * 64]


def events(*values: Any) -> bytes:
    return b"".join(b"data: %b\n\n" % json.dumps(value).encode() for value in values)


def calls(type: str, names: list[str]) -> bytes:
    """Return the provider's answer that calls the tools of these *names*."""
    if type == "gemini":
        parts = [{"functionCall": {"name": name, "args": {}}} for name in names]
        return events({"candidates": [{"content": {"parts": parts}, "finishReason": "STOP"}]})
    if type == "ollama":
        called = [{"function": {"name": name, "arguments": {}}} for name in names]
        return json.dumps({"message": {"tool_calls": called}, "done": True}).encode()
    if type == "anthropic":
        blocks = [
            {"type": "tool_use", "id": f"t{at}", "name": name} for at, name in enumerate(names)
        ]
        return events(
            *(
                {"type": "content_block_start", "index": at, "content_block": block}
                for at, block in enumerate(blocks)
            ),
            {"type": "message_delta", "delta": {"stop_reason": "tool_use"}},
            {"type": "message_stop"},
        )
    starts = [
        {"contentBlockIndex": at, "start": {"toolUse": {"toolUseId": f"t{at}", "name": name}}}
        for at, name in enumerate(names)
    ]
    sent = [("contentBlockStart", start) for start in starts]
    sent.append(("messageStop", {"stopReason": "tool_use"}))
    return b"".join(
        encode({":message-type": "event", ":event-type": kind}, json.dumps(payload).encode())
        for kind, payload in sent
    )


def offered(type: str, body: Any) -> list[str]:
    """Return the names of the tools in a request."""
    if type == "gemini":
        return [tool["name"] for tool in body["tools"][0]["functionDeclarations"]]
    if type == "bedrock":
        return [tool["toolSpec"]["name"] for tool in body["toolConfig"]["tools"]]
    return [
        tool["name"] if type == "anthropic" else tool["function"]["name"] for tool in body["tools"]
    ]


def exchange(type: str, **more: Any) -> tuple[Any, list[str]]:
    """Return the body sent, and the names of the calls received: the answer calls every tool."""
    provider: Any = provider_class(type)(type, {"api_key": "k"}, Settings())
    provider.close()
    parsed = request(MODELS[type], stream=True, **more)
    playback = provider.client = Playback(200, Message(), [])
    provider.answer(parsed, ChunkWriter(Identity("m"), False)).close()
    body = json.loads(playback.sent[0].body)
    provider.client = Playback(200, Message(), [calls(type, offered(type, body))])
    reply = provider.answer(parsed, ChunkWriter(Identity("m"), False))
    frames = b""
    while not reply.ended:
        frames += reply.receive(0)
    chunks = [json.loads(line[6:]) for line in frames.split(b"\n") if line.startswith(b"data: {")]
    deltas = [choice["delta"] for chunk in chunks for choice in chunk["choices"]]
    made = [call["function"] for delta in deltas for call in delta.get("tool_calls") or ()]
    return body, [function["name"] for function in made if function.get("name")]


def tools(names: list[str]) -> list[Any]:
    return [{"type": "function", "function": {"name": name}} for name in names]


def call(id: str, name: str) -> dict[str, Any]:
    return {"id": id, "type": "function", "function": {"name": name, "arguments": "{}"}}


@pytest.mark.parametrize("type", PATTERNS)
def test_changes_invalid_names_and_restores_them(type: str) -> None:
    body, called = exchange(type, tools=tools(NAMES))
    assert called == NAMES
    sent = offered(type, body)
    assert len(set(sent)) == len(NAMES)
    assert all(re.fullmatch(PATTERNS[type], name) for name in sent)
    assert sent[1] == "files_read"  # a valid name stays


@pytest.mark.parametrize("type", PATTERNS)
def test_history_and_choice_use_the_changed_names(type: str) -> None:
    history = [
        {"role": "user", "content": "hi"},
        {"role": "assistant", "tool_calls": [call("c1", "1 a:b"), call("c2", "gone é")]},
        {"role": "tool", "tool_call_id": "c1", "content": "1"},
        {"role": "tool", "tool_call_id": "c2", "content": "2"},
    ]
    named = {"type": "function", "function": {"name": "1 a:b"}}
    choice = {} if type == "ollama" else {"tool_choice": named}
    body, called = exchange(type, messages=history, tools=tools(["1 a:b"]), **choice)
    assert called == ["1 a:b"]
    text, name = json.dumps(body, ensure_ascii=False), offered(type, body)[0]
    places = {"anthropic": 3, "bedrock": 3, "gemini": 4, "ollama": 3}
    assert text.count(json.dumps(name)) == places[type]
    assert type == "ollama" or not ("a:b" in text or "gone é" in text)


@pytest.mark.parametrize("type", ["anthropic", "bedrock", "gemini"])
def test_allowed_tools_are_found_by_their_original_names(type: str) -> None:
    allowed = {"mode": "auto", "tools": tools(["b b"])}
    choice = {"type": "allowed_tools", "allowed_tools": allowed}
    _, called = exchange(type, tools=tools(["a a", "b b"]), tool_choice=choice)
    assert called == ["b b"]
