"""The table of what each provider supports is true in every cell."""

from __future__ import annotations

import json
from typing import Any

import pytest
from adapter_requests import request, sent
from openai.types.chat.completion_create_params import CompletionCreateParamsBase

from choreo_wsgi.errors import InvalidRequest
from choreo_wsgi.providers.http import HTTPProvider
from choreo_wsgi.providers.registry import provider_class
from choreo_wsgi.providers.support import COLUMNS, PROVIDERS, TABLE, Row
from choreo_wsgi.settings import Settings

TOOL = {"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}
PNG = "data:image/png;base64,iVBORw0KGgo="


def part(kind: str, value: Any) -> dict[str, Any]:
    content = [{"type": "text", "text": "hi"}, {"type": kind, kind: value}]
    return {"messages": [{"role": "user", "content": content}]}


#: Fields of a request that uses the parameter of each row.
SAMPLES: dict[str, dict[str, Any]] = {
    "temperature": {"temperature": 0.5},
    "top_p": {"top_p": 0.5},
    "top_k": {"top_k": 40},
    "max_tokens": {"max_tokens": 7},
    "stop": {"stop": ["END"]},
    "seed": {"seed": 7},
    "n": {"n": 2},
    "tools": {"tools": [TOOL]},
    "tool_choice": {"tools": [TOOL], "tool_choice": "none"},
    "parallel_tool_calls": {"tools": [TOOL], "parallel_tool_calls": False},
    "response_format": {
        "response_format": {"type": "json_schema", "json_schema": {"name": "n", "schema": {}}}
    },
    "reasoning_effort": {"reasoning_effort": "low"},
    "thinking": {"thinking": {"type": "enabled", "budget_tokens": 2000}},
    "cache_control": {"cache_control": {"type": "ephemeral"}},
    "frequency_penalty": {"frequency_penalty": 1},
    "presence_penalty": {"presence_penalty": 1},
    "logit_bias": {"logit_bias": {"5": 1}},
    "logprobs": {"logprobs": True},
    "top_logprobs": {"top_logprobs": 2},
    "modalities": {"modalities": ["text", "image"]},
    "audio": {"audio": {"voice": "alloy", "format": "mp3"}},
    "functions": {"functions": [{"name": "f"}]},
    "function_call": {"function_call": {"name": "f"}},
    "web_search_options": {"web_search_options": {}},
    "moderation": {"moderation": {"model": "m"}},
    "prediction": {"prediction": {"type": "content", "content": "x"}},
    "verbosity": {"verbosity": "low"},
    "prompt_cache_key": {"prompt_cache_key": "k"},
    "prompt_cache_options": {"prompt_cache_options": {"mode": "auto"}},
    "prompt_cache_retention": {"prompt_cache_retention": "24h"},
    "service_tier": {"service_tier": "flex"},
    "safety_identifier": {"safety_identifier": "s"},
    "user": {"user": "u"},
    "metadata": {"metadata": {"a": "b"}},
    "store": {"store": True},
}


def test_every_row_has_a_sample() -> None:
    assert [row.name for row in TABLE] == list(SAMPLES)


def test_every_parameter_of_openai_is_in_the_table() -> None:
    """As in its SDK, except those that the server itself handles."""
    theirs = set(CompletionCreateParamsBase.__annotations__)
    done = {"model", "messages", "stream", "stream_options", "max_completion_tokens"}
    assert theirs - done <= {row.name for row in TABLE}


@pytest.mark.parametrize("type", COLUMNS)
@pytest.mark.parametrize("row", TABLE, ids=lambda row: row.name)
def test_parameters_are_handled_as_in_the_table(row: Row, type: str) -> None:
    sample, cell = SAMPLES[row.name], row.cells[type]
    rest = {key: value for key, value in sample.items() if key == "tools" and row.name != "tools"}
    if cell.how == "refused":
        with pytest.raises(InvalidRequest) as caught:
            sent(type, **sample)
        assert caught.value.status == 400
        assert caught.value.param == row.name
        assert type in caught.value.message
        return
    changed = sent(type, **sample) != sent(type, **rest)
    assert changed == (cell.how == "sent" or row.name == "tool_choice")


@pytest.mark.parametrize("type", COLUMNS)
def test_neutral_values_are_never_rejected(type: str) -> None:
    for row in TABLE:
        for value in (*row.neutral, *([None] if row.name in SAMPLES[row.name] else [])):
            sent(type, **{row.name: value})


@pytest.mark.parametrize("type", COLUMNS)
def test_rejects_values_over_the_maximum_of_a_cell(type: str) -> None:
    for row in TABLE:
        maximum = row.cells[type].maximum
        if maximum is not None:
            sent(type, **{row.name: maximum})
            with pytest.raises(InvalidRequest) as caught:
                sent(type, **{row.name: maximum + 0.1})
            assert caught.value.param == row.name


REJECTED: list[tuple[str, dict[str, Any], str]] = [
    ("anthropic", {"response_format": {"type": "json_object"}}, "response_format.type"),
    ("bedrock", {"response_format": {"type": "json_object"}}, "response_format.type"),
    ("ollama", {"tools": [TOOL], "tool_choice": "required"}, "tool_choice"),
    (
        "anthropic",
        {"tools": [{"type": "custom", "custom": {"name": "c"}}]},
        "tools[0].type",
    ),
    (
        "anthropic",
        part("image_url", {"url": "http://example.com/a.png"}),
        "messages[0].content[1].image_url.url",
    ),
    (
        "gemini",
        part("image_url", {"url": "data:image/png;base64,!"}),
        "messages[0].content[1].image_url.url",
    ),
    ("gemini", part("file", {"file_id": "file-1"}), "messages[0].content[1].file.file_id"),
    ("anthropic", part("file", {}), "messages[0].content[1].file.file_id"),
    ("gemini", {"modalities": ["text", "audio"]}, "modalities[1]"),
    ("anthropic", {"reasoning_effort": "ultra"}, "reasoning_effort"),
    ("gemini", {"reasoning_effort": "ultra"}, "reasoning_effort"),
    ("ollama", {"reasoning_effort": "ultra"}, "reasoning_effort"),
    ("gemini", {"model": "gemini-2.0-flash", "reasoning_effort": "low"}, "reasoning_effort"),
    ("anthropic", {"model": "claude-3-haiku", "reasoning_effort": "low"}, "reasoning_effort"),
    ("anthropic", {"top_k": "many"}, "top_k"),
    ("local", {"top_k": 0}, "top_k"),
    ("anthropic", {"top_k": 2**31}, "top_k"),
    ("gemini", {"x" * 300: 1}, "x" * 200),
    (
        "gemini",
        part("image_url", {"url": "data:image/png;base64,"}),
        "messages[0].content[1].image_url.url",
    ),
    (
        "anthropic",
        part("file", {"file_data": "data:text/plain;base64,//8="}),
        "messages[0].content[1].file.file_data",
    ),
    ("ollama", {"thinking": []}, "thinking"),
    ("anthropic", {"tools": [{**TOOL, "cache_control": "yes"}]}, "tools[0].cache_control"),
    ("anthropic", {"cache_control": True}, "cache_control"),
    ("anthropic", {"thinking": True}, "thinking"),
    (
        "anthropic",
        {"messages": [{"role": "user", "content": "hi", "cache_control": "yes"}]},
        "messages[0].cache_control",
    ),
    (
        "anthropic",
        {"messages": [{"role": "assistant", "content": "hi", "thinking_blocks": ["x"]}]},
        "messages[0].thinking_blocks[0]",
    ),
    ("bedrock", {"model": "openai.gpt-oss-120b-1:0", "top_k": 5}, "top_k"),
    (
        "bedrock",
        part("image_url", {"url": "data:image/tiff;base64,YQ=="}),
        "messages[0].content[1].image_url.url",
    ),
]


@pytest.mark.parametrize(("type", "sample", "param"), REJECTED)
def test_rejects_invalid_values_by_parameter(type: str, sample: dict[str, Any], param: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        sent(type, **sample)
    assert (caught.value.status, caught.value.param) == (400, param)


SIGNED = {"thinking_blocks": [{"type": "thinking", "thinking": "hm", "signature": "s"}]}


def with_call(arguments: str, more: dict[str, Any] | None = None) -> dict[str, Any]:
    call = {"id": "c1", "type": "function", "function": {"name": "f", "arguments": arguments}}
    return {
        "messages": [
            {"role": "user", "content": "hi"},
            {"role": "assistant", "content": None, "tool_calls": [call], **(more or {})},
            {"role": "tool", "tool_call_id": "c1", "content": "ok"},
        ]
    }


@pytest.mark.parametrize("type", PROVIDERS)
def test_rejects_parameters_that_are_not_in_the_table(type: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        sent(type, min_p=0.1)
    assert caught.value.param == "min_p"
    assert sent(type, min_p=None, stream_options=None)


def test_bedrock_rejects_tool_choice_none_after_calls() -> None:
    with pytest.raises(InvalidRequest) as caught:
        sent("bedrock", **with_call("{}"), tools=[TOOL], tool_choice="none")
    assert caught.value.param == "tool_choice"


def test_bedrock_rejects_reasoning_effort_for_other_models() -> None:
    provider = provider_class("bedrock")("bedrock", {"api_key": "k"}, Settings())
    assert isinstance(provider, HTTPProvider)
    with pytest.raises(InvalidRequest) as caught:
        provider.encode(request("meta.llama4", reasoning_effort="low"))
    provider.close()
    assert caught.value.param == "reasoning_effort"


@pytest.mark.parametrize("type", PROVIDERS)
def test_sends_only_allowed_tools(type: str) -> None:
    """No provider has a separate list of allowed tools."""
    other = {"type": "function", "function": {"name": "g", "parameters": {"type": "object"}}}
    named = {"type": "function", "function": {"name": "g"}}
    choice: dict[str, Any] = {"type": "allowed_tools"}
    for mode in ("auto", "required")[: 1 if type == "ollama" else 2]:
        choice["allowed_tools"] = {"mode": mode, "tools": [named]}
        body = sent(type, tools=[TOOL, other], tool_choice=choice)
        assert body == sent(type, tools=[other], tool_choice=mode)
    for mode, names in (("auto", [named, {**named, "function": {"name": "z"}}]), ("required", [])):
        choice["allowed_tools"] = {"mode": mode, "tools": names}
        with pytest.raises(InvalidRequest):
            sent(type, tools=[TOOL, other], tool_choice=choice)


THINKING: list[tuple[str, dict[str, Any], Any, int]] = [
    ("claude-opus-5", {"reasoning_effort": "high"}, {"type": "adaptive"}, 16384),
    ("claude-opus-5-5", {"reasoning_effort": "none"}, {"type": "adaptive"}, 16384),
    ("claude-sonnet-5-5", {"reasoning_effort": "none"}, {"type": "between_tools"}, 16384),
    ("claude-3-haiku-20240307", {"reasoning_effort": "none"}, None, 4096),
    ("claude-opus-4-1", {"reasoning_effort": "max"}, 16000, 32000),
    ("claude-opus-5", {"reasoning_effort": "none"}, {"type": "disabled"}, 16384),
    ("claude-haiku-4-5", {"reasoning_effort": "medium"}, 4096, 16384 + 4096),
    ("claude-haiku-4-5", {"reasoning_effort": "max"}, 32768, 16384 + 32768),
    ("claude-haiku-4-5", {"reasoning_effort": "high", "max_tokens": 3000}, 2999, 3000),
    (
        "claude-haiku-4-5",
        {"reasoning_effort": "high", "max_tokens": 500},
        {"type": "disabled"},
        500,
    ),
    ("claude-sonnet-4-20250514", {"reasoning_effort": "low"}, 1024, 16384 + 1024),
    ("claude-opus-4-1", {"reasoning_effort": "low", **with_call("{}")}, None, 16384),
    (
        "claude-opus-4-1",
        {"reasoning_effort": "low", **with_call("{}", SIGNED)},
        1024,
        16384 + 1024,
    ),
]


@pytest.mark.parametrize(("model", "more", "thinking", "limit"), THINKING)
def test_anthropic_thinking_depends_on_model_and_effort(
    model: str, more: dict[str, Any], thinking: Any, limit: int
) -> None:
    provider = provider_class("anthropic")("anthropic", {"api_key": "k"}, Settings())
    assert isinstance(provider, HTTPProvider)
    body = json.loads(provider.encode(request(model, **more)).body)
    provider.close()
    found = body.get("thinking")
    if isinstance(thinking, dict):
        assert found["type"] == thinking["type"]
    elif isinstance(thinking, int):
        assert found == {"type": "enabled", "budget_tokens": thinking}
    else:
        assert found is None
    assert body["max_tokens"] == limit


@pytest.mark.parametrize(
    ("model", "more", "thinking"),
    [
        ("gemini-2.5-pro", {"reasoning_effort": "low"}, (True, 1024)),
        ("gemini-2.5-pro", {"reasoning_effort": "minimal"}, (True, 128)),
        ("gemini-2.5-flash", {"reasoning_effort": "max"}, (True, 24576)),
        ("gemini-2.5-flash", {"reasoning_effort": "none"}, (False, 0)),
        ("gemini-2.5-pro", {"reasoning_effort": "none"}, (False, 128)),
        ("gemini-2.5-pro", {"thinking": {"budget_tokens": 5000}}, (True, 5000)),
        ("gemini-2.5-pro", {"thinking": {"budget_tokens": 5}}, (True, 128)),
        ("gemini-3-pro", {"reasoning_effort": "max"}, (True, "HIGH")),
        ("gemini-3-pro", {"reasoning_effort": "none"}, (False, "LOW")),
    ],
)
def test_gemini_thinking_depends_on_model_and_effort(
    model: str, more: dict[str, Any], thinking: tuple[bool, Any]
) -> None:
    config = sent("gemini", model=model, **more)["generationConfig"]["thinkingConfig"]
    assert tuple(config.values()) == thinking


@pytest.mark.parametrize(
    ("type", "name"), [("anthropic", "output_config"), ("bedrock", "outputConfig")]
)
def test_an_effort_is_sent_beside_a_schema(type: str, name: str) -> None:
    model = "anthropic.claude-opus-4-6" if type == "bedrock" else "claude-opus-4-6"
    more = SAMPLES["response_format"] | SAMPLES["thinking"]
    body = sent(type, model=model, reasoning_effort="low", **more)
    assert body[name]["effort"] == "low" and len(body[name]) == 2
    thinking = body.get("thinking") or body["additionalModelRequestFields"]["thinking"]
    assert thinking == more["thinking"]  # not that of the effort


def test_bedrock_sends_the_sampling_and_schema_of_other_models() -> None:
    schema = {"name": "n", "description": "d", "schema": {}}
    form = {"type": "json_schema", "json_schema": schema}
    values = {"temperature": 1, "top_p": 0.5}
    body = sent("bedrock", model="meta.llama4", response_format=form, **values)
    assert body["inferenceConfig"] == {"temperature": 1, "topP": 0.5}
    found = body["outputConfig"]["textFormat"]["structure"]["jsonSchema"]
    assert (found["name"], found["description"]) == ("n", "d")


def test_tools_keep_strict_and_the_cache_control_of_their_function() -> None:
    mark = {"cache_control": {"type": "ephemeral"}}
    function = {"name": "f", "strict": True, **mark}
    other = {"name": "f", "description": "another of this name"}
    tools = [{"type": "function", "function": one} for one in (function, other)]
    first, second = sent("anthropic", tools=tools)["tools"]
    assert first["strict"] is True and mark.items() <= first.items()
    assert second["description"] == other["description"]


def test_a_response_format_without_a_schema_has_one_of_an_object() -> None:
    form = {"type": "json_schema", "json_schema": {"name": "n"}}
    body = sent("anthropic", response_format=form)
    assert body["output_config"]["format"]["schema"] == {"type": "object"}
    assert sent("ollama", response_format={"type": "json_object"})["format"] == "json"


def test_anthropic_gets_no_parallel_calls_to_disable_without_tools() -> None:
    body = sent("anthropic", tools=[TOOL], tool_choice="none", parallel_tool_calls=False)
    assert body["tool_choice"] == {"type": "none"}


def test_safety_identifier_precedes_user() -> None:
    assert sent("anthropic", safety_identifier="s", user="u")["metadata"] == {"user_id": "s"}


@pytest.mark.parametrize(
    ("type", "model"),
    [("anthropic", "claude-haiku-4-5"), ("bedrock", "anthropic.claude-haiku-4-5-v1:0")],
)
def test_drops_temperature_with_a_thinking_budget(type: str, model: str) -> None:
    assert "temperature" in json.dumps(sent(type, model=model, temperature=0.5))
    more = {"temperature": 0.5, "reasoning_effort": "low", "stop": ["END"]}
    body = json.dumps(sent(type, model=model, **more))
    assert "budget_tokens" in body and "temperature" not in body and "END" in body
