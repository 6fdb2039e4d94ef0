"""Which provider answers for which model name."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import harness
import pytest
from adapter_requests import request
from scripted_provider import Script

from choreo_wsgi.chat.items import Finish, Usage
from choreo_wsgi.chat.request import ChatRequest
from choreo_wsgi.errors import ConfigurationError, ModelNotFound, ProviderNotConfigured
from choreo_wsgi.local.weights import NAME
from choreo_wsgi.providers.building import build
from choreo_wsgi.providers.registry import installed, provider_class
from choreo_wsgi.providers.routing import Router
from choreo_wsgi.settings import load

Sections = Mapping[str, Mapping[str, str]]

#: An address where nobody listens: these tests send nothing.
NOWHERE = "http://127.0.0.1:9/v1"


def router(
    sections: Sections | None = None, environment: Mapping[str, str] | None = None, **settings: str
) -> Router:
    """Return the router of *sections*, whose keys are the names of providers."""
    named = {f"provider {name}": section for name, section in (sections or {}).items()}
    return build(load(settings, {}, named), environment or {})


def targets_of(routes: Router, model: str) -> list[tuple[str, str]]:
    """Return the targets of *model* in order: the provider's name, and the model's name there."""
    return [(target.provider.name, target.model) for target in routes.targets(model)]


def section(**values: str) -> dict[str, str]:
    return {"type": "openai", "base_url": NOWHERE, **values}


# -- the default model --------------------------------------------------------------------


@pytest.mark.parametrize(
    ("sections", "environment", "settings", "local"),
    [
        ({}, {}, {}, True),
        ({"mine": {"type": "echo"}}, {}, {}, True),
        ({}, {"OPENAI_API_KEY": ""}, {}, True),
        ({}, {"OPENAI_API_KEY": "k"}, {}, False),
        ({}, {"OPENAI_BASE_URL": NOWHERE}, {}, False),
        ({"mine": {"type": "echo"}}, {"OPENAI_API_KEY": "k"}, {}, False),
        ({"mine": section()}, {}, {}, False),
        ({}, {}, {"api_keys": "k"}, True),
        ({}, {}, {"default_model": "none"}, False),
        ({}, {"OPENAI_API_KEY": "k"}, {"default_model": "local"}, True),
    ],
)
def test_the_local_model_answers_only_if_nothing_else_is_set_up(
    sections: Sections, environment: Mapping[str, str], settings: dict[str, str], local: bool
) -> None:
    routes = router(sections, environment, **settings)
    if local:
        assert [name for name, _ in targets_of(routes, "some-name")] == ["local"]
        assert any(name.startswith("local/") for name in routes.models())
    elif environment.get("OPENAI_BASE_URL"):
        assert targets_of(routes, "some-name") == [("openai", "some-name")]
    else:
        with pytest.raises(ModelNotFound) as missing:
            routes.targets("some-name")
        assert missing.value.status == 404 and missing.value.param == "model"
        assert "some-name" in missing.value.message


def test_any_model_may_be_the_default() -> None:
    sections = {"mine": section(models="a = b")}
    assert targets_of(router(sections, default_model="a"), "x") == [("mine", "b")]
    assert targets_of(router(sections, default_model="mine/c"), "x") == [("mine", "c")]
    assert targets_of(router(default_model="echo"), "x") == [("echo", "echo")]
    assert targets_of(router({"mine": {"type": "local"}}, default_model="mine"), "x") == [
        ("mine", NAME)
    ]
    with pytest.raises(ConfigurationError, match="default_model"):
        router(sections, default_model="unknown")


def test_preload_needs_a_local_model() -> None:
    with pytest.raises(ConfigurationError, match="preload"):
        router({"mine": section()}, preload="yes")
    assert "local" in router({"mine": section()}, preload="yes", default_model="local").providers


# -- sections -----------------------------------------------------------------------------


def test_models_setting_maps_names_to_upstream_names() -> None:
    routes = router({"mine": section(models=" a , b = upstream-b,c=d ,")})
    assert targets_of(routes, "a") == [("mine", "a")]
    assert targets_of(routes, "b") == [("mine", "upstream-b")]
    assert targets_of(routes, "c") == [("mine", "d")]
    for name in ("upstream-b", "d", "A", "a ", ""):
        with pytest.raises(ModelNotFound):
            routes.targets(name)


@pytest.mark.parametrize("models", ["= b", "a ="])
def test_rejects_an_incomplete_models_rule(models: str) -> None:
    with pytest.raises(ConfigurationError, match="provider mine: models"):
        router({"mine": section(models=models)})


def test_a_star_matches_any_name_that_is_not_listed() -> None:
    routes = router(
        {
            "any": section(models="*"),
            "some": section(models="exact, llama-*"),
            "one": section(models="other, * = always-this"),
        }
    )
    assert targets_of(routes, "exact") == [("some", "exact")]
    assert targets_of(routes, "x") == [("any", "x"), ("one", "always-this")]
    assert targets_of(routes, "other") == [("one", "other")]
    # The first pattern that matches the name decides, in the order of the file.
    assert targets_of(routes, "llama-3")[0] == ("any", "llama-3")


def test_patterns_match_the_case_of_names() -> None:
    routes = router({"some": section(models="llama-*"), "any": section(models="*")})
    assert targets_of(routes, "llama-3") == [("some", "llama-3")]
    assert targets_of(routes, "Llama-3") == [("any", "Llama-3")]


def test_a_provider_prefix_ranks_after_lists_before_patterns() -> None:
    routes = router({"a": section(models="*"), "b": section(models="b/listed = x"), "c": section()})
    assert targets_of(routes, "b/listed") == [("b", "x")]
    assert targets_of(routes, "b/other") == [("b", "other")]
    assert targets_of(routes, "c/deep/name") == [("c", "deep/name")]
    assert targets_of(routes, "d/other") == [("a", "d/other")]
    assert targets_of(routes, "b/") == [("a", "b/")]
    assert targets_of(routes, "/x") == [("a", "/x")]


def test_the_type_defaults_to_the_sections_name() -> None:
    routes = router({"openai": {"base_url": NOWHERE}, "echo": {"delay_ms": "5"}})
    assert targets_of(routes, "openai/x") == [("openai", "x")]
    assert routes.providers["echo"].options.delay_ms == 5


def test_an_echo_is_always_available() -> None:
    assert targets_of(router(), "echo") == [("echo", "echo")]
    assert targets_of(router({"mine": section(models="*")}), "echo") == [("echo", "echo")]
    assert targets_of(router({"echo": {"delay_ms": "5"}}), "echo") == [("echo", "echo")]
    assert targets_of(router({"mine": section(models="echo = x")}), "echo") == [("mine", "x")]
    assert targets_of(router({"echo": section(models="a")}), "a") == [("echo", "a")]


def test_targets_are_ordered_by_priority_then_file() -> None:
    three = {name: section(models="m") for name in "abc"}
    assert [name for name, _ in targets_of(router(three), "m")] == ["a", "b", "c"]
    three = {
        name: section(models="m", priority=priority)
        for name, priority in (("a", "3"), ("b", "1"), ("c", "2"))
    }
    assert [name for name, _ in targets_of(router(three), "m")] == ["b", "c", "a"]


def test_sections_with_weights_share_one_priority() -> None:
    sections = {"a": section(models="m", weight="3"), "b": section(models="m", weight="0.5")}
    targets = router(sections).targets("m")
    assert [(target.priority, target.weight) for target in targets] == [(0, 3.0), (0, 0.5)]


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"type": "nobody"}, ["nobody", "echo"]),
        ({"type": "openai", "bse_url": "x"}, ["provider mine", "unknown setting", "bse_url"]),
        ({"type": "echo", "delay_ms": "-1"}, ["provider mine", "delay_ms"]),
        ({"type": "echo", "weight": "-1"}, ["provider mine", "weight"]),
        ({"type": "echo", "priority": "first"}, ["provider mine", "priority"]),
        (section(api_key="sk-\u20ac"), ["provider mine", "api_key"]),
        (section(api_key="sk-\x7f"), ["provider mine", "api_key"]),
        (section(base_url=f"{NOWHERE}/responses/"), ["provider mine", "remove /responses"]),
    ],
)
def test_an_error_names_the_invalid_section(values: dict[str, str], words: list[str]) -> None:
    with pytest.raises(ConfigurationError) as caught:
        router({"mine": values})
    for word in words:
        assert word in str(caught.value)


@pytest.mark.parametrize(
    ("type", "options", "expected"),
    [
        ("anthropic", {"base_url": "http://x/"}, "http://x/v1/messages "),
        ("anthropic", {"version": "2026-10-21"}, "'anthropic-version': '2026-10-21'"),
        ("anthropic", {"beta": "b-1"}, "'anthropic-beta': 'b-1'"),
        ("anthropic", {"max_tokens": "77"}, '"max_tokens":77'),
        ("bedrock", {"base_url": "http://x/"}, "http://x/model/a%2Fb/converse-stream "),
        ("bedrock", {"region": "eu-west-1"}, "https://bedrock-runtime.eu-west-1.amazonaws.com/"),
        ("gemini", {"base_url": "http://x/"}, "http://x/v1beta/models/a%2Fb:stream"),
        ("gemini", {"version": "v1"}, "googleapis.com/v1/models/"),
        ("ollama", {"base_url": "http://x/"}, "http://x/api/chat "),
        ("ollama", {"keep_alive": "10m"}, '"keep_alive":"10m"'),
        ("ollama", {}, "'authorization': 'Bearer k'"),
    ],
)
def test_options_of_a_section_are_in_its_requests(
    type: str, options: dict[str, str], expected: str
) -> None:
    provider: Any = router({type: {"api_key": "k", **options}}).providers[type]
    sent = provider.encode(request("a/b"))
    assert expected in f"{sent.url} {sent.headers} {sent.body.decode()}"


# -- keys -----------------------------------------------------------------------------------


def test_reads_a_key_from_a_variable() -> None:
    routes = router({"mine": section(api_key="env:MY_KEY")}, {"MY_KEY": "sk-secret"})
    assert routes.providers["mine"].options.api_key == "sk-secret"
    with pytest.raises(ConfigurationError, match="MY_KEY") as caught:
        router({"mine": section(api_key="env:MY_KEY")})
    assert "provider mine" in str(caught.value)


def test_only_secrets_are_read_from_variables() -> None:
    routes = router({"mine": {"type": "echo", "models": "env:HOME"}}, {"HOME": "/root"})
    assert "env:HOME" in routes.models()


def test_an_environment_key_is_only_for_the_default_address() -> None:
    environment = {"OPENAI_API_KEY": "sk-secret"}
    assert router({"openai": {}}, environment).providers["openai"].options.api_key == "sk-secret"
    routes = router({"openai": {"base_url": NOWHERE}}, environment)
    assert routes.providers["openai"].options.api_key == ""


@pytest.mark.parametrize(
    ("type", "options", "lacks"),
    [
        ("openai", {}, True),
        ("openai", {"base_url": "https://api.openai.com/v1/"}, True),
        ("openai", {"base_url": NOWHERE}, False),
        ("openai", {"api_key": "k"}, False),
        ("anthropic", {"base_url": NOWHERE}, True),
        ("ollama", {}, False),
    ],
)
def test_a_key_is_required_at_the_home_of_a_type(
    type: str, options: dict[str, str], lacks: bool
) -> None:
    assert router({type: options}).providers[type].lacks_key() is lacks


def test_no_tokens_are_answered_without_a_request() -> None:
    provider: Any = router({"gemini": {"api_key": "k"}}).providers["gemini"]
    provider.client = None  # nothing is sent
    source = provider.open(request("m", max_tokens=0, n=2))
    items: list[Any] = []
    while not source.ended:
        items += source.receive(0)
    assert items == [Finish("length", 0), Finish("length", 1), Usage()]


# -- environment without sections -----------------------------------------------------------

ZERO_CONFIG = [
    ("OPENAI_API_KEY", "gpt-4", "openai"),
    ("OPENAI_API_KEY", "chatgpt-4o-latest", "openai"),
    ("OPENAI_API_KEY", "o3-mini", "openai"),
    ("ANTHROPIC_API_KEY", "claude-3-5-haiku-latest", "anthropic"),
    ("GEMINI_API_KEY", "gemini-2.0-flash", "gemini"),
    ("GOOGLE_API_KEY", "gemini-2.0-flash", "gemini"),
    ("XAI_API_KEY", "grok-4", "xai"),
    ("GROK_API_KEY", "grok-4", "xai"),
]


@pytest.mark.parametrize(("variable", "model", "provider"), ZERO_CONFIG)
def test_a_key_in_the_environment_routes_by_name(variable: str, model: str, provider: str) -> None:
    routes = router(environment={variable: "k"})
    assert targets_of(routes, model) == [(provider, model)]
    assert targets_of(routes, f"{provider}/anything") == [(provider, "anything")]
    for name in ("some-name", f"{provider}/"):
        with pytest.raises(ModelNotFound):
            routes.targets(name)


@pytest.mark.parametrize(
    ("variable", "model", "provider"),
    [
        ("OPENAI_API_KEY", "o3-mini", "openai"),
        ("GEMINI_API_KEY", "gemini-2.0-flash", "gemini"),
        ("GOOGLE_API_KEY", "gemini-2.0-flash", "gemini"),
    ],
)
def test_an_error_names_the_variable_of_a_missing_key(
    variable: str, model: str, provider: str
) -> None:
    for name in (model, f"{provider}/anything"):
        with pytest.raises(ProviderNotConfigured) as missing:
            router(default_model="none").targets(name)
        assert variable in missing.value.message
        assert missing.value.status == 502 and missing.value.code == "provider_not_configured"
        assert missing.value.param == "model"
    with pytest.raises(ModelNotFound):
        router(default_model="none").targets(provider)


_AZURE = {"AZURE_OPENAI_BASE_URL": NOWHERE, "AZURE_OPENAI_API_KEY": "k"}
_AWS = {"AWS_ACCESS_KEY_ID": "a", "AWS_SECRET_ACCESS_KEY": "s"}


@pytest.mark.parametrize(
    ("environment", "provider", "options"),
    [
        ({"DEEPSEEK_API_KEY": "k"}, "deepseek", {"api_key": "k"}),
        ({"GROQ_API_KEY": "k"}, "groq", {"api_key": "k"}),
        ({"MISTRAL_API_KEY": "k"}, "mistral", {"api_key": "k"}),
        ({"OPENROUTER_API_KEY": "k"}, "openrouter", {"api_key": "k"}),
        ({"SGLANG_BASE_URL": NOWHERE}, "sglang", {"base_url": NOWHERE}),
        ({"VLLM_BASE_URL": NOWHERE}, "vllm", {"base_url": NOWHERE}),
        ({"OLLAMA_BASE_URL": NOWHERE}, "ollama", {"base_url": NOWHERE}),
        ({"AZURE_OPENAI_BASE_URL": NOWHERE}, "azure", {"base_url": NOWHERE, "api_key": ""}),
        (_AZURE, "azure", {"api_key": "k", "api_version": ""}),
        ({**_AZURE, "AZURE_OPENAI_ENDPOINT": "http://y"}, "azure", {"base_url": "http://y"}),
        ({**_AZURE, "OPENAI_API_VERSION": "2024-10-21"}, "azure", {"api_version": "2024-10-21"}),
        (
            {**_AZURE, "OPENAI_API_VERSION": "x", "AZURE_OPENAI_API_VERSION": "2024-06-01"},
            "azure",
            {"api_version": "2024-06-01"},
        ),
        (_AWS, "bedrock", {"api_key": "", "region": "us-east-1"}),
        ({**_AWS, "AWS_DEFAULT_REGION": "eu-west-1"}, "bedrock", {"region": "eu-west-1"}),
        ({"GEMINI_API_KEY": "k", "GOOGLE_API_KEY": "g"}, "gemini", {"api_key": "k"}),
    ],
)
def test_environment_variables_configure_a_type(
    environment: dict[str, str], provider: str, options: dict[str, str]
) -> None:
    routes = router(environment=environment)
    assert targets_of(routes, f"{provider}/m") == [(provider, "m")]
    found: Any = routes.providers[provider].options
    assert {name: getattr(found, name) for name in options} == options
    assert [name for name in routes.providers if name not in ("echo", "local")] == [provider]
    with pytest.raises(ModelNotFound):  # only OPENAI_BASE_URL takes every other name
        routes.targets("some-name")


@pytest.mark.parametrize(
    ("type", "home"),
    [
        ("deepseek", "https://api.deepseek.com/v1"),
        ("groq", "https://api.groq.com/openai/v1"),
        ("mistral", "https://api.mistral.ai/v1"),
        ("openai", "https://api.openai.com/v1"),
        ("openrouter", "https://openrouter.ai/api/v1"),
        ("sglang", "http://127.0.0.1:30000/v1"),
        ("vllm", "http://127.0.0.1:8000/v1"),
        ("xai", "https://api.x.ai/v1"),
    ],
)
def test_each_type_has_a_default_base_url(type: str, home: str) -> None:
    provider: Any = router({type: {"api_key": "k"}}).providers[type]
    assert provider.url("/chat/completions", "m") == f"{home}/chat/completions"


@pytest.mark.parametrize("end", ["", "/openai/", "/openai/v1"])
def test_azure_accepts_base_urls_of_several_forms(end: str) -> None:
    options = {"api_key": "k", "base_url": f"https://x.openai.azure.com{end}"}
    provider: Any = router({"azure": options}).providers["azure"]
    home = "https://x.openai.azure.com/openai"
    assert provider.url("/responses", "m") == f"{home}/v1/responses"
    options["api_version"] = "2024-10-21"
    provider = router({"azure": options}).providers["azure"]
    expected = f"{home}/deployments/a%2Fb/chat/completions?api-version=2024-10-21"
    assert provider.url("/chat/completions", "a/b") == expected
    with pytest.raises(ConfigurationError, match="api_version"):
        router({"azure": {**options, "api_version": "2024-10-2\N{ARABIC-INDIC DIGIT ONE}"}})


def test_an_unknown_azure_version_of_the_environment_is_quoted() -> None:
    environment = {**_AZURE, "OPENAI_API_VERSION": "a b"}
    provider: Any = router(environment=environment).providers["azure"]
    assert provider.url("/chat/completions", "m").endswith("?api-version=a%20b")


def test_an_ollama_key_alone_selects_its_cloud() -> None:
    options: Any = router(environment={"OLLAMA_API_KEY": "k"}).providers["ollama"].options
    assert (options.api_key, options.base_url) == ("k", "https://ollama.com")


def test_a_key_configures_only_its_own_provider() -> None:
    with pytest.raises(ProviderNotConfigured, match="ANTHROPIC_API_KEY"):
        router(environment={"OPENAI_API_KEY": "k"}).targets("claude-3")
    assert "azure" not in router(environment={"AZURE_OPENAI_API_KEY": "k"}).providers


def test_a_custom_base_url_takes_every_other_name() -> None:
    environment = {"OPENAI_BASE_URL": NOWHERE, "ANTHROPIC_API_KEY": "k"}
    routes = router(environment=environment)
    assert targets_of(routes, "any/name-at:all") == [("openai", "any/name-at:all")]
    assert targets_of(routes, "claude-3") == [("anthropic", "claude-3")]
    assert targets_of(routes, "gemini-2") == [("openai", "gemini-2")]
    assert targets_of(routes, "echo") == [("echo", "echo")]


def test_sections_disable_rules_of_the_environment() -> None:
    routes = router({"mine": section(models="a")}, {"OPENAI_API_KEY": "k"})
    with pytest.raises(ModelNotFound):
        routes.targets("gpt-4")


# -- lists of models ------------------------------------------------------------------------


def test_lists_models_with_their_providers() -> None:
    routes = router({"mine": {"type": "echo", "models": "a, b = c"}}, default_model="a")
    assert routes.models() == {"a": "mine", "b": "mine", "echo": "echo", "mine": "mine"}
    assert routes.describe() == [
        ("a", "mine"),
        ("b", "mine"),
        ("echo", "echo"),
        ("any other name", "mine"),
    ]


def test_describes_the_default_provider_once() -> None:
    routes = router({"mine": section(), "other": section()}, default_model="mine")
    rows = [("echo", "echo"), ("other/*", "other"), ("any other name", "mine/mine")]
    assert routes.describe() == rows


# -- loading of providers ------------------------------------------------------------


def test_loads_a_provider_by_its_entry_point(scripted: Callable[[], Script]) -> None:
    assert "scripted" in installed()
    routes = router({"mine": {"type": "scripted", "models": "m"}})
    assert targets_of(routes, "m") == [("mine", "m")]


@pytest.mark.parametrize(
    ("value", "words"),
    [
        ("no_such_module:Thing", "cannot be loaded"),
        ("scripted_provider:Script", "is not a Provider"),  # a class
        ("scripted_provider:End", "is not a Provider"),
    ],
)
def test_an_error_names_the_broken_entry_point(
    value: str, words: str, scripted: Callable[[], Script], tmp_path: Path
) -> None:
    entries = tmp_path / "scripted-1.dist-info" / "entry_points.txt"
    entries.write_text(f"[choreo_wsgi.providers]\nbroken = {value}\n")
    with pytest.raises(ConfigurationError, match=words) as caught:
        provider_class("broken")
    assert "'broken'" in str(caught.value)


BROKEN = [
    "raise ImportError('lacks a library')",
    "raise SystemExit('no')",
    """
from choreo_wsgi.providers import Provider
class Thing(Provider):
    type = "broken"
    def open(self, request): ...
    def __init__(self, *arguments): raise OSError("no licence")
""",
    """
from choreo_wsgi.providers import Provider
class Thing(Provider):
    type = "broken"
    def open(self, request): ...
    @classmethod
    def from_environment(cls, environment): return {}["x"]
""",
]


@pytest.mark.parametrize("code", BROKEN)
def test_broken_code_disables_only_its_provider(
    code: str,
    scripted: Callable[[], Script],
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    entries = tmp_path / "scripted-1.dist-info" / "entry_points.txt"
    entries.write_text("[choreo_wsgi.providers]\nbroken = broken_provider:Thing\n")
    (tmp_path / "broken_provider.py").write_text(code)
    monkeypatch.delitem(sys.modules, "broken_provider", raising=False)
    app = harness.make_app(
        sections={
            "provider bad": {"type": "broken", "models": "a, b", "some_option": "x"},
            "provider good": {"type": "echo", "models": "b"},
        }
    )
    assert "provider bad cannot be used" in caplog.text
    with harness.Server(app) as server, server.connect() as client:
        for model, status in (("a", 502), ("bad/c", 502), ("b", 200), ("echo", 200)):
            body = {"model": model, "messages": [{"role": "user", "content": "hello"}]}
            answer = client.exchange("POST", "/v1/chat/completions", body)
            assert answer.status == status, model
            if status == 502:
                error = json.loads(answer.body)["error"]
                assert error["code"] == "provider_not_configured" and "'bad'" in error["message"]
    app.close()


@pytest.mark.parametrize(
    ("environment", "enabled"),
    [({"AWS_ACCESS_KEY_ID": "a"}, False), ({"AWS_BEARER_TOKEN_BEDROCK": "t"}, True)],
)
def test_reports_missing_botocore_only_with_a_bedrock_key(
    environment: dict[str, str], enabled: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """AWS credentials may be set for other reasons, a key of Bedrock's own is not."""
    for name in ("provider", "answer"):
        monkeypatch.delitem(sys.modules, f"choreo_wsgi.providers.bedrock.{name}", raising=False)
    monkeypatch.setitem(sys.modules, "botocore.eventstream", None)
    monkeypatch.setitem(sys.modules, "botocore.auth", None)
    provider_class.cache_clear()
    routes = router(environment=environment)
    assert ("bedrock" in routes.providers) is enabled
    request = ChatRequest("m", [], {})
    if enabled:
        with pytest.raises(ProviderNotConfigured, match=r"pip install botocore$"):
            routes.targets("bedrock/m")[0].provider.open(request)
    provider_class.cache_clear()


def test_unused_providers_are_not_imported(scripted: Callable[[], Script], tmp_path: Path) -> None:
    entries = tmp_path / "scripted-1.dist-info" / "entry_points.txt"
    entries.write_text("[choreo_wsgi.providers]\nbroken = explosive_provider:Thing\n")
    (tmp_path / "explosive_provider.py").write_text(
        "raise SystemExit('imported although unused')\n"
    )
    assert "broken" in installed()
    routes = router(environment={"OPENAI_API_KEY": "k"})
    with pytest.raises(ModelNotFound):
        routes.targets("broken/model")


def test_every_installed_provider_can_be_loaded() -> None:
    for type in installed():
        assert provider_class(type).type == type


def test_limits_names_of_unknown_models() -> None:
    default = router({"mine": section()}, default_model="mine")
    with pytest.raises(ModelNotFound, match="too long"):
        default.targets("x" * 257)
    with pytest.raises(ModelNotFound) as unknown:
        router({"mine": {"type": "echo"}}, default_model="none").targets("x" * 256)
    assert "x" * 200 in unknown.value.message and "x" * 201 not in unknown.value.message
    for number in range(2000):
        default.targets(f"made-up-{number}")
    assert default.targets.cache_info().currsize < 2000


@pytest.mark.parametrize(("pattern", "listed"), [("Smol*", True), ("other-*", False)])
def test_a_pattern_lists_only_models_that_match(pattern: str, listed: bool) -> None:
    sections = {"mine": {"type": "local", "models": pattern}}
    assert (NAME in router(sections, default_model="none").models()) is listed


def test_closing_a_router_closes_its_providers(monkeypatch: pytest.MonkeyPatch) -> None:
    """Otherwise a local model's process would be left behind."""
    closed = []
    routes = router({"one": {"type": "echo"}, "two": section()}, default_model="none")
    for name, provider in routes.providers.items():
        monkeypatch.setattr(provider, "close", lambda name=name: closed.append(name))
    routes.close()
    assert {"one", "two"} <= {*closed} and len(closed) == len(routes.providers)
