"""Whole completions: valid ones pass the normaliser unchanged."""

from __future__ import annotations

import copy
from typing import Any

from choreo_wsgi.chat.completion import is_usual, normalise_completion
from choreo_wsgi.chat.normalise import Normaliser
from choreo_wsgi.providers.reading import find_error, unwrapped

IDENTITY = {"id": "chatcmpl-x", "created": 7, "model": "m"}
VALID: dict[str, Any] = {
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


def objects(value: Any) -> list[dict[str, Any]]:
    """Return every JSON object inside *value*, including itself."""
    inside = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    own = [value] if isinstance(value, dict) else []
    return own + [found for member in inside for found in objects(member)]


def outcome(reply: dict[str, Any]) -> Any:
    """Return the normalised *reply*, or the name of the error."""
    try:
        return normalise_completion(copy.deepcopy(reply), IDENTITY, lambda: "call_1")
    except Exception as error:
        return type(error).__name__


def test_valid_completion_is_returned_unchanged() -> None:
    reply = copy.deepcopy(VALID)
    normalised, usage = normalise_completion(reply, IDENTITY)
    assert normalised is reply
    assert usage == VALID["usage"]
    assert is_usual(reply)


def test_usual_completions_are_those_the_normaliser_leaves_unchanged() -> None:
    usual: list[int] = []
    for position in range(len(objects(VALID))):
        for name in [*objects(VALID)[position], *NAMES]:
            for value in [*VALUES, ...]:
                reply = copy.deepcopy(VALID)
                if value is ...:
                    objects(reply)[position].pop(name, None)
                else:
                    objects(reply)[position][name] = value
                usual.append(is_usual(reply))
                if usual[-1]:
                    change = (position, name, value)
                    assert repr(outcome(reply)) == repr((reply, reply["usage"])), change
                    assert unwrapped(reply) is reply and find_error(reply) is None, change
    assert 0 < sum(usual) < len(usual)


def test_float_counts_become_integers() -> None:
    floats = {name: float(count) for name, count in VALID["usage"].items()}
    normalised, _ = normalise_completion({**VALID, "usage": floats}, IDENTITY)
    assert str(normalised["usage"]) == str(VALID["usage"])


def test_usage_without_counts_is_dropped() -> None:
    normalised, usage = normalise_completion({**VALID, "usage": {"x": 1}}, IDENTITY)
    assert "usage" not in normalised and usage is None


def test_message_with_calls_alone_has_null_content() -> None:
    call = {"id": "c", "type": "function", "function": {"name": "f", "arguments": "{}"}}
    choice = {"index": 0, "message": {"tool_calls": [call]}, "finish_reason": "tool_calls"}
    normalised, _ = normalise_completion({**VALID, "choices": [choice]}, IDENTITY)
    message = {"role": "assistant", "content": None, "tool_calls": [call]}
    assert normalised["choices"] == [{**choice, "message": message}]


def test_chunk_with_odd_logprobs_and_two_finish_reasons_is_mended() -> None:
    choice = {"delta": {"finish_reason": "stop"}, "finish_reason": "length", "logprobs": [1]}
    chunks, _ = Normaliser().normalise({"choices": [choice]})
    assert chunks[0]["choices"][0]["finish_reason"] == "length"
    assert chunks[0]["choices"][0]["logprobs"] is None
