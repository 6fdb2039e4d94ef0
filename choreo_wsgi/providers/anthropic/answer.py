"""Anthropic's answer: the events of a streamed message, as items.

The events are those of https://docs.anthropic.com/en/docs/build-with-claude/streaming;
events, blocks and deltas that are not known are passed over, as that page asks.
"""

from __future__ import annotations

import re

from ... import sse
from ...chat.items import Delta, Item, Json, Usage, dump
from ...chat.jsontext import count
from ...errors import UpstreamInvalid
from ..blocks import Blocks
from ..failures import failure, provider_error
from ..http import EventTranslator
from ..reading import find_error, text
from ..translating import json_values

_COUNTS = (
    "input_tokens",
    "output_tokens",
    "cache_creation_input_tokens",
    "cache_read_input_tokens",
)
#: An event as nearly all are, of a text without escapes: read at once, for a third of the time.
_PLAIN = re.compile(
    rb'event: content_block_delta\ndata: \{"type":"content_block_delta","index":\d,'
    rb'"delta":\{"type":"text_delta","text":"([ !#-\[\]-~]+)" *\} *\} *\n\n'
)
#: What a message says of its end.
_STOP = ("stop_reason", "stop_sequence", "stop_details")


class AnthropicTranslator(EventTranslator):
    """Reads ``POST /v1/messages`` with ``stream: true``."""

    def __init__(self, limit: int = 8 * 1024 * 1024) -> None:
        super().__init__(limit)
        self._counts: dict[str, int] = {}
        self._blocks = Blocks(self.marks)
        self._begun = False
        self._last = (b"", b"")  # what was around the last text

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
        last, self.ends, at = self._last, None, 0
        if self._decoder.between and len(data) <= self._limit:
            while (plain := _PLAIN.match(data, at)) is not None:
                items.append(Delta(plain[1].decode()))
                self._last = data[at : plain.start(1)], data[plain.end(1) : plain.end()]
                at = plain.end()
            if at == len(data):
                self.ends = last if last == self._last else None
                return
        for body in self.objects(data[at:] if at else data):
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
        self.ended = True
        return self._blocks.end(self.usage)

    @staticmethod
    def unfold(body: bytes) -> bytes | None:
        """Return the events in *body*, an array or lines of them, or those of a whole message."""
        events = json_values(body)
        kinds = [event.get("type") if isinstance(event, dict) else None for event in events]
        if kinds == ["message"]:
            events = _events(events[0])
        elif kinds[:1] != ["message_start"]:
            return None
        return b"".join(sse.frame(dump(event), event=str(event["type"])) for event in events)

    def _event(self, body: dict[str, Json], items: list[Item]) -> None:
        kind = body.get("type")
        if kind == "content_block_start":
            self._start(body["index"], body["content_block"], items)
        elif kind == "content_block_stop":
            items += self._blocks.close(body["index"])
        elif kind == "message_start":
            if self._begun:  # what came before may be half a call
                raise UpstreamInvalid("the provider began its answer a second time")
            self._begun = True
            self._count(body["message"].get("usage"))
        elif kind == "message_delta":
            self._count(body.get("usage"))
            self._stopped(body["delta"], items)
        elif kind == "message_stop":
            items += self._blocks.end(self.usage)
            self.ended = True
        elif kind == "error":
            raise failure(None, body.get("error") or body)
        elif kind is None and (found := find_error(body)) is not None:
            raise provider_error(found)

    def _start(self, index: int, block: dict[str, Json], items: list[Item]) -> None:
        kind = block.get("type")
        if kind == "text" and block.get("text"):
            items.append(Delta(text(block["text"])))
        elif kind == "thinking":
            items += self._blocks.think(text(block.get("thinking")))
            self._blocks.sign(text(block.get("signature")))
        elif kind == "redacted_thinking":
            items += self._blocks.redacted(text(block["data"]))
        elif kind == "tool_use":
            id, name = text(block.get("id")), text(block["name"])
            items += self._blocks.call(index, id, name, block.get("input"))

    def _delta(self, index: int, delta: dict[str, Json], items: list[Item]) -> None:
        kind = delta["type"]
        if kind == "input_json_delta":
            items += self._blocks.arguments(index, delta["partial_json"])
        elif kind == "thinking_delta":
            items += self._blocks.think(text(delta["thinking"]))
        elif kind == "signature_delta":
            self._blocks.sign(text(delta["signature"]))

    def _stopped(self, delta: dict[str, Json], items: list[Item]) -> None:
        reason = text(delta.get("stop_reason"))
        if not reason:
            return
        details = delta.get("stop_details") or {}
        if details.get("explanation") and self._blocks.stopped is None:
            items.append(Delta(refusal=text(details["explanation"])))
        self._blocks.stop(reason, text(delta.get("stop_sequence")))

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


def _events(message: dict[str, Json]) -> list[dict[str, Json]]:
    """Return the events of a whole *message*; each block comes in its start."""
    events: list[dict[str, Json]] = [
        {"type": "message_start", "message": {**message, "content": []}}
    ]
    content = message.get("content")
    blocks = [{"type": "text", "text": content}] if isinstance(content, str) else content or []
    for index, block in enumerate(blocks):
        events.append({"type": "content_block_start", "index": index, "content_block": block})
        events.append({"type": "content_block_stop", "index": index})
    stop = {name: message.get(name) for name in _STOP}
    events.append({"type": "message_delta", "delta": stop, "usage": message.get("usage")})
    return [*events, {"type": "message_stop"}]
