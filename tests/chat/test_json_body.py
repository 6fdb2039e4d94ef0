"""Reading a JSON request body: edge cases that are accepted or rejected."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from nightly import examples
from request_samples import NOT_JSON

from choreo_wsgi.chat import jsontext
from choreo_wsgi.chat import request as chat
from choreo_wsgi.errors import InvalidRequest


@pytest.mark.parametrize("body", NOT_JSON.values(), ids=NOT_JSON)
def test_invalid_json_is_rejected_with_a_short_message(body: bytes) -> None:
    with pytest.raises(InvalidRequest) as caught:
        chat.loads(body)
    assert caught.value.status == 400
    assert caught.value.code == "invalid_json"
    assert len(caught.value.message) < 200


@pytest.mark.parametrize(
    "body",
    [
        b"{}",
        b' {"x" : 1.5e3 }\r\n',
        b'{"x":' + b"[" * 63 + b"]" * 63 + b"}",
        b'{"x":' * 64 + b"1" + b"}" * 64,
        b'{"x":[' + b",".join([b"[{}]"] * 1000) + b"]}",
        b'{"x":"' + b"[{" * 1000 + b'"}',
        b'{"x":"' + b'\\"[' * 1000 + b'\\\\"}',
        b'{"x":' + b"9" * 400 + b"}",
        b'{"x":0.' + b"9" * 10_000 + b"}",
        b'{"x":1e-400}',
        b'{"x":"\\ud83d\\ude00 \\\\ud800 \\u00e9"}',
        b'{"x":{"a":1},"y":{"a":1}}',
        '{"é":"😀"}'.encode(),
    ],
)
def test_valid_json_is_parsed_as_json_loads_does(body: bytes) -> None:
    assert chat.loads(body) == json.loads(body)


def test_error_names_the_duplicate_member() -> None:
    with pytest.raises(InvalidRequest, match="'twice'"):
        chat.loads(b'{"once":1,"twice":2,"more":3,"twice":2}')


def test_syntax_error_has_line_and_column() -> None:
    with pytest.raises(InvalidRequest, match="line 2, column 5"):
        chat.loads('{"x":1,\n"é" 2}'.encode())
    with pytest.raises(InvalidRequest, match="the body is empty"):
        chat.loads(b" \r\n")


JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=5) | st.dictionaries(st.text(max_size=3), inner),
    max_leaves=10,
)


@settings(max_examples=examples(50))
@given(st.dictionaries(st.text(max_size=5), JSON, max_size=5), st.booleans())
def test_every_json_object_is_accepted(value: dict[str, Any], ascii: bool) -> None:
    assert chat.loads(json.dumps(value, ensure_ascii=ascii).encode()) == value


# Backslashes, surrogate halves, quotes and brackets in any order.
PIECES = st.sampled_from(
    [r"\\", r"\"", r"\n", r"\ud83d", r"\ude00", r"\uDBFF", r"\uDC00", r"\u0041", "x", "[", "{", "]"]
)


@given(st.lists(PIECES))
@example([r"\ud83d", r"\\", r"\ude00"])
@example([r"\uDBFF", r"\uDC00"])
def test_lone_surrogates_are_rejected_anywhere(pieces: list[str]) -> None:
    body = b'{"x":"%b"}' % "".join(pieces).encode()
    try:
        json.loads(body)["x"].encode()
    except UnicodeEncodeError:
        with pytest.raises(InvalidRequest, match="surrogate"):
            chat.loads(body)
    else:
        assert chat.loads(body) == json.loads(body)


def _depth(value: Any) -> int:
    if isinstance(value, dict):
        return 1 + max(map(_depth, value.values()), default=0)
    if isinstance(value, list):
        return 1 + max(map(_depth, value), default=0)
    return 0


@given(JSON, st.lists(PIECES), st.integers(0, 70), st.booleans())
def test_depth_is_limited_exactly(
    inner: Any, pieces: list[str], levels: int, objects: bool
) -> None:
    filler = "".join(piece for piece in pieces if not piece.startswith(r"\u"))
    left, right = ('{"x":', "}") if objects else ("[", "]")
    # More brackets than MAX_DEPTH, so that the quick count of brackets does not decide.
    text = (
        f'{{"{filler}":[{"[]," * 70}0],"deep":{left * levels}'
        f'{json.dumps(inner)}{right * levels},"{filler}.":"{filler}"}}'
    )
    depth = 1 + levels + _depth(inner)
    try:
        chat.loads(text.encode())
    except InvalidRequest as error:
        assert ("nests" in error.message) == (depth > jsontext.MAX_DEPTH)
        assert depth > jsontext.MAX_DEPTH or "surrogate" in error.message
    else:
        assert depth <= jsontext.MAX_DEPTH
