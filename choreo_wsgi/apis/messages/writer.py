"""Writes an answer as the events of the Messages API, or as its one document.

https://docs.anthropic.com/en/api/messages-streaming says what is in each event.  An answer is
a list of content blocks; each is started, filled by deltas and stopped.
"""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from dataclasses import dataclass, field

from ... import sse
from ...chat import jsontext
from ...chat.answer import AnswerWriter
from ...chat.items import Delta, Finish, Item, Json, ToolCall, Usage, dump, quote
from ...errors import ChoreoError
from .. import own_param

_STOP_REASONS = {
    "stop": "end_turn",
    "length": "max_tokens",
    "tool_calls": "tool_use",
    "content_filter": "refusal",
}
#: Stop reasons of Anthropic's that no other provider has.
_OWN_REASONS = ("pause_turn", "model_context_window_exceeded")

#: How Anthropic calls the statuses that errors have here, and those that it has instead.
_TYPES = {
    400: "invalid_request_error",
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
_STATUSES = {503: 529}
#: The parameters of chat that are others here.
_PARAMS = {
    "max_completion_tokens": "max_tokens",
    "response_format": "output_config.format",
    "reasoning_effort": "output_config.effort",
    "parallel_tool_calls": "tool_choice.disable_parallel_tool_use",
    "stop": "stop_sequences",
    "user": "metadata.user_id",
}


def error_object(error: ChoreoError) -> dict[str, Json]:
    """Return Anthropic's object for *error*."""
    kind = _TYPES.get(error.status) or (
        "invalid_request_error" if error.status < 500 else "api_error"
    )
    message, param = error.message, own_param(error.param, _PARAMS)
    if param and not message.startswith(param):
        message = f"{param}: {message}"
    return {"type": "error", "error": {"type": kind, "message": message}}


def error_status(error: ChoreoError) -> int:
    """Return the HTTP status that Anthropic has for *error*."""
    return _STATUSES.get(error.status, error.status)


@dataclass
class _Block:
    """A content block that is being written."""

    index: int
    block: dict[str, Json]
    member: str  # where its text belongs
    pieces: list[str] = field(default_factory=list)


class MessageWriter(AnswerWriter):
    """Writes one message of *model*, as events with *stream*."""

    api = "messages"
    ping = sse.frame(b'{"type":"ping"}', event="ping")
    done = b""

    def __init__(self, model: str, stream: bool = True) -> None:
        self.model = model
        self._stream = stream
        self._begun = False
        self._message: dict[str, Json] = {
            "id": "msg_" + secrets.token_hex(12),
            "type": "message",
            "role": "assistant",
            "model": model,
            "content": [],
            "stop_reason": None,
            "stop_sequence": None,
        }
        self._content: list[dict[str, Json]] = self._message["content"]
        self._text: _Block | None = None  # the text or thinking that is being written
        self._calls: dict[int, _Block | None] = {}  # None: stopped
        self._finish = Finish()
        self._usage: Usage | None = None

    def write(self, item: Item) -> bytes:
        """Return the frames for *item*."""
        frames = b"" if self._begun else self._begin()
        if isinstance(item, Usage):
            self._usage = item
        elif isinstance(item, Finish):
            self._finish = item
        else:
            frames += self._delta(item)
        return frames

    def _begin(self) -> bytes:
        self._begun = True
        message = {**self._message, "content": [], "usage": usage_object(Usage())}
        return self._event("message_start", message=message)

    def _delta(self, delta: Delta) -> bytes:
        frames = b""
        if delta.reasoning:
            frames += self._say("thinking", delta.reasoning)
        extra = delta.extra or {}
        for block in extra.get("thinking_blocks") or ():
            frames += self._thought(block)
        for text in (delta.text, delta.refusal):
            if text:
                frames += self._say("text", text)
        for annotation in extra.get("annotations") or ():
            frames += self._cite(annotation)
        for call in delta.tool_calls:
            frames += self._call(call)
        return frames

    def _say(self, kind: str, text: str) -> bytes:
        frames = b""
        opened = self._text
        if opened is None or opened.member != kind:
            frames = self._stop_text()
            block = {"type": kind, kind: ""}
            if kind == "thinking":
                block["signature"] = ""
            opened = self._text = self._start(block, kind)
            frames += self._started(opened)
        opened.pieces.append(text)
        if self._stream:
            written = (
                f'{{"type":"content_block_delta","index":{opened.index},'
                f'"delta":{{"type":"{kind}_delta","{kind}":{quote(text)}}}}}'
            )
            data = written.encode("utf-8", "replace")
            frames += sse.frame(data, event="content_block_delta")
        return frames

    def _thought(self, block: Mapping[str, Json]) -> bytes:
        """Write a block of thinking that came whole, after its text: its signature is new."""
        if block.get("type") == "redacted_thinking":
            redacted = {"type": "redacted_thinking", "data": block.get("data") or ""}
            frames = self._stop_text()
            opened = self._start(redacted, "data")
            return frames + self._started(opened) + self._stop(opened)
        frames = b""
        if self._text is None or self._text.member != "thinking":
            frames = self._say("thinking", block.get("thinking") or "")
        assert self._text is not None
        signature = block.get("signature") or ""
        self._text.block["signature"] = signature
        told = {"type": "signature_delta", "signature": signature}
        frames += self._event("content_block_delta", index=self._text.index, delta=told)
        return frames + self._stop_text()

    def _cite(self, annotation: Mapping[str, Json]) -> bytes:
        """Write a citation of a page, which chat has as an annotation of the text."""
        told, opened = annotation.get("url_citation"), self._text
        if not told or opened is None or opened.member != "text":
            return b""
        citation = {
            "type": "web_search_result_location",
            "url": str(told.get("url") or ""),
            "title": told.get("title"),
            "cited_text": str(told.get("content") or ""),  # OpenRouter's
            "encrypted_index": "",
        }
        opened.block.setdefault("citations", []).append(citation)
        delta = {"type": "citations_delta", "citation": citation}
        return self._event("content_block_delta", index=opened.index, delta=delta)

    def _start(self, block: dict[str, Json], member: str) -> _Block:
        self._content.append(block)
        return _Block(len(self._content) - 1, block, member)

    def _started(self, opened: _Block) -> bytes:
        return self._event("content_block_start", index=opened.index, content_block=opened.block)

    def _stop(self, opened: _Block) -> bytes:
        return self._event("content_block_stop", index=opened.index)

    def _stop_text(self) -> bytes:
        """Stop the block that is being written, before another starts."""
        opened, self._text = self._text, None
        if opened is None:
            return self._stop_calls()
        opened.block[opened.member] = "".join(opened.pieces)
        return self._stop(opened)

    def _stop_calls(self, every: bool = False) -> bytes:
        """Stop the calls whose arguments are whole, or *every* one.

        So a block stops before the next starts, unless a provider mixes the pieces of several.
        """
        frames = []
        for index, opened in self._calls.items():
            given = "".join(opened.pieces) if opened else ""
            if opened is not None and (every or jsontext.is_object(given)):
                self._calls[index] = None
                opened.block["input"] = _input(given)
                frames.append(self._stop(opened))
        return b"".join(frames)

    def _call(self, call: ToolCall) -> bytes:
        frames = b""
        opened = self._calls.get(call.index)
        if opened is None and call.index in self._calls:
            return b""  # its arguments were whole
        if opened is None:
            frames = self._stop_text()
            block = {"type": "tool_use", "id": call.id, "name": call.name, "input": {}}
            opened = self._calls[call.index] = self._start({**block, **(call.extra or {})}, "input")
            frames += self._started(opened)
        if call.arguments:
            opened.pieces.append(call.arguments)
            told = {"type": "input_json_delta", "partial_json": call.arguments}
            frames += self._event("content_block_delta", index=opened.index, delta=told)
        return frames

    def finish(self) -> bytes:
        """Return the last frames, or the whole document."""
        ends = [self._stop_text(), self._stop_calls(every=True)]
        extra = self._finish.extra or {}
        reason = _STOP_REASONS.get(self._finish.reason, "end_turn")
        if extra.get("native_finish_reason") in _OWN_REASONS:
            reason = extra["native_finish_reason"]
        named = (self._finish.stop, extra.get("stop_sequence"), extra.get("stop_reason"))  # vLLM's
        sequence = next((word for word in named if word and isinstance(word, str)), None)
        if sequence is not None:
            reason = "stop_sequence"
        delta = {"stop_reason": reason, "stop_sequence": sequence}
        usage = usage_object(self._usage or Usage())
        if not self._stream:
            return dump({**self._message, **delta, "usage": usage})
        ends.append(self._event("message_delta", delta=delta, usage=usage))
        return b"".join([*ends, self._event("message_stop")])

    def fail(self, error: ChoreoError) -> bytes:
        """Return the frame that ends a stream with *error*."""
        return sse.frame(dump(error_object(error)), event="error")

    def _event(self, type: str, **members: Json) -> bytes:
        if not self._stream:
            return b""
        return sse.frame(dump({"type": type, **members}), event=type)


def _input(arguments: str) -> Json:
    """Return the object in a call's *arguments*; whatever else a model wrote stays readable."""
    try:
        value = jsontext.parse(arguments) if arguments.strip() else {}
    except ValueError:
        value = None
    return value if isinstance(value, dict) else {"raw": arguments}


def usage_object(usage: Usage) -> dict[str, Json]:
    """Return the ``usage`` of a message: Anthropic counts what was cached apart."""
    read, written = usage.cached_tokens or 0, usage.cache_write_tokens or 0
    return {
        "input_tokens": max(0, usage.prompt_tokens - read - written),
        "cache_creation_input_tokens": written,
        "cache_read_input_tokens": read,
        "output_tokens": usage.completion_tokens,
    }
