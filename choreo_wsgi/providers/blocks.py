"""Translates answers that are numbered blocks of text, thinking and tool calls.

Anthropic's Messages and Bedrock's Converse have the same structure: a block starts, grows by deltas
and stops; then the message stops with a reason.  :class:`Blocks` reads the events documented at
https://docs.anthropic.com/en/docs/build-with-claude/streaming.  Unknown events, blocks and deltas
are ignored, as that page demands.
"""

from __future__ import annotations

from collections import Counter

from ..chat.aside import beside, is_object, pieces, signature, utf8_of, word
from ..chat.endings import finish_reason
from ..chat.growing import utf8_or_mark
from ..chat.items import Delta, Finish, Item, Json, Marks, ToolCall, Usage, new_call_id
from ..chat.jsontext import encoded, whole_number
from ..chat.limits import signed_thoughts
from ..chat.shapes import arguments_of
from ..errors import UpstreamInvalid, UpstreamTruncated
from .dialects import MESSAGES
from .failures import provider_error, stream_error
from .reading import Counts, find_error, text
from .whole_calls import arguments, check_parts


class Blocks:
    """A message, built from its events, whose long strings may be placeholders of *marks*.

    *counts* names the members of its ``usage``.
    """

    def __init__(self, marks: Marks, counts: Counts = MESSAGES) -> None:
        self._marks = marks
        self._counts = counts
        self._usage: dict[str, Json] = {}  # the latest totals
        self._begun = False
        self._finish: Finish | None = None
        self._arguments: list[bytearray] = []  # by call: its arguments, in UTF-8, while it is open
        self._broken = False  # the arguments of a call are not JSON
        # By call: the arguments in its start event, which are complete, and the mark for them.
        self._initial: list[tuple[str, Marks]] = []
        self._open: dict[int, int] = {}  # the open calls: index of the block -> number of the call
        self._latest = 0  # the index of the latest block event
        self._thinking = bytearray()  # in UTF-8
        self._signature: list[str] = []
        self._signed = signed_thoughts()
        self._lengths: Counter[str] = Counter()  # entries so far in each list of ``Delta.extra``

    @property
    def usage(self) -> Usage | None:
        """The usage reported so far; the first event counts the input, later ones the output."""
        return self._counts.read(self._usage)

    def read(self, event: dict[str, Json], items: list[Item]) -> None:
        """Append the items of *event* to *items*; raise ChoreoError if it reports an error."""
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
            if self._begun:  # a call may be incomplete
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
        """Return the last items of the message; raise UpstreamTruncated without a stop reason."""
        finish, usage = self._finish, self.usage
        if finish is None:
            raise UpstreamTruncated("the provider's stream ended without a stop reason")
        items = [item for index in sorted(self._open) for item in self._close(index)]
        if finish.reason == "tool_calls" and self._broken:
            raise UpstreamInvalid("the provider sent a tool call whose arguments are not JSON")
        return [*items, finish, *([usage] if usage else [])]

    def _index(self, event: dict[str, Json]) -> int:
        """Return the index of the block of *event*, that of the event before if it has none."""
        index = whole_number(event.get("index"))
        self._latest = self._latest if index is None else index
        return self._latest

    def _start(self, index: int, block: dict[str, Json]) -> list[Item]:
        kind = block.get("type")
        if kind == "text":
            deltas = [Delta(text(block["text"]))] if block.get("text") else []
            citations = block.get("citations") or ()
            check_parts(len(citations))
            return [*deltas, *map(self._citation, citations)]
        if kind == "thinking":
            self._signature.append(signature(text(block.get("signature")), self._marks))
            return self._add_thinking(text(block.get("thinking")))
        if kind == "redacted_thinking":
            return [
                self._list_entry("thinking_blocks", {"type": kind, "data": text(block["data"])})
            ]
        if kind != "tool_use":
            return []
        number = self._open[index] = len(self._arguments)
        self._arguments.append(bytearray())
        marks: Marks = {}
        self._initial.append((arguments(block.get("input"), self._marks, marks), marks))
        id = word(text(block.get("id")), self._marks) or new_call_id()
        name = word(text(block["name"]), self._marks)
        return [Delta(tool_calls=[ToolCall(number, id, name)])]

    def _delta(self, index: int, delta: dict[str, Json]) -> list[Item]:
        kind = delta["type"]
        if kind == "input_json_delta":
            return self._add_arguments(index, delta)
        if kind == "thinking_delta":
            return self._add_thinking(text(delta["thinking"]))
        if kind == "citations_delta":
            return [self._citation(delta["citation"])]
        if kind == "signature_delta":
            self._signature.append(signature(text(delta["signature"]), self._marks))
        return []

    def _add_arguments(self, index: int, delta: dict[str, Json]) -> list[Item]:
        """Add to the call in block *index*; ignored for a tool that the provider itself runs."""
        number, value = self._open.get(index), delta.pop("partial_json")
        if isinstance(value, dict):  # some proxies send the object itself
            value = arguments(value, self._marks, self._marks)
        piece = arguments_of(value)
        if number is None or not piece:
            return []
        for one in pieces(piece, self._marks):
            self._arguments[number] += encoded(one)
        return [Delta(tool_calls=[ToolCall(number, arguments=piece)])]

    def _add_thinking(self, piece: str) -> list[Item]:
        for one in pieces(piece, self._marks):
            self._thinking += encoded(one)
        return [Delta(reasoning=piece)] if piece else []

    def _list_entry(self, name: str, entry: dict[str, Json], marks: Marks | None = None) -> Delta:
        """Return a delta that adds *entry*, which may hold *marks*, to the list *name*."""
        # A client that merges deltas keeps the entries apart by their index.
        entry = {"index": self._lengths[name], **entry}
        self._lengths[name] += 1
        return Delta(extra={name: [entry]}, marks=marks)

    def _citation(self, citation: dict[str, Json]) -> Delta:
        """Return a citation: that of a web page as OpenAI's annotation, any other unchanged."""
        marks: Marks = {}
        cited = citation.get("cited_text")
        if isinstance(cited, str) and not cited.isascii():  # kept in UTF-8, not four times as wide
            passage = utf8_of(pieces(cited, self._marks))
            citation = {**citation, "cited_text": utf8_or_mark(passage, marks)}
        if not citation.get("url"):
            return self._list_entry("citations", citation, marks)
        names = {"url": "url", "title": "title", "content": "cited_text"}
        page = {ours: citation[name] for ours, name in names.items() if citation.get(name)}
        annotation = {"type": "url_citation", "url_citation": page}
        return self._list_entry("annotations", annotation, marks)

    def _close(self, index: int) -> list[Item]:
        """End block *index*.

        The client gets a signed thinking block whole, in ``thinking_blocks``: it must send it back
        unchanged in a later turn.  A call without arguments gets ``{}``, which clients can parse.
        """
        items: list[Item] = []
        marks: Marks = {}
        thinking, signed = self._thinking, "".join(self._signature)
        self._thinking, self._signature = bytearray(), []
        if signed:
            self._signed.add(len(thinking) + len(signed))
            thought = utf8_or_mark(thinking, marks)
            block = {"type": "thinking", "thinking": thought, "signature": signed}
            items.append(self._list_entry("thinking_blocks", block, marks))
        number = self._open.get(index)
        if number is not None:
            initial, initial_marks = self._initial[number]
            if self._arguments[number]:
                self._broken |= not is_object(self._arguments[number])
            else:
                self._marks |= initial_marks
                items.append(Delta(tool_calls=[ToolCall(number, arguments=initial)]))
            self._arguments[number] = bytearray()
            self._initial[number] = ("", {})
            del self._open[index]
        return items

    def _stop(self, delta: dict[str, Json]) -> list[Item]:
        """Keep the message's stop reason; raise ProviderError if it stands for a failure."""
        stopped = text(delta.get("stop_reason"))
        if not stopped:
            return []
        refusal = text((delta.get("stop_details") or {}).get("explanation"))
        items: list[Item] = [Delta(refusal=refusal)] if refusal and not self._finish else []
        reason, extra = finish_reason(stopped, bool(self._arguments))
        if sequence := text(delta.get("stop_sequence")):
            extra = {**(extra or {}), "stop_sequence": sequence}
        self._finish = Finish(reason, extra=extra and beside(extra, self._marks))
        return items

    def _count(self, usage: dict[str, Json] | None) -> None:
        """Keep the counts in *usage*: they are totals, and an absent one has not changed."""
        self._usage |= {name: count for name, count in (usage or {}).items() if count is not None}
