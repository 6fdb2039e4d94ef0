"""Strict reading of providers' JSON: whatever is wrong with it is an error of the provider."""

from __future__ import annotations

from collections.abc import Mapping
from decimal import Decimal
from math import isfinite
from typing import TYPE_CHECKING

from ..chat import jsontext
from ..chat.items import Json, Usage
from ..chat.longtext import LONG
from ..chat.shapes import ERROR_HOLDERS, ERROR_STATES, ERRORS, numbered
from ..errors import UpstreamInvalid
from ..late import Late

if TYPE_CHECKING:
    from . import weight
else:
    weight = Late("choreo_wsgi.providers.weight")

#: Exceptions from reading JSON of an unexpected shape; RecursionError: nested too deeply.
SHAPE_ERRORS = (AttributeError, IndexError, KeyError, TypeError, ValueError, RecursionError)

#: Most events that are parsed one by one in a call, and bytes that a translator reads at once: an
#: upstream may send ten thousand tiny events in a block, and other streams wait meanwhile.
AT_ONCE, PIECE = 64, 8 * 1024


def unknown_shape(error: Exception) -> UpstreamInvalid:
    """Return the error of the provider for *error*, one of SHAPE_ERRORS."""
    if isinstance(error, jsontext.TooMuch):
        return UpstreamInvalid(f"the provider sent data that {error}")
    return UpstreamInvalid(f"the provider's answer has an unknown shape: {error!r}"[:500])


def text(value: Json) -> str:
    """Return *value* if it is a string, ``""`` for null; raises TypeError for other values."""
    if value is None:
        return ""
    if not isinstance(value, str):
        raise TypeError(f"{value!r} is not text")
    return value


#: Limit of digits of an integer written with an exponent: a few bytes would become thousands.
_MOST_DIGITS = 400


def _float(text: str) -> Json:
    """Return the number in *text*, as an integer if it is too large for a float.

    Python would read infinity, which it then writes in a way that JSON does not have.
    """
    value = float(text)
    if isfinite(value):
        return value
    if Decimal(text).adjusted() > _MOST_DIGITS:
        raise ValueError("a number is too large")
    return int(Decimal(text))


decode = jsontext.Decoder(parse_constant=jsontext.refuse, parse_float=_float)


def parse_json(text: str | bytes, values: int = jsontext.MAX_VALUES) -> Json:
    """Return the JSON value in *text*; raises UpstreamInvalid."""
    try:
        if isinstance(text, bytes) and len(text) > jsontext.LARGE:
            return jsontext.parse_large(text, decode, values)
        return jsontext.parse(text, decode, values)
    except jsontext.TooMuch as error:
        raise unknown_shape(error) from error
    except ValueError as error:
        raise UpstreamInvalid("the provider sent data that is not JSON") from error


#: Limit of values: _FEW_VALUES and one for each _BYTES_A_VALUE bytes, but at most _MOST_VALUES.
_FEW_VALUES, _BYTES_A_VALUE, _MOST_VALUES = 30_000, 128, 40_000


def most_values(text: str | bytes, marks: int = 0, size: int = 0) -> int:
    """Return the limit of values in *text*, with so many *marks*, of an event of *size* bytes.

    It allows for an answer that repeats the tools of the request; see :mod:`.weight`.
    """
    values = min(_MOST_VALUES, _FEW_VALUES + len(text) // _BYTES_A_VALUE)
    if max(len(text), size) <= LONG:
        return values
    return weight.limited(values, text, marks, size)


def parse_object(text: str | bytes, values: int = 0) -> dict[str, Json]:
    """Return the JSON object in *text*; raises UpstreamInvalid for anything else.

    *values* limits the values in it; the default is :func:`most_values`.
    """
    value = parse_json(text, values or most_values(text))
    if not isinstance(value, dict):
        raise UpstreamInvalid("the provider sent data that is not a JSON object")
    return value


#: In an object without choices these members report an error if they are not empty.
_DETAILS = ("error_message", "error_msg", "errorMessage", "err", "err_msg", "errmsg", "detail")
#: These do if they are one of the words in _FAILED.
_WORDS = ("object", "type", "status", "state", "event")
_FAILED = frozenset(("error", "failed", "failure"))
#: These do unless the code next to them means success.
_MESSAGES = ("message", "msg", "details", "Message")
#: An object without any of these reports no error.
_SIGNS = {*_WORDS[1:], *_DETAILS, *_MESSAGES, "is_error", "success", "ok", "Response"}


def find_error(value: Json) -> Json:
    """Return the part of *value*, a parsed answer or event, that reports an error, or None.

    That includes an error next to choices, or in one of them, as OpenRouter sends it.
    """
    if isinstance(value, list):
        return next((one for one in map(find_error, value) if one is not None), None)
    if not isinstance(value, dict):
        return None
    found: Json = None
    if not ERRORS.isdisjoint(value):
        found = next(filter(None, map(value.get, ERROR_HOLDERS)), None)
        if found and not (isinstance(found, dict) and not any(found.values())):
            return value if isinstance(found, str | bool) else found
        for name in ERROR_STATES:
            state = value.get(name)
            if isinstance(state, dict) and any(map(state.get, ("status_code", "code", "error"))):
                return state
    choices = numbered(value.get("choices"))
    if choices:
        for one in choices if isinstance(choices, list) else ():
            if isinstance(one, dict):
                for holder in (one, one.get("delta"), one.get("message")):
                    if isinstance(holder, dict) and holder.get("error"):
                        return holder["error"]
        return None
    if found or isinstance(value.get("error"), dict | list):  # an empty object or list
        return value
    if value.get("object") != "error" and _SIGNS.isdisjoint(value):
        return None  # such as an event with only usage
    words = map(value.get, _WORDS)
    if any(word.lower() in _FAILED for word in words if isinstance(word, str)):
        return value
    if any(map(value.get, (*_DETAILS, "is_error"))) or False in map(value.get, ("success", "ok")):
        return value
    if any(map(value.get, _MESSAGES)):
        return None if value.get("code") in (0, 200, "0", "200") else value
    status = jsontext.count(value.get("status"))
    return value if status and 400 <= status < 600 else find_error(value.get("Response"))


def unwrapped(value: Json) -> Json:
    """Return the completion or chunk in a member of *value* that wraps it, or *value* itself."""
    if isinstance(value, dict) and "choices" not in value:
        for inner in map(value.get, ("data", "result", "response", "output", "completion", "body")):
            if isinstance(inner, dict) and inner.get("choices"):
                return {"usage": value["usage"], **inner} if value.get("usage") else inner
    return value


class Counts:
    """A reader of a provider's ``usage``: for each count of Usage, where the provider has it.

    Each argument has the names, separated by spaces, of the members to add up; ``a.b`` is the
    member *b* of the object *a*.
    """

    def __init__(self, prompt: str, completion: str, **more: str) -> None:
        self._places = [
            (f"{to}_tokens", *name.partition(".")[::2])
            for to, names in {"prompt": prompt, "completion": completion, **more}.items()
            for name in names.split()
        ]

    def read(self, usage: Mapping[str, Json]) -> Usage | None:
        """Return the counts in *usage*, None if it has none; invalid counts are skipped."""
        found: dict[str, int] = {}
        for to, name, within in self._places:
            value = usage.get(name)
            if within:
                value = value.get(within) if isinstance(value, dict) else None
            number = jsontext.count(value)
            if number is not None:
                found[to] = found.get(to, 0) + number
        if not found:
            return None
        read = Usage(**found)
        if read.total_tokens == read.prompt_tokens + read.completion_tokens:
            read.total_tokens = None
        return read


def openai_counts(prompt: str, completion: str) -> Counts:
    """Return a reader of OpenAI's counts, which are of *prompt* and *completion* tokens."""
    return Counts(
        *(f"{prompt}_tokens", f"{completion}_tokens"),
        cached=f"{prompt}_tokens_details.cached_tokens",
        cache_write=f"{prompt}_tokens_details.cache_write_tokens",
        reasoning=f"{completion}_tokens_details.reasoning_tokens",
        total="total_tokens",
    )


CHAT = openai_counts("prompt", "completion")


def read_usage(usage: Mapping[str, Json]) -> Usage:
    """Return the counts in *usage*, the object of chat completions."""
    return CHAT.read(usage) or Usage()
