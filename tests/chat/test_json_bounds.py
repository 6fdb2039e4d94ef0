"""How much a JSON text may hold, and that finding out takes little."""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from work import calls, traced

from choreo_wsgi.apis import load
from choreo_wsgi.chat import items, jsontext, large
from choreo_wsgi.chat import request as chat
from choreo_wsgi.chat.items import dump_large
from choreo_wsgi.chat.jsontext import MAX_DEPTH, TooMuch, check_bounds
from choreo_wsgi.chat.longtext import WINDOW, restore
from choreo_wsgi.errors import InvalidRequest, UpstreamInvalid
from choreo_wsgi.providers.reading import parse_object

MEBIBYTE = 1024 * 1024
SIZE = 8 * MEBIBYTE

#: Bodies of 8 MiB that ask for far more than 8 MiB, or for seconds.
GREEDY: dict[str, Callable[[], bytes]] = {
    "lists": lambda: b"[" + b"[]," * (SIZE // 3) + b"[]]",
    "numbers": lambda: b"[" + b"1.5," * (SIZE // 4) + b"1]",
    "deeper": lambda: b"[" * SIZE,
    "closed": lambda: b"[]," * 70 + b"]" * SIZE,
    "quotes": lambda: b"[]," * 70 + b'"' * SIZE,
    "deep in a string's shadow": lambda: b'["\\\\",' + b"[" * SIZE,
}


@pytest.mark.parametrize("kind", GREEDY)
def test_a_body_that_holds_too_much_is_refused_before_it_is_parsed(kind: str) -> None:
    body = b'{"model":"m","messages":[],"x":' + GREEDY[kind]() + b"}"
    parsed = []
    with traced() as memory, pytest.raises(TooMuch):
        jsontext.parse(body, parsed.append)
    assert not parsed
    assert memory.peak < 4 * MEBIBYTE
    with pytest.raises(InvalidRequest) as caught:
        chat.loads(body)
    assert caught.value.code == "invalid_json"


@pytest.mark.parametrize(
    "piece",
    [b"x", rb"\"", rb"\ud83d\ude00", b"[{,]}"],
    ids=["plain", "quotes", "pairs", "brackets"],
)
def test_a_long_text_is_no_reason(piece: bytes) -> None:
    """Four times its size at most, with the bytes themselves."""
    body = b'{"x":"' + piece * (SIZE // len(piece)) + b'"}'
    with traced() as memory:
        (value,) = chat.loads(body).values()
    assert value == json.loads(body)["x"]
    assert memory.peak + len(body) < 4.1 * len(body)


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


jsons = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=9),
    lambda inner: (
        st.lists(inner, max_size=5) | st.dictionaries(st.text(max_size=5), inner, max_size=5)
    ),
)


@given(
    st.dictionaries(st.text(max_size=3), jsons, max_size=6) | jsons,
    st.booleans(),
    st.sampled_from([None, 1]),
    st.integers(1, 20),
    st.integers(0, 100),
    st.sampled_from([b"", b" ", b",", b"]", b"}", b'"', b"1", b"\xff", b"x"]),
)
def test_a_large_text_is_read_as_a_small_one(
    value: Any, ascii: bool, indent: int | None, piece: int, place: int, odd: bytes
) -> None:
    """Wherever its parts end, also where it is no JSON."""
    text = json.dumps(value, ensure_ascii=ascii, indent=indent).encode("utf-8", "surrogatepass")
    for some in (text, text[:place], text[:place] + odd + text[place:]):
        try:
            wanted = jsontext.strict(some.decode())
        except ValueError:
            wanted = ValueError
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(large, "WINDOW", piece)
            patch.setattr(jsontext, "_LARGE", 0)
            try:
                found = jsontext.parse(some, jsontext.strict)
            except ValueError:
                found = ValueError
            assert found == wanted
            try:
                found = large.read(some, jsontext.strict)
            except ValueError:
                found = wanted if type(wanted) is not dict or not wanted else None
            assert found == wanted


@pytest.mark.parametrize("more", ["", "\U0001f600", "é"])
def test_a_conversation_of_thousands_of_turns_takes_little(more: str) -> None:
    """What it says, and an object for each turn; one wide character makes none of it wide."""
    turn = {"role": "user", "content": "some words, " * 50}
    body = json.dumps({"model": "m", "messages": [turn] * 3_000, "x": more}, ensure_ascii=False)
    sent = body.encode()
    with traced() as reading:
        value = chat.loads(sent)
    with traced() as writing:
        written = dump_large(value)
    assert json.loads(written) == value == json.loads(body)
    assert reading.peak < 2 * len(sent)
    assert writing.peak < 1.3 * len(sent)


@given(
    st.dictionaries(
        st.text(max_size=3), jsons | st.lists(jsons, min_size=3, max_size=5), max_size=3
    )
)
def test_what_is_written_in_parts_is_the_same(value: dict[str, Any]) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(items, "FEW", 2)
        assert dump_large(value) == items.dump(value)
        made = {name: iter(of) if type(of) is list else of for name, of in value.items()}
        assert dump_large(made) == items.dump(value)


def test_one_large_turn_is_read_in_parts_too() -> None:
    """Its texts are wide, but not all of it at once."""
    call = {"type": "tool_use", "id": "t", "name": "f"}
    inner = ["\U0001f600" + "y" * 90] * 20_000
    turn = {"role": "assistant", "content": [{**call, "input": {"a": {"b": inner}}}]}
    body = json.dumps({"model": "m", "messages": [turn]}, ensure_ascii=False).encode()
    value = chat.loads(body)
    with traced() as memory:
        again = chat.loads(body)
        held = memory.now
    assert again == value == json.loads(body)
    assert memory.peak < held + len(body) / 2


@pytest.mark.parametrize("lists", [1, 2_000])
def test_three_hundred_thousand_tokens_take_little(lists: int) -> None:
    each = list(range(100_000, 100_000 + 300_000 // lists))
    asked = {"model": "m", "input": each if lists == 1 else [each] * lists}
    body = json.dumps(asked).encode()
    read = load("embeddings").read
    with traced() as memory:
        request = read(body)
        assert request.original is not None
        sent = restore(dump_large(request.original), request.marks)
    assert json.loads(sent) == asked
    assert memory.peak < 2 * len(body)


def test_an_agents_bodies_are_below_the_bound() -> None:
    """200 tools with ten optional parameters each; a thousand rounds, of a thousand bytes."""
    optional = {"anyOf": [{"type": "string"}, {"type": "null"}], "default": None, "title": "Name"}
    schema = {"type": "object", "properties": dict.fromkeys("abcdefghij", optional)}
    tool = {"name": "f", "description": "Finds what it is asked for.", "input_schema": schema}
    said = {"type": "text", "text": "Now I look at it. " * 8}
    use = {"type": "tool_use", "id": "toolu_" + "0" * 24, "name": "f", "input": {"a": "x" * 200}}
    found = {"type": "tool_result", "tool_use_id": use["id"], "content": [said] * 2}
    turns = [{"role": "assistant", "content": [said, use]}, {"role": "user", "content": [found]}]
    for more in ({"tools": [tool] * 200}, {"messages": turns * 1_000, "tools": [tool] * 20}):
        asked: dict[str, Any] = {"model": "m", "messages": [], **more}
        assert values_in(asked) > 16_000
        assert chat.loads(json.dumps(asked, separators=(",", ":")).encode()) == asked


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


#: What stands in a body so many times.
REPEATED: dict[str, Callable[[int], bytes]] = {
    "numbers": lambda count: b"[" + b"1.5," * count + b"1]",
    "pairs": lambda count: b'"%b"' % (rb"\ud83d\ude00" * count),
    "wide": lambda count: b'"%b"' % ("\U0001f600".encode() * count),
    "long strings": lambda count: b"[" + (b'"%b",' % (b"y" * 3_995)) * (count // 400) + b"1]",
}


@pytest.mark.parametrize("kind", REPEATED)
def test_a_large_body_is_looked_at_in_windows(kind: str) -> None:
    """Twice the bytes are twice the steps, and there is one for each window at least.

    Between two steps other threads have their turn.
    """
    bodies = [b'{"x":' + REPEATED[kind](count) + b"}" for count in (500_000, 1_000_000)]
    chat.loads_marked(bodies[0])  # what is loaded once
    once, twice = (calls(partial(chat.loads_marked, body)) for body in bodies)
    assert len(bodies[0]) / WINDOW < once
    assert once < twice < 2.2 * once
