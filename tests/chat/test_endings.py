"""Finish reasons in providers' words."""

from __future__ import annotations

import pytest

from choreo_wsgi.chat.endings import FINISH_REASONS, finish_reason, is_finish
from choreo_wsgi.errors import ProviderError


@pytest.mark.parametrize(
    ("word", "reason"),
    [
        ("end_turn", "stop"),
        ("COMPLETE", "stop"),
        ("endTurn", "stop"),
        ("max tokens", "length"),
        ("incomplete", "length"),
        ("TRUNCATED", "length"),
        ("SAFETY", "content_filter"),
        ("Content-Filtered", "content_filter"),
        ("guardrail_intervened", "content_filter"),
        ("STOP", "stop"),
        ("whatever", "stop"),
    ],
)
def test_other_words_keep_the_native_one_beside_them(word: str, reason: str) -> None:
    assert finish_reason(word) == (reason, {"native_finish_reason": word})


@pytest.mark.parametrize("word", ["tool_use", "stop", "tool_calls"])
def test_calls_and_their_finish_reason_go_together(word: str) -> None:
    assert finish_reason(word, called=True)[0] == "tool_calls"
    assert finish_reason(word)[0] == "stop"


@pytest.mark.parametrize("word", sorted(FINISH_REASONS - {"tool_calls"}))
def test_openais_own_words_have_nothing_beside_them(word: str) -> None:
    assert finish_reason(word) == (word, None)


@pytest.mark.parametrize("word", ["abort", "MALFORMED_FUNCTION_CALL", "requestCancelled"])
def test_words_that_say_failure(word: str) -> None:
    with pytest.raises(ProviderError, match=word):
        finish_reason(word, called=True)
    with pytest.raises(ProviderError, match=r"^the scheduler gave up$"):
        finish_reason(word.upper(), message="the scheduler gave up")


#: Words whose meaning only the table knows, and one for each alternative of the patterns.
SAID = {
    "length": """error_limit out_of_context
        max_thinking_tokens tokenLimitReached max_length context_window_full budget_used""",
    "content_filter": """error_toxic flagged image_recitation model_armor recitation sensitive spii
        input_filter prohibitedUse usage_policy moderated blocklist refused""",
    "tool_calls": "call tool use_function",
}
FAILED = """image_other language missing_thought_signature no_image other too_many_tool_calls
    server_error aborting failed invalid_output time_out canceled crashed exception
    insufficient_memory unavailable overloaded unexpected interruption disconnected rate_limited
    killed evicted preempted expired out_of_memory worker_oom quota_reached corrupted lost"""


@pytest.mark.parametrize(
    ("word", "reason"), [(word, reason) for reason in SAID for word in SAID[reason].split()]
)
def test_what_a_word_stands_for(word: str, reason: str) -> None:
    assert finish_reason(word, called=True) == (reason, {"native_finish_reason": word})


@pytest.mark.parametrize("word", FAILED.split())
def test_what_a_failure_is_called(word: str) -> None:
    with pytest.raises(ProviderError, match=word):
        finish_reason(word)


@pytest.mark.parametrize(
    "word", ["", None, "null", "None", "undefined", "UNSPECIFIED", "FINISH_REASON_UNSPECIFIED"]
)
def test_what_ends_nothing(word: str | None) -> None:
    assert not is_finish(word)
    assert is_finish("stop") and is_finish({"type": "abort"})
