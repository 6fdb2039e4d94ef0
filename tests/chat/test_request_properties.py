"""Any body is accepted or rejected with a documented error; the connection stays open."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

import harness
import pytest
from hypothesis import HealthCheck, given, settings
from nightly import examples
from request_strategies import bodies, changed

from choreo_wsgi.chat import request as chat
from choreo_wsgi.errors import ChoreoError

# A field's path; for a free-form object that of the object itself.
PARAM = re.compile(r"[a-z_]+(\[\d+\]|\.[a-z_]+)*")
CODES = {
    "invalid_json",
    "missing_parameter",
    "invalid_parameter_type",
    "invalid_parameter_value",
    "invalid_messages_format",
}


@settings(max_examples=examples(500), suppress_health_check=[HealthCheck.too_slow])
@given(bodies)
def test_parse_accepts_or_rejects_any_body(body: bytes) -> None:
    try:
        request = chat.parse(body)
    except ChoreoError as error:
        assert error.status == 400 and error.code in CODES
        assert error.param is None or PARAM.fullmatch(error.param)
        assert (error.param is None) == (error.code == "invalid_json")
        assert len(error.message) < 300
        error.body().decode()
        return
    assert isinstance(request.last_user_text, str)
    assert 1 <= request.n <= 128 and type(request.n) is int
    assert len(request.stop) <= 4 and all(request.stop)
    assert request.max_tokens is None or request.max_tokens >= 0
    # An accepted request can be serialised again for a provider.
    again = json.dumps(request.body, ensure_ascii=False, allow_nan=False).encode()
    assert chat.parse(again) == request
    for message in request.messages:
        chat.content_text(message.get("content"))


@pytest.fixture(scope="module")
def client(keyless: Any) -> Iterator[harness.Client]:
    with keyless.connect() as client:
        yield client


@settings(max_examples=examples(300), suppress_health_check=[HealthCheck.too_slow], deadline=None)
@given(body=bodies | changed.map(lambda value: json.dumps(value).encode()))
def test_connection_survives_any_body(client: harness.Client, body: bytes) -> None:
    answer = client.exchange("POST", "/v1/chat/completions", body)
    if answer.status == 200 and answer.headers["content-type"].startswith("text/event-stream"):
        assert answer.body.endswith(b"data: [DONE]\n\n")
    elif answer.status == 200:
        assert answer.json()["object"] == "chat.completion"
    else:
        assert answer.status in (400, 404), answer
        assert answer.error["type"] == "invalid_request_error"
    assert "connection" not in answer.headers, "the server closes the connection"
