"""Models, folding, framing and policy: no sockets."""

from __future__ import annotations

import copy
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


def test_members_are_attributes_and_absent_ones_are_none():
    made = choreoai.ChatCompletionChunk.from_dict(chat_chunk("Hi", citations=["x"]))
    delta = made.choices[0].delta
    assert delta.content == "Hi"
    assert delta.role is None
    assert delta.tool_calls is None
    assert made.choices[0].finish_reason is None
    assert made.usage is None
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
def test_to_dict_gives_back_what_came(members):
    original = copy.deepcopy(members)
    made = ChatCompletionChunk.from_dict(copy.deepcopy(members))
    assert made.to_dict() == original
    read = ChatCompletionChunk.from_dict(copy.deepcopy(members))
    assert repr(read).startswith("ChatCompletionChunk(")  # its parts are made by now
    assert read == made
    assert json.loads(json.dumps(read.to_dict())) == original
    assert pickle.loads(pickle.dumps(made)) == made
    assert copy.deepcopy(made) == made


@pytest.mark.parametrize("choices", [None, [{}], [{"delta": None}]])
def test_what_is_missing_can_be_read_through(choices):
    made = ChatCompletionChunk.from_dict({"choices": choices})
    for choice in made.choices:
        assert choice.delta.content is None
        assert choice.index == 0
    assert ChatCompletionChunk.from_dict({}).choices == []
    whole = choreoai.ChatCompletion.from_dict({"choices": [{"message": None}]})
    assert whole.choices[0].message.content is None


def test_repr_names_what_is_there():
    made = choreoai.ChatCompletionChunk.from_dict(
        {"id": "x", "choices": [{"index": 0, "delta": {"content": "Hi"}, "finish_reason": None}]}
    )
    assert repr(made) == (
        "ChatCompletionChunk(id='x', choices=[ChunkChoice(index=0, delta=Delta(content='Hi'))])"
    )


# --- folding ----------------------------------------------------------------------------

USAGE = {"prompt_tokens": 3, "completion_tokens": 4, "total_tokens": 7}


def recorded():
    """A stream with two choices, tool calls, reasoning, usage and all kinds of text."""
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


def test_folding_at_every_split():
    data = b"".join(frame(value) for value in [*recorded(), "[DONE]"])
    assert read([data]) == expected()
    assert read([data[i : i + 1] for i in range(len(data))]) == expected()
    for at in range(0, len(data), 3):
        assert read([data[:at], data[at:]]) == expected()


def test_the_chunks_are_not_changed_by_folding():
    chunks = [ChatCompletionChunk.from_dict(value) for value in recorded()]
    fold = choreoai.Fold()
    for value in chunks:
        fold.add(value)
    assert [value.to_dict() for value in chunks] == recorded()
    fold.completion()
    assert fold.completion().to_dict() == expected()


def test_tool_calls_without_an_index():
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


def test_a_custom_tool_call_is_put_together_and_sent_back_as_it_came():
    fold = choreoai.Fold()
    for name, text in (("sql", "SELECT"), ("", " 1")):
        piece = {"index": 0, "id": "a", "type": "custom", "custom": {"name": name, "input": text}}
        fold.add(ChatCompletionChunk.from_dict(chat_chunk(None, tool_calls=[piece])))
    (call,) = fold.completion().choices[0].message.tool_calls
    assert call.function.arguments is None
    made = {"name": "sql", "input": "SELECT 1"}
    assert call.to_dict() == {"id": "a", "type": "custom", "custom": made}


def test_an_unfinished_fold():
    fold = choreoai.Fold()
    assert not fold.finished()
    assert fold.completion().choices == []
    fold.add(ChatCompletionChunk.from_dict(chat_chunk("a")))
    assert not fold.finished()
    assert fold.completion().choices[0].finish_reason is None
    fold.add(ChatCompletionChunk.from_dict(chat_chunk(None, finish="length")))
    assert fold.finished()
    assert not fold.finished(2)


def test_json_of_an_object_is_as_people_read_it():
    made = ChatCompletionChunk.from_dict({"id": "é", "choices": []})
    assert made.to_json() == '{\n  "id": "é",\n  "choices": []\n}'


def test_a_choice_without_a_number_is_the_first():
    fold = choreoai.Fold()
    fold.add(ChatCompletionChunk.from_dict({"choices": [{"delta": {"content": "a"}}]}))
    assert (fold.text(), fold.completion().choices[0].index) == ("a", 0)


def test_a_ready_format_is_sent_as_it_is_and_parses_nothing():
    ready = {"type": "json_object"}
    body = {"response_format": ready}
    parser = Parser(body, "response_format")
    assert body["response_format"] == ready
    assert parser.content("{}") is None


def test_only_strict_tools_have_their_arguments_parsed():
    tools = [{"function": {"name": "f", "strict": True}}, {"function": {"name": "g"}}]
    parser = Parser({"tools": tools}, "response_format")
    assert parser.arguments("f", '{"a": 1}') == {"a": 1}
    assert parser.arguments("g", '{"a": 1}') is None


def test_what_has_no_schema_is_no_type_of_an_answer():
    with pytest.raises(TypeError, match="neither a pydantic model nor a dataclass"):
        Parser({"response_format": int}, "response_format")


def test_without_pydantic_arguments_are_parsed_when_they_are_whole(monkeypatch):
    parser = Parser({"tools": [{"function": {"name": "f", "strict": True}}]}, "response_format")
    assert parser.arguments("f", '{"a": [1', partial=True) == {"a": [1]}
    assert parser.arguments("f", "", partial=True) is None
    monkeypatch.setitem(sys.modules, "pydantic_core", None)
    assert parser.arguments("f", '{"a": [1', partial=True) is None
    assert parser.arguments("f", '{"a": [1]}') == {"a": [1]}


def test_asking_for_a_long_text_after_each_piece_copies_it_never():
    """Python grows a string in place where nothing traces it: so in a process without a tracer."""
    program = """
import tracemalloc, choreoai
def chunk(text):
    delta = {"index": 0, "delta": {"content": text}, "finish_reason": None}
    return choreoai.ChatCompletionChunk.from_dict({"choices": [delta]})
def ask(fold, times):
    for _ in range(times):
        fold.add(chunk("y"))
        assert fold.text()[-1] == "y"
ask(choreoai.Fold(), 100)  # it does so once it has seen that it can
fold = choreoai.Fold()
fold.add(chunk("x" * 8_000_000))
ask(fold, 1)
tracemalloc.start()
ask(fold, 3)
print(tracemalloc.get_traced_memory()[1])
"""
    # -S: no site, whose files could start a measurement; the path is given instead.
    environment = {"PYTHONPATH": os.pathsep.join(sys.path)}
    command = [sys.executable, "-S", "-c", program]
    ran = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    assert int(ran.stdout) < 12_000_000


def test_a_refusal_has_no_content_and_logprobs_add_up():
    fold = choreoai.Fold()
    for text in ("I ", "won't"):
        value = chat_chunk(None, refusal=text)
        value["choices"][0]["logprobs"] = {"content": None, "refusal": [{"token": text}]}
        fold.add(ChatCompletionChunk.from_dict(value))
    choice = fold.completion().choices[0]
    assert choice.message.content is None
    assert choice.message.refusal == "I won't"
    assert choice.logprobs.to_dict() == {"refusal": [{"token": "I "}, {"token": "won't"}]}


@pytest.mark.parametrize(
    "wrong",
    [
        {"choices": [1]},
        {"choices": [{"index": "x", "delta": {}}]},
        {"choices": [{"index": [1], "delta": {}}]},
        {"choices": [{"index": 0, "delta": {"content": 5}}]},
        {"choices": [{"index": 0, "delta": "text"}]},
        {"choices": [{"delta": {"tool_calls": 5}}]},
        {"choices": [{"delta": {"tool_calls": [5]}}]},
        {"choices": [], "usage": 5},
    ],
    ids=repr,
)
def test_what_has_not_the_form_of_a_chunk(wrong):
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
def test_no_json_breaks_more_than_its_stream(values):
    """A chunk, or an APIError: whatever a server sends."""
    reading = Reading()
    for value in values:
        try:
            made = reading.take((None, copy.deepcopy(value)))
        except choreoai.APIError:
            break
        repr(made)
        made.to_dict()
    reading.fold.completion().to_dict()


@given(st.lists(st.tuples(st.integers(0, 3), st.text(min_size=1))))
def test_texts_of_choices_never_mix(pieces):
    fold = choreoai.Fold()
    whole: dict[int, str] = {}
    for index, text in pieces:
        fold.add(ChatCompletionChunk.from_dict(chat_chunk(text, index=index)))
        whole[index] = whole.get(index, "") + text
    assert {c.index: c.message.content for c in fold.completion().choices} == whole
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
def test_retry_delay(status, headers, delay):
    assert base.retry_delay(errors.status_error(status, headers, b"{}"), 0, NOW) == delay


@pytest.mark.parametrize(
    ("status", "after"),
    [
        *((status, None) for status in (408, 409, 429, 500, 529)),
        *((503, after) for after in ("soon", "-1", "\u0663")),
    ],
)
def test_retry_delay_backs_off(status, after):
    headers = {} if after is None else {"retry-after": after}
    for attempt, most in enumerate([0.5, 1.0, 2.0, 4.0, 8.0, 8.0]):
        delay = base.retry_delay(errors.status_error(status, headers, b"{}"), attempt, NOW)
        assert most / 2 <= delay <= most


def test_clients_that_failed_together_do_not_come_back_together():
    assert len({base.backoff(0) for _ in range(20)}) > 1


def test_timeouts():
    assert options.timeout_of(3) == choreoai.Timeout(3, 3, 3)
    assert options.timeout_of(None) == choreoai.Timeout(None, None, None)
    assert options.timeout_of(choreoai.Timeout(idle=5)).idle == 5
    assert options.timeout_of((2, 9)) == choreoai.Timeout(2, 9, 9)
    openai = pytest.importorskip("openai")
    assert options.timeout_of(openai.Timeout(9, connect=2)) == choreoai.Timeout(2, 9, 9)
    assert options.timeout_of(openai.Timeout(None)) == choreoai.Timeout(None, None, None)
    for wrong in (0, -1, float("nan"), float("inf"), choreoai.Timeout(idle=0), "5", (1,)):
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
        ("https://v1/", "https://v1/v1"),
    ],
)
def test_base_url(url, base):
    assert choreoai.ChoreoAI(base_url=url).base_url == base


def test_settings_from_the_environment(monkeypatch):
    assert choreoai.ChoreoAI().base_url == "http://localhost:8000/v1"
    assert choreoai.ChoreoAI().api_key is None
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


def test_a_copy_keeps_what_is_not_changed():
    settings = {"api_key": "k", "base_url": "http://a:9", "timeout": 3.0, "max_retries": 7}
    client = choreoai.ChoreoAI(**settings, default_headers={"X-A": "a"}, default_query={"b": "1"})
    for name, new in {**settings, "api_key": "n", "base_url": "http://n:1/v1"}.items():
        copy = client.with_options(**{name: new})
        made = {one: getattr(copy, one) for one in settings}
        kept = {one: getattr(client, one) for one in settings}
        assert made == {**kept, name: getattr(choreoai.ChoreoAI(**{name: new}), name)}
        assert copy.default_query == client.default_query
    always = choreoai.ChoreoAI(resumable=True)
    assert always.copy().resumable and not always.copy(resumable=False).resumable


def test_a_copy_with_a_session_of_its_own_has_its_own_connections():
    client = choreoai.ChoreoAI()
    same, other = client.copy(), client.copy(http_client=requests.Session())
    client.close()
    assert same.is_closed() and not other.is_closed()
    other.close()


@pytest.mark.parametrize("key", ["a b", "schlüssel"])
def test_a_key_that_no_header_can_carry(key):
    with pytest.raises(ValueError, match="API key"):
        choreoai.ChoreoAI(key)


def test_a_key_that_is_no_text():
    with pytest.raises(TypeError, match="api_key"):
        choreoai.ChoreoAI(b"key")


@pytest.mark.parametrize("tries", [-1, "2"])
def test_tries_that_are_no_number(tries):
    with pytest.raises(ValueError, match="max_retries"):
        choreoai.ChoreoAI(max_retries=tries)
    with pytest.raises(ValueError, match="max_retries"):
        choreoai.ChoreoAI().models.list(max_retries=tries)


@pytest.mark.parametrize("url", ["localhost:8000", "http://", 5])
def test_a_base_url_that_is_none(url):
    with pytest.raises(ValueError, match="base URL"):
        choreoai.ChoreoAI(base_url=url)


def test_signatures_name_every_parameter():
    made = choreoai.ChoreoAI()
    completions, responses = made.chat.completions, made.responses
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


def test_another_packages_http_client_is_refused():
    with pytest.raises(TypeError, match=r"requests\.Session"):
        choreoai.ChoreoAI(http_client=object())


def test_the_key_is_not_in_a_repr():
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
def test_error_objects_of_all_kinds(body, message, code):
    text = (body or "") if isinstance(body, str | None) else json.dumps(body)
    content = text.encode()
    error = errors.status_error(400, {"x-request-id": "r"}, content)
    assert (error.text, error.content) == (text, content)
    assert (str(error), error.code, error.json()) == (message, code, body)
    assert error.body == (body["error"] if isinstance(body, dict) and "error" in body else body)
    assert error.request_id == "r"


def test_errors_can_be_pickled():
    error = errors.status_error(429, {}, b'{"error": {"message": "m", "code": "c"}}')
    error.request = requests.Request("POST", "http://server/", json={}).prepare()
    copied = pickle.loads(pickle.dumps(error))
    assert type(copied) is choreoai.RateLimitError
    assert choreoai.RateLimitError("by a test").request_id is None
    assert (copied.code, copied.status_code, str(copied)) == ("c", 429, str(error))
    assert copied.request.url == "http://server/"


def test_the_names_that_are_loaded_late_are_there():
    assert choreoai.AsyncOpenAI is choreoai.AsyncChoreoAI
    assert choreoai.AsyncStream.__name__ == "AsyncStream"
    with pytest.raises(AttributeError):
        _ = choreoai.nothing
