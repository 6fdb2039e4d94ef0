"""Shapes that OpenAI's schema does not have, streamed at every split, and in one document."""

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
    """Return what a strict reader makes of *events*, the same in one piece and byte by byte."""
    whole, pieces = [b"".join(events)], [bytes([byte]) for byte in b"".join(events)]
    told = []
    for blocks in (whole, pieces):
        new_id, include_usage = lambda: f"call_{len(told)}", True
        relay = EventRelay(Normaliser(1, IDENTITY, "", True, new_id, TOOLS), include_usage)
        frames, failure = b"", None
        try:
            for block in blocks:
                frames += relay.receive_data(block)
            frames += relay.end()
        except ChoreoError as error:
            failure = error
        told.append((frames, failure))
    assert told[0][0].replace(b"call_0", b"call_1") == told[1][0]
    reader = StrictReader(1, True)
    for line in told[0][0].split(b"\n\n")[:-1]:
        if line != b"data: [DONE]":
            reader.read(json.loads(line[6:]))
    return reader, told[0][1]


def said(*deltas: Any, finish: str = "stop") -> Any:
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
    "a thought of Gemini's": ([{"text": "t", "thought": True}, {"text": "a"}], "a", "t"),
    "lists in lists": ([[{"type": "text", "text": "a"}], "b"], "ab", ""),
    "a number": (5, "5", ""),
    "an answer in JSON": ({"a": [1]}, '{"a":[1]}', ""),
    "a summary": ([{"type": "reasoning", "summary": [{"text": "t"}]}], "", "t"),
}


@pytest.mark.parametrize("name", TEXTS)
def test_content_is_text_and_reasoning(name: str) -> None:
    content, text, reasoning = TEXTS[name]
    assert said({"content": content}) == (text, reasoning, [], "stop")
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
def test_reasoning_under_other_names(name: str, value: Any) -> None:
    assert said({name: value}, {"content": "a"}) == ("a", "t", [], "stop")
    message = document({"content": "a", name: value})["choices"][0]["message"]
    assert message == {"role": "assistant", "content": "a", "reasoning_content": "t"}


def test_a_flag_is_no_reasoning() -> None:
    assert said({"thought": False, "content": "a"}) == ("a", "", [], "stop")


def test_details_of_reasoning_stay_and_are_shown() -> None:
    details = [{"type": "reasoning.text", "text": "t", "signature": "s"}]
    message = document({"content": "a", "reasoning_details": details})["choices"][0]["message"]
    assert message["reasoning_details"] == details and message["reasoning_content"] == "t"


def test_what_a_part_has_beside_its_text() -> None:
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
    "indexes in strings": (
        [
            call("f", "", **F, index="0"),
            call("g", "{}", id="c2", index="1"),
            call("", '{"a":1}', index="0"),
        ],
        [("f", '{"a":1}'), ("g", "{}")],
    ),
    "indexes with a point": (
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
    "a name that only begins one": ([call("get", "", **F, index=0)], [("get", "{}")]),
    "null for no arguments": ([call("f", "null", **F)], [("f", "{}")]),
    "null inside": (
        [call("f", '{"a":', **F), call("", "null"), call("", "}")],
        [("f", '{"a":null}')],
    ),
    "parameters": ([{**F, "function": {"name": "f", "parameters": {"a": 1}}}], [("f", '{"a":1}')]),
    "input": ([{**F, "name": "f", "input": {"a": 1}}], [("f", '{"a":1}')]),
    "a new id for each piece, and one more": (
        [call("f", "", **F, index=0), call("", "{}", id="c2", index=0), call(id="c3", index=0)],
        [("f", "{}")],
    ),
    "one id for two": (
        [call("f", '{"a":1}', id="x", index=0), call("g", '{"b":1}', id="x", index=0)],
        [("f", '{"a":1}'), ("g", '{"b":1}')],
    ),
    "one id for two of the same": (
        [call("f", '{"a":1}', id="x"), call("f", '{"a":2}', id="x")],
        [("f", '{"a":1}'), ("f", '{"a":2}')],
    ),
    "the whole call once more": ([call("f", '{"a":1}', **F)] * 2, [("f", '{"a":1}')]),
    "null beside": ([None, call("f", "{}", **F)], [("f", "{}")]),
}


@pytest.mark.parametrize("name", CALLS)
def test_calls(name: str) -> None:
    pieces, calls = CALLS[name]
    assert said(*({"tool_calls": [piece]} for piece in pieces)) == ("", "", calls, "tool_calls")
    message = document({"tool_calls": pieces}, "tool_calls")["choices"][0]["message"]
    made = message["tool_calls"]
    assert [tuple(one["function"].values()) for one in made] == calls
    assert len({one["id"] for one in made}) == len(made)


def test_the_older_way_of_calling_answers_tools() -> None:
    deltas = [{"function_call": {"name": "f"}}, {"function_call": {"arguments": "{}"}}]
    assert said(*deltas, finish="function_call") == ("", "", [("f", "{}")], "tool_calls")


def test_the_older_way_of_calling_stays_where_it_was_asked_for() -> None:
    called = {"role": "assistant", "function_call": {"name": "f", "arguments": {"a": 1}}}
    reply = {"choices": [{"index": 0, "message": called, "finish_reason": "function_call"}]}
    choice = normalise_completion(reply, IDENTITY)[0]["choices"][0]
    assert choice["message"]["function_call"] == {"name": "f", "arguments": '{"a":1}'}
    assert choice["finish_reason"] == "function_call"


def test_a_call_that_has_no_name_is_an_error() -> None:
    assert said({"tool_calls": [{**F, "function": {"arguments": "{}"}}]}).endswith("has no name")


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
def test_choices(choices: Any) -> None:
    events = [chunk({"role": "assistant"}), {**chunk({}), "choices": choices}, chunk({}, "stop")]
    reader, failure = stream([sse.frame(json.dumps(one).encode()) for one in events])
    assert failure is None and "".join(reader.choices[0].text) == "a"


def test_a_choice_with_another_number_and_one_without() -> None:
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
def test_counts(usage: Any) -> None:
    wanted = {"prompt_tokens": 3, "completion_tokens": 4, "total_tokens": 7}
    events = [chunk({"content": "a"}), chunk({}, "stop", usage=usage)]
    reader, _ = stream([sse.frame(json.dumps(one).encode()) for one in events])
    assert {name: reader.usage[name] for name in wanted} == wanted
    made = document({"content": "a"}, usage=usage)["usage"]
    assert json.dumps({name: made[name] for name in wanted}) == json.dumps(wanted)


@pytest.mark.parametrize(
    "place",
    [
        {"prompt_eval_count": 3, "eval_count": 4},
        {"usage": None, "usageMetadata": {"promptTokenCount": 3, "candidatesTokenCount": 4}},
        {"usage_metadata": {"prompt_token_count": 3, "candidates_token_count": 4}},
        {"token_usage": {"prompt_tokens": 3, "completion_tokens": 4}},
    ],
)
def test_counts_in_other_places(place: dict[str, Any]) -> None:
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
def test_end_markers(end: str) -> None:
    events = [sse.frame(json.dumps(chunk({"content": "a"})).encode()), f"data: {end}\n\n".encode()]
    reader, failure = stream(events)
    assert failure is None and reader.choices[0].finish == "stop"


@pytest.mark.parametrize("finish", [None, "", 0])
def test_a_document_is_whole_without_a_finish_reason(finish: Any) -> None:
    assert document({"content": "a"}, finish)["choices"][0]["finish_reason"] == "stop"


SAYS = {"index": 0, "message": {"role": "assistant", "content": "a"}, "finish_reason": "stop"}


@pytest.mark.parametrize(
    "choices",
    [
        SAYS,
        [None, SAYS],
        [{**SAYS, "message": "a"}],
        [{"text": "a", "finish_reason": "stop"}],
        [{"messages": [{"role": "assistant", "content": "a"}], "finish_reason": "stop"}],
        [{"messages": ["a"]}],
        [{"response": "a", "finish_reason": ["stop"]}],
        [{"answer": "a", "finish_reason": True}],
        [{"delta": {"content": "a"}, "finish_reason": "stop"}],
        [{**SAYS, "index": 7}],
    ],
)
def test_choices_of_a_document(choices: Any) -> None:
    assert normalise_completion({"choices": choices}, IDENTITY)[0]["choices"] == [SAYS]


@pytest.mark.parametrize(("first", "second"), [(0, 0), (1, 2), (0, "1"), (None, None)])
def test_no_choice_of_a_document_is_lost(first: Any, second: Any) -> None:
    other = {**SAYS, "index": second, "message": {"content": "b"}}
    reply = {"choices": [{**SAYS, "index": first}, other]}
    choices = normalise_completion(reply, IDENTITY)[0]["choices"]
    assert [(one["index"], one["message"]["content"]) for one in choices] == [(0, "a"), (1, "b")]


@pytest.mark.parametrize("choices", [None, [], ["a"], [{"message": None}], 5])
def test_what_has_no_choice_is_no_completion(choices: Any) -> None:
    with pytest.raises(UpstreamInvalid):
        normalise_completion({"choices": choices}, IDENTITY)


def relayed(*chunks: Any) -> Any:
    frames = [sse.frame(json.dumps(one).encode()) for one in chunks]
    reader, failure = stream([*frames, sse.DONE])
    if failure is not None:
        return failure.message
    choice = reader.choices[0]
    return "".join(choice.text), choice.calls, choice.finish


SAID = {"content": "a"}
CALL = {"id": "c", "function": {"name": "f", "arguments": "{}"}}


@pytest.mark.parametrize(
    ("first", "last"),
    [
        ({"choices": {"0": {"delta": SAID}}}, {"choices": {"0": {"finish_reason": "stop"}}}),
        ({"choices": [{"content": "a"}]}, {"choices": [{"delta": {}, "finishReason": "stop"}]}),
        ({"choices": [{"delta": {"text": "a"}}]}, {"choices": [{"stop_reason": "end_turn"}]}),
        ({"data": chunk(SAID)}, {"code": 0, "msg": "ok", "result": chunk({}, "stop")}),
    ],
)
def test_a_chunk_in_other_nestings_and_words(first: Any, last: Any) -> None:
    assert relayed(first, last) == ("a", [], "stop")


def test_another_name_of_a_finish_reason_counts_where_there_is_no_other() -> None:
    limit = {"choices": [{"delta": {}, "stop_reason": "max_tokens"}]}
    assert relayed(chunk(SAID), limit)[2] == "length"
    matched = {"choices": [{"delta": {}, "finish_reason": "stop", "stop_reason": "END"}]}
    assert relayed(chunk(SAID), matched)[2] == "stop"


def test_a_stream_of_messages() -> None:
    """Each has a piece, as a delta has, and not what was said before."""
    pieces = [{"role": "assistant", "content": "a"}, {"content": "b"}, {"content": "c"}]
    told = [{"choices": [{"message": one, "finish_reason": None}]} for one in pieces]
    assert relayed(*told, chunk({}, "stop")) == ("abc", [], "stop")


WHOLE = {"role": "assistant", "content": "ab", "reasoning_content": "t", "tool_calls": [CALL]}


@pytest.mark.parametrize("others", [[], [{"reasoning": "t"}], [{"refusal": ""}, {"content": ""}]])
def test_a_whole_message_at_the_end_is_told_if_it_was_not_before(others: list[Any]) -> None:
    deltas = [{"role": "assistant"}, *others]
    last = {"choices": [{"message": WHOLE, "finish_reason": "tool_calls"}]}
    chunks = [*map(chunk, deltas), last]
    reader, failure = stream([*(sse.frame(json.dumps(one).encode()) for one in chunks), sse.DONE])
    choice = reader.choices[0]
    assert failure is None and choice.finish == "tool_calls" and len(choice.calls) == 1
    assert ("".join(choice.text), "".join(choice.reasoning)) == ("ab", "t")


@pytest.mark.parametrize("pieces", [["a", "b"], ["a"] * 40])
def test_a_whole_message_at_the_end_repeats_nothing(pieces: list[str]) -> None:
    """Nor behind a stream that begins like one before, whose texts pass unread."""
    last = {"choices": [{"message": {"content": "".join(pieces)}, "finish_reason": "stop"}]}
    for _ in range(3):
        chunks = [chunk({"role": "assistant"}), *(chunk({"content": one}) for one in pieces)]
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
def test_a_cut_is_seen_wherever_it_is_told(end: Any) -> None:
    assert relayed(chunk(SAID), end) == ("a", [], "length")


WITH_ARGUMENTS = {"id": "c", "function": {"name": "f", "arguments": '{"a":1}'}}
MADE = {"id": "c", "name": "f", "input": {"a": 1}}


@pytest.mark.parametrize(
    "chunks",
    [
        [chunk({"tool_calls": [{"id": "c", "name": "f", "args": {"a": 1}}]})],
        [chunk({"tool_calls": [{"id": "c", "function": "f", "arguments": '{"a":1}'}]})],
        [{"choices": [{"index": 0, "delta": {}, "tool_calls": [WITH_ARGUMENTS]}]}],
        [chunk({"content": [{"type": "tool_use", **MADE}]})],
        [
            chunk({"role": "assistant"}),
            {"choices": [{"message": {"tool_calls": [WITH_ARGUMENTS]}}]},
        ],
    ],
)
def test_a_call_is_not_lost_wherever_it_stands(chunks: Any) -> None:
    _, [(name, arguments)], finish = relayed(*chunks, chunk({}, "tool_calls"))
    assert (name, arguments, finish) == ("f", '{"a":1}', "tool_calls")


@pytest.mark.parametrize("calls", [{"0": CALL}, {"1": CALL, "2": {**CALL, "id": "d"}}])
def test_calls_that_are_numbered_by_names(calls: Any) -> None:
    for name in ("tool_calls", "toolCalls", "tool_call"):
        found = relayed(chunk({name: calls}), chunk({}, "tool_calls"))
        assert len(found[1]) == len(calls) and found[2] == "tool_calls"
        assert len(document({name: calls})["choices"][0]["message"]["tool_calls"]) == len(calls)


@pytest.mark.parametrize("name", ["\xb2", "-1", "9" * 5000, "a"])
def test_choices_by_names_that_are_no_numbers_are_an_error(name: str) -> None:
    told = relayed({"choices": {name: {"delta": SAID}}})
    assert told == "the provider's answer ended before it began"


@pytest.mark.parametrize("choice", [{"saying": "a"}, {"index": 0, "saying": "a"}, {"delta": None}])
def test_a_stream_that_says_nothing_known_is_an_error(choice: Any) -> None:
    assert relayed({"choices": [choice]}) == "the provider's answer ended before it began"


def test_an_error_in_a_delta_is_one() -> None:
    assert relayed(chunk({"error": {"message": "busy"}})) == "busy"
    assert relayed(chunk(SAID), chunk({"error": "busy"})) == "busy"


@pytest.mark.parametrize("name", ["text", "output_text"])
def test_a_document_in_other_words(name: str) -> None:
    reply = {"choices": {"0": {"message": {name: "a"}, "finishReason": "length"}}}
    choice = normalise_completion(reply, IDENTITY)[0]["choices"][0]
    assert (choice["message"]["content"], choice["finish_reason"]) == ("a", "length")


def test_an_error_that_is_empty_is_none_beside_an_answer() -> None:
    error = {"message": None, "code": None}
    assert relayed({**chunk(SAID), "error": error}, chunk({}, "stop")) == ("a", [], "stop")
    assert relayed({"error": error}).startswith("{")


def test_usage_without_a_count_is_none() -> None:
    usage = {"usage": {"prompt_tokens": 1}, "cost": 0.1}
    _, made = normalise_completion({"choices": [{"message": SAID}], "usage": usage}, IDENTITY)
    assert made is None
