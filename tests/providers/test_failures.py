"""One parser for the errors of all providers, whatever their shape."""

from __future__ import annotations

import json
from typing import Any

import pytest
from work import traced

from choreo_wsgi.errors import UpstreamInvalid
from choreo_wsgi.providers import ChatRequest, HTTPProvider, HTTPRequest, Translator
from choreo_wsgi.providers.failures import (
    find_error,
    named_status,
    provider_error,
    response_error,
    stream_error,
)
from choreo_wsgi.providers.registry import provider_class
from choreo_wsgi.settings import Settings
from choreo_wsgi.upstream.head import retry_after

CHUNK = {"id": "x", "choices": [{"index": 0, "delta": {"content": "a"}, "finish_reason": None}]}
SHAPES: list[tuple[Any, int]] = [
    ({"error": {"message": "the cause", "type": "x", "code": None}}, 502),
    ({"error": {"message": "the cause", "code": 429}}, 429),
    ({"error": {"message": "the cause", "code": "invalid_api_key"}}, 502),
    ({"error": {"error": {"message": "the cause"}}}, 502),
    ({"error": "the cause"}, 502),
    ({"error": True, "message": "the cause"}, 502),
    ({"error": ["the cause"]}, 502),
    ({"error": {"message": {"detail": "the cause"}}}, 502),
    ({"error": {"message": "Provider returned error", "metadata": {"raw": "the cause"}}}, 502),
    ([{"error": {"message": "the cause", "status": "RESOURCE_EXHAUSTED"}}], 429),
    ({"errors": [{"message": "the cause"}]}, 502),
    ({"detail": "the cause"}, 502),
    ({"detail": [{"loc": ["body", "x"], "msg": "the cause"}]}, 502),
    ({"object": "error", "message": "the cause", "type": "BadRequestError", "code": 400}, 400),
    ({"choices": None, "error_type": "BadRequestError", "error_message": "the cause"}, 400),
    ({"code": "InvalidParameter", "message": "the cause", "request_id": "x"}, 400),
    ({"code": 1301, "msg": "the cause"}, 502),
    ({"choices": None, "base_resp": {"status_code": 1008, "status_msg": "the cause"}}, 502),
    ({"error_code": 336003, "error_msg": "the cause"}, 502),
    ({"type": "error", "error": {"type": "rate_limit_error", "message": "the cause"}}, 429),
    ({"title": "Bad", "status": 400, "detail": "the cause"}, 400),
    ({**CHUNK, "error": {"message": "the cause", "code": 502}}, 502),
    ({"choices": [{"index": 0, "error": {"message": "the cause", "code": 504}}]}, 504),
    ({"status": 503, "error": "Service Unavailable", "message": "the cause"}, 503),
    ({"Error": {"Code": "ThrottlingException", "Message": "the cause"}}, 429),
    ({"fault": {"faultstring": "the cause", "detail": {"errorcode": "x"}}}, 502),
    ({"exception": "the cause"}, 502),
    ({"status": "failed", "reason": "the cause"}, 502),
    ({"ok": False, "description": "the cause"}, 502),
    ({"success": False, "data": {"msg": "the cause"}}, 502),
    ({"ret": 1, "err_msg": "the cause"}, 502),
    ({"errcode": 4, "errmsg": "the cause"}, 502),
    ({"err": "the cause"}, 502),
    ({"event": "error", "data": {"message": "the cause"}}, 502),
    ({"is_error": True, "result": "the cause"}, 502),
    ({"title": "the cause", "status": 429}, 429),
    ({"Response": {"Error": {"Code": "AuthFailure", "Message": "the cause"}}}, 502),
]


def test_no_more_of_an_error_is_encoded_than_is_shown() -> None:
    error = {"x": [{"a": {"b": "y"}}] * 20_000}
    with traced() as memory:
        message = provider_error(error).message
    assert message == json.dumps(error)[:500]
    assert memory.peak < 64 * 1024


@pytest.mark.parametrize(("shape", "status"), SHAPES, ids=lambda shape: json.dumps(shape)[:40])
def test_finds_an_error_of_any_shape(shape: Any, status: int) -> None:
    assert find_error(shape) is not None
    error = provider_error(shape)
    assert "the cause" in error.message and error.status == status
    # The status of an HTTP error counts more than its body.
    error = response_error(422, {}, json.dumps(shape).encode(), 0)
    assert "the cause" in error.message and error.status == 422
    # With status 200, the error itself must have a status.
    assert response_error(200, {}, json.dumps(shape).encode(), 0).status == status


#: Words that are not on the providers' pages; those are in test_stream_error_words.
WORDS = {
    400: """context_length_exceeded context_size context_window_exceeded bad_request malformed
        unsupported_value""",
    401: "unauthorized Unauthorised API_KEY_INVALID",
    402: "payment_required insufficient_credits insufficient_fund Arrearage",
    403: "forbidden",
    404: "model_does_not_exist",
    429: "TooManyRequests",
    503: "overloaded_error busy no_capacity",
    504: "timed_out",
}
MEMBERS = ("code", "type", "error_type", "errorType", "status", "error_code", "reason", "__type")


@pytest.mark.parametrize(
    ("word", "status"), [(word, status) for status in WORDS for word in WORDS[status].split()]
)
def test_maps_words_to_statuses(word: str, status: int) -> None:
    assert named_status({"code": word}) == status


@pytest.mark.parametrize("member", [*MEMBERS, "Code"])
def test_finds_the_word_in_each_member(member: str) -> None:
    error = provider_error({"error": {"message": "why", member: "not_found"}})
    assert (error.status, error.message) == (404, "why")


@pytest.mark.parametrize(
    ("member", "value"),
    [
        ("code", "404"),
        ("code", 404),
        ("status", 404),
        ("status_code", 404),
        ("statusCode", 404),
        ("http_status", 404),
        ("error_code", 404),
        ("StatusCode", 404),
    ],
)
def test_finds_the_status_in_each_member(member: str, value: Any) -> None:
    assert provider_error({"error": {"message": "why", member: value}}).status == 404


@pytest.mark.parametrize(
    "member",
    [
        "message",
        "error_message",
        "errorMessage",
        "error_msg",
        "Message",
        "msg",
        "status_msg",
        "faultstring",
        "detail",
        "details",
        "error_description",
        "description",
        "error",
        "errors",
        "Error",
        "fault",
        "exception",
        "failure",
        "title",
    ],
)
def test_finds_the_message_in_each_member(member: str) -> None:
    body = {"error": {"code": 404, member: "the cause"}}
    assert response_error(404, {}, json.dumps(body).encode(), 0).message == "the cause"
    assert provider_error(body).message == "the cause"


@pytest.mark.parametrize(
    "word", ["insufficient_quota", "insufficient_credits", "insufficient_balance"]
)
def test_an_empty_account_is_insufficient_quota(word: str) -> None:
    assert provider_error({"message": "why", "code": word}, 429).code == "insufficient_quota"


@pytest.mark.parametrize(
    "message",
    [
        "This model's maximum context length is 9 tokens",
        "context size exceeded",
        "the context window is too small",
        "the request exceeds the available context size",
        "exceeds the model's context window",
        "they exceed the maximum context",
        "Prompt is too long",
    ],
)
def test_messages_about_a_too_long_prompt_set_its_code(message: str) -> None:
    for status in (400, 413):
        assert provider_error({"message": message}, status).code == "context_length_exceeded"
    assert provider_error({"message": message}, 404).code != "context_length_exceeded"


@pytest.mark.parametrize(
    "good",
    [
        CHUNK,
        {},
        {"choices": None, "usage": {}},
        {**CHUNK, "error": None, "errors": [], "base_resp": {"status_code": 0, "status_msg": ""}},
        {"type": "ping"},
        {"code": 0, "msg": "success"},
        {"code": "200", "msg": "success"},
        {"status": "processing", "success": True},
        {"status": 200},
        "text",
        [CHUNK],
    ],
)
def test_finds_no_error_in_good_answers(good: Any) -> None:
    assert find_error(good) is None


@pytest.mark.parametrize("body", [b"", b"<!doctype html><title>502</title>", b"\xff\xfe", b"{}"])
def test_a_body_without_a_message_reports_the_status(body: bytes) -> None:
    message = response_error(503, {}, body, 0).message
    assert message == "the provider answered 503" or "<" not in message
    assert isinstance(response_error(200, {}, body, 0), UpstreamInvalid)
    for status in (300, 302):
        error = response_error(status, {}, body, 0)
        assert isinstance(error, UpstreamInvalid) and "redirects" in error.message


def test_hides_whole_secrets_of_eight_characters_or_more() -> None:
    options = {"api_key": "12345678", "headers": "X: 12345678-and-more, Y: 1234567"}
    provider = provider_class("openai")("openai", options, Settings())
    provider.close()
    assert provider.secrets.sub("***", "12345678-and-more 12345678 1234567") == "*** *** 1234567"


def test_truncates_messages_and_codes() -> None:
    body = {"error": {"message": "long " * 10_000, "code": 429}}
    assert len(provider_error(body).message) == 4000
    assert len(response_error(429, {}, json.dumps(body).encode(), 0).message) == 4000
    assert len(stream_error(body["error"]).message) == 4000
    error = provider_error({"error": {"message": "m", "code": "c" * 999, "param": "p" * 999}}, 400)
    assert (error.code, error.param) == ("c" * 200, "p" * 200)


@pytest.mark.parametrize("number", [399, 600, True, "４２９"])
def test_ignores_numbers_that_are_no_status(number: Any) -> None:
    assert provider_error({"error": {"message": "the cause", "status": number}}).status == 502


def test_a_document_prefers_the_number_an_event_the_word() -> None:
    error = {"message": "m", "code": 503, "type": "rate_limit_error"}
    assert provider_error({"error": error}).status == 503
    assert stream_error(error).status == 429


def test_a_vendors_number_does_not_hide_the_word() -> None:
    error = provider_error({"error": {"message": "m", "code": 1301, "type": "rate_limit_error"}})
    assert error.status == 429


def test_a_plain_text_body_is_the_message_truncated() -> None:
    assert response_error(500, {}, b"upstream connect error", 0).message == "upstream connect error"
    assert len(response_error(500, {}, b"x" * 9000, 0).message) == 500
    assert len(provider_error({"error": {"message": "x" * 9000}}).message) == 4000


@pytest.mark.parametrize(
    ("status", "error", "code"),
    [
        (401, {"message": "m"}, "provider_authentication_failed"),
        (402, {"message": "m"}, "provider_payment_required"),
        (403, {"message": "m"}, "provider_permission_denied"),
        (429, {"message": "m", "code": "insufficient_quota"}, "insufficient_quota"),
        (429, {"message": "m", "code": "rate", "type": "insufficient_quota"}, "insufficient_quota"),
    ],
)
def test_disables_retries_where_they_cannot_help(status: int, error: Any, code: str) -> None:
    found = response_error(status, {"retry-after": "1"}, json.dumps({"error": error}).encode(), 0)
    assert found.code == code and ("x-should-retry", "false") in found.response_headers()
    inside = provider_error({"error": {**error, "status": status}})
    assert inside.code == code and inside.retry is False


@pytest.mark.parametrize("name", ["context_length_exceeded", "exceed_context_size_error"])
def test_types_of_a_too_long_prompt_set_its_code(name: str) -> None:
    error = provider_error({"error": {"message": "m", "type": name}})
    assert (error.status, error.code) == (400, "context_length_exceeded")


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({}, None),
        ({"retry-after": "17"}, 17),
        ({"retry-after": " 1.5 "}, 1.5),
        ({"retry-after": "-1"}, None),
        ({"retry-after": "9" * 30}, 1e9),
        ({"retry-after-ms": "1500", "retry-after": "2"}, 1.5),
        ({"retry-after": "Thu, 01 Jan 1970 00:02:00 GMT"}, 20),
        (
            {
                "retry-after": "Wed, 21 Oct 2026 07:28:30 GMT",
                "date": "Wed, 21 Oct 2026 07:28:00 GMT",
            },
            30,
        ),
        ({"retry-after": "Thu, 01 Jan 1970 00:00:00 GMT"}, 0),
        ({"retry-after": "Wed, 99 Oct 2026 07:28:30 GMT"}, None),
    ],
)
def test_parses_retry_after_headers(headers: dict[str, str], seconds: float | None) -> None:
    assert retry_after(headers, now=100.0) == seconds


def test_reads_googles_retry_delay() -> None:
    info = {"@type": "type.googleapis.com/google.rpc.RetryInfo", "retryDelay": "33.5s"}
    body = {"error": {"message": "m", "status": "RESOURCE_EXHAUSTED", "details": [1, {}, info]}}
    assert response_error(429, {}, json.dumps([body]).encode(), 0).retry_after == 33.5
    assert response_error(429, {"retry-after": "2"}, json.dumps(body).encode(), 0).retry_after == 2
    info["retryDelay"] = "soon"
    assert response_error(429, {}, json.dumps(body).encode(), 0).retry_after is None
    gemini = provider_class("gemini")("gemini", {"api_key": "k"}, Settings())
    info["retryDelay"] = "7s"
    error = gemini.error(429, {}, json.dumps(body).encode())  # type: ignore[attr-defined]
    assert error.retry_after == 7
    error = gemini.error(429, {"retry-after": "2"}, json.dumps(body).encode())  # type: ignore[attr-defined]
    assert error.retry_after == 2


def test_reads_an_error_body_after_an_event_prefix_or_a_bom() -> None:
    for before in (b"data: ", b"event: error\ndata: ", b"\xef\xbb\xbf"):
        body = before + b'{"error":{"message":"busy"}}'
        assert response_error(429, {}, body, 0).message == "busy"


def test_only_a_client_error_can_be_a_too_long_prompt() -> None:
    message = "This model's maximum context length is 10 tokens. However, you requested 12"
    body = json.dumps({"object": "error", "message": message, "code": 400}).encode()
    assert response_error(400, {}, body, 0).code == "context_length_exceeded"
    assert response_error(500, {}, body, 0).code != "context_length_exceeded"


@pytest.mark.parametrize(
    ("type", "status", "message", "code"),
    [
        ("anthropic", 400, "Your credit balance is too low to access", "provider_payment_required"),
        ("anthropic", 413, "prompt is too long: 9 tokens", "context_length_exceeded"),
        ("anthropic", 400, "input length and max_tokens exceed context limit: 9",
         "context_length_exceeded"),
        ("gemini", 400, "The input token count (9) exceeds the maximum number of tokens",
         "context_length_exceeded"),
        ("bedrock", 400, "Input is too long for requested model.", "context_length_exceeded"),
        ("ollama", 400, "the input is above the context length", "context_length_exceeded"),
    ],
)  # fmt: skip
def test_codes_of_each_providers_messages(type: str, status: int, message: str, code: str) -> None:
    provider: Any = provider_class(type)(type, {"api_key": "k"}, Settings())
    body = {"message": message, "error": {"message": message}}
    error = provider.error(status, {}, json.dumps(body).encode())
    assert error.code == code and message in error.message
    assert provider.error(429, {}, json.dumps(body).encode()).status == 429
    provider.close()


@pytest.mark.parametrize(
    ("status", "word", "expected"),
    [
        (429, "invalid_request_error", 429),
        (401, "invalid_request_error", 502),
        (400, "rate_limit_error", 429),
    ],
)
def test_a_word_for_400_does_not_replace_another_status(
    status: int, word: str, expected: int
) -> None:
    provider: Any = provider_class("anthropic")("anthropic", {"api_key": "k"}, Settings())
    body = {"type": "error", "error": {"type": word, "message": "why"}}
    assert provider.error(status, {}, json.dumps(body).encode()).status == expected
    provider.close()


class Plain(HTTPProvider):
    """A provider whose errors are OpenAI's."""

    type = "plain"

    def encode(self, request: ChatRequest) -> HTTPRequest:
        raise NotImplementedError

    def translator(self, request: ChatRequest) -> Translator:
        raise NotImplementedError


def test_a_provider_with_errors_of_openai_keeps_their_status_and_code() -> None:
    body = b'{"error":{"message":"m","code":"not_found"}}'
    error = Plain("plain", {}, Settings()).error(400, {}, body)
    assert (error.status, error.code) == (400, "not_found")


def test_reports_an_empty_body_as_empty() -> None:
    assert response_error(200, {}, b" ", 0).message.endswith("not what was asked for: it is empty")


def test_ignores_the_namespace_and_page_in_aws_error_names() -> None:
    word = "com.amazonaws.throttling#AccessDeniedException:http://docs/quota"
    assert named_status({"__type": word}) == 403
