"""What reading providers' JSON has in common: strict, and never an error of ours."""

from __future__ import annotations

import json
import secrets
from collections.abc import Mapping

from ..chat.items import Delta, Item, Json, ToolCall, Usage
from ..errors import ChoreoError, UpstreamInvalid, from_provider

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


def picture(number: int, media_type: str, data: str, index: int = 0) -> Delta:
    """Return a picture that the model drew, in OpenRouter's form; *data* is base64.

    *number* counts the pictures of a choice, so that a client that folds deltas keeps them apart.
    """
    url = f"data:{media_type};base64,{data}"
    image = {"index": number, "type": "image_url", "image_url": {"url": url}}
    return Delta(index=index, extra={"images": [image]})


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


# What a code in an error event means when it is a word; elsewhere it is the HTTP status.
_STATUS_OF = {
    "rate_limit_exceeded": 429,
    "rate_limit_error": 429,
    "insufficient_quota": 429,
    "invalid_request_error": 400,
    "context_length_exceeded": 400,
    "exceed_context_size_error": 400,
    "authentication_error": 401,
    "permission_error": 403,
    "not_found_error": 404,
    "timeout_error": 504,
    "overloaded_error": 503,
    "unavailable_error": 503,
    "service_unavailable": 503,
}
_MAX_MESSAGE = 4000


def _refuse(constant: str) -> Json:
    raise ValueError(f"{constant} is not JSON")


# Python's own parser lets NaN and Infinity pass, which no client could read.
_decode = json.JSONDecoder(parse_constant=_refuse).decode


def parse_object(text: str | bytes) -> dict[str, Json]:
    """Return the JSON object in *text*; raises UpstreamInvalid for anything else."""
    try:
        value = _decode(text if isinstance(text, str) else text.decode("utf-8"))
    except (ValueError, RecursionError) as error:
        raise UpstreamInvalid("the provider sent data that is not JSON") from error
    if not isinstance(value, dict):
        raise UpstreamInvalid("the provider sent data that is not a JSON object")
    return value


def provider_error(
    body: Json, status: int | None = None, retry_after: float | None = None
) -> ChoreoError:
    """Return the error in *body*, an object of whatever shape, as our caller is told of it.

    *status* is the answer's HTTP status; None inside a stream, where the error itself may
    name one.
    """
    error = body.get("error", body) if isinstance(body, dict) else body
    if not isinstance(error, dict):
        error = {"message": error}
    message = error.get("message") or error.get("detail") or "the provider reported an error"
    if not isinstance(message, str):
        message = json.dumps(message, ensure_ascii=False)
    told = [error.get(key) for key in ("code", "type", "status")]
    words = [word for word in told if isinstance(word, str) and not word.isdigit()]
    code = words[0] if words else None
    if "exceed_context_size_error" in words:  # llama.cpp's name
        code = "context_length_exceeded"
    if status is None:
        status = _status_in(error, words)
    param = error.get("param")
    return from_provider(
        status,
        message[:_MAX_MESSAGE],
        code=code,
        param=param if isinstance(param, str) else None,
        retry_after=retry_after,
    )


def _status_in(error: Mapping[str, Json], words: list[str]) -> int:
    for key in ("code", "status", "status_code"):
        value = error.get(key)
        if type(value) is int and 400 <= value < 600:
            return value
        if isinstance(value, str) and len(value) == 3 and value.isascii() and value.isdigit():
            return int(value)
    return next((_STATUS_OF[word] for word in words if word in _STATUS_OF), 502)


def retry_after(value: str | None) -> float | None:
    """Return the seconds of a Retry-After header; None for none, for a date, for nonsense."""
    text = (value or "").strip()
    if text.isascii() and text.replace(".", "", 1).isdigit() and len(text) < 8:
        return float(text)
    return None


def read_usage(usage: Mapping[str, Json]) -> Usage:
    """Return what *usage*, the API's object, says; counts that are none are left out."""
    prompt = usage.get("prompt_tokens_details")
    completion = usage.get("completion_tokens_details")
    prompt = prompt if isinstance(prompt, dict) else {}
    completion = completion if isinstance(completion, dict) else {}
    return Usage(
        _count(usage.get("prompt_tokens")) or 0,
        _count(usage.get("completion_tokens")) or 0,
        _count(prompt.get("cached_tokens")),
        _count(prompt.get("cache_write_tokens")),
        _count(completion.get("reasoning_tokens")),
    )


def _count(value: Json) -> int | None:
    return value if type(value) is int and value >= 0 else None
