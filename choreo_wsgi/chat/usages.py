"""Finds and completes the ``usage`` of servers that nearly speak OpenAI's API."""

from __future__ import annotations

from .items import Json
from .jsontext import count
from .shapes import Members

#: The members of ``usage`` that the schema requires.
_COUNTS = ("prompt_tokens", "completion_tokens", "total_tokens")
_COUNTED_AS = (
    (
        *("prompt_tokens", "input_tokens", "promptTokens", "inputTokens", "prompt_eval_count"),
        *("promptTokenCount", "prompt_token_count", "inputTokenCount", "input_token_count"),
    ),
    (
        *("completion_tokens", "output_tokens", "completionTokens", "outputTokens", "eval_count"),
        *("candidatesTokenCount", "candidates_token_count", "outputTokenCount"),
        *("output_token_count", "generated_tokens"),
    ),
    ("total_tokens", "totalTokens", "totalTokenCount", "total_token_count"),
)
_COUNTED = {name for names in _COUNTED_AS for name in names}
#: Members that hold the counts instead of ``usage``; Ollama's counts are in the chunk itself.
PLACES = {"usageMetadata", "usage_metadata", "token_usage", "tokenUsage"}
_BESIDE = {"prompt_eval_count", "eval_count"}


def take_usage(chunk: Members) -> Json:
    """Remove the usage from *chunk* and return it, None for none; ``usage`` remains as null."""
    found = chunk.get("usage")
    if found is not None:
        chunk["usage"] = None
    elif isinstance(chunk.get("x_groq"), dict):
        found = chunk["x_groq"].pop("usage", None)
    elif places := PLACES & chunk.keys():
        found = chunk.pop(places.pop())
    elif chunk.keys() >= _BESIDE:
        found = {name: chunk.pop(name) for name in _BESIDE}
    return found


def counts_anything(usage: Json) -> bool:
    """Return whether *usage* has a count under any known name."""
    return isinstance(usage, dict) and not _COUNTED.isdisjoint(usage)


def complete_usage(usage: Members) -> Members:
    """Return *usage* with the three counts that the schema requires.

    A total that the provider reports is kept, even if it is not the sum.
    """
    if {*map(type, map(usage.get, _COUNTS))} == {int} and min(map(usage.__getitem__, _COUNTS)) >= 0:
        return usage
    prompt, completion, total = (
        next((n for name in names if (n := count(usage.get(name))) is not None), None)
        for names in _COUNTED_AS
    )
    if total is None:
        total = (prompt or 0) + (completion or 0)
    counts = {"prompt_tokens": prompt or 0, "completion_tokens": completion or 0}
    counts["total_tokens"] = total
    return {**usage, **counts}
