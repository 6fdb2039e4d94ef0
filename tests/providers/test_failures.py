"""One reader for the errors of all providers, whatever their shape."""

from __future__ import annotations

import json
from typing import Any

import pytest

from choreo_wsgi.errors import UpstreamInvalid
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


@pytest.mark.parametrize(("shape", "status"), SHAPES, ids=lambda shape: json.dumps(shape)[:40])
def test_an_error_of_any_shape_is_found_and_told(shape: Any, status: int) -> None:
    assert find_error(shape) is not None
    error = provider_error(shape)
    assert "the cause" in error.message and error.status == status
    # As the body of a refusal the HTTP status counts.
    error = response_error(422, {}, json.dumps(shape).encode(), 0)
    assert "the cause" in error.message and error.status == 422
    # In a document that came with 200 the error has to name one itself.
    assert response_error(200, {}, json.dumps(shape).encode(), 0).status == status


#: Beside the words of the providers' pages, which test_words_for_statuses has.
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
def test_a_word_stands_for_a_status(word: str, status: int) -> None:
    assert named_status({"code": word}) == status


@pytest.mark.parametrize("member", [*MEMBERS, "Code"])
def test_where_the_word_stands(member: str) -> None:
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
def test_where_a_status_stands(member: str, value: Any) -> None:
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
def test_where_the_words_for_people_stand(member: str) -> None:
    told = {"error": {"code": 404, member: "the cause"}}
    assert response_error(404, {}, json.dumps(told).encode(), 0).message == "the cause"
    assert provider_error(told).message == "the cause"


@pytest.mark.parametrize(
    "word", ["insufficient_quota", "insufficient_credits", "insufficient_balance"]
)
def test_an_empty_account_has_one_code(word: str) -> None:
    assert provider_error({"message": "why", "code": word}, 429).code == "insufficient_quota"


@pytest.mark.parametrize(
    "told",
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
def test_too_long_a_prompt_has_one_code(told: str) -> None:
    for status in (400, 413):
        assert provider_error({"message": told}, status).code == "context_length_exceeded"
    assert provider_error({"message": told}, 404).code != "context_length_exceeded"


@pytest.mark.parametrize(
    "good",
    [
        CHUNK,
        {},
        {"choices": None, "usage": {}},
        {**CHUNK, "error": None, "errors": [], "base_resp": {"status_code": 0, "status_msg": ""}},
        {"type": "ping"},
        {"code": 0, "msg": "success"},
        {"status": "processing", "success": True},
        {"status": 200},
        "text",
        [CHUNK],
    ],
)
def test_what_reports_no_error(good: Any) -> None:
    assert find_error(good) is None


@pytest.mark.parametrize("body", [b"", b"<!doctype html><title>502</title>", b"\xff\xfe", b"{}"])
def test_a_body_that_says_nothing(body: bytes) -> None:
    message = response_error(503, {}, body, 0).message
    assert message == "the provider answered 503" or "<" not in message
    assert isinstance(response_error(200, {}, body, 0), UpstreamInvalid)
    assert isinstance(response_error(302, {}, body, 0), UpstreamInvalid)


def test_a_providers_words_are_bounded() -> None:
    told = {"error": {"message": "long " * 10_000, "code": 429}}
    assert len(provider_error(told).message) == 4000
    assert len(response_error(429, {}, json.dumps(told).encode(), 0).message) == 4000
    assert len(stream_error(told["error"]).message) == 4000
    word = provider_error({"error": {"message": "m", "code": "c" * 999, "param": "p" * 999}}, 400)
    assert (word.code, word.param) == ("c" * 200, "p" * 200)


@pytest.mark.parametrize("number", [399, 600, True, "４２９"])
def test_numbers_that_are_no_status(number: Any) -> None:
    assert provider_error({"error": {"message": "the cause", "status": number}}).status == 502


def test_a_number_of_their_own_does_not_hide_the_word_beside_it() -> None:
    error = provider_error({"error": {"message": "m", "code": 1301, "type": "rate_limit_error"}})
    assert error.status == 429


def test_plain_text_is_its_own_message_cut_short() -> None:
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
def test_what_trying_again_cannot_mend(status: int, error: Any, code: str) -> None:
    found = response_error(status, {"retry-after": "1"}, json.dumps({"error": error}).encode(), 0)
    assert found.code == code and ("x-should-retry", "false") in found.response_headers()
    inside = provider_error({"error": {**error, "status": status}})
    assert inside.code == code and inside.retry is False


@pytest.mark.parametrize("name", ["context_length_exceeded", "exceed_context_size_error"])
def test_a_prompt_that_is_too_long_has_one_code(name: str) -> None:
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
def test_how_long_to_wait(headers: dict[str, str], seconds: float | None) -> None:
    assert retry_after(headers, now=100.0) == seconds


def test_the_delay_that_google_asks_for() -> None:
    info = {"@type": "type.googleapis.com/google.rpc.RetryInfo", "retryDelay": "33.5s"}
    told = {"error": {"message": "m", "status": "RESOURCE_EXHAUSTED", "details": [1, {}, info]}}
    assert response_error(429, {}, json.dumps([told]).encode(), 0).retry_after == 33.5
    assert response_error(429, {"retry-after": "2"}, json.dumps(told).encode(), 0).retry_after == 2
    info["retryDelay"] = "soon"
    assert response_error(429, {}, json.dumps(told).encode(), 0).retry_after is None
    gemini = provider_class("gemini")("gemini", {"api_key": "k"}, Settings())
    info["retryDelay"] = "7s"
    error = gemini.error(429, {}, json.dumps(told).encode())  # type: ignore[attr-defined]
    assert error.retry_after == 7
    error = gemini.error(429, {"retry-after": "2"}, json.dumps(told).encode())  # type: ignore[attr-defined]
    assert error.retry_after == 2


def test_an_error_that_came_as_an_event_or_behind_a_mark() -> None:
    for before in (b"data: ", b"event: error\ndata: ", b"\xef\xbb\xbf"):
        body = before + b'{"error":{"message":"busy"}}'
        assert response_error(429, {}, body, 0).message == "busy"


def test_a_prompt_that_is_too_long_by_the_words_alone() -> None:
    message = "This model's maximum context length is 10 tokens. However, you requested 12"
    told = json.dumps({"object": "error", "message": message, "code": 400}).encode()
    assert response_error(400, {}, told, 0).code == "context_length_exceeded"
    assert response_error(500, {}, told, 0).code != "context_length_exceeded"


@pytest.mark.parametrize(
    ("type", "status", "told", "code"),
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
def test_what_a_400_means_there(type: str, status: int, told: str, code: str) -> None:
    provider: Any = provider_class(type)(type, {"api_key": "k"}, Settings())
    body = {"message": told, "error": {"message": told}}
    error = provider.error(status, {}, json.dumps(body).encode())
    assert error.code == code and told in error.message
    provider.close()


def test_an_empty_answer_is_said_to_be_empty() -> None:
    assert response_error(200, {}, b" ", 0).message.endswith("not what was asked for: it is empty")


def test_of_a_name_of_aws_neither_the_namespace_nor_the_page_counts() -> None:
    word = "com.amazonaws.throttling#AccessDeniedException:http://docs/quota"
    assert named_status({"__type": word}) == 403
