"""Chunks of nearly compatible servers: identity, missing members, usage and late members."""

from __future__ import annotations

from typing import Any

import pytest

from choreo_wsgi.chat.normalise import Normaliser
from choreo_wsgi.chat.shapes import reshape
from choreo_wsgi.errors import UpstreamInvalid

USAGE = {"prompt_tokens": 1, "completion_tokens": 2, "total_tokens": 3}


def chunk(delta: Any = None, reason: Any = None, **more: Any) -> dict[str, Any]:
    return {"id": "x", "choices": [{"index": 0, "delta": delta, "finish_reason": reason}], **more}


def sent_at_end(*chunks: dict[str, Any], n: int = 1) -> list[dict[str, Any]]:
    """Return the chunks that *end* sends after *chunks* and ``[DONE]``."""
    normaliser = Normaliser(n)
    for one in chunks:
        normaliser.normalise(one)
    normaliser.mark_done()
    return normaliser.end(include_usage=True)


def test_members_beside_usage_or_after_the_finish_are_sent_last() -> None:
    content, finish = chunk({"content": "a"}), chunk({}, "stop")
    (last,) = sent_at_end(content, {"choices": [], "usage": USAGE, "timings": 1}, finish)
    assert (last["usage"], last["timings"]) == (USAGE, 1)
    content, finish = chunk({"content": "a"}), chunk({}, "stop")
    (last,) = sent_at_end(content, {"choices": [], "x": 1}, finish, {"choices": [], "timings": 1})
    assert last["timings"] == 1 and "x" not in last


def test_choice_without_a_chunk_is_finished_with_its_role() -> None:
    both = [{"index": 0, "delta": {"content": "a"}}, {"index": 1, "delta": None}]
    first, second = sent_at_end({"id": "x", "choices": both}, n=2)
    assert first["choices"][0]["delta"] == {}
    assert second["choices"] == [
        {"index": 1, "delta": {"role": "assistant"}, "finish_reason": "stop"}
    ]


def test_empty_identity_is_replaced() -> None:
    identity = {"id": "i", "created": 5, "model": "m"}
    empty = chunk({"content": "a"}) | {"id": "", "created": 0, "model": ""}
    ((sent,), _) = Normaliser(identity=identity).normalise(empty)
    assert identity.items() <= sent.items()


def test_second_choice_without_index_is_an_error() -> None:
    two = {"id": "x", "choices": [{"delta": {"content": "a"}}, {"delta": {"content": "b"}}]}
    with pytest.raises(UpstreamInvalid, match="not requested"):
        Normaliser().normalise(two)


def test_empty_chunk_is_sent_only_with_an_id() -> None:
    assert Normaliser().normalise(chunk({}) | {"id": ""})[0] == []
    assert len(Normaliser().normalise(chunk({}))[0]) == 1


def test_null_usage_in_a_choice_does_not_replace_the_chunks_usage() -> None:
    normaliser = Normaliser()
    both = chunk({"content": "a"}, usage=dict(USAGE))
    both["choices"][0]["usage"] = None
    normaliser.normalise(both)
    assert normaliser.usage == USAGE


def test_without_repair_only_a_chunk_of_usage_alone_is_dropped() -> None:
    normaliser = Normaliser(repair=False)
    assert len(normaliser.normalise(chunk({"content": "a"}, usage=dict(USAGE)))[0]) == 1
    assert len(normaliser.normalise(chunk({}, "stop", usage=dict(USAGE)))[0]) == 1
    assert normaliser.normalise(chunk({}, usage=dict(USAGE)))[0] == []


def test_details_do_not_replace_reasoning_content() -> None:
    message = {"content": "", "reasoning_content": "a", "reasoning_details": [{"text": "b"}]}
    reshape(message)
    assert message["reasoning_content"] == "a"


def test_only_a_true_thought_makes_text_reasoning() -> None:
    message: dict[str, Any] = {"content": [{"type": "text", "text": "a", "thought": "signature"}]}
    reshape(message)
    assert message == {"content": "a"}
