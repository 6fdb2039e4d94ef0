"""What the logged events of a response have told, and the event that ends a lost one."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any

from ... import sse
from ...chat.items import Json, dump
from ...errors import ChoreoError

#: The codes that OpenAI's schema knows for a failed response; ours stands in ``type``.
_CODES = {429: "rate_limit_exceeded", 400: "invalid_prompt"}
_NUMBER = re.compile(rb'"sequence_number": ?([0-9]{1,9})')
#: Where an item or a part has what deltas fill it with.
_FILLED = ("refusal", "text", "input", "arguments")


def failed_event(response: dict[str, Json], error: ChoreoError, number: int) -> bytes:
    """Return the frame of ``response.failed``, the event *number*, for *response* as it is."""
    if error.code == "stream_cancelled":
        response["status"] = "cancelled"
    else:
        response["status"] = "failed"
        response["error"] = {
            "code": _CODES.get(error.status, "server_error"),
            "message": error.message,
            "type": error.code or error.type,
            "param": error.param,
        }
    for item in response["output"]:
        if item.get("status") == "in_progress":
            item["status"] = "incomplete"
    event = {"type": "response.failed", "sequence_number": number, "response": response}
    return sse.frame(dump(event), event="response.failed")


def error_event(error: ChoreoError, number: int) -> bytes:
    """Return the frame of the event ``error``: the response goes on, its reading does not."""
    told = {"code": error.code or error.type, "message": error.message, "param": error.param}
    event = {"type": "error", "sequence_number": number, **told}
    return sse.frame(dump(event), event="error")


def next_number(frames: bytes) -> int:
    """Return the number behind that of the last event in *frames*, 0 if there is none."""
    at = frames.rfind(b'"sequence_number":')
    found = _NUMBER.match(frames, at) if at >= 0 else None
    return int(found[1]) + 1 if found else 0


class Told:
    """A response put together from its *events*, or what is there of them."""

    def __init__(self, events: Iterable[dict[str, Any]]) -> None:
        self._response: dict[str, Json] = {}
        self._items: dict[int, Any] = {}
        # What is not done yet by the item's place: the item or its part, and what fills it.
        self._open: dict[int, tuple[Any, list[str]]] = {}
        self._ended = False
        #: The number of the next event.
        self.number = 0
        for event in events:
            self._add(event)

    def _add(self, event: dict[str, Any]) -> None:
        # Before the first event stands how the response was queued, which has no type.
        kind, index = event.get("type", ""), event.get("output_index", -1)
        self.number = event.get("sequence_number", -1) + 1
        if "response" in event:
            self._response = event["response"]
            self._ended = kind not in ("", "response.created", "response.in_progress")
        elif "item" in event:
            self._items[index] = event["item"]
            self._open[index] = event["item"], []
        elif "part" in event:
            holder = "summary" if "summary_index" in event else "content"
            parts = self._items[index].setdefault(holder, [])
            parts[event[f"{holder}_index"] :] = [event["part"]]
            self._open[index] = event["part"], []
        elif kind.endswith(".delta") and index in self._open:
            self._open[index][1].append(event["delta"])

    def response(self, status: str) -> dict[str, Json]:
        """Return the response as it is; *status* is that of one that has not ended."""
        if self._ended:
            return self._response
        for filled, pieces in self._open.values():
            member = next((name for name in _FILLED if name in filled), "")
            if pieces and member:
                filled[member] = "".join([filled[member], *pieces])
                pieces.clear()
        if status == "in_progress" and not self.number:
            status = "queued"
        output = [self._items[index] for index in sorted(self._items)]
        return {**self._response, "status": status, "output": output}
