"""Upstreams that support the caller's API: requests and events are forwarded, endings checked."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import anthropic
import harness
import openai
import pytest
import requests
from raw_server import Peer, RawServer, Request, chunk, head, sized
from wsgi_calls import call

from choreo_wsgi import apis, sse
from choreo_wsgi.app.application import Application
from choreo_wsgi.chat.longtext import WINDOW
from choreo_wsgi.errors import InvalidRequest

HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nConnection: close\r\n\r\n"
DOCUMENT = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nConnection: close\r\n\r\n"


def frames(*events: dict[str, Any]) -> bytes:
    encoded = [(json.dumps(event, separators=(",", ":")).encode(), event) for event in events]
    return b"".join(sse.frame(data, event=event["type"]) for data, event in encoded)


def numbered(*events: dict[str, Any]) -> list[dict[str, Any]]:
    return [{**event, "sequence_number": number} for number, event in enumerate(events)]


RESPONSE = {"id": "resp_upstream", "object": "response", "model": "real", "output": []}
USAGE = {"input_tokens": 9, "input_tokens_details": {"cached_tokens": 4}, "output_tokens": 2,
         "output_tokens_details": {"reasoning_tokens": 1}, "total_tokens": 11}  # fmt: skip
#: An output item that only OpenAI itself produces.
SEARCH = {"type": "web_search_call", "id": "ws_1", "status": "completed"}
TEXT = {"type": "response.output_text.delta", "item_id": "m", "output_index": 1, "logprobs": []}
CALLED = {"type": "response.function_call_arguments.delta", "item_id": "f", "output_index": 2,
          "delta": "{}"}  # fmt: skip
EVENTS = numbered(
    {"type": "response.created", "response": {**RESPONSE, "status": "in_progress"}},
    {"type": "response.output_item.added", "output_index": 0, "item": SEARCH},
    {"type": "response.output_item.done", "output_index": 0, "item": SEARCH},
    *({**TEXT, "content_index": 0, "delta": f"w{number} "} for number in range(40)),
    *(4 * ({**TEXT, "content_index": 0, "delta": "."}, CALLED)),  # two interleaved items
    {"type": "response.completed", "response": {**RESPONSE, "status": "completed", "usage": USAGE}},
)
MESSAGE = {"id": "msg_up", "type": "message", "role": "assistant", "model": "real", "content": []}
MESSAGES: list[dict[str, Any]] = [
    {"type": "message_start", "message": {**MESSAGE, "usage": {"input_tokens": 5}}},
    {"type": "content_block_start", "index": 0, "content_block": {"type": "text", "text": ""}},
    {"type": "ping"},
    *(
        {"type": "content_block_delta", "index": 0,
         "delta": {"type": "text_delta", "text": f"w{number} "}}
        for number in range(40)
    ),
    {"type": "content_block_stop", "index": 0},
    {"type": "message_delta", "delta": {"stop_reason": "end_turn"}, "usage": {"output_tokens": 7}},
    {"type": "message_stop"},
]  # fmt: skip
FULL_TEXT = "".join(f"w{number} " for number in range(40))


class Native:
    """Our server, and an upstream that plays *answer* and supports the API itself."""

    def __init__(self, upstream: RawServer, url: str) -> None:
        self.upstream = upstream
        self.url = url

    @property
    def sent(self) -> tuple[str, dict[str, Any], Any]:
        """The last request that the upstream received: target, body, headers."""
        request = self.upstream.requests[-1]
        return request.path, json.loads(request.body), request.headers


Make = Callable[[str, Any], Native]


@pytest.fixture
def native(
    application: Callable[..., Application], serve: Callable[..., harness.Server]
) -> Iterator[Make]:
    upstreams: list[RawServer] = []

    def make(kind: str, answer: bytes | Callable[[Request], bytes]) -> Native:
        upstream = RawServer.playing(answer)
        upstream.__enter__()
        upstreams.append(upstream)
        section = {"type": kind, "base_url": upstream.url, "api_key": "sk-upstream"}
        section["models"] = "alias = real, real"
        if kind == "openai":
            section["base_url"] = upstream.url + "/v1"
            section["apis"] = "chat, responses, input_tokens, compact"
        return Native(upstream, serve(application({"up": section})).url)

    yield make
    for upstream in upstreams:
        upstream.__exit__(None, None, None)


def create_response(url: str, **members: Any) -> Any:
    with openai.OpenAI(base_url=f"{url}/v1", api_key="k", max_retries=0) as client:
        answer = client.responses.create(**{"model": "real", "input": "hi", **members})
        return list(answer) if members.get("stream") else answer


def test_response_events_and_builtin_tools_are_forwarded(native: Make) -> None:
    made = native("openai", HEAD + frames(*EVENTS))
    tools = [{"type": "web_search"}]
    include = ["reasoning.encrypted_content"]
    events = create_response(made.url, stream=True, tools=tools, include=include)
    assert [event.to_dict() for event in events] == EVENTS
    target, body, headers = made.sent
    assert target == "/v1/responses"
    assert body == {"model": "real", "input": "hi", "stream": True, "tools": tools,
                    "include": include}  # fmt: skip
    assert headers["Authorization"] == "Bearer sk-upstream"


def test_our_own_encrypted_reasoning_is_not_sent_to_openai(native: Make) -> None:
    """OpenAI cannot decrypt Claude's thinking; its own reasoning is sent back unchanged."""
    made = native("openai", HEAD + frames(*EVENTS))
    own = {"type": "reasoning", "id": "rs_1", "summary": [], "encrypted_content": "gAAAA"}
    plain = {"type": "reasoning", "id": "rs_2", "summary": []}
    for content in ("choreo.W3t9XQ==", "choreo." + "A" * 100_000):
        sealed = {**own, "id": "rs_3", "encrypted_content": content}
        input = [{"role": "user", "content": "hi"}, own, sealed, plain]
        create_response(made.url, stream=True, input=input)
        assert made.sent[1]["input"] == [input[0], own, plain]


def test_past_reasoning_that_openai_cannot_read_is_left_out(native: Make) -> None:
    made = native("openai", HEAD + frames(*EVENTS))
    hello = {"role": "user", "content": "hi"}
    sealed = {"type": "reasoning", "summary": [], "encrypted_content": "gAAAA"}
    open_one = {"type": "reasoning", "summary": [], "content": [{"type": "text", "text": "so"}]}
    others = [{"type": "reasoning", "summary": []}, {**sealed, "encrypted_content": "choreo.W3t9"}]
    input: Any = [hello, sealed, open_one, *others]
    with openai.OpenAI(base_url=f"{made.url}/v1", api_key="k", max_retries=0) as client:
        id = client.responses.create(model="echo", input=input, store=True).id
    create_response(made.url, input="go", previous_response_id=id, stream=True)
    *past, answer, new = made.sent[1]["input"]
    assert (past, answer["type"]) == ([hello, sealed, open_one], "message")
    assert new == {"role": "user", "content": "go"}


def test_stored_prompt_requires_no_input(native: Make) -> None:
    made = native("openai", HEAD + frames(*EVENTS))
    create_response(made.url, stream=True, input=openai.omit, prompt={"id": "pmpt_1"})
    assert made.sent[1] == {"model": "real", "stream": True, "prompt": {"id": "pmpt_1"}}


def test_events_received_with_a_truncation_precede_the_failure(native: Make) -> None:
    made = native("openai", sized(frames(*EVENTS[:5]), kind="text/event-stream"))
    *events, failed = create_response(made.url, stream=True)
    assert [event.to_dict() for event in events] == EVENTS[:5]
    assert (failed.type, failed.sequence_number) == ("response.failed", 5)


#: The events of llama.cpp's server: without sequence numbers and indexes.
_PART = {"item_id": "m", "part": {"type": "output_text", "text": ""}}
_THOUGHT = {"id": "r", "type": "reasoning", "summary": []}
_MESSAGE = {"id": "m", "type": "message", "role": "assistant", "content": []}
_CALL = {"type": "function_call", "call_id": "fc_1", "name": "f", "arguments": "",
         "status": "in_progress"}  # fmt: skip
_CALLED = {**_CALL, "arguments": "{}", "status": "completed"}
_IN_PROGRESS = {"id": "resp_upstream", "object": "response", "status": "in_progress"}
BARE: list[dict[str, Any]] = [
    {"type": "response.created", "response": _IN_PROGRESS},
    {"type": "response.in_progress", "response": _IN_PROGRESS},
    {"type": "response.output_item.added", "item": _THOUGHT},
    {"type": "response.reasoning_text.delta", "item_id": "r", "delta": "so"},
    {"type": "response.output_item.done", "item": _THOUGHT},
    {"type": "response.output_item.added", "item": _MESSAGE},
    {"type": "response.content_part.added", **_PART},
    {"type": "response.output_text.delta", "item_id": "m", "delta": "Hi"},
    {"type": "response.output_text.delta", "item_id": "m", "delta": " you"},
    {"type": "response.output_text.done", "item_id": "m", "text": "Hi you"},
    {"type": "response.output_item.added", "item": _CALL},
    {"type": "response.function_call_arguments.delta", "item_id": "fc_1", "delta": "{}"},
    {"type": "response.output_item.done", "item": _CALLED},
    {"type": "response.completed", "response": {
        **_IN_PROGRESS, "status": "completed", "model": "real", "usage": USAGE,
        "output": [_THOUGHT, {**_MESSAGE, "content": [{"type": "output_text", "text": "Hi you"}]},
                   _CALLED],
    }},
]  # fmt: skip


@pytest.mark.parametrize("stream", [False, True])
def test_items_of_a_stored_response_are_sent_again_with_the_providers_ids(
    native: Make, stream: bool
) -> None:
    """Referred to, as the Vercel AI SDK does, or whole; the provider checks sealed reasoning's."""
    sealed = {"id": "rs_a", "type": "reasoning", "summary": [], "encrypted_content": "gAAAA"}
    unsealed = {"id": "rs_b", "type": "reasoning", "summary": [], "encrypted_content": None}
    text = {"type": "output_text", "text": "Hi", "annotations": [], "logprobs": []}
    message = {"id": "msg_c", "type": "message", "role": "assistant", "status": "completed",
               "content": [text]}  # fmt: skip
    items: list[Any] = [sealed, unsealed, SEARCH, {"id": "fc_d", **_CALLED}, message]
    where = {"item_id": "msg_c", "output_index": 4, "content_index": 0, "logprobs": []}
    made = native("openai", HEAD + frames(
        EVENTS[0],
        *({"type": "response.output_item.done", "output_index": at, "item": item}
          for at, item in enumerate(items)),
        {"type": "response.output_text.delta", **where, "delta": "Hi"},
        {"type": "response.completed", "response": {**_IN_PROGRESS, "model": "real",
                                                    "status": "completed", "output": items}},
    ))  # fmt: skip
    answer = create_response(made.url, store=True, stream=stream)
    response = answer[-1].response if stream else answer
    ids = [item.id for item in response.output]
    suffix = response.id.removeprefix("resp_")
    assert ids == [f"{item['id']}_{suffix}_{at}" for at, item in enumerate(items)]
    if stream:
        assert [event.item.id for event in answer[1:6]] == ids
        assert answer[6].item_id == ids[4]
    hello: Any = {"role": "user", "content": "hi"}
    result: Any = {"type": "function_call_output", "call_id": "fc_1", "output": "x"}
    expected = [hello, *(item for item in items if item is not unsealed), result]
    references = [{"type": "item_reference", "id": id} for id in ids]
    whole = [item.to_dict() for item in response.output]
    for input, store in ((references, True), (whole, True), (whole, False)):
        create_response(made.url, input=[hello, *input, result], store=store, stream=True)
        assert made.sent[1]["input"] == expected
    create_response(made.url, input=[result], previous_response_id=response.id, stream=True)
    assert made.sent[1]["input"] == [{"role": "user", "content": "hi"}, *expected[1:]]


def test_missing_sequence_numbers_and_indexes_are_added(native: Make) -> None:
    """OpenAI's SDK needs them to assemble the response."""
    made = native("openai", HEAD + frames(*BARE))
    with (
        openai.OpenAI(base_url=f"{made.url}/v1", api_key="k", max_retries=0) as client,
        client.responses.stream(model="real", input="hi") as stream,
    ):
        events: list[Any] = list(stream)
        assert stream.get_final_response().output_text == "Hi you"
    assert [event.sequence_number for event in events] == list(range(len(BARE)))
    assert [event.output_index for event in events[2:-1]] == [0] * 3 + [1] * 5 + [2] * 3
    assert events[3].content_index == 0


@pytest.mark.parametrize("cut", [1, 8, len(BARE) - 1])
def test_truncated_response_without_numbers_begins_once(native: Make, cut: int) -> None:
    made = native("openai", HEAD + frames(*BARE[:cut]))
    events = create_response(made.url, stream=True)
    assert [event.type for event in events[:cut]] == [event["type"] for event in BARE[:cut]]
    assert [event.sequence_number for event in events] == list(range(cut + 1))
    assert events[cut].type == "response.failed"


@pytest.mark.parametrize("sent", [BARE, [*EVENTS[:5], {"type": "keepalive"}, *EVENTS[5:]]])
def test_stored_response_is_resumed_by_our_numbers(native: Make, sent: Any) -> None:
    """The provider's own numbers have gaps or are missing; each event is sent once."""
    made = native("openai", HEAD + frames(*sent))
    with openai.OpenAI(base_url=f"{made.url}/v1", api_key="k", max_retries=0) as client:
        api = client.responses
        events = [
            event.to_dict()
            for event in api.create(model="real", input="hi", background=True, stream=True)
        ]
        assert [event["type"] for event in events] == [event["type"] for event in sent]
        assert [event["sequence_number"] for event in events] == list(range(len(events)))
        body = {"model": "real", "input": "hi", "stream": True, "store": False}
        assert made.sent[1] == body
        response: Any = events[0]["response"]
        for after in range(len(events) - 1):
            rest = api.retrieve(response["id"], stream=True, starting_after=after)
            assert [event.to_dict() for event in rest] == events[after + 1 :]
        assert api.retrieve(response["id"]).status == "completed"


@pytest.mark.parametrize("ending", ["completed", "incomplete", "failed"])
def test_missing_status_of_an_ended_response_is_that_of_its_event(
    native: Make, ending: str
) -> None:
    """It was in progress for ever, for a client that polls it and for one that continues it."""
    response = {"id": "resp_upstream", "object": "response", "model": "real", "output": []}
    made = native("openai", HEAD + frames({"type": f"response.{ending}", "response": response}))
    with openai.OpenAI(base_url=f"{made.url}/v1", api_key="k", max_retries=0) as client:
        stored = client.responses.create(model="real", input="hi", store=True)
        assert stored.status == client.responses.retrieve(stored.id).status == ending


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("shown", [True, False])
def test_stored_response_shows_what_its_caller_requested(
    native: Make, stream: bool, shown: bool
) -> None:
    """The provider, which stores nothing, is not sent these members; some show none of them."""
    ours = {"background": False, "store": False, "previous_response_id": None}
    sent = [
        {**event, "response": {**event["response"], **(ours if shown else {})}}
        if "response" in event
        else event
        for event in EVENTS
    ]
    made = native("openai", HEAD + frames(*sent))
    with openai.OpenAI(base_url=f"{made.url}/v1", api_key="k", max_retries=0) as client:
        api, id = client.responses, None
        for _ in range(2):
            body: Any = {"model": "real", "input": "hi", "background": True}
            answer: Any = api.create(**body, previous_response_id=id, stream=stream)
            created = next(iter(answer)).response if stream else answer
            *_, last = api.retrieve(created.id, stream=True)
            for response in (created, last.response, api.retrieve(created.id)):
                found = response.to_dict()
                expected = {"background": True, "store": True, "previous_response_id": id}
                assert {name: found.get(name) for name in ours} == expected
            id = created.id
        assert "previous_response_id" not in made.sent[1] and made.sent[1]["store"] is False


@pytest.mark.parametrize(
    "event",
    [
        {"type": "response.output_item.added", "item": [1]},
        {"type": "response.content_part.added", "item_id": "m", "part": {"text": 5}},
        {"type": "response.output_text.delta", "item_id": "m", "delta": "x", "output_index": "a"},
        {"type": "response.completed", "response": {**_IN_PROGRESS, "output": ["x"]}},
        {"type": ["response.completed"]},
    ],
)
def test_stored_response_with_malformed_events_has_failed(
    native: Make, event: dict[str, Any]
) -> None:
    """Retrieving it returns the failure and the text before it."""
    body = frames(*BARE[:8]) + sse.frame(json.dumps(event).encode())
    made = native("openai", HEAD + body)
    with openai.OpenAI(base_url=f"{made.url}/v1", api_key="k", max_retries=0) as client:
        api = client.responses
        *_, last = api.create(model="real", input="hi", background=True, stream=True)
        assert last.type == "response.failed"
        read = api.retrieve(last.response.id)
        assert (read.status, read.output_text) == ("failed", "Hi")
        assert read.error is not None and "unknown shape" in read.error.message


def test_malformed_items_of_a_stored_response_continue_only_natively(native: Make) -> None:
    output: list[Any] = [{"type": "message"}, {"type": "reasoning", "encrypted_content": 5}]
    answer = {**_IN_PROGRESS, "status": "completed", "output": output}
    made = native("openai", HEAD + frames({"type": "response.completed", "response": answer}))
    with openai.OpenAI(base_url=f"{made.url}/v1", api_key="k", max_retries=0) as client:
        id = client.responses.create(model="real", input="hi", store=True).id
        for _ in range(2):  # also after a response whose input has them
            go: dict[str, Any] = {"input": "go", "previous_response_id": id, "store": True}
            with pytest.raises(openai.BadRequestError, match="cannot read") as raised:
                client.responses.create(model="echo", **go)
            assert raised.value.param == "previous_response_id"
            id = client.responses.create(model="real", **go).id
            assert made.sent[1]["input"][1:3] == output
        assert len(client.responses.input_items.list(id).data) == 7


def test_items_are_listed_with_ids_and_content_in_parts(native: Make) -> None:
    """A text that is the content of no message, which is unknown, stays a text."""
    reasoning = {"type": "reasoning", "summary": []}
    result = {"type": "function_call_output", "call_id": "1", "output": "x", "content": "y"}
    input: Any = [{"role": "assistant", "content": "hi"}, reasoning, result]
    with openai.OpenAI(base_url=f"{native('openai', b'').url}/v1", api_key="k") as client:
        id = client.responses.create(model="echo", input=input, store=True).id
        items = [item.to_dict() for item in client.responses.input_items.list(id).data]
    assert [str(item["id"]).partition("_")[0] for item in items] == ["item", "rs", "msg"]
    assert items[0].items() >= {**result, "status": "completed"}.items()
    assert items[2]["content"] == [{"type": "output_text", "text": "hi", "annotations": []}]


def test_event_with_several_data_lines_is_forwarded(native: Make) -> None:
    lines = [json.dumps(event, indent=1).encode() for event in (EVENTS[0], EVENTS[-1])]
    body = b"".join(b"data: " + one.replace(b"\n", b"\ndata: ") + b"\n\n" for one in lines)
    made = native("openai", HEAD + body)
    events = create_response(made.url, stream=True)
    assert [event.to_dict() for event in events] == [EVENTS[0], EVENTS[-1]]


def test_answer_has_the_callers_model_name(native: Make) -> None:
    made = native("openai", HEAD + frames(*EVENTS))
    events = create_response(made.url, model="alias", stream=True)
    assert [event.response.model for event in (events[0], events[-1])] == ["alias"] * 2
    assert made.sent[1]["model"] == "real"
    document = json.dumps({**RESPONSE, "status": "completed", "usage": USAGE}).encode()
    plain = native("openai", DOCUMENT + document)
    response = create_response(plain.url, model="alias")
    assert (response.model, response.id, response.usage.total_tokens) == (
        "alias",
        "resp_upstream",
        11,
    )


@pytest.mark.parametrize(("newline", "named"), [(b"\n", True), (b"\r\n", False)])
def test_truncated_response_ends_with_failure(native: Make, newline: bytes, named: bool) -> None:
    """A cut within any event: the events before it, then one failure with the next number."""
    for cut in range(0, len(EVENTS), 7):
        block = frames(*EVENTS[:cut])
        if not named:
            block = b"".join(line + b"\n" for line in block.splitlines() if line[:6] != b"event:")
        plain = b'event: response.output_text.delta\ndata: {"logprobs": [{}'
        block += plain if named else b'data: {"type": "resp'
        made = native("openai", HEAD + block.replace(b"\n", newline))
        if cut == 0:
            with pytest.raises(openai.APIStatusError):
                create_response(made.url, stream=True)
            continue
        events = create_response(made.url, stream=True)
        assert [event.to_dict() for event in events[:cut]] == EVENTS[:cut]
        (failed,) = events[cut:]
        assert failed.type == "response.failed"
        assert (failed.sequence_number, failed.response.id) == (cut, "resp_upstream")
        assert failed.response.error.type == "upstream_truncated"


@pytest.mark.parametrize("missing", [1, 2])
@pytest.mark.parametrize("newline", [b"\n", b"\r\n"])
def test_last_event_needs_no_blank_line(native: Make, missing: int, newline: bytes) -> None:
    made = native("openai", HEAD + frames(*EVENTS)[:-missing].replace(b"\n", newline))
    events = create_response(made.url, stream=True)
    assert [event.to_dict() for event in events] == EVENTS


@pytest.mark.parametrize("size", [1, 50, 333])
def test_events_split_anywhere_are_forwarded(
    application: Callable[..., Application], serve: Callable[..., harness.Server], size: int
) -> None:
    whole = frames(*EVENTS)

    def answer(peer: Peer) -> None:
        peer.head(framing="close")
        for at in range(0, len(whole), size):
            peer.send(whole[at : at + size])
        peer.close()

    with RawServer(answer) as upstream:
        section = {"type": "openai", "base_url": upstream.base_url, "apis": "responses"}
        app = application({"up": {**section, "api_key": "k", "models": "real"}})
        events = create_response(serve(app).url, stream=True)
    assert [event.to_dict() for event in events] == EVENTS


def test_upstream_error_event_or_refusal_becomes_the_error(native: Make) -> None:
    error = {"type": "error", "code": "rate_limit_exceeded", "message": "slow", "param": None}
    made = native("openai", HEAD + frames(*EVENTS[:5], {**error, "sequence_number": 5}))
    events = create_response(made.url, stream=True)
    assert [event.type for event in events[5:]] == ["response.failed"]
    assert events[5].response.error.code == "rate_limit_exceeded"
    refused = b'{"error":{"message":"no such tool","type":"invalid_request_error","param":"tools"}}'
    head = b"HTTP/1.1 400 Bad\r\nContent-Type: application/json\r\nConnection: close\r\n\r\n"
    made = native("openai", head + refused)
    with pytest.raises(openai.BadRequestError, match="no such tool"):
        create_response(made.url, stream=True)


def test_error_as_the_first_event_becomes_a_status(native: Make) -> None:
    error = {"type": "error", "code": "rate_limit_exceeded", "message": "slow", "param": None}
    made = native("openai", HEAD + frames({**error, "sequence_number": 0}))
    with pytest.raises(openai.RateLimitError, match="slow"):
        create_response(made.url, stream=True)


def test_error_as_the_first_event_is_retried_with_the_next_provider(
    application: Callable[..., Application], serve: Callable[..., harness.Server]
) -> None:
    error = {"type": "error", "code": "server_error", "message": "no", "sequence_number": 0}
    with (
        RawServer.playing(HEAD + frames(error)) as first,
        RawServer.playing(HEAD + frames(*EVENTS)) as second,
    ):
        common = {"type": "openai", "apis": "responses", "api_key": "k", "models": "real"}
        one = {**common, "base_url": first.base_url, "priority": "0"}
        other = {**common, "base_url": second.base_url, "priority": "1"}
        events = create_response(serve(application({"a": one, "b": other})).url, stream=True)
        assert len(first.requests) == 1
    assert [event.to_dict() for event in events] == EVENTS


def test_event_that_is_no_object_fails_as_upstream_invalid(native: Make) -> None:
    made = native("openai", HEAD + frames(*EVENTS[:2]) + b"event: response.created\ndata: [1]\n\n")
    events = create_response(made.url, stream=True)
    assert [event.type for event in events[2:]] == ["response.failed"]
    assert events[2].response.error.type == "upstream_invalid"


def test_event_type_with_line_ends_adds_no_lines_to_the_frame(native: Make) -> None:
    event = {**EVENTS[1], "type": "x\ndata: {}\n\nevent: response.completed"}
    made = native(
        "openai", HEAD + frames(EVENTS[0]) + b"data: " + json.dumps(event).encode() + b"\n\n"
    )
    body = {"model": "real", "input": "hi", "stream": True}
    text = requests.post(f"{made.url}/v1/responses", json=body, timeout=30).text
    assert "completed" not in text
    assert "upstream_invalid" in text


OVERLOADED = {"type": "error", "error": {"type": "overloaded_error", "message": "no room"}}


@pytest.mark.parametrize(
    ("document", "message"),
    [(OVERLOADED, "no room"), ([1], "not a JSON object"), ("x" * 9, "not a JSON object")],
)
def test_document_that_is_no_message_is_a_5xx(native: Make, document: Any, message: str) -> None:
    made = native("anthropic", DOCUMENT + json.dumps(document).encode())
    body: Any = {"model": "real", "max_tokens": 9, "messages": [{"role": "user", "content": "x"}]}
    with (
        anthropic.Anthropic(base_url=made.url, api_key="k", max_retries=0) as client,
        pytest.raises(anthropic.APIStatusError, match=message) as caught,
    ):
        client.messages.create(**body)
    assert caught.value.status_code >= 500


@pytest.mark.parametrize("stream", [False, True])
def test_failed_response_hides_the_api_key(native: Make, stream: bool) -> None:
    """Whole, abbreviated as providers do, or in a long text."""
    key = "sk-upstream"
    message = f"Incorrect API key provided: {key}, sk-ups***6789. {'x' * 200_000}{key}"
    error = {"code": f"no_{key}", "message": message}
    failed = {**RESPONSE, "status": "failed", "error": error, "output": [{"type": key}]}
    answer = frames(*numbered({"type": "response.failed", "response": failed}))
    made = native("openai", HEAD + answer if stream else DOCUMENT + json.dumps(failed).encode())
    body = {"model": "real", "input": "x", "stream": stream}
    text = requests.post(f"{made.url}/v1/responses", json=body, timeout=30).text
    assert key not in text and "sk-ups" not in text
    assert text.count("***") == 5 and "Incorrect API key provided: ***" in text


@pytest.mark.parametrize("offset", [WINDOW - 5, 2 * WINDOW - 5, 200_000])
def test_long_event_hides_the_api_key_wherever_it_is(native: Make, offset: int) -> None:
    def completed(before: int) -> bytes:
        response = {
            **RESPONSE,
            "status": "completed",
            "instructions": f"{'x' * before} sk-upstream",
        }
        return frames(*numbered({"type": "response.completed", "response": response}))

    event = completed(0)
    answer = completed(offset - event.index(b"sk-upstream") + event.index(b"{"))
    assert answer.index(b"sk-upstream") - answer.index(b"{") == offset
    body = {"model": "real", "input": "x", "stream": True}
    made = native("openai", HEAD + answer)
    text = requests.post(f"{made.url}/v1/responses", json=body, timeout=30).text
    assert "sk-upstream" not in text and "x ***" in text


@pytest.mark.parametrize("offset", [100, WINDOW - 5, 2 * WINDOW - 5])
def test_long_document_hides_the_api_key_wherever_it_is(native: Make, offset: int) -> None:
    error = {"code": "server_error", "message": "failed"}
    response = {**RESPONSE, "status": "failed", "error": error, "instructions": "x" * 300_000}
    document = json.dumps(response).encode()
    at = document.index(b"x" * 9) // WINDOW * WINDOW + offset + WINDOW
    document = document[:at] + b" sk-upstream" + document[at:]
    made = native("openai", DOCUMENT + document)
    body = {"model": "real", "input": "x"}
    answer = requests.post(f"{made.url}/v1/responses", json=body, timeout=30)
    assert answer.json()["error"] == error
    assert "sk-upstream" not in answer.text and "x ***x" in answer.text


@pytest.mark.parametrize("status", ["404 Not Found", "405 Not Allowed", "501 Not Implemented"])
def test_server_without_responses_is_served_by_chat(native: Make, status: str) -> None:
    """As vLLM of two years ago: the first request is sent again by chat, later ones at once."""
    chunk = {"id": "c", "object": "chat.completion.chunk", "created": 1, "model": "real"}
    choice = {"index": 0, "delta": {"role": "assistant", "content": "by chat"}}
    frame = sse.frame(
        json.dumps({**chunk, "choices": [{**choice, "finish_reason": "stop"}]}).encode()
    )
    head = f"HTTP/1.1 {status}\r\nContent-Type: application/json\r\nConnection: close\r\n\r\n"

    def answer(request: Request) -> bytes:
        if request.path.endswith("/responses"):
            return head.encode() + b'{"detail":"Not Found"}'
        return HEAD + frame + sse.DONE

    made = native("vllm", answer)
    for _ in range(2):
        assert create_response(made.url).output_text == "by chat"
    targets = [request.path.rpartition("/")[2] for request in made.upstream.requests]
    assert targets == ["responses", "completions", "completions"]


@pytest.mark.parametrize(
    "text",
    ["The Model `real` does not exist.", "No deployment x.", "Item with id 'rs_1' not found."],
)
def test_404_for_a_model_or_an_item_does_not_switch_to_chat(native: Make, text: str) -> None:
    head = b"HTTP/1.1 404 Not Found\r\nContent-Type: application/json\r\nConnection: close\r\n\r\n"
    gone = native("vllm", head + json.dumps({"error": {"message": text}}).encode())
    for _ in range(2):
        with pytest.raises(openai.NotFoundError, match=text[-10:]):
            create_response(gone.url)
    assert {request.path for request in gone.upstream.requests} == {"/responses"}


def test_server_with_the_option_apis_is_not_asked_by_chat(native: Make) -> None:
    head = b"HTTP/1.1 404 Not Found\r\nContent-Type: application/json\r\nConnection: close\r\n\r\n"
    made = native("openai", head + b'{"detail":"Not Found"}')
    with pytest.raises(openai.NotFoundError, match="Not Found"):
        create_response(made.url)
    assert {request.path for request in made.upstream.requests} == {"/v1/responses"}


def test_azure_uses_its_v1_path_and_chat_for_unsupported_models(native: Make) -> None:
    made = native("azure", HEAD + frames(*EVENTS))
    assert [event.to_dict() for event in create_response(made.url, stream=True)] == EVENTS
    assert made.sent[0] == "/openai/v1/responses"
    head = b"HTTP/1.1 400 Bad\r\nContent-Type: application/json\r\nConnection: close\r\n\r\n"
    chunk = b'data: {"choices":[{"index":0,"delta":{"content":"hi"},"finish_reason":"stop"}]}\n\n'

    def answer(request: Request) -> bytes:
        if request.path.endswith("/responses"):
            return head + b'{"error":{"message":"The requested operation is unsupported."}}'
        return HEAD + chunk + sse.DONE

    other = native("azure", answer)
    assert create_response(other.url).output_text == "hi"
    assert other.sent[0] == "/openai/v1/chat/completions"


def create_message(url: str, **members: Any) -> Any:
    body: Any = {"model": "real", "max_tokens": 9, "messages": [{"role": "user", "content": "x"}]}
    with (
        anthropic.Anthropic(base_url=url, api_key="k", max_retries=0) as client,
        client.messages.stream(**{**body, **members}) as stream,
    ):
        return stream.get_final_message()


def test_message_events_and_beta_headers_are_forwarded(native: Make) -> None:
    made = native("anthropic", HEAD + frames(*MESSAGES))
    system: Any = [{"type": "text", "text": "s", "cache_control": {"type": "ephemeral"}}]
    tools: Any = [{"type": "web_search_20250305", "name": "web_search"}]
    more: Any = {"extra_headers": {"anthropic-beta": "context-1m"}, "tools": tools}
    message = create_message(made.url, model="alias", system=system, **more)
    assert (message.content[0].text, message.model) == (FULL_TEXT, "alias")
    target, body, headers = made.sent
    assert target == "/v1/messages"
    assert (body["system"], body["tools"], body["model"]) == (system, tools, "real")
    assert (headers["anthropic-beta"], headers["x-api-key"]) == ("context-1m", "sk-upstream")
    assert headers["anthropic-version"] == anthropic._constants.ANTHROPIC_API_VERSION


def test_unsigned_thinking_is_not_sent_to_claude(native: Make) -> None:
    """Anthropic rejects requests with it; Claude's own thinking is sent back."""
    made = native("anthropic", HEAD + frames(*MESSAGES))
    own = {"type": "thinking", "thinking": "so", "signature": "EqQB"}
    sealed = {"type": "redacted_thinking", "data": "EmwK"}
    text = {"type": "text", "text": "4"}
    foreign = {"type": "thinking", "thinking": "hm" * 50_000, "signature": ""}
    unsigned = {"type": "thinking", "thinking": "hm"}
    turns: Any = [
        {"role": "user", "content": "2 + 2"},
        {"role": "assistant", "content": [foreign, unsigned, own, sealed, text]},
        {"role": "assistant", "content": [unsigned]},
        {"role": "user", "content": [{"type": "text", "text": "sure?"}]},
    ]
    create_message(made.url, messages=turns)
    kept = {"role": "assistant", "content": [own, sealed, text]}
    assert made.sent[1]["messages"] == [turns[0], kept, turns[3]]


def test_only_anthropic_accepts_threads(
    native: Make, application: Callable[..., Application], serve: Callable[..., harness.Server]
) -> None:
    """Its refusal of a thread is forwarded with the details that its SDK reads."""
    lost = {
        "type": "not_found_error",
        "message": "lost",
        "details": {"error_code": "thread_not_found"},
    }
    refusal = json.dumps({"type": "error", "error": lost}).encode()
    made = native("anthropic", DOCUMENT.replace(b"200 OK", b"404 Not Found") + refusal)
    thread = {"type": "continue", "previous_message_id": "msg_1"}
    with pytest.raises(anthropic.APIStatusError) as raised:
        create_message(made.url, extra_body={"thread": thread})
    assert made.sent[1]["thread"] == thread
    assert raised.value.body["error"]["details"] == lost["details"]  # type: ignore[index,call-overload]
    others = {
        "up": {"type": "openai", "models": "real", "base_url": made.upstream.url, "api_key": "k",
               "apis": "chat, messages"},
        "claude": {"type": "bedrock", "models": "anthropic.claude", "region": "us-east-1",
                   "api_key": "k", "base_url": made.upstream.url},
    }  # fmt: skip
    url = serve(application(others)).url
    for model in ("real", "anthropic.claude"):
        with pytest.raises(anthropic.BadRequestError, match="thread is not supported"):
            create_message(url, model=model, extra_body={"thread": thread})
        with (
            anthropic.Anthropic(base_url=url, api_key="k", max_retries=0) as client,
            pytest.raises(anthropic.BadRequestError, match="send the whole conversation"),
        ):
            turn: Any = [{"role": "user", "content": "hi"}]
            client.messages.count_tokens(model=model, messages=turn, extra_body={"thread": thread})
    assert len(made.upstream.requests) == 1


@pytest.mark.parametrize("at", [10, 41])
def test_invalid_utf8_fails_after_the_events_before_it(native: Make, at: int) -> None:
    """The SDKs cannot read it: they receive the events before it, then the API's own error."""
    events = [frames(event) for event in MESSAGES]
    events[at] = events[at].replace(b"w", b"\xff")
    message = native("anthropic", HEAD + b"".join(events))
    with pytest.raises(anthropic.APIStatusError, match="cannot be read"):
        create_message(message.url)
    events = [frames(event) for event in EVENTS]
    events[at] = events[at].replace(b"w", b"\xff")
    kinds = [
        event.type
        for event in create_response(native("openai", HEAD + b"".join(events)).url, stream=True)
    ]
    assert kinds == [event["type"] for event in EVENTS[:at]] + ["response.failed"]


def test_message_without_message_stop_is_complete(native: Make) -> None:
    """The stop reason was received, so only the end marker is missing."""
    assert (
        create_message(native("anthropic", HEAD + frames(*MESSAGES[:-1])).url).content[0].text
        == FULL_TEXT
    )


def test_message_begins_only_once(native: Make) -> None:
    made = native("anthropic", HEAD + frames(MESSAGES[0], *MESSAGES))
    with pytest.raises(anthropic.APIError, match="a second time"):
        create_message(made.url)


def test_ping_of_the_upstream_is_not_forwarded(native: Make) -> None:
    made = native("anthropic", HEAD + frames({"type": "ping", "x": "theirs"}, *MESSAGES))
    body = {"model": "real", "max_tokens": 9, "messages": [{"role": "user", "content": "x"}]}
    answer = requests.post(f"{made.url}/v1/messages", json={**body, "stream": True}, timeout=60)
    assert b"theirs" not in answer.content and answer.content.endswith(frames(MESSAGES[-1]))


def test_count_of_zero_does_not_replace_an_earlier_one(
    native: Make, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", "choreo_wsgi")
    last = {**MESSAGES[-2], "usage": {"input_tokens": 0, "output_tokens": 7}}
    create_message(native("anthropic", HEAD + frames(*MESSAGES[:-2], last, MESSAGES[-1])).url)

    def lines() -> list[Any]:
        return [record.account for record in caplog.records if hasattr(record, "account")]

    harness.wait_until(lines, "the request is logged")
    assert (lines()[0]["tokens_in"], lines()[0]["tokens_out"]) == (5, 7)


def test_long_document_is_an_error(native: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("choreo_wsgi.providers.native.MAX_DOCUMENT", 100)
    made = native("openai", DOCUMENT + json.dumps({**RESPONSE, "x": "y" * 100}).encode())
    with pytest.raises(openai.APIStatusError, match="too long"):
        create_response(made.url)


def test_connection_is_reused_after_the_last_event(
    application: Callable[..., Application], serve: Callable[..., harness.Server]
) -> None:
    received, ended = threading.Event(), threading.Event()

    def answer(peer: Peer) -> None:
        peer.send(head("200 OK", "text/event-stream", "Transfer-Encoding: chunked"))
        peer.send(chunk(frames(*MESSAGES)))
        received.wait(harness.DEADLINE)
        peer.send(chunk(b""))
        ended.set()

    with RawServer(answer) as upstream:
        section = {"type": "anthropic", "base_url": upstream.url, "api_key": "k", "models": "real"}
        server = serve(application({"up": section}))
        for _ in range(2):
            assert create_message(server.url).content[0].text == FULL_TEXT
            received.set()
            assert ended.wait(harness.DEADLINE)
        assert upstream.accepted == 1


def test_truncated_message_raises_an_error(native: Make) -> None:
    for cut in range(1, len(MESSAGES), 6):
        made = native("anthropic", HEAD + frames(*MESSAGES[:cut]))
        with pytest.raises(anthropic.APIError):
            create_message(made.url)
    unfinished = {"type": "message_delta", "delta": {}, "usage": {"output_tokens": 7}}
    made = native("anthropic", HEAD + frames(*MESSAGES[:-2], unfinished))
    with pytest.raises(anthropic.APIError):
        create_message(made.url)


def test_tokens_are_counted_upstream_or_estimated(
    native: Make, application: Callable[..., Application], serve: Callable[..., harness.Server]
) -> None:
    made = native("anthropic", DOCUMENT + b'{"input_tokens":14}')
    messages: Any = [{"role": "user", "content": "x" * 400}]
    for url, model, expected in (
        (made.url, "real", 14),
        (serve(application()).url, "echo", 105),
    ):
        with anthropic.Anthropic(base_url=url, api_key="k") as client:
            counted = client.messages.count_tokens(model=model, messages=messages)
        assert counted.input_tokens == expected
    assert made.sent[0] == "/v1/messages/count_tokens"


SYSTEM, TOOL = "s" * 40, {"name": "f" * 40, "input_schema": {}}
PNG = {"type": "base64", "media_type": "image/png", "data": "A" * 9999}


@pytest.mark.parametrize(
    ("route", "members", "tokens"),
    [
        ("messages/count_tokens", {}, 7),
        ("messages/count_tokens", {"messages": 2 * [{"role": "user", "content": "éé 4"}]}, 14),
        ("messages/count_tokens", {"system": SYSTEM, "tools": [TOOL]}, 27),
        ("messages/count_tokens", {"thinking": {"type": "enabled", "budget_tokens": 1024}}, 7),
        ("messages/count_tokens",
         {"messages": [{"role": "user", "content": [{"type": "document", "source": PNG}]}]}, 1605),
        ("responses/input_tokens", {"stream": True}, 6),
        ("responses/input_tokens", {"instructions": SYSTEM}, 16),
        ("responses/input_tokens", {"tools": [{"type": "custom", "name": "f" * 40}]}, 18),
        ("responses/input_tokens", {"input": [{"role": "user", "content": [
            {"type": "input_file", "file_data": "data:text/plain;base64," + "A" * 9999},
            {"type": "input_audio", "input_audio": {"data": "A" * 9999, "format": "wav"}},
        ]}]}, 3205),
    ],
)  # fmt: skip
def test_estimate_counts_bytes_turns_media_and_tools(
    application: Callable[..., Application], route: str, members: Any, tokens: int
) -> None:
    hello: Any = [{"role": "user", "content": "hi 4 "}]
    body = {"model": "echo", "messages": hello, "input": "hi", **members}
    answer = call(application({"echo": {"models": "echo"}}), "POST", f"/v1/{route}", body)
    assert answer.json()["input_tokens"] == tokens


def test_counting_and_compacting_are_forwarded_or_estimated_or_rejected(native: Make) -> None:
    compacted = {"id": "cmp_1", "object": "response.compaction", "created_at": 1, "output": []}
    usage = {"input_tokens": 9, "output_tokens": 1, "total_tokens": 10}
    answers: dict[str, Any] = {
        "/v1/responses/input_tokens": {"object": "response.input_tokens", "input_tokens": 14},
        "/v1/responses/compact": {**compacted, "usage": usage},
    }
    made = native("openai", lambda request: DOCUMENT + json.dumps(answers[request.path]).encode())
    picture = {"type": "input_image", "image_url": "data:image/png;base64," + "A" * 9999}
    items: Any = [{"role": "user", "content": [{"type": "input_text", "text": "hi"}, picture]}]
    with openai.OpenAI(base_url=f"{made.url}/v1", api_key="k", max_retries=0) as client:
        assert client.responses.input_tokens.count(model="alias", input="hi").input_tokens == 14
        assert made.sent[1] == {"model": "real", "input": "hi"}
        streamed: Any = {"extra_body": {"stream": True}}
        count = client.responses.input_tokens.count
        assert count(model="real", input="hi", **streamed).input_tokens == 14
        answer = client.responses.compact(model="alias", input="hi")
        assert (answer.id, answer.usage.total_tokens) == ("cmp_1", 10)
        assert count(model="echo", input="x" * 400, instructions="y" * 40).input_tokens == 115
        assert 1600 < count(model="echo", input=items).input_tokens < 1620
        with pytest.raises(openai.BadRequestError, match="send the whole input") as raised:
            count(model="echo", previous_response_id="resp_x")
        assert raised.value.param == "previous_response_id"
        with pytest.raises(openai.BadRequestError, match="send the input as it is") as raised:
            client.responses.compact(model="echo", input="hi")
        assert raised.value.param == "model"


COMPLETION = {"id": "cmpl-1", "object": "text_completion", "created": 1, "model": "real"}


def test_legacy_completions_are_forwarded(native: Make) -> None:
    chunks = [
        {**COMPLETION, "choices": [{"index": 0, "text": text, "finish_reason": reason}]}
        for text, reason in (("a", None), ("b", "stop"))
    ]
    block = b"".join(sse.frame(json.dumps(chunk).encode()) for chunk in chunks)
    made = native("openai", HEAD + sse.frame(b"null") + block + sse.DONE)  # llama.cpp's first event
    with openai.OpenAI(base_url=f"{made.url}/v1", api_key="k", max_retries=0) as client:
        members: Any = {"model": "alias", "prompt": "once", "echo": True, "n": 1}
        read = list(client.completions.create(stream=True, **members))
        assert [(chunk.choices[0].text, chunk.model) for chunk in read] == [
            ("a", "alias"),
            ("b", "alias"),
        ]
        assert made.sent[0] == "/v1/completions"
    cut = native("openai", HEAD + block)
    with (
        openai.OpenAI(base_url=f"{cut.url}/v1", api_key="k", max_retries=0) as client,
        pytest.raises(openai.APIError, match="before it was complete"),
    ):
        list(client.completions.create(stream=True, **members))


@pytest.mark.parametrize(
    ("prompt", "choices"), [("a", 3), ([1, 2], 3), (["a", "b"], 6), ([[1], [2, 3]], 6)]
)
def test_each_prompt_has_n_choices(prompt: Any, choices: int) -> None:
    """The limit of a key counts ``max_tokens`` for each of them."""
    body = {"model": "m", "prompt": prompt, "n": 3}
    assert apis.load("completions").read(json.dumps(body).encode()).n == choices


def test_embeddings_are_forwarded_or_rejected(native: Make) -> None:
    data = [{"object": "embedding", "index": 0, "embedding": [0.5, 0.25]}]
    usage = {"prompt_tokens": 1, "total_tokens": 1}
    document = {"object": "list", "data": data, "model": "real", "usage": usage}
    made = native("openai", DOCUMENT + json.dumps(document).encode())
    with openai.OpenAI(base_url=f"{made.url}/v1", api_key="k", max_retries=0) as client:
        answer = client.embeddings.create(model="real", input="hi", encoding_format="float")
        assert answer.data[0].embedding == [0.5, 0.25]
        assert made.sent[0] == "/v1/embeddings"
        with pytest.raises(openai.BadRequestError, match="has no embeddings"):
            client.embeddings.create(model="echo", input="hi")
        with pytest.raises(openai.BadRequestError, match="has no completions"):
            client.completions.create(model="echo", prompt="hi")
        for empty in ([], [[]]):
            with pytest.raises(openai.BadRequestError, match="input must not be empty"):
                client.embeddings.create(model="real", input=empty)
        with pytest.raises(openai.BadRequestError) as raised:
            client.embeddings.create(model="real", input=7)  # type: ignore[arg-type]
        assert raised.value.param == "input"


@pytest.mark.parametrize(
    ("api", "members"),
    [
        ("completions", {"logprobs": 6}),
        ("completions", {"best_of": 21}),
        ("completions", {"max_tokens": 2**31}),
        ("completions", {"top_p": 2}),
        ("embeddings", {"dimensions": 0}),
        ("embeddings", {"encoding_format": "x"}),
        ("embeddings", {"input": [-1]}),
        ("embeddings", {"input": ["a", 1]}),
    ],
)
def test_legacy_apis_check_their_members(api: str, members: dict[str, Any]) -> None:
    body = {"model": "m", "prompt": "x", "input": "x", **members}
    with pytest.raises(InvalidRequest) as raised:
        apis.load(api).read(json.dumps(body).encode())
    assert str(raised.value.param).startswith(*members)


def test_embeddings_accept_openais_most_lists_and_tokens() -> None:
    """2,048 lists; those of at least 256 bytes are set aside and not counted."""
    read = apis.load("embeddings").read

    def body(lists: int, each: int, token: str) -> bytes:
        tokens = ",".join([token] * each)
        return f'{{"model":"m","input":[{",".join([f"[{tokens}]"] * lists)}]}}'.encode()

    assert read(body(2_048, 146, "123456")).model == "m"  # 300,000 tokens
    assert read(body(2_048, 50, "7")).model == "m"
    with pytest.raises(InvalidRequest, match="more than 120,000 values"):
        read(body(2_400, 50, "7"))


def test_chat_imports_no_other_api() -> None:
    """Their modules are imported by the first request to them."""
    script = """
import sys
sys.path.insert(0, sys.argv[1])
from harness import make_app
from wsgi_calls import call, chat
app = make_app()
assert call(app, "POST", "/v1/chat/completions", chat("x")).status == 200
names = [name for name in sys.modules if name.startswith("choreo_wsgi.")]
print([name for name in names if "responses" in name or "messages" in name
       or name.endswith((".stored", ".native", ".passing"))])
app.close()
"""
    helpers = Path(__file__).parents[1] / "helpers"
    run = [sys.executable, "-c", script, str(helpers)]
    done = subprocess.run(run, capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout == "[]\n"
