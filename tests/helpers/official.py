"""Checks by the official types of both new APIs: no member is missing, none is unknown."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

from anthropic.types import Message, RawMessageStreamEvent
from openai.types.responses import Response, ResponseStreamEvent
from pydantic import BaseModel, TypeAdapter

from choreo_wsgi import sse

RESPONSE_EVENT: TypeAdapter[Any] = TypeAdapter(ResponseStreamEvent)
MESSAGE_EVENT: TypeAdapter[Any] = TypeAdapter(RawMessageStreamEvent)
RESPONSE: TypeAdapter[Any] = TypeAdapter(Response)
MESSAGE: TypeAdapter[Any] = TypeAdapter(Message)

#: Members that the types do not have: ``store``, which OpenAI sends, Google's signatures
#: (``extra_content``), and the members of our errors beside OpenAI's.
_ALLOWED = {"store", "extra_content", "type", "param"}


def events_of(frames: bytes) -> list[dict[str, Any]]:
    """Return the data of *frames*, each of which is named by its type."""
    events = sse.Decoder().receive_data(frames)
    data = [json.loads(event.data) for event in events]
    assert [event.event for event in events] == [event["type"] for event in data]
    return data


def judge(kind: TypeAdapter[Any], value: Any) -> None:
    """Fail unless *value*, an event or a document, is exactly of the type *kind*.

    The check is strict: a number is not a string, and a member that the type lacks is an error.
    """
    found = kind.validate_json(json.dumps(value), strict=True)
    assert [name for name in _unknown(found) if name not in _ALLOWED] == [], value


def judge_events(events: list[dict[str, Any]]) -> None:
    """Judge the *events* of either API's stream, each by its ``type``."""
    for event in events:
        kind = RESPONSE_EVENT if event["type"].startswith("response.") else MESSAGE_EVENT
        if event["type"] == "error":  # Anthropic's union of stream events does not contain it
            assert event["error"].keys() == {"type", "message"}
        else:
            judge(kind, event)


#: The events of one output item, without their prefix and with deltas as one.
_ITEM = re.compile(
    r"output_item\.added ((\w+_part)\.added )?((\w+\.delta|output_text\.annotation\.added) )*"
    r"(\w+\.done )?(?(2)\2\.done )output_item\.done"
)
_TEXTS = ("text", "refusal", "arguments", "input")


def judge_order(events: list[dict[str, Any]]) -> None:
    """Fail unless *events*, a stream of either API to its end, are in order and agree.

    Each block is opened, extended and closed under one id, in the order of the indexes; the text
    that closes it is that of its deltas, and the response at the end has the same items.
    """
    if events[0]["type"] == "message_start":
        _judge_message(events)
    elif events[0]["type"] != "error":
        _judge_response(events)


def _judge_message(events: list[dict[str, Any]]) -> None:
    kinds = [event["type"] for event in events]
    is_whole = kinds[-1] == "message_stop"
    assert not is_whole or kinds[-2] == "message_delta"
    begun, opened = 0, set()
    for event in events[1 : -2 if is_whole else -1]:
        if event["type"] == "content_block_start":
            assert event["index"] == begun
            begun += 1
            opened.add(event["index"])
        assert event["index"] in opened
        if event["type"] == "content_block_stop":
            opened.remove(event["index"])
    assert not (is_whole and opened)


def _judge_response(events: list[dict[str, Any]]) -> None:
    kinds = [event["type"].removeprefix("response.") for event in events]
    assert kinds[:2] == ["created", "in_progress"]
    assert [event["sequence_number"] for event in events] == list(range(len(events)))
    ids: list[str] = []
    steps: dict[int, list[str]] = {}
    texts: dict[int, str] = {}
    done: dict[int, Any] = {}
    for event, kind in zip(events[2:-1], kinds[2:-1], strict=True):
        index, item = event["output_index"], event.get("item") or {}
        if kind == "output_item.added":
            assert index == len(ids)
            ids.append(item["id"])
            steps[index], texts[index] = [], ""
        assert ids[index] == item.get("id", event.get("item_id")) and index not in done
        if steps[index][-1:] != [kind] or not kind.endswith(".delta"):
            steps[index].append(kind)
        if kind.endswith(".delta"):
            texts[index] += event["delta"]
        elif kind.endswith(".done") and not item:
            said = event.get("part") or event
            assert texts[index] == next(said[name] for name in _TEXTS if name in said)
        elif kind == "output_item.done":
            assert _ITEM.fullmatch(" ".join(steps[index])), steps[index]
            done[index] = item
    if kinds[-1] in ("completed", "incomplete"):
        response = events[-1]["response"]
        assert response["status"] == kinds[-1]
        assert (response["incomplete_details"] is None) == (kinds[-1] == "completed")
        assert response["output"] == [done[index] for index in range(len(ids))]


def _unknown(value: Any) -> Iterator[str]:
    """Yield the names of members anywhere in *value* that its types do not have."""
    if isinstance(value, BaseModel):
        yield from value.model_extra or ()
        for name in type(value).model_fields:
            yield from _unknown(getattr(value, name, None))
    elif isinstance(value, list):
        for item in value:
            yield from _unknown(item)
