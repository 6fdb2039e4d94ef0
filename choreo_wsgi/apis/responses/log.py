"""What the logged events of a response have told, and the event that ends a lost one."""

from __future__ import annotations

import re
from typing import Any

from ... import sse
from ...chat.items import Json, dump
from ...errors import ChoreoError

#: The codes that OpenAI's schema knows for a failed response; ours stands in ``type``.
_CODES = {429: "rate_limit_exceeded", 400: "invalid_prompt"}
_NUMBER = re.compile(rb'"sequence_number": ?([0-9]{1,9})')


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
    """A response put together from its events."""

    def __init__(self) -> None:
        self._response: dict[str, Json] = {}
        self._items: dict[int, Any] = {}
        self._ended = False
        #: The number of the next event.
        self.number = 0

    def add(self, event: dict[str, Any]) -> None:
        """Take the next event, or before the first how the response was queued."""
        kind: str = event.get("type", "")
        self.number = event.get("sequence_number", -1) + 1
        if "response" in event:
            self._response = event["response"]
            self._ended = kind not in ("", "response.created", "response.in_progress")
        elif kind in ("response.output_item.added", "response.output_item.done"):
            self._items[event["output_index"]] = event["item"]
        elif kind.endswith("part.added"):
            self._parts(event).append(event["part"])
        elif kind.endswith(".delta"):
            self._fill(event)

    def _parts(self, event: dict[str, Any]) -> list[Any]:
        item = self._items[event["output_index"]]
        parts: list[Any] = item.setdefault("summary" if "summary_index" in event else "content", [])
        return parts

    def _fill(self, event: dict[str, Any]) -> None:
        if "content_index" in event or "summary_index" in event:
            part = self._parts(event)[-1]
            member = "refusal" if part["type"] == "refusal" else "text"
            part[member] += event["delta"]
        else:
            item = self._items[event["output_index"]]
            member = "input" if "input" in item else "arguments"
            item[member] = item.get(member, "") + event["delta"]

    def response(self, status: str) -> dict[str, Json]:
        """Return the response as it is; *status* is that of one that has not ended."""
        if self._ended:
            return self._response
        if status == "in_progress" and not self.number:
            status = "queued"
        output = [self._items[index] for index in sorted(self._items)]
        return {**self._response, "status": status, "output": output}
