"""Odd answers within the limits take at most four times their bytes, or 8 MiB, refused or not."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
from raw_server import RawServer, sized
from received import Received
from test_long_events import EMOJI, END, START, call, event, many, relayed, translated
from work import traced

from choreo_wsgi import sse
from choreo_wsgi.apis import load
from choreo_wsgi.chat.calls import ToolCalls
from choreo_wsgi.chat.normalise import Normaliser
from choreo_wsgi.errors import ChoreoError, UpstreamInvalid
from choreo_wsgi.providers.answer import Attempt
from choreo_wsgi.providers.failures import read_body, response_error
from choreo_wsgi.providers.native import NativeReply
from choreo_wsgi.providers.openai.answer import RelayedDocument, RelayedStream
from choreo_wsgi.providers.openai.chunks import OpenAITranslator, unfold
from choreo_wsgi.providers.openai.relay import EventRelay
from choreo_wsgi.providers.registry import provider_class
from choreo_wsgi.settings import Settings

MEBIBYTE = 1024 * 1024
HEAD = '"id":"c","object":"chat.completion.chunk","created":1,"model":"m"'
#: Short strings that one character makes four times and twice as wide, and one that is set aside.
WIDE, DOUBLE, LONG = EMOJI + "y" * 85, "\u044f" + "y" * 255, (EMOJI + "y" * 85) * 12


def attempt(body: bytes, foreign: bytes = b"{[<") -> Attempt:
    def error(status: int, headers: Any, text: bytes) -> ChoreoError:
        return response_error(status, headers, text, 0.0)

    return Attempt(lambda: Received(body), error, foreign, unfold=unfold)  # type: ignore[arg-type, return-value]


def normaliser() -> Normaliser:
    return Normaliser(identity={"id": "i", "created": 1, "model": "m"})


def streamed(body: bytes) -> RelayedStream:
    return RelayedStream(attempt(body), EventRelay(normaliser()), "up/m")


def plain(body: bytes) -> RelayedDocument:
    request = load("chat").read(b'{"model":"m","messages":[{"role":"user","content":"hi"}]}')
    writer = load("chat").writer(request)
    return RelayedDocument(attempt(body, b""), "up/m", writer, OpenAITranslator, normaliser, "")


def native(body: bytes) -> NativeReply:
    request = load("responses").read(b'{"model":"m","input":"hi","stream":true}')
    writer = load("responses").writer(request)
    return NativeReply(attempt(body), writer, "m", "up/m", True, 8 * MEBIBYTE)


def size_of(reply: Any) -> int:
    """Return how many bytes *reply* sends, which are not kept."""
    size = 0
    while not reply.ended:
        size += len(reply.receive(0.25))
    return size


def elements(element: str, size: int) -> str:
    return many(element, size // (len(element.encode()) + 1))


def strings(text: str, size: int) -> str:
    return elements(f'"{text}"', size)


def document(message: str) -> str:
    return (
        '{"id":"c","object":"chat.completion","created":1,"model":"m","choices":[{"index":0,'
        f'"message":{{"role":"assistant",{message}}},"finish_reason":"stop"}}]}}'
    )


def response(member: str) -> str:
    last = f'{{"type":"response.completed","response":{{"id":"resp_1","model":"m",{member}}}}}'
    return f"event: response.completed\ndata: {last}\n\n"


def chunk(delta: str) -> str:
    return f'{{{HEAD},"choices":[{{"index":0,"delta":{delta},"finish_reason":null}}]}}'


TEXT, TEXTS = '{"type":"text","text":"%s"}', '{"content":"%s"}'
CHOICE = '{"index":0,"delta":{"content":"%s"},"finish_reason":null}' % ("\u6f22" * 1_300)
LAST = '{"choices":[{"index":0,"delta":{},"finish_reason":"stop"}]}'
#: Answers that are forwarded; each took more memory.
FORWARDED: dict[str, tuple[Callable[[bytes], Any], str]] = {
    "wide strings": (
        streamed,
        START + event(f'{{"content":"a","x":{strings(WIDE, 900_000)}}}') + END,
    ),
    "choices": (streamed, f'{START}data: {{{HEAD},"choices":{many(CHOICE, 480)}}}\n\n{END}'),
    "an object of arguments": (
        streamed,
        START
        + event(
            call(
                '"id":"1",',
                f'"name":"f","arguments":{{"a":{strings(DOUBLE, 900_000)}}}',
            )
        )
        + END,
    ),
    "document in place of a stream": (
        streamed,
        document(f'"content":{elements(TEXT % LONG, 1_900_000)}'),
    ),
    "chunks in place of a stream": (
        streamed,
        elements(chunk(TEXTS % (LONG * 3)), 1_900_000)[:-1] + f",{LAST}]",
    ),
    "refusals of a document": (
        plain,
        document(f'"refusal":{elements(TEXT % ("y" * 2000), 4_000_000)}'),
    ),
    "metadata of a response": (
        native,
        response(f'"x":{strings(DOUBLE, 1_000_000)}'),
    ),
    "long texts of a response": (
        native,
        response(f'"x":{strings(LONG, 4_000_000)}'),
    ),
}
#: Answers that are refused, or end with an error.
REFUSED: dict[str, tuple[Callable[[bytes], Any], str]] = {
    "double strings": (
        streamed,
        START + event(f'{{"x":{strings(DOUBLE, 2_000_000)}}}') + END,
    ),
    "strings that are set aside": (
        streamed,
        START + event(f'{{"x":{strings(WIDE * 4, 4_000_000)}}}') + END,
    ),
    "values of a document in place of a stream": (
        streamed,
        document(f'"content":{elements(TEXT % DOUBLE, 4_000_000)}'),
    ),
    "joined chunks": (streamed, f"{START}data: {many('{}', 166_000)}\n\n{END}"),
    "an error of strings": (
        streamed,
        f'{START}data: {{"error":{{"message":{strings(LONG, 4_000_000)}}}}}\n\n',
    ),
    "an error outside of data": (
        streamed,
        f'{START}error: {{"error":{{"message":{strings(WIDE, 4_000_000)}}}}}\n\n',
    ),
    "choices of a document": (
        plain,
        document('"content":"a"')
        .replace('"choices":[', f'"choices":[{many("{}", 6_000)[1:-1]},')
        .replace("{}", '{"message":{"content":"aaaaaaaaa"}}'),
    ),
    "arguments of short strings": (
        streamed,
        START + event(call('"id":"1",', f'"name":"f","arguments":[{strings(DOUBLE, 1_300_000)}]')),
    ),
    "broken arguments": (
        streamed,
        START + event(call('"id":"1",', f'"name":"f","arguments":"{WIDE * 20_000}"')) + END,
    ),
    "a document that is an error": (
        plain,
        f'{{"error":{{"message":{strings(LONG, 4_000_000)}}}}}',
    ),
    "a string without an end": (plain, document(f'"content":"{WIDE * 40_000}\\"')),
    "members beside no choices": (
        streamed,
        START
        + f'data: {{"choices":[],"usage":{{"prompt_tokens":1}},"x":"{LONG * 6_000}"}}\n\n'
        + END,
    ),
    "an error of a response": (
        native,
        response(f'"error":{{"x":{strings(LONG, 2_000_000)}}}'),
    ),
    "long strings of a response": (
        native,
        response(f'"x":{strings(WIDE * 4, 4_000_000)}'),
    ),
}


@pytest.mark.parametrize("form", FORWARDED)
def test_forwarding_takes_four_times_the_bytes(form: str) -> None:
    make, text = FORWARDED[form]
    body = text.encode()
    size_of(make(body))  # loads the modules
    with traced() as memory:
        size = size_of(make(body))
    assert memory.peak < 4 * max(len(body), 2 * MEBIBYTE)
    assert size > len(body) / 2


@pytest.mark.parametrize("form", REFUSED)
def test_refusal_takes_four_times_the_bytes(form: str) -> None:
    make, text = REFUSED[form]
    body = text.encode()
    with pytest.raises(ChoreoError):
        size_of(make(body))
    with traced() as memory, pytest.raises(ChoreoError) as refused:
        size_of(make(body))
    assert memory.peak < 4 * max(len(body), 2 * MEBIBYTE)
    assert len(refused.value.message) <= 4000
    assert "~more~" not in refused.value.message


def test_a_long_id_is_not_repeated_in_thousands_of_joined_chunks() -> None:
    first = START.replace('"id":"c"', f'"id":"{"c" * 60_000}"')
    chunks = many('{"choices":[{"delta":{"content":"a"}}]}', 6_000)
    with traced() as memory:
        frames = relayed(f"{first}data: {chunks}\n\n{END}")
    assert memory.peak < 8 * MEBIBYTE
    assert frames.count(b'"id":"i"') == frames.count(b"\n\n") and frames.count(b'"a"') == 6_000


def test_arguments_that_are_objects_may_grow_by_512_kib() -> None:
    """Each quote and backslash of a JSON text is escaped once more."""
    for count, is_refused in ((500_000, False), (530_000, True)):
        arguments = json.dumps({"a": "\n" * count})
        stream = START + event(call('"id":"1",', f'"name":"f","arguments":{arguments}')) + END
        if is_refused:
            with pytest.raises(UpstreamInvalid, match="long objects in place of texts"):
                translated(stream, "responses", OpenAITranslator())
        else:
            assert translated(stream, "responses", OpenAITranslator()) > 4 * count


def test_joined_chunks_are_forwarded_as_they_were_received() -> None:
    texts = [f"{EMOJI}{number}" for number in range(3_000)]
    chunks = ",".join(chunk(json.dumps({"content": one}, ensure_ascii=False)) for one in texts)
    frames = relayed(f"{START}data: [{chunks}]\n\n{END}")
    found = [json.loads(frame[6:]) for frame in frames.split(b"\n\n")[1:-2]]
    assert [one["choices"][0]["delta"].get("content") for one in found] == texts


@pytest.mark.parametrize("name", ["error", "other"])
def test_a_long_field_that_is_unknown_is_not_decoded(name: str) -> None:
    decoder = sse.Decoder()
    line = f"{name}: {WIDE * 20_000}\ndata: a\n\n".encode()
    with traced() as memory:
        events = decoder.receive_data(line)
    assert [one.data for one in events] == ["a"]
    assert memory.peak < 3.5 * len(line)


def test_a_long_name_of_an_event_is_refused() -> None:
    with pytest.raises(sse.EventTooLarge, match="a field is longer than 65536 bytes"):
        sse.Decoder().receive_data(b"event: " + b"x" * 70_000 + b"\ndata: a\n\n")


def test_of_a_long_error_page_64_kib_are_read() -> None:
    page = (EMOJI * 2_000_000).encode()
    with traced() as memory:
        message, _ = read_body(page)
    assert memory.peak < MEBIBYTE and message == EMOJI * 500


def test_arguments_of_blanks_become_an_empty_object() -> None:
    calls = ToolCalls()
    calls.normalise([{"index": 0, "id": "1", "function": {"name": "f", "arguments": " \n"}}])
    assert calls.close() == [{"index": 0, "function": {"arguments": "{}"}}]


def test_a_list_with_too_many_models_is_no_list() -> None:
    for count, found in ((6_000, 6_000), (60_000, 0)):
        body = json.dumps({"data": [{"id": f"m{number}"} for number in range(count)]}).encode()
        with RawServer.playing(sized(body)) as upstream:
            ours = provider_class("openai")(
                "up", {"api_key": "k", "base_url": upstream.url}, Settings()
            )
            try:
                with traced() as memory:
                    assert len(ours.models()) == found
            finally:
                ours.close()
        assert memory.peak < 8 * MEBIBYTE
