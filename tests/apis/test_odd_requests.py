"""Requests of every API with one member that is missing, malformed or of the wrong type."""

from __future__ import annotations

import copy
import json
import logging
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from nightly import NIGHTLY
from wsgi_calls import call

from choreo_wsgi import apis
from choreo_wsgi.app.application import Application
from choreo_wsgi.errors import InvalidRequest

PICTURE = {"type": "base64", "media_type": "image/png", "data": "AAAA"}
URL = "data:image/png;base64,AAAA"
SCHEMA = {"type": "object", "properties": {}}
RESPONSE: dict[str, Any] = {
    "model": "echo",
    "instructions": "x",
    "input": [
        {"role": "user", "content": [
            {"type": "input_text", "text": "x"},
            {"type": "input_image", "image_url": URL, "detail": "low"},
            {"type": "input_file", "file_data": URL, "filename": "a"},
            {"type": "input_audio", "input_audio": {"data": "AAAA", "format": "wav"}},
            {"type": "text", "text": "y"},
        ]},
        {"type": "reasoning", "id": "rs", "summary": [{"type": "summary_text", "text": "x"}],
         "content": [{"type": "reasoning_text", "text": "y"}],
         "encrypted_content": "choreo.W3t9XQ=="},
        {"type": "message", "role": "assistant", "content": [
            {"type": "output_text", "text": "b", "annotations": []},
            {"type": "refusal", "refusal": "n"},
        ]},
        {"type": "function_call", "call_id": "1", "name": "f", "arguments": "{}",
         "namespace": "ns", "extra_content": {"google": {}}},
        {"type": "custom_tool_call", "call_id": "2", "name": "p", "input": "x"},
        {"type": "function_call_output", "call_id": "1", "output": [
            {"type": "input_text", "text": "x"}, {"type": "input_image", "image_url": URL},
        ]},
        {"type": "custom_tool_call_output", "call_id": "2", "output": "y"},
        {"type": "tool_search_call", "call_id": "3", "arguments": {"q": "x"}},
        {"type": "tool_search_output", "call_id": "3", "execution": "client", "tools": [
            {"type": "namespace", "name": "ns", "description": "d",
             "tools": [{"type": "function", "name": "g", "parameters": SCHEMA}]},
        ]},
        {"role": "developer", "content": "z"},
    ],
    "tools": [
        {"type": "tool_search", "execution": "client", "description": "d", "parameters": SCHEMA},
        {"type": "function", "name": "f", "description": "d", "parameters": SCHEMA, "strict": True},
        {"type": "custom", "name": "p", "format": {"type": "grammar", "definition": "x"}},
        {"type": "namespace", "name": "ns", "description": "d",
         "tools": [{"type": "function", "name": "f", "parameters": SCHEMA}]},
    ],
    "tool_choice": {"type": "allowed_tools", "mode": "auto",
                    "tools": [{"type": "function", "name": "f"}]},
    "text": {"format": {"type": "json_schema", "name": "x", "schema": SCHEMA}, "verbosity": "low"},
    "reasoning": {"effort": "low", "summary": "auto"},
    "metadata": {"a": "b"}, "include": ["reasoning.encrypted_content"], "temperature": 1,
    "max_output_tokens": 100, "stream_options": {"include_obfuscation": False},
    "truncation": "auto", "service_tier": "auto", "parallel_tool_calls": True,
    "conversation": None, "prompt": None, "stop": ["x"], "seed": 3, "frequency_penalty": 0,
    "presence_penalty": 0, "logit_bias": {"5": 1}, "top_k": 3, "max_tokens": 100,
    "reasoning_effort": "low",
    "response_format": {"type": "json_schema", "json_schema": {"name": "x", "schema": SCHEMA}},
}  # fmt: skip
MESSAGE: dict[str, Any] = {
    "model": "echo",
    "max_tokens": 2000,
    "system": [{"type": "text", "text": "s", "cache_control": {"type": "ephemeral"}}],
    "messages": [
        {"role": "user", "content": [
            {"type": "text", "text": "x", "cache_control": {"type": "ephemeral"}},
            {"type": "image", "source": PICTURE},
            {"type": "image", "source": {"type": "url", "url": "https://x"}},
            {"type": "document", "source": PICTURE, "title": "t", "context": "c"},
            {"type": "document", "source": {"type": "text", "data": "AAAA"}},
            {"type": "document",
             "source": {"type": "content", "content": [{"type": "text", "text": "x"}]}},
            {"type": "search_result", "title": "t", "source": "https://x",
             "content": [{"type": "text", "text": "x"}]},
        ]},
        {"role": "assistant", "content": [
            {"type": "thinking", "thinking": "t", "signature": "s"},
            {"type": "redacted_thinking", "data": "d"},
            {"type": "text", "text": "x"},
            {"type": "tool_use", "id": "1", "name": "f", "input": {"a": 1}},
        ]},
        {"role": "user", "content": [
            {"type": "tool_result", "tool_use_id": "1", "is_error": True, "content": [
                {"type": "text", "text": "x"}, {"type": "image", "source": PICTURE},
            ]},
            {"type": "text", "text": "go"},
        ]},
        {"role": "system", "content": "now"},
        {"role": "user", "content": "y"},
    ],
    "tools": [
        {"name": "f", "description": "d", "input_schema": SCHEMA, "strict": True},
        {"type": "custom", "name": "g", "input_schema": SCHEMA},
    ],
    "tool_choice": {"type": "tool", "name": "f", "disable_parallel_tool_use": True},
    "thinking": {"type": "enabled", "budget_tokens": 1024},
    "output_config": {"effort": "low", "format": {"type": "json_schema", "schema": SCHEMA}},
    "output_format": {"type": "json_schema", "schema": SCHEMA},
    "metadata": {"user_id": "u"}, "stop_sequences": ["x"], "temperature": 1, "top_k": 3,
    "speed": "fast", "context_management": {"edits": []}, "mcp_servers": [],
}  # fmt: skip
COMPLETION = {"model": "up", "prompt": ["a", "b"], "max_tokens": 5, "n": 2, "best_of": 2,
              "echo": True, "logprobs": 2, "suffix": "x", "stop": ["a"], "logit_bias": {"5": 1},
              "stream_options": {"include_usage": True}}  # fmt: skip
EMBEDDING = {"model": "up", "input": ["a", "b"], "dimensions": 3, "encoding_format": "float"}
ODD: list[Any] = [None, True, 0, -1, 1.5, "", "x", [], {}, [None], [5], ["x"], [[]], [{}],
                  {"type": ""}, {"type": "x"}, {"type": 5}, [{"type": ""}], "\0",
                  10**300]  # fmt: skip
MISSING = object()


def paths(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Yield the path of each member in *value*, at any depth."""
    if path:
        yield path
    steps: Any = list(value) if isinstance(value, dict) else []
    steps = range(len(value)) if isinstance(value, list) else steps
    for step in steps:
        yield from paths(value[step], (*path, step))


def changed(value: Any, path: tuple[Any, ...], new: Any) -> Any:
    """Return a copy of *value* with *new* at *path*, or without that member if MISSING."""
    value = inner = copy.deepcopy(value)
    for step in path[:-1]:
        inner = inner[step]
    if new is MISSING:
        inner.pop(path[-1])
    else:
        inner[path[-1]] = new
    return value


@pytest.mark.parametrize(
    ("route", "body"),
    [("responses", RESPONSE), ("responses/input_tokens", RESPONSE),
     ("messages", MESSAGE), ("messages/count_tokens", MESSAGE),
     ("completions", COMPLETION), ("embeddings", EMBEDDING)],
)  # fmt: skip
def test_malformed_member_never_causes_a_500(
    application: Callable[..., Application], route: str, body: Any, caplog: Any
) -> None:
    """A 400 has the API's own error object, and names the parameter."""
    closed = {"type": "openai", "models": "up", "base_url": "http://127.0.0.1:1", "api_key": "k"}
    app = application({"echo": {"models": "echo"}, "up": closed})
    caplog.set_level(logging.CRITICAL)  # nothing listens at that port
    changes = [(path, new) for path in paths(body) for new in (*ODD, MISSING) if path != ("model",)]
    for path, new in changes[:: 1 if NIGHTLY else 3]:
        answer = call(app, "POST", f"/v1/{route}", changed(body, path, new))
        assert answer.status in (200, 400, 503), (path, new, answer.body)
        if answer.status == 400 and route.startswith("messages"):
            document = answer.json()
            assert document["type"] == "error"
            assert document["error"]["type"] == "invalid_request_error"
        elif answer.status == 400:
            assert answer.error["param"], (path, new, answer.body)


TOOL = {"type": "function", "name": "f"}
CUSTOM = {"type": "custom", "custom": {"name": "p"}}
TOOL_USE = {"type": "tool_use", "id": "1", "name": "f", "input": {}}
THINKING = {"type": "thinking", "thinking": "t", "signature": "s"}
RESULT = {"type": "tool_result", "tool_use_id": "1", "content": "x"}


@pytest.mark.parametrize(
    ("route", "members", "param"),
    [
        ("responses", {"tool_choice": {"type": "allowed_tools", "tools": []}}, "tool_choice.mode"),
        ("responses", {"tools": [TOOL], "tool_choice": {
            "type": "allowed_tools", "mode": "auto", "tools": [TOOL] * 2_049}},
         "tool_choice.tools"),
        ("responses", {"tools": [{"type": "namespace", "name": "n", "tools": [TOOL] * 2_049}]},
         "tools"),
        ("chat/completions", {"tools": [CUSTOM], "tool_choice": {"type": "custom", "custom": {}}},
         "tool_choice.custom.name"),
        ("chat/completions", {"tools": [CUSTOM], "tool_choice": {"type": "custom"}},
         "tool_choice.custom"),
        ("messages", {"messages": [{"role": "user", "content": [TOOL_USE]}]}, None),
        ("messages", {"messages": [{"role": "user", "content": [THINKING]}]}, None),
        ("messages", {"messages": [{"role": "user", "content": "x"},
                                   {"role": "assistant", "content": [RESULT]}]}, None),
    ],
)  # fmt: skip
def test_rejects_blocks_of_another_role_and_nameless_choices(
    application: Callable[..., Application], route: str, members: Any, param: str | None
) -> None:
    """Users send no tool calls, assistants no results; a choice names one tool, or up to 2,048."""
    app = application({"echo": {"models": "echo"}})
    body: dict[str, Any] = {"model": "echo", "input": "hi"}
    if route != "responses":
        body = {"model": "echo", "messages": [{"role": "user", "content": "hi"}], "max_tokens": 9}
    answer = call(app, "POST", f"/v1/{route}", {**body, **members})
    assert answer.status == 400, answer.body
    if param is not None:
        assert answer.error["param"] == param


FILE = {"type": "url", "url": "file:///etc/passwd"}


@pytest.mark.parametrize(
    "part",
    [
        {"type": "input_image", "image_url": FILE["url"]},
        {"type": "input_file", "file_url": FILE["url"]},
        {"type": "input_file", "file_data": FILE["url"]},
        {"type": "image", "source": FILE},
        {"type": "document", "source": FILE},
    ],
)
def test_rejects_file_urls(application: Callable[..., Application], part: dict[str, Any]) -> None:
    app = application({"echo": {"models": "echo"}})
    route, field = ("messages", "messages") if "source" in part else ("responses", "input")
    body = {"model": "echo", "max_tokens": 9, field: [{"role": "user", "content": [part]}]}
    answer = call(app, "POST", f"/v1/{route}", body)
    assert answer.status == 400 and b"must not be a file: URL" in answer.body


def test_error_shortens_the_id_of_an_item(application: Callable[..., Application]) -> None:
    app = application({"echo": {"models": "echo"}})
    body = {"model": "echo", "input": [{"type": "item_reference", "id": "x" * 5000}]}
    error = call(app, "POST", "/v1/responses", body).error
    assert error["param"] == "input[0].id" and len(error["message"]) < 300


def alone(one: Any) -> Any:
    return one


def listed(one: Any) -> Any:
    return [one]


def in_user(one: Any) -> Any:
    return [{"role": "user", "content": [one]}]


def in_reply(one: Any) -> Any:
    return [{"role": "assistant", "content": [one]}]


def flawed(
    member: str, sound: dict[str, Any], optional: str = "", wrap: Callable[[Any], Any] = listed
) -> Iterator[tuple[str, Any, bool]]:
    """Yield *member* and its value, and whether it is sound: first *sound*, then with one flaw.

    5 is no value of any member here; all but the *optional* ones are also left out.
    """
    yield member, wrap(sound), True
    for name in sound:
        yield member, wrap({**sound, name: 5}), False
        if name not in optional.split():
            yield member, wrap({one: sound[one] for one in sound if one != name}), False


def wrong(values: dict[str, Any]) -> Iterator[tuple[str, Any, bool]]:
    """Yield each of the *values* of the members that a key names, as wrong ones."""
    for names, value in values.items():
        yield from ((name, value, False) for name in names.split())


CALL = {"call_id": "1", "name": "f"}
FORMAT = {"type": "json_schema", "name": "x", "schema": {}, "description": "", "strict": True}
FUNCTION = {"name": "f", "description": "", "strict": True}
SCHEMED = {"type": "json_schema", "schema": {}}
ONE_RESULT = {"type": "tool_result", "tool_use_id": "1", "content": "", "is_error": True}
FLAWED: dict[str, list[tuple[str, Any, bool]]] = {
    "responses": [
        *wrong({
            "model stream background store parallel_tool_calls response_format text reasoning": 5,
            "stream_options include instructions previous_response_id user safety_identifier": 5,
            "prompt_cache_key prompt_cache_retention service_tier reasoning_effort stop": 5,
            "metadata truncation tools tool_choice logit_bias": 5, "model": None, "top_p": 2,
            "max_tool_calls max_tokens max_output_tokens top_logprobs": -1, "truncation": "x",
        }),
        *wrong({"include": [5], "metadata": {"a": 5}, "text": {"format": {"type": "x"}}}),
        ("text", {"format": {"type": "json_object"}}, True),
        ("text", {"format": {"type": "text"}}, True),
        *flawed("stream_options", {"include_obfuscation": True}, "include_obfuscation", alone),
        *flawed("text", {"verbosity": "low"}, "verbosity", alone),
        *flawed("text", FORMAT, "description strict", lambda one: {"format": one}),
        *flawed("reasoning", {"effort": "", "summary": "auto", "generate_summary": "auto"},
                "effort summary generate_summary", alone),
        *flawed("tools", {"type": "function", **FUNCTION, "parameters": {}},
                "description strict parameters"),
        *flawed("tools", {"type": "custom", "name": "f", "description": "", "format": {}},
                "description format"),
        *flawed("tools", {"definition": ""}, "definition",
                lambda one: [{"type": "custom", "name": "f", "format": one}]),
        *flawed("tools", {"type": "namespace", "name": "n", "tools": [], "description": ""},
                "description"),
        *flawed("tools", {"type": "tool_search", "description": "", "parameters": {}},
                "description parameters"),
        *flawed("tools", {"type": "function", "name": "f"}, "",
                lambda one: [{"type": "namespace", "name": "n", "tools": [one]}]),
        *flawed("tool_choice", {"type": "function", "name": "f"}, "", alone),
        *flawed("tool_choice", {"type": "custom", "name": "f"}, "", alone),
        *flawed("tool_choice", {"type": "allowed_tools", "mode": "auto", "tools": []}, "", alone),
        *flawed("tool_choice", {"type": "function", "name": "f"}, "",
                lambda one: {"type": "allowed_tools", "mode": "auto", "tools": [one]}),
        *(case for kind in ("input_text", "output_text", "text")
          for case in flawed("input", {"type": kind, "text": ""}, "", in_user)),
        *flawed("input", {"type": "refusal", "refusal": ""}, "", in_user),
        *flawed("input", {"type": "input_image", "image_url": "x", "detail": "", "file_id": ""},
                "image_url detail file_id", in_user),
        *flawed("input", {"type": "input_file", "file_data": "x", "file_url": "x", "file_id": "",
                          "filename": ""}, "file_data file_url file_id filename", in_user),
        *flawed("input", {"type": "input_audio", "input_audio": {"data": "", "format": ""}}, "",
                in_user),
        *flawed("input", {"type": "message", "role": "user", "content": ""}, "type"),
        *flawed("input", {"type": "item_reference", "id": "x"}, "type"),
        *flawed("input", {"type": "function_call", **CALL, "arguments": "", "extra_content": {}},
                "extra_content"),
        *flawed("input", {"type": "custom_tool_call", **CALL, "input": ""}),
        *flawed("input", {"type": "function_call_output", "call_id": "1", "output": ""}, "call_id"),
        *flawed("input", {"type": "custom_tool_call_output", "call_id": "1", "output": ""}),
        *flawed("input", {"type": "custom_tool_call_output", "call_id": "1", "output": ""}),
        *flawed("input", {"type": "tool_search_call", "call_id": "1", "arguments": {}}, "call_id"),
        *flawed("input", {"type": "tool_search_output", "call_id": "1", "tools": []}, "call_id"),
        *flawed("input", {"type": "additional_tools", "tools": []}, "type"),
        *flawed("input", {"type": "function", "name": "f"}, "",
                lambda one: [{"type": "tool_search_output", "tools": [one]}]),
        *flawed("input", {"type": "reasoning", "summary": [], "content": [],
                          "encrypted_content": ""}, "summary content encrypted_content"),
        *flawed("input", {"text": ""}, "", lambda one: [{"type": "reasoning", "summary": [one]}]),
        *flawed("input", {"text": ""}, "", lambda one: [{"type": "reasoning", "content": [one]}]),
        *flawed("input", {"type": "image_generation_call", "result": "", "output_format": "",
                          "extra_content": {}}, "result output_format extra_content"),
    ],
    "messages": [
        *wrong({
            "model stream stop_sequences metadata tools tool_choice thinking system": 5,
            "output_config output_format": 5, "top_k max_tokens": -1, "temperature top_p": 1.5,
            "model max_tokens messages": None, "stop_sequences": [5],
        }),
        *flawed("metadata", {"user_id": ""}, "user_id", alone),
        *flawed("system", {"type": "text", "text": ""}),
        *flawed("output_format", SCHEMED, "", alone),
        *flawed("output_config", {"effort": "", "format": SCHEMED}, "effort format", alone),
        *wrong({"thinking": {"type": "disabled", "budget_tokens": -1}}),
        *flawed("thinking", {"type": "disabled"}, "", alone),
        *flawed("tool_choice", {"type": "auto", "name": "", "disable_parallel_tool_use": True},
                "name disable_parallel_tool_use", alone),
        *flawed("tools", {**FUNCTION, "input_schema": {}}, "description strict"),
        *flawed("messages", {"role": "user", "content": ""}),
        *flawed("messages", {"type": "text", "text": ""}, "", in_user),
        *(case for kind in ("image", "document") for case in flawed("messages", {
            "type": kind, "source": PICTURE, "title": "", "context": ""}, "title context",
            in_user)),
        *(case for source in (PICTURE, {"type": "url", "url": "x"}, {"type": "text", "data": ""},
                              {"type": "content", "content": ""})
          for case in flawed("messages", source, "", lambda one: in_user(
              {"type": "document", "source": one}))),
        *flawed("messages", {"type": "text", "text": ""}, "", lambda one: in_user(
            {"type": "document", "source": {"type": "content", "content": [one]}})),
        *flawed("messages", {"type": "search_result", "title": "", "source": "", "content": []},
                "", in_user),
        *flawed("messages", {"text": ""}, "", lambda one: in_user(
            {"type": "search_result", "title": "", "source": "", "content": [one]})),
        *flawed("messages", {"type": "tool_reference", "tool_name": ""}, "", in_user),
        *flawed("messages", {"type": "tool_use", "id": "1", "name": "f", "input": {},
                             "extra_content": {}}, "extra_content", in_reply),
        *flawed("messages", {"type": "thinking", "thinking": "", "signature": ""}, "signature",
                in_reply),
        *flawed("messages", {"type": "redacted_thinking", "data": ""}, "", in_reply),
        *flawed("messages", ONE_RESULT, "content is_error", in_user),
        *flawed("messages", {"type": "text", "text": ""}, "", lambda one: in_user(
            {**ONE_RESULT, "content": [one]})),
    ],
    "count_tokens": [("max_tokens", None, True), *wrong({"max_tokens": -1})],
    "completions": [
        *wrong({
            "model stream echo suffix stop logit_bias prompt stream_options": 5, "n": 129,
            "seed": "x", "model prompt": None, "best_of logprobs max_tokens": -1,
            "temperature presence_penalty frequency_penalty": 3,
        }),
        *flawed("stream_options", {"include_usage": True}, "include_usage", alone),
    ],
    "embeddings": [*wrong({"model input user encoding_format": 5, "model input": None,
                           "dimensions": 0})],
}  # fmt: skip


@pytest.mark.parametrize("api", FLAWED)
def test_request_with_one_flaw_is_rejected_by_its_member(api: str) -> None:
    hello = [{"role": "user", "content": "hi"}]
    base = {"model": "m", "max_tokens": 9, "prompt": "x", "input": "x", "messages": hello}
    for name, value, is_sound in FLAWED[api]:
        try:
            apis.load(api).read(json.dumps({**base, name: value}).encode())
            assert is_sound, (name, value)
        except InvalidRequest as error:
            assert not is_sound and str(error.param).startswith(name), (name, value, error.message)
