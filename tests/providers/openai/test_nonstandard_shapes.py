"""Shapes outside OpenAI's schema: streamed whole and byte by byte, and in a document."""

from __future__ import annotations

import json
from typing import Any

import pytest
from mistaken_streams import StrictReader

from choreo_wsgi import sse
from choreo_wsgi.chat.completion import normalise_completion
from choreo_wsgi.chat.normalise import Normaliser
from choreo_wsgi.errors import ChoreoError, UpstreamInvalid
from choreo_wsgi.providers.openai.relay import EventRelay

IDENTITY = {"id": "chatcmpl-own", "created": 1, "model": "m"}
TOOLS = frozenset(("f", "g", "get_weather"))


def chunk(delta: Any, finish: Any = None, **more: Any) -> dict[str, Any]:
    choice = {"index": 0, "delta": delta, "finish_reason": finish}
    return {"id": "c", "object": "chat.completion.chunk", "model": "m", "choices": [choice], **more}


def stream(events: list[bytes]) -> tuple[StrictReader, ChoreoError | None]:
    """Return the strict reader of the relayed *events*, the same for one piece and single bytes."""
    whole, pieces = [b"".join(events)], [bytes([byte]) for byte in b"".join(events)]
    results = []
    for blocks in (whole, pieces):
        new_id, include_usage = lambda: f"call_{len(results)}", True
        relay = EventRelay(Normaliser(1, IDENTITY, "", True, new_id, TOOLS), include_usage)
        frames, failure = b"", None
        try:
            for block in blocks:
                frames += relay.receive_data(block)
            frames += relay.end()
        except ChoreoError as error:
            failure = error
        results.append((frames, failure))
    assert results[0][0].replace(b"call_0", b"call_1") == results[1][0]
    reader = StrictReader(1, True)
    for line in results[0][0].split(b"\n\n")[:-1]:
        if line != b"data: [DONE]":
            reader.read(json.loads(line[6:]))
    return reader, results[0][1]


def read_deltas(*deltas: Any, finish: str = "stop") -> Any:
    chunks = [chunk({"role": "assistant"}), *map(chunk, deltas), chunk({}, finish)]
    reader, failure = stream([*(sse.frame(json.dumps(one).encode()) for one in chunks), sse.DONE])
    if failure is not None:
        return failure.message
    choice = reader.choices[0]
    return "".join(choice.text), "".join(choice.reasoning), choice.calls, choice.finish


def document(message: Any, finish: Any = "stop", **more: Any) -> dict[str, Any]:
    reply = {"id": "c", "choices": [{"index": 0, "message": message, "finish_reason": finish}]}
    return normalise_completion({**reply, **more}, IDENTITY, lambda: "call_new", TOOLS)[0]


TEXTS: dict[str, tuple[Any, str, str]] = {
    "capital letters": ([{"type": "TEXT", "text": "a"}], "a", ""),
    "a Gemini thought": ([{"text": "t", "thought": True}, {"text": "a"}], "a", "t"),
    "lists in lists": ([[{"type": "text", "text": "a"}], "b"], "ab", ""),
    "a number": (5, "5", ""),
    "a JSON object": ({"a": [1]}, '{"a":[1]}', ""),
    "a summary": ([{"type": "reasoning", "summary": [{"text": "t"}]}], "", "t"),
}


@pytest.mark.parametrize("name", TEXTS)
def test_content_shapes_become_text_and_reasoning(name: str) -> None:
    content, text, reasoning = TEXTS[name]
    assert read_deltas({"content": content}) == (text, reasoning, [], "stop")
    message = document({"role": "assistant", "content": content})["choices"][0]["message"]
    assert (message["content"], message.get("reasoning_content", "")) == (text, reasoning)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *((name, "t") for name in ("thought", "thoughts", "reasoning_summary", "reasoning")),
        ("thoughts", [{"type": "text", "text": "t"}]),
        ("reasoning", {"content": "t"}),
    ],
)
def test_reasoning_aliases_become_reasoning_content(name: str, value: Any) -> None:
    assert read_deltas({name: value}, {"content": "a"}) == ("a", "t", [], "stop")
    message = document({"content": "a", name: value})["choices"][0]["message"]
    assert message == {"role": "assistant", "content": "a", "reasoning_content": "t"}


def test_boolean_thought_is_not_reasoning() -> None:
    assert read_deltas({"thought": False, "content": "a"}) == ("a", "", [], "stop")


def test_reasoning_details_also_become_reasoning_content() -> None:
    details = [{"type": "reasoning.text", "text": "t", "signature": "s"}]
    message = document({"content": "a", "reasoning_details": details})["choices"][0]["message"]
    assert message["reasoning_details"] == details and message["reasoning_content"] == "t"


def test_content_parts_keep_annotations_images_and_unknown_types() -> None:
    note = {"type": "url_citation", "url_citation": {"url": "https://x"}}
    parts = [
        {"type": "text", "text": "a", "annotations": [note]},
        {"type": "image_url", "image_url": "data:image/png;base64,AA=="},
        {"type": ["odd"], "x": 1},
    ]
    message = document({"content": parts})["choices"][0]["message"]
    assert message["content"] == "a" and message["annotations"] == [note]
    assert message["images"][0]["image_url"] == {"url": "data:image/png;base64,AA=="}
    assert message["content_parts"] == [{"index": 0, "type": ["odd"], "x": 1}]


def call(name: Any = "", arguments: Any = "", **more: Any) -> dict[str, Any]:
    members = {"name": name, "arguments": arguments}
    return {**more, "function": {key: value for key, value in members.items() if value != ""}}


F = {"id": "c1", "type": "function"}
CALLS: dict[str, tuple[list[Any], list[tuple[str, str]]]] = {
    "string indexes": (
        [
            call("f", "", **F, index="0"),
            call("g", "{}", id="c2", index="1"),
            call("", '{"a":1}', index="0"),
        ],
        [("f", '{"a":1}'), ("g", "{}")],
    ),
    "float indexes": (
        [
            call("f", "", **F, index=1.0),
            call("g", "", id="c2", index=2.0),
            call("", '{"a":1}', index=1.0),
            call("", "{}", index=2.0),
        ],
        [("f", '{"a":1}'), ("g", "{}")],
    ),
    "a name in two pieces": (
        [call("get_", "", **F, index=0), call("weather", "", index=0), call("", "{}", index=0)],
        [("get_weather", "{}")],
    ),
    "a name in two pieces under one id": (
        [call("get_", "", **F, index=0), call("weather", "{}", id="c1", index=0)],
        [("get_weather", "{}")],
    ),
    "a name that is only a prefix": ([call("get", "", **F, index=0)], [("get", "{}")]),
    "null for no arguments": ([call("f", "null", **F)], [("f", "{}")]),
    "null inside arguments": (
        [call("f", '{"a":', **F), call("", "null"), call("", "}")],
        [("f", '{"a":null}')],
    ),
    "parameters": ([{**F, "function": {"name": "f", "parameters": {"a": 1}}}], [("f", '{"a":1}')]),
    "input": ([{**F, "name": "f", "input": {"a": 1}}], [("f", '{"a":1}')]),
    "a new id in each piece": (
        [call("f", "", **F, index=0), call("", "{}", id="c2", index=0), call(id="c3", index=0)],
        [("f", "{}")],
    ),
    "one id for two calls": (
        [call("f", '{"a":1}', id="x", index=0), call("g", '{"b":1}', id="x", index=0)],
        [("f", '{"a":1}'), ("g", '{"b":1}')],
    ),
    "one id for two calls of a function": (
        [call("f", '{"a":1}', id="x"), call("f", '{"a":2}', id="x")],
        [("f", '{"a":1}'), ("f", '{"a":2}')],
    ),
    "a call sent twice": ([call("f", '{"a":1}', **F)] * 2, [("f", '{"a":1}')]),
    "null before a call": ([None, call("f", "{}", **F)], [("f", "{}")]),
}


@pytest.mark.parametrize("name", CALLS)
def test_tool_call_shapes_become_standard_calls(name: str) -> None:
    pieces, calls = CALLS[name]
    deltas = [{"tool_calls": [piece]} for piece in pieces]
    assert read_deltas(*deltas) == ("", "", calls, "tool_calls")
    message = document({"tool_calls": pieces}, "tool_calls")["choices"][0]["message"]
    mended = message["tool_calls"]
    assert [tuple(one["function"].values()) for one in mended] == calls
    assert len({one["id"] for one in mended}) == len(mended)


def test_function_call_becomes_tool_call_if_tools_were_requested() -> None:
    deltas = [{"function_call": {"name": "f"}}, {"function_call": {"arguments": "{}"}}]
    assert read_deltas(*deltas, finish="function_call") == ("", "", [("f", "{}")], "tool_calls")


def test_function_call_stays_if_functions_were_requested() -> None:
    message = {"role": "assistant", "function_call": {"name": "f", "arguments": {"a": 1}}}
    reply = {"choices": [{"index": 0, "message": message, "finish_reason": "function_call"}]}
    choice = normalise_completion(reply, IDENTITY)[0]["choices"][0]
    assert choice["message"]["function_call"] == {"name": "f", "arguments": '{"a":1}'}
    assert choice["finish_reason"] == "function_call"


def test_tool_call_without_name_is_an_error() -> None:
    call = {**F, "function": {"arguments": "{}"}}
    assert read_deltas({"tool_calls": [call]}).endswith("has no name")


ONE = {"index": 0, "delta": {"content": "a"}, "finish_reason": None}


@pytest.mark.parametrize(
    "choices",
    [
        ONE,
        [None, ONE],
        [{**ONE, "index": False}],
        [{**ONE, "index": "0"}],
        [{"delta": "a"}],
        [{"delta": ["a"]}],
        [{"text": "a"}],
        [{"messages": [{"role": "assistant", "content": "a"}]}],
        [{"messages": ["a"]}],
        [{"message": [{"content": "a"}]}],
        [{"delta": {"content": "a"}, "message": None}],
        [{"delta": {"content": "a"}, "message": "ok"}],
        [{"delta": None, "output": [{"type": "text", "text": "a"}]}],
        [{"generated_text": "a"}],
        [{"answer": "a"}],
    ],
)
def test_choice_shapes_become_deltas(choices: Any) -> None:
    events = [chunk({"role": "assistant"}), {**chunk({}), "choices": choices}, chunk({}, "stop")]
    reader, failure = stream([sse.frame(json.dumps(one).encode()) for one in events])
    assert failure is None and "".join(reader.choices[0].text) == "a"


def test_sole_choice_may_have_any_index_or_none() -> None:
    events = [chunk({"content": "a"}), chunk({"content": "b"}), chunk({}, "stop")]
    events[0]["choices"][0]["index"] = 7
    del events[1]["choices"][0]["index"]
    events[2]["choices"][0]["index"] = 7
    reader, failure = stream([sse.frame(json.dumps(one).encode()) for one in events])
    assert failure is None and "".join(reader.choices[0].text) == "ab"


USAGES = [
    {"prompt_tokens": "3", "completion_tokens": 4.0, "total_tokens": None},
    {"promptTokens": 3, "completionTokens": 4, "totalTokens": 7},
    {"inputTokens": 3, "output_tokens": 4, "total_tokens": -1},
    {"prompt_eval_count": 3, "eval_count": 4},
    {"promptTokenCount": 3, "candidatesTokenCount": 4, "totalTokenCount": 7},
    {"input_token_count": 3, "generated_tokens": 4},
]


@pytest.mark.parametrize("usage", USAGES)
def test_usage_aliases_become_token_counts(usage: Any) -> None:
    expected = {"prompt_tokens": 3, "completion_tokens": 4, "total_tokens": 7}
    events = [chunk({"content": "a"}), chunk({}, "stop", usage=usage)]
    reader, _ = stream([sse.frame(json.dumps(one).encode()) for one in events])
    assert {name: reader.usage[name] for name in expected} == expected
    mended = document({"content": "a"}, usage=usage)["usage"]
    assert json.dumps({name: mended[name] for name in expected}) == json.dumps(expected)


@pytest.mark.parametrize(
    "place",
    [
        {"prompt_eval_count": 3, "eval_count": 4},
        {"usage": None, "usageMetadata": {"promptTokenCount": 3, "candidatesTokenCount": 4}},
        {"usage_metadata": {"prompt_token_count": 3, "candidates_token_count": 4}},
        {"token_usage": {"prompt_tokens": 3, "completion_tokens": 4}},
    ],
)
def test_reads_usage_from_other_members(place: dict[str, Any]) -> None:
    for events in (
        [chunk({"content": "a"}), chunk({}, "stop", **place)],
        [chunk({"content": "a"}), chunk({}, "stop"), {**chunk({}), "choices": [], **place}],
    ):
        reader, failure = stream([sse.frame(json.dumps(one).encode()) for one in events])
        assert failure is None and reader.usage["total_tokens"] == 7
    assert document({"content": "a"}, **place)["usage"]["total_tokens"] == 7


@pytest.mark.parametrize(
    "end", ["[done]", "DONE", '"[DONE]"', "[ DONE ]", "[DONE]\ndata: [DONE]", "[DONE]data: [DONE]"]
)
def test_accepts_variants_of_done_marker(end: str) -> None:
    events = [sse.frame(json.dumps(chunk({"content": "a"})).encode()), f"data: {end}\n\n".encode()]
    reader, failure = stream(events)
    assert failure is None and reader.choices[0].finish == "stop"


@pytest.mark.parametrize("finish", [None, "", 0])
def test_document_without_finish_reason_gets_stop(finish: Any) -> None:
    assert document({"content": "a"}, finish)["choices"][0]["finish_reason"] == "stop"


ANSWERED = {"index": 0, "message": {"role": "assistant", "content": "a"}, "finish_reason": "stop"}


@pytest.mark.parametrize(
    "choices",
    [
        ANSWERED,
        [None, ANSWERED],
        [{**ANSWERED, "message": "a"}],
        [{"text": "a", "finish_reason": "stop"}],
        [{"messages": [{"role": "assistant", "content": "a"}], "finish_reason": "stop"}],
        [{"messages": ["a"]}],
        [{"response": "a", "finish_reason": ["stop"]}],
        [{"answer": "a", "finish_reason": True}],
        [{"delta": {"content": "a"}, "finish_reason": "stop"}],
        [{**ANSWERED, "index": 7}],
    ],
)
def test_choice_shapes_of_document_become_messages(choices: Any) -> None:
    assert normalise_completion({"choices": choices}, IDENTITY)[0]["choices"] == [ANSWERED]


@pytest.mark.parametrize(("first", "second"), [(0, 0), (1, 2), (0, "1"), (None, None)])
def test_document_choices_are_renumbered_not_dropped(first: Any, second: Any) -> None:
    other = {**ANSWERED, "index": second, "message": {"content": "b"}}
    reply = {"choices": [{**ANSWERED, "index": first}, other]}
    choices = normalise_completion(reply, IDENTITY)[0]["choices"]
    assert [(one["index"], one["message"]["content"]) for one in choices] == [(0, "a"), (1, "b")]


@pytest.mark.parametrize("choices", [None, [], ["a"], [{"message": None}], 5])
def test_rejects_document_without_choice(choices: Any) -> None:
    with pytest.raises(UpstreamInvalid):
        normalise_completion({"choices": choices}, IDENTITY)


def relayed(*chunks: Any) -> Any:
    texts = (json.dumps(one, separators=(",", ":")) for one in chunks)
    frames = [sse.frame(text.encode()) for text in texts]
    reader, failure = stream([*frames, sse.DONE])
    if failure is not None:
        return failure.message
    choice = reader.choices[0]
    return "".join(choice.text), choice.calls, choice.finish


TEXT = {"content": "a"}
CALL = {"id": "c", "function": {"name": "f", "arguments": "{}"}}


@pytest.mark.parametrize(
    ("first", "last"),
    [
        ({"choices": {"0": {"delta": TEXT}}}, {"choices": {"0": {"finish_reason": "stop"}}}),
        ({"choices": [{"content": "a"}]}, {"choices": [{"delta": {}, "finishReason": "stop"}]}),
        ({"choices": [{"delta": {"text": "a"}}]}, {"choices": [{"stop_reason": "end_turn"}]}),
        ({"data": chunk(TEXT)}, {"code": 0, "msg": "ok", "result": chunk({}, "stop")}),
    ],
)
def test_reads_chunks_in_other_nestings_and_names(first: Any, last: Any) -> None:
    assert relayed(first, last) == ("a", [], "stop")


def test_stop_reason_counts_only_without_finish_reason() -> None:
    limit = {"choices": [{"delta": {}, "stop_reason": "max_tokens"}]}
    assert relayed(chunk(TEXT), limit)[2] == "length"
    matched = {"choices": [{"delta": {}, "finish_reason": "stop", "stop_reason": "END"}]}
    assert relayed(chunk(TEXT), matched)[2] == "stop"


def test_message_members_are_read_as_deltas() -> None:
    """Each holds only new text, as a delta does."""
    pieces = [{"role": "assistant", "content": "a"}, {"content": "b"}, {"content": "c"}]
    chunks = [{"choices": [{"message": one, "finish_reason": None}]} for one in pieces]
    assert relayed(*chunks, chunk({}, "stop")) == ("abc", [], "stop")


WHOLE = {"role": "assistant", "content": "ab", "reasoning_content": "t", "tool_calls": [CALL]}


@pytest.mark.parametrize("others", [[], [{"reasoning": "t"}], [{"refusal": ""}, {"content": ""}]])
def test_final_message_supplies_what_deltas_lacked(others: list[Any]) -> None:
    deltas = [{"role": "assistant"}, *others]
    last = {"choices": [{"message": WHOLE, "finish_reason": "tool_calls"}]}
    chunks = [*map(chunk, deltas), last]
    reader, failure = stream([*(sse.frame(json.dumps(one).encode()) for one in chunks), sse.DONE])
    choice = reader.choices[0]
    assert failure is None and choice.finish == "tool_calls" and len(choice.calls) == 1
    assert ("".join(choice.text), "".join(choice.reasoning)) == ("ab", "t")


@pytest.mark.parametrize("pieces", [["a", "b"], ["a"] * 40])
def test_final_message_repeats_no_text(pieces: list[str]) -> None:
    """Nor after a stream that matches a template, whose texts are not parsed."""
    last = {"choices": [{"message": {"content": "".join(pieces)}, "finish_reason": "stop"}]}
    for _ in range(3):
        deltas = [{"role": "assistant"}, *({"content": one} for one in pieces)]
        chunks = [{**IDENTITY, **chunk(delta), "id": "chatcmpl-9"} for delta in deltas]
        assert relayed(*chunks, last) == ("".join(pieces), [], "stop")


@pytest.mark.parametrize(
    "end",
    [
        {"choices": [], "finish_reason": "length"},
        {"choices": [], "stop_reason": "max_tokens"},
        {"choices": [{"delta": {}, "done_reason": "length"}]},
        {"choices": [{"delta": {}, "finish_details": {"type": "max_tokens"}}]},
        {"choices": [{"delta": {}, "finish_reason": {"reason": "max_tokens"}}]},
        {"choices": [{"delta": {}, "finish_reason": ["length"]}]},
    ],
)
def test_reads_length_finish_from_any_member(end: Any) -> None:
    assert relayed(chunk(TEXT), end) == ("a", [], "length")


WITH_ARGUMENTS = {"id": "c", "function": {"name": "f", "arguments": '{"a":1}'}}
INPUT = {"id": "c", "name": "f", "input": {"a": 1}}


@pytest.mark.parametrize(
    "chunks",
    [
        [chunk({"tool_calls": [{"id": "c", "name": "f", "args": {"a": 1}}]})],
        [chunk({"tool_calls": [{"id": "c", "function": "f", "arguments": '{"a":1}'}]})],
        [{"choices": [{"index": 0, "delta": {}, "tool_calls": [WITH_ARGUMENTS]}]}],
        [chunk({"content": [{"type": "tool_use", **INPUT}]})],
        [
            chunk({"role": "assistant"}),
            {"choices": [{"message": {"tool_calls": [WITH_ARGUMENTS]}}]},
        ],
    ],
)
def test_reads_tool_calls_from_any_place(chunks: Any) -> None:
    _, [(name, arguments)], finish = relayed(*chunks, chunk({}, "tool_calls"))
    assert (name, arguments, finish) == ("f", '{"a":1}', "tool_calls")


@pytest.mark.parametrize("calls", [{"0": CALL}, {"1": CALL, "2": {**CALL, "id": "d"}}])
def test_reads_tool_calls_from_object_with_numeric_keys(calls: Any) -> None:
    for name in ("tool_calls", "toolCalls", "tool_call"):
        found = relayed(chunk({name: calls}), chunk({}, "tool_calls"))
        assert len(found[1]) == len(calls) and found[2] == "tool_calls"
        assert len(document({name: calls})["choices"][0]["message"]["tool_calls"]) == len(calls)


@pytest.mark.parametrize("name", ["\xb2", "-1", "9" * 5000, "a"])
def test_choices_object_with_invalid_keys_is_an_error(name: str) -> None:
    message = relayed({"choices": {name: {"delta": TEXT}}})
    assert message == "the provider's answer ended before it began"


@pytest.mark.parametrize("choice", [{"other": "a"}, {"index": 0, "other": "a"}, {"delta": None}])
def test_stream_without_known_members_is_an_error(choice: Any) -> None:
    assert relayed({"choices": [choice]}) == "the provider's answer ended before it began"


def test_reports_error_inside_delta() -> None:
    assert relayed(chunk({"error": {"message": "busy"}})) == "busy"
    assert relayed(chunk(TEXT), chunk({"error": "busy"})) == "busy"


@pytest.mark.parametrize("name", ["text", "output_text"])
def test_reads_document_with_other_member_names(name: str) -> None:
    reply = {"choices": {"0": {"message": {name: "a"}, "finishReason": "length"}}}
    choice = normalise_completion(reply, IDENTITY)[0]["choices"][0]
    assert (choice["message"]["content"], choice["finish_reason"]) == ("a", "length")


def test_ignores_empty_error_beside_choices() -> None:
    error = {"message": None, "code": None}
    assert relayed({**chunk(TEXT), "error": error}, chunk({}, "stop")) == ("a", [], "stop")
    assert relayed({"error": error}).startswith("{")


def test_usage_without_counts_is_none() -> None:
    usage = {"usage": {"prompt_tokens": 1}, "cost": 0.1}
    _, found = normalise_completion({"choices": [{"message": TEXT}], "usage": usage}, IDENTITY)
    assert found is None
