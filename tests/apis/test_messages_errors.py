"""Errors in Anthropic's words (docs.anthropic.com/en/api/errors)."""

from __future__ import annotations

import json

import pytest

from choreo_wsgi.apis import load
from choreo_wsgi.errors import ChoreoError


def failed(status: int, param: str | None = None, message: str = "no") -> ChoreoError:
    error = ChoreoError(message)
    error.status, error.param = status, param
    return error


@pytest.mark.parametrize(
    ("ours", "theirs", "kind"),
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
def test_each_status(ours: int, theirs: int, kind: str) -> None:
    status, body = load("messages").error(failed(ours))
    assert status == theirs
    assert json.loads(body) == {"type": "error", "error": {"type": kind, "message": "no"}}


def test_the_field_is_named_once() -> None:
    """Anthropic has no member for it, so the message begins with it."""
    for message in ("must be a number", "top_p must be a number"):
        told = json.loads(load("messages").error(failed(400, "top_p", message))[1])
        told = told["error"]["message"]
        assert told in ("top_p: must be a number", "top_p must be a number")
