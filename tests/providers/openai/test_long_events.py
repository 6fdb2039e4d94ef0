"""Events of megabytes: wherever their long and wide strings are, they take little memory."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest
from harness import read_reply
from raw_server import RawServer, sized
from work import traced

from choreo_wsgi import sse
from choreo_wsgi.apis import load
from choreo_wsgi.chat.items import Delta, Item
from choreo_wsgi.chat.normalise import Normaliser
from choreo_wsgi.errors import ChoreoError, UpstreamInvalid
from choreo_wsgi.providers.anthropic.answer import AnthropicTranslator
from choreo_wsgi.providers.gemini.answer import GeminiTranslator
from choreo_wsgi.providers.openai.chunks import OpenAITranslator
from choreo_wsgi.providers.openai.relay import EventRelay
from choreo_wsgi.providers.registry import provider_class
from choreo_wsgi.providers.translating import Translator
from choreo_wsgi.settings import Settings

#: Memory that small values may take besides four times the bytes: the documentation's bound.
ROOM = 8 * 1024 * 1024
EMOJI = "\U0001f600"
#: 3 MB, all of it four times as wide as ASCII once it is a ``str``.
WIDE = (EMOJI + "y" * 90) * 32_000


def event(delta: str, more: str = "", choice: str = "", finish: str = "null") -> str:
    """Return an event with *delta*, and *more* members of the chunk and of the *choice*."""
    head = '"id":"c","object":"chat.completion.chunk","created":1,"model":"m"'
    one = f'{{"index":0,"delta":{delta},"finish_reason":{finish}{choice}}}'
    return f'data: {{{head},"choices":[{one}]{more}}}\n\n'


def many(element: str, count: int) -> str:
    return "[" + ",".join([element] * count) + "]"


def call(members: str, function: str) -> str:
    return f'{{"tool_calls":[{{"index":0,"type":"function",{members}"function":{{{function}}}}}]}}'


START = event('{"role":"assistant","content":""}')
END = event("{}", finish='"stop"') + "data: [DONE]\n\n"
ONE_WIDE = f'"{EMOJI}{"y" * 1100}"'
WIDE_AND_SHORT = f'"{EMOJI}{"y" * 85}"'
#: Events that are forwarded with all that is in them.
FORWARDED = {
    "a nested member": event(f'{{"content":"a","x":{{"y":["{WIDE}"]}}}}'),
    "a member of the choice": event('{"content":"a"}', choice=f',"x":"{WIDE}"'),
    "a member of the chunk": event('{"content":"a"}', more=f',"x":"{WIDE}"'),
    "an empty delta": event("{}", more=f',"x":"{WIDE}"'),
    "many short strings": event(
        f'{{"content":"a","x":{many(f"{chr(34)}{EMOJI}{chr(34)}", 20_000)}}}'
    ),
    "nested reasoning": event(f'{{"reasoning":{{"text":"{WIDE}"}}}}'),
    "details": event(f'{{"reasoning_details":[{{"summary":"{WIDE[:900_000]}"}}]}}'),
    "many details": event(f'{{"reasoning_details":{many(f"""{{"text":{ONE_WIDE}}}""", 900)}}}'),
    "parts": event(f'{{"content":{many(f"""{{"type":"text","text":{ONE_WIDE}}}""", 2600)}}}'),
    "parts of a text": event(
        f'{{"text":{many(f"""{{"type":"text","text":{ONE_WIDE}}}""", 2600)}}}'
    ),
    "thoughts": event(
        f'{{"content":{many(f"""{{"type":"thinking","thinking":{ONE_WIDE}}}""", 2600)}}}'
    ),
    "an object": event(f'{{"content":{{"answer":"{WIDE}"}}}}'),
    "an annotation": event(f'{{"content":[{{"text":"a","annotations":[{{"x":"{WIDE}"}}]}}]}}'),
    "arguments": event(call('"id":"1",', f'"name":"f","arguments":{{"a":"{WIDE}"}}')),
    "a legacy call": event(f'{{"function_call":{{"name":"f","arguments":"{WIDE}"}}}}'),
    "other fields": "event: message\nid: 7\n" + event(f'{{"content":"{WIDE}"}}'),
    "several lines": event(f'{{"content":"{WIDE}"}}').replace('"choices"', '\ndata: "choices"'),
}
#: Forms whose calls or choices are objects with numbers for names, as PHP writes lists.
FORWARDED["numbered calls"] = event(
    f'{{"tool_calls":{{"0":{{"id":"1","function":{{"name":"f","arguments":{{"a":"{WIDE}"}}}}}}}}}}'
)
FORWARDED["numbered choices"] = (
    FORWARDED["thoughts"]
    .replace('"choices":[', '"choices":{"0":')
    .replace('"finish_reason":null}]', '"finish_reason":null}}')
)
#: Events that are errors of the provider.
REFUSED = {
    "an error": f'data: {{"error":{{"message":"{WIDE}"}}}}\n\n',
    "an event of errors": f'event: error\ndata: {{"message":"{WIDE}"}}\n\n',
    "a page": f"data: <html>{WIDE}\n\n",
    "broken JSON": f'data: {{"a":[1,[2,{WIDE}"}}\n\n',
    "broken JSON of strings": f'data: {{"a":{many(ONE_WIDE, 4000)}\n\n',
    "thousands of parts": event(f'{{"content":{many(f"""{{"a":{WIDE_AND_SHORT}}}""", 14_000)}}}'),
    "long details": event(f'{{"reasoning_details":[{{"summary":"{WIDE}"}}]}}'),
    "many wide strings": event(f'{{"x":{many(WIDE_AND_SHORT, 12_000)}}}'),
    "many long strings": event(f'{{"x":{many(ONE_WIDE, 6_000)}}}'.replace("y" * 1000, "")),
    "many lines": "data: [\n" + "data: 1,\n" * 200_000 + "data: 2]\n\n",
    "long lines": "data: [\n" + f'data: "{"y" * 1_000}",\n' * 4_000 + "data: 2]\n\n",
    "an id": event('{"content":"a"}').replace('"c"', f'"{WIDE}"'),
    "a finish reason": event("{}", finish=f'"{WIDE}"'),
    "the name of a tool": event(call('"id":"1",', f'"name":"{WIDE}","arguments":"{{}}"')),
    "the id of a call": event(call(f'"id":"{WIDE}",', '"name":"f","arguments":"{}"')),
    "usage": event("{}", more=f',"usage":{{"prompt_tokens":1,"x":"{WIDE}"}}'),
}


def blocks(stream: str) -> Iterator[bytes]:
    data = stream.encode()
    for at in range(0, len(data), 256 * 1024):
        yield data[at : at + 256 * 1024]


def relayed(stream: str) -> bytes:
    relay = EventRelay(Normaliser(identity={"id": "i", "created": 1, "model": "m"}))
    return b"".join([*map(relay.receive_data, blocks(stream)), relay.end()])


def translated(stream: str, api: str, translator: Translator) -> int:
    """Return the size of the answer of *api* to *stream*, whose frames are not kept."""
    said = (
        {"input": "hi"} if api == "responses" else {"messages": [{"role": "user", "content": "a"}]}
    )
    request = load(api).read(
        json.dumps({"model": "m", "max_tokens": 9, "stream": True, **said}).encode()
    )
    writer, size = load(api).writer(request), 0
    for block in [*blocks(stream), b""]:
        for item in translator.receive_data(block):
            size += len(writer.write(item))
        while translator.waiting:
            for item in translator.receive_data(b""):
                size += len(writer.write(item))
    for item in translator.end():
        size += len(writer.write(item))
    return size + sum(map(len, writer.ending()))


@pytest.mark.parametrize("form", FORWARDED)
def test_relay_takes_four_times_the_bytes_of_an_event(form: str) -> None:
    stream = START + FORWARDED[form]
    relay = EventRelay(Normaliser(identity={"id": "i", "created": 1, "model": "m"}))
    pieces = list(blocks(stream))
    with traced() as memory:
        frames = [relay.receive_data(piece) for piece in pieces]
    assert memory.peak < 4 * len(stream.encode()) + ROOM
    assert len(frames[-1]) > 30_000


@pytest.mark.parametrize("form", FORWARDED)
def test_translation_takes_four_times_the_bytes_of_an_event(form: str) -> None:
    stream = START + FORWARDED[form] + END
    with traced() as memory:
        assert translated(stream, "responses", OpenAITranslator())
    assert memory.peak < 4 * len(stream.encode()) + ROOM


def test_relay_frees_an_event_before_its_frame_is_written() -> None:
    """Its reasoning is sent twice, so that the frame has twice the bytes."""
    detail = f'{{"text":"{"x" * 2000}"}}'
    stream = START + event(f'{{"reasoning_details":{many(detail, 500)}}}') + END
    relay = EventRelay(Normaliser(identity={"id": "i", "created": 1, "model": "m"}))
    pieces = list(blocks(stream))
    with traced() as memory:
        frames = [relay.receive_data(piece) for piece in pieces]
    assert memory.peak < 3.6 * len(stream)
    assert frames[-1].count(b"x" * 2000) == 1000


@pytest.mark.parametrize("form", REFUSED)
def test_refusal_takes_four_times_the_bytes_of_an_event(form: str) -> None:
    stream = START + REFUSED[form] + END
    with traced() as memory, pytest.raises(ChoreoError) as refused:
        relayed(stream)
    assert memory.peak < 4 * len(stream.encode()) + ROOM
    assert len(refused.value.message) <= 4000
    assert "~more~" not in refused.value.message


def small(form: str) -> str:
    """Return the stream of *form* with shorter texts, which are set aside all the same."""
    return START + FORWARDED[form].replace(WIDE, WIDE[:70_000]) + END


def deltas(frames: bytes) -> list[object]:
    """Return the deltas in *frames*, with calls that may be divided in one."""
    chunks = [json.loads(frame[6:]) for frame in frames.split(b"\n\n")[:-1]]
    return [[chunk, chunk["choices"][0]] for chunk in chunks]


@pytest.mark.parametrize("form", FORWARDED)
def test_forwards_a_long_event_as_a_short_one(form: str, monkeypatch: pytest.MonkeyPatch) -> None:
    found = deltas(relayed(small(form)))
    monkeypatch.setattr("choreo_wsgi.providers.openai.relay.LONG", 10**9)
    monkeypatch.setattr(sse, "_LONG", 10**9)
    monkeypatch.setattr("choreo_wsgi.providers.weight._FACTOR", 9)
    assert found == deltas(relayed(small(form)))


def folded(items: list[Item]) -> tuple[str, str, str, list[object]]:
    texts, reasoning, arguments, others = "", "", "", []
    for item in items:
        if isinstance(item, Delta):
            texts += item.text
            reasoning += item.reasoning
            arguments += "".join(call.arguments for call in item.tool_calls)
            others += [(call.id, call.name) for call in item.tool_calls if call.id]
            others += [item.refusal] if item.refusal else []
    return texts, reasoning, arguments, others


@pytest.mark.parametrize("form", FORWARDED)
def test_translates_a_long_event_as_a_short_one(form: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def read() -> tuple[str, str, str, list[object]]:
        translator, items = OpenAITranslator(), []
        for block in [*blocks(small(form)), b""]:
            items += translator.receive_data(block)
            while translator.waiting:
                items += translator.receive_data(b"")
        return folded(items + translator.end())

    found = read()
    monkeypatch.setattr(sse, "_LONG", 10**9)
    monkeypatch.setattr("choreo_wsgi.providers.weight._FACTOR", 9)
    assert found == read()


GEMINI = 'data: {"candidates":[{"index":0,"content":{"role":"model","parts":%s}}]}\n\n'
GEMINI_END = 'data: {"candidates":[{"index":0,"finishReason":"STOP"}]}\n\n'
FUNCTION = '{"functionCall":{"name":"f","args":%s}}'
BLOCK = 'data: {"type":"content_block_start","index":0,"content_block":%s}\n\n'
MESSAGE = (
    'data: {"type":"message_start","message":{"usage":{"input_tokens":1}}}\n\n',
    'data: {"type":"content_block_stop","index":0}\n\n'
    'data: {"type":"message_delta","delta":{"stop_reason":"end_turn"},"usage":{}}\n\n'
    'data: {"type":"message_stop"}\n\n',
)
CALL = '{"index":0,"id":"1","type":"function","function":{"name":"f","arguments":"%s"}}' % (
    "y" * 90
)
IMAGE = '{"type":"image_url","image_url":{"url":"data:image/png;base64,%s"}}' % ("A" * 100)
ODD = '{"type":"odd","x":"%s"}' % ("y" * 90)
SHORT_WIDE = f'"{EMOJI}{"y" * 80}"'
OTHERS = {
    "a member": GEMINI % f'[{{"text":"a"}}],"x":{many(SHORT_WIDE, 7_900)}',
    "texts": GEMINI % many(f'{{"text":"{WIDE[:11_000]}"}}', 250),
    "arguments": GEMINI % f'[{FUNCTION % f"""{{"a":"{WIDE}"}}"""}]',
    "an input": BLOCK % f'{{"type":"tool_use","id":"1","name":"f","input":{{"a":"{WIDE}"}}}}',
    "redacted": BLOCK % f'{{"type":"redacted_thinking","data":"{"A" * 1_000_000}"}}',
}


@pytest.mark.parametrize("form", OTHERS)
def test_other_events_take_four_times_their_bytes(form: str) -> None:
    stream, translator = OTHERS[form] + GEMINI_END, GeminiTranslator()
    if "content_block" in stream:
        stream, translator = OTHERS[form].join(MESSAGE), AnthropicTranslator()
    with traced() as memory:
        assert translated(stream, "responses", translator) > 3_000
    assert memory.peak < 4 * len(stream.encode()) + ROOM


@pytest.mark.parametrize(
    ("stream", "translator", "message"),
    [
        (GEMINI % many(FUNCTION % "{}", 257), GeminiTranslator, "more than 256 parts"),
        (event(f'{{"tool_calls":{many(CALL, 501)}}}'), OpenAITranslator, "500 tool calls"),
        (
            event("{}", choice=f',"tool_calls":{many(CALL, 501)}'),
            OpenAITranslator,
            "500 tool calls",
        ),
        (event(f'{{"images":{many(IMAGE, 501)}}}'), OpenAITranslator, "500 images"),
        (event(f'{{"content":{many(ODD, 501)}}}'), OpenAITranslator, "500 content_parts"),
        (GEMINI % f'[{{"text":"a","thoughtSignature":"{WIDE}"}}]', GeminiTranslator, "not ASCII"),
        (f'data: {{"error":{{"message":"{WIDE}"}}}}\n\n', GeminiTranslator, EMOJI),
        (f"data: <html>{WIDE}\n\n", AnthropicTranslator, "not JSON"),
        (GEMINI % many(SHORT_WIDE, 30_000), GeminiTranslator, "more than 1,000 values"),
    ],
    ids=["calls", "chat", "beside", "images", "parts", "signature", "error", "page", "values"],
)
def test_other_events_are_refused_in_words(
    stream: str, translator: type[Translator], message: str
) -> None:
    with pytest.raises(ChoreoError) as refused:
        translated(stream, "responses", translator())
    assert message in refused.value.message
    assert "~more~" not in refused.value.message


def test_a_signed_thought_is_translated_up_to_384_kib() -> None:
    """LiteLLM sends it once more in a member of its own."""
    thought = {"type": "thinking", "thinking": "é" * 60_000, "signature": "c2ln"}
    translator = OpenAITranslator()
    items = translator.receive_data(event(json.dumps({"thinking_blocks": [thought]})).encode())
    while translator.waiting:
        items += translator.receive_data(b"")
    assert [item.extra for item in items if isinstance(item, Delta)] == [
        {"thinking_blocks": [thought]}
    ]
    thought["thinking"] *= 2
    with pytest.raises(UpstreamInvalid, match="long text"):
        translator.receive_data(event(json.dumps({"thinking_blocks": [thought]})).encode())


def test_a_long_id_is_forwarded_up_to_64_kib() -> None:
    """LiteLLM puts the signature of a thought into the id of the call."""
    for size in (60_000, 70_000):
        chunk = event(
            call(f'"id":"{"i" * size}",', f'"name":"f","arguments":"{{}}{" " * 200_000}"')
        )
        if size > 64 * 1024:
            with pytest.raises(UpstreamInvalid, match="in place of a name"):
                relayed(START + chunk)
        else:
            frames = relayed(START + chunk + END.replace("stop", "tool_calls"))
            assert f'"id":"{"i" * size}"'.encode() in frames


def test_members_beside_no_choices_are_bounded() -> None:
    """They are kept until the end of the stream."""
    usage = '"usage":{"prompt_tokens":1,"completion_tokens":1,"total_tokens":2}'
    late = f'data: {{"id":"c","choices":[],{usage},%s}}\n\n'
    kept = "é" * 100_000
    frames = relayed(START + late % f'"x":"{kept}"' + late % '"y":[1,2]' + END)
    assert json.loads(frames.split(b"data: ")[-1])["x"] == kept
    for more in (f'"x":"{"x" * 270_000}"', ",".join(f'"x{number}":1' for number in range(65))):
        with pytest.raises(UpstreamInvalid, match="beside its choices"):
            relayed(START + late % more + END)


@pytest.mark.parametrize(
    ("message", "mended"),
    [
        ({"content": [{"type": "text", "text": "a" * 90_000}] * 2}, {"content": "a" * 180_000}),
        (
            {"content": "b", "reasoning_details": [{"text": "é" * 90_000}]},
            {"reasoning_content": "é" * 90_000},
        ),
    ],
)
def test_a_long_document_is_mended(message: dict[str, Any], mended: dict[str, str]) -> None:
    choice = {"index": 0, "message": {"role": "assistant", **message}, "finish_reason": "stop"}
    usage = {"prompt_tokens": 1, "completion_tokens": 1, "total_tokens": 2}
    head = {"id": "c", "object": "chat.completion", "created": 1, "model": "m"}
    body = json.dumps({**head, "choices": [choice], "usage": usage}).encode()
    request = load("chat").read(b'{"model":"m","messages":[{"role":"user","content":"hi"}]}')
    with RawServer.playing(sized(body)) as upstream:
        provider = provider_class("openai")(
            "up", {"api_key": "k", "base_url": upstream.url}, Settings()
        )
        reply = provider.answer(request, load("chat").writer(request))
        document = json.loads(read_reply(provider, reply))
    assert document["choices"][0]["message"] == {"role": "assistant", **message, **mended}
