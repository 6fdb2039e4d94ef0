"""Mapping of providers' finish reasons to OpenAI's."""

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
def test_foreign_reason_is_mapped_and_kept_as_native_finish_reason(word: str, reason: str) -> None:
    assert finish_reason(word) == (reason, {"native_finish_reason": word})


@pytest.mark.parametrize("word", ["tool_use", "stop", "tool_calls"])
def test_tool_calls_reason_requires_a_call(word: str) -> None:
    assert finish_reason(word, called=True)[0] == "tool_calls"
    assert finish_reason(word)[0] == "stop"


@pytest.mark.parametrize("word", sorted(FINISH_REASONS - {"tool_calls"}))
def test_openai_reason_is_kept_without_native_finish_reason(word: str) -> None:
    assert finish_reason(word) == (word, None)


@pytest.mark.parametrize("word", ["abort", "MALFORMED_FUNCTION_CALL", "requestCancelled"])
def test_failure_reason_raises_with_word_or_given_message(word: str) -> None:
    with pytest.raises(ProviderError, match=word):
        finish_reason(word, called=True)
    with pytest.raises(ProviderError, match=r"^the scheduler gave up$"):
        finish_reason(word.upper(), message="the scheduler gave up")


#: Words listed in the table only, and one for each alternative of the patterns.
MAPPED = {
    "length": """error_limit out_of_context
        max_thinking_tokens tokenLimitReached max_length context_window_full budget_used""",
    "content_filter": """error_toxic flagged image_recitation model_armor recitation sensitive spii
        input_filter prohibitedUse usage_policy moderated blocklist refused""",
    "tool_calls": "call tool use_function",
}
FAILURES = """image_other language missing_thought_signature no_image other too_many_tool_calls
    server_error aborting failed invalid_output time_out canceled crashed exception
    insufficient_memory unavailable overloaded unexpected interruption disconnected rate_limited
    killed evicted preempted expired out_of_memory worker_oom quota_reached corrupted lost"""


@pytest.mark.parametrize(
    ("word", "reason"), [(word, reason) for reason in MAPPED for word in MAPPED[reason].split()]
)
def test_word_is_mapped_to_reason(word: str, reason: str) -> None:
    assert finish_reason(word, called=True) == (reason, {"native_finish_reason": word})


@pytest.mark.parametrize("word", FAILURES.split())
def test_failure_word_raises_provider_error(word: str) -> None:
    with pytest.raises(ProviderError, match=word):
        finish_reason(word)


@pytest.mark.parametrize(
    "word", ["", None, "null", "None", "undefined", "UNSPECIFIED", "FINISH_REASON_UNSPECIFIED"]
)
def test_empty_or_unspecified_reason_is_no_finish(word: str | None) -> None:
    assert not is_finish(word)
    assert is_finish("stop") and is_finish({"type": "abort"})
