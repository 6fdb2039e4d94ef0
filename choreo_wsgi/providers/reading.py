"""What reading providers' JSON has in common: strict, and never an error of ours."""

from __future__ import annotations

from collections.abc import Mapping
from decimal import Decimal
from math import isfinite

from ..chat import jsontext
from ..chat.items import Json, Usage
from ..chat.shapes import ERROR_HOLDERS, ERROR_STATES, ERRORS, numbered
from ..errors import UpstreamInvalid

#: What a wrong shape raises where JSON is taken apart; RecursionError: brackets without end.
SHAPE_ERRORS = (AttributeError, IndexError, KeyError, TypeError, ValueError, RecursionError)


def unknown_shape(error: Exception) -> UpstreamInvalid:
    """Return what one of SHAPE_ERRORS means for the caller."""
    return UpstreamInvalid(f"the provider's answer has an unknown shape: {error!r}"[:500])


def text(value: Json) -> str:
    """Return *value* if it is text, ``""`` for null; raises TypeError."""
    if value is None:
        return ""
    if not isinstance(value, str):
        raise TypeError(f"{value!r} is not text")
    return value


#: Longer numbers are not read: Python does not write whole numbers of more digits (CVE-2020-10735).
_MOST_DIGITS = 4000


def _float(text: str) -> Json:
    """Return the number in *text*; one that no float can hold as a whole number.

    Python would make infinity of it, which it then writes as no JSON knows it.
    """
    value = float(text)
    if isfinite(value):
        return value
    if Decimal(text).adjusted() > _MOST_DIGITS:
        raise ValueError("a number is too large")
    return int(Decimal(text))


decode = jsontext.Decoder(parse_constant=jsontext.refuse, parse_float=_float)


#: Values that may be in what is read as a whole.
MAX_VALUES = jsontext.MAX_VALUES


def parse_json(text: str | bytes, values: int = MAX_VALUES) -> Json:
    """Return the JSON value in *text*; raises UpstreamInvalid."""
    try:
        return jsontext.parse(text, decode, values)
    except jsontext.TooMuch as error:
        raise UpstreamInvalid(f"the provider sent data that {error}") from error
    except ValueError as error:
        raise UpstreamInvalid("the provider sent data that is not JSON") from error


#: Values that an event or an answer may hold, and one more for each so many bytes, up to so many.
_FEW_VALUES, _BYTES_A_VALUE, _MOST_VALUES = 30_000, 128, 40_000


def most_values(text: str | bytes) -> int:
    """Return how many values *text* may hold whose log probabilities need not be read.

    It may repeat the tools of a request, which holds fewer.
    """
    return min(_MOST_VALUES, _FEW_VALUES + len(text) // _BYTES_A_VALUE)


def parse_object(text: str | bytes, values: int = 0) -> dict[str, Json]:
    """Return the JSON object in *text*; raises UpstreamInvalid for anything else.

    It may hold so many *values*, or as many as :func:`most_values` says.
    """
    value = parse_json(text, values or most_values(text))
    if not isinstance(value, dict):
        raise UpstreamInvalid("the provider sent data that is not a JSON object")
    return value


#: What an object without choices has, or says, if it is an error.
_TOLD = ("error_message", "error_msg", "errorMessage", "err", "err_msg", "errmsg", "detail")
_WORDS = ("object", "type", "status", "state", "event")
_SAID = ("message", "msg", "details", "Message")
_TELLING = {*_WORDS[1:], *_TOLD, *_SAID, "is_error", "success", "ok", "Response"}
_FAILED = frozenset(("error", "failed", "failure"))


def find_error(value: Json) -> Json:
    """Return the part of *value*, a parsed answer or event, that reports an error, or None.

    An error beside choices, or in one of them, counts too, as OpenRouter sends it.
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
    if found or isinstance(value.get("error"), dict | list):  # an empty one
        return value
    if value.get("object") != "error" and _TELLING.isdisjoint(value):
        return None  # as usage alone
    words = map(value.get, _WORDS)
    if any(word.lower() in _FAILED for word in words if isinstance(word, str)):
        return value
    if any(map(value.get, (*_TOLD, "is_error"))) or False in map(value.get, ("success", "ok")):
        return value
    if any(map(value.get, _SAID)):
        return None if value.get("code") in (0, 200, "0", "200") else value
    status = jsontext.count(value.get("status"))
    return value if status and 400 <= status < 600 else find_error(value.get("Response"))


def unwrapped(value: Json) -> Json:
    """Return the completion, or chunk, that *value* has one level further in, or *value*."""
    if isinstance(value, dict) and "choices" not in value:
        for inner in map(value.get, ("data", "result", "response", "output", "completion", "body")):
            if isinstance(inner, dict) and inner.get("choices"):
                return {"usage": value["usage"], **inner} if value.get("usage") else inner
    return value


class Counts:
    """Where a provider's ``usage`` has what stands in a :class:`~choreo_wsgi.chat.items.Usage`.

    Each is the names of counts that are added up; ``a.b`` is *b* within *a*.
    """

    def __init__(self, prompt: str, completion: str, **more: str) -> None:
        self._places = [
            (f"{to}_tokens", *name.partition(".")[::2])
            for to, names in {"prompt": prompt, "completion": completion, **more}.items()
            for name in names.split()
        ]

    def read(self, usage: Mapping[str, Json]) -> Usage | None:
        """Return what *usage* says, None for nothing; counts that are none are left out."""
        found: dict[str, int] = {}
        for to, name, within in self._places:
            if name not in usage:
                continue
            value = usage.get(name)
            if within and value is not None:
                value = value.get(within) if isinstance(value, dict) else None
            if value is None:
                continue
            number = value if type(value) is int and value >= 0 else jsontext.count(value)
            if number is not None:
                found[to] = found.get(to, 0) + number
        if not found:
            return None
        made = Usage(**found)
        if made.total_tokens == made.prompt_tokens + made.completion_tokens:
            made.total_tokens = None
        return made


def _openais(prompt: str, completion: str) -> Counts:
    return Counts(
        *(f"{prompt}_tokens", f"{completion}_tokens"),
        cached=f"{prompt}_tokens_details.cached_tokens",
        cache_write=f"{prompt}_tokens_details.cache_write_tokens",
        reasoning=f"{completion}_tokens_details.reasoning_tokens",
        total="total_tokens",
    )


#: Those of chat completions, of Responses and of Anthropic's Messages, whose input has nothing
#: that was cached in it.
CHAT, RESPONSES = _openais("prompt", "completion"), _openais("input", "output")
MESSAGES = Counts(
    *("input_tokens cache_creation_input_tokens cache_read_input_tokens", "output_tokens"),
    cached="cache_read_input_tokens",
    cache_write="cache_creation_input_tokens",
    reasoning="output_tokens_details.thinking_tokens",
)


def read_usage(usage: Mapping[str, Json]) -> Usage:
    """Return what *usage*, the object of chat completions, says."""
    return CHAT.read(usage) or Usage()
