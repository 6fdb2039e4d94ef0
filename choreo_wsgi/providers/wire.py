"""What reading providers' JSON has in common: strict, and never an error of ours."""

from __future__ import annotations

import json
import secrets
from collections.abc import Mapping
from typing import Any

from ..chunks import Delta, Item, ToolCall
from ..errors import ChoreoError, from_provider

__all__ = [
    "arguments",
    "count",
    "error_message",
    "new_call_id",
    "provider_failure",
    "text",
    "whole_call",
]

Json = Any  # what json.loads returns

#: What a wrong shape raises where JSON is taken apart; RecursionError: brackets without end.
SHAPE_ERRORS = (AttributeError, IndexError, KeyError, TypeError, ValueError, RecursionError)

_SHOWN = 200


def text(value: Json) -> str:
    """Return *value* if it is text, ``""`` for null; raises TypeError."""
    if value is None:
        return ""
    if not isinstance(value, str):
        raise TypeError(f"{value!r} is not text")
    return value


def count(value: Json) -> int | None:
    """Return *value* if it is a number of tokens; None for whatever else (and for true)."""
    return value if type(value) is int and value >= 0 else None


def arguments(value: Json) -> str:
    """Return a call's arguments, an object that came whole, as compact JSON text."""
    if isinstance(value, str):
        return value
    return json.dumps(value if value is not None else {}, ensure_ascii=False, separators=(",", ":"))


def whole_call(
    number: int,
    id: str,
    name: str,
    given: str,
    index: int = 0,
    extra: dict[str, Json] | None = None,
) -> list[Item]:
    """Return a tool call that came whole as any other: who is called first, then with what."""
    start, rest = ToolCall(number, id, name, "", extra), ToolCall(number, arguments=given)
    return [Delta(index=index, tool_calls=[start]), Delta(index=index, tool_calls=[rest])]


def new_call_id() -> str:
    """Return an id for a tool call that its provider gave none."""
    return "call_" + secrets.token_hex(12)


def error_message(body: bytes) -> tuple[str, dict[str, Json]]:
    """Return the message in an error's *body* and the object it stood in.

    Understands ``{"error": {"message"}}``, ``{"error": "..."}``, ``{"message"}``,
    ``{"detail"}`` and any of these in a list; of a body that is no JSON its beginning, and
    nothing of HTML.
    """
    shown = body.decode("utf-8", "replace").strip()
    try:
        value = json.loads(shown)
    except (ValueError, RecursionError):
        return ("" if shown.startswith("<") else shown[:_SHOWN]), {}
    if isinstance(value, list) and value:
        value = value[0]
    if not isinstance(value, dict):
        return shown[:_SHOWN], {}
    inner = value.get("error")
    if isinstance(inner, dict):
        value = inner
    for found in (inner, value.get("message"), value.get("Message"), value.get("detail")):
        if isinstance(found, str) and found:
            return found, value
    return shown[:_SHOWN], value


def provider_failure(status: int, message: str, error: Mapping[str, Json]) -> ChoreoError:
    """Return what an error that came inside a stream means; *status* is the HTTP status it
    would have had."""
    code, param = (error.get(name) for name in ("code", "param"))
    return from_provider(
        status,
        message or "the provider reported an error",
        code=code if isinstance(code, str) else None,
        param=param if isinstance(param, str) else None,
    )
