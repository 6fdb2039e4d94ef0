"""The parsed ``ChatRequest``: its defaults, derived values and copies."""

from __future__ import annotations

from typing import Any

import pytest
from request_samples import MINIMAL, encoded, with_fields, with_message

from choreo_wsgi.chat import request as chat


def parse(**fields: Any) -> chat.ChatRequest:
    return chat.parse(encoded(with_fields(**fields)))


def test_minimal_request_has_defaults() -> None:
    request = chat.parse(encoded(MINIMAL))
    assert request == chat.ChatRequest(model="echo", messages=MINIMAL["messages"], body=MINIMAL)
    assert not request.stream and not request.include_usage
    assert (request.n, request.max_tokens, request.stop) == (1, None, ())


@pytest.mark.parametrize(
    ("fields", "limit"),
    [
        ({"max_tokens": 5}, 5),
        ({"max_completion_tokens": 6}, 6),
        ({"max_tokens": 5, "max_completion_tokens": 6}, 6),
        ({"max_tokens": 5, "max_completion_tokens": None}, 5),
        ({"max_tokens": 5, "max_completion_tokens": 0}, 0),
        ({"max_tokens": 0}, 0),
        ({"max_tokens": 7.0}, 7),
    ],
)
def test_max_completion_tokens_overrides_max_tokens(fields: dict[str, Any], limit: int) -> None:
    value = parse(**fields).max_tokens
    assert value == limit and type(value) is int


@pytest.mark.parametrize(
    ("stop", "expected"),
    [("\n", ("\n",)), ("", ()), (None, ()), ([], ()), (["a", "", "b"], ("a", "b"))],
)
def test_stop_drops_empty_strings(stop: Any, expected: tuple[str, ...]) -> None:
    assert parse(stop=stop).stop == expected


def test_n_is_an_int() -> None:
    assert parse(n=2).n == 2
    assert type(parse(n=3.0).n) is int


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({"stream": True, "stream_options": {"include_usage": True}}, True),
        ({"stream": True, "stream_options": {"include_usage": False}}, False),
        ({"stream": True, "stream_options": None}, False),
        ({"stream_options": {"include_usage": True}}, False),
    ],
)
def test_include_usage_applies_only_to_streams(fields: dict[str, Any], expected: bool) -> None:
    assert parse(**fields).include_usage is expected


PARTS = [
    {"type": "text", "text": "a "},
    {"type": "image_url", "image_url": {"url": "data:"}},
    {"type": "video_url", "text": "ignored"},
    {"type": "text", "text": "b"},
]


@pytest.mark.parametrize(
    ("messages", "text"),
    [
        ([{"role": "user", "content": "a"}, {"role": "user", "content": "b"}], "b"),
        ([{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}], "a"),
        ([{"role": "user", "content": PARTS}], "a b"),
        ([{"role": "user", "content": ""}], ""),
        ([{"role": "system", "content": "a"}], ""),
    ],
)
def test_last_user_text_joins_text_parts_of_last_user_message(
    messages: list[dict[str, Any]], text: str
) -> None:
    assert parse(messages=messages).last_user_text == text


def test_content_text_of_null_is_empty() -> None:
    assert chat.content_text(None) == ""


def test_with_model_returns_a_changed_copy() -> None:
    request = parse(stream=True, top_k=3, n=2)
    other = request.with_model("other")
    assert (request.model, request.body["model"]) == ("echo", "echo")
    assert (other.model, other.body) == ("other", {**request.body, "model": "other"})
    assert (other.n, other.stream) == (2, True)


def test_body_keeps_unknown_fields() -> None:
    body = with_message(role="assistant", content="x", reasoning_content="why", n=None)
    assert chat.parse(encoded(body)).body == body
