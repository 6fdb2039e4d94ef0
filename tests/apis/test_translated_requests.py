"""The chat request that an upstream receives for a request of another API."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
from raw_server import RawServer
from test_odd_requests import MESSAGE
from wsgi_calls import call

from choreo_wsgi.app.application import Application

CHUNK = b'data: {"choices":[{"index":0,"delta":{"content":"hi"},"finish_reason":"stop"}]}\n\n'
ANSWER = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\n" + CHUNK
#: Members that only Anthropic has; OpenAI rejects members that it does not know.
PLAIN_MESSAGE = {**MESSAGE, "model": "m", "output_config": {}}
ONLY_ANTHROPIC = ("cache_control", "thinking", "thinking_blocks", "reasoning_content", "is_error")


Forward = Callable[..., Any]


@pytest.fixture
def forward(application: Callable[..., Application]) -> Forward:
    """Return a function that returns the body that an upstream of type *kind* receives."""

    def forward(route: str, body: dict[str, Any], kind: str = "openai") -> Any:
        with RawServer.playing(ANSWER) as upstream:
            section = {"type": kind, "models": "*", "base_url": upstream.url, "api_key": "k"}
            answer = call(application({"up": section}), "POST", f"/v1/{route}", body)
            assert answer.status == 200, answer.body
            return json.loads(upstream.requests[-1].body)

    return forward


CACHE = {"cache_control": {"type": "ephemeral"}}
SCHEMA = {"type": "object"}
PNG = {"type": "base64", "media_type": "image/png", "data": "AAAA"}
USAGE = {"include_usage": True}
TRANSLATED: dict[str, tuple[Any, Any]] = {
    "messages": ({
        "model": "m", "max_tokens": 2000, "temperature": 0.5, "top_p": 0.25, "system": "", **CACHE,
        "stop_sequences": ["", "x"], "metadata": {"user_id": "u"}, "tool_choice": {"type": "any"},
        "output_format": {"type": "json_schema", "schema": SCHEMA},
        "messages": [
            {"role": "user", "content": "hi", "id": "x"},
            {"role": "user", "content": [
                {"type": "image", "source": PNG, **CACHE},
                {"type": "document", "source": {"type": "text", "data": "AA"}, **CACHE},
                {"type": "search_result", "title": "t", "source": "s", "content": [], **CACHE},
            ]},
            {"role": "assistant", "content": [
                {"type": "tool_use", "id": "1", "name": "f", "input": {}, "extra_content": {"x": 1},
                 **CACHE},
            ]},
            {"role": "user", "content": [
                {"type": "tool_result", "tool_use_id": "1", "content": "r", **CACHE},
            ]},
        ],
        "tools": [
            {"name": "f", "description": "d", "input_schema": SCHEMA, "strict": True, **CACHE},
        ],
    }, {
        "model": "m", "max_completion_tokens": 2000, "temperature": 0.5, "top_p": 0.25, **CACHE,
        "stop": ["x"], "user": "u", "tool_choice": "required",
        "response_format": {"type": "json_schema", "json_schema": {
            "name": "answer", "schema": SCHEMA, "strict": True}},
        "messages": [
            {"role": "user", "content": "hi"},
            {"role": "user", "content": [
                {"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}, **CACHE},
                {"type": "file", "file": {"file_data": "data:text/plain;base64,QUE=",
                                          "filename": "document"}, **CACHE},
                {"type": "text", "text": "t\ns", **CACHE},
            ]},
            {"role": "assistant", "content": None, "tool_calls": [
                {"id": "1", "type": "function", "function": {"name": "f", "arguments": "{}"},
                 "extra_content": {"x": 1}, **CACHE},
            ]},
            {"role": "tool", "tool_call_id": "1", "content": "r", **CACHE},
        ],
        "tools": [{"type": "function", "function": {
            "name": "f", "description": "d", "strict": True, "parameters": SCHEMA}, **CACHE}],
    }),
    "responses": ({
        "model": "m", "reasoning": {"effort": ""}, "text": {"format": {"type": "json_object"}},
        "parallel_tool_calls": False,
        "input": [
            {"role": "user", "content": "hi", "id": "msg_1"},
            {"type": "reasoning", "content": [{"text": "a"}], "summary": [{"text": "b"}],
             "encrypted_content": "choreo.W3t9XQ=="},
            {"role": "assistant", "content": "one"},
            {"role": "assistant", "content": "two"},
            {"type": "function_call", "call_id": "1", "name": "f", "arguments": "{}",
             "extra_content": {"x": 1}},
            {"role": "assistant", "content": "three"},
            {"type": "image_generation_call", "result": "AAAA"},
            {"role": "user", "content": [
                {"type": "input_audio", "input_audio": {"data": "AAAA", "format": "wav"}},
                {"type": "input_file", "file_url": "https://x/a.pdf"},
                {"type": "input_image", "image_url": "https://x/a.png", "detail": None},
            ]},
            {"type": "function_call", "call_id": "2", "name": "f", "arguments": "{}"},
            {"role": "assistant", "content": "four"},
        ],
        "tools": [{"type": "function", "name": "f", "parameters": SCHEMA, "strict": True}],
        "tool_choice": {"type": "allowed_tools", "mode": "required",
                        "tools": [{"type": "function", "name": "f"}]},
    }, {
        "model": "m", "response_format": {"type": "json_object"}, "parallel_tool_calls": False,
        "messages": [
            {"role": "user", "content": "hi"},
            {"role": "assistant", "content": "one", "reasoning_content": "ab"},
            {"role": "assistant", "content": "two\n\nthree", "tool_calls": [
                {"id": "1", "type": "function", "function": {"name": "f", "arguments": "{}"},
                 "extra_content": {"x": 1}},
            ], "images": [
                {"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}},
            ]},
            {"role": "user", "content": [
                {"type": "input_audio", "input_audio": {"data": "AAAA", "format": "wav"}},
                {"type": "file", "file": {"file_data": "https://x/a.pdf", "filename": "file"}},
                {"type": "image_url", "image_url": {"url": "https://x/a.png"}},
            ]},
            {"role": "assistant", "content": "four", "tool_calls": [
                {"id": "2", "type": "function", "function": {"name": "f", "arguments": "{}"}},
            ]},
        ],
        "tools": [{"type": "function", "function": {
            "name": "f", "parameters": SCHEMA, "strict": True}}],
        "tool_choice": {"type": "allowed_tools", "allowed_tools": {
            "mode": "required", "tools": [{"type": "function", "function": {"name": "f"}}]}},
    }),
}  # fmt: skip


@pytest.mark.parametrize("route", TRANSLATED)
def test_request_is_translated_member_by_member(forward: Forward, route: str) -> None:
    body, expected = TRANSLATED[route]
    assert forward(route, body) == {**expected, "stream": True, "stream_options": USAGE}


@pytest.mark.parametrize("kind", ["azure", "groq", "mistral"])
def test_strict_servers_receive_no_anthropic_members(forward: Forward, kind: str) -> None:
    body = forward("messages", PLAIN_MESSAGE, kind)
    assert [name for name in ONLY_ANTHROPIC if f'"{name}"' in json.dumps(body)] == []
    with_caches = forward("messages", TRANSLATED["messages"][0], kind)
    assert "cache_control" not in json.dumps(with_caches)
    assert "reasoning_effort" not in body
    roles = [message["role"] for message in body["messages"]]
    assert roles == ["system", "user", "assistant", "tool", "user", "system", "user"]
    limit = "max_tokens" if kind == "mistral" else "max_completion_tokens"
    assert body[limit] == 2000


@pytest.mark.parametrize(
    ("model", "more", "effort"),
    [
        ("gpt-5.1", {}, "low"),
        ("gpt-10", {}, "low"),
        ("o3-mini", {}, "low"),
        ("my-gpt-5", {}, None),
        ("gpt-5.1", {"thinking": {"type": "disabled"}}, None),
    ],
)
def test_thinking_becomes_a_reasoning_effort(
    forward: Forward, model: str, more: dict[str, Any], effort: str | None
) -> None:
    body = forward("messages", {**PLAIN_MESSAGE, "model": model, **more}, "azure")
    assert body.get("reasoning_effort") == effort


def test_generic_servers_receive_anthropic_members(forward: Forward) -> None:
    """vLLM ignores members that it does not know; gateways know these."""
    body = json.dumps(forward("messages", PLAIN_MESSAGE))
    assert all(f'"{name}"' in body for name in ONLY_ANTHROPIC)
    assert '{"type": "redacted_thinking", "data": "d"}' in body


def test_file_without_a_name_gets_a_filename(forward: Forward) -> None:
    """OpenAI's chat completions require it."""
    data = "data:application/pdf;base64,JVBERi0="
    part = {"type": "input_file", "file_data": data}
    body = {"model": "m", "input": [{"role": "user", "content": [part]}]}
    (message,) = forward("responses", body)["messages"]
    assert message["content"] == [{"type": "file", "file": {"file_data": data, "filename": "file"}}]


def test_failed_response_names_the_param(application: Callable[..., Application]) -> None:
    error = b'data: {"error":{"message":"why","code":400,"param":"input[0]"}}\n\n'
    unfinished = CHUNK.replace(b'"stop"', b"null")
    with RawServer.playing(ANSWER.replace(CHUNK, unfinished) + error) as upstream:
        section = {"type": "openai", "models": "*", "base_url": upstream.url, "api_key": "k"}
        body = {"model": "m", "input": "hi", "stream": True}
        frames = call(application({"up": section}), "POST", "/v1/responses", body).body
    last = json.loads(frames.rpartition(b"data: ")[2])
    assert last["type"] == "response.failed"
    assert last["response"]["error"] == {
        "code": "invalid_prompt",
        "message": "why",
        "param": "input[0]",
        "type": "invalid_parameter_value",  # the code of this server
    }


def test_parallel_tool_calls_needs_tools(
    application: Callable[..., Application], forward: Forward
) -> None:
    """OpenAI's chat accepts the member only together with tools."""
    body = {"model": "m", "input": "hi", "parallel_tool_calls": False, "tool_choice": "auto"}
    with RawServer.playing(ANSWER) as upstream:
        section = {"type": "openai", "models": "*", "base_url": upstream.url, "api_key": "k"}
        answer = call(application({"up": section}), "POST", "/v1/responses", body)
        assert answer.json()["parallel_tool_calls"] is False
        sent = json.loads(upstream.requests[-1].body)
    assert sent.keys().isdisjoint(("parallel_tool_calls", "tool_choice", "tools"))
    choice = {"type": "auto", "disable_parallel_tool_use": True}
    message = {"model": "m", "max_tokens": 9, "messages": [{"role": "user", "content": "hi"}]}
    sent = forward("messages", {**message, "tool_choice": choice})
    assert sent.keys().isdisjoint(("parallel_tool_calls", "tool_choice", "tools"))


def test_error_names_no_path_of_the_chat_request(application: Callable[..., Application]) -> None:
    section = {"type": "bedrock", "models": "*", "api_key": "k", "region": "us-east-1"}
    block = {"type": "image", "source": {"type": "url", "url": "https://site.example/a.png"}}
    body = {"model": "amazon.nova-pro-v1:0", "max_tokens": 9, "system": "s"}
    body["messages"] = [{"role": "user", "content": [block]}]
    answer = call(application({"up": section}), "POST", "/v1/messages", body)
    assert answer.status == 400
    assert answer.json()["error"]["message"].startswith("messages: bedrock ")
    part = {"type": "input_image", "image_url": "https://site.example/a.png"}
    body = {"model": body["model"], "input": [{"role": "user", "content": [part]}]}
    assert (
        call(application({"up": section}), "POST", "/v1/responses", body).error["param"] == "input"
    )


def test_error_names_the_param_of_the_callers_api(application: Callable[..., Application]) -> None:
    section = {"type": "gemini", "models": "*", "api_key": "k", "base_url": "http://127.0.0.1:1"}
    app = application({"up": section})
    body: dict[str, Any] = {"model": "gemini-2.5-pro", "input": "hi"}
    body["include"] = ["message.output_text.logprobs"]
    assert call(app, "POST", "/v1/responses", body).error["param"] == "include"
    tool = {"name": "f", "input_schema": {"type": "object"}}
    message = {"model": "gemini-2.5-pro", "max_tokens": 9, "tools": [tool]}
    message["messages"] = [{"role": "user", "content": "hi"}]
    message["tool_choice"] = {"type": "auto", "disable_parallel_tool_use": True}
    text = call(app, "POST", "/v1/messages", message).json()["error"]["message"]
    assert text.startswith("tool_choice.disable_parallel_tool_use: ")


#: Members that would change the answer: a value that is rejected, and one that is accepted.
REJECTED: list[tuple[str, str, Any, Any]] = [
    ("responses", "conversation", "conv_1", None),
    ("responses", "prompt", {"id": "pmpt_1"}, None),
    ("responses", "moderation", {"model": "m", "policy": {"input": {"mode": "block"}}}, None),
    ("responses", "image.context_compression", "enabled", "auto"),
    ("responses", "access_programs.cyber", "daybreak_red", "standard"),
    ("responses", "prompt_cache_options.prewarm", True, False),
    ("messages", "container", {"skills": []}, None),
    ("messages", "container", "container_1", ""),
    ("messages", "mcp_servers", [{"type": "url", "url": "https://x", "name": "n"}], []),
    ("messages", "compaction", {"type": "summarize"}, None),
    ("messages", "fallbacks", [{"model": "m"}], "default"),
    ("messages", "inference_geo", "us", "global"),
    ("messages", "billing_policy.bill_to", "user_profile", "self"),
]


@pytest.mark.parametrize(("route", "path", "rejected", "accepted"), REJECTED)
def test_rejects_members_that_would_change_the_answer(
    application: Callable[..., Application], route: str, path: str, rejected: Any, accepted: Any
) -> None:
    app = application({"echo": {"models": "m"}})
    outer, _, inner = path.partition(".")
    body: dict[str, Any] = {"model": "m", "input": "hi"}
    if route == "messages":
        body |= {"max_tokens": 9, "messages": [{"role": "user", "content": "hi"}]}
    for value, status in ((rejected, 400), (accepted, 200)):
        members = {**body, outer: {inner: value} if inner else value}
        answer = call(app, "POST", f"/v1/{route}", members)
        assert answer.status == status, answer.body
        if status == 400:  # a provider that speaks the API may support the member
            message = answer.json()["error"]["message"]
            assert path in message and "with this model" in message
    if route == "messages":  # counting tokens does not need the member
        members = {**body, outer: {inner: rejected} if inner else rejected}
        assert call(app, "POST", "/v1/messages/count_tokens", members).status == 200


def test_chat_members_of_a_response_are_forwarded(forward: Forward) -> None:
    members = {"stop": ["x"], "seed": 3, "frequency_penalty": 0.5, "presence_penalty": 0.25}
    members |= {"logit_bias": {"5": 1}, "top_k": 7, "reasoning_effort": "low"}
    members |= {"max_tokens": 9, "response_format": {"type": "json_object"}}
    members |= {"temperature": 0.5, "top_p": 0.25, "metadata": {"a": "b"}, "user": "u"}
    members |= {"safety_identifier": "s", "prompt_cache_key": "k", "prompt_cache_retention": "24h"}
    members |= {"prompt_cache_options": {"mode": "x"}, "service_tier": "flex"}
    sent = forward("responses", {"model": "m", "input": "hi", **members})
    sent["max_tokens"] = sent.pop("max_completion_tokens", None) or sent["max_tokens"]
    assert {name: sent[name] for name in members} == members


def named(name: str) -> dict[str, Any]:
    return {"type": "function", "function": {"name": name}}


INPUT = {"type": "object", "properties": {"input": {"type": "string"}}, "required": ["input"],
         "additionalProperties": False}  # fmt: skip


def test_tools_and_choices_of_a_response_are_translated(forward: Forward) -> None:
    """Custom tools and those in a namespace become functions."""
    tools = [
        {"type": "function", "name": "f"},
        {"type": "custom", "name": "p", "format": {"definition": "x"}},
        {"type": "custom", "name": "q", "description": "d", "format": {"definition": "x"}},
        {"type": "namespace", "name": "ns", "tools": [{"type": "function", "name": "g"}]},
    ]
    choices: list[tuple[Any, Any]] = [
        *((mode, mode) for mode in ("none", "auto", "required")),
        ({"type": "function", "name": "f"}, named("f")),
        ({"type": "custom", "name": "p"}, named("p")),
        ({"type": "function", "name": "g", "namespace": "ns"}, named("ns__g")),
    ]
    for choice, expected in choices:
        body = {"model": "m", "input": "hi", "tools": tools, "tool_choice": choice}
        sent = forward("responses", body)
        assert sent["tool_choice"] == expected
    grammar = "The input follows this grammar:\nx"
    assert [tool["function"] for tool in sent["tools"]] == [
        {"name": "f"},
        {"name": "p", "parameters": INPUT, "description": grammar},
        {"name": "q", "parameters": INPUT, "description": f"d\n\n{grammar}"},
        {"name": "ns__g"},
    ]


def test_tool_choices_of_a_message_are_translated(forward: Forward) -> None:
    hello = [{"role": "user", "content": "hi"}]
    body = {"model": "m", "max_tokens": 9, "messages": hello}
    body["tools"] = [{"name": "f", "input_schema": SCHEMA}]
    choices = {"auto": "auto", "any": "required", "none": "none", "tool": named("f")}
    for kind, expected in choices.items():
        sent = forward("messages", {**body, "tool_choice": {"type": kind, "name": "f"}})
        assert (sent["tool_choice"], "parallel_tool_calls" in sent) == (expected, False)
    choice = {"type": "auto", "disable_parallel_tool_use": True}
    assert forward("messages", {**body, "tool_choice": choice})["parallel_tool_calls"] is False


def test_texts_in_parts_are_joined(forward: Forward) -> None:
    """Those of a document by line ends."""
    a, b = ({"type": "input_text", "text": text} for text in "ab")
    refusal = {"type": "refusal", "refusal": "n"}
    input = [
        {"role": "developer", "content": [a, b]},
        {"role": "user", "content": [a, b]},
        {"role": "assistant", "content": [{"type": "output_text", "text": "b"}, refusal]},
        {"role": "developer", "content": "c"},
    ]
    sent = forward("responses", {"model": "m", "input": input})["messages"]
    assert [(one["role"], one["content"]) for one in sent] == [
        *(("system", "ab"), ("user", "ab"), ("assistant", "bn"), ("system", "c")),
    ]
    texts = [{"type": "text", "text": text} for text in "ab"]
    documents = [
        {"type": "document", "source": {"type": "content", "content": texts}},
        {"type": "document", "source": {"type": "url", "url": "https://x/a.pdf"}},
        {"type": "search_result", "title": "t", "source": "s", "content": texts},
    ]
    body = {"model": "m", "max_tokens": 9, "messages": [{"role": "user", "content": documents}]}
    ((joined, linked, found),) = (one["content"] for one in forward("messages", body)["messages"])
    assert joined["file"]["file_data"] == "data:text/plain;base64,YQpi"
    assert linked["file"] == {"file_data": "https://x/a.pdf", "filename": "document"}
    assert found["text"] == "t\ns\na\nb"


def test_an_empty_user_message_is_sent(forward: Forward) -> None:
    body = {"model": "m", "max_tokens": 9, "messages": [{"role": "user", "content": []}]}
    assert forward("messages", body)["messages"] == [{"role": "user", "content": ""}]


def test_tool_references_become_tool_names(forward: Forward) -> None:
    """Claude's tool search returns references; other models have all tools anyway."""
    found = {"type": "tool_reference", "tool_name": "weather"}
    use = {"type": "tool_use", "id": "t", "name": "find", "input": {}}
    result = {"type": "tool_result", "tool_use_id": "t", "content": [found]}
    body = {"model": "m", "max_tokens": 9, "messages": [
        {"role": "user", "content": "hi"},
        {"role": "assistant", "content": [use]},
        {"role": "user", "content": [result]},
    ]}  # fmt: skip
    *_, result = forward("messages", body)["messages"]
    assert result["content"] == [{"type": "text", "text": "weather"}]


@pytest.mark.parametrize("member", ["previous_response_id", "conversation", "prompt"])
def test_rejects_counting_stored_input(
    application: Callable[..., Application], member: str
) -> None:
    app = application({"echo": {"models": "m"}})
    value: Any = {"id": "pmpt_1"} if member == "prompt" else "conv_1"
    body = {"model": "m", "input": "hi", member: value}
    answer = call(app, "POST", "/v1/responses/input_tokens", body)
    assert (answer.status, answer.error["param"]) == (400, member)


def test_generated_image_is_sent_back_as_in_chat(application: Callable[..., Application]) -> None:
    """With the media type and the signature that it was received with."""
    picture = {"type": "image_url", "image_url": {"url": "data:image/jpeg;base64,AAAA"}}
    picture["extra_content"] = {"google": {"thought_signature": "s"}}
    drawn = CHUNK.replace(b'"content":"hi"', b'"images":[%b]' % json.dumps(picture).encode())
    with RawServer.playing(ANSWER.replace(CHUNK, drawn)) as upstream:
        section = {"type": "openai", "models": "*", "base_url": upstream.url, "api_key": "k"}
        app = application({"up": section})
        body: dict[str, Any] = {"model": "m", "input": [{"role": "user", "content": "draw"}]}
        made = call(app, "POST", "/v1/responses", body).json()["output"]
        assert [item["type"] for item in made] == ["image_generation_call"]
        body["input"] += [*made, {"type": "image_generation_call", "id": "ig_1", "result": None}]
        body["input"] += [{"role": "user", "content": "more"}]
        assert call(app, "POST", "/v1/responses", body).status == 200
        _, reply, _ = json.loads(upstream.requests[-1].body)["messages"]
    assert reply == {"role": "assistant", "content": "", "images": [picture]}


def test_lone_surrogate_in_arguments_is_escaped(application: Callable[..., Application]) -> None:
    function = {"name": "f", "arguments": '{"a":"\ud800"}'}
    calls = json.dumps([{"index": 0, "id": "c", "type": "function", "function": function}])
    called = CHUNK.replace(b'"content":"hi"', b'"tool_calls":' + calls.encode())
    with RawServer.playing(ANSWER.replace(CHUNK, called)) as upstream:
        section = {"type": "openai", "models": "*", "base_url": upstream.url, "api_key": "k"}
        body = {"model": "m", "max_tokens": 9, "messages": [{"role": "user", "content": "hi"}]}
        message = call(application({"up": section}), "POST", "/v1/messages", body).json()
    assert message["content"][0]["input"] == {"a": "\ud800"}


def test_long_picture_is_returned_whole(application: Callable[..., Application]) -> None:
    url = "data:image/png;base64," + "A" * 300_000
    drawn = CHUNK.replace(
        b'"content":"hi"', b'"images":[{"image_url":{"url":"%b"}}]' % url.encode()
    )
    with RawServer.playing(ANSWER.replace(CHUNK, drawn)) as upstream:
        section = {"type": "openai", "models": "*", "base_url": upstream.url, "api_key": "k"}
        app = application({"up": section})
        body: dict[str, Any] = {"model": "m", "messages": [{"role": "user", "content": "draw"}]}
        message = call(app, "POST", "/v1/chat/completions", body).json()["choices"][0]["message"]
        assert message["images"][0]["image_url"]["url"] == url
        body = {"model": "m", "input": "draw"}
        (item,) = call(app, "POST", "/v1/responses", body).json()["output"]
        events = call(app, "POST", "/v1/responses", {**body, "stream": True}).body
    assert "data:image/png;base64," + item["result"] == url
    assert events.count(item["result"].encode()) == 2  # of the item and of the response


@pytest.mark.parametrize(
    ("route", "member", "item"),
    [
        ("responses", "input", {"type": "reasoning", "id": "rs_1", "summary": []}),
        ("responses", "input", {"role": "assistant", "content": []}),
        ("messages", "messages", {"role": "assistant",
                                  "content": [{"type": "redacted_thinking", "data": "d"}]}),
    ],
)  # fmt: skip
def test_empty_assistant_content_is_not_sent_as_null(
    forward: Forward, route: str, member: str, item: Any
) -> None:
    """Chat accepts null only beside tool calls."""
    hello = {"role": "user", "content": "hi"}
    body = {"model": "m", "max_tokens": 9, member: [hello, item, hello]}
    messages = forward(route, body, "groq")["messages"]
    assert [message["content"] for message in messages] == ["hi", "", "hi"]
