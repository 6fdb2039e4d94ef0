"""Events with missing separators, data that is no chunk, and members in odd places."""

from __future__ import annotations

import json
from typing import Any

import pytest
from test_nonstandard_shapes import chunk, document, read_deltas, stream

from choreo_wsgi import sse
from choreo_wsgi.providers.openai.chunks import OpenAITranslator
from choreo_wsgi.providers.openai.joined import events_in

CHUNKS = [chunk({"role": "assistant"}), chunk({"content": "a"}), chunk({"content": "b"}, "stop")]
TEXTS = [json.dumps(one).encode() for one in CHUNKS]
DATA = [b"data: " + text for text in TEXTS]


def read_text(body: bytes) -> list[str]:
    """Return the text and the error message of *body*, from relay and translator alike."""
    reader, failure = stream([body])
    translator, items = OpenAITranslator(1), []
    try:
        items += translator.receive_data(body)
        items += translator.end()
    except Exception as error:
        assert failure is not None and failure.message == str(error)
    text = "".join(reader.choices[0].text)
    assert text == "".join(getattr(item, "text", "") for item in items)
    return [text, failure.message if failure else ""]


@pytest.mark.parametrize(
    "body",
    [
        b"\n".join(DATA) + b"\ndata: [DONE]\n\n",
        b"data: " + b"".join(TEXTS) + b"\n\ndata: [DONE]\n\n",
        b"data: " + b" ".join(TEXTS) + b"[DONE]\n\n",
        b"data: [" + b",".join(TEXTS) + b"]\n\ndata: [DONE]\n\n",
        b"".join(b"data: data: " + text + b"\n\n" for text in TEXTS) + b"data: data: [DONE]\n\n",
        b"".join(b"data: ping\n\n" + one + b"\n\ndata: : on it\n\n" for one in DATA),
        b'data: "heartbeat"\n\n'
        + b"\n\n".join(DATA)
        + b"\n\ndata: keep-alive\n\ndata: heart-beat\n\n",
    ],
)
def test_reads_events_with_wrong_separators(body: bytes) -> None:
    assert read_text(body) == ["ab", ""]


@pytest.mark.parametrize(
    ("data", "expected"),
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
def test_reports_error_data_between_chunks(data: bytes, expected: str) -> None:
    body = DATA[0] + b"\n\n" + DATA[1] + b"\n\n" + data + b"data: [DONE]\n\n"
    text, message = read_text(body)
    assert text == "a" and expected in message


def test_events_in_returns_nothing_for_single_or_invalid_values() -> None:
    assert events_in(b'{"a":1}') == events_in(b"5") == events_in(b"{} x") == []
    assert len(events_in(b"{}" * 100)) == 100 and events_in(b"{}" * 100_001) == []
    assert events_in(b"[" * 100_000) == events_in(b"[{}," * 500_000) == []


@pytest.mark.parametrize("word", ["null", "None", "FINISH_REASON_UNSPECIFIED", "undefined"])
def test_null_words_as_finish_reason_do_not_finish(word: str) -> None:
    chunks = [chunk({"content": "a"}, word), chunk({"content": "b"}, word), chunk({}, "length")]
    reader, failure = stream([*(sse.frame(json.dumps(one).encode()) for one in chunks), sse.DONE])
    choice = reader.choices[0]
    assert failure is None and ("".join(choice.text), choice.finish) == ("ab", "length")
    assert document({"content": "a"}, word)["choices"][0]["finish_reason"] == "stop"


def test_reads_usage_and_finish_reason_inside_delta() -> None:
    usage = {"prompt_tokens": 1, "completion_tokens": 2, "total_tokens": 3}
    chunks = [chunk({"content": "a", "usage": usage}), chunk({"finish_reason": "length"})]
    reader, failure = stream([*(sse.frame(json.dumps(one).encode()) for one in chunks), sse.DONE])
    assert failure is None and reader.choices[0].finish == "length" and reader.usage == usage


def test_accepts_string_message_and_invalid_logprobs() -> None:
    odd = {"index": 0, "message": "a", "finish_reason": "stop", "logprobs": "x"}
    reader, failure = stream([sse.frame(json.dumps({"choices": [odd]}).encode()), sse.DONE])
    assert failure is None and "".join(reader.choices[0].text) == "a"


def call(name: str = "", arguments: Any = "", **more: Any) -> dict[str, Any]:
    piece = {"index": 0, "id": "c", "function": {"name": name, "arguments": arguments}, **more}
    return {"tool_calls": [piece]}


def test_growing_call_name_is_merged() -> None:
    calls = read_deltas(call("get_"), call("get_weather"), call("", "{}"), finish="tool_calls")[2]
    assert calls == [("get_weather", "{}")]


@pytest.mark.parametrize("arguments", ["None", "[]", [], {}])
def test_null_words_as_arguments_become_empty_object(arguments: Any) -> None:
    assert read_deltas(call("f", arguments), finish="tool_calls")[2] == [("f", "{}")]


def test_decodes_doubly_encoded_arguments() -> None:
    encoded = json.dumps('{"a":"\\""}')
    assert read_deltas(call("f", encoded), finish="tool_calls")[2] == [("f", '{"a":"\\""}')]
    assert read_deltas(call("f", '"text"'), finish="tool_calls")[2] == [("f", '"text"')]
