"""Chat chunks read from the bytes of an OpenAI-compatible stream."""

from __future__ import annotations

from ...chat.items import Delta, Finish, Item, Json, ToolCall
from ...errors import ChoreoError, UpstreamInvalid
from ..reading import parse_object, provider_error, read_usage
from .events import EventReader, Progress
from .repair import Repair

#: Members of a delta that have their place in an item.
_KNOWN = ("role", "content", "reasoning_content", "refusal", "tool_calls")


class OpenAIChunks:
    """Turns the event stream of ``POST /chat/completions``, split anywhere, into items."""

    def __init__(self, n: int = 1, max_event_bytes: int = 8 * 1024 * 1024) -> None:
        self.progress = Progress(n)
        self._reader = EventReader(max_event_bytes)
        self._repair = Repair(self.progress)
        self._failure: ChoreoError | None = None

    @property
    def finished(self) -> bool:
        """Whether the stream is complete: each choice finished, or ``[DONE]`` after content."""
        return self.progress.done or self.progress.all_finished

    def receive_data(self, data: bytes) -> list[Item]:
        """Take the next bytes; return the items that they complete, in order.

        Raises UpstreamInvalid for what is no chunk and the provider's own error for an
        ``error`` event; what came before the failure is returned first, and the next call
        raises.
        """
        if self._failure is not None:
            raise self._failure
        items: list[Item] = []
        if self.progress.done:
            return items
        events, failure = self._reader.read(data)
        try:
            for event in events:
                self._take(event.data.strip(), event.event, items)
                if self.progress.done:
                    return items
            if failure is not None:
                raise failure
        except ChoreoError as error:
            self._failure = error
            if not items:
                raise
        return items

    def close(self) -> None:
        """Say that the bytes have ended; raises UpstreamTruncated when it was too early."""
        if self._failure is not None:
            raise self._failure
        self.progress.check_end()

    def _take(self, text: str, event: str, items: list[Item]) -> None:
        if text == "[DONE]":
            self.progress.take_done()
            for choice in self._repair.closing():
                items.append(Finish(choice["finish_reason"], choice["index"]))
            return
        if not text:
            return  # an empty keep-alive
        chunk = parse_object(text)
        if event == "error":
            raise provider_error(chunk)
        before = self._repair.usage
        for one in self._repair.take(chunk)[0]:
            for choice in one["choices"]:
                items += _items(choice)
        usage = self._repair.usage
        if usage is not None and usage is not before:
            items.append(read_usage(usage))


def _items(choice: dict[str, Json]) -> list[Item]:
    index, delta = choice["index"], choice["delta"]
    extra = {key: value for key, value in delta.items() if key not in _KNOWN and value is not None}
    item = Delta(
        _text(delta, "content"),
        index,
        _text(delta, "reasoning_content"),
        _text(delta, "refusal"),
        [_call(call) for call in delta.get("tool_calls") or ()] or (),
        extra or None,
    )
    items: list[Item] = []
    if item.text or item.reasoning or item.refusal or item.tool_calls or extra:
        items.append(item)
    if choice.get("finish_reason"):
        items.append(Finish(choice["finish_reason"], index))
    return items


def _call(call: dict[str, Json]) -> ToolCall:
    function = call.get("function") or {}
    if not isinstance(function, dict):
        raise UpstreamInvalid("the provider's tool call has no function")
    extra = {key: call[key] for key in call if key not in ("index", "id", "type", "function")}
    return ToolCall(
        call["index"],
        _text(call, "id"),
        _text(function, "name"),
        _text(function, "arguments"),
        extra or None,
    )


def _text(members: dict[str, Json], key: str) -> str:
    value = members.get(key)
    if value is None:
        return ""
    if not isinstance(value, str):
        raise UpstreamInvalid(f"the provider's {key} is not a string")
    return value
