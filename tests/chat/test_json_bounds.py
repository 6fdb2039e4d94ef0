"""How much a JSON text may hold, and that finding out takes little."""

from __future__ import annotations

import json
import tracemalloc
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from choreo_wsgi.chat import jsontext
from choreo_wsgi.chat import request as chat
from choreo_wsgi.chat.jsontext import MAX_DEPTH, MAX_VALUES, TooMuch, check_bounds
from choreo_wsgi.errors import InvalidRequest, UpstreamInvalid
from choreo_wsgi.providers.reading import parse_object

MEBIBYTE = 1024 * 1024
SIZE = 8 * MEBIBYTE

#: Bodies of 8 MiB that ask for far more than 8 MiB, or for seconds.
GREEDY = {
    "lists": b"[" + b"[]," * (SIZE // 3) + b"[]]",
    "objects": b"[" + b"{}," * (SIZE // 3) + b"{}]",
    "numbers": b"[" + b"1.5," * (SIZE // 4) + b"1]",
    "strings": b"[" + b'"",' * (SIZE // 3) + b'""]',
    "members": b"{" + b",".join(b'"%d":1' % number for number in range(SIZE // 10)) + b"}",
    "deep": b"[" + b",".join([b"[" * 60 + b"]" * 60] * (SIZE // 121)) + b"]",
    "deeper": b"[" * SIZE,
    "closed": b"[]," * 70 + b"]" * SIZE,
    "quotes": b"[]," * 70 + b'"' * SIZE,
    "deep in a string's shadow": b'["\\\\",' + b"[" * SIZE,
}


@pytest.mark.parametrize("kind", GREEDY)
def test_a_body_that_holds_too_much_is_refused_before_it_is_parsed(kind: str) -> None:
    body = b'{"model":"m","messages":[],"x":' + GREEDY[kind] + b"}"
    parsed = []
    tracemalloc.start()
    try:
        with pytest.raises(TooMuch):
            jsontext.parse(body, parsed.append)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert not parsed
    assert peak < 4 * MEBIBYTE
    with pytest.raises(InvalidRequest) as caught:
        chat.loads(body)
    assert caught.value.code == "invalid_json"


@pytest.mark.parametrize(
    "text",
    [
        b"x" * SIZE,
        rb"\n" * (SIZE // 2),
        rb"\\" * (SIZE // 2),
        rb"\"" * (SIZE // 2),
        rb"\ud83d\ude00" * (SIZE // 12),
        b"[{,]}" * (SIZE // 5),
    ],
    ids=["plain", "escapes", "backslashes", "quotes", "pairs", "brackets"],
)
def test_a_long_text_is_no_reason(text: bytes) -> None:
    """Four times its size at most, with the bytes themselves."""
    body = b'{"x":"' + text + b'"}'
    tracemalloc.start()
    try:
        (value,) = chat.loads(body).values()
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert value == json.loads(body)["x"]
    assert peak + len(body) < 4.1 * len(body)


def values_in(value: Any) -> int:
    """Count what is after a comma or an opening bracket."""
    if isinstance(value, dict):
        return max(1, len(value)) + sum(map(values_in, value.values()))
    if isinstance(value, list):
        return max(1, len(value)) + sum(map(values_in, value))
    return 0


@given(
    st.recursive(
        st.one_of(st.text(max_size=5), st.integers(), st.sampled_from(["\\", '"', '\\"', ",[{"])),
        lambda inner: st.one_of(
            st.lists(inner, max_size=5), st.dictionaries(st.text(max_size=5), inner, max_size=5)
        ),
    ),
    st.booleans(),
    st.integers(1, 40),
)
def test_values_are_counted_exactly(value: Any, ascii: bool, piece: int) -> None:
    """Whatever the strings hold, and wherever a piece ends."""
    text = json.dumps([value, "[" * (MAX_DEPTH + 1)], ensure_ascii=ascii)
    count = values_in([value, ""])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(jsontext, "_PIECE", piece)
        for given in (text, text.encode("utf-8", "surrogatepass")):
            check_bounds(given, count)
            with pytest.raises(TooMuch):
                check_bounds(given, count - 1)


def test_an_ordinary_conversation_is_far_below_the_bound() -> None:
    message = {
        "role": "assistant",
        "content": [{"type": "text", "text": "x"}],
        "tool_calls": [
            {"id": "1", "type": "function", "function": {"name": "f", "arguments": "{}"}}
        ],
    }
    assert values_in({"messages": [message] * 2000}) < MAX_VALUES / 2


@pytest.mark.parametrize("opening", ["[", '{"a":'])
def test_what_an_upstream_nests_is_bounded_too(opening: str) -> None:
    closing = "]" if opening == "[" else "}"
    for depth in (MAX_DEPTH - 1, MAX_DEPTH):
        text = '{"x":' + opening * depth + "1" + closing * depth + "}"
        if depth < MAX_DEPTH:
            assert parse_object(text)
        else:
            with pytest.raises(UpstreamInvalid, match="nests"):
                parse_object(text)
    with pytest.raises(UpstreamInvalid, match=r"nests|holds"):
        parse_object('{"x":' + opening * 100_000)
