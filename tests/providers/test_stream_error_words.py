"""An error inside a stream has no HTTP status; the provider's word for it determines one."""

from __future__ import annotations

import json
from typing import Any

import pytest
from aws_events import encode
from corpus_cases import cases

from choreo_wsgi.errors import ChoreoError, from_provider

#: From the providers' pages and google/rpc/code.proto.
WORDS = {
    "anthropic": {
        "invalid_request_error": 400,
        "authentication_error": 401,
        "billing_error": 402,
        "permission_error": 403,
        "not_found_error": 404,
        "request_too_large": 413,
        "rate_limit_error": 429,
        "api_error": 500,
        "timeout_error": 504,
        "overloaded_error": 529,
    },
    "gemini": {
        "INVALID_ARGUMENT": 400,
        "FAILED_PRECONDITION": 400,
        "OUT_OF_RANGE": 400,
        "UNAUTHENTICATED": 401,
        "PERMISSION_DENIED": 403,
        "NOT_FOUND": 404,
        "RESOURCE_EXHAUSTED": 429,
        "INTERNAL": 500,
        "UNAVAILABLE": 503,
        "DEADLINE_EXCEEDED": 504,
    },
    "bedrock": {
        "validationException": 400,
        "accessDeniedException": 403,
        "resourceNotFoundException": 404,
        "modelErrorException": 424,
        "modelStreamErrorException": 424,
        "modelNotReadyException": 429,
        "throttlingException": 429,
        "serviceQuotaExceededException": 429,
        "internalServerException": 500,
        "serviceUnavailableException": 503,
        "modelTimeoutException": 504,
    },
}


def error_event(provider: str, word: str) -> bytes:
    """Return the event of *provider* for the error *word*."""
    if provider == "bedrock":
        headers = {":message-type": "exception", ":exception-type": word}
        return encode(headers, b'{"message":"why"}')
    if provider == "gemini":
        return b'data: {"error":{"message":"why","status":"%s"}}\n\n' % word.encode()
    error = {"type": "error", "error": {"type": word, "message": "why"}}
    return b"event: error\ndata: " + json.dumps(error).encode() + b"\n\n"


@pytest.mark.parametrize(
    ("provider", "word", "status"),
    [(provider, word, status) for provider in WORDS for word, status in WORDS[provider].items()],
)
def test_a_stream_error_gets_the_status_of_its_word(provider: str, word: str, status: int) -> None:
    case = next(case for case in cases(provider) if case.id == f"{provider}/text")
    translator = case.playing()[0].translator(case.request)
    with pytest.raises(ChoreoError, match="why") as caught:
        translator.receive_data(error_event(provider, word))
    expected = from_provider(status, "why")
    assert (caught.value.status, caught.value.code) == (expected.status, expected.code)


@pytest.mark.parametrize(
    ("error", "status"),
    [
        ({"type": "invalid_request_error", "code": 429}, 429),
        ({"type": "invalid_request_error", "code": 7}, 400),
        ({"type": "overloaded_error", "code": 400}, 503),
        ({"code": 504}, 504),
        ({}, 502),
    ],
)
def test_a_number_wins_over_a_word_that_only_means_400(error: dict[str, Any], status: int) -> None:
    case = next(case for case in cases("anthropic") if case.id == "anthropic/text")
    translator = case.playing()[0].translator(case.request)
    event = json.dumps({"type": "error", "error": {**error, "message": "why"}})
    with pytest.raises(ChoreoError, match="why") as caught:
        translator.receive_data(b"event: error\ndata: " + event.encode() + b"\n\n")
    assert caught.value.status == from_provider(status, "why").status
