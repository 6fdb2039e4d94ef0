"""Limits of a JSON text's size and nesting, and the memory and steps of reading it."""

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
from choreo_wsgi.chat import inparts, items, jsontext, large
from choreo_wsgi.chat import request as chat
from choreo_wsgi.chat.items import FEW, Json, dump, dump_large
from choreo_wsgi.chat.jsontext import MAX_DEPTH, TooMuch, check_bounds
from choreo_wsgi.chat.longtext import WINDOW, restore
from choreo_wsgi.errors import InvalidRequest, UpstreamInvalid
from choreo_wsgi.providers.reading import parse_object

MEBIBYTE = 1024 * 1024
SIZE = 8 * MEBIBYTE

#: Bodies of 8 MiB whose parsing would need far more memory, or seconds.
EXPENSIVE: dict[str, Callable[[], bytes]] = {
    "lists": lambda: b"[" + b"[]," * (SIZE // 3) + b"[]]",
    "numbers": lambda: b"[" + b"1.5," * (SIZE // 4) + b"1]",
    "deep nesting": lambda: b"[" * SIZE,
    "unmatched closing brackets": lambda: b"[]," * 70 + b"]" * SIZE,
    "quotes": lambda: b"[]," * 70 + b'"' * SIZE,
    "deep after a backslash string": lambda: b'["\\\\",' + b"[" * SIZE,
}


@pytest.mark.parametrize("kind", EXPENSIVE)
def test_body_with_too_many_values_is_rejected_before_parsing(kind: str) -> None:
    body = b'{"model":"m","messages":[],"x":' + EXPENSIVE[kind]() + b"}"
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
def test_long_string_needs_at_most_four_times_its_size(piece: bytes) -> None:
    body = b'{"x":"' + piece * (SIZE // len(piece)) + b'"}'
    with traced() as memory:
        (value,) = chat.loads(body).values()
    assert value == json.loads(body)["x"]
    assert memory.peak + len(body) < 4.1 * len(body)


def count_values(value: Any) -> int:
    """Count the values after a comma or an opening bracket."""
    if isinstance(value, dict):
        return max(1, len(value)) + sum(map(count_values, value.values()))
    if isinstance(value, list):
        return max(1, len(value)) + sum(map(count_values, value))
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
    st.sampled_from(["", "[" * (MAX_DEPTH + 1)]),
)
def test_value_limit_is_exact(value: Any, ascii: bool, piece: int, more: str) -> None:
    """For any content of strings, and any boundary between two pieces."""
    text = json.dumps([value, more], ensure_ascii=ascii)
    count = count_values([value, ""])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(jsontext, "_PIECE", piece)
        for form in (text, text.encode("utf-8", "surrogatepass")):
            check_bounds(form, count)
            with pytest.raises(TooMuch):
                check_bounds(form, count - 1)


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
def test_large_text_is_parsed_like_a_small_one(
    value: Any, ascii: bool, indent: int | None, piece: int, cut: int, invalid: bytes
) -> None:
    """For any boundary between two parts, and for invalid JSON too."""
    text = json.dumps(value, ensure_ascii=ascii, indent=indent).encode("utf-8", "surrogatepass")
    for variant in (text, text[:cut], text[:cut] + invalid + text[cut:]):
        try:
            expected = jsontext.strict(variant.decode())
        except ValueError:
            expected = ValueError
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(large, "WINDOW", piece)
            patch.setattr(jsontext, "LARGE", 0)
            try:
                found = jsontext.parse(variant, jsontext.strict)
            except ValueError:
                found = ValueError
            assert found == expected
            try:
                found = large.read(variant, jsontext.strict)
            except ValueError:
                found = expected if type(expected) is not dict or not expected else None
            assert found == expected


@pytest.mark.parametrize("more", ["", "\U0001f600", "é"])
def test_long_conversation_needs_little_memory(more: str) -> None:
    """Its text and an object for each turn; a wide character widens only its own string."""
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
def test_dump_large_writes_the_same_json_as_dump(value: dict[str, Any]) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(items, "FEW", 2)
        assert dump_large(value) == items.dump(value)
        lazy = {name: iter(item) if type(item) is list else item for name, item in value.items()}
        assert dump_large(lazy) == items.dump(value)


def test_single_large_turn_is_parsed_in_parts() -> None:
    """Only one part at a time is decoded to wide characters."""
    call = {"type": "tool_use", "id": "t", "name": "f"}
    inner = ["\U0001f600" + "y" * 90] * 17_000
    turn = {"role": "assistant", "content": [{**call, "input": {"a": {"b": inner}}}]}
    body = json.dumps({"model": "m", "messages": [turn]}, ensure_ascii=False).encode()
    value = chat.loads(body)
    with traced() as memory:
        again = chat.loads(body)
        held = memory.now
    assert again == value == json.loads(body)
    assert memory.peak < held + len(body) / 2


@pytest.mark.parametrize("lists", [1, 2_000])
def test_embedding_of_many_tokens_needs_little_memory(lists: int) -> None:
    each = list(range(100_000, 100_000 + 300_000 // lists))
    sent = {"model": "m", "input": each if lists == 1 else [each] * lists}
    body = json.dumps(sent).encode()
    read = load("embeddings").read
    with traced() as memory:
        request = read(body)
        assert request.original is not None
        forwarded = restore(dump_large(request.original), request.marks)
    assert json.loads(forwarded) == sent
    assert memory.peak < 2 * len(body)


def test_typical_agent_request_is_below_the_limit() -> None:
    """200 tools with ten optional parameters each; a thousand rounds, of a thousand bytes."""
    optional = {"anyOf": [{"type": "string"}, {"type": "null"}], "default": None, "title": "Name"}
    schema = {"type": "object", "properties": dict.fromkeys("abcdefghij", optional)}
    tool = {"name": "f", "description": "Finds a document.", "input_schema": schema}
    text = {"type": "text", "text": "Now I look at it. " * 8}
    use = {"type": "tool_use", "id": "toolu_" + "0" * 24, "name": "f", "input": {"a": "x" * 200}}
    result = {"type": "tool_result", "tool_use_id": use["id"], "content": [text] * 2}
    turns = [{"role": "assistant", "content": [text, use]}, {"role": "user", "content": [result]}]
    for more in ({"tools": [tool] * 200}, {"messages": turns * 1_000, "tools": [tool] * 20}):
        request: dict[str, Any] = {"model": "m", "messages": [], **more}
        assert count_values(request) > 16_000
        assert chat.loads(json.dumps(request, separators=(",", ":")).encode()) == request


def test_objects_of_a_large_body_share_names_types_and_roles() -> None:
    """The parser makes a string for each time that a name occurs."""
    block = {"type": "tool_use", "id": "t", "name": "f", "input": {"path": "p"}}
    turn = {"role": "assistant", "content": [block] * 2}
    body = json.dumps({"messages": [turn] * 1_000}).encode()
    with traced() as memory:
        messages = chat.loads_marked(body)[0]["messages"]
    assert memory.peak < 1_000 * 1_900  # 2,400 if each had its own
    first, last = ([one, *one["content"], one["content"][1]["input"]] for one in messages[::999])
    assert first == last
    assert [*map(id, (name for one in first for name in one))] == [
        *map(id, (name for one in last for name in one))
    ]
    assert first[0]["role"] is last[0]["role"]
    assert first[1]["type"] is last[2]["type"]


def test_few_long_ascii_strings_are_not_set_aside() -> None:
    """Their marks would need another copy of the text."""
    long = {"role": "user", "content": "y" * 5_000}
    short = [{"role": "user", "content": "z" * 1_500}] * 200
    body = json.dumps({"messages": [long, *short]}).encode()
    fields, marks = chat.loads_marked(body)
    assert fields["messages"][0] == long
    assert not marks
    assert chat.loads_marked(body.replace(b"zz", "é".encode(), 1))[1]


def test_value_limit_grows_with_the_length() -> None:
    """Up to 30,000 values: one more than 20,000 for each 128 bytes."""
    for size, least, most in ((0, 20_000, 21_000), (128, 29_000, 31_000)):
        element = b'"%b",' % (b"y" * size) if size else b"0,"
        chat.loads(b'{"x":[' + element * least + b"0]}")
        with pytest.raises(InvalidRequest, match="holds more than"):
            chat.loads(b'{"x":[' + element * most + b"0]}")
    for pairs, problem in ((38_000, "is not JSON"), (42_000, "holds more than")):
        with pytest.raises(InvalidRequest, match=problem):
            chat.loads(b'{"x":[' + b"[]," * 65 + b'""' * pairs + b"]}")


def test_large_object_takes_no_pairs_of_its_members() -> None:
    body = json.dumps({"x": {f"name{at}": "y" * 60 for at in range(15_000)}}).encode()
    chat.loads(body)
    with traced() as memory:
        value = chat.loads(body)
        held = memory.now
    assert value == json.loads(body)
    assert memory.peak < held + len(body)
    with pytest.raises(InvalidRequest, match="two members named 'name14999'"):
        chat.loads(body.replace(b'"name7"', b'"name14999"'))


def test_text_and_values_share_four_times_the_bytes() -> None:
    """Two mebibytes may have 25,500 values; the limit is 30,000 again from 2.5 MB on."""
    for size, values, start in (
        (2 * MEBIBYTE, 25_500, ""),
        (2_500_000, 29_900, ""),
        (1_200_000, 8_200, "\U0001f600"),  # each is set aside; they may be two ninths of the values
    ):

        def body(values: int, size: int = size, start: bytes = start.encode()) -> bytes:
            element = b'"%b",' % (start + b"y" * (size // values - 3 - len(start)))
            return b'{"x":[' + element * values + b"0]}"

        chat.loads_marked(body(values - 300))
        with pytest.raises(InvalidRequest, match="holds more than"):
            chat.loads_marked(body(values + 1_500))


@pytest.mark.parametrize(
    "file",
    [
        lambda data: {"url": f"data:image/png;base64,{data}"},
        lambda data: {"type": "base64", "data": data},
    ],
)
def test_number_of_short_files_is_limited(file: Callable[[str], Json]) -> None:
    """Each is copied several times; long ones, which are set aside, are not limited."""
    for count, size in ((490, 400), (700, 2_500)):
        chat.loads_marked(json.dumps({"x": [file("A" * size)] * count}).encode())
    body = json.dumps({"x": [file("A" * 300)] * 510}, separators=(",", ":")).encode()
    with pytest.raises(InvalidRequest, match="more than 500 files"):
        chat.loads_marked(body)


@pytest.mark.parametrize("opening", ["[", '{"a":'])
def test_upstream_json_depth_is_limited(opening: str) -> None:
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


#: JSON values that repeat an element *count* times.
REPEATED: dict[str, Callable[[int], bytes]] = {
    "numbers": lambda count: b"[" + b"1.5," * count + b"1]",
    "pairs": lambda count: b'"%b"' % (rb"\ud83d\ude00" * count),
    "wide": lambda count: b'"%b"' % ("\U0001f600".encode() * count),
    "long strings": lambda count: b"[" + (b'"%b",' % (b"y" * 3_995)) * (count // 400) + b"1]",
}


@pytest.mark.parametrize("kind", REPEATED)
def test_large_body_is_parsed_in_windows(kind: str) -> None:
    """Twice the bytes take twice the steps, at least one for each window.

    Other threads can run between two steps.
    """
    bodies = [b'{"x":' + REPEATED[kind](count) + b"}" for count in (500_000, 1_000_000)]
    chat.loads_marked(bodies[0])  # first-use imports do not count
    once, twice = (calls(partial(chat.loads_marked, body)) for body in bodies)
    assert len(bodies[0]) / WINDOW < once
    assert once < twice < 2.2 * once


def test_short_strings_with_wide_characters_count_more() -> None:
    """Each takes two or four bytes for a character; a longer one is set aside."""
    for text, least in (
        ("y" * 80, 26_000),
        ("\U0001f600" + "y" * 76, 8_400),
        ("\u20ac" + "y" * 48, 9_000),
        ("y" * 48 + "\u20ac", 9_000),
        ("\u20ac" + "y" * 47, 28_000),
    ):
        element = json.dumps(text, ensure_ascii=False).encode() + b","
        chat.loads_marked(b'{"x":[' + element * least + b"0]}")
        with pytest.raises(InvalidRequest, match="holds more than"):
            chat.loads_marked(b'{"x":[' + element * (least + 4_500) + b"0]}")


@pytest.mark.parametrize(
    ("part", "least"),
    [
        ('{"type":"other","text":"%s"}', 8_400),
        ('{"a":"%s"}', 10_500),  # of quotes
        ('{"type":"tool_use","id":"1","name":"f","input":{"a":"%s"}}', 2_700),
        ('{"type":"document","source":{"type":"text","data":"%s"}}', 2_200),
        ('{"type":"input_image","image_url":"%s"}', 3_500),
        ('{"type":"custom_tool_call","call_id":"1","input":"%s"}', 2_700),
    ],
)
def test_parts_of_which_more_is_made_count_more(part: str, least: int) -> None:
    for many in (least, least + 1_500):
        size = 1_900_000 // many - len(part)
        element = part % ('\\"' * (size // 2) if part.startswith('{"a"') else "y" * size)
        body = f'{{"x":[{",".join([element] * many)}]}}'.encode()
        if many == least:
            chat.loads_marked(body)
        else:
            with pytest.raises(InvalidRequest, match="holds more than"):
                chat.loads_marked(body)


@pytest.mark.parametrize("api", ["completions", "embeddings"])
def test_values_of_a_prompt_take_under_four_times_the_body(api: str) -> None:
    """A thousand prompts of 30 tokens, which are too few to be set aside, have 30,000 values."""
    name = "prompt" if api == "completions" else "input"
    for prompts in ([[12345] * 30] * 1_000, ["x" * 60] * 29_000):
        body = json.dumps({"model": "m", name: prompts}, separators=(",", ":")).encode()
        with traced() as memory:
            assert load(api).read(body).original == {"model": "m", name: prompts}
        assert memory.peak + len(body) < max(8 * MEBIBYTE, 4 * len(body))
    body = json.dumps({"model": "m", name: ["x"] * 70_000}).encode()
    with pytest.raises(InvalidRequest, match="holds more than"):
        load(api).read(body)


_SHORT_TEXTS = st.sampled_from(
    ["", "a", "\u6f22" * 90, "\ud83d", "y" * 255, "y" * 256, "y" * 3_000]
)
_NAMES = st.integers(0, 200).map(lambda at: "k" * (1 + at % 3 * 200) + str(at))


@given(
    st.recursive(
        st.one_of(st.none(), st.booleans(), st.integers(), st.just(1.5), _SHORT_TEXTS),
        lambda inner: st.one_of(
            st.lists(inner, max_size=150), st.dictionaries(_NAMES, inner, max_size=150)
        ),
        max_leaves=400,
    )
)
def test_parts_of_a_large_value_are_its_json(value: Any) -> None:
    parts = [bytes(part) for part in inparts.parts(value, lambda part: (dump(part),))]
    assert b"".join(parts) == dump(value)


@pytest.mark.parametrize("value", [[1.5] * 10_000, {str(at): "a" for at in range(10_000)}])
def test_short_elements_are_encoded_together(value: Any) -> None:
    """One by one they take ten times as long."""
    encoded: list[Any] = []

    def encode(part: Any) -> tuple[bytes]:
        encoded.append(part)
        return (dump(part),)

    assert b"".join(map(bytes, inparts.parts(value, encode))) == dump(value)
    assert len(encoded) <= 10_000 // FEW + 1
    assert max(map(len, encoded)) == FEW


def test_long_strings_and_names_are_encoded_alone() -> None:
    encoded: list[Any] = []
    value = {("n" * 300 + str(at) if at % 2 else str(at)): "y" * 300 for at in range(100)}
    value |= {"n" * 400 + str(at): 1 for at in range(100)}
    parts = inparts.parts(value, lambda part: (encoded.append(part), (dump(part),))[1])  # type: ignore[func-returns-value]
    assert b"".join(map(bytes, parts)) == dump(value)
    assert all(isinstance(part, (str, int)) for part in encoded)
