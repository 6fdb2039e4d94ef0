"""Streams whose events are not set apart as the standard says, and what else is no chunk."""

from __future__ import annotations

import json
from typing import Any

import pytest
from test_odd_answers import chunk, document, said, stream

from choreo_wsgi import sse
from choreo_wsgi.providers.openai.chunks import OpenAITranslator
from choreo_wsgi.providers.openai.joined import events_in

CHUNKS = [chunk({"role": "assistant"}), chunk({"content": "a"}), chunk({"content": "b"}, "stop")]
TEXTS = [json.dumps(one).encode() for one in CHUNKS]
DATA = [b"data: " + text for text in TEXTS]


def both(body: bytes) -> list[str]:
    """Return the text, and the message of the failure, as the relay and the translator tell it."""
    reader, failure = stream([body])
    translator, items = OpenAITranslator(1), []
    try:
        items += translator.receive_data(body)
        items += translator.end()
    except Exception as error:
        assert failure is not None and failure.message == str(error)
    told = "".join(reader.choices[0].text)
    assert told == "".join(getattr(item, "text", "") for item in items)
    return [told, failure.message if failure else ""]


@pytest.mark.parametrize(
    "body",
    [
        b"\n".join(DATA) + b"\ndata: [DONE]\n\n",
        b"data: " + b"".join(TEXTS) + b"\n\ndata: [DONE]\n\n",
        b"data: " + b" ".join(TEXTS) + b"[DONE]\n\n",
        b"data: [" + b",".join(TEXTS) + b"]\n\ndata: [DONE]\n\n",
        b"".join(b"data: data: " + text + b"\n\n" for text in TEXTS) + b"data: data: [DONE]\n\n",
        b"".join(b"data: ping\n\n" + one + b"\n\ndata: : on it\n\n" for one in DATA),
        b'data: "heartbeat"\n\n' + b"\n\n".join(DATA) + b"\n\ndata: keep-alive\n\n",
    ],
)
def test_all_of_the_answer_comes(body: bytes) -> None:
    assert both(body) == ["ab", ""]


@pytest.mark.parametrize(
    ("data", "told"),
    [
        (b"data: Error: it died\n\n", "it died"),
        (b"event: error\ndata: it died\n\n", "it died"),
        (b'{"error":{"message":"it died"}}\n\n', "it died"),
        (b'data: {"error":{"message":"it died"}}{"error":{}}\n\n', "it died"),
        (b'data: {"error":{}}\n\n', "reported an error"),
        (b'data: {"x_groq":{"id":"r","error":"it died"}}\n\n', "it died"),
        (b'data: {"header":{"code":10013,"message":"it died"}}\n\n', "it died"),
    ],
)
def test_what_is_no_chunk_is_a_failure_that_says_so(data: bytes, told: str) -> None:
    body = DATA[0] + b"\n\n" + DATA[1] + b"\n\n" + data + b"data: [DONE]\n\n"
    text, message = both(body)
    assert text == "a" and told in message


def test_what_was_read_once_is_not_joined() -> None:
    assert events_in(b'{"a":1}') == events_in(b"5") == events_in(b"{} x") == []
    assert events_in(b"[" * 100_000) == events_in(b"[{}," * 500_000) == []


@pytest.mark.parametrize("word", ["null", "None", "FINISH_REASON_UNSPECIFIED", "undefined"])
def test_a_word_for_null_finishes_nothing(word: str) -> None:
    chunks = [chunk({"content": "a"}, word), chunk({"content": "b"}, word), chunk({}, "length")]
    reader, failure = stream([*(sse.frame(json.dumps(one).encode()) for one in chunks), sse.DONE])
    choice = reader.choices[0]
    assert failure is None and ("".join(choice.text), choice.finish) == ("ab", "length")
    assert document({"content": "a"}, word)["choices"][0]["finish_reason"] == "stop"


def test_members_that_stand_one_place_too_deep() -> None:
    usage = {"prompt_tokens": 1, "completion_tokens": 2, "total_tokens": 3}
    chunks = [chunk({"content": "a", "usage": usage}), chunk({"finish_reason": "length"})]
    reader, failure = stream([*(sse.frame(json.dumps(one).encode()) for one in chunks), sse.DONE])
    assert failure is None and reader.choices[0].finish == "length" and reader.usage == usage


def test_a_message_that_is_text_and_logprobs_that_are_none() -> None:
    odd = {"index": 0, "message": "a", "finish_reason": "stop", "logprobs": "x"}
    reader, failure = stream([sse.frame(json.dumps({"choices": [odd]}).encode()), sse.DONE])
    assert failure is None and "".join(reader.choices[0].text) == "a"


def call(name: str = "", arguments: Any = "", **more: Any) -> dict[str, Any]:
    piece = {"index": 0, "id": "c", "function": {"name": name, "arguments": arguments}, **more}
    return {"tool_calls": [piece]}


def test_a_name_that_grows_with_each_piece() -> None:
    calls = said(call("get_"), call("get_weather"), call("", "{}"), finish="tool_calls")[2]
    assert calls == [("get_weather", "{}")]


@pytest.mark.parametrize("given", ["None", "[]", [], {}])
def test_no_arguments_in_other_words(given: Any) -> None:
    assert said(call("f", given), finish="tool_calls")[2] == [("f", "{}")]


def test_arguments_that_were_written_as_json_twice() -> None:
    given = json.dumps('{"a":"\\""}')
    assert said(call("f", given), finish="tool_calls")[2] == [("f", '{"a":"\\""}')]
    assert said(call("f", '"text"'), finish="tool_calls")[2] == [("f", '"text"')]
