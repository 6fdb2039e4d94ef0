"""Validation of chat requests: errors by code and field, and every field of OpenAI's schema."""

from __future__ import annotations

import copy
import typing
from typing import Any

import pytest
from openai.types.chat import completion_create_params
from request_samples import (
    EVERY_FIELD,
    INVALID,
    MINIMAL,
    encoded,
    with_fields,
    with_message,
    with_part,
)

from choreo_wsgi.chat import checks
from choreo_wsgi.chat import request as chat
from choreo_wsgi.errors import InvalidRequest

CASES = [(code, body, param) for code, cases in INVALID.items() for body, param in cases]


@pytest.mark.parametrize(
    ("code", "body", "param"), CASES, ids=[f"{code}-{param}" for code, _, param in CASES]
)
def test_invalid_request_has_code_and_param(code: str, body: dict[str, Any], param: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        chat.parse(encoded(body))
    error = caught.value
    assert (error.status, error.code, error.param) == (400, code, param)
    assert error.message.startswith(param)


def test_error_names_a_long_name_and_a_fraction() -> None:
    """A long string of a large body is set aside before the body is checked."""
    with pytest.raises(InvalidRequest, match="model must have at most 256 characters"):
        chat.parse(encoded(with_fields(model="m" * 100_000)))
    with pytest.raises(InvalidRequest, match="n must be an integer, not a fraction"):
        chat.parse(encoded(with_fields(n=1.5)))


def test_null_is_as_absent() -> None:
    nulls = dict.fromkeys(("n", "stop", "stream", "stream_options", "max_tokens"))
    request = chat.parse(encoded(with_fields(**nulls)))
    assert (request.n, request.stop, request.stream, request.max_tokens) == (1, (), False, None)


def _tools(kind: str, name: str) -> list[dict[str, Any]]:
    return [
        {"type": "function", "function": {"name": "other"}},
        {"type": kind, kind: {"name": name}},
    ]


GRAMMAR = {"type": "grammar", "grammar": {"definition": "start: x", "syntax": "lark"}}
SCHEMA = {"name": "s", "description": "d", "schema": {"type": "object"}, "strict": None}


@pytest.mark.parametrize(
    "body",
    [
        MINIMAL,
        EVERY_FIELD,
        with_fields(temperature=0, top_p=0, n=128, presence_penalty=2, frequency_penalty=2.0),
        with_fields(temperature=2, top_p=1, n=1, presence_penalty=-2.0, frequency_penalty=-2),
        with_fields(max_tokens=2**31 - 1, max_completion_tokens=0, top_logprobs=20),
        with_fields(max_tokens=10.0, n=2.0),
        with_fields(seed=9223372036854775807),
        with_fields(seed=-9223372036854775808),
        with_fields(stop=[]),
        with_fields(stop=["a", "b", "c", "d"]),
        with_fields(stop=""),
        with_fields(logit_bias={"1": -100, "2": 100, "3": 0.5}),
        with_fields(tools=[], functions=[]),
        with_fields(tool_choice="auto"),
        with_fields(tool_choice="required", tools=_tools("function", "f" * 64)),
        with_fields(
            tools=_tools("function", "f"),
            tool_choice={"type": "function", "function": {"name": "f"}},
        ),
        with_fields(
            tools=_tools("custom", "f"), tool_choice={"type": "custom", "custom": {"name": "f"}}
        ),
        with_fields(
            tool_choice={
                "type": "allowed_tools",
                "allowed_tools": {"mode": "auto", "tools": [{"foo": "bar"}]},
            }
        ),
        with_fields(tools=[{"type": "web_search"}], tool_choice={"type": "web_search"}),
        with_fields(tools=[{"type": "custom", "custom": {"name": "n" * 65, "format": GRAMMAR}}]),
        with_fields(
            tools=[{"type": "custom", "custom": {"name": "n", "format": {"type": "text"}}}]
        ),
        with_fields(functions=[{"name": "f"}], function_call={"name": "f"}),
        with_fields(response_format={"type": "json_object"}),
        with_fields(response_format={"type": "json_schema", "json_schema": SCHEMA}),
        with_fields(response_format={"type": "structural_tag", "structures": []}),
        with_fields(audio=1, prediction=[], moderation="", web_search_options=True),
        with_fields(prompt_cache_options=0),
        with_fields(model="m" * 256),
        with_fields(service_tier="of tomorrow", reasoning_effort="more", verbosity="x"),
        with_fields(stream_options={}, metadata={}),
        with_message(role="assistant", audio={"of": "any shape"}),
        with_message(role="assistant", content=None, refusal="no"),
        with_message(role="assistant", content=[], refusal="no"),
        with_message(role="assistant", content="x", reasoning_content="y", tool_calls=None),
        with_part(type="video_url", video_url={"url": "file:x"}),
        with_part(type="text", text="x", cache_control={"type": "ephemeral"}),
        with_part(type="image_url", image_url={"url": "", "detail": "original"}),
        with_part(type="image_url", image_url={"url": "profile:x"}),
        with_part(type="file", file={}),
        with_fields(top_k=40, min_p=0.1, guided_json={"deep": [[[]]]}, thinking=None),
    ],
)
def test_valid_request_is_accepted_unchanged(body: dict[str, Any]) -> None:
    assert chat.parse(encoded(body)).body == body


def test_null_equals_an_absent_field() -> None:
    for name in set(EVERY_FIELD) - {"model", "messages"}:
        null, absent = copy.deepcopy(EVERY_FIELD), copy.deepcopy(EVERY_FIELD)
        null[name] = None
        del absent[name]
        a, b = chat.parse(encoded(null)), chat.parse(encoded(absent))
        assert (a.stream, a.n, a.stop, a.max_tokens) == (b.stream, b.n, b.stop, b.max_tokens), name


def _fields(params: Any) -> set[str]:
    return set(typing.get_type_hints(params))


#: Fields left to the provider, which nothing here reads.
UNREAD = {"audio", "moderation", "prediction", "prompt_cache_options", "web_search_options"}


def test_every_field_of_the_openai_package_is_checked() -> None:
    known = _fields(completion_create_params.CompletionCreateParamsStreaming)
    wrong_type = object()  # invalid for every known field, accepted for unknown ones
    for name in known - UNREAD:
        with pytest.raises((checks.Fault, KeyError)):
            checks.REQUEST({**MINIMAL, name: wrong_type})
    assert known <= set(EVERY_FIELD)


def test_error_message_does_not_contain_the_value() -> None:
    """The message may be logged; the value may be private or long."""
    with pytest.raises(InvalidRequest) as caught:
        chat.parse(encoded(with_fields(tool_choice="secret" * 1000)))
    assert "secret" not in caught.value.message
    with pytest.raises(InvalidRequest) as caught:
        chat.parse(encoded(with_fields(logit_bias={"k" * 10_000: 101})))
    assert len(caught.value.message) < 300
