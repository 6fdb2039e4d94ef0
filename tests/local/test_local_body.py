"""The request body sent to llama.cpp: forwarded, translated, dropped and rejected fields."""

from __future__ import annotations

import json
from typing import Any

import pytest
from local_helpers import request

from choreo_wsgi.chat.request import ChatRequest
from choreo_wsgi.errors import InvalidRequest
from choreo_wsgi.local.passing import BODIES
from choreo_wsgi.local.request import chat_body, tool_members, with_seed


def body_of(*, default: int = 512, limit: int = 2048, **fields: Any) -> dict[str, Any]:
    return chat_body(request(**fields), 2048, default, limit)


def test_forwards_only_known_fields() -> None:
    known = {
        "temperature": 0.5,
        "top_p": 0.9,
        "presence_penalty": 1,
        "frequency_penalty": -1,
        "logit_bias": {"5": -100},
        "response_format": {"type": "json_object"},
        "seed": 7,
    }
    unknown = {
        "lora": [{"id": 0, "scale": 1}],
        "id_slot": 1,
        "samplers": ["top_k"],
        "grammar": "root ::= [a]*",
        "n_predict": -1,
        "cache_prompt": False,
        "user": "somebody",
        "metadata": {"a": "b"},
    }
    assert body_of(**known, **unknown) == {
        **known,
        "messages": [{"role": "user", "content": "Say hello."}],
        "max_tokens": 512,
        "stream": True,
        "stream_options": {"include_usage": True},
        "return_progress": True,
        "timings_per_token": True,
    }


def test_null_fields_are_dropped() -> None:
    assert body_of(temperature=None, seed=None, stop=None) == body_of()


@pytest.mark.parametrize(
    ("fields", "sent"),
    [
        ({}, 512),
        ({"max_tokens": 3}, 3),
        ({"max_tokens": 10**9}, 2048),
        ({"max_completion_tokens": 4, "max_tokens": 3}, 4),
    ],
)
def test_max_tokens_has_a_default_and_a_maximum(fields: dict[str, Any], sent: int) -> None:
    assert body_of(**fields)["max_tokens"] == sent


@pytest.mark.parametrize(("seed", "sent"), [(0, 0), (-1, 2**32 - 2), (2**32 - 1, 0)])
def test_seed_is_reduced_to_32_bits_without_the_random_value(seed: int, sent: int) -> None:
    assert body_of(seed=seed)["seed"] == sent


def test_legacy_completion_has_the_same_limits() -> None:
    completions_body = BODIES["completions"]

    def body(**fields: Any) -> dict[str, Any]:
        legacy = ChatRequest("m", [], {}, original={"model": "m", "prompt": "x", **fields})
        return completions_body(legacy, 8, 512, 2048)

    assert body() == {"prompt": "x", "max_tokens": 512}
    kept = {"stop": ["a"], "seed": 1, "n": 2, "stream": True, "temperature": 1, "logprobs": 2}
    assert repr(body(**{**kept, "logprobs": 2.0, "user": "u"})["logprobs"]) == "2"
    assert body(**kept, user="u") == {**kept, "prompt": "x", "max_tokens": 512}
    texts = {"input": ["x"], "encoding_format": "base64"}
    embedding = ChatRequest("m", [], {}, original={"model": "m", **texts})
    assert BODIES["embeddings"](embedding, 8, 512, 2048) == texts
    assert body(max_tokens=10**9)["max_tokens"] == 2048
    assert body(seed=2**32 - 1)["seed"] == 0
    assert body(echo=False, suffix="", best_of=1) == body()
    for fields, param in (
        ({"prompt": ["x"] * 65, "n": 2}, "prompt"),
        ({"prompt": ["x", "y" * 8 * 257]}, "prompt"),
        ({"max_tokens": 0}, "max_tokens"),
    ):
        with pytest.raises(InvalidRequest) as caught:
            body(**fields)
        assert caught.value.param == param
    many = ChatRequest("m", [], {}, original={"model": "m", "input": ["x"] * 2049})
    with pytest.raises(InvalidRequest, match="at most 2048 at once"):
        BODIES["embeddings"](many, 8, 512, 2048)


def test_each_choice_has_its_own_seed() -> None:
    body = body_of(seed=2**32 - 3)
    assert [with_seed(body, choice)["seed"] for choice in range(3)] == [2**32 - 3, 2**32 - 2, 0]
    assert "seed" not in with_seed(body_of(), 1)


def test_message_content_is_joined_to_text() -> None:
    messages = [
        {"role": "developer", "content": "Be brief."},
        {
            "role": "user",
            "content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}],
            "name": None,
        },
        {
            "role": "assistant",
            "content": None,
            "tool_calls": [
                {"id": "c", "type": "function", "function": {"name": "f", "arguments": "{}"}}
            ],
        },
        {"role": "tool", "tool_call_id": "c", "content": "done"},
        {"role": "assistant", "content": [{"type": "refusal", "refusal": "no"}]},
    ]
    sent = body_of(messages=messages)["messages"]
    assert sent[0] == {"role": "system", "content": "Be brief."}
    assert sent[1] == {"role": "user", "content": "a\nb"}
    assert sent[2] == {**messages[2], "content": ""}
    assert sent[3] == messages[3]
    assert sent[4] == {"role": "assistant", "content": "no"}


def test_unknown_message_fields_are_dropped() -> None:
    message = {"role": "user", "content": "a", "prefix": True, "media": "/etc/passwd"}
    assert body_of(messages=[message])["messages"] == [{"role": "user", "content": "a"}]


def test_images_are_rejected() -> None:
    image = {"type": "image_url", "image_url": {"url": "http://127.0.0.1/secret"}}
    parts = [{"type": "text", "text": "What is this?"}, image]
    with pytest.raises(InvalidRequest) as caught:
        body_of(messages=[{"role": "user", "content": parts}])
    assert caught.value.param == "messages[0].content[1]"


def test_text_too_long_for_the_context_is_rejected() -> None:
    with pytest.raises(InvalidRequest) as caught:
        body_of(text="x" * (2048 * 256))
    assert caught.value.param == "messages"


def test_large_schema_is_rejected() -> None:
    schema = {"name": "wide", "description": "", "schema": {"type": "object"}}
    form = {"type": "json_schema", "json_schema": schema}
    schema["description"] = "x" * (8192 - len(json.dumps(form)))
    assert body_of(response_format=form)["response_format"] == form
    schema["description"] += "x"  # type: ignore[operator]
    with pytest.raises(InvalidRequest) as caught:
        body_of(response_format=form)
    assert caught.value.param == "response_format"


def tool(name: str) -> dict[str, Any]:
    return {"type": "function", "function": {"name": name, "parameters": {"type": "object"}}}


def named(name: str) -> dict[str, Any]:
    return {"type": "function", "function": {"name": name}}


def allowed(mode: str, *names: str) -> dict[str, Any]:
    tools = {"mode": mode, "tools": [named(name) for name in names]}
    return {"type": "allowed_tools", "allowed_tools": tools}


@pytest.mark.parametrize(
    ("fields", "members"),
    [
        ({}, {}),
        ({"tools": []}, {}),
        ({"tools": [tool("f")], "tool_choice": "none"}, {}),
        ({"tools": [tool("f")]}, {"tools": [tool("f")], "tool_choice": "auto"}),
        (
            {"tools": [tool("f"), tool("g")], "tool_choice": named("g")},
            {"tools": [tool("g")], "tool_choice": "required"},
        ),
        (
            {"tools": [tool("f"), tool("g")], "tool_choice": allowed("required", "g")},
            {"tools": [tool("g")], "tool_choice": "required"},
        ),
        ({"tools": [tool("f")], "tool_choice": allowed("auto")}, {}),
        (
            {"tools": [tool("f")], "tool_choice": "required", "parallel_tool_calls": False},
            {"tools": [tool("f")], "tool_choice": "required", "parallel_tool_calls": False},
        ),
    ],
)
def test_tools_and_tool_choice_are_translated(
    fields: dict[str, Any], members: dict[str, Any]
) -> None:
    assert tool_members(request(**fields)) == members


def test_unsupported_tools_are_rejected() -> None:
    custom = {"type": "custom", "custom": {"name": "f"}}
    for fields, param in (
        ({"tools": [custom]}, "tools[0].type"),
        ({"tools": [tool("f")], "tool_choice": allowed("any", "f")}, "tool_choice"),
        ({"tools": [tool("f")], "tool_choice": allowed("auto", "g")}, "tool_choice"),
    ):
        with pytest.raises(InvalidRequest) as caught:
            body_of(**fields), tool_members(request(**fields))
        assert str(caught.value.param).startswith(param)
