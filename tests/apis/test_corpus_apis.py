"""The recorded answers through the other APIs: their own SDKs read the same as through chat."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import Any

import anthropic
import openai
import pytest
from anthropic.types import RawMessageStreamEvent
from corpus_cases import Case, cases
from openai.types.responses import Response, ResponseStreamEvent
from pydantic import TypeAdapter
from raw_server import RawServer

from choreo_wsgi import sse
from choreo_wsgi.apis.messages.writer import MessageWriter
from choreo_wsgi.apis.responses.writer import ResponseWriter
from choreo_wsgi.chat.answer import Answer, AnswerWriter
from choreo_wsgi.chat.items import Finish, Usage
from choreo_wsgi.errors import ChoreoError

#: Both APIs have one choice.
CASES = [case for case in cases() if case.request.n == 1]
HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nConnection: close\r\n\r\n"
RESPONSE_EVENT: TypeAdapter[Any] = TypeAdapter(ResponseStreamEvent)
MESSAGE_EVENT: TypeAdapter[Any] = TypeAdapter(RawMessageStreamEvent)


@dataclass
class Told:
    """What an answer said; *ending* is a finish reason, or empty for a failure."""

    text: str = ""
    reasoning: str = ""
    calls: list[tuple[str, str, Any]] = field(default_factory=list)
    usage: tuple[int, int, int] | None = None
    ending: str = ""


def items_of(case: Case) -> Told:
    """Return what the items say."""
    provider, _ = case.playing()
    told = Told()
    calls: dict[int, list[str]] = {}
    try:
        source = provider.open(case.request)
        while not source.ended:
            for item in source.receive(0):
                if isinstance(item, Usage):
                    told.usage = counts(item)
                elif isinstance(item, Finish):
                    told.ending = item.reason
                else:
                    told.text += item.text + item.refusal
                    told.reasoning += item.reasoning
                    for call in item.tool_calls:
                        place = calls.setdefault(call.index, [call.id, call.name, ""])
                        place[2] += call.arguments
    except ChoreoError:
        told.ending = ""
    told.calls = [(id, name, arguments) for id, name, arguments in calls.values()]
    return told


def counts(usage: Usage) -> tuple[int, int, int]:
    return usage.prompt_tokens, usage.completion_tokens, usage.cached_tokens or 0


def frames_of(case: Case, writer: AnswerWriter, pieces: list[bytes] | None = None) -> bytes:
    """Return all that *writer* writes for the case, its ending included."""
    provider, _ = case.playing(pieces)
    out = b""
    try:
        answer = Answer(provider.open(case.request), writer, 1, "corpus")
        while not answer.ended:
            out += answer.receive(0)
    except ChoreoError as error:
        out += writer.fail(error)
    return out


def events_of(frames: bytes) -> list[dict[str, Any]]:
    """Return the data of *frames*, each of which is named by its type."""
    events = sse.Decoder().receive_data(frames)
    data = [json.loads(event.data) for event in events]
    assert [event.event for event in events] == [event["type"] for event in data]
    return data


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.id)
def test_as_a_response(case: Case) -> None:
    expected = items_of(case)
    frames = frames_of(case, ResponseWriter({"model": "m"}))
    events = events_of(frames)
    for event in events:
        RESPONSE_EVENT.validate_python(event, strict=False)
    assert [event["sequence_number"] for event in events] == list(range(len(events)))
    kinds = [event["type"] for event in events]
    terminal = {"response.completed", "response.incomplete", "response.failed"}
    assert [kind for kind in kinds if kind in terminal] == kinds[-1:]
    with RawServer.playing(HEAD + frames) as server:
        read = read_response(server.url)
    assert read.ending == ENDINGS[expected.ending]
    if not expected.ending:
        assert expected.text.startswith(read.text)
        return
    assert (read.text, read.calls, read.reasoning) == (
        expected.text,
        expected.calls,
        expected.reasoning,
    )
    assert read.usage == expected.usage


ENDINGS = {
    "": "",
    "stop": "completed",
    "tool_calls": "completed",
    "length": "incomplete max_output_tokens",
    "content_filter": "incomplete content_filter",
}


def read_response(url: str) -> Told:
    with openai.OpenAI(base_url=url, api_key="k", max_retries=0) as client:
        stream = client.responses.create(model="m", input="hi", stream=True)
        last = list(stream)[-1]
    told = Told()
    response: Response = last.response  # type: ignore[union-attr]
    assert response.status is not None
    told.ending = "" if response.status == "failed" else response.status
    if response.incomplete_details is not None:
        told.ending += f" {response.incomplete_details.reason}"
    for item in response.output:
        if item.type == "reasoning":
            told.reasoning += "".join(part.text for part in item.content or ())
        elif item.type == "function_call":
            told.calls.append((item.call_id, item.name, item.arguments))
        elif item.type == "message":
            told.text += "".join(
                part.text if part.type == "output_text" else part.refusal for part in item.content
            )
    if response.usage is not None:
        cached = response.usage.input_tokens_details.cached_tokens
        told.usage = (response.usage.input_tokens, response.usage.output_tokens, cached)
    return told


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.id)
def test_as_a_message(case: Case) -> None:
    expected = items_of(case)
    frames = frames_of(case, MessageWriter("m"))
    events = events_of(frames)
    for event in events:
        if event["type"] != "error":
            MESSAGE_EVENT.validate_python(event, strict=False)
    kinds = [event["type"] for event in events]
    assert [kind for kind in kinds if kind in ("message_stop", "error")] == kinds[-1:]
    with RawServer.playing(HEAD + frames) as server:
        read = read_message(server.url)
    assert bool(read.ending) == bool(expected.ending)
    if not expected.ending:
        return
    assert (read.text, read.reasoning) == (expected.text, expected.reasoning)
    if "call-cut-by" in case.id:
        return  # what the SDK makes of half a document is its own
    assert read.calls == [
        (id, name, json.loads(arguments or "{}")) for id, name, arguments in expected.calls
    ]
    assert read.usage == (expected.usage or (0, 0, 0))
    assert read.ending in STOPS[expected.ending]


STOPS = {
    "stop": ("end_turn", "stop_sequence", "pause_turn"),
    "tool_calls": ("tool_use",),
    "length": ("max_tokens", "model_context_window_exceeded"),
    "content_filter": ("refusal",),
}


def read_message(url: str) -> Told:
    told = Told()
    messages: Any = [{"role": "user", "content": "hi"}]
    with anthropic.Anthropic(base_url=url, api_key="k", max_retries=0) as client:
        try:
            with client.messages.stream(model="m", max_tokens=9, messages=messages) as stream:
                message = stream.get_final_message()
        except anthropic.APIError:
            return told
    for block in message.content:
        if block.type == "text":
            told.text += block.text
        elif block.type == "thinking":
            told.reasoning += block.thinking
        elif block.type == "tool_use":
            told.calls.append((block.id, block.name, block.input))
    usage = message.usage
    cached = usage.cache_read_input_tokens or 0
    prompt = usage.input_tokens + (usage.cache_creation_input_tokens or 0) + cached
    told.usage = (prompt, usage.output_tokens, cached)
    told.ending = message.stop_reason or ""
    return told


#: One recording of each kind, cut at every byte.
CUT = [case for case in CASES if case.answer[0] == 200 and len(case.answer[2]) < 6000][::5][:10]


@pytest.mark.parametrize("case", CUT, ids=lambda case: case.id)
def test_a_cut_answer_is_never_complete(case: Case) -> None:
    """Whatever byte the upstream ends at: the whole answer, or the API's own failure."""
    body = case.answer[2]
    writers = (lambda: ResponseWriter({"model": "m"}), lambda: MessageWriter("m"))
    for make in writers:
        whole = essence(frames_of(case, make()))
        good = {"response.completed", "response.incomplete", "message_stop"}
        for cut in range(len(body)):
            events = events_of(frames_of(case, make(), [body[:cut]]))
            kinds = [event["type"] for event in events]
            assert sum(kind in good or kind in ("response.failed", "error") for kind in kinds) == 1
            if kinds[-1] in good:
                assert essence_of(events) == whole


def essence(frames: bytes) -> list[Any]:
    return essence_of(events_of(frames))


def essence_of(events: list[dict[str, Any]]) -> list[Any]:
    """Return the deltas of *events*: they have no ids and times, which differ by the writer."""
    filling = [event for event in events if event["type"] != "message_delta"]
    return [event["delta"] for event in filling if "delta" in event]


def test_the_recordings_that_are_cut_are_ten() -> None:
    assert len(CUT) == 10


@pytest.mark.parametrize("make", [lambda: ResponseWriter({"model": "m"}, stream=False), None])
def test_a_document_says_what_the_stream_says(make: Any) -> None:
    case = next(case for case in CASES if "tool" in case.folder.name and case.answer[0] == 200)
    if make is None:
        document = json.loads(frames_of(case, MessageWriter("m", stream=False)))
        anthropic.types.Message.model_validate(document)
        expected = items_of(case)
        assert [block["name"] for block in document["content"] if block["type"] == "tool_use"] == [
            name for _, name, _ in expected.calls
        ]
        return
    document = json.loads(frames_of(case, make()))
    Response.model_validate(document)
    last = events_of(frames_of(case, ResponseWriter({"model": "m"})))[-1]["response"]
    assert [item["type"] for item in document["output"]] == [
        item["type"] for item in last["output"]
    ]
