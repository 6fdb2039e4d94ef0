"""The table of models: their capabilities, the requests based on them, and overrides."""

from __future__ import annotations

import json
from email.message import Message
from typing import Any

import pytest
from adapter_requests import request
from corpus_cases import Playback

from choreo_wsgi.apis.chat import ChunkWriter, CompletionWriter, Identity
from choreo_wsgi.errors import ConfigurationError, InvalidRequest
from choreo_wsgi.providers.capabilities import EFFORTS, TABLE, Capabilities, capabilities, overrides
from choreo_wsgi.providers.http import HTTPProvider
from choreo_wsgi.providers.registry import provider_class
from choreo_wsgi.settings import Settings

#: Models that reason, one for each way of requesting it, and unknown ones.
CLAUDES = [
    *("claude-3-7-sonnet-20250219", "claude-opus-4-1-20250805", "claude-opus-4-6"),
    *("claude-opus-4-7", "claude-opus-5-5", "claude-sonnet-5-5", "claude-next"),
]
THINKING = [
    *CLAUDES,
    *("gemini-2.5-pro", "gemini-2.5-flash-lite", "gemini-3-pro-preview", "gemini-3.8-flash"),
    *("gpt-oss:20b", "llama3"),
]


def sent(type: str, model: str, options: dict[str, str] | None = None, **more: Any) -> Any:
    provider = provider_class(type)(type, {"api_key": "k", **(options or {})}, Settings())
    assert isinstance(provider, HTTPProvider)
    try:
        return json.loads(provider.encode(request(model, **more)).body)
    finally:
        provider.close()


OLDER = ("low", "medium", "high", "max")
NEWER = ("low", "medium", "high", "xhigh", "max")
#: Capabilities of models by their names at the vendor, at Bedrock and at Vertex AI.
EXPECTED: list[tuple[str, dict[str, Any]]] = [
    ("claude-3-haiku-20240307", {"thinking": "none", "max_tokens": 4096}),
    ("claude-3-5-haiku-latest", {"thinking": "none", "max_tokens": 8192}),
    ("claude-3-7-sonnet@20250219", {"thinking": "budget", "max_tokens": 64000}),
    *(
        (name, {"thinking": "budget", "max_tokens": 32000, "sampling": "both"})
        for name in ("claude-opus-4", "claude-opus-4-0", "claude-opus-4@20250514",
                     "anthropic.claude-opus-4-20250514-v1:0", "claude-opus-4-v1")
    ),
    ("claude-opus-4-1-20250805", {"sampling": "one", "max_tokens": 32000}),
    ("claude-sonnet-4-20250514", {"thinking": "budget", "max_tokens": 64000, "sampling": "both"}),
    ("claude-haiku-4-5", {"sampling": "one", "thinking": "budget", "max_tokens": 64000}),
    ("claude-opus-4-6", {"sampling": "one", "efforts": OLDER, "max_tokens": 128000}),
    ("claude-sonnet-4-6", {"sampling": "one", "efforts": OLDER, "max_tokens": 64000}),
    ("claude-opus-4-7", {"sampling": "none", "efforts": NEWER, "system_anywhere": False}),
    ("claude-opus-4-8", {"efforts": NEWER, "system_anywhere": True, "off": "disabled"}),
    ("claude-haiku-5", {"efforts": NEWER, "off": "disabled", "forced_tools": True}),
    ("claude-opus-5-5", {"off": "no", "forced_tools": False, "system_anywhere": True}),
    ("claude-sonnet-5-5", {"off": "between_tools", "forced_tools": False}),
    ("claude-fable-5", {"off": "no", "forced_tools": True, "max_tokens": 128000}),
    ("claude-mythos-5", {"off": "no", "forced_tools": True, "efforts": NEWER}),
    ("claude-fable-5-1", {"off": "no", "forced_tools": False}),
    ("claude-mythos-5-2", {"off": "no", "forced_tools": False}),
    ("gemini-1.5-pro", {"thinking": "none", "max_tokens": 0}),
    ("gemini-2.0-flash", {"thinking": "none", "max_tokens": 8192}),
    ("gemini-2.5-pro", {"off": "no", "least": 128, "most": 32768, "max_tokens": 65536}),
    ("gemini-2.5-flash", {"off": "disabled", "least": 1, "most": 24576}),
    ("gemini-2.5-flash-lite", {"least": 512, "most": 24576, "max_tokens": 65536}),
    ("gemini-3-pro-preview", {"efforts": ("low", "high"), "max_tokens": 65536}),
    ("gemini-3.1-pro-preview", {"efforts": ("low", "medium", "high"), "max_tokens": 65536}),
    ("gemini-3.8-flash", {"efforts": ("minimal", "low", "medium", "high"), "off": "no"}),
    ("gpt-oss:20b", {"efforts": ("low", "medium", "high"), "off": "no"}),
    *((name, {"parallel": "one"}) for name in ("o1", "o3-mini", "o4-mini", "openai/o3")),
    *((name, {"parallel": "choose"}) for name in ("o4", "o33", "x-o1", "gpt-5")),
]  # fmt: skip


@pytest.mark.parametrize(("model", "facts"), EXPECTED, ids=[name for name, _ in EXPECTED])
def test_each_model_has_its_capabilities(model: str, facts: dict[str, Any]) -> None:
    found = capabilities(model)
    assert {name: getattr(found, name) for name in facts} == facts


@pytest.mark.parametrize("fact", ["least=-1", "most=-1", "max_tokens=-1"])
def test_rejects_negative_capabilities(fact: str) -> None:
    with pytest.raises(ConfigurationError, match=fact.partition("=")[0]):
        overrides([f"m {fact}"])


def provider_of(model: str) -> str:
    family = model.partition("-")[0]
    return {"claude": "anthropic", "gemini": "gemini"}.get(family, "ollama")


def test_every_row_has_its_source_and_date() -> None:
    for row in TABLE:
        assert row.page.startswith("https://") and row.seen.startswith("2026-")


@pytest.mark.parametrize("model", THINKING)
def test_higher_effort_never_means_less_thinking(model: str) -> None:
    amounts: list[tuple[int, ...]] = []
    for effort in EFFORTS:
        body = sent(provider_of(model), model, reasoning_effort=effort)
        thinking = body.get("thinking") or body.get("generationConfig", {}).get("thinkingConfig")
        budget = (thinking or {}).get("budget_tokens", (thinking or {}).get("thinkingBudget", 0))
        word = (thinking or {}).get("thinkingLevel") or body.get("think") or "none"
        word = body.get("output_config", {}).get("effort", word)
        amounts.append((budget, EFFORTS.index(str(word).lower())))
    assert amounts == sorted(amounts)


@pytest.mark.parametrize("model", ["claude-3-haiku-20240307", *CLAUDES])
def test_derived_limits_stay_within_the_model(model: str) -> None:
    found = capabilities(model)
    efforts = ("none",) if found.thinking == "none" else EFFORTS
    for effort in (None, *efforts):
        body = sent("anthropic", model, reasoning_effort=effort)
        assert body["max_tokens"] <= (found.max_tokens or body["max_tokens"])
        thinking = body.get("thinking", {})
        assert thinking.get("budget_tokens", 0) < body["max_tokens"]
        level = body.get("output_config", {}).get("effort")
        assert level is None or level in (found.efforts or EFFORTS[2:])  # not minimal


@pytest.mark.parametrize(
    ("model", "requested", "sent"),
    [
        ("claude-opus-4-6", "xhigh", "high"),
        ("claude-opus-5", "xhigh", "xhigh"),
        ("claude-opus-5", "minimal", "low"),
        ("gemini-3-pro", "max", "high"),
    ],
)
def test_effort_becomes_one_that_the_model_supports(model: str, requested: str, sent: str) -> None:
    assert capabilities(model).effort(requested) == sent


SAMPLING = [
    ("claude-opus-4-1", {"temperature"}),
    ("us.anthropic.claude-opus-4-7-v1:0", set()),
    ("claude-of-tomorrow", {"temperature", "top_p"}),
]


@pytest.mark.parametrize(("model", "names"), SAMPLING)
def test_sends_only_supported_sampling_parameters(model: str, names: set[str]) -> None:
    given = {"temperature": 0.3, "top_p": 0.9}
    assert {*given} & sent("anthropic", model, **given).keys() == names
    inference = sent("bedrock", model, **given).get("inferenceConfig", {})
    assert {"temperature", "topP"} & inference.keys() == {
        name.replace("top_p", "topP") for name in names
    }


@pytest.mark.parametrize("type", ["anthropic", "bedrock"])
def test_rejects_forced_tools_where_the_model_cannot(type: str) -> None:
    tool = {"type": "function", "function": {"name": "f"}}
    named = {"type": "function", "function": {"name": "f"}}
    for model, choice, refused in (
        ("claude-opus-5-5", "required", True),
        ("claude-opus-5-5", named, True),
        ("claude-opus-5", "required", False),
    ):
        try:
            sent(type, model, tools=[tool], tool_choice=choice)
        except Exception as error:
            assert refused and getattr(error, "param", None) == "tool_choice"
        else:
            assert not refused


def test_capabilities_setting_overrides_the_table() -> None:
    line = "opus max_tokens=9, claude-opus-4-1 sampling=both max_tokens=20000"
    line += ", claude-next sampling=none"
    options = {"capabilities": line}
    body = sent("anthropic", "claude-opus-4-1", options, top_p=0.9, temperature=0.3)
    assert (body["top_p"], body["temperature"]) == (0.9, 0.3)
    assert (
        sent("anthropic", "claude-opus-4-1", options, reasoning_effort="max")["max_tokens"] == 20000
    )
    assert "temperature" not in sent("anthropic", "claude-next", options, temperature=0.3)


@pytest.mark.parametrize("type", ["anthropic", "bedrock", "gemini", "ollama"])
def test_max_tokens_is_capped_at_the_models_limit(type: str) -> None:
    options = {"capabilities": "capped max_tokens=5000"}
    for model, most in (("claude-capped", 5000), ("claude-unknown", 999_999)):
        for requested, limit in ((10, 10), (5000, 5000), (999_999, most)):
            body = sent(type, model, options, max_tokens=requested)
            found = json.dumps(body)
            assert f": {limit}" in found, found
            assert limit == requested or str(requested) not in found


def test_thinking_budget_stays_below_a_capped_limit() -> None:
    for type in ("anthropic", "bedrock"):
        model = "claude-opus-4-1"
        body = sent(type, model, max_tokens=999_999, reasoning_effort="max")
        thinking = body.get("thinking") or body["additionalModelRequestFields"]["thinking"]
        limit = body.get("max_tokens") or body["inferenceConfig"]["maxTokens"]
        assert thinking["budget_tokens"] < limit == 32000


@pytest.mark.parametrize("type", ["anthropic", "bedrock", "gemini", "ollama"])
def test_drops_parallel_tool_calls_for_single_call_models(type: str) -> None:
    tool = {"type": "function", "function": {"name": "f"}}
    options = {"capabilities": "single parallel=one"}
    for value in (True, False):
        body = sent(type, "claude-single", options, tools=[tool], parallel_tool_calls=value)
        assert "parallel" not in json.dumps(body)
    if type != "anthropic":
        with pytest.raises(InvalidRequest, match="parallel_tool_calls"):
            sent(type, "claude-x", options, tools=[tool], parallel_tool_calls=False)


@pytest.mark.parametrize(("model", "dropped"), [("o4-mini-2025-04-16", True), ("gpt-5", False)])
def test_drops_parallel_tool_calls_that_openai_models_reject(model: str, dropped: bool) -> None:
    tool = {"type": "function", "function": {"name": "f"}}
    body = upstream_body("openai", {}, model, tools=[tool], parallel_tool_calls=False)
    assert ("parallel_tool_calls" not in body) == dropped


@pytest.mark.parametrize("type", ["openai", "azure", "mistral"])
def test_capabilities_setting_applies_to_openai_compatible_types(type: str) -> None:
    options = {"capabilities": "^mine max_tokens=100 parallel=one", "base_url": "http://x/v1"}
    tools = [{"type": "function", "function": {"name": "f"}}]
    for model, limit in (("mine-1", 100), ("other", 9000)):
        for name in ("max_tokens", "max_completion_tokens"):
            given = {"tools": tools, "parallel_tool_calls": True, name: 9000}
            for stream in (True, False):
                body = upstream_body(type, options, model, stream=stream, **given)
                assert body["max_tokens" if type == "mistral" else name] == limit
                assert ("parallel_tool_calls" in body) == (limit != 100)


def upstream_body(type: str, options: dict[str, str], model: str, **more: Any) -> Any:
    """Return the body sent to an OpenAI-compatible upstream."""
    provider: Any = provider_class(type)(type, {"api_key": "k", **options}, Settings())
    provider.close()
    playback = provider.client = Playback(200, Message(), [])
    parsed = request(model, **more)
    chunks = ChunkWriter(Identity(model), False)
    provider.answer(
        parsed, chunks if parsed.stream else CompletionWriter(Identity(model), 1)
    ).close()
    return json.loads(playback.sent[0].body)


@pytest.mark.parametrize(
    ("model", "more", "think"),
    [
        ("llama3", {"reasoning_effort": "max"}, "high"),
        ("llama3", {"reasoning_effort": "minimal"}, "low"),
        ("llama3", {"thinking": {"type": "disabled"}}, False),
        ("llama3", {"thinking": {"budget_tokens": "many"}}, None),
        ("gpt-oss", {"thinking": {"budget_tokens": 2048}}, "low"),
        ("gpt-oss", {"thinking": {"budget_tokens": 2049}}, "medium"),
        ("gpt-oss", {"thinking": {"budget_tokens": 8192}}, "medium"),
        ("gpt-oss", {"thinking": {"budget_tokens": 8193}}, "high"),
    ],
)
def test_ollama_thinking_depends_on_effort_or_budget(
    model: str, more: dict[str, Any], think: str | bool | None
) -> None:
    assert sent("ollama", model, **more).get("think") == think


def test_unknown_models_get_the_defaults() -> None:
    assert capabilities("something-else") == Capabilities()


@pytest.mark.parametrize("line", ["( sampling=none", "m off=1", "m efforts=low|more", "m x=1"])
def test_rejects_an_invalid_override(line: str) -> None:
    with pytest.raises(ConfigurationError, match="capabilities"):
        overrides([line])
