"""Tool calls merged from the pieces of providers that number them in other ways."""

from __future__ import annotations

from typing import Any

import pytest

from choreo_wsgi.chat.calls import ToolCalls
from choreo_wsgi.chat.normalise import Normaliser
from choreo_wsgi.errors import UpstreamInvalid


def piece(arguments: Any = "", index: int = 0, name: str = "f") -> dict[str, Any]:
    function = {"name": name, "arguments": arguments}
    return {"index": index, "id": f"c{index}", "type": "function", "function": function}


def test_number_of_tool_calls_is_limited() -> None:
    calls = ToolCalls()
    assert len(calls.normalise([piece(index=index) for index in range(4096)])) == 4096
    with pytest.raises(UpstreamInvalid, match="more than 4,096"):
        calls.normalise([piece(index=4096)])


def test_empty_list_of_arguments_adds_nothing() -> None:
    calls = ToolCalls()
    pieces = [piece([]), piece('{"a":', name=""), piece([], name=""), piece("1}", name="")]
    received = [one["function"]["arguments"] for one in calls.normalise(pieces)]
    assert "".join(received) == '{"a":1}'


def test_call_without_name_and_arguments_is_an_error_if_it_is_the_only_one() -> None:
    for first, valid in (([], False), ([piece("{}")], True)):
        calls = ToolCalls()
        calls.normalise([*first, {"index": 7, "id": "c7"}])
        if valid:
            assert calls.close() == []
        else:
            with pytest.raises(UpstreamInvalid, match="has no name"):
                calls.close()


def test_error_quotes_64_characters_of_the_name() -> None:
    calls = ToolCalls()
    calls.normalise([piece("{", name="f" * 100)])
    with pytest.raises(UpstreamInvalid, match=r"call of 'f{64}' has broken arguments"):
        calls.close()


def test_null_members_of_a_call_are_dropped() -> None:
    extra = {"extra_content": None, "thought": {"signature": "s"}}
    assert ToolCalls().normalise([{**piece(), **extra}]) == [
        {**piece(), "thought": {"signature": "s"}}
    ]


def test_tool_calls_win_over_a_legacy_function_call() -> None:
    delta = {"function_call": {"name": "f", "arguments": "{}"}, "tool_calls": [piece("{}")]}
    chunks, _ = Normaliser(tools=frozenset("f")).normalise({"choices": [{"delta": delta}]})
    assert chunks[0]["choices"][0]["delta"]["tool_calls"] == [piece("{}")]
