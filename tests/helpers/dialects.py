"""The same answer in each provider's API: two pieces of text, a tool call, usage."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from aws_events import encode

KEY = "sk-secret-0123456789"
ID, NAME, ARGUMENTS = "call_abc", "get_weather", '{"city":"Paris"}'
READ, WRITTEN = 12, 5


@dataclass(frozen=True)
class Dialect:
    """The bytes of a provider's stream: its *start*, *text* pieces, its *ending*, an *error*."""

    type: str
    kind: str
    start: bytes
    text: Callable[[str], bytes]
    call: bytes
    ending: bytes
    plain_ending: bytes
    error: bytes
    #: The path of a request, and the header that has the key.
    target: str
    key_header: str

    def options(self, url: str) -> dict[str, str]:
        return {"api_key": KEY, "base_url": url + "/v1" * (self.type in ("openai", "xai"))}


def _data(value: Any) -> bytes:
    return b"data: " + json.dumps(value).encode() + b"\n\n"


def _anthropic_event(kind: str, **members: Any) -> bytes:
    return f"event: {kind}\n".encode() + _data({"type": kind, **members})


def _anthropic() -> Dialect:
    event = _anthropic_event
    usage = {"input_tokens": READ, "output_tokens": 1}
    block = {"type": "tool_use", "id": ID, "name": NAME, "input": {}}
    args = {"type": "input_json_delta", "partial_json": ARGUMENTS}

    def ending(reason: str) -> bytes:
        counts = {"output_tokens": WRITTEN}
        delta = {"stop_reason": reason, "stop_sequence": None}
        return event("message_delta", delta=delta, usage=counts) + event("message_stop")

    return Dialect(
        "anthropic",
        "text/event-stream; charset=utf-8",
        event("message_start", message={"id": "msg", "role": "assistant", "usage": usage})
        + event("content_block_start", index=0, content_block={"type": "text", "text": ""})
        + event("ping"),
        lambda text: event(
            "content_block_delta", index=0, delta={"type": "text_delta", "text": text}
        ),
        event("content_block_stop", index=0)
        + event("content_block_start", index=1, content_block=block)
        + event("content_block_delta", index=1, delta=args)
        + event("content_block_stop", index=1),
        ending("tool_use"),
        ending("end_turn"),
        event("error", error={"type": "overloaded_error", "message": f"no, {KEY}"}),
        "/v1/messages",
        "x-api-key",
    )


def _gemini() -> Dialect:
    def chunk(parts: list[Any], **candidate: Any) -> bytes:
        content = {"role": "model", "parts": parts}
        usage = {"promptTokenCount": READ, "candidatesTokenCount": WRITTEN}
        return _data(
            {
                "candidates": [{"content": content, "index": 0, **candidate}],
                "usageMetadata": usage,
            }
        )

    call = {"id": ID, "name": NAME, "args": json.loads(ARGUMENTS)}
    stop = chunk([{"text": ""}], finishReason="STOP")
    error = {"code": 503, "status": "UNAVAILABLE", "message": f"no, {KEY}"}
    return Dialect(
        "gemini",
        "text/event-stream",
        b"",
        lambda text: chunk([{"text": text}]),
        chunk([{"functionCall": call}]),
        stop,
        stop,
        json.dumps({"error": error}, indent=1).encode() + b"\n",
        "/v1beta/models/m:streamGenerateContent?alt=sse",
        "x-goog-api-key",
    )


def _ollama() -> Dialect:
    def line(message: dict[str, Any], **more: Any) -> bytes:
        value = {"model": "m", "message": {"role": "assistant", **message}, "done": False, **more}
        return json.dumps(value).encode() + b"\n"

    call = {"id": ID, "function": {"name": NAME, "arguments": json.loads(ARGUMENTS)}}
    counts = {"prompt_eval_count": READ, "eval_count": WRITTEN}
    done = line({"content": ""}, done=True, done_reason="stop", **counts)
    return Dialect(
        "ollama",
        "application/x-ndjson",
        b"",
        lambda text: line({"content": text}),
        line({"content": "", "tool_calls": [call]}),
        done,
        done,
        json.dumps({"error": f"no, {KEY}"}).encode() + b"\n",
        "/api/chat",
        "authorization",
    )


def _bedrock() -> Dialect:
    def event(kind: str, **body: Any) -> bytes:
        headers = {":message-type": "event", ":event-type": kind}
        return encode(headers, json.dumps(body).encode())

    def delta(index: int, **members: Any) -> bytes:
        return event("contentBlockDelta", contentBlockIndex=index, delta=members)

    def ending(reason: str) -> bytes:
        usage = {"inputTokens": READ, "outputTokens": WRITTEN, "totalTokens": READ + WRITTEN}
        return event("messageStop", stopReason=reason) + event("metadata", usage=usage)

    tool = {"toolUseId": ID, "name": NAME}
    failed = {":message-type": "exception", ":exception-type": "serviceUnavailableException"}
    return Dialect(
        "bedrock",
        "application/vnd.amazon.eventstream",
        event("messageStart", role="assistant"),
        lambda text: delta(0, text=text),
        event("contentBlockStop", contentBlockIndex=0)
        + event("contentBlockStart", contentBlockIndex=1, start={"toolUse": tool})
        + delta(1, toolUse={"input": ARGUMENTS})
        + event("contentBlockStop", contentBlockIndex=1),
        ending("tool_use"),
        ending("end_turn"),
        encode(failed, json.dumps({"message": f"no, {KEY}"}).encode()),
        "/model/m/converse-stream",
        "authorization",
    )


def _openai(type: str) -> Dialect:
    def chunk(delta: dict[str, Any], reason: str | None = None) -> bytes:
        choice = {"index": 0, "delta": delta, "finish_reason": reason}
        return _data(_chunk([choice]) | {"usage": None})

    def _chunk(choices: list[Any]) -> dict[str, Any]:
        head = {"id": "chatcmpl-1", "object": "chat.completion.chunk", "created": 1}
        return {**head, "model": "m", "choices": choices}

    usage = {"prompt_tokens": READ, "completion_tokens": WRITTEN, "total_tokens": READ + WRITTEN}
    end = _data({**_chunk([]), "usage": usage}) + b"data: [DONE]\n\n"
    first = {"index": 0, "id": ID, "type": "function", "function": {"name": NAME, "arguments": ""}}
    more = {"index": 0, "function": {"arguments": ARGUMENTS}}
    filtered = {"id": "", "object": "", "created": 0, "model": "", "choices": []}
    start = _data({**filtered, "prompt_filter_results": []}) if type == "azure" else b""
    error = {"message": f"no, {KEY}", "type": "server_error", "code": 503, "param": None}
    return Dialect(
        type,
        "text/event-stream",
        start + chunk({"role": "assistant", "content": ""}),
        lambda text: chunk({"content": text}),
        chunk({"tool_calls": [first]}) + chunk({"tool_calls": [more]}),
        chunk({}, "tool_calls") + end,
        chunk({}, "stop") + end,
        _data({"error": error}),
        "/openai/v1/chat/completions" if type == "azure" else "/v1/chat/completions",
        "api-key" if type == "azure" else "authorization",
    )


_OPENAI = map(_openai, ("azure", "openai", "xai"))
DIALECTS = {
    dialect.type: dialect for dialect in (_anthropic(), _gemini(), _ollama(), _bedrock(), *_OPENAI)
}
