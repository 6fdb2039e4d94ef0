"""A document that a provider sends in place of a stream is read all the same."""

from __future__ import annotations

import itertools
import json
from typing import Any

import pytest
from adapter_requests import MODELS, request
from corpus_cases import Message, Playback

from choreo_wsgi import sse
from choreo_wsgi.apis import load
from choreo_wsgi.apis.chat import ChunkWriter, Identity
from choreo_wsgi.errors import ChoreoError
from choreo_wsgi.providers import answer as answers
from choreo_wsgi.providers.anthropic.answer import AnthropicTranslator
from choreo_wsgi.providers.registry import provider_class
from choreo_wsgi.settings import Settings

USAGE = {"promptTokenCount": 3, "candidatesTokenCount": 4, "totalTokenCount": 7}
MESSAGE = {
    "id": "msg_1",
    "type": "message",
    "role": "assistant",
    "model": "claude",
    "content": [
        {"type": "thinking", "thinking": "Hm.", "signature": "sig"},
        {"type": "text", "text": "Héllo"},
        {"type": "tool_use", "id": "toolu_1", "name": "look", "input": {"at": [1]}},
        {"type": "tool_use", "id": "toolu_2", "name": "wait", "input": {}},
    ],
    "stop_reason": "tool_use",
    "stop_sequence": None,
    "usage": {"input_tokens": 3, "output_tokens": 4},
}
PARTS = [
    {"text": "Hm.", "thought": True},
    {"text": "Héllo"},
    {"functionCall": {"id": "toolu_1", "name": "look", "args": {"at": [1]}}},
    {"functionCall": {"id": "toolu_2", "name": "wait", "args": {}}},
]


def response(parts: list[Any], **more: Any) -> dict[str, Any]:
    return {"candidates": [{"content": {"role": "model", "parts": parts}, **more}]}


WHOLE = {**response(PARTS, finishReason="STOP"), "usageMetadata": USAGE}
ARRAY = [
    *(response([part]) for part in PARTS[:-1]),
    {**WHOLE, **response(PARTS[-1:], finishReason="STOP")},
]
LINE = {
    "message": {
        "role": "assistant",
        "thinking": "Hm.",
        "content": "Héllo",
        "tool_calls": [
            {"id": "toolu_1", "function": {"name": "look", "arguments": {"at": [1]}}},
            {"id": "toolu_2", "function": {"name": "wait", "arguments": {}}},
        ],
    },
    "done": True,
    "done_reason": "stop",
    "prompt_eval_count": 3,
    "eval_count": 4,
}


def answer(
    type: str, body: bytes, piece: int, label: str = "application/json", **more: Any
) -> list[Any]:
    """Return the chunks for *body*, received in pieces of that length."""
    provider: Any = provider_class(type)(type, {"api_key": "k"}, Settings())
    provider.close()
    headers = Message()
    headers["Content-Type"] = label
    pieces = [body[at : at + piece] for at in range(0, len(body), piece)]
    provider.client = Playback(200, headers, pieces)
    model = MODELS[type]
    reply = provider.answer(request(model, stream=True, **more), ChunkWriter(Identity(model), True))
    frames = b""
    while not reply.ended:
        frames += reply.receive(0)
    return [json.loads(line[6:]) for line in frames.split(b"\n") if line.startswith(b"data: {")]


CONVERSE = {
    "output": {
        "message": {
            "role": "assistant",
            "content": [
                {"reasoningContent": {"reasoningText": {"text": "Hm.", "signature": "sig"}}},
                {"text": "Héllo"},
                {"toolUse": {"toolUseId": "t_1", "name": "look", "input": {"at": [1]}}},
                {"toolUse": {"toolUseId": "t_2", "name": "wait", "input": {}}},
            ],
        }
    },
    "stopReason": "tool_use",
    "usage": {"inputTokens": 3, "outputTokens": 4, "totalTokens": 7},
}
DOCUMENTS = [
    ("anthropic", MESSAGE),
    ("bedrock", CONVERSE),
    ("gemini", WHOLE),
    ("gemini", ARRAY),
    ("ollama", LINE),
]


@pytest.mark.parametrize(("piece", "indent"), [(1, 2), (100_000, None)])
@pytest.mark.parametrize(
    ("type", "document"), [*DOCUMENTS, ("ollama", [LINE])], ids=lambda value: type(value).__name__
)
def test_a_document_becomes_a_stream(
    type: str, document: Any, piece: int, indent: int | None
) -> None:
    body = json.dumps(document, ensure_ascii=False, indent=indent).encode()
    chunks = answer(type, body, piece)
    deltas = [choice["delta"] for chunk in chunks for choice in chunk["choices"]]
    calls: dict[int, list[str]] = {}
    for delta in deltas:
        for call in delta.get("tool_calls") or ():
            known = calls.setdefault(call["index"], ["", "", ""])
            known[0] += call.get("id") or ""
            known[1] += call["function"].get("name") or ""
            known[2] += call["function"].get("arguments") or ""
    assert "".join(delta.get("content") or "" for delta in deltas) == "Héllo"
    assert "".join(delta.get("reasoning_content") or "" for delta in deltas) == "Hm."
    assert [call[1:] for call in calls.values()] == [["look", '{"at":[1]}'], ["wait", "{}"]]
    reasons = [choice["finish_reason"] for chunk in chunks for choice in chunk["choices"]]
    assert [reason for reason in reasons if reason] == ["tool_calls"]
    assert chunks[-1]["usage"]["total_tokens"] == 7
    blocks = [delta["thinking_blocks"] for delta in deltas if "thinking_blocks" in delta]
    assert bool(blocks) == (type in ("anthropic", "bedrock"))


def test_reads_a_document_up_to_a_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(answers, "MAX_DOCUMENT", 1000)
    body = json.dumps({**MESSAGE, "padding": "x" * 3000}).encode()
    with pytest.raises(ChoreoError, match="cut off"):
        answer("anthropic", body, 100)


def test_a_document_becomes_events_of_the_messages_api() -> None:
    api = load("messages")
    fields = {"model": "m", "max_tokens": 9, "messages": [{"role": "user", "content": "hi"}]}
    parsed = api.read(json.dumps({**fields, "stream": True}).encode())
    provider: Any = provider_class("anthropic")("anthropic", {"api_key": "k"}, Settings())
    provider.close()
    provider.client = Playback(200, Message(), [json.dumps(MESSAGE).encode()])
    reply = provider.answer(parsed, api.writer(parsed))
    frames = b""
    while not reply.ended:
        frames += reply.receive(0)
    events = [json.loads(event.data) for event in sse.Decoder().receive_data(frames)]
    block = ["content_block_start", "content_block_stop"]
    kinds = ["message_start", *4 * block, "message_delta", "message_stop"]
    assert [event["type"] for event in events] == kinds
    assert events[-2]["usage"] == MESSAGE["usage"]


@pytest.mark.parametrize(("type", "document"), DOCUMENTS)
def test_a_truncated_document_is_an_error(type: str, document: Any) -> None:
    body = json.dumps(document).encode()
    for end in (1, len(body) // 2, len(body) - 1):
        with pytest.raises(ChoreoError) as caught:
            answer(type, body[:end], 1000)
        assert caught.value.status == 502


@pytest.mark.parametrize(
    ("type", "body"),
    [
        ("anthropic", b'{"type":"error","error":{"type":"overloaded_error","message":"busy"}}'),
        ("gemini", b'[{"error":{"code":503,"status":"UNAVAILABLE","message":"busy"}}]'),
        ("gemini", b'{"error":{"code":503,"status":"UNAVAILABLE","message":"busy"}}'),
        ("ollama", b'{\n  "error": "busy"\n}'),
        ("ollama", b'[{"error":"busy"}]'),
        ("bedrock", b'{"Error":{"Code":"ThrottlingException","Message":"busy"}}'),
        ("bedrock", b'{"fault":{"faultstring":"busy"}}'),
        ("bedrock", b'{"message":"busy"}'),
    ],
)
def test_reports_an_error_in_a_document(type: str, body: bytes) -> None:
    with pytest.raises(ChoreoError, match="busy"):
        answer(type, body, 5)


@pytest.mark.parametrize(
    ("type", "body"),
    [
        *itertools.product(("anthropic", "bedrock", "gemini", "ollama"), (b"[]", b"[1]", b"{}")),
        ("anthropic", b'{"type":"message"}'),
        ("ollama", b"{\n}"),
    ],
)
def test_rejects_other_documents(type: str, body: bytes) -> None:
    with pytest.raises(ChoreoError) as caught:
        answer(type, body, 2)
    assert caught.value.status == 502


def test_numbers_of_an_indented_document_stay_on_one_line() -> None:
    block = {"type": "tool_use", "id": "t", "name": "look", "input": {"at": [12345] * 40_000}}
    body = json.dumps({**MESSAGE, "content": [block]}, indent=1).encode()
    stream = AnthropicTranslator.unfold(body)
    assert stream is not None
    assert [frame.count(b"\n") for frame in stream.split(b"\n\n")] == [1, 1, 1, 1, 1, 0]
