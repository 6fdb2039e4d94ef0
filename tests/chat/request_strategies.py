"""Hypothesis strategies for almost valid requests and for corrupted bodies."""

from __future__ import annotations

import copy
import json
from typing import Any

from hypothesis import strategies as st
from request_samples import EVERY_FIELD, INVALID, MINIMAL, NOT_JSON

Json = Any

_WORDS = st.sampled_from(
    [
        *("x", "echo", "user", "assistant", "tool", "function", "text", "custom", "image_url"),
        *("allowed_tools", "json_schema", "", "\n", "\0", "é😀", "a\r\nb: c", "file:x", "f" * 65),
    ]
)
_NAMES = st.sampled_from(
    sorted({*EVERY_FIELD, "role", "content", "tool_calls", "type", "name", "x"})
)
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

#: Any JSON value, built from words that have a meaning in requests.
values = st.recursive(
    _SCALARS,
    lambda inner: st.lists(inner, max_size=6) | st.dictionaries(_NAMES | _WORDS, inner, max_size=4),
    max_leaves=8,
)


#: Values of a field's own type, which are valid more often than arbitrary ones.
_SAME_TYPE: dict[type, st.SearchStrategy[Json]] = {
    str: _WORDS | st.text(max_size=5),
    bool: st.booleans(),
    int: st.integers(0, 2) | st.integers(-200, 200) | st.floats(-3, 3),
    type(None): values,
    list: st.lists(values, max_size=5),
    dict: st.dictionaries(_NAMES, values, max_size=4),
}


def _paths(value: Json, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Return the path of every value inside *value*."""
    paths = []
    members = value.items() if isinstance(value, dict) else enumerate(value)
    for step, member in members:
        paths.append((*path, step))
        if isinstance(member, (dict, list)):
            paths += _paths(member, (*path, step))
    return paths


def _without_limits(body: Json) -> Json:
    """Return *body* without its token limits, so that the reply has content."""
    unlimited = copy.deepcopy(body)
    for name in ("max_tokens", "max_completion_tokens"):
        unlimited.pop(name, None)
    return unlimited


_BASES = [EVERY_FIELD, {**_without_limits(EVERY_FIELD), "stream": True, "n": 2}, MINIMAL]
_BASES += [body for cases in INVALID.values() for body, _ in cases]
_BASES_AND_PATHS = [(base, _paths(base)) for base in _BASES]


@st.composite
def _changed(draw: st.DrawFn) -> dict[str, Json]:
    base, paths = draw(st.sampled_from(_BASES_AND_PATHS[:3] * 50 + _BASES_AND_PATHS))
    body: Json = copy.deepcopy(base)
    for _ in range(draw(st.integers(0, 3))):
        # Outermost fields last: a request without a model is rejected at once.
        *parents, last = draw(st.sampled_from(paths[::-1]))
        container = body
        try:
            for step in parents:
                container = container[step]
            change = draw(st.sampled_from(["same type", "any value", "delete"]))
            if change == "delete":
                del container[last]
            else:
                container[last] = draw(
                    _SAME_TYPE[type(container[last])] if change == "same type" else values
                )
        except (LookupError, TypeError):  # an earlier change removed this path
            continue
    return dict(body)


#: A valid request with a few values replaced or removed.
changed = _changed()

_ENCODED = [json.dumps(base, ensure_ascii=False).encode() for base in _BASES]


@st.composite
def _corrupted(draw: st.DrawFn) -> bytes:
    body = draw(
        st.sampled_from([*_ENCODED, *(raw for raw in NOT_JSON.values() if len(raw) < 9999)])
    )
    for _ in range(draw(st.integers(1, 4))):
        start = draw(st.integers(0, len(body)))
        end = min(len(body), start + draw(st.integers(0, 5)))
        pieces = [b'"', b"\\", b"\\ud800", b"[" * 70, b"{", b"}", b",", b"1e999", b"NaN", b"\xff"]
        body = body[:start] + draw(st.sampled_from(pieces) | st.binary(max_size=4)) + body[end:]
    return body


#: A JSON body, or almost, with a few bytes replaced.
corrupted = _corrupted()

#: A body made by any of these strategies.
bodies = (
    changed.map(lambda value: json.dumps(value).encode())
    | changed.map(lambda value: json.dumps(value, ensure_ascii=False).encode())
    | changed.map(lambda value: json.dumps(value, indent=1).encode())
    | values.map(lambda value: json.dumps(value).encode())
    | corrupted
    | st.binary(max_size=50)
)
