"""Whole completions: those in which nothing is wrong need no second look."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest

from choreo_wsgi.chat import completion
from choreo_wsgi.chat.completion import normalise_completion

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
    *(None, "", "x", 0, 1, 2, True, 1.0, [], {}, [{}], {"index": 0}, "assistant", "tool_calls"),
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


def test_a_look_at_the_members_decides_as_the_normaliser_does(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    quick: list[int] = []
    look: Callable[[dict[str, Any]], bool] = completion._is_right
    for place in range(len(places(GOOD))):
        for name in [*places(GOOD)[place], *NAMES]:
            for value in [*VALUES, ...]:
                reply = copy.deepcopy(GOOD)
                if value is ...:
                    places(reply)[place].pop(name, None)
                else:
                    places(reply)[place][name] = value
                monkeypatch.setattr(completion, "_is_right", lambda reply: False)
                slowly = outcome(reply)
                monkeypatch.setattr(completion, "_is_right", look)
                assert repr(outcome(reply)) == repr(slowly), (place, name, value)
                quick.append(isinstance(slowly, tuple) and look(reply))
    assert 0 < sum(quick) < len(quick)
