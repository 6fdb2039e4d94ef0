"""The official types of both new APIs judge every event: nothing missing, nothing unknown."""

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

#: What the types leave out: OpenAI sends it, Google's signatures have no other place, and the
#: code of an error of ours stands beside OpenAI's.
_BESIDE = {"store", "extra_content", "type", "param"}


def judge(kind: TypeAdapter[Any], value: Any) -> None:
    """Fail unless *value*, an event or a document, is exactly of the type *kind*.

    Strictly: a number is no string, and a member that the type does not have is a mistake.
    """
    found = kind.validate_json(json.dumps(value), strict=True)
    assert [name for name in _unknown(found) if name not in _BESIDE] == [], value


def judge_events(events: list[dict[str, Any]]) -> None:
    """Judge the *events* of either API's stream, by what each says that it is."""
    for event in events:
        kind = RESPONSE_EVENT if event["type"].startswith("response.") else MESSAGE_EVENT
        if event["type"] == "error":  # the type of Anthropic's is not among those of a stream
            assert event["error"].keys() == {"type", "message"}
        else:
            judge(kind, event)


def _unknown(value: Any) -> Iterator[str]:
    """Yield the members in *value*, however deep, that its types do not have."""
    if isinstance(value, BaseModel):
        yield from value.model_extra or ()
        for name in type(value).model_fields:
            yield from _unknown(getattr(value, name, None))
    elif isinstance(value, list):
        for one in value:
            yield from _unknown(one)
