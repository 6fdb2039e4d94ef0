"""Answers that come as numbered blocks of text, thinking and tool calls.

Anthropic's Messages and Bedrock's Converse tell the same story: a block starts, grows by deltas
and stops; then the message stops with a reason.  :class:`Blocks` reads it in the words of
https://docs.anthropic.com/en/docs/build-with-claude/streaming; events, blocks and deltas that are
not known are passed over, as that page asks.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

from ..chat.aside import is_object, pieces, set_aside
from ..chat.endings import finish_reason
from ..chat.items import Delta, Finish, Item, Json, Marks, ToolCall, Usage, new_call_id
from ..chat.jsontext import whole_number
from ..chat.shapes import arguments_of
from ..errors import UpstreamInvalid, UpstreamTruncated
from .failures import provider_error, stream_error
from .reading import MESSAGES, Counts, find_error, text
from .translating import arguments


class Blocks:
    """The message that events tell of, in which there may be marks of *marks*.

    *counts* says what its ``usage`` holds.
    """

    def __init__(self, marks: Marks, counts: Counts = MESSAGES) -> None:
        self._marks = marks
        self._counts = counts
        self._told: dict[str, Json] = {}  # running totals
        self._begun = False
        self._finish: Finish | None = None
        self._arguments: list[list[str]] = []  # the pieces of each call's, while it is open
        self._broken = False  # the arguments of a call are not JSON
        self._whole: list[list[str]] = []  # those that came with the start of each call
        self._open: dict[int, int] = {}  # the open calls: block's index -> number of the call
        self._latest = 0  # the index that came last
        self._thinking: list[str] = []
        self._signature: list[str] = []
        self._counted: Counter[str] = Counter()  # what was said of each list of a delta

    @property
    def usage(self) -> Usage | None:
        """What was reported so far; input counts come first, output counts grow."""
        return self._counts.read(self._told)

    def take(self, event: dict[str, Json], items: list[Item]) -> None:
        """Append to *items* what *event* completes; raises the error that it reports."""
        kind = event.get("type")
        if kind == "content_block_delta":
            delta = event["delta"]
            if delta["type"] == "text_delta":
                items.append(Delta(text(delta["text"])))
            else:
                items += self._delta(self._index(event), delta)
        elif kind == "content_block_start":
            items += self._start(self._index(event), event["content_block"])
        elif kind == "content_block_stop":
            items += self._close(self._index(event))
        elif kind == "message_start":
            if self._begun:  # what came before may be half a call
                raise UpstreamInvalid("the provider began its answer a second time")
            self._begun = True
            self._count(event["message"].get("usage"))
        elif kind == "message_delta":
            self._count(event.get("usage"))
            items += self._stop(event["delta"])
        elif kind == "error":
            raise stream_error(event.get("error") or event)
        elif kind is None and (found := find_error(event)) is not None:
            raise provider_error(found)

    def end(self) -> list[Item]:
        """Return the end of the message; raises UpstreamTruncated if no stop reason came."""
        finish, usage = self._finish, self.usage
        if finish is None:
            raise UpstreamTruncated("the provider's stream ended without a stop reason")
        items = [item for index in sorted(self._open) for item in self._close(index)]
        if finish.reason == "tool_calls" and self._broken:
            raise UpstreamInvalid("the provider sent a tool call whose arguments are not JSON")
        return [*items, finish, *([usage] if usage else [])]

    def _index(self, event: dict[str, Json]) -> int:
        """Return the index of the block of *event*; one without is about the block before."""
        given = whole_number(event.get("index"))
        self._latest = self._latest if given is None else given
        return self._latest

    def _start(self, index: int, block: dict[str, Json]) -> list[Item]:
        kind = block.get("type")
        if kind == "text":
            said = [Delta(text(block["text"]))] if block.get("text") else []
            return [*said, *map(self._cited, block.get("citations") or ())]
        if kind == "thinking":
            self._signature += pieces(text(block.get("signature")), self._marks)
            return self._think(text(block.get("thinking")))
        if kind == "redacted_thinking":
            return [self._listed("thinking_blocks", {"type": kind, "data": text(block["data"])})]
        if kind != "tool_use":
            return []
        number = self._open[index] = len(self._arguments)
        self._arguments.append([])
        self._whole.append(arguments(block.get("input"), self._marks))
        id = text(block.get("id")) or new_call_id()
        return [Delta(tool_calls=[ToolCall(number, id, text(block["name"]))])]

    def _delta(self, index: int, delta: dict[str, Json]) -> list[Item]:
        kind = delta["type"]
        if kind == "input_json_delta":
            return self._argue(index, delta["partial_json"])
        if kind == "thinking_delta":
            return self._think(text(delta["thinking"]))
        if kind == "citations_delta":
            return [self._cited(delta["citation"])]
        if kind == "signature_delta":
            self._signature += pieces(text(delta["signature"]), self._marks)
        return []

    def _argue(self, index: int, given: Json) -> list[Item]:
        """Go on with the call in block *index*; nothing for a tool that the provider runs."""
        number, piece = self._open.get(index), arguments_of(given)
        if number is None or not piece:
            return []
        self._arguments[number] += pieces(piece, self._marks)
        return [Delta(tool_calls=[ToolCall(number, arguments=piece)])]

    def _think(self, piece: str) -> list[Item]:
        self._thinking += pieces(piece, self._marks)
        return [Delta(reasoning=piece)] if piece else []

    def _listed(self, name: str, one: dict[str, Json]) -> Delta:
        """Return *one* more of the delta's list *name*."""
        # The index keeps them apart in a client that folds deltas.
        one = {"index": self._counted[name], **one}
        self._counted[name] += 1
        return Delta(extra={name: [one]})

    def _cited(self, citation: dict[str, Json]) -> Delta:
        """Return a citation: of a page as OpenAI's chat has it, else as it came."""
        if not citation.get("url"):
            return self._listed("citations", citation)
        names = {"url": "url", "title": "title", "content": "cited_text"}
        told = {ours: citation[name] for ours, name in names.items() if citation.get(name)}
        return self._listed("annotations", {"type": "url_citation", "url_citation": told})

    def _close(self, index: int) -> list[Item]:
        """End block *index*.

        A thinking block that is signed goes to the caller whole, as ``thinking_blocks``: a later
        turn must give it back unchanged.  A call without arguments gets ``{}``, for what clients
        parse must be JSON.
        """
        items: list[Item] = []
        marks: Marks = {}
        thinking, signature = set_aside(self._thinking, marks), "".join(self._signature)
        self._thinking, self._signature = [], []
        if signature:
            block = {"type": "thinking", "thinking": thinking, "signature": signature}
            items.append(replace(self._listed("thinking_blocks", block), marks=marks))
        number = self._open.get(index)
        if number is not None:
            for piece in () if self._arguments[number] else self._whole[number]:
                items += self._argue(index, piece)
            self._broken |= not is_object(self._arguments[number])
            self._arguments[number] = []
            del self._open[index]
        return items

    def _stop(self, delta: dict[str, Json]) -> list[Item]:
        """Take the message's stop reason; raises ProviderError for one that is a failure."""
        word = text(delta.get("stop_reason"))
        if not word:
            return []
        explained = text((delta.get("stop_details") or {}).get("explanation"))
        items: list[Item] = [Delta(refusal=explained)] if explained and not self._finish else []
        reason, extra = finish_reason(word, bool(self._arguments))
        if sequence := text(delta.get("stop_sequence")):
            extra = {**(extra or {}), "stop_sequence": sequence}
        self._finish = Finish(reason, extra=extra)
        return items

    def _count(self, usage: dict[str, Json] | None) -> None:
        """Keep the counts in *usage*: they are running totals, and what is absent stands."""
        self._told |= {name: told for name, told in (usage or {}).items() if told is not None}
