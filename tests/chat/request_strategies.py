"""Requests that are nearly right: anything in the place of anything, and bytes gone wrong."""

from __future__ import annotations

import copy
import json
from typing import Any

from hypothesis import strategies as st
from request_samples import LEAST, NOT_JSON, REFUSED, WHOLE

Json = Any

_WORDS = st.sampled_from(
    [
        *("x", "echo", "user", "assistant", "tool", "function", "text", "custom", "image_url"),
        *("allowed_tools", "json_schema", "", "\n", "\0", "é😀", "a\r\nb: c", "file:x", "f" * 65),
    ]
)
_NAMES = st.sampled_from(sorted({*WHOLE, "role", "content", "tool_calls", "type", "name", "x"}))
_SCALARS = (
    st.none()
    | st.booleans()
    | st.integers(-3, 130)
    | st.integers()
    | st.sampled_from([10**30, 10**309, -(10**309), 1e308, 5e-324, -0.0])
    | st.floats(allow_nan=False, allow_infinity=False)
    | _WORDS
    | st.text(max_size=5)
)

#: Any JSON, made of words that mean something here.
values = st.recursive(
    _SCALARS,
    lambda inner: st.lists(inner, max_size=6) | st.dictionaries(_NAMES | _WORDS, inner, max_size=4),
    max_leaves=8,
)


#: Values of the type that a field has, which are more often right than any.
_LIKE: dict[type, st.SearchStrategy[Json]] = {
    str: _WORDS | st.text(max_size=5),
    bool: st.booleans(),
    int: st.integers(0, 2) | st.integers(-200, 200) | st.floats(-3, 3),
    type(None): values,
    list: st.lists(values, max_size=5),
    dict: st.dictionaries(_NAMES, values, max_size=4),
}


def _places(value: Json, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Return the path of every value inside *value*."""
    places = []
    members = value.items() if isinstance(value, dict) else enumerate(value)
    for step, member in members:
        places.append((*path, step))
        if isinstance(member, (dict, list)):
            places += _places(member, (*path, step))
    return places


def _mended(body: Json) -> Json:
    """Return *body* without what keeps an answer short, so that it is worth answering."""
    mended = copy.deepcopy(body)
    for name in ("max_tokens", "max_completion_tokens"):
        mended.pop(name, None)
    return mended


_BASES = [WHOLE, {**_mended(WHOLE), "stream": True, "n": 2}, LEAST]
_BASES += [body for cases in REFUSED.values() for body, _ in cases]
_ROOMS = [(base, _places(base)) for base in _BASES]


@st.composite
def _changed(draw: st.DrawFn) -> dict[str, Json]:
    base, places = draw(st.sampled_from(_ROOMS[:3] * 50 + _ROOMS))
    body: Json = copy.deepcopy(base)
    for _ in range(draw(st.integers(0, 3))):
        # The outermost last: without a model there is not much to look at.
        *way, last = draw(st.sampled_from(places[::-1]))
        room = body
        try:
            for step in way:
                room = room[step]
            change = draw(st.sampled_from(["same kind", "anything", "nothing"]))
            if change == "nothing":
                del room[last]
            else:
                room[last] = draw(_LIKE[type(room[last])] if change == "same kind" else values)
        except (LookupError, TypeError):  # an earlier change took this place away
            continue
    return dict(body)


#: A request that was right, with a few values replaced or taken away.
changed = _changed()

_ENCODED = [json.dumps(base, ensure_ascii=False).encode() for base in _BASES]


@st.composite
def _broken(draw: st.DrawFn) -> bytes:
    body = draw(
        st.sampled_from([*_ENCODED, *(raw for raw in NOT_JSON.values() if len(raw) < 9999)])
    )
    for _ in range(draw(st.integers(1, 4))):
        start = draw(st.integers(0, len(body)))
        end = min(len(body), start + draw(st.integers(0, 5)))
        pieces = [b'"', b"\\", b"\\ud800", b"[" * 70, b"{", b"}", b",", b"1e999", b"NaN", b"\xff"]
        body = body[:start] + draw(st.sampled_from(pieces) | st.binary(max_size=4)) + body[end:]
    return body


#: A body that was JSON, or nearly, with a few bytes changed.
broken = _broken()

#: Any of these as a body.
bodies = (
    changed.map(lambda value: json.dumps(value).encode())
    | changed.map(lambda value: json.dumps(value, ensure_ascii=False).encode())
    | changed.map(lambda value: json.dumps(value, indent=1).encode())
    | values.map(lambda value: json.dumps(value).encode())
    | broken
    | st.binary(max_size=50)
)
