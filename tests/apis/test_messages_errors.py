"""Errors as Anthropic's error objects (docs.anthropic.com/en/api/errors)."""

from __future__ import annotations

import json

import pytest

from choreo_wsgi.apis import load
from choreo_wsgi.errors import ChoreoError


def make_error(status: int, param: str | None = None, message: str = "no") -> ChoreoError:
    error = ChoreoError(message)
    error.status, error.param = status, param
    return error


@pytest.mark.parametrize(
    ("status", "expected", "kind"),
    [
        (400, 400, "invalid_request_error"),
        (401, 401, "authentication_error"),
        (402, 402, "billing_error"),
        (403, 403, "permission_error"),
        (404, 404, "not_found_error"),
        (413, 413, "request_too_large"),
        (422, 422, "invalid_request_error"),
        (429, 429, "rate_limit_error"),
        (500, 500, "api_error"),
        (503, 529, "overloaded_error"),
        (504, 504, "timeout_error"),
        (529, 529, "overloaded_error"),
    ],
)
def test_status_maps_to_anthropics_status_and_type(status: int, expected: int, kind: str) -> None:
    sent, body = load("messages").error(make_error(status))
    assert sent == expected
    assert json.loads(body) == {"type": "error", "error": {"type": kind, "message": "no"}}


def test_message_names_the_param_once() -> None:
    """Anthropic has no member for it: the message begins with it."""
    for message in ("must be a number", "top_p must be a number"):
        error = json.loads(load("messages").error(make_error(400, "top_p", message))[1])["error"]
        assert error["message"] in ("top_p: must be a number", "top_p must be a number")


@pytest.mark.parametrize(
    ("param", "message", "response"),
    [
        ("response_format.type", "output_config.format", "text.format"),
        ("max_completion_tokens", "max_tokens", "max_output_tokens"),
        ("reasoning_effort", "output_config.effort", "reasoning.effort"),
        ("parallel_tool_calls", "tool_choice.disable_parallel_tool_use", "parallel_tool_calls"),
        ("stop[1]", "stop_sequences", "stop[1]"),
        ("user", "metadata.user_id", "user"),
        ("logprobs", "logprobs", "include"),
        ("verbosity", "verbosity", "text.verbosity"),
        ("messages[0].content[1].image_url.url", "messages", "input"),
        ("messages[0].content[1].file", "messages", "input"),
        ("messages[0].tool_calls[0].id", "messages", "input"),
        ("messages[0].content", "messages[0].content", "input"),
    ],
)
def test_chats_param_is_named_as_in_the_callers_api(
    param: str, message: str, response: str
) -> None:
    error = json.loads(load("messages").error(make_error(400, param))[1])["error"]
    assert error["message"] == f"{message}: no"
    error = json.loads(load("responses").error(make_error(400, param))[1])["error"]
    assert error["param"] == response
