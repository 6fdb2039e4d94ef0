"""Work grows in proportion to the input, and everything that others choose is bounded."""

from __future__ import annotations

import gzip
import json
import re
import zlib
from collections.abc import Callable
from typing import Any

import pytest
from work import calls, traced

from choreo_wsgi.apis import load
from choreo_wsgi.chat import aside, jsontext
from choreo_wsgi.chat.answer import AnswerWriter
from choreo_wsgi.chat.calls import Call, ToolCalls
from choreo_wsgi.chat.endings import finish_reason
from choreo_wsgi.chat.items import Delta, Finish, ToolCall
from choreo_wsgi.chat.longtext import new_mark
from choreo_wsgi.chat.normalise import Normaliser
from choreo_wsgi.chat.request import parse
from choreo_wsgi.errors import ChoreoError, UpstreamInvalid
from choreo_wsgi.providers.answer import Attempt
from choreo_wsgi.providers.blocks import Blocks
from choreo_wsgi.providers.capabilities import Capabilities
from choreo_wsgi.providers.conversation import conversation
from choreo_wsgi.providers.failures import response_error
from choreo_wsgi.providers.native import NativeReply
from choreo_wsgi.providers.openai.answer import RelayedDocument, RelayedStream
from choreo_wsgi.providers.openai.chunks import OpenAITranslator
from choreo_wsgi.providers.openai.relay import EventRelay
from choreo_wsgi.providers.parts import content
from choreo_wsgi.providers.reading import PIECE, parse_object
from choreo_wsgi.providers.tools import functions
from choreo_wsgi.providers.translating import HTTPSource
from choreo_wsgi.upstream.coding import Decompressor
from choreo_wsgi.upstream.framing import FramingError
from choreo_wsgi.upstream.head import parse_head

USER = {"role": "user", "content": "Hello"}


def with_messages(messages: list[dict[str, Any]], **more: Any) -> Any:
    return parse(json.dumps({"model": "m", "messages": [USER, *messages], **more}).encode())


def tool_call(number: int) -> dict[str, Any]:
    function = {"name": "f", "arguments": '{"a":"some arguments, as models send them"}'}
    return {"id": f"call_{number}", "type": "function", "function": function}


def tool_result(number: int) -> dict[str, Any]:
    return {"role": "tool", "tool_call_id": f"call_{number}", "content": "some words, as results"}


def calls_of_one_id(count: int) -> Callable[[], object]:
    made = {"role": "assistant", "tool_calls": [tool_call(1)] * count}
    request = with_messages([made, *[tool_result(1)] * count])
    return lambda: conversation(request, "gemini", Capabilities())


def calls_of_many_ids(count: int) -> Callable[[], object]:
    made = {"role": "assistant", "tool_calls": list(map(tool_call, range(count)))}
    request = with_messages([made, *map(tool_result, range(count))])
    return lambda: conversation(request, "gemini", Capabilities())


def tools(names: str) -> Callable[[int], Callable[[], object]]:
    def make(count: int) -> Callable[[], object]:
        offered = [
            {
                "type": "function",
                "function": {"name": names % number, "description": f"{number}, in many words" * 3},
            }
            for number in range(count)
        ]
        request = with_messages([], tools=offered)
        return lambda: functions(request)

    return make


@pytest.mark.parametrize(
    "make",
    [calls_of_one_id, calls_of_many_ids, tools("f%d"), tools("f%.0d")],
    ids=["one id", "ids", "tools", "f"],
)
def test_conversation_work_is_linear_in_its_length(
    make: Callable[[int], Callable[[], object]],
) -> None:
    make(4)()  # fills the caches
    once, twice = calls(make(400)), calls(make(800))
    assert twice < 2.2 * once


def test_truncates_long_words_of_a_provider() -> None:
    for word in ("max_" * 2_000_000, "-" * 8_000_000, "aB" * 4_000_000):
        reason, more = finish_reason(word)
        assert reason == "stop"
        assert more is not None and len(more["native_finish_reason"]) <= 200
    for member in ("message", "code", "type", "param"):
        for word in ("a" * 60_000, "sk-" * 20_000, "*" * 60_000, "input token count " * 3000):
            body = json.dumps({"error": {"message": "x", member: word}}).encode()
            error = response_error(400, {}, body, 0.0)
            assert len(error.body()) < 5_000


def test_rejects_numbers_with_large_exponents() -> None:
    """30,000 times ``1e4000`` (210 KB) once took half a minute and grew to 120 MB."""
    assert parse_object('{"x":-1e400}') == {"x": -(10**400)}
    for number in ("1e401", "-1e4000", "1e999999999"):
        with pytest.raises(UpstreamInvalid, match="not JSON"):
            parse_object(f'{{"x":{number}}}')


def test_checking_an_image_url_takes_less_than_twice_its_size() -> None:
    url = "data:image/png" + ";a=b" * 2_000_000
    message = {"role": "user", "content": [{"type": "image_url", "image_url": {"url": url}}]}
    with traced() as memory, pytest.raises(ChoreoError):
        list(content(message, "messages[0]", True, {}))
    assert memory.peak < 2 * len(url)


def test_parses_arguments_once_despite_pieces_that_look_final(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Each piece has a new id, so that the end of the previous call is checked."""
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
def test_detects_the_end_of_a_tool_call(pieces: list[Any], closed: bool) -> None:
    for check_each in (False, True):
        call = Call(0, "id")
        for piece in pieces:
            call.add(piece if isinstance(piece, bytes) else aside.escaped(piece))
            if check_each:
                assert not call.free_if_complete() or piece is pieces[-1] or call.arguments == "{}"
                assert isinstance(call.arguments, str)
        assert call.free_if_complete() == closed


def test_limits_tool_calls_and_their_arguments() -> None:
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
    """Return calls with one complete call, and its piece, most of which is set aside."""
    calls = ToolCalls()
    mark = new_mark()
    calls.marks[mark.encode()] = text.encode()
    function = {"name": "f", "arguments": f'{{"a":"{mark}"}}'}
    piece = {"index": 0, "id": "c", "type": "function", "function": function}
    assert calls.normalise([piece]) == [piece]
    return calls, piece


def test_complete_arguments_are_not_kept() -> None:
    with traced() as memory:
        calls, _ = long_call("x" * 4_000_000)
        calls.marks.clear()
        assert memory.now < 400_000
        assert calls.close() == []


def test_forwards_a_repeated_long_call_once() -> None:
    calls, piece = long_call("x" * 100_000)
    assert calls.normalise([piece]) == []
    assert calls.normalise([{**piece, "index": 1}]) == [
        {**piece, "index": 1, "id": calls.begun[1].id}
    ]
    calls.normalise([{"index": 0, "function": {"arguments": " "}}])
    assert calls.close() == []


def test_rejects_arguments_after_a_complete_long_call() -> None:
    calls, _ = long_call("x" * 100_000)
    calls.normalise([{"index": 0, "function": {"arguments": "{}"}}])
    with pytest.raises(UpstreamInvalid, match="broken"):
        calls.close()


def open_calls(count: int) -> list[Delta]:
    """Return calls that are all still open when the next ones begin."""
    pieces = [ToolCall(at, f"c{at}", "f", '{"a":"}') for at in range(count)]
    pieces += [ToolCall(at, arguments='"}') for at in range(count)]
    return [Delta(tool_calls=[piece]) for piece in pieces]


def texts_beside_a_call(count: int) -> list[Delta]:
    """Return a call in pieces that look like its end, with texts between them."""
    made = [Delta(tool_calls=[ToolCall(0, "c", "f", '{"a":"')])]
    for _ in range(count):
        made += [Delta(tool_calls=[ToolCall(0, arguments="}")]), Delta("x"), Delta(reasoning="x")]
    return [*made, Delta(tool_calls=[ToolCall(0, arguments='"}')])]


@pytest.mark.parametrize("api", ["messages", "responses"])
@pytest.mark.parametrize("make", [open_calls, texts_beside_a_call])
def test_open_calls_are_not_parsed_again(
    make: Callable[[int], list[Delta]], api: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    checks = 0
    is_object = aside.is_object

    def count_check(pieces: list[str]) -> bool:
        nonlocal checks
        checks += 1
        return is_object(pieces)

    monkeypatch.setattr("choreo_wsgi.apis.blocks.is_object", count_check)
    body = {"model": "m", "stream": True, "max_tokens": 9, "input": "hi"}
    body["messages"] = [{"role": "user", "content": "hi"}]

    def work(count: int) -> Callable[[], object]:
        writer = load(api).writer(load(api).read(json.dumps(body).encode()))
        items = [*make(count), Finish("tool_calls")]
        return lambda: [*map(writer.write, items), *writer.ending()]

    once, twice = calls(work(100)), calls(work(200))
    assert twice < 2.2 * once
    assert checks <= 301


def test_joins_the_pieces_of_a_signature_once() -> None:
    blocks = Blocks({})
    piece = {"type": "signature_delta", "signature": "x" * 1000}
    with traced() as memory:
        for _ in range(1000):
            blocks.read({"type": "content_block_delta", "index": 0, "delta": piece}, [])
    assert memory.peak < 500_000  # the pieces were not joined
    items: list[Any] = []
    blocks.read({"type": "content_block_stop", "index": 0}, items)
    assert items[0].extra["thinking_blocks"][0]["signature"] == "x" * 1_000_000


def test_decompresses_in_bounded_pieces() -> None:
    text = b": a comment\n\n" * 1_000_000
    for compressed in (gzip.compress(text), b"".join(map(gzip.compress, (text[:7], text[7:])))):
        decompressor, found = Decompressor(), [b""]
        found.append(decompressor.step(compressed, 1000))
        while decompressor.waiting:
            assert len(found[-1]) <= 1000
            found[:] = [b"".join(found)] if len(found) > 1000 else found
            found.append(decompressor.step(b"", 1000))
        assert b"".join(found) == text
        with pytest.raises(FramingError, match="too long"):
            Decompressor().decompress(gzip.compress(bytes(20_000_000)))


def test_returns_everything_a_piece_decompresses_to() -> None:
    """The result is that of zlib without a limit, wherever the data are cut."""
    compressed = gzip.compress(b"".join(b"%d" % (number // 60) for number in range(6000)))
    for cut in range(len(compressed)):
        decompressor = Decompressor()
        pieces = [decompressor.step(compressed[:cut], 7)]
        while decompressor.waiting:
            pieces.append(decompressor.step(b"", 7))
        assert b"".join(pieces) == zlib.decompressobj(31).decompress(compressed[:cut])


def test_damaged_gzip_raises_framing_error() -> None:
    with pytest.raises(FramingError, match="cannot be decompressed"):
        Decompressor().decompress(gzip.compress(b"x" * 100)[:-12] + bytes(100))


def test_reads_many_empty_gzip_members_in_steps() -> None:
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


def test_rejects_a_head_of_too_many_lines() -> None:
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
def test_relay_work_is_linear_in_the_streams_length(block: bytes, size: int, renamed: str) -> None:
    """Single bytes, small events in a burst, and large events; with and without a new name."""
    relayed = 0

    def relay(count: int) -> None:
        nonlocal relayed
        data = block * count
        events = EventRelay(Normaliser(1, None, renamed), False, 1 << 23)
        relayed = sum(
            len(events.receive_data(data[at : at + size])) for at in range(0, len(data), size)
        )

    many = max(2, 20 * (1 << 16) // len(block) if size > 1 else 20)
    relay(2)  # fills the caches
    once, twice = calls(lambda: relay(many)), calls(lambda: relay(2 * many))
    assert twice < 2.3 * once
    assert relayed >= 2 * many * len(block)


class Received:
    """An exchange whose answer, *body*, was received at once."""

    status = 200
    headers: dict[str, str] = {}
    ended = False

    def __init__(self, body: bytes) -> None:
        self.body = body

    def receive(self, timeout: float) -> bytes:
        body, self.body = self.body, b""
        self.ended = not body
        return body

    def close(self) -> None:
        pass

    finish = close


def attempt(body: bytes) -> Attempt:
    return Attempt(lambda: Received(body), lambda *answer: UpstreamInvalid("it is an error"))  # type: ignore


def relayed(body: bytes) -> Any:
    return RelayedStream(attempt(body), EventRelay(Normaliser()), "up/m")


def forwarded(body: bytes) -> Any:
    writer = AnswerWriter("m", "completions")
    return NativeReply(attempt(body), writer, "m", "up/m", True, 8 << 20)


def translated(body: bytes) -> Any:
    return HTTPSource(attempt(body), OpenAITranslator())


def text_event(number: int, member: str) -> bytes:
    delta = {"index": 0, "delta": {"content": f"{number} "}, "finish_reason": None}
    return b"data: %b\n\n" % json.dumps({"id": "c", member: 1, "choices": [delta]}).encode()


FINISH = b'data: {"id":"c","choices":[{"index":0,"delta":{},"finish_reason":"stop"}]}\n\n'
DONE = b"data: [DONE]\n\n"


@pytest.mark.parametrize("answer", [relayed, forwarded, translated])
@pytest.mark.parametrize("event", [b"data: {}\n\n", b'data: {"choices":[]}\n\n', b": a\n\n"])
def test_ten_thousand_tiny_events_are_read_in_many_steps(
    answer: Callable[[bytes], Any], event: bytes
) -> None:
    """Between two steps the other streams have their turn."""
    reply = answer(text_event(1, "a") + 10_000 * event + text_event(2, "b") + FINISH + DONE)
    steps = [calls(lambda: reply.receive(0))]
    while not reply.ended:
        if reply.behind:
            assert reply.fileno() is None and reply.due == 0.0
        steps.append(calls(lambda: reply.receive(0)))
    assert len(steps) >= 10_000 * len(event) // PIECE
    one = calls(lambda: answer(text_event(1, "a") + 256 * event + FINISH).receive(0))
    assert max(steps) < 12 * one


@pytest.mark.parametrize("answer", [relayed, forwarded, translated])
def test_no_tiny_events_are_lost_between_steps(answer: Callable[[bytes], Any]) -> None:
    events = [text_event(number, f"m{number % 700}") for number in range(1000)]
    reply = answer(b"".join(events) + FINISH + DONE)
    found = ""
    while not reply.ended:
        got = reply.receive(0)
        if isinstance(got, list):
            found += "".join(item.text for item in got if isinstance(item, Delta))
        else:
            found += "".join(re.findall(r'"content": ?"(\d+ )"', got.decode()))
    assert found == "".join(f"{number} " for number in range(1000))


def test_stream_in_place_of_a_document_is_read_in_many_steps() -> None:
    body = b"".join(text_event(number, "a") for number in range(1000)) + FINISH + DONE
    reply = RelayedDocument(
        attempt(body),
        "up/m",
        load("chat").writer(parse(json.dumps({"model": "m", "messages": [USER]}).encode())),
        OpenAITranslator,
        Normaliser,
        "",
    )
    document, steps = b"", 0
    while not reply.ended:
        if reply.behind:
            assert reply.fileno() is None and reply.due == 0.0
        document += reply.receive(0)
        steps += 1
    assert steps >= len(body) // PIECE
    whole = "".join(f"{number} " for number in range(1000))
    assert json.loads(document)["choices"][0]["message"]["content"] == whole
