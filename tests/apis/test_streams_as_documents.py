"""Answers with blocks of every kind: valid events in order, equal to the one document."""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Callable
from typing import Any

import harness
import pytest
import requests
from official import MESSAGE, RESPONSE, events_of, judge, judge_events, judge_order
from scripted_provider import Script, Scripted

from choreo_wsgi.app.application import Application
from choreo_wsgi.chat.items import Delta, Finish, Item, ToolCall, Usage
from choreo_wsgi.chat.source import from_deltas

SIGNED = {"index": 0, "type": "thinking", "thinking": "I must look.", "signature": "c2ln"}
HIDDEN = {"index": 1, "type": "redacted_thinking", "data": "c2Vl"}
CITATIONS: list[Any] = [
    {"url_citation": {"url": f"https://x/{n}", "title": "X", "content": "c", "end_index": 4}}
    for n in (0, 1)
]
LAST_LOGPROBS: dict[str, Any] = {"content": [{"token": "", "top_logprobs": [5]}, None]}
LOGPROBS = {"content": [{"token": "Oslo", "logprob": -0.5, "top_logprobs": []}]}
IMAGES = [{"image_url": {"url": url}} for url in ("data:image/webp;base64,AAAA", "https://x")]
GOOGLE = {"extra_content": {"google": {"thought_signature": "c2ln"}}}
ITEMS: list[Item] = [
    Delta(reasoning="I must "),
    Delta(reasoning="look."),
    Delta(extra={"thinking_blocks": [SIGNED, HIDDEN]}),
    Delta("Oslo", logprobs=LOGPROBS),
    Delta(extra={"annotations": CITATIONS}),
    Delta(" 3"),
    Delta(logprobs=LAST_LOGPROBS),
    Delta(extra={"images": IMAGES, "content_parts": [{"type": "smell"}]}),
    Delta("More.", logprobs={"content": 5}),
    Delta(refusal="No "),
    Delta(refusal="more."),
    Delta("Calls:"),
    Delta(tool_calls=[ToolCall(0, "call_0", "weather", "", GOOGLE)]),
    Delta(tool_calls=[ToolCall(0, arguments='{"city":"Oslo"}')]),
    Delta(tool_calls=[ToolCall(1, "call_1", "note", '{"input":"hi"}')]),
    Delta(tool_calls=[ToolCall(2, "call_2", "crm__find", "{")]),
    Delta(tool_calls=[ToolCall(2, arguments="}")]),
]
USAGE = Usage(50, 20, 30, 5, 7, 75)
WEATHER: dict[str, Any] = {
    "type": "function",
    "name": "weather",
    "parameters": {"type": "object"},
    "strict": True,
}
FIND = {**WEATHER, "name": "find"}
TOOLS = [
    WEATHER,
    {"type": "custom", "name": "note"},
    {"type": "namespace", "name": "crm", "description": "customers", "tools": [FIND]},
]
BODIES: dict[str, dict[str, Any]] = {
    "/v1/responses": {"model": "m", "input": "hi", "tools": TOOLS},
    "/v1/messages": {
        "model": "m",
        "max_tokens": 9,
        "messages": [{"role": "user", "content": "hi"}],
    },
}
#: Members that differ from answer to answer.
_OWN = {"id", "created_at", "completed_at"}
Fetch = Callable[..., tuple[list[dict[str, Any]], dict[str, Any]]]


@pytest.fixture
def fetch(
    application: Callable[..., Application],
    serve: Callable[..., harness.Server],
    scripted: Callable[[], Script],
    monkeypatch: pytest.MonkeyPatch,
) -> Fetch:
    """Return a function that returns the checked events, and the document, of an answer."""
    url = serve(application({"scripted": {"models": "m"}})).url

    def fetch(path: str, *items: Item, **more: Any) -> tuple[list[dict[str, Any]], dict[str, Any]]:
        monkeypatch.setattr(Scripted, "script", staticmethod(lambda _: from_deltas(items)))
        body = {**BODIES[path], **more}
        streamed = requests.post(url + path, json={**body, "stream": True}, timeout=60)
        document = requests.post(url + path, json=body, timeout=60).json()
        events = events_of(streamed.content)
        judge_events(events)
        judge_order(events)
        judge(RESPONSE if path == "/v1/responses" else MESSAGE, document)
        return events, document

    return fetch


def comparable(value: Any) -> Any:
    """Return *value* without the members that differ from answer to answer."""
    if isinstance(value, dict):
        return {name: comparable(one) for name, one in value.items() if name not in _OWN}
    return [comparable(one) for one in value] if isinstance(value, list) else value


DEFAULTS: dict[str, Any] = {
    "/v1/responses": {
        "object": "response", "model": "m", "status": "completed", "error": None,
        "incomplete_details": None, "instructions": None, "temperature": None, "top_p": None,
        "max_output_tokens": None, "user": None, "max_tool_calls": None,
        "previous_response_id": None, "prompt_cache_key": None, "safety_identifier": None,
        "service_tier": None, "metadata": {}, "parallel_tool_calls": True, "tool_choice": "auto",
        "tools": [], "background": False, "reasoning": {"effort": None, "summary": None},
        "store": False, "text": {"format": {"type": "text"}}, "top_logprobs": 0,
        "truncation": "disabled", "usage": None, "output": [],
    },
    "/v1/messages": {
        "type": "message", "role": "assistant", "model": "m", "content": [],
        "stop_reason": "end_turn", "stop_sequence": None,
        "usage": {"input_tokens": 0, "cache_creation_input_tokens": 0,
                  "cache_read_input_tokens": 0, "output_tokens": 0},
    },
}  # fmt: skip


@pytest.mark.parametrize("path", DEFAULTS)
def test_empty_answer_has_the_default_members(fetch: Fetch, path: str) -> None:
    _, document = fetch(path, Finish(), tools=[])
    assert comparable(document) == DEFAULTS[path]


def test_long_members_of_the_request_are_repeated(fetch: Fetch) -> None:
    instructions = "x" * 300_000
    events, document = fetch("/v1/responses", Finish(), instructions=instructions)
    responses = [event["response"] for event in (events[0], events[-1])]
    assert [one["instructions"] for one in (*responses, document)] == 3 * [instructions]


@pytest.mark.parametrize("reasoning", [{}, {"summary": "auto"}, {"generate_summary": "auto"}])
def test_response_events_match_the_document(fetch: Fetch, reasoning: dict[str, str]) -> None:
    finish, summary = Finish("tool_calls"), bool(reasoning)
    events, document = fetch("/v1/responses", *ITEMS, finish, USAGE, reasoning=reasoning)
    for event in events[:2]:
        assert (event["response"]["status"], event["response"]["output"]) == ("in_progress", [])
    response = events[-1]["response"]
    assert comparable(response) == comparable(document)
    assert response["completed_at"] >= response["created_at"]
    thought, hidden, oslo, image, url, part, _, _, _, call, note, find = response["output"]
    assert thought["summary" if summary else "content"][0]["text"] == "I must look."
    assert not thought.get("content" if summary else "summary")
    assert hidden["encrypted_content"] != thought["encrypted_content"]
    (text,) = oslo["content"]
    assert [one["url"] for one in text["annotations"]] == ["https://x/0", "https://x/1"]
    assert text["logprobs"][0]["bytes"] == list(b"Oslo")
    added = [event for event in events if event["type"].endswith("annotation.added")]
    assert [event["annotation_index"] for event in added] == [0, 1]
    (done, *_) = (event for event in events if event["type"] == "response.output_text.done")
    assert done["logprobs"] == [
        {"token": "Oslo", "logprob": -0.5, "top_logprobs": []},
        {"token": "", "logprob": 0.0, "top_logprobs": []},
    ]
    assert (image["output_format"], image["result"]) == ("webp", "AAAA")
    opened = [event["item"] for event in events if event["type"].endswith("item.added")]
    assert [item["result"] for item in opened if "result" in item] == [None]
    assert url["content"][0]["text"] == "[left out: the picture https://x]"
    assert part["content"][0]["text"] == "[left out: a part of the type 'smell']"
    types = [item["content"][0]["type"] for item in response["output"][6:9]]
    assert types == ["output_text", "refusal", "output_text"]
    assert (call["arguments"], note["input"], find["namespace"]) == ('{"city":"Oslo"}', "hi", "crm")
    assert call["extra_content"] == GOOGLE["extra_content"]
    assert response["usage"] == {
        "input_tokens": 50,
        "input_tokens_details": {"cached_tokens": 30, "cache_write_tokens": 5},
        "output_tokens": 20,
        "output_tokens_details": {"reasoning_tokens": 7},
        "total_tokens": 75,
    }


def test_each_kind_of_delta_begins_a_block(fetch: Fetch) -> None:
    """Annotations are of text: others, and those of an unknown type, are dropped."""
    items: list[Item] = [
        Delta(extra={"annotations": CITATIONS}),
        Delta("a"),
        Delta(reasoning="b"),
        Delta("c", extra={"annotations": [{"type": "file_citation"}]}),
        Delta(extra={"thinking_blocks": [HIDDEN]}),
        Delta("d"),
        Delta(extra={"thinking_blocks": [SIGNED]}),
        Delta(refusal="e"),
        Delta(extra={"annotations": CITATIONS}),
        Finish(),
    ]
    events, document = fetch("/v1/messages", *items)
    assert content_of(events) == document["content"]
    text, thinking = ("text", None), ("thinking", "")
    kinds = [(block["type"], block.get("signature")) for block in document["content"]]
    signed = ("thinking", "c2ln")
    assert kinds == [text, thinking, text, ("redacted_thinking", None), text, signed, text]
    assert document["content"][5]["thinking"] == "I must look."
    events, document = fetch("/v1/responses", *items)
    assert comparable(events[-1]["response"]) == comparable(document)
    kinds = [item["type"] for item in document["output"]]
    assert kinds == [*(3 * ["message", "reasoning"]), "message"]


@pytest.mark.parametrize("reason", ["length", "content_filter"])
def test_incomplete_response_ends_with_its_reason(fetch: Fetch, reason: str) -> None:
    items = [Delta("Call:"), Delta(tool_calls=[ToolCall(0, "call_0", "weather", '{"city')])]
    events, document = fetch("/v1/responses", *items, Finish(reason), USAGE)
    response = events[-1]["response"]
    assert comparable(response) == comparable(document)
    assert "completed_at" not in response
    assert events[-1]["type"] == "response.incomplete"
    text, call = response["output"]
    assert (text["status"], call["status"]) == ("completed", "incomplete")


def content_of(events: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return the content blocks that the *events* of a message make."""
    blocks: list[dict[str, Any]] = []
    inputs: dict[int, str] = {}
    for event in events:
        if event["type"] == "content_block_start":
            blocks.append(event["content_block"])
        elif event["type"] == "content_block_delta":
            block, delta = blocks[event["index"]], event["delta"]
            kind = delta.pop("type").removesuffix("_delta")
            if kind == "citations":
                block.setdefault("citations", []).append(delta["citation"])
            elif kind == "input_json":
                inputs[event["index"]] = inputs.get(event["index"], "") + delta["partial_json"]
            else:
                block[kind] += delta[kind]
    for index, text in inputs.items():
        blocks[index]["input"] = json.loads(text)
    return blocks


def test_message_events_match_the_document(fetch: Fetch) -> None:
    events, document = fetch("/v1/messages", *ITEMS, Finish("tool_calls"), USAGE)
    assert all(event["delta"].get("partial_json") != "" for event in events if "delta" in event)
    start = {**DEFAULTS["/v1/messages"], "stop_reason": None}
    assert {**events[0]["message"], "id": ""} == {**start, "id": ""}
    assert [list(event) for event in events[-2:]] == [["type", "delta", "usage"], ["type"]]
    opened = [event["content_block"] for event in events if "content_block" in event]
    assert {tuple(block.items())[:2] for block in opened if "input" not in block} == {
        *((("type", "thinking"), ("thinking", "")), (("type", "text"), ("text", ""))),
        (("type", "redacted_thinking"), ("data", "c2Vl")),
    }
    assert [block["input"] for block in opened if "input" in block] == [{}, {}, {}]
    assert content_of(events) == document["content"]
    thought, hidden, oslo, *texts = document["content"]
    assert (thought["thinking"], thought["signature"]) == ("I must look.", "c2ln")
    assert hidden == {"type": "redacted_thinking", "data": "c2Vl"}
    assert [one["url"] for one in oslo["citations"]] == ["https://x/0", "https://x/1"]
    assert [one["cited_text"] for one in oslo["citations"]] == ["c", "c"]
    assert [block["text"] for block in texts if block["type"] == "text"] == [
        "[left out: a picture of the type image/webp]",
        "[left out: the picture https://x]",
        "[left out: a part of the type 'smell']",
        *("More.", "No more.", "Calls:"),
    ]
    assert next(one for one in texts if "extra_content" in one)["id"] == "call_0"
    usage = {
        "input_tokens": 15,
        "cache_creation_input_tokens": 5,
        "cache_read_input_tokens": 30,
        "output_tokens": 20,
    }
    assert document["usage"] == events[-2]["usage"] == usage
    assert events[-2]["delta"] == {"stop_reason": "tool_use", "stop_sequence": None}


def test_ids_begin_with_their_kind_and_differ(fetch: Fetch) -> None:
    found: list[str] = []
    for _ in range(2):
        events, document = fetch("/v1/responses", *ITEMS, Finish("tool_calls"))
        found += [events[0]["response"]["id"], document["id"]]
        assert all(re.fullmatch("resp_[0-9a-f]{48}", id) for id in found[-2:])
        ids = [item["id"] for item in document["output"]]
        prefixes = ["rs", "rs", "msg", "ig", *(5 * ["msg"]), "fc", "ctc", "fc"]
        for id, prefix in zip(ids, prefixes, strict=True):
            assert re.fullmatch(f"{prefix}_[0-9a-f]{{32}}", id)
        found += ids
        events, document = fetch("/v1/messages", *ITEMS, Finish("tool_calls"))
        ids = [events[0]["message"]["id"], document["id"]]
        assert all(re.fullmatch("msg_[0-9a-f]{24}", id) for id in ids)
        found += ids
    assert len(set(found)) == len(found)


def test_one_delta_with_everything_is_written_in_a_fixed_order(fetch: Fetch) -> None:
    """As of a document: what the model thought, said, showed and called."""
    extra = {"thinking_blocks": [SIGNED], "annotations": CITATIONS, "images": IMAGES[1:]}
    extra["content_parts"] = [{"type": "smell"}]
    calls = [ToolCall(0, "call_0", "weather", "{}")]
    whole = Delta("Oslo", reasoning="I must look.", tool_calls=calls, extra=extra)
    events, document = fetch("/v1/messages", whole, Finish("tool_calls"))
    assert content_of(events) == document["content"]
    shown = [block.get("text") or block["type"] for block in document["content"]]
    left_out = ["[left out: the picture https://x]", "[left out: a part of the type 'smell']"]
    assert shown == ["thinking", "Oslo", *left_out, "tool_use"]
    assert len(document["content"][1]["citations"]) == 2


def test_unknown_numbers_of_tokens_are_0_and_input_tokens_not_negative(fetch: Fetch) -> None:
    _, document = fetch("/v1/responses", Finish(), Usage(3, 1))
    assert document["usage"]["output_tokens_details"] == {"reasoning_tokens": 0}
    _, document = fetch("/v1/messages", Finish(), Usage(3, 1, 2, 2))
    assert document["usage"]["input_tokens"] == 0


def test_call_ends_once_its_arguments_are_a_json_object(fetch: Fetch) -> None:
    pieces = [(0, '{"a":{}'), (1, "{x}"), (2, "{}"), (0, "}"), (1, "!")]
    items: list[Item] = [
        Delta(tool_calls=[ToolCall(index, "c", "f", piece)]) for index, piece in pieces
    ]
    events, document = fetch("/v1/responses", *items, Delta("x"), Finish())
    kinds = [(event["type"][21:], event["output_index"]) for event in events if "item" in event]
    assert kinds == [
        *(("added", 0), ("added", 1), ("added", 2), ("done", 2), ("done", 0)),
        *(("added", 3), ("done", 3), ("done", 1)),
    ]
    assert comparable(events[-1]["response"]) == comparable(document)
    calls = [item["arguments"] for item in document["output"][:3]]
    assert calls == ['{"a":{}}', "{x}!", "{}"]


def test_members_received_late_are_of_the_call(fetch: Fetch) -> None:
    """As a signature that follows the arguments; a custom tool's input may be empty."""
    items: list[Item] = [
        Delta(tool_calls=[ToolCall(0, "call_0", "weather", "{")]),
        Delta(tool_calls=[ToolCall(0, arguments="}", extra=GOOGLE)]),
        Delta(tool_calls=[ToolCall(1, "call_1", "note", '{"input":""}')]),
        Finish("tool_calls"),
    ]
    events, document = fetch("/v1/responses", *items)
    assert comparable(events[-1]["response"]) == comparable(document)
    call, note = document["output"]
    assert call["extra_content"] == GOOGLE["extra_content"]
    kinds = [
        event["type"]
        for event in events
        if event.get("item_id") == events[-1]["response"]["output"][1]["id"]
    ]
    assert note["input"] == "" and kinds == ["response.custom_tool_call_input.done"]
    assert (
        fetch("/v1/messages", *items)[1]["content"][0]["extra_content"] == GOOGLE["extra_content"]
    )


def test_signed_thinking_without_deltas_is_a_block(fetch: Fetch) -> None:
    items = [Delta(extra={"thinking_blocks": [SIGNED]}), Delta("Oslo"), Finish()]
    events, document = fetch("/v1/messages", *items)
    assert content_of(events) == document["content"]
    thought, _ = document["content"]
    assert (thought["thinking"], thought["signature"]) == ("I must look.", "c2ln")


@pytest.mark.parametrize("with_text", [True, False])
def test_two_signed_thoughts_in_one_delta_keep_signatures(fetch: Fetch, with_text: bool) -> None:
    """As in a document of LiteLLM."""
    signed = [
        {"type": "thinking", "thinking": text, "signature": text.lower()} for text in ("AB", "CD")
    ]
    thoughts = [{"type": "redacted_thinking", "data": "c2Vl"}, *signed]
    reasoning = "ABCD" if with_text else ""
    items = [Delta("Oslo", reasoning=reasoning, extra={"thinking_blocks": thoughts}), Finish()]
    events, document = fetch("/v1/messages", *items)
    assert content_of(events) == document["content"]
    assert document["content"] == [*thoughts, {"type": "text", "text": "Oslo"}]
    _, document = fetch("/v1/responses", *items)
    *reasons, _ = document["output"]
    texts = [part["text"] for item in reasons for part in item.get("content") or ()]
    assert texts == ["AB", "CD"]
    encoded = [item["encrypted_content"].removeprefix("choreo.") for item in reasons]
    assert [json.loads(base64.b64decode(one))[0] for one in encoded] == thoughts


@pytest.mark.parametrize("with_text", [True, False])
def test_thinking_in_pieces_becomes_one_signed_block(fetch: Fetch, with_text: bool) -> None:
    """LiteLLM streams Claude's thinking as unsigned blocks, and at last its signature alone."""
    items: list[Item] = [
        Delta(
            reasoning=text if with_text else "",
            extra={"thinking_blocks": [{"type": "thinking", "thinking": text, "signature": ""}]},
        )
        for text in ("I must ", "look.")
    ]
    sign = {"type": "thinking", "thinking": "", "signature": "c2ln"}
    items += [Delta(extra={"thinking_blocks": [sign]}), Delta("Oslo"), Finish()]
    events, document = fetch("/v1/messages", *items)
    assert content_of(events) == document["content"]
    signed = {"type": "thinking", "thinking": "I must look.", "signature": "c2ln"}
    assert document["content"] == [signed, {"type": "text", "text": "Oslo"}]
    events, document = fetch("/v1/responses", *items)
    assert comparable(events[-1]["response"]) == comparable(document)
    thought, _ = document["output"]
    assert thought["content"][0]["text"] == "I must look."
    encoded = thought["encrypted_content"].removeprefix("choreo.")
    assert json.loads(base64.b64decode(encoded)) == [signed]


@pytest.mark.parametrize(
    ("finish", "delta"),
    [
        (Finish("stop", extra={"native_finish_reason": "pause_turn"}), ("pause_turn", None)),
        (
            Finish("stop", extra={"native_finish_reason": "model_context_window_exceeded"}),
            ("model_context_window_exceeded", None),
        ),
        (Finish("stop", extra={"native_finish_reason": "eos"}), ("end_turn", None)),
        (Finish("stop", extra={"stop_sequence": "END"}), ("stop_sequence", "END")),
        (Finish("stop", extra={"stop_reason": 7}), ("end_turn", None)),
        (Finish("stop", extra={"stop_reason": "END"}), ("stop_sequence", "END")),
        (Finish("length"), ("max_tokens", None)),
        (Finish("content_filter"), ("refusal", None)),
    ],
)
def test_finish_sets_stop_reason_and_stop_sequence(
    fetch: Fetch, finish: Finish, delta: tuple[str, str | None]
) -> None:
    events, document = fetch("/v1/messages", Delta("Oslo"), finish)
    expected = dict(zip(("stop_reason", "stop_sequence"), delta, strict=True))
    assert events[-2]["delta"] == {name: document[name] for name in expected} == expected
