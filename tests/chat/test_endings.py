"""Finish reasons in providers' words."""

from __future__ import annotations

import pytest

from choreo_wsgi.chat.endings import FINISH_REASONS, MEANINGS, finish_reason
from choreo_wsgi.errors import ProviderError


@pytest.mark.parametrize(
    ("word", "reason"),
    [
        ("end_turn", "stop"),
        ("COMPLETE", "stop"),
        ("eos", "stop"),
        ("endTurn", "stop"),
        ("MAX_TOKENS", "length"),
        ("max tokens", "length"),
        ("model_length", "length"),
        ("incomplete", "length"),
        ("TRUNCATED", "length"),
        ("max_completion_tokens", "length"),
        ("SAFETY", "content_filter"),
        ("Content-Filtered", "content_filter"),
        ("guardrail_intervened", "content_filter"),
        ("STOP", "stop"),
        ("whatever", "stop"),
    ],
)
def test_other_words_keep_the_native_one_beside_them(word: str, reason: str) -> None:
    assert finish_reason(word) == (reason, {"native_finish_reason": word})


@pytest.mark.parametrize("word", ["tool_use", "TOOL_CALL", "function_calls", "stop", "tool_calls"])
def test_calls_and_their_finish_reason_go_together(word: str) -> None:
    assert finish_reason(word, called=True)[0] == "tool_calls"
    assert finish_reason(word)[0] == "stop"


@pytest.mark.parametrize("word", sorted(FINISH_REASONS - {"tool_calls"}))
def test_openais_own_words_have_nothing_beside_them(word: str) -> None:
    assert finish_reason(word) == (word, None)


@pytest.mark.parametrize(
    "word",
    [
        *MEANINGS[""].split(),
        "MALFORMED_FUNCTION_CALL",
        "malformed_model_output",
        "MalformedToolUse",
        "requestCancelled",
        "server_error",
        "timedOut",
    ],
)
def test_words_that_say_failure(word: str) -> None:
    with pytest.raises(ProviderError, match=word):
        finish_reason(word, called=True)
    with pytest.raises(ProviderError, match=r"^the scheduler gave up$"):
        finish_reason(word.upper(), message="the scheduler gave up")
