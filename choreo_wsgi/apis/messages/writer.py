"""Writes an answer as the events of the Messages API, or as its one document.

https://docs.anthropic.com/en/api/messages-streaming says what is in each event.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping

from ... import sse
from ...chat.aside import is_object, set_aside
from ...chat.items import Json, Marks, ToolCall, Usage, dump
from ...chat.longtext import new_number, restore
from ...errors import ChoreoError
from ...ids import random_hex
from ..blocks import Block, BlockWriter
from ..translation import own_param
from .request import NAMES

_STOP_REASONS = {
    "stop": "end_turn",
    "length": "max_tokens",
    "tool_calls": "tool_use",
    "content_filter": "refusal",
}
#: Stop reasons of Anthropic's that no other provider has.
_OWN_REASONS = ("pause_turn", "model_context_window_exceeded")

#: How Anthropic calls the statuses that errors have.
_TYPES = {
    401: "authentication_error",
    402: "billing_error",
    403: "permission_error",
    404: "not_found_error",
    413: "request_too_large",
    429: "rate_limit_error",
    503: "overloaded_error",
    504: "timeout_error",
    529: "overloaded_error",
}
#: The members of chat's parameters that are others here.
_PARAMS = {
    **NAMES,
    "output_config.format": "response_format",
    "tool_choice.disable_parallel_tool_use": "parallel_tool_calls",
    "stop_sequences": "stop",
}
#: A path in a chat: the messages of a message have others.
_CHAT_PATH = re.compile(r"messages\[.*\.(image_url|file|tool_calls)\b")
#: A block of each kind, the member of it that is filled, and the delta that it is filled by.
_KINDS: dict[str, tuple[dict[str, Json], str, str]] = {
    **dict.fromkeys(("text", "refusal"), ({"type": "text", "text": ""}, "text", "text_delta")),
    "reasoning": (
        {"type": "thinking", "thinking": "", "signature": ""},
        "thinking",
        "thinking_delta",
    ),
    "call": ({"type": "tool_use", "input": {}}, "input", "input_json_delta"),
}


def error_object(error: ChoreoError) -> dict[str, Json]:
    """Return Anthropic's object for *error*; only codes about threads are told, for its SDKs."""
    kind = "invalid_request_error" if error.status < 500 else "api_error"
    message, param = error.message, own_param(error.param, _PARAMS)
    if param and _CHAT_PATH.match(param):
        param = "messages"
    if param and not message.startswith(param):
        message = f"{param}: {message}"
    told: dict[str, Json] = {"type": _TYPES.get(error.status, kind), "message": message}
    if (error.code or "").startswith("thread_"):
        told["details"] = {"error_code": error.code}
    return {"type": "error", "error": told}


class MessageWriter(BlockWriter):
    """Writes one message."""

    api = "messages"
    ping = sse.frame(b'{"type":"ping"}', event="ping")

    def _message(self, content: list[dict[str, Json]], **members: Json) -> dict[str, Json]:
        head = {"id": "msg_" + random_hex()[:24], "type": "message", "role": "assistant"}
        return {**head, "model": self.model, "content": content, **members}

    def _begin(self) -> Iterator[bytes]:
        nothing = {"stop_reason": None, "stop_sequence": None, "usage": usage_object(Usage())}
        yield self._event("message_start", message=self._message([], **nothing))

    def _block(self, kind: str, call: ToolCall | None) -> Block:
        item, member, delta = _KINDS[kind]
        block = self._new(
            kind, item if call is None else {**item, "id": call.id, "name": call.name}
        )
        block.member, block.event = member, "content_block_delta"
        head = dump({"type": block.event, **block.where}).decode()[:-1]
        name = "partial_json" if kind == "call" else member
        block.before, block.after = f'{head},"delta":{{"type":"{delta}","{name}":', "}}"
        return block

    def _new(self, kind: str, item: dict[str, Json]) -> Block:
        made = dict(item)
        self._output.append(made)
        return Block(kind, made, {"index": len(self._output) - 1}, made)

    def _opened(self, block: Block) -> Iterator[bytes]:
        yield self._event("content_block_start", **block.where, content_block=block.item)

    def _cited(self, block: Block, citation: Mapping[str, Json]) -> bytes:
        told = {
            "type": "web_search_result_location",
            "url": str(citation.get("url") or ""),
            "title": citation.get("title"),
            "cited_text": str(citation.get("content") or ""),  # OpenRouter's
            "encrypted_index": "",
        }
        block.item.setdefault("citations", []).append(told)
        return self._delta_of(block, type="citations_delta", citation=told)

    def _delta_of(self, block: Block, **delta: Json) -> bytes:
        return self._event("content_block_delta", **block.where, delta=delta)

    def _sealed(self, thinking: Mapping[str, Json]) -> Iterator[bytes]:
        if thinking.get("type") == "redacted_thinking":
            redacted = {"type": "redacted_thinking", "data": thinking.get("data") or ""}
            yield from self._whole(self._new("redacted", redacted))
            return
        if self._text is None or self._text.kind != "reasoning":
            yield from self._say("reasoning", thinking.get("thinking") or "")
        assert self._text is not None
        signature = self._text.item["signature"] = thinking.get("signature") or ""
        yield self._delta_of(self._text, type="signature_delta", signature=signature)
        yield from self._close()

    def _drawn(self, kind: str, data: str, image: Mapping[str, Json]) -> Iterator[bytes]:
        return self._leave_out(f"a picture of the type {kind}")

    def _closed(self, block: Block, status: str) -> Iterator[bytes]:
        if block.member and not self._stream:
            is_call = block.kind == "call"
            said = _input(block.pieces, self._marks) if is_call else self._said(block)
            block.item[block.member] = said
        yield self._event("content_block_stop", **block.where)

    def ending(self) -> Iterator[bytes]:
        """Yield the last frames, or the whole document."""
        yield from self._close("completed")
        extra = self._finish.extra or {}
        reason = _STOP_REASONS.get(self._finish.reason, "end_turn")
        if extra.get("native_finish_reason") in _OWN_REASONS:
            reason = extra["native_finish_reason"]
        named = (self._finish.stop, extra.get("stop_sequence"), extra.get("stop_reason"))  # vLLM's
        sequence = next((word for word in named if word and isinstance(word, str)), None)
        delta = {"stop_reason": "stop_sequence" if sequence else reason, "stop_sequence": sequence}
        usage = usage_object(self._usage or Usage())
        if self._stream:
            yield self._event("message_delta", delta=delta, usage=usage)
            yield self._event("message_stop")
        else:
            yield restore(dump(self._message(self._output, **delta, usage=usage)), self._marks)

    def fail(self, error: ChoreoError) -> bytes:
        """Return the frame that ends a stream with *error*."""
        return sse.frame(dump(error_object(error)), event="error")


def _input(arguments: list[str], marks: Marks) -> Json:
    """Return the object in a call's *arguments*; whatever else a model wrote stays readable."""
    if not any(map(str.strip, arguments)):
        return {}
    if not is_object(arguments):
        return {"raw": set_aside(arguments, marks)}
    # It is written as it came: the values of a thousand calls take several times their bytes.
    data = b"".join(piece.encode("utf-8", "backslashreplace") for piece in arguments)
    arguments.clear()
    number = new_number()
    marks[number.encode()] = data
    return int(number)


def usage_object(usage: Usage) -> dict[str, Json]:
    """Return the ``usage`` of a message: Anthropic counts what was cached apart."""
    read, written = usage.cached_tokens or 0, usage.cache_write_tokens or 0
    return {
        "input_tokens": max(0, usage.prompt_tokens - read - written),
        "cache_creation_input_tokens": written,
        "cache_read_input_tokens": read,
        "output_tokens": usage.completion_tokens,
    }
