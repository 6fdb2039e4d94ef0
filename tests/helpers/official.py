"""Checks by the official types of both new APIs: no member is missing, none is unknown."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from anthropic.types import Message, RawMessageStreamEvent
from openai.types.responses import Response, ResponseStreamEvent
from pydantic import BaseModel, TypeAdapter

RESPONSE_EVENT: TypeAdapter[Any] = TypeAdapter(ResponseStreamEvent)
MESSAGE_EVENT: TypeAdapter[Any] = TypeAdapter(RawMessageStreamEvent)
RESPONSE: TypeAdapter[Any] = TypeAdapter(Response)
MESSAGE: TypeAdapter[Any] = TypeAdapter(Message)

#: Members that the types do not have: ``store``, which OpenAI sends, Google's signatures
#: (``extra_content``), and the members of our errors beside OpenAI's.
_ALLOWED = {"store", "extra_content", "type", "param"}


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


def _unknown(value: Any) -> Iterator[str]:
    """Yield the names of members anywhere in *value* that its types do not have."""
    if isinstance(value, BaseModel):
        yield from value.model_extra or ()
        for name in type(value).model_fields:
            yield from _unknown(getattr(value, name, None))
    elif isinstance(value, list):
        for item in value:
            yield from _unknown(item)
