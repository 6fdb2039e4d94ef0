"""Translates the finish reasons of providers to those of OpenAI's API.

OpenAI's API has four finish reasons, and ``function_call`` for the legacy way of calling.  Other
providers use other words, and some report there that the answer failed.
"""

from __future__ import annotations

import re
from typing import Any

from ..errors import ProviderError, UpstreamInvalid
from .shapes import text_of

#: The last event of a response of OpenAI's Responses API is one of these.
RESPONSE_ENDINGS = ("response.completed", "response.incomplete", "response.failed")
#: The finish reasons of OpenAI's API, https://platform.openai.com/docs/api-reference/chat.
FINISH_REASONS = frozenset(("stop", "length", "tool_calls", "content_filter", "function_call"))

#: The words of other providers for each reason, in lower case and joined with ``_``.
MEANINGS = {
    "stop": """
        complete completed done end end_of_text end_of_turn end_turn eos eos_token eot finish
        finished normal pause_turn stop_sequence stop_string stop_token stop_word success
    """,
    "length": """
        context_length_exceeded error_limit incomplete max_context_length max_length
        max_output_tokens max_token max_tokens max_new_tokens model_context_window_exceeded
        model_length out_of_context token_limit truncated
    """,
    "tool_calls": "call function_calls tool tool_call tool_use tools",
    "content_filter": """
        block blocked blocklist content_filtered content_policy error_toxic flagged
        guardrail guardrail_intervened image_prohibited_content image_recitation image_safety
        model_armor moderation prohibited_content recitation refusal refused safety sensitive
        spii
    """,
    # The answer is incomplete or unusable: an error.
    "": """
        abort aborted error image_other insufficient_system_resource interrupted language
        missing_thought_signature network_error no_image other overloaded timed_out timeout
        too_many_tool_calls unexpected_tool_call
    """,
}
#: Members that may hold a finish reason; there may be several of them.
FINISHES = ("finish_reason", "finishReason", "stop_reason", "done_reason", "finish_details")
#: Words that are sent for null, while a choice continues (DashScope, Vertex AI, Python templates).
_NULLS = frozenset(("null", "none", "undefined", "unspecified", "finish_reason_unspecified"))
_MEANING = {word: reason for reason, words in MEANINGS.items() for word in words.split()}
# Patterns for other words, and their reasons; the first match counts.
_PATTERNS = (
    (re.compile("error|abort|fail|malformed|invalid|time_?d?_?out|cancel|crash|exception"), ""),
    (
        re.compile("insufficient|unavailable|overload|unexpected|interrupt|disconnect|rate_limit"),
        "",
    ),
    (re.compile("killed|evict|preempt|expire|out_of_memory|(^|_)oom($|_)|quota|corrupt|lost"), ""),
    (re.compile("filter|safety|prohibit|policy|moderat|block|refus|guardrail"), "content_filter"),
    (re.compile("max_.*token|token_?limit|length|context_window|budget"), "length"),
    (re.compile("tool|function"), "tool_calls"),
)
#: Characters of a provider's word that are matched and quoted.
_LONGEST = 200
_SEPARATORS = re.compile(r"[\s.-]+")
_CAMEL = re.compile(r"(?<=[a-z])(?=[A-Z])")


def finish_reason(
    word: Any, called: bool = False, message: str = ""
) -> tuple[str, dict[str, Any] | None]:
    """Return OpenAI's finish reason for a provider's *word*, and more members of the choice.

    SGLang sends an object, ``{"type": "abort", "message": ...}``; true is a stop.  *called* is
    whether the choice has tool calls: if so, ``stop`` becomes ``tool_calls``, and if not,
    ``tool_calls`` becomes ``stop``.  The second value is ``{"native_finish_reason": word}``, or
    None for OpenAI's own words.  An unknown word counts as ``stop``.

    Raises ProviderError, with the provider's *message* if there is one, for a word that means
    failure, and UpstreamInvalid for any other type.
    """
    if isinstance(word, list) and len(word) == 1:
        word = word[0]
    if isinstance(word, dict):
        message = text_of(word.get("message"))
        word = text_of(word.get("type") or word.get("reason")) or "error"
    word = "stop" if word is True else word
    if not isinstance(word, str):
        raise UpstreamInvalid("the provider's finish reason is not a string")
    reason = word if word in FINISH_REASONS else _meaning(word)
    if not reason:
        raise ProviderError(message or f"the provider ended its answer with {word[:_LONGEST]!r}")
    if called and reason in ("stop", "function_call"):
        reason = "tool_calls"
    elif reason == "tool_calls" and not called:
        reason = "stop"
    return reason, None if word in FINISH_REASONS else {"native_finish_reason": word[:_LONGEST]}


def reason_in(holder: dict[str, Any]) -> Any:
    """Return the finish reason in *holder*, a choice or a chunk, under any of its names."""
    return next(filter(None, map(holder.get, FINISHES)), holder.get("finish_reason"))


def is_finish(word: Any) -> bool:
    """Return whether *word*, a provider's finish reason, ends the choice."""
    return bool(word) and not (isinstance(word, str) and word.lower() in _NULLS)


def _meaning(word: str) -> str:
    """Return OpenAI's finish reason for *word*, ``""`` for a failure."""
    plain = _SEPARATORS.sub("_", _CAMEL.sub("_", word[:_LONGEST].strip())).lower()
    if plain in FINISH_REASONS:
        return plain
    if plain in _MEANING:
        return _MEANING[plain]
    return next((reason for pattern, reason in _PATTERNS if pattern.search(plain)), "stop")
