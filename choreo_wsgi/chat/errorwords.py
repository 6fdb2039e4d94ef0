"""Finds the message in a provider's error of any shape."""

from __future__ import annotations

import json
from itertools import islice

from .items import Json
from .shapes import ERROR_HOLDERS

_ERROR_WORDS = (
    *("message", "error_message", "errorMessage", "error_msg", "Message", "msg", "status_msg"),
    *("faultstring", "detail", "details", "error_description", "description", *ERROR_HOLDERS),
    *("title", "err", "err_msg", "errmsg", "data", "result", "Response"),
)
_SHOWN = 500  # characters of an object without a message, or of a nested provider's error


def error_words(error: Json, places: bool = False) -> str:
    """Return the message in *error*, of any shape, or ``""``.

    With *places* the location in pydantic's ``{"loc": ["body", "n"], "msg": ...}`` is included.
    """
    if isinstance(error, str):
        return error
    if isinstance(error, list):
        return "; ".join(filter(None, (error_words(one, places) for one in error[:5])))
    if not isinstance(error, dict):
        return ""
    inner = (error_words(error.get(name), places) for name in _ERROR_WORDS)
    found = next(filter(None, inner), "")
    if not found and error:
        pieces = json.JSONEncoder(ensure_ascii=False).iterencode(error)  # most are not needed
        return "".join(islice(pieces, _SHOWN))[:_SHOWN]
    place, more = error.get("loc"), error.get("metadata")
    if places and isinstance(place, list):
        found = f"{'.'.join(map(str, place))}: {found}"
    raw = more.get("raw") if isinstance(more, dict) else None
    # OpenRouter puts the provider's error here; its own message is generic.
    return f"{found}: {raw[:_SHOWN]}" if isinstance(raw, str) and raw else found
