"""Writes an answer as the events of the Messages API, or as its one document.

https://docs.anthropic.com/en/api/messages-streaming describes the events.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping

from ... import sse
from ...chat.items import Json, ToolCall, Usage, dump, dump_large
from ...chat.longtext import restore
from ...errors import ChoreoError
from ...ids import random_hex
from ..blocks import Block, BlockWriter, input_of
from ..translation import api_param
from .request import NAMES

_STOP_REASONS = {
    "stop": "end_turn",
    "length": "max_tokens",
    "tool_calls": "tool_use",
    "content_filter": "refusal",
}
#: Anthropic's stop reasons that chat has no finish reason for.
_OWN_REASONS = ("pause_turn", "model_context_window_exceeded")

#: Anthropic's error types by status.
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
#: Chat's parameters by the names that they have in this API.
_PARAMS = {
    **NAMES,
    "output_config.format": "response_format",
    "tool_choice.disable_parallel_tool_use": "parallel_tool_calls",
    "stop_sequences": "stop",
}
#: A path that only chat's messages have, not those of this API.
_CHAT_PATH = re.compile(r"messages\[.*\.(image_url|file|tool_calls)\b")
#: By kind: an empty block, its member that deltas fill, and the type of the deltas.
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
    """Return Anthropic's object for *error*; it has only codes about threads, which SDKs read."""
    kind = "invalid_request_error" if error.status < 500 else "api_error"
    message, param = error.message, api_param(error.param, _PARAMS)
    if param and _CHAT_PATH.match(param):
        param = "messages"
    if param and not message.startswith(param):
        message = f"{param}: {message}"
    members: dict[str, Json] = {"type": _TYPES.get(error.status, kind), "message": message}
    if (error.code or "").startswith("thread_"):
        members["details"] = {"error_code": error.code}
    return {"type": "error", "error": members}


class MessageWriter(BlockWriter):
    """Writes one message."""

    api = "messages"
    ping = sse.frame(b'{"type":"ping"}', event="ping")

    def _message(self, content: list[dict[str, Json]], **members: Json) -> dict[str, Json]:
        head = {"id": "msg_" + random_hex()[:24], "type": "message", "role": "assistant"}
        return {**head, "model": self.model, "content": content, **members}

    def _first_events(self) -> Iterator[bytes]:
        unknown = {"stop_reason": None, "stop_sequence": None, "usage": usage_object(Usage())}
        yield self._event("message_start", message=self._message([], **unknown))

    def _new_block(self, kind: str, call: ToolCall | None) -> Block:
        item, member, delta = _KINDS[kind]
        block = self._add_block(
            kind, item if call is None else {**item, "id": call.id, "name": call.name}
        )
        block.member, block.event = member, "content_block_delta"
        head = dump({"type": block.event, **block.position})[:-1].decode()
        name = "partial_json" if kind == "call" else member
        block.before = f'{head},"delta":{{"type":"{delta}","{name}":'.encode()
        block.after = b"}}"
        return block

    def _add_block(self, kind: str, template: dict[str, Json]) -> Block:
        item = dict(template)
        self._output.append(item)
        return Block(kind, item, {"index": len(self._output) - 1}, item)

    def _block_start(self, block: Block) -> Iterator[bytes]:
        yield self._event("content_block_start", **block.position, content_block=block.item)

    def _citation(self, block: Block, citation: Mapping[str, Json]) -> bytes:
        location = {
            "type": "web_search_result_location",
            "url": str(citation.get("url") or ""),
            "title": citation.get("title"),
            "cited_text": str(citation.get("content") or ""),  # OpenRouter's
            "encrypted_index": "",
        }
        if not self._stream:  # as JSON, since thousands take much more memory as values
            block.item.setdefault("citations", []).append(dump(location))
        return self._block_delta(block, type="citations_delta", citation=location)

    def _block_delta(self, block: Block, **delta: Json) -> bytes:
        return self._event("content_block_delta", **block.position, delta=delta)

    def _thinking_block(self, thinking: Mapping[str, Json]) -> Iterator[bytes]:
        if thinking.get("type") == "redacted_thinking":
            redacted = {"type": "redacted_thinking", "data": thinking.get("data") or ""}
            yield from self._complete_block(self._add_block("redacted", redacted))
            return
        if self._open_text is None or self._open_text.kind != "reasoning":
            yield from self._add_text("reasoning", "")
        assert self._open_text is not None
        signature = self._open_text.item["signature"] = thinking.get("signature") or ""
        yield self._block_delta(self._open_text, type="signature_delta", signature=signature)
        yield from self._close_blocks()

    def _image(self, media_type: str, data: str, image: Mapping[str, Json]) -> Iterator[bytes]:
        return self._note_omission(f"a picture of the type {media_type}")

    def _block_end(self, block: Block, status: str) -> Iterator[bytes]:
        if block.member and not self._stream:
            is_call = block.kind == "call"
            value = input_of(block.arguments, self._marks) if is_call else self._text_so_far(block)
            block.item[block.member] = value
            if citations := block.item.get("citations"):
                block.item["citations"] = map(json.loads, citations)
        yield self._event("content_block_stop", **block.position)

    def ending(self) -> Iterator[bytes]:
        """Yield the last frames, or the whole document."""
        yield from self._close_blocks("completed")
        extra = self._finish.extra or {}
        reason = _STOP_REASONS.get(self._finish.reason, "end_turn")
        if extra.get("native_finish_reason") in _OWN_REASONS:
            reason = extra["native_finish_reason"]
        # vLLM reports the stop string as its stop_reason.
        found = (self._finish.stop, extra.get("stop_sequence"), extra.get("stop_reason"))
        sequence = next((stop for stop in found if stop and isinstance(stop, str)), None)
        delta = {"stop_reason": "stop_sequence" if sequence else reason, "stop_sequence": sequence}
        usage = usage_object(self._usage or Usage())
        if self._stream:
            yield self._event("message_delta", delta=delta, usage=usage)
            yield self._event("message_stop")
        else:
            message = self._message(self._output, **delta, usage=usage)
            yield restore(dump_large(message), self._marks)

    def fail(self, error: ChoreoError) -> bytes:
        """Return the frame that ends a stream with *error*."""
        return sse.frame(dump(error_object(error)), event="error")


def usage_object(usage: Usage) -> dict[str, Json]:
    """Return the ``usage`` of a message; Anthropic's ``input_tokens`` excludes cached tokens."""
    read, written = usage.cached_tokens or 0, usage.cache_write_tokens or 0
    return {
        "input_tokens": max(0, usage.prompt_tokens - read - written),
        "cache_creation_input_tokens": written,
        "cache_read_input_tokens": read,
        "output_tokens": usage.completion_tokens,
    }
