"""Twice as much of anything is twice the work, and what somebody else chooses is bounded."""

from __future__ import annotations

import gzip
import json
import zlib
from collections.abc import Callable
from typing import Any

import pytest
from work import calls, traced

from choreo_wsgi.apis import load
from choreo_wsgi.chat import aside, jsontext
from choreo_wsgi.chat.calls import Call, ToolCalls
from choreo_wsgi.chat.endings import finish_reason
from choreo_wsgi.chat.items import Delta, Finish, ToolCall
from choreo_wsgi.chat.longtext import new_mark
from choreo_wsgi.chat.normalise import Normaliser
from choreo_wsgi.chat.request import parse
from choreo_wsgi.errors import ChoreoError, UpstreamInvalid
from choreo_wsgi.providers.blocks import Blocks
from choreo_wsgi.providers.capabilities import Capabilities
from choreo_wsgi.providers.conversation import conversation
from choreo_wsgi.providers.failures import response_error
from choreo_wsgi.providers.openai.relay import EventRelay
from choreo_wsgi.providers.parts import content
from choreo_wsgi.providers.reading import parse_object
from choreo_wsgi.providers.tools import functions
from choreo_wsgi.upstream.coding import Decompressor
from choreo_wsgi.upstream.framing import FramingError
from choreo_wsgi.upstream.head import parse_head

USER = {"role": "user", "content": "Hello"}


def with_messages(messages: list[dict[str, Any]], **more: Any) -> Any:
    return parse(json.dumps({"model": "m", "messages": [USER, *messages], **more}).encode())


def called(number: int) -> dict[str, Any]:
    function = {"name": "f", "arguments": '{"a":"some words, as a model has them"}'}
    return {"id": f"call_{number}", "type": "function", "function": function}


def answered(number: int) -> dict[str, Any]:
    return {"role": "tool", "tool_call_id": f"call_{number}", "content": "some words, as it says"}


def one_id(count: int) -> Callable[[], object]:
    made = {"role": "assistant", "tool_calls": [called(1)] * count}
    request = with_messages([made, *[answered(1)] * count])
    return lambda: conversation(request, "gemini", Capabilities())


def many_ids(count: int) -> Callable[[], object]:
    made = {"role": "assistant", "tool_calls": list(map(called, range(count)))}
    request = with_messages([made, *map(answered, range(count))])
    return lambda: conversation(request, "gemini", Capabilities())


def tools(names: str) -> Callable[[int], Callable[[], object]]:
    def made(count: int) -> Callable[[], object]:
        offered = [
            {
                "type": "function",
                "function": {"name": names % number, "description": f"{number}, in many words" * 3},
            }
            for number in range(count)
        ]
        request = with_messages([], tools=offered)
        return lambda: functions(request)

    return made


@pytest.mark.parametrize(
    "make", [one_id, many_ids, tools("f%d"), tools("f%.0d")], ids=["one id", "ids", "tools", "f"]
)
def test_a_conversation_is_read_in_steps_of_its_length(
    make: Callable[[int], Callable[[], object]],
) -> None:
    make(4)()  # what is prepared once
    once, twice = calls(make(400)), calls(make(800))
    assert twice < 2.2 * once


def test_words_of_a_provider_are_cut() -> None:
    for word in ("max_" * 2_000_000, "-" * 8_000_000, "aB" * 4_000_000):
        reason, more = finish_reason(word)
        assert reason == "stop"
        assert more is not None and len(more["native_finish_reason"]) <= 200
    for member in ("message", "code", "type", "param"):
        for word in ("a" * 60_000, "sk-" * 20_000, "*" * 60_000, "input token count " * 3000):
            body = json.dumps({"error": {"message": "x", member: word}}).encode()
            error = response_error(400, {}, body, 0.0)
            assert len(error.body()) < 5_000


def test_a_number_with_an_exponent_has_a_bounded_length() -> None:
    """30,000 times 1e4000, 210 KB, took half a minute and became 120 MB."""
    assert parse_object('{"x":-1e400}') == {"x": -(10**400)}
    for number in ("1e401", "-1e4000", "1e999999999"):
        with pytest.raises(UpstreamInvalid, match="not JSON"):
            parse_object(f'{{"x":{number}}}')


def test_an_address_of_a_picture_takes_no_more_than_itself() -> None:
    url = "data:image/png" + ";a=b" * 2_000_000
    message = {"role": "user", "content": [{"type": "image_url", "image_url": {"url": url}}]}
    with traced() as memory, pytest.raises(ChoreoError):
        list(content(message, "messages[0]", True))
    assert memory.peak < 2 * len(url)


def test_arguments_are_parsed_once_however_many_pieces_look_like_their_end(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Each with an id of its own, so that it is asked whether the call before is over."""
    parsed = 0
    parse_one = jsontext.parse

    def parse_and_count(text: str, *more: Any, **named: Any) -> Any:
        nonlocal parsed
        parsed += len(text)
        return parse_one(text, *more, **named)

    monkeypatch.setattr(jsontext, "parse", parse_and_count)
    for start in ('{"a":"', "{", '{"a":1} {', "[}", '"'):
        calls = ToolCalls()
        calls.normalise([{"index": 0, "id": "1", "function": {"name": "f", "arguments": start}}])
        for number in range(2, 2000):
            function = {"arguments": "}"}
            calls.normalise([{"index": 0, "id": str(number), "function": function}])
    assert parsed < 20_000


@pytest.mark.parametrize(
    ("pieces", "closed"),
    [
        (['{"a":"\\', '"}'], False),
        (['{"a":"\\', '"', '"}'], True),
        (['{"a":"\\\\', '"}'], True),
        (['{"a":"}', '}"', "}"], True),
        (["{", "}"], True),
        (["{}", "{}"], False),
        (['{"a":[{', "}"], False),
        (['{"a":[{', "}]}"], True),
        (['{"a":[{', "]}}"], False),
        ([b'{\\"a\\":\\"\\\\', b'\\"x\\"}'], True),
    ],
)
def test_whether_a_call_is_over(pieces: list[Any], closed: bool) -> None:
    for ask_at_each in (False, True):
        call = Call(0, "id")
        for piece in pieces:
            call.add(piece if isinstance(piece, bytes) else aside.escaped(piece))
            if ask_at_each:
                assert not call.closed or piece is pieces[-1] or call.arguments == "{}"
                assert isinstance(call.arguments, str)
        assert call.closed == closed


def test_calls_and_arguments_without_end() -> None:
    calls = ToolCalls()
    with pytest.raises(UpstreamInvalid, match="tool calls"):
        for number in range(10_000):
            calls.normalise([{"index": number, "function": {"name": "f", "arguments": "{}"}}])
    calls = ToolCalls()
    calls.normalise([{"index": 0, "function": {"name": "f", "arguments": "{"}}])
    with pytest.raises(UpstreamInvalid, match="is too long"):
        for _ in range(20):
            calls.normalise([{"index": 0, "function": {"arguments": "x" * 1024 * 1024}}])


def long_call(text: str) -> tuple[ToolCalls, dict[str, Any]]:
    """Return the calls with one that came whole, and its piece, of which most is set aside."""
    calls = ToolCalls()
    mark = new_mark()
    calls.marks[mark.encode()] = text.encode()
    function = {"name": "f", "arguments": f'{{"a":"{mark}"}}'}
    piece = {"index": 0, "id": "c", "type": "function", "function": function}
    assert calls.normalise([piece]) == [piece]
    return calls, piece


def test_arguments_that_came_whole_are_not_kept() -> None:
    with traced() as memory:
        calls, _ = long_call("x" * 4_000_000)
        calls.marks.clear()
        assert memory.now < 400_000
        assert calls.close() == []


def test_a_long_call_that_comes_again_is_told_once() -> None:
    calls, piece = long_call("x" * 100_000)
    assert calls.normalise([piece]) == []
    assert calls.normalise([{**piece, "index": 1}]) == [
        {**piece, "index": 1, "id": calls.begun[1].id}
    ]
    calls.normalise([{"index": 0, "function": {"arguments": " "}}])
    assert calls.close() == []


def test_nothing_may_follow_a_long_call() -> None:
    calls, _ = long_call("x" * 100_000)
    calls.normalise([{"index": 0, "function": {"arguments": "{}"}}])
    with pytest.raises(UpstreamInvalid, match="broken"):
        calls.close()


def open_calls(count: int) -> list[Delta]:
    """Return calls of which each is still open when the next ones begin."""
    pieces = [ToolCall(at, f"c{at}", "f", '{"a":"}') for at in range(count)]
    pieces += [ToolCall(at, arguments='"}') for at in range(count)]
    return [Delta(tool_calls=[piece]) for piece in pieces]


def texts_beside_a_call(count: int) -> list[Delta]:
    """Return a call that grows by what looks like its end, with texts in between."""
    made = [Delta(tool_calls=[ToolCall(0, "c", "f", '{"a":"')])]
    for _ in range(count):
        made += [Delta(tool_calls=[ToolCall(0, arguments="}")]), Delta("x"), Delta(reasoning="x")]
    return [*made, Delta(tool_calls=[ToolCall(0, arguments='"}')])]


@pytest.mark.parametrize("api", ["messages", "responses"])
@pytest.mark.parametrize("make", [open_calls, texts_beside_a_call])
def test_calls_that_are_open_are_not_looked_through_again(
    make: Callable[[int], list[Delta]], api: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    looked = 0
    is_object = aside.is_object

    def look(pieces: list[str]) -> bool:
        nonlocal looked
        looked += 1
        return is_object(pieces)

    monkeypatch.setattr("choreo_wsgi.apis.blocks.is_object", look)
    asked = {"model": "m", "stream": True, "max_tokens": 9, "input": "hi"}
    asked["messages"] = [{"role": "user", "content": "hi"}]

    def work(count: int) -> Callable[[], object]:
        writer = load(api).writer(load(api).read(json.dumps(asked).encode()))
        items = [*make(count), Finish("tool_calls")]
        return lambda: [*map(writer.write, items), *writer.ending()]

    once, twice = calls(work(100)), calls(work(200))
    assert twice < 2.2 * once
    assert looked <= 301


def test_a_signature_in_pieces_is_put_together_once() -> None:
    blocks = Blocks({})
    piece = {"type": "signature_delta", "signature": "x" * 1000}
    with traced() as memory:
        for _ in range(1000):
            blocks.read({"type": "content_block_delta", "index": 0, "delta": piece}, [])
    assert memory.peak < 500_000  # nothing of a megabyte was made
    items: list[Any] = []
    blocks.read({"type": "content_block_stop", "index": 0}, items)
    assert items[0].extra["thinking_blocks"][0]["signature"] == "x" * 1_000_000


def test_what_is_packed_comes_in_pieces() -> None:
    text = b": a comment\n\n" * 1_000_000
    for packed in (gzip.compress(text), b"".join(map(gzip.compress, (text[:7], text[7:])))):
        decompressor, found = Decompressor(), [b""]
        found.append(decompressor.step(packed, 1000))
        while decompressor.waiting:
            assert len(found[-1]) <= 1000
            found[:] = [b"".join(found)] if len(found) > 1000 else found
            found.append(decompressor.step(b"", 1000))
        assert b"".join(found) == text
        with pytest.raises(FramingError, match="too long"):
            Decompressor().decompress(gzip.compress(bytes(20_000_000)))


def test_all_that_a_piece_decompresses_to_is_returned() -> None:
    """As by zlib without a limit, wherever the data are cut."""
    packed = gzip.compress(b"".join(b"%d" % (number // 60) for number in range(6000)))
    for cut in range(len(packed)):
        decompressor = Decompressor()
        pieces = [decompressor.step(packed[:cut], 7)]
        while decompressor.waiting:
            pieces.append(decompressor.step(b"", 7))
        assert b"".join(pieces) == zlib.decompressobj(31).decompress(packed[:cut])


def test_damaged_data_are_an_error() -> None:
    with pytest.raises(FramingError, match="cannot be decompressed"):
        Decompressor().decompress(gzip.compress(b"x" * 100)[:-12] + bytes(100))


def test_members_without_anything_are_not_all_begun_at_once() -> None:
    empty = gzip.compress(b"")
    decompressor = Decompressor()
    assert calls(lambda: decompressor.step(empty * 5000, 1000)) < 2000
    assert decompressor.waiting
    steps = 0
    while decompressor.waiting:
        assert decompressor.step(b"", 1000) == b""
        steps += 1
    assert 5 < steps < 50
    assert decompressor.step(gzip.compress(b"x"), 1000) == b"x"


def test_a_head_has_a_hundred_lines() -> None:
    for line in (b"a: b\r\n", b" folded\r\n", b"no header\r\n"):
        with pytest.raises(FramingError, match="headers"):
            parse_head(b"HTTP/1.1 200 OK\r\nx: y\r\n" + line * 5000 + b"\r\n", "POST")


CHUNK = (
    b'data: {"id":"c","choices":[{"index":0,"delta":{"content":"%b"},"finish_reason":null}]}\n\n'
)


@pytest.mark.parametrize(
    ("block", "size", "renamed"),
    [
        (CHUNK % b"a", 1, ""),
        (CHUNK % b"a", 1 << 16, ""),
        (CHUNK % b"a", 1 << 16, "other"),
        (CHUNK % (b"x" * 400_000), 1 << 16, "other"),
    ],
    ids=["bytes", "small events", "small events renamed", "large events renamed"],
)
def test_a_stream_is_relayed_in_steps_of_its_length(block: bytes, size: int, renamed: str) -> None:
    """Byte by byte, a burst of small events, and large ones; with a name that is put in or not."""
    relayed = 0

    def relay(count: int) -> None:
        nonlocal relayed
        data = block * count
        events = EventRelay(Normaliser(1, None, renamed), False, 1 << 23)
        relayed = sum(
            len(events.receive_data(data[at : at + size])) for at in range(0, len(data), size)
        )

    many = max(2, 20 * (1 << 16) // len(block) if size > 1 else 20)
    relay(2)  # what is prepared once
    once, twice = calls(lambda: relay(many)), calls(lambda: relay(2 * many))
    assert twice < 2.3 * once
    assert relayed >= 2 * many * len(block)
