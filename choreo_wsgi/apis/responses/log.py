"""What the logged events of a response have told, and the event that ends a lost one."""

from __future__ import annotations

import re
from collections.abc import Iterable

from ... import sse
from ...chat.endings import RESPONSE_ENDINGS
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
    _break_off(response["output"])
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


def read_events(events: Iterable[Json], status: str) -> tuple[dict[str, Json], int]:
    """Return the response that *events* tell of, so far as they are there, and the number of the
    next one.  *status* is that of a response that has not ended.
    """
    response: dict[str, Json] = {}
    items: dict[int, dict[str, Json]] = {}
    # What is not done yet by the item's place: the item or its part, and what fills it.
    unfilled: dict[int, tuple[dict[str, Json], list[str]]] = {}
    kind, number = "", 0
    for event in events:
        # Before the first event stands how the response was queued, which has no type.
        kind, index = event.get("type", ""), event.get("output_index", -1)
        number = event.get("sequence_number", -1) + 1
        if event.get("response"):
            response = event["response"]
        elif event.get("item"):
            items[index] = event["item"]
            unfilled[index] = event["item"], []
        elif event.get("part") and index in items:
            holder = "summary" if "summary_index" in event else "content"
            parts = items[index][holder] = items[index].get(holder) or []
            parts[event.get(f"{holder}_index") or 0 :] = [event["part"]]
            unfilled[index] = event["part"], []
        elif index in unfilled and isinstance(event.get("delta"), str):
            unfilled[index][1].append(event["delta"])
    if kind in RESPONSE_ENDINGS and (response.get("output") or not items):
        return response, number
    for filled, pieces in unfilled.values():
        member = next((name for name in _FILLED if name in filled), "")
        if pieces and member:
            filled[member] = "".join([filled[member] or "", *pieces])
    output = [items[at] for at in sorted(items)]
    if kind in RESPONSE_ENDINGS:  # what a provider's own events told before they broke off
        _break_off(output)
        status = response["status"]
    elif status == "in_progress" and not number:
        status = "queued"
    return {**response, "status": status, "output": output}, number


def _break_off(output: Iterable[dict[str, Json]]) -> None:
    for item in output:
        if item.get("status") == "in_progress":
            item["status"] = "incomplete"
