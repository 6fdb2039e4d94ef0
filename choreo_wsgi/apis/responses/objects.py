"""The objects in the events of the Responses API."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

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


def logprob_objects(tokens: Iterable[Json], whole: bool = True) -> list[Json]:
    """Return the *tokens* of chat's ``logprobs``: with bytes in a *whole* part, not in an event."""

    def told(one: Mapping[str, Json]) -> dict[str, Json]:
        token = str(one.get("token") or "")
        made = {"token": token, "logprob": one.get("logprob") or 0.0}
        if whole:
            made["bytes"] = one.get("bytes") or list(token.encode("utf-8", "replace"))
        return made

    return [
        {**told(one), "top_logprobs": list(map(told, one.get("top_logprobs") or ()))}
        for one in tokens
        if isinstance(one, dict)
    ]


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
