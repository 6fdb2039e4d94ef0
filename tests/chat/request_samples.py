"""Sample chat requests: valid ones to modify, invalid ones, and bodies that are not JSON."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from typing import Any

Json = Any

#: The smallest valid request.
MINIMAL: dict[str, Json] = {"model": "echo", "messages": [{"role": "user", "content": "Hello"}]}

#: ``file:`` URLs in spellings that URL parsers accept.
FILE_URLS = (
    *("file:///etc/passwd", "FILE:///C:/x", " \t\nfile:x", "fi\tle:x", "f\r\nile\n:x"),
    " " * 1000 + "file:x",
)

_FUNCTION = {
    "name": "name",
    "description": "description",
    "parameters": {"foo": "bar"},
    "strict": True,
}

#: Every field of the schema at once; the first part as the OpenAI SDKs' own tests send it.
EVERY_FIELD: dict[str, Json] = {
    "model": "echo",
    "audio": {"format": "wav", "voice": "alloy"},
    "frequency_penalty": -2,
    "function_call": "none",
    "functions": [{"name": "name", "description": "d", "parameters": {"foo": "bar"}}],
    "logit_bias": {"foo": 0},
    "logprobs": True,
    "max_completion_tokens": 0,
    "max_tokens": 0,
    "metadata": {"foo": "string"},
    "modalities": ["text", "audio"],
    "n": 1,
    "parallel_tool_calls": True,
    "prediction": {"content": "string", "type": "content"},
    "presence_penalty": -2,
    "prompt_cache_key": "prompt-cache-key-1234",
    "prompt_cache_options": {"mode": "explicit", "ttl": "30m"},
    "prompt_cache_retention": "in_memory",
    "reasoning_effort": "none",
    "response_format": {"type": "text"},
    "safety_identifier": "safety-identifier-1234",
    "seed": -9007199254740991,
    "service_tier": "auto",
    "stop": "\n",
    "store": True,
    "stream": False,
    "stream_options": {"include_obfuscation": True, "include_usage": True},
    "temperature": 1,
    "tool_choice": "none",
    "tools": [{"type": "function", "function": _FUNCTION}],
    "top_logprobs": 0,
    "top_p": 1,
    "user": "user-1234",
    "verbosity": "low",
    "web_search_options": {
        "search_context_size": "low",
        "user_location": {
            "approximate": {"city": "c", "country": "c", "region": "r", "timezone": "t"},
            "type": "approximate",
        },
    },
    "moderation": {"model": "m", "policy": {"input": {"mode": "score"}, "output": None}},
    "messages": [
        {"role": "developer", "content": "string", "name": "name"},
        {"role": "system", "content": [{"type": "text", "text": "string"}]},
        {
            "role": "user",
            "name": "name",
            "content": [
                {
                    "type": "text",
                    "text": "string",
                    "prompt_cache_breakpoint": {"mode": "explicit"},
                },
                {"type": "image_url", "image_url": {"url": "https://x.test/", "detail": "high"}},
                {"type": "image_url", "image_url": {"url": "data:image/png;base64,AA=="}},
                {"type": "input_audio", "input_audio": {"data": "AA==", "format": "wav"}},
                {"type": "file", "file": {"file_id": "id", "filename": "f", "file_data": "AA=="}},
            ],
        },
        {
            "role": "assistant",
            "name": "name",
            "content": [{"type": "text", "text": "a"}, {"type": "refusal", "refusal": "b"}],
            "refusal": None,
            "audio": {"id": "id"},
        },
        {
            "role": "assistant",
            "content": None,
            "tool_calls": [
                {"id": "1", "type": "function", "function": {"name": "n", "arguments": "{"}},
                {"id": "2", "type": "custom", "custom": {"name": "n", "input": "x"}},
            ],
        },
        {"role": "assistant", "function_call": {"name": "n", "arguments": "{}"}},
        {"role": "assistant", "content": ""},
        {"role": "tool", "tool_call_id": "1", "content": "string"},
        {"role": "tool", "tool_call_id": "2", "content": [{"type": "text", "text": "x"}]},
        {"role": "function", "name": "n", "content": None},
        {"role": "user", "content": "string"},
    ],
}


def with_fields(**fields: Json) -> dict[str, Json]:
    """Return the minimal request with *fields* added or replaced."""
    return {**copy.deepcopy(MINIMAL), **fields}


def with_message(**members: Json) -> dict[str, Json]:
    """Return a request whose second message has the fields *members*."""
    return with_fields(messages=[*copy.deepcopy(MINIMAL["messages"]), members])


def with_part(**members: Json) -> dict[str, Json]:
    """Return a request whose second message has one content part with the fields *members*."""
    return with_message(role="user", content=[members])


def encoded(value: Json) -> bytes:
    """Return *value* as the bytes of a request body."""
    return json.dumps(value).encode()


LONG_NAME = "f" * 65
CALL = {"id": "1", "type": "function", "function": {"name": "n", "arguments": "{}"}}


def _allowed(**members: Json) -> dict[str, Json]:
    return with_fields(tool_choice={"type": "allowed_tools", "allowed_tools": members})


def _with_each(request: Callable[[dict[str, Json]], Json], place: str, **wrong: Json) -> list[Json]:
    """Return a request for each of the members *wrong* of *place*, with the field's name."""
    return [(request({name: value}), f"{place}.{name}") for name, value in wrong.items()]


#: Invalid requests by error code, each with the field that the error names.
INVALID: dict[str, list[tuple[dict[str, Json], str]]] = {
    "missing_parameter": [
        ({"messages": MINIMAL["messages"]}, "model"),
        ({"model": "echo"}, "messages"),
        (with_message(content="x"), "messages[1].role"),
        (with_message(role="user"), "messages[1].content"),
        (with_message(role="tool", tool_call_id="1"), "messages[1].content"),
        (with_message(role="tool", content="x"), "messages[1].tool_call_id"),
        (with_message(role="function", content="x"), "messages[1].name"),
        (with_part(text="x"), "messages[1].content[0].type"),
        (with_part(type="text"), "messages[1].content[0].text"),
        (with_part(type="image_url"), "messages[1].content[0].image_url"),
        (with_part(type="image_url", image_url={}), "messages[1].content[0].image_url.url"),
        (with_part(type="input_audio"), "messages[1].content[0].input_audio"),
        (
            with_part(type="input_audio", input_audio={"data": ""}),
            "messages[1].content[0].input_audio.format",
        ),
        (
            with_part(type="input_audio", input_audio={"format": "wav"}),
            "messages[1].content[0].input_audio.data",
        ),
        (with_part(type="file"), "messages[1].content[0].file"),
        (with_part(type="refusal"), "messages[1].content[0].refusal"),
        *(
            (
                with_message(role="assistant", tool_calls=[{"id": "1", "type": "custom", **more}]),
                f"messages[1].tool_calls[0].custom{missing}",
            )
            for more, missing in (
                ({}, ""),
                ({"custom": {"name": "n"}}, ".input"),
                ({"custom": {"input": "x"}}, ".name"),
            )
        ),
        (with_message(role="assistant", function_call={}), "messages[1].function_call.name"),
        (
            with_message(role="assistant", tool_calls=[CALL, {"type": "function"}]),
            "messages[1].tool_calls[1].id",
        ),
        (
            with_message(role="assistant", tool_calls=[{"id": "1"}]),
            "messages[1].tool_calls[0].type",
        ),
        (
            with_message(role="assistant", tool_calls=[{**CALL, "function": {"name": "n"}}]),
            "messages[1].tool_calls[0].function.arguments",
        ),
        (with_fields(tools=[{"function": {"name": "n"}}]), "tools[0].type"),
        (with_fields(tools=[{"type": "function"}]), "tools[0].function"),
        (with_fields(tools=[{"type": "function", "function": {}}]), "tools[0].function.name"),
        (with_fields(tools=[{"type": "custom", "custom": {}}]), "tools[0].custom.name"),
        (with_fields(tools=[{"type": "custom"}]), "tools[0].custom"),
        (with_fields(tool_choice={}), "tool_choice.type"),
        (with_fields(tool_choice={"type": "custom"}), "tool_choice.custom"),
        (with_fields(tool_choice={"type": "custom", "custom": {}}), "tool_choice.custom.name"),
        (with_fields(tool_choice={"type": "allowed_tools"}), "tool_choice.allowed_tools"),
        (_allowed(), "tool_choice.allowed_tools.mode"),
        (_allowed(mode="auto"), "tool_choice.allowed_tools.tools"),
        (with_fields(tool_choice={"type": "function"}), "tool_choice.function"),
        (
            with_fields(tool_choice={"type": "function", "function": {}}),
            "tool_choice.function.name",
        ),
        (with_fields(functions=[{}]), "functions[0].name"),
        (with_fields(function_call={}), "function_call.name"),
        (with_fields(response_format={}), "response_format.type"),
        (with_fields(response_format={"type": "json_schema"}), "response_format.json_schema"),
        (
            with_fields(response_format={"type": "json_schema", "json_schema": {}}),
            "response_format.json_schema.name",
        ),
    ],
    "invalid_parameter_type": [
        (with_fields(model=1), "model"),
        (with_fields(model=None), "model"),
        (with_fields(messages=None), "messages"),
        (with_fields(messages="Hello"), "messages"),
        (with_fields(messages=["Hello"]), "messages[0]"),
        (with_message(role=1, content="x"), "messages[1].role"),
        (with_message(role="user", content=None), "messages[1].content"),
        (with_message(role="user", content={"type": "text"}), "messages[1].content"),
        (with_message(role="user", content="x", name=1), "messages[1].name"),
        (with_message(role="assistant", content=False), "messages[1].content"),
        (with_message(role="assistant", tool_calls={}), "messages[1].tool_calls"),
        (with_message(role="assistant", tool_calls=["x"]), "messages[1].tool_calls[0]"),
        (
            with_message(
                role="assistant",
                tool_calls=[{**CALL, "function": {"name": "n", "arguments": {}}}],
            ),
            "messages[1].tool_calls[0].function.arguments",
        ),
        (with_message(role="user", content=["x"]), "messages[1].content[0]"),
        (with_part(type=1), "messages[1].content[0].type"),
        (with_part(type="text", text=1), "messages[1].content[0].text"),
        (
            with_part(type="image_url", image_url="https://x.test/"),
            "messages[1].content[0].image_url",
        ),
        (
            with_part(type="image_url", image_url={"url": 1}),
            "messages[1].content[0].image_url.url",
        ),
        *_with_each(
            lambda more: with_part(type="image_url", image_url={"url": "", **more}),
            "messages[1].content[0].image_url",
            detail=1,
        ),
        *_with_each(
            lambda more: with_part(type="file", file=more),
            "messages[1].content[0].file",
            file_data=1,
            file_id=1,
            filename=1,
        ),
        *_with_each(
            lambda more: with_message(role="tool", content="x", **more),
            "messages[1]",
            tool_call_id=1,
        ),
        *_with_each(
            lambda more: with_message(role="assistant", **{"content": "x", **more}),
            "messages[1]",
            name=1,
            refusal=1,
            function_call="x",
        ),
        *_with_each(
            lambda more: with_message(role="assistant", function_call={"name": "n", **more}),
            "messages[1].function_call",
            name=1,
            arguments={},
        ),
        *_with_each(
            lambda more: with_fields(
                tools=[{"type": "function", "function": {"name": "n", **more}}]
            ),
            "tools[0].function",
            description=1,
            strict=1,
        ),
        *_with_each(
            lambda more: with_fields(tools=[{"type": "custom", "custom": {"name": "n", **more}}]),
            "tools[0].custom",
            description=1,
        ),
        *_with_each(
            lambda more: _allowed(**{"mode": "auto", "tools": [], **more}),
            "tool_choice.allowed_tools",
            mode=1,
            tools={},
        ),
        (_allowed(mode="auto", tools=["x"]), "tool_choice.allowed_tools.tools[0]"),
        *_with_each(
            lambda more: with_fields(
                response_format={"type": "json_schema", "json_schema": {"name": "n", **more}}
            ),
            "response_format.json_schema",
            name=1,
            description=1,
            schema=[],
            strict=1,
        ),
        (
            with_fields(stream_options={"include_obfuscation": 1}),
            "stream_options.include_obfuscation",
        ),
        (with_fields(safety_identifier=1), "safety_identifier"),
        (with_fields(prompt_cache_key=1), "prompt_cache_key"),
        (with_fields(prompt_cache_retention=1), "prompt_cache_retention"),
        (with_fields(stream=1), "stream"),
        (with_fields(stream_options=[]), "stream_options"),
        (with_fields(stream_options={"include_usage": 1}), "stream_options.include_usage"),
        (with_fields(temperature="1"), "temperature"),
        (with_fields(temperature=True), "temperature"),
        (with_fields(top_p=[]), "top_p"),
        (with_fields(n=True), "n"),
        (with_fields(n=1.5), "n"),
        (with_fields(max_tokens=1.5), "max_tokens"),
        (with_fields(max_completion_tokens="9"), "max_completion_tokens"),
        (with_fields(presence_penalty=True), "presence_penalty"),
        (with_fields(frequency_penalty={}), "frequency_penalty"),
        (with_fields(logprobs=1), "logprobs"),
        (with_fields(top_logprobs=True), "top_logprobs"),
        (with_fields(seed=1.5), "seed"),
        (with_fields(stop=1), "stop"),
        (with_fields(stop=["a", 1]), "stop[1]"),
        (with_fields(logit_bias=[]), "logit_bias"),
        (with_fields(logit_bias={"1": "2"}), "logit_bias"),
        (with_fields(tools={}), "tools"),
        (with_fields(tools=["x"]), "tools[0]"),
        (
            with_fields(tools=[{"type": "function", "function": {"name": 1}}]),
            "tools[0].function.name",
        ),
        (
            with_fields(tools=[{"type": "function", "function": {"name": "n", "parameters": []}}]),
            "tools[0].function.parameters",
        ),
        (with_fields(tool_choice=1), "tool_choice"),
        (with_fields(parallel_tool_calls="yes"), "parallel_tool_calls"),
        (with_fields(functions=[1]), "functions[0]"),
        (with_fields(function_call=[]), "function_call"),
        (with_fields(response_format="json"), "response_format"),
        (with_fields(modalities="text"), "modalities"),
        (with_fields(modalities=[1]), "modalities[0]"),
        (with_fields(metadata={"a": 1}), "metadata"),
        (with_fields(store=0), "store"),
        (with_fields(user=5), "user"),
        (with_fields(service_tier=1), "service_tier"),
        (with_fields(reasoning_effort=3), "reasoning_effort"),
        (with_fields(verbosity=False), "verbosity"),
    ],
    "invalid_parameter_value": [
        (with_fields(model="m" * 257), "model"),
        (with_fields(temperature=-0.1), "temperature"),
        (with_fields(temperature=2.001), "temperature"),
        (with_fields(temperature=10**300), "temperature"),
        (with_fields(top_p=-1), "top_p"),
        (with_fields(top_p=1.01), "top_p"),
        (with_fields(n=0), "n"),
        (with_fields(n=129), "n"),
        (with_fields(presence_penalty=2.5), "presence_penalty"),
        (with_fields(presence_penalty=-2.5), "presence_penalty"),
        (with_fields(frequency_penalty=3), "frequency_penalty"),
        (with_fields(max_tokens=-1), "max_tokens"),
        (with_fields(max_tokens=1e30), "max_tokens"),
        (with_fields(max_completion_tokens=2**31), "max_completion_tokens"),
        (with_fields(functions=[{"name": ""}]), "functions[0].name"),
        (with_fields(function_call={"name": " "}), "function_call.name"),
        (
            with_message(role="assistant", function_call={"name": LONG_NAME}),
            "messages[1].function_call.name",
        ),
        (with_fields(tools=[{"type": "custom", "custom": {"name": " "}}]), "tools[0].custom.name"),
        (
            with_fields(tools=[{"type": "function", "function": {"name": ""}}]),
            "tools[0].function.name",
        ),
        (with_fields(top_logprobs=-1), "top_logprobs"),
        (with_fields(top_logprobs=21), "top_logprobs"),
        (with_fields(seed=9223372036854776001), "seed"),
        (with_fields(seed=-9223372036854776001), "seed"),
        (with_fields(stop=["a", "b", "c", "d", "e"]), "stop"),
        (with_fields(logit_bias={"50256": 101}), "logit_bias"),
        (with_fields(logit_bias={"50256": -101}), "logit_bias"),
        (
            with_fields(tools=[{"type": "function", "function": {"name": LONG_NAME}}]),
            "tools[0].function.name",
        ),
        (with_fields(functions=[{"name": LONG_NAME}]), "functions[0].name"),
        (
            with_message(
                role="assistant",
                tool_calls=[{**CALL, "function": {"name": LONG_NAME, "arguments": ""}}],
            ),
            "messages[1].tool_calls[0].function.name",
        ),
        (with_fields(tool_choice="sometimes"), "tool_choice"),
        (with_fields(tool_choice={"type": "function", "function": {"name": "n"}}), "tool_choice"),
        (
            with_fields(
                tools=EVERY_FIELD["tools"],
                tool_choice={"type": "function", "function": {"name": "other"}},
            ),
            "tool_choice",
        ),
        (
            with_fields(
                tools=EVERY_FIELD["tools"],
                tool_choice={"type": "custom", "custom": {"name": "name"}},
            ),
            "tool_choice",
        ),
        (with_fields(tools=EVERY_FIELD["tools"], tool_choice={"type": "nothing"}), "tool_choice"),
        *(
            (
                with_part(type="image_url", image_url={"url": url}),
                "messages[1].content[0].image_url.url",
            )
            for url in FILE_URLS
        ),
        (
            with_part(type="file", file={"file_data": FILE_URLS[0]}),
            "messages[1].content[0].file.file_data",
        ),
    ],
    "invalid_messages_format": [
        (with_fields(messages=[]), "messages"),
        (with_message(role="User", content="x"), "messages[1].role"),
        (with_message(role="assistant"), "messages[1].content"),
        (with_message(role="assistant", content=None), "messages[1].content"),
        (with_message(role="assistant", content=None, tool_calls=[]), "messages[1].content"),
        (with_message(role="assistant", content=[]), "messages[1].content"),
        (with_message(role="user", content=[]), "messages[1].content"),
        (with_message(role="tool", content=[], tool_call_id="c"), "messages[1].content"),
    ],
}

#: Bodies that are rejected as invalid JSON.
NOT_JSON: dict[str, bytes] = {
    "empty": b"",
    "white space": b" \r\n",
    "a word": b"hello",
    "truncated": encoded(MINIMAL)[:-1],
    "trailing data": encoded(MINIMAL) + b"{}",
    "trailing white space of another kind": b'{"model":"a"}\v',
    "trailing comma": b'{"model":"echo",}',
    "control character": b'{"model":"a\nb"}',
    "array": b"[]",
    "null": b"null",
    "NaN": b'{"temperature":NaN}',
    "-Infinity": b'{"x":[-Infinity]}',
    "1e400": b'{"temperature":1e400}',
    "-1e400": b'{"x":-1e400}',
    "401 digits": b'{"n":' + b"1" * 401 + b"}",
    "1,000,000 digits": b'{"n":' + b"1" * 1_000_000 + b"}",
    "duplicate": b'{"model":"a","model":"b"}',
    "duplicate by escape": b'{"model":"a","mo\\u0064el":"b"}',
    "duplicate of a long name": b'{"%b":1,"%b":2}' % (b"n" * 500, b"n" * 500),
    "65 levels": b'{"x":' + b"[" * 64 + b"]" * 64 + b"}",
    "65 objects": b'{"x":' * 65 + b"1" + b"}" * 65,
    "100,000 brackets": b'{"x":' + b"[" * 100_000,
    "100,000 objects": b'{"x":' * 100_000,
    "deep after an escaped quote": b'{"\\"":' + b"[" * 100_000 + b"]" * 100_000 + b"}",
    "high surrogate": b'{"model":"\\ud800"}',
    "low surrogate": b'{"model":"\\uDFFF x"}',
    "surrogates around a backslash": b'{"model":"\\ud83d\\\\\\ude00"}',
    "a pair and a lone surrogate": b'{"model":"\\ud83d\\ude00\\ude00"}',
    "surrogate as UTF-8": b'{"model":"\xed\xa0\x80"}',
    "Latin-1": '{"model":"é"}'.encode("latin-1"),
    "UTF-16": '{"model":"x"}'.encode("utf-16"),
    "byte order mark": b'\xef\xbb\xbf{"model":"x"}',
}
