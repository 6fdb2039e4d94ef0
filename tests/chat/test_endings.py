"""Finish reasons in providers' words."""

from __future__ import annotations

import pytest

from choreo_wsgi.chat.endings import FINISH_REASONS, MEANINGS, finish_reason, is_finish
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


#: In words of the table, and in words that only hold one that is known.
SAID = {
    "length": """context_length_exceeded error_limit max_context_length max_length
        max_output_tokens max_token max_new_tokens model_context_window_exceeded out_of_context
        token_limit max_thinking_tokens tokenLimitReached context_window_full budget_used""",
    "content_filter": """block blocked blocklist content_filtered content_policy error_toxic
        flagged guardrail image_prohibited_content image_recitation image_safety model_armor
        moderation prohibited_content recitation refusal refused sensitive spii input_filter
        prohibitedUse usage_policy moderated""",
    "tool_calls": "call function_calls tool tool_call tool_use tools use_function",
}
FAILED = """abort aborted error image_other insufficient_system_resource interrupted language
    missing_thought_signature network_error no_image other overloaded timed_out timeout
    too_many_tool_calls unexpected_tool_call aborting failed invalid_output time_out canceled
    crashed exception insufficient_memory unavailable unexpected interruption disconnected
    rate_limited killed evicted preempted expired out_of_memory worker_oom quota_reached
    corrupted lost"""


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
