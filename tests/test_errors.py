"""The error classes and their responses."""

from __future__ import annotations

import ast
import inspect
import json
import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from choreo_wsgi import errors, sse
from choreo_wsgi.errors import ChoreoError, from_provider

CLASSES = {
    name: item
    for name, item in vars(errors).items()
    if inspect.isclass(item) and issubclass(item, ChoreoError)
}

# The API's errors as documented: status, type, codes.
WIRE = """
400 invalid_request_error invalid_json missing_parameter invalid_parameter_type
400 invalid_request_error invalid_parameter_value invalid_messages_format context_length_exceeded
401 authentication_error missing_authorization malformed_authorization invalid_api_key
403 permission_error model_not_allowed origin_not_allowed host_not_allowed
404 invalid_request_error model_not_found
404 not_found_error endpoint_not_found stream_not_found response_not_found
405 invalid_request_error method_not_allowed
411 invalid_request_error length_required
413 invalid_request_error body_too_large
415 invalid_request_error unsupported_media_type
409 invalid_request_error idempotency_conflict
410 invalid_request_error stream_gone
429 rate_limit_error rate_limit_exceeded quota_exceeded
500 server_error internal_error configuration_error
507 server_error insufficient_storage
502 provider_error provider_api_error provider_not_configured upstream_truncated
502 provider_error upstream_invalid producer_lost
503 service_unavailable_error service_overloaded server_shutting_down
503 service_unavailable_error provider_service_unavailable replay_unavailable
504 provider_error provider_timeout
400 invalid_request_error previous_response_not_found thread_unsupported_request
400 invalid_request_error stream_cancelled
"""


def wire() -> dict[str, tuple[int, str]]:
    """Return the status and type of each code."""
    lines = (line.split() for line in WIRE.strip().split("\n"))
    return {code: (int(status), kind) for status, kind, *codes in lines for code in codes}


def test_every_class_is_documented_with_status_type_and_code() -> None:
    assert errors.__doc__
    for name, kind in CLASSES.items():
        assert kind.code and wire()[kind.code] == (kind.status, kind.type)
        row = rf"^{name} +{kind.status} +{kind.type} +{kind.code}\b"
        assert re.search(row, errors.__doc__, re.MULTILINE), name


def test_every_raised_code_is_documented_under_its_class() -> None:
    """Checks each ``code=`` argument in the source."""
    assert errors.__doc__
    rows = re.split(r"^(?=[A-Z]\w+ +\d)", errors.__doc__.partition("=\n\nEvery")[0], flags=re.M)[1:]
    documented = {
        code: row.split()[0] for row in rows for code in re.findall(r"[a-z]+_[a-z_]+", row)
    }
    documented = {code: name for code, name in documented.items() if code in wire()}
    assert documented.keys() == wire().keys()
    found = set()
    for path in Path(errors.__file__).parent.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
                codes = [word.value for word in node.keywords if word.arg == "code"]
                for code in codes:
                    if isinstance(code, ast.Constant) and node.func.id in CLASSES:
                        found.add(code.value)
                        assert documented[code.value] == node.func.id, f"{path}: {code.value}"
    assert len(found) > 5


def test_body_is_one_line_with_all_four_members() -> None:
    assert errors.InvalidRequest("no model", param="model", code="missing_parameter").body() == (
        b'{"error":{"message":"no model","type":"invalid_request_error",'
        b'"code":"missing_parameter","param":"model"}}'
    )
    assert json.loads(ChoreoError("x", code=None).body())["error"]["param"] is None


@given(st.text(st.one_of(st.characters(), st.sampled_from('\ud800\n\r"\\\0\u2028'))))
def test_any_message_is_encoded_in_one_line(message: str) -> None:
    body = ChoreoError(message, param=message).body()
    assert sse.frame(body)  # one line
    error = json.loads(body.decode())["error"]
    assert error["message"] == error["param"] == message.encode("utf-8", "replace").decode()


@pytest.mark.parametrize(
    ("seconds", "header"),
    [(None, None), (0, "1"), (1, "1"), (1.4, "2"), (-5, "1")],
)
def test_retry_after_is_rounded_up_to_at_least_one_second(
    seconds: float | None, header: str | None
) -> None:
    headers = dict(errors.Unavailable("x", retry_after=seconds).response_headers())
    assert headers.get("Retry-After") == header


@pytest.mark.parametrize("kind", CLASSES.values(), ids=CLASSES)
def test_x_should_retry_is_false_for_permanent_errors(kind: type[ChoreoError]) -> None:
    headers = dict(kind("x").response_headers())
    permanent = 400 <= kind.status < 500 and kind.status != 429
    permanent |= kind in (errors.ConfigurationError, errors.ProviderNotConfigured)
    assert headers.get("x-should-retry") == ("false" if permanent else None)
    assert ("WWW-Authenticate" in headers) == (kind.status == 401)
    assert headers["Content-Type"] == "application/json"


def test_arguments_override_the_class_attributes() -> None:
    error = errors.ProviderError(
        "x", status=418, type="t", code="c", retry=True, headers=(("A", "b"),)
    )
    assert (error.status, error.type, error.code) == (418, "t", "c")
    assert {("A", "b"), ("x-should-retry", "true")} <= set(error.response_headers())
    assert errors.ProviderError.status == 502, "the class is unchanged"


# -- a provider's errors ------------------------------------------------------------------


@pytest.mark.parametrize(
    ("status", "expected", "code"),
    [
        (400, 400, "provider_code"),
        (422, 422, "provider_code"),
        (404, 404, "provider_code"),
        (413, 413, "body_too_large"),
        (429, 429, "provider_code"),
        (401, 502, "provider_authentication_failed"),
        (403, 502, "provider_permission_denied"),
        (402, 502, "provider_payment_required"),
        (408, 502, "provider_api_error"),
        (301, 502, "provider_api_error"),
        (500, 502, "provider_api_error"),
        (502, 502, "provider_api_error"),
        (503, 503, "provider_service_unavailable"),
        (529, 503, "provider_service_unavailable"),
        (504, 504, "provider_timeout"),
        (599, 502, "provider_api_error"),
    ],
)
def test_provider_status_is_translated(status: int, expected: int, code: str) -> None:
    error = from_provider(
        status, "provider's message", code="provider_code", param="p", retry_after=3
    )
    assert (error.status, error.code, error.message, error.param) == (
        expected,
        code,
        "provider's message",
        "p",
    )
    if status in (429, 503, 529):
        assert ("Retry-After", "3") in error.response_headers()


@pytest.mark.parametrize(
    ("status", "code", "retry"),
    [(429, "insufficient_quota", False), (429, "x", None), (401, "", False), (500, "", None)],
)
def test_permanent_provider_errors_are_not_retried(
    status: int, code: str, retry: bool | None
) -> None:
    assert from_provider(status, "x", code=code).retry is retry


def test_missing_provider_code_has_a_default() -> None:
    assert from_provider(400, "x").code == "invalid_parameter_value"
    assert from_provider(404, "x").code == "model_not_found"
    assert from_provider(429, "x").code == "rate_limit_exceeded"


@pytest.mark.parametrize("status", [400, 413, 500])
def test_context_length_exceeded_is_always_status_400(status: int) -> None:
    error = from_provider(status, "too long", code="context_length_exceeded", param="messages")
    assert (error.code, error.status) == ("context_length_exceeded", 400)
