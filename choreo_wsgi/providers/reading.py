"""What reading providers' JSON has in common: strict, and never an error of ours."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from decimal import Decimal
from math import isfinite
from typing import TYPE_CHECKING

from ..chat import jsontext
from ..chat.items import Delta, Finish, Item, Json, Marks, ToolCall, Usage, dump
from ..chat.items import new_call_id as new_call_id
from ..chat.shapes import ERROR_HOLDERS
from ..errors import UpstreamInvalid
from ..late import Late

if TYPE_CHECKING:
    from ..chat import aside, longtext
else:
    aside = Late("choreo_wsgi.chat.aside")
    longtext = Late("choreo_wsgi.chat.longtext")

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


def arguments(value: Json, marks: Marks | None = None) -> list[str]:
    """Return a call's arguments, which came whole, as compact JSON text, in pieces.

    Raises UpstreamInvalid for what is not an object, or the JSON text of one.
    """
    marks = marks or {}
    given: list[str] = []
    if isinstance(value, str):
        given = list(aside.pieces(value, marks)) if value.strip() else []
        try:
            value = aside.parse_pieces(given, {}, _decode) if given else {}
        except ValueError:
            value = [value]
    value = {} if value is None else value
    if not isinstance(value, dict):
        raise UpstreamInvalid("the provider sent a tool call whose arguments are not JSON")
    if given and value:
        return given
    text = json.dumps(value, ensure_ascii=False, separators=(",", ":"))
    if not aside.has_marks(text):
        return [text]
    return list(aside.decoded(longtext.restore(text.encode("utf-8", "backslashreplace"), marks)))


def whole_call(
    number: int,
    id: str,
    name: str,
    given: Iterable[str],
    index: int = 0,
    extra: dict[str, Json] | None = None,
) -> list[Item]:
    """Return a tool call that came whole as any other: who is called first, then with what."""
    calls = [ToolCall(number, id, name, "", extra)]
    calls += [ToolCall(number, arguments=piece) for piece in given]
    return [Delta(index=index, tool_calls=[call]) for call in calls]


def spread(items: Iterable[Item], marks: Marks) -> Iterator[Item]:
    """Yield *items* with what *marks* stand for: of a long text one piece after the other."""
    for item in items:
        if isinstance(item, Finish) and item.extra:
            item = replace(item, extra=_restored(item.extra, marks))
        if not isinstance(item, Delta):
            yield item
            continue
        index = item.index
        yield from (
            Delta("", index, piece) for piece in aside.pieces(item.reasoning, marks) if piece
        )
        yield from (Delta(piece, index) for piece in aside.pieces(item.text, marks) if piece)
        for piece in filter(None, aside.pieces(item.refusal, marks)):
            yield Delta(index=index, refusal=piece)
        for call in item.tool_calls:
            first, *others = aside.pieces(call.arguments, marks)
            yield Delta(index=index, tool_calls=[replace(call, arguments=first)])
            for piece in others:
                yield Delta(index=index, tool_calls=[ToolCall(call.index, arguments=piece)])
        if item.extra or item.logprobs:
            found = aside.marks_in(dump(item.extra), marks) | (item.marks or {})
            logprobs = item.logprobs and _restored(item.logprobs, marks)
            yield Delta(index=index, extra=item.extra, logprobs=logprobs, marks=found or None)


def _restored(value: Mapping[str, Json], marks: Marks) -> dict[str, Json]:
    restored: dict[str, Json] = json.loads(longtext.restore(dump(value), marks))
    return restored


def picture(
    number: int,
    media_type: str,
    data: str,
    index: int = 0,
    extra: Mapping[str, Json] | None = None,
) -> Delta:
    """Return a picture that the model drew, in OpenRouter's form; *data* is base64.

    *number* counts the pictures of a choice, so that a client that folds deltas keeps them apart.
    """
    url = f"data:{media_type};base64,{data}"
    image = {"index": number, "type": "image_url", "image_url": {"url": url}, **(extra or {})}
    return Delta(index=index, extra={"images": [image]})


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


_decode = jsontext.decoder(parse_constant=jsontext.refuse, parse_float=_float)


def parse_json(text: str | bytes, values: int = jsontext.MAX_VALUES) -> Json:
    """Return the JSON value in *text*; raises UpstreamInvalid."""
    try:
        return jsontext.parse(text, _decode, values)
    except jsontext.TooMuch as error:
        raise UpstreamInvalid(f"the provider sent data that {error}") from error
    except ValueError as error:
        raise UpstreamInvalid("the provider sent data that is not JSON") from error


def parse_object(text: str | bytes) -> dict[str, Json]:
    """Return the JSON object in *text*; raises UpstreamInvalid for anything else."""
    value = parse_json(text)
    if not isinstance(value, dict):
        raise UpstreamInvalid("the provider sent data that is not a JSON object")
    return value


def find_error(value: Json) -> Json:
    """Return the part of *value*, a parsed answer or event, that reports an error, or None.

    An error beside choices, or in one of them, counts too, as OpenRouter sends it.
    """
    if isinstance(value, list):
        return next((found for one in value if (found := find_error(one)) is not None), None)
    if not isinstance(value, dict):
        return None
    if found := next(filter(None, map(value.get, ERROR_HOLDERS)), None):
        return value if isinstance(found, str | bool) else found
    state = value.get("base_resp")
    if isinstance(state, dict) and state.get("status_code"):
        return state
    choices = value.get("choices")
    if choices:
        for one in choices if isinstance(choices, list) else ():
            if isinstance(one, dict) and one.get("error"):
                return one["error"]
        return None
    if value.get("object") == "error" or value.get("type") == "error":
        return value
    if any(map(value.get, ("error_message", "error_msg", "errorMessage", "detail"))):
        return value
    if any(map(value.get, ("message", "msg", "details", "Message"))):
        return None if value.get("code") in (0, 200, "0", "200") else value
    return None


def read_usage(usage: Mapping[str, Json]) -> Usage:
    """Return what *usage*, the API's object, says; counts that are none are left out."""
    prompt = usage.get("prompt_tokens_details")
    completion = usage.get("completion_tokens_details")
    prompt = prompt if isinstance(prompt, dict) else {}
    completion = completion if isinstance(completion, dict) else {}
    read = jsontext.count(usage.get("prompt_tokens")) or 0
    written = jsontext.count(usage.get("completion_tokens")) or 0
    total = jsontext.count(usage.get("total_tokens"))
    return Usage(
        read,
        written,
        jsontext.count(prompt.get("cached_tokens")),
        jsontext.count(prompt.get("cache_write_tokens")),
        jsontext.count(completion.get("reasoning_tokens")),
        total if total != read + written else None,
    )
