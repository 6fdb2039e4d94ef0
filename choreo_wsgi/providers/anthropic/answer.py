"""Anthropic's answer: the events of a streamed message, as items.

The events are those of https://docs.anthropic.com/en/docs/build-with-claude/streaming;
events, blocks and deltas that are not known are passed over, as that page asks.
"""

from __future__ import annotations

from ...chat.items import Delta, Finish, Item, Json, ToolCall, Usage
from ...errors import ChoreoError, UpstreamTruncated
from ..http import EventTranslator
from ..reading import arguments, count, parse_object, provider_failure, text

#: What each type of error would be as an HTTP status; the reverse of their table of errors.
STATUSES = {
    "invalid_request_error": 400,
    "authentication_error": 401,
    "billing_error": 402,
    "permission_error": 403,
    "not_found_error": 404,
    "request_too_large": 413,
    "rate_limit_error": 429,
    "timeout_error": 504,
    "overloaded_error": 529,
}

#: Stop reasons that say no more than the finish reason they become.
_PLAIN = {
    "end_turn": "stop",
    "stop_sequence": "stop",
    "max_tokens": "length",
    "tool_use": "tool_calls",
}
_LOSSY = {
    "pause_turn": "stop",
    "model_context_window_exceeded": "length",
    "refusal": "content_filter",
}
_COUNTS = (
    "input_tokens",
    "output_tokens",
    "cache_creation_input_tokens",
    "cache_read_input_tokens",
)


class ThinkingBlocks:
    """Gathers thinking blocks, which a later turn must give back unchanged.

    They go to the caller as ``thinking_blocks`` beside ``reasoning_content``: each whole,
    in one delta, with a running *index* so that a client that folds deltas keeps them apart.
    """

    def __init__(self) -> None:
        self._number = 0
        self._thinking: list[str] = []
        self._signature = ""

    def think(self, piece: str) -> None:
        """Take a piece of the block's text."""
        self._thinking.append(piece)

    def sign(self, signature: str) -> None:
        """Take the block's signature, or a piece of it."""
        self._signature += signature

    def close(self) -> list[Item]:
        """Return the delta with the block that just ended, if it can be given back."""
        thinking, signature = "".join(self._thinking), self._signature
        self._thinking, self._signature = [], ""
        if not signature:
            return []
        return [self._delta({"type": "thinking", "thinking": thinking, "signature": signature})]

    def redacted(self, data: str) -> Delta:
        """Return the delta with a block whose text is hidden."""
        return self._delta({"type": "redacted_thinking", "data": data})

    def _delta(self, block: dict[str, Json]) -> Delta:
        block = {"index": self._number, **block}
        self._number += 1
        return Delta(extra={"thinking_blocks": [block]})


class AnthropicTranslator(EventTranslator):
    """Reads ``POST /v1/messages`` with ``stream: true``."""

    def __init__(self, limit: int = 8 * 1024 * 1024) -> None:
        super().__init__(limit)
        self._counts: dict[str, int] = {}
        self._stop: Finish | None = None
        self._blocks: dict[int, str] = {}  # the kinds of the open blocks
        self._calls: dict[int, int] = {}  # the open calls: block's index -> number of the call
        self._silent: set[int] = set()  # those of them without arguments so far
        self._tools = 0
        self._thinking = ThinkingBlocks()

    @property
    def usage(self) -> Usage | None:
        """What was reported so far; input counts come first, output counts grow."""
        counts = self._counts
        if not counts:
            return None
        cached = counts.get("cache_read_input_tokens")
        written = counts.get("cache_creation_input_tokens")
        # Their input_tokens are only those that no cache had to do with.
        prompt = counts.get("input_tokens", 0) + (cached or 0) + (written or 0)
        output = counts.get("output_tokens", 0)
        return Usage(prompt, output, cached, written, counts.get("thinking_tokens"))

    def translate(self, data: bytes, items: list[Item]) -> None:
        """Append to *items* what *data* completes."""
        for event in self.events(data):
            body = parse_object(event.data)
            if body.get("type") == "content_block_delta":
                delta = body["delta"]
                if delta["type"] == "text_delta":
                    items.append(Delta(text(delta["text"])))
                else:
                    self._delta(body["index"], delta, items)
            else:
                self._event(body, items)
                if self.ended:
                    return

    def finish(self) -> list[Item]:
        """Return the end of an answer that stopped without its ``message_stop``."""
        if self.ended:
            return []
        if self._stop is None:
            raise UpstreamTruncated("the provider's stream ended without a stop reason")
        self.ended = True
        return self._ending()

    def _event(self, body: dict[str, Json], items: list[Item]) -> None:
        kind = body.get("type")
        if kind == "content_block_start":
            self._start(body["index"], body["content_block"], items)
        elif kind == "content_block_stop":
            self._close(body["index"], items)
        elif kind == "message_start":
            self._count(body["message"].get("usage"))
        elif kind == "message_delta":
            self._count(body.get("usage"))
            self._stopped(body["delta"], items)
        elif kind == "message_stop":
            items += self._ending()
            self.ended = True
        elif kind == "error":
            raise in_band(body)

    def _start(self, index: int, block: dict[str, Json], items: list[Item]) -> None:
        kind = self._blocks[index] = text(block.get("type"))
        if kind == "text" and block.get("text"):
            items.append(Delta(text(block["text"])))
        elif kind == "thinking":
            self._delta(index, {"type": "thinking_delta", "thinking": block.get("thinking")}, items)
        elif kind == "redacted_thinking":
            items.append(self._thinking.redacted(text(block["data"])))
        elif kind == "tool_use":
            call = ToolCall(self._tools, text(block["id"]), text(block["name"]))
            self._calls[index] = self._tools
            self._silent.add(index)
            self._tools += 1
            items.append(Delta(tool_calls=[call]))
            if block.get("input"):  # where arguments are not streamed
                piece = arguments(block["input"])
                self._delta(index, {"type": "input_json_delta", "partial_json": piece}, items)

    def _delta(self, index: int, delta: dict[str, Json], items: list[Item]) -> None:
        kind = delta["type"]
        if kind == "input_json_delta":
            piece = text(delta["partial_json"])
            if piece and index in self._calls:  # else of a tool that the provider itself runs
                self._silent.discard(index)
                items.append(Delta(tool_calls=[ToolCall(self._calls[index], arguments=piece)]))
        elif kind == "thinking_delta":
            piece = text(delta["thinking"])
            self._thinking.think(piece)
            if piece:
                items.append(Delta(reasoning=piece))
        elif kind == "signature_delta":
            self._thinking.sign(text(delta["signature"]))

    def _close(self, index: int, items: list[Item]) -> None:
        kind = self._blocks.pop(index, "")
        if kind == "thinking":
            items += self._thinking.close()
        number = self._calls.pop(index, 0)
        if index in self._silent:
            # A call without arguments; what clients parse must be JSON all the same.
            self._silent.discard(index)
            items.append(Delta(tool_calls=[ToolCall(number, arguments="{}")]))

    def _stopped(self, delta: dict[str, Json], items: list[Item]) -> None:
        reason = text(delta.get("stop_reason"))
        if not reason:
            return
        details = delta.get("stop_details") or {}
        if details.get("explanation") and self._stop is None:
            items.append(Delta(refusal=text(details["explanation"])))
        if reason in _PLAIN:
            self._stop = Finish(_PLAIN[reason])
        else:
            known = _LOSSY.get(reason, "stop")
            self._stop = Finish(known, extra={"native_finish_reason": reason})

    def _ending(self) -> list[Item]:
        if self._stop is None:
            raise UpstreamTruncated("the provider's stream ended without a stop reason")
        usage = self.usage
        return [self._stop, usage] if usage else [self._stop]

    def _count(self, usage: dict[str, Json] | None) -> None:
        """Keep the counts in *usage*: they are running totals, and what is absent stands."""
        if not usage:
            return
        for name in _COUNTS:
            number = count(usage.get(name))
            if number is not None:
                self._counts[name] = number
        details = usage.get("output_tokens_details") or {}
        number = count(details.get("thinking_tokens"))
        if number is not None:
            self._counts["thinking_tokens"] = number


def in_band(body: dict[str, Json]) -> ChoreoError:
    """Return the error of an ``error`` event."""
    error = body.get("error") or {}
    kind = error.get("type")
    status = STATUSES.get(kind, 500) if isinstance(kind, str) else 500
    return provider_failure(status, text(error.get("message")), {})
