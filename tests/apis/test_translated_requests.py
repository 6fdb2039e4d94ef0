"""What an OpenAI-compatible upstream is sent for a request of another API."""

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
#: What only Anthropic has; OpenAI answers 400 to members that it does not know.
HINTS = ("cache_control", "thinking", "thinking_blocks", "reasoning_content", "is_error")


def sent(application: Callable[..., Application], kind: str, model: str) -> Any:
    """Return what an upstream of the type *kind* gets for a message to *model*."""
    with RawServer.playing(ANSWER) as upstream:
        section = {"type": kind, "models": "*", "base_url": upstream.url, "api_key": "k"}
        message = {**MESSAGE, "model": model, "output_config": {}}
        answer = call(application({"up": section}), "POST", "/v1/messages", message)
        assert answer.status == 200, answer.body
        return json.loads(upstream.requests[-1].body)


@pytest.mark.parametrize("kind", ["azure", "groq", "mistral"])
def test_strict_servers_get_no_hints(application: Callable[..., Application], kind: str) -> None:
    body = sent(application, kind, "m")
    assert [name for name in HINTS if f'"{name}"' in json.dumps(body)] == []
    assert "reasoning_effort" not in body
    roles = [message["role"] for message in body["messages"]]
    assert roles == ["system", "user", "assistant", "tool", "user", "system", "user"]
    limit = "max_tokens" if kind == "mistral" else "max_completion_tokens"
    assert body[limit] == 2000


def test_thinking_is_an_effort_where_models_have_one(
    application: Callable[..., Application],
) -> None:
    assert sent(application, "azure", "gpt-5.1")["reasoning_effort"] == "low"


def test_servers_of_ones_own_get_them(application: Callable[..., Application]) -> None:
    """vLLM passes over what it does not know; gateways know these."""
    body = json.dumps(sent(application, "openai", "m"))
    assert all(f'"{name}"' in body for name in HINTS)
    assert '{"type": "redacted_thinking", "data": "d"}' in body


def test_a_file_without_a_name_gets_one(application: Callable[..., Application]) -> None:
    """OpenAI's chat completions want one."""
    data = "data:application/pdf;base64,JVBERi0="
    part = {"type": "input_file", "file_data": data}
    asked = {"model": "m", "input": [{"role": "user", "content": [part]}]}
    with RawServer.playing(ANSWER) as upstream:
        section = {"type": "openai", "models": "*", "base_url": upstream.url, "api_key": "k"}
        answer = call(application({"up": section}), "POST", "/v1/responses", asked)
        assert answer.status == 200, answer.body
        (message,) = json.loads(upstream.requests[-1].body)["messages"]
    assert message["content"] == [{"type": "file", "file": {"file_data": data, "filename": "file"}}]


def test_a_response_that_fails_names_the_parameter(
    application: Callable[..., Application],
) -> None:
    error = b'data: {"error":{"message":"why","code":400,"param":"input[0]"}}\n\n'
    begun = CHUNK.replace(b'"stop"', b"null")
    with RawServer.playing(ANSWER.replace(CHUNK, begun) + error) as upstream:
        section = {"type": "openai", "models": "*", "base_url": upstream.url, "api_key": "k"}
        asked = {"model": "m", "input": "hi", "stream": True}
        body = call(application({"up": section}), "POST", "/v1/responses", asked).body
    last = json.loads(body.rpartition(b"data: ")[2])
    assert last["type"] == "response.failed"
    assert (last["response"]["error"]["message"], last["response"]["error"]["param"]) == (
        "why",
        "input[0]",
    )


def test_calls_in_parallel_are_left_out_without_tools(
    application: Callable[..., Application],
) -> None:
    """OpenAI's chat takes the member beside tools alone."""
    asked = {"model": "m", "input": "hi", "parallel_tool_calls": False, "tool_choice": "auto"}
    with RawServer.playing(ANSWER) as upstream:
        section = {"type": "openai", "models": "*", "base_url": upstream.url, "api_key": "k"}
        answer = call(application({"up": section}), "POST", "/v1/responses", asked)
        assert answer.json()["parallel_tool_calls"] is False
        sent = json.loads(upstream.requests[-1].body)
    assert sent.keys().isdisjoint(("parallel_tool_calls", "tool_choice", "tools"))


def test_a_path_in_the_chat_is_no_path_in_the_message(
    application: Callable[..., Application],
) -> None:
    section = {"type": "bedrock", "models": "*", "api_key": "k", "region": "us-east-1"}
    block = {"type": "image", "source": {"type": "url", "url": "https://site.example/a.png"}}
    asked = {"model": "amazon.nova-pro-v1:0", "max_tokens": 9, "system": "s"}
    asked["messages"] = [{"role": "user", "content": [block]}]
    answer = call(application({"up": section}), "POST", "/v1/messages", asked)
    assert answer.status == 400
    assert answer.json()["error"]["message"].startswith("messages: bedrock ")


def test_a_refusal_names_the_parameter_of_the_callers_api(
    application: Callable[..., Application],
) -> None:
    """What Gemini cannot do is told by the name that the caller has for it."""
    section = {"type": "gemini", "models": "*", "api_key": "k", "base_url": "http://127.0.0.1:1"}
    app = application({"up": section})
    asked: dict[str, Any] = {"model": "gemini-2.5-pro", "input": "hi"}
    asked["include"] = ["message.output_text.logprobs"]
    assert call(app, "POST", "/v1/responses", asked).error["param"] == "include"
    tool = {"name": "f", "input_schema": {"type": "object"}}
    message = {"model": "gemini-2.5-pro", "max_tokens": 9, "tools": [tool]}
    message["messages"] = [{"role": "user", "content": "hi"}]
    message["tool_choice"] = {"type": "auto", "disable_parallel_tool_use": True}
    told = call(app, "POST", "/v1/messages", message).json()["error"]["message"]
    assert told.startswith("tool_choice.disable_parallel_tool_use: ")


#: What would change the answer, and what may come of the same member without a refusal.
REFUSED: list[tuple[str, str, Any, Any]] = [
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


@pytest.mark.parametrize(("route", "path", "refused", "taken"), REFUSED)
def test_what_would_change_the_answer_is_not_dropped(
    application: Callable[..., Application], route: str, path: str, refused: Any, taken: Any
) -> None:
    app = application({"echo": {"models": "m"}})
    outer, _, inner = path.partition(".")
    asked: dict[str, Any] = {"model": "m", "input": "hi"}
    if route == "messages":
        asked |= {"max_tokens": 9, "messages": [{"role": "user", "content": "hi"}]}
    for value, status in ((refused, 400), (taken, 200)):
        members = {**asked, outer: {inner: value} if inner else value}
        answer = call(app, "POST", f"/v1/{route}", members)
        assert answer.status == status, answer.body
        assert status == 200 or path in answer.json()["error"]["message"]
    if route == "messages":  # a count of tokens has no need of it
        members = {**asked, outer: {inner: refused} if inner else refused}
        assert call(app, "POST", "/v1/messages/count_tokens", members).status == 200


def test_what_only_chat_has_is_sent(
    application: Callable[..., Application],
) -> None:
    members = {"stop": ["x"], "seed": 3, "frequency_penalty": 0.5, "presence_penalty": 0.25}
    members |= {"logit_bias": {"5": 1}, "top_k": 7, "reasoning_effort": "low"}
    members |= {"max_tokens": 9, "response_format": {"type": "json_object"}}
    with RawServer.playing(ANSWER) as upstream:
        section = {"type": "openai", "models": "*", "base_url": upstream.url, "api_key": "k"}
        app = application({"up": section})
        asked = {"model": "m", "input": "hi", **members}
        assert call(app, "POST", "/v1/responses", asked).status == 200
        body = json.loads(upstream.requests[-1].body)
    body["max_tokens"] = body.pop("max_completion_tokens", None) or body["max_tokens"]
    assert {name: body[name] for name in members} == members


def test_tools_that_were_found_are_named(application: Callable[..., Application]) -> None:
    """Claude's search for tools answers with references; others have all tools anyway."""
    found = {"type": "tool_reference", "tool_name": "weather"}
    use = {"type": "tool_use", "id": "t", "name": "find", "input": {}}
    result = {"type": "tool_result", "tool_use_id": "t", "content": [found]}
    with RawServer.playing(ANSWER) as upstream:
        section = {"type": "openai", "models": "*", "base_url": upstream.url, "api_key": "k"}
        asked = {"model": "m", "max_tokens": 9, "messages": [
            {"role": "user", "content": "hi"},
            {"role": "assistant", "content": [use]},
            {"role": "user", "content": [result]},
        ]}  # fmt: skip
        assert call(application({"up": section}), "POST", "/v1/messages", asked).status == 200
        *_, said = json.loads(upstream.requests[-1].body)["messages"]
    assert said["content"] == [{"type": "text", "text": "weather"}]


@pytest.mark.parametrize("member", ["previous_response_id", "conversation", "prompt"])
def test_what_is_kept_elsewhere_is_not_counted(
    application: Callable[..., Application], member: str
) -> None:
    app = application({"echo": {"models": "m"}})
    value: Any = {"id": "pmpt_1"} if member == "prompt" else "conv_1"
    asked = {"model": "m", "input": "hi", member: value}
    answer = call(app, "POST", "/v1/responses/input_tokens", asked)
    assert (answer.status, answer.error["param"]) == (400, member)


def test_a_picture_that_was_drawn_is_given_back(application: Callable[..., Application]) -> None:
    """As chat has it, with the type and the signature that it came with."""
    picture = {"type": "image_url", "image_url": {"url": "data:image/jpeg;base64,AAAA"}}
    picture["extra_content"] = {"google": {"thought_signature": "s"}}
    drawn = CHUNK.replace(b'"content":"hi"', b'"images":[%b]' % json.dumps(picture).encode())
    with RawServer.playing(ANSWER.replace(CHUNK, drawn)) as upstream:
        section = {"type": "openai", "models": "*", "base_url": upstream.url, "api_key": "k"}
        app = application({"up": section})
        asked: dict[str, Any] = {"model": "m", "input": [{"role": "user", "content": "draw"}]}
        made = call(app, "POST", "/v1/responses", asked).json()["output"]
        assert [item["type"] for item in made] == ["image_generation_call"]
        asked["input"] += [*made, {"type": "image_generation_call", "id": "ig_1", "result": None}]
        asked["input"] += [{"role": "user", "content": "more"}]
        assert call(app, "POST", "/v1/responses", asked).status == 200
        _, said, _ = json.loads(upstream.requests[-1].body)["messages"]
    assert said == {"role": "assistant", "content": "", "images": [picture]}


@pytest.mark.parametrize(
    ("route", "member", "given"),
    [
        ("responses", "input", {"type": "reasoning", "id": "rs_1", "summary": []}),
        ("responses", "input", {"role": "assistant", "content": []}),
        ("messages", "messages", {"role": "assistant",
                                  "content": [{"type": "redacted_thinking", "data": "d"}]}),
    ],
)  # fmt: skip
def test_who_said_nothing_is_not_sent_as_null(
    application: Callable[..., Application], route: str, member: str, given: Any
) -> None:
    """Chat takes null beside calls alone."""
    hello = {"role": "user", "content": "hi"}
    with RawServer.playing(ANSWER) as upstream:
        section = {"type": "groq", "models": "*", "base_url": upstream.url, "api_key": "k"}
        asked = {"model": "m", "max_tokens": 9, member: [hello, given, hello]}
        assert call(application({"up": section}), "POST", f"/v1/{route}", asked).status == 200
        messages = json.loads(upstream.requests[-1].body)["messages"]
    assert [message["content"] for message in messages] == ["hi", "", "hi"]
