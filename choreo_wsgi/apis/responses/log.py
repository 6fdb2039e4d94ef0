"""Rebuilds a response from its logged events, and writes the event that ends a lost one."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator

from ... import sse
from ...chat import large
from ...chat.aside import shorten_into
from ...chat.endings import RESPONSE_ENDINGS
from ...chat.items import Json, Marks, dump
from ...chat.longtext import LONG, new_number
from ...errors import ChoreoError

#: OpenAI's codes for a failed response, by status; our own code is sent as ``type``.
_CODES = {429: "rate_limit_exceeded", 400: "invalid_prompt"}
_NUMBER = re.compile(rb'"sequence_number": ?([0-9]{1,9})')
#: The lists of a text that may have thousands of elements, and how long those are that are kept
#: as JSON.
_LISTS, _LONG_LIST = re.compile(rb'"(?:annotations|logprobs)": ?\[(?!\])'), 2048
#: The members of items and parts that deltas extend.
_TEXT_MEMBERS = ("refusal", "text", "input", "arguments")


def failed_event(response: dict[str, Json], error: ChoreoError, number: int) -> bytes:
    """Return the frame of ``response.failed`` with the sequence *number*; changes *response*."""
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
    """Return the frame of an ``error`` event: reading the response failed, not the response."""
    members = {"code": error.code or error.type, "message": error.message, "param": error.param}
    event = {"type": "error", "sequence_number": number, **members}
    return sse.frame(dump(event), event="error")


def contents(block: bytes) -> Iterator[memoryview]:
    """Yield the data of each frame in *block*, of numbered frames, without a copy."""
    view, at = memoryview(block), 0
    while (end := block.find(b"\n\n", at)) >= 0:
        yield view[block.index(b"\ndata: ", at) + 7 : end]
        at = end + 2


def events_in(block: bytes, marks: Marks) -> Iterator[Json]:
    """Yield the data of the events in *block*; the marks in them are added to *marks*."""
    for data in contents(block):
        short = str(shorten_into(marks, _without_lists(data, marks)), "utf-8", "replace")
        if short != "[DONE]":
            yield json.loads(short)


def _without_lists(data: memoryview, marks: Marks) -> bytes | memoryview:
    """Return *data*, of an event, with one mark for all elements of each long list."""
    parts: list[bytes | memoryview] = []
    done = 0
    for found in _LISTS.finditer(data) if len(data) > LONG else ():
        begin = found.end()
        if begin <= done or _list_end(data[: begin + _LONG_LIST], begin) is not None:
            continue
        if (end := _list_end(data, begin)) is not None:
            number = new_number().encode()
            marks[number] = data[begin:end]
            parts += data[done:begin], number
            done = end
    return large.join((*parts, data[done:])) if parts else data


def _list_end(data: memoryview, begin: int) -> int | None:
    """Return the offset behind the elements of the array, whose first is at *begin*."""
    try:
        return large.end_of_list(data, begin - 1) - 1
    except ValueError:  # the end is not there
        return None


def next_number(frames: bytes) -> int:
    """Return the sequence number that follows the last event in *frames*; 0 if it has none."""
    at = frames.rfind(b'"sequence_number":')
    found = _NUMBER.match(frames, at) if at >= 0 else None
    return int(found[1]) + 1 if found else 0


def read_events(events: Iterable[Json], status: str) -> tuple[dict[str, Json], int]:
    """Return the response that *events* describe so far, and the next sequence number.

    *status* is the status to report if the response has not ended.
    """
    response: dict[str, Json] = {}
    items: dict[int, dict[str, Json]] = {}
    # By output index: the latest object that deltas extend (item or part), and their texts.
    growing: dict[int, tuple[dict[str, Json], list[str]]] = {}
    kind, number = "", 0
    for event in events:
        # The first record of the log is the queued response, which has no type.
        kind, index = event.get("type", ""), event.get("output_index", -1)
        number = event.get("sequence_number", -1) + 1
        if event.get("response"):
            response = event["response"]
        elif event.get("item"):
            items[index] = event["item"]
            growing[index] = event["item"], []
        elif event.get("part") and index in items:
            holder = "summary" if "summary_index" in event else "content"
            parts = items[index][holder] = items[index].get(holder) or []
            parts[event.get(f"{holder}_index") or 0 :] = [event["part"]]
            growing[index] = event["part"], []
        elif index in growing and isinstance(event.get("delta"), str):
            growing[index][1].append(event["delta"])
    if kind in RESPONSE_ENDINGS and (response.get("output") or not items):
        return response, number
    for target, pieces in growing.values():
        member = next((name for name in _TEXT_MEMBERS if name in target), "")
        if pieces and member:
            target[member] = "".join([target[member] or "", *pieces])
    output = [items[at] for at in sorted(items)]
    if kind in RESPONSE_ENDINGS:  # the provider's own events, forwarded until they broke off
        _break_off(output)
        status = response["status"]
    elif status == "in_progress" and not number:
        status = "queued"
    return {**response, "status": status, "output": output}, number


def _break_off(output: Iterable[dict[str, Json]]) -> None:
    for item in output:
        if item.get("status") == "in_progress":
            item["status"] = "incomplete"
