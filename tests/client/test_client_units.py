"""Objects, folding, parsing, settings and retry rules, without a server."""

from __future__ import annotations

import copy
import dataclasses
import datetime
import inspect
import json
import os
import pickle
import subprocess
import sys

import pytest
import requests
from hypothesis import given
from hypothesis import strategies as st
from raw_server import chat_chunk, frame

import choreoai
from choreo_wsgi.sse import Decoder
from choreoai import ChatCompletionChunk, base, errors, options
from choreoai.parsing import Parser
from choreoai.reading import Reading, records

# --- models -----------------------------------------------------------------------------


def test_members_are_attributes_and_absent_fields_are_none():
    result = choreoai.ChatCompletionChunk.from_dict(chat_chunk("Hi", citations=["x"]))
    delta = result.choices[0].delta
    assert delta.content == "Hi"
    assert delta.role is None
    assert delta.tool_calls is None
    assert result.choices[0].finish_reason is None
    assert result.usage is None
    assert delta.citations == ["x"]
    with pytest.raises(AttributeError):
        _ = delta.contents


@pytest.mark.parametrize(
    "members",
    [
        chat_chunk("a", role="assistant", reasoning_content="hm"),
        chat_chunk(None, tool_calls=[{"index": 0, "function": {"arguments": "{}"}, "x": {"y": 1}}]),
        {"id": "x", "choices": [], "usage": {"prompt_tokens": 1, "more": {"deep": [1]}}},
        {**chat_chunk("a"), "usage": None, "unknown": [{"a": 1}]},
        {"choices": [{"index": 0, "delta": {"content": "a"}, "logprobs": {"content": []}}]},
    ],
)
def test_to_dict_returns_the_received_members(members):
    original = copy.deepcopy(members)
    result = ChatCompletionChunk.from_dict(copy.deepcopy(members))
    assert result.to_dict() == original
    read = ChatCompletionChunk.from_dict(copy.deepcopy(members))
    assert repr(read).startswith("ChatCompletionChunk(")  # creates its parts
    assert read == result
    assert json.loads(json.dumps(read.to_dict())) == original
    assert pickle.loads(pickle.dumps(result)) == result
    assert copy.deepcopy(result) == result
    assert choreoai.ParsedChatCompletion.from_dict({}) != choreoai.ChatCompletion.from_dict({})


@pytest.mark.parametrize("choices", [None, [{}], [{"delta": None}]])
def test_missing_choices_and_messages_read_as_empty_objects(choices):
    result = ChatCompletionChunk.from_dict({"choices": choices})
    for choice in result.choices:
        assert choice.delta.content is None
        assert choice.index == 0
    assert ChatCompletionChunk.from_dict({}).choices == []
    whole = choreoai.ChatCompletion.from_dict({"choices": [{"message": None}]})
    assert whole.choices[0].message.content is None


def test_repr_shows_the_members_that_are_not_none():
    result = choreoai.ChatCompletionChunk.from_dict(
        {"id": "x", "choices": [{"index": 0, "delta": {"content": "Hi"}, "finish_reason": None}]}
    )
    assert repr(result) == (
        "ChatCompletionChunk(id='x', choices=[ChunkChoice(index=0, delta=Delta(content='Hi'))])"
    )


# --- folding ----------------------------------------------------------------------------

USAGE = {"prompt_tokens": 3, "completion_tokens": 4, "total_tokens": 7}


def recorded():
    """Return the chunks of a stream with two choices, tool calls, reasoning and usage."""
    first = {"index": 0, "id": "call_a", "type": "function", "function": {"name": "f"}}
    second = {"index": 1, "id": "call_b", "type": "function", "function": {"name": "g"}}
    return [
        chat_chunk("", role="assistant"),
        chat_chunk("", index=1, role="assistant"),
        chat_chunk(None, reasoning_content="Let me "),
        chat_chunk("Grüße \u2028", reasoning_content="see"),
        chat_chunk("one", index=1),
        chat_chunk("\n\n🐍 data: x"),
        chat_chunk(None, tool_calls=[{**first, "function": {"name": "f", "arguments": ""}}]),
        chat_chunk(None, tool_calls=[{"index": 0, "function": {"arguments": '{"a":'}}]),
        chat_chunk(None, tool_calls=[{**second, "function": {"name": "g", "arguments": "{"}}]),
        chat_chunk(None, tool_calls=[{"index": 0, "function": {"arguments": '"\\n"}'}}]),
        chat_chunk(None, tool_calls=[{"index": 1, "function": {"arguments": "}"}}]),
        chat_chunk(" two", index=1),
        chat_chunk(None, finish="tool_calls"),
        chat_chunk(None, index=1, finish="stop"),
        {**chat_chunk("x"), "choices": [], "usage": USAGE},
    ]


def expected():
    calls = [
        {"id": "call_a", "type": "function", "function": {"name": "f", "arguments": '{"a":"\\n"}'}},
        {"id": "call_b", "type": "function", "function": {"name": "g", "arguments": "{}"}},
    ]
    answer = {
        "role": "assistant",
        "content": "Grüße \u2028\n\n🐍 data: x",
        "reasoning_content": "Let me see",
        "tool_calls": calls,
    }
    other = {"role": "assistant", "content": "one two"}
    return {
        "id": "chatcmpl-1",
        "object": "chat.completion",
        "created": 1700000000,
        "model": "m",
        "choices": [
            {"index": 0, "message": answer, "finish_reason": "tool_calls"},
            {"index": 1, "message": other, "finish_reason": "stop"},
        ],
        "usage": USAGE,
    }


def read(blocks, n=2):
    decoder, reading = Decoder(), Reading(n)
    for block in blocks:
        for record in records(decoder, block):
            reading.take(record)
    assert reading.ended
    return reading.fold.completion().to_dict()


def test_folding_does_not_depend_on_block_boundaries():
    data = b"".join(frame(value) for value in [*recorded(), "[DONE]"])
    assert read([data]) == expected()
    assert read([data[i : i + 1] for i in range(len(data))]) == expected()
    for at in range(0, len(data), 3):
        assert read([data[:at], data[at:]]) == expected()


def test_folding_does_not_change_the_chunks():
    chunks = [ChatCompletionChunk.from_dict(value) for value in recorded()]
    fold = choreoai.Fold()
    for value in chunks:
        fold.add(value)
    assert [value.to_dict() for value in chunks] == recorded()
    fold.completion()
    assert fold.completion().to_dict() == expected()


def test_numbers_tool_calls_without_an_index():
    fold = choreoai.Fold()
    for call in (
        {"id": "a", "function": {"name": "f", "arguments": "{}"}},
        {"id": "b", "function": {"name": "g", "arguments": "{"}},
        {"function": {"arguments": "}"}},
    ):
        fold.add(ChatCompletionChunk.from_dict(chat_chunk(None, tool_calls=[call])))
    calls = fold.completion().choices[0].message.tool_calls
    assert [(c.id, c.function.name, c.function.arguments) for c in calls] == [
        ("a", "f", "{}"),
        ("b", "g", "{}"),
    ]


def test_merges_a_custom_tool_call():
    fold = choreoai.Fold()
    for name, text in (("sql", "SELECT"), ("", " 1")):
        piece = {"index": 0, "id": "a", "type": "custom", "custom": {"name": name, "input": text}}
        fold.add(ChatCompletionChunk.from_dict(chat_chunk(None, tool_calls=[piece])))
    (call,) = fold.completion().choices[0].message.tool_calls
    assert call.function.arguments is None
    custom = {"name": "sql", "input": "SELECT 1"}
    assert call.to_dict() == {"id": "a", "type": "custom", "custom": custom}


def test_fold_is_finished_with_n_finish_reasons():
    fold = choreoai.Fold()
    assert not fold.finished()
    assert fold.completion().choices == []
    fold.add(ChatCompletionChunk.from_dict(chat_chunk("a")))
    assert not fold.finished()
    assert fold.completion().choices[0].finish_reason is None
    fold.add(ChatCompletionChunk.from_dict(chat_chunk(None, finish="length")))
    assert fold.finished()
    assert not fold.finished(2)


def test_to_json_indents_and_does_not_escape():
    result = ChatCompletionChunk.from_dict({"id": "é", "choices": []})
    assert result.to_json() == '{\n  "id": "é",\n  "choices": []\n}'


def test_fold_keeps_usage_beside_choices():
    fold = choreoai.Fold()
    for value in (chat_chunk("a"), {**chat_chunk(finish="stop"), "usage": USAGE}):
        fold.add(ChatCompletionChunk.from_dict(value))
    assert fold.completion().usage.to_dict() == USAGE


def test_choice_without_an_index_is_choice_0():
    fold = choreoai.Fold()
    fold.add(ChatCompletionChunk.from_dict({"choices": [{"delta": {"content": "a"}}]}))
    assert (fold.text(), fold.completion().choices[0].index) == ("a", 0)


def test_json_response_format_is_sent_unchanged_and_parses_nothing():
    ready = {"type": "json_object"}
    body = {"response_format": ready}
    parser = Parser(body, "response_format")
    assert body["response_format"] == ready
    assert parser.content("{}") is None


def test_parses_the_arguments_of_only_strict_tools():
    tools = [{"function": {"name": "f", "strict": True}}, {"function": {"name": "g"}}]
    parser = Parser({"tools": tools}, "response_format")
    assert parser.arguments("f", '{"a": 1}') == {"a": 1}
    assert parser.arguments("g", '{"a": 1}') is None


def test_refusal_is_not_parsed():
    parser = Parser(
        {"response_format": dataclasses.make_dataclass("A", [("a", str)])}, "response_format"
    )
    message = {"content": "I won't", "refusal": "I won't"}
    completion = choreoai.ChatCompletion.from_dict({"choices": [{"message": message}]})
    assert parser.completion(completion).choices[0].message.parsed is None


def test_rejects_a_response_format_without_a_schema():
    with pytest.raises(TypeError, match="neither a pydantic model nor a dataclass"):
        Parser({"response_format": int}, "response_format")


def test_without_pydantic_only_complete_arguments_are_parsed(monkeypatch):
    parser = Parser({"tools": [{"function": {"name": "f", "strict": True}}]}, "response_format")
    assert parser.arguments("f", '{"a": [1', partial=True) == {"a": [1]}
    assert parser.arguments("f", "", partial=True) is None
    monkeypatch.setitem(sys.modules, "pydantic_core", None)
    assert parser.arguments("f", '{"a": [1', partial=True) is None
    assert parser.arguments("f", '{"a": [1]}') == {"a": [1]}


def test_reading_the_text_after_each_chunk_does_not_copy_it():
    """In another process: Python appends to a string in place only without a trace function."""
    program = """
import tracemalloc, choreoai
def chunk(text):
    delta = {"index": 0, "delta": {"content": text}, "finish_reason": None}
    return choreoai.ChatCompletionChunk.from_dict({"choices": [delta]})
def add(fold, times):
    for _ in range(times):
        fold.add(chunk("y"))
        assert fold.text()[-1] == "y"
add(choreoai.Fold(), 100)  # Python specialises the instruction after some calls
fold = choreoai.Fold()
fold.add(chunk("x" * 8_000_000))
add(fold, 1)
tracemalloc.start()
add(fold, 3)
print(tracemalloc.get_traced_memory()[1])
"""
    # -S: without site, whose .pth files could start a coverage measurement.
    environment = {"PYTHONPATH": os.pathsep.join(sys.path)}
    command = [sys.executable, "-S", "-c", program]
    ran = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    assert int(ran.stdout) < 12_000_000


def test_merges_refusals_and_logprobs():
    fold = choreoai.Fold()
    for text in ("I ", "won't"):
        value = chat_chunk(None, refusal=text)
        value["choices"][0]["logprobs"] = {"content": None, "refusal": [{"token": text}]}
        fold.add(ChatCompletionChunk.from_dict(value))
    choice = fold.completion().choices[0]
    assert choice.message.content is None
    assert choice.message.refusal == "I won't"
    assert choice.logprobs.to_dict() == {"refusal": [{"token": "I "}, {"token": "won't"}]}


def test_joins_reasoning_and_audio_and_replaces_other_texts():
    fold = choreoai.Fold()
    for text in ("a", "b"):
        audio = {"id": text, "data": text, "transcript": text}
        fold.add(ChatCompletionChunk.from_dict(chat_chunk(None, reasoning=text, audio=audio)))
    message = fold.completion().choices[0].message
    assert message.reasoning == "ab"
    assert message.audio.to_dict() == {"id": "b", "data": "ab", "transcript": "ab"}


@pytest.mark.parametrize(
    "wrong",
    [
        {"choices": [1]},
        {"choices": [{"index": "x", "delta": {}}]},
        {"choices": [{"index": [1], "delta": {}}]},
        {"choices": [{"index": -1, "delta": {}}]},
        {"choices": [{"index": 0, "delta": {"content": 5}}]},
        {"choices": [{"index": 0, "delta": "text"}]},
        {"choices": [{"delta": {"tool_calls": 5}}]},
        {"choices": [{"delta": {"tool_calls": [5]}}]},
        {"choices": [], "usage": 5},
    ],
    ids=repr,
)
def test_invalid_chunk_raises_with_the_partial_text(wrong):
    reading = Reading()
    reading.take((None, chat_chunk("kept")))
    with pytest.raises(choreoai.APIError, match="invalid chunk") as caught:
        reading.take((None, wrong))
    assert caught.value.partial_text == "kept"


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=3),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(
                [
                    "index",
                    "delta",
                    "content",
                    "tool_calls",
                    "function",
                    "arguments",
                    "finish_reason",
                    "logprobs",
                    "id",
                ]
            ),
            inner,
            max_size=4,
        )
    ),
)
CHUNKS = st.fixed_dictionaries(
    {"choices": st.lists(JSON, max_size=2) | JSON}, optional={"usage": JSON}
)


@given(st.lists(CHUNKS, max_size=4))
def test_any_json_value_is_read_or_raises_an_api_error(values):
    """The error ends only its own stream."""
    reading = Reading()
    for value in values:
        try:
            result = reading.take((None, copy.deepcopy(value)))
        except choreoai.APIError:
            break
        repr(result)
        result.to_dict()
    reading.fold.completion().to_dict()


@given(st.lists(st.tuples(st.integers(0, 3), st.text(min_size=1))))
def test_fold_separates_the_texts_of_choices(pieces):
    fold = choreoai.Fold()
    whole: dict[int, str] = {}
    for index, text in pieces:
        fold.add(ChatCompletionChunk.from_dict(chat_chunk(text, index=index)))
        whole[index] = whole.get(index, "") + text
    texts = [(c.index, c.message.content) for c in fold.completion().choices]
    assert texts == sorted(whole.items())
    assert fold.text() == whole.get(0, "")


# --- policy -----------------------------------------------------------------------------

NOW = 1_700_000_000.0
DATE = datetime.datetime.fromtimestamp(NOW + 7, datetime.timezone.utc)


@pytest.mark.parametrize(
    ("status", "headers", "delay"),
    [
        (429, {"retry-after": "1.5"}, 1.5),
        (429, {"retry-after-ms": "250", "retry-after": "9"}, 0.25),
        (429, {"retry-after-ms": "soon", "retry-after": "9"}, 9.0),
        (503, {"retry-after": DATE.strftime("%a, %d %b %Y %H:%M:%S GMT")}, 7.0),
        (503, {"retry-after": "0"}, 0.0),
        (503, {"retry-after": "60"}, 60.0),
        (503, {"retry-after": "61"}, None),
        (503, {"retry-after": "9" * 500}, None),
        (500, {"x-should-retry": " FALSE "}, None),
        (400, {"x-should-retry": "true", "retry-after": "1"}, 1.0),
        (400, {}, None),
    ],
)
def test_retry_delay_follows_the_headers(status, headers, delay):
    assert base.retry_delay(errors.status_error(status, headers, b"{}"), 0, NOW) == delay


@pytest.mark.parametrize(
    ("status", "after"),
    [
        *((status, None) for status in (408, 409, 429, 500, 529)),
        *((503, after) for after in ("soon", "-1", "\u0663")),
    ],
)
def test_retry_delay_doubles_up_to_8_seconds(status, after):
    headers = {} if after is None else {"retry-after": after}
    for attempt, most in enumerate([0.5, 1.0, 2.0, 4.0, 8.0, 8.0]):
        delay = base.retry_delay(errors.status_error(status, headers, b"{}"), attempt, NOW)
        assert most / 2 <= delay <= most


def test_backoff_is_random():
    assert len({base.backoff(0) for _ in range(20)}) > 1


def test_timeout_of_converts_all_accepted_forms():
    assert choreoai.ChoreoAI().timeout == (10, 600, 300)
    assert options.timeout_of(3) == choreoai.Timeout(3, 3, 3)
    assert options.timeout_of(None) == choreoai.Timeout(None, None, None)
    assert options.timeout_of(choreoai.Timeout(idle=5)).idle == 5
    assert options.timeout_of((2, 9)) == choreoai.Timeout(2, 9, 9)
    openai = pytest.importorskip("openai")
    assert options.timeout_of(openai.Timeout(9, connect=2)) == choreoai.Timeout(2, 9, 9)
    assert options.timeout_of(openai.Timeout(None)) == choreoai.Timeout(None, None, None)
    year = 366 * 86400
    assert options.timeout_of(year) == choreoai.Timeout(year, year, year)
    for wrong in (0, -1, year + 1, float("nan"), choreoai.Timeout(idle=0), "5", (1,)):
        with pytest.raises(ValueError, match="timeout"):
            options.timeout_of(wrong)


# --- settings and errors ----------------------------------------------------------------


@pytest.mark.parametrize(
    ("url", "base"),
    [
        (" http://h:1/\n", "http://h:1/v1"),
        ("http://h:1/v1/", "http://h:1/v1"),
        ("https://h/mounted/here", "https://h/mounted/here/v1"),
        ("https://h/v1beta/openai", "https://h/v1beta/openai"),
        ("https://h/v2", "https://h/v2"),
        ("https://v1/", "https://v1/v1"),
    ],
)
def test_base_url_is_completed_with_v1(url, base):
    assert choreoai.ChoreoAI(base_url=url).base_url == base


def test_reads_key_and_base_url_from_the_environment(monkeypatch):
    assert choreoai.ChoreoAI().base_url == "http://localhost:8000/v1"
    assert choreoai.ChoreoAI().api_key is None
    assert choreoai.ChoreoAI().max_retries == 2
    monkeypatch.setenv("CHOREOAI_API_KEY", "sk-env")
    monkeypatch.setenv("CHOREOAI_BASE_URL", "http://env:9")
    assert choreoai.ChoreoAI().api_key == "sk-env"
    assert choreoai.AsyncChoreoAI().base_url == "http://env:9/v1"
    assert choreoai.ChoreoAI(api_key="sk-own").api_key == "sk-own"
    monkeypatch.setenv("OPENAI_API_KEY", "sk-openai")
    monkeypatch.setenv("OPENAI_BASE_URL", "http://openai:9")
    assert choreoai.ChoreoAI().api_key == "sk-env"
    assert choreoai.ChoreoAI(api_key="").api_key == "sk-env"
    monkeypatch.delenv("CHOREOAI_API_KEY")
    monkeypatch.setenv("CHOREOAI_BASE_URL", "")
    assert choreoai.ChoreoAI().api_key == "sk-openai"
    assert choreoai.ChoreoAI().base_url == "http://openai:9/v1"


def test_copy_keeps_unchanged_settings():
    settings = {"api_key": "k", "base_url": "http://a:9", "timeout": 3.0, "max_retries": 7}
    client = choreoai.ChoreoAI(**settings, default_headers={"X-A": "a"}, default_query={"b": "1"})
    for name, new in {**settings, "api_key": "n", "base_url": "http://n:1/v1"}.items():
        copy = client.with_options(**{name: new})
        result = {one: getattr(copy, one) for one in settings}
        kept = {one: getattr(client, one) for one in settings}
        assert result == {**kept, name: getattr(choreoai.ChoreoAI(**{name: new}), name)}
        assert copy.default_query == client.default_query
    assert client.copy(max_retries=0).max_retries == 0
    always = choreoai.ChoreoAI(resumable=True)
    assert always.copy().resumable and not always.copy(resumable=False).resumable


def test_copy_shares_connections_unless_given_a_session():
    client = choreoai.ChoreoAI()
    same, other = client.copy(), client.copy(http_client=requests.Session())
    client.close()
    assert same.is_closed() and not other.is_closed()
    other.close()


@pytest.mark.parametrize("key", ["a b", "schlüssel"])
def test_rejects_a_key_that_a_header_cannot_hold(key):
    with pytest.raises(ValueError, match="API key"):
        choreoai.ChoreoAI(key)


def test_rejects_a_key_that_is_not_a_string():
    with pytest.raises(TypeError, match="api_key"):
        choreoai.ChoreoAI(b"key")


@pytest.mark.parametrize("tries", [-1, "2"])
def test_rejects_invalid_max_retries(tries):
    with pytest.raises(ValueError, match="max_retries"):
        choreoai.ChoreoAI(max_retries=tries)
    with pytest.raises(ValueError, match="max_retries"):
        choreoai.ChoreoAI().models.list(max_retries=tries)


@pytest.mark.parametrize("url", ["localhost:8000", "http://", 5])
def test_rejects_an_invalid_base_url(url):
    with pytest.raises(ValueError, match="base URL"):
        choreoai.ChoreoAI(base_url=url)


def test_signatures_show_all_parameters():
    result = choreoai.ChoreoAI()
    completions, responses = result.chat.completions, result.responses
    raw, streamed = completions.with_raw_response, completions.with_streaming_response
    for method in (completions.create, completions.parse, completions.stream, raw.create):
        assert {"messages", "stop", "n", "max_retries"} <= inspect.signature(
            method
        ).parameters.keys()
    for method in (raw.parse, streamed.create, responses.create, responses.parse):
        parameters = inspect.signature(method).parameters
        assert {"model", "temperature", "tools", "extra_body"} <= parameters.keys()
        assert parameters["model"].default is inspect.Parameter.empty
    for method in (completions.create, responses.create):
        assert "stream" in inspect.signature(method).parameters


def test_rejects_an_http_client_of_another_class():
    with pytest.raises(TypeError, match=r"requests\.Session"):
        choreoai.ChoreoAI(http_client=object())


def test_repr_of_a_client_hides_the_key():
    assert "sk-secret" not in repr(choreoai.ChoreoAI(api_key="sk-secret"))


@pytest.mark.parametrize(
    ("body", "message", "code"),
    [
        ({"error": {"message": "m", "code": "c"}}, "HTTP 400: m", "c"),
        ({"error": "just text"}, "HTTP 400: just text", None),
        ({"message": "flat"}, "HTTP 400: flat", None),
        ("<html>", "HTTP 400: <html>", None),
        ([], "HTTP 400", None),
        (None, "HTTP 400", None),
    ],
)
def test_status_error_reads_all_forms_of_error_bodies(body, message, code):
    text = (body or "") if isinstance(body, str | None) else json.dumps(body)
    content = text.encode()
    error = errors.status_error(400, {"x-request-id": "r"}, content)
    assert (error.text, error.content) == (text, content)
    assert (str(error), error.code, error.json()) == (message, code, body)
    assert error.body == (body["error"] if isinstance(body, dict) and "error" in body else body)
    assert error.request_id == "r"


def test_unreadable_error_bodies_are_shown_as_text():
    error = errors.status_error(400, {}, b"caf\xe9")
    assert (str(error), error.text) == ("HTTP 400: caf\ufffd", "caf\ufffd")
    deep = "[" * 100_000
    error = errors.status_error(400, {}, deep.encode())
    assert (str(error), error.json()) == ("HTTP 400: " + "[" * 500, deep)


def test_errors_can_be_pickled():
    error = errors.status_error(429, {}, b'{"error": {"message": "m", "code": "c"}}')
    error.request = requests.Request("POST", "http://server/", json={}).prepare()
    copied = pickle.loads(pickle.dumps(error))
    assert type(copied) is choreoai.RateLimitError
    assert choreoai.RateLimitError("by a test").request_id is None
    assert (copied.code, copied.status_code, str(copied)) == ("c", 429, str(error))
    assert copied.request.url == "http://server/"


def test_lazily_imported_names_exist():
    assert choreoai.AsyncOpenAI is choreoai.AsyncChoreoAI
    assert choreoai.AsyncStream.__name__ == "AsyncStream"
    with pytest.raises(AttributeError):
        _ = choreoai.nothing
