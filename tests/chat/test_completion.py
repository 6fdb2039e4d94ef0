"""Whole completions: those in which nothing is wrong need no second look."""

from __future__ import annotations

import copy
from typing import Any

from choreo_wsgi.chat.completion import is_usual, normalise_completion
from choreo_wsgi.providers.reading import find_error, unwrapped

IDENTITY = {"id": "chatcmpl-x", "created": 7, "model": "m"}
GOOD: dict[str, Any] = {
    "id": "chatcmpl-1",
    "object": "chat.completion",
    "created": 1,
    "model": "gpt-4",
    "choices": [
        {
            "index": 0,
            "message": {"role": "assistant", "content": "hi", "refusal": None, "annotations": []},
            "logprobs": None,
            "finish_reason": "stop",
        },
        {"index": 1, "message": {"role": "assistant", "content": "ho"}, "finish_reason": "length"},
    ],
    "usage": {"prompt_tokens": 1, "completion_tokens": 2, "total_tokens": 3},
    "system_fingerprint": None,
}
VALUES = [
    *(None, "", "x", -1, 0, 1, 2, True, 1.0, [], {}, [{}], {"index": 0}, "assistant", "tool_calls"),
    *(
        "stop",
        "function_call",
        "eos",
        {"type": "text", "text": "x"},
        [{"type": "text", "text": "x"}],
    ),
]
NAMES = [
    *("tool_calls", "function_call", "audio", "reasoning", "reasoning_content", "thinking", "text"),
    *("reasoning_text", "delta", "usage", "x_groq", "error", "refusal", "index", "images", "role"),
    *("content", "message", "finish_reason", "logprobs", "id", "total_tokens", "prompt_tokens"),
]


def places(value: Any) -> list[dict[str, Any]]:
    """Return every object inside of *value*, itself included."""
    inside = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    own = [value] if isinstance(value, dict) else []
    return own + [place for one in inside for place in places(one)]


def outcome(reply: dict[str, Any]) -> Any:
    """Return what becomes of *reply*, or the name of the error."""
    try:
        return normalise_completion(copy.deepcopy(reply), IDENTITY, lambda: "call_1")
    except Exception as error:
        return type(error).__name__


def test_a_good_one_is_returned_as_it_is() -> None:
    reply = copy.deepcopy(GOOD)
    made, usage = normalise_completion(reply, IDENTITY)
    assert made is reply
    assert usage == GOOD["usage"]
    assert is_usual(reply)


def test_what_looks_right_is_what_the_normaliser_leaves_as_it_is() -> None:
    quick: list[int] = []
    for place in range(len(places(GOOD))):
        for name in [*places(GOOD)[place], *NAMES]:
            for value in [*VALUES, ...]:
                reply = copy.deepcopy(GOOD)
                if value is ...:
                    places(reply)[place].pop(name, None)
                else:
                    places(reply)[place][name] = value
                quick.append(is_usual(reply))
                if quick[-1]:
                    asked = (place, name, value)
                    assert repr(outcome(reply)) == repr((reply, reply["usage"])), asked
                    assert unwrapped(reply) is reply and find_error(reply) is None, asked
    assert 0 < sum(quick) < len(quick)
