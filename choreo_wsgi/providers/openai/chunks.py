"""The translator of OpenAI-compatible streams: chat chunks in, items out."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress

from ... import sse
from ...chat.choice import CHANGED
from ...chat.items import Delta, Finish, Item, Json, Marks, ToolCall, Usage, new_call_id
from ...chat.normalise import Normaliser
from ...chat.schema import check_of, passes
from ...errors import UpstreamInvalid
from ..reading import find_error, read_usage, text
from ..translating import Translator
from ..unfolding import json_values, unfolded
from . import long
from .events import EventReader, read_chunks
from .long import AT_ONCE, MOST_ELEMENTS

#: Members of a delta, and of a choice, that have a field of an item.
_KNOWN = ("role", "content", "reasoning_content", "refusal", "tool_calls")
_OF_CHOICE = ("index", "delta", "finish_reason", "logprobs")


class OpenAITranslator(Translator):
    """Reads the event stream of ``POST /chat/completions`` with *n* choices.

    An event may have *limit* bytes.  *new_call_id* returns an id for a call without one.  *tools*
    are the names of the functions that the model may call.
    """

    def __init__(
        self,
        n: int = 1,
        limit: int = 8 * 1024 * 1024,
        new_call_id: Callable[[], str] = new_call_id,
        tools: frozenset[str] = frozenset(),
    ) -> None:
        super().__init__()
        self._reader = EventReader(limit)
        self._normaliser = Normaliser(n, new_id=new_call_id, tools=tools)
        self.marks = self._normaliser.marks
        # The data before and after the text of the last event with nothing but text; its choice.
        self._around: tuple[str, str, int] | None = None

    @property
    def usage(self) -> Usage | None:
        found = self._normaliser.usage
        return read_usage(found) if found is not None else None

    def translate(self, data: bytes, items: list[Item]) -> None:
        events, failure = self._reader.read(data)
        for event in events:
            self._read_event(event, items)
            if self.ended:
                return
        if failure is not None:
            raise failure

    def finish(self) -> list[Item]:
        items: list[Item] = []
        if not self.ended:
            with suppress(UpstreamInvalid):  # a truncated event
                self.translate(b"\n\n", items)  # a last event without its blank line
        if not self.ended:
            self._end(items)
        return items

    def _read_event(self, event: sse.Event, items: list[Item]) -> None:
        data = event.data
        if self._reader.kept and data in self._reader.kept:  # which hashes all of the data
            for chunk in long.read(self._reader.data(event), self.marks, event.event, reading=True):
                self._read_chunk(chunk, items)
            return
        if self._around is not None and event.event != "error":
            before, after, index = self._around
            text = data[len(before) : len(data) - len(after)]
            if _is_plain(text) and data.startswith(before) and data.endswith(after):
                items.append(Delta(text, index))
                return
        for _, chunk in read_chunks(data.strip().encode(), event.event):
            known = len(items)
            verdict = self._read_chunk(chunk, items)
            if verdict != CHANGED and len(items) == known + 1:
                self._learn(data, items[-1])

    def _read_chunk(self, chunk: dict[str, Json] | None, items: list[Item]) -> int:
        """Append the items of *chunk*, None for the end; return the normaliser's verdict."""
        if chunk is None:
            self._normaliser.mark_done()
            self._end(items)
            return CHANGED
        chunks, verdict = self._normaliser.normalise(chunk)
        for one in chunks:
            for choice in one["choices"]:
                items += _items(choice)
        return verdict

    def _learn(self, data: str, item: Item) -> None:
        """Remember what surrounds the text of *item* in *data*, if the item has nothing else.

        An event with another text in that place needs no parsing: neither the state of the
        normaliser nor what it mends depends on the text.
        """
        if not isinstance(item, Delta) or item != Delta(item.text, item.index):
            return
        before, found, after = data.partition(f'"content":"{item.text}"')
        if found and _is_plain(item.text) and '"content"' not in before + after:
            self._around = f'{before}"content":"', f'"{after}', item.index

    def _end(self, items: list[Item]) -> None:
        for chunk in self._normaliser.end():
            for choice in chunk["choices"]:
                items += _items(choice)
        self.ended = True
        reported = self._normaliser.usage
        if reported is not None:
            items.append(read_usage(reported))


def _is_plain(text: str) -> bool:
    """Whether *text* is the same in JSON, and not empty: an empty text makes no item."""
    return bool(text) and text.isprintable() and '"' not in text and "\\" not in text


#: The lists whose elements become several events each.
_BLOCKS = ("images", "content_parts")
#: Members of a delta that writers of other APIs read, and the check of each element.
_LISTS = {
    "images": check_of({"image_url!": {"url!": str}}),
    "content_parts": check_of(dict),
    "thinking_blocks": check_of({"type thinking signature data": str}),
    "annotations": check_of({"url_citation": dict}),
}


def _items(choice: dict[str, Json]) -> list[Item]:
    index, delta = choice["index"], choice["delta"]
    extra = {key: value for key, value in delta.items() if key not in _KNOWN and value is not None}
    following: list[Item] = []
    for name in _LISTS.keys() & extra.keys():
        elements = extra[name] if isinstance(extra[name], list) else []
        extra[name] = found = [one for one in elements if passes(_LISTS[name], one)]
        if len(found) > MOST_ELEMENTS:
            raise UpstreamInvalid(f"the provider sent more than {MOST_ELEMENTS:,} {name} at once")
        if name in _BLOCKS:
            extra[name] = found[:AT_ONCE]
            for at in range(AT_ONCE, len(found), AT_ONCE):
                following.append(Delta(index=index, extra={name: found[at : at + AT_ONCE]}))
    read = choice.get("logprobs")
    read = read if isinstance(read, dict) else {}
    logprobs = {key: value for key, value in read.items() if value}
    item = Delta(
        text(delta.get("content")),
        index,
        text(delta.get("reasoning_content")),
        text(delta.get("refusal")),
        [_call(call) for call in delta.get("tool_calls", ())] or (),
        extra or None,
        logprobs or None,
    )
    items: list[Item] = []
    first = 0 if following else AT_ONCE
    later, item.tool_calls = list(item.tool_calls[first:]), item.tool_calls[:first]
    if item.text or item.reasoning or item.refusal or item.tool_calls or extra or logprobs:
        items.append(item)
    items += following
    for at in range(0, len(later), AT_ONCE):
        items.append(Delta(index=index, tool_calls=later[at : at + AT_ONCE]))
    if choice["finish_reason"]:
        more = {key: value for key, value in choice.items() if key not in _OF_CHOICE and value}
        items.append(Finish(choice["finish_reason"], index, more or None))
    return items


def _call(call: dict[str, Json]) -> ToolCall:
    function = call.get("function") or {}
    extra = {key: call[key] for key in call if key not in ("index", "id", "type", "function")}
    if "custom" in call:
        extra["type"] = "custom"
    return ToolCall(
        call["index"],
        text(call.get("id")),
        text(function.get("name")),
        text(function.get("arguments")),
        extra or None,
    )


def unfold(body: bytes) -> bytes | None:
    """Return *body* as the bytes of an event stream, or None if it holds no answer.

    A body is a plain completion, which the normaliser accepts as a chunk, or an array of chunks,
    or a chunk on each line.
    """
    marks: Marks = {}
    short = long.shorten(body, marks)
    values = json_values(short, len(marks), len(body))
    chunks = all(isinstance(value, dict) for value in values)
    if not chunks or find_error(values) or not any(value.get("choices") for value in values):
        return None
    cut = len(values) > 1 and body.startswith(b"{")  # lines may be truncated unnoticed
    return unfolded(values, marks, last=b"" if cut else sse.DONE)
