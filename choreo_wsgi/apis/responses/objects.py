"""The objects in the events of the Responses API."""

from __future__ import annotations

from ...chat import jsontext
from ...chat.items import Json, Usage

#: What a response repeats of its request, and what stands there when it was not said.
REPEATED: dict[str, Json] = {
    "instructions": None,
    "metadata": {},
    "parallel_tool_calls": True,
    "temperature": None,
    "tool_choice": "auto",
    "tools": [],
    "top_p": None,
    "background": False,
    "max_output_tokens": None,
    "max_tool_calls": None,
    "previous_response_id": None,
    "prompt_cache_key": None,
    "reasoning": {"effort": None, "summary": None},
    "safety_identifier": None,
    "service_tier": None,
    "store": False,
    "text": {"format": {"type": "text"}},
    "top_logprobs": 0,
    "truncation": "disabled",
    "user": None,
}


def part_object(kind: str, text: str) -> dict[str, Json]:
    """Return the content part, or the part of a summary, that holds *text*."""
    if kind == "output_text":
        return {"type": kind, "text": text, "annotations": [], "logprobs": []}
    if kind == "refusal":
        return {"type": kind, "refusal": text}
    return {"type": "summary_text" if kind == "reasoning_summary_text" else kind, "text": text}


def custom_input(arguments: str) -> str:
    """Return the text in the arguments of a function that stands for a custom tool."""
    try:
        return str(jsontext.parse(arguments)["input"])
    except (ValueError, KeyError, TypeError):
        return arguments


def usage_object(usage: Usage | None) -> dict[str, Json] | None:
    """Return the ``usage`` of a response; None when the provider did not report any."""
    if usage is None:
        return None
    return {
        "input_tokens": usage.prompt_tokens,
        "input_tokens_details": {
            "cached_tokens": usage.cached_tokens or 0,
            "cache_write_tokens": usage.cache_write_tokens or 0,
        },
        "output_tokens": usage.completion_tokens,
        "output_tokens_details": {"reasoning_tokens": usage.reasoning_tokens or 0},
        "total_tokens": usage.total,
    }
