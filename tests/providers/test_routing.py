"""Which provider answers for which model name."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import harness
import pytest
from scripted_provider import Script

from choreo_wsgi.chat.request import ChatRequest
from choreo_wsgi.errors import ConfigurationError, ModelNotFound, ProviderNotConfigured
from choreo_wsgi.local.weights import NAME
from choreo_wsgi.providers.building import build
from choreo_wsgi.providers.registry import installed, provider_class
from choreo_wsgi.providers.routing import Router
from choreo_wsgi.settings import load

Sections = Mapping[str, Mapping[str, str]]

#: An address where nobody listens: nothing here asks anybody.
NOWHERE = "http://127.0.0.1:9/v1"


def router(
    sections: Sections | None = None, environment: Mapping[str, str] | None = None, **settings: str
) -> Router:
    """Return the router of *sections*, whose keys are the names of providers."""
    named = {f"provider {name}": section for name, section in (sections or {}).items()}
    return build(load(settings, {}, named), environment or {})


def answers(routes: Router, model: str) -> list[tuple[str, str]]:
    """Return who may answer for *model*, in order: the provider's name, the model's there."""
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
def test_the_local_model_answers_only_where_nothing_else_is_set_up(
    sections: Sections, environment: Mapping[str, str], settings: dict[str, str], local: bool
) -> None:
    routes = router(sections, environment, **settings)
    if local:
        assert [name for name, _ in answers(routes, "some-name")] == ["local"]
        assert any(name.startswith("local/") for name in routes.models())
    elif environment.get("OPENAI_BASE_URL"):
        assert answers(routes, "some-name") == [("openai", "some-name")]
    else:
        with pytest.raises(ModelNotFound) as missing:
            routes.targets("some-name")
        assert missing.value.status == 404 and missing.value.param == "model"
        assert "some-name" in missing.value.message


def test_any_model_may_be_the_default() -> None:
    sections = {"mine": section(models="a = b")}
    assert answers(router(sections, default_model="a"), "x") == [("mine", "b")]
    assert answers(router(sections, default_model="mine/c"), "x") == [("mine", "c")]
    assert answers(router(default_model="echo"), "x") == [("echo", "echo")]
    with pytest.raises(ConfigurationError, match="default_model"):
        router(sections, default_model="unknown")


# -- sections -----------------------------------------------------------------------------


def test_names_and_upstream_names() -> None:
    routes = router({"mine": section(models=" a , b = upstream-b,c=d ,")})
    assert answers(routes, "a") == [("mine", "a")]
    assert answers(routes, "b") == [("mine", "upstream-b")]
    assert answers(routes, "c") == [("mine", "d")]
    for name in ("upstream-b", "d", "A", "a ", ""):
        with pytest.raises(ModelNotFound):
            routes.targets(name)


@pytest.mark.parametrize("models", ["= b", "a ="])
def test_half_a_rule_is_refused(models: str) -> None:
    with pytest.raises(ConfigurationError, match="provider mine: models"):
        router({"mine": section(models=models)})


def test_a_star_takes_any_name_that_no_list_names() -> None:
    routes = router(
        {
            "any": section(models="*"),
            "some": section(models="exact, llama-*"),
            "one": section(models="other, * = always-this"),
        }
    )
    assert answers(routes, "exact") == [("some", "exact")]
    assert answers(routes, "x") == [("any", "x"), ("one", "always-this")]
    assert answers(routes, "other") == [("one", "other")]
    # The first pattern that takes the name decides, in the order of the file.
    assert answers(routes, "llama-3")[0] == ("any", "llama-3")


def test_a_providers_name_and_a_slash_go_before_patterns_and_behind_lists() -> None:
    routes = router({"a": section(models="*"), "b": section(models="b/listed = x"), "c": section()})
    assert answers(routes, "b/listed") == [("b", "x")]
    assert answers(routes, "b/other") == [("b", "other")]
    assert answers(routes, "c/deep/name") == [("c", "deep/name")]
    assert answers(routes, "d/other") == [("a", "d/other")]
    assert answers(routes, "b/") == [("a", "b/")]
    assert answers(routes, "/x") == [("a", "/x")]


def test_the_type_is_the_sections_name_if_not_given() -> None:
    routes = router({"openai": {"base_url": NOWHERE}, "echo": {"delay_ms": "5"}})
    assert answers(routes, "openai/x") == [("openai", "x")]
    assert routes.providers["echo"].options.delay_ms == 5


def test_an_echo_is_always_there() -> None:
    assert answers(router(), "echo") == [("echo", "echo")]
    assert answers(router({"mine": section(models="*")}), "echo") == [("echo", "echo")]
    assert answers(router({"echo": {"delay_ms": "5"}}), "echo") == [("echo", "echo")]
    assert answers(router({"mine": section(models="echo = x")}), "echo") == [("mine", "x")]
    assert answers(router({"echo": section(models="a")}), "a") == [("echo", "a")]


def test_several_targets_in_the_order_of_the_file_or_of_their_priority() -> None:
    three = {name: section(models="m") for name in "abc"}
    assert [name for name, _ in answers(router(three), "m")] == ["a", "b", "c"]
    three = {
        name: section(models="m", priority=priority)
        for name, priority in (("a", "3"), ("b", "1"), ("c", "2"))
    }
    assert [name for name, _ in answers(router(three), "m")] == ["b", "c", "a"]


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
    ],
)
def test_a_section_that_is_wrong_is_named(values: dict[str, str], words: list[str]) -> None:
    with pytest.raises(ConfigurationError) as refused:
        router({"mine": values})
    for word in words:
        assert word in str(refused.value)


# -- keys -----------------------------------------------------------------------------------


def test_a_key_may_stand_in_the_environment() -> None:
    routes = router({"mine": section(api_key="env:MY_KEY")}, {"MY_KEY": "sk-secret"})
    assert routes.providers["mine"].options.api_key == "sk-secret"
    with pytest.raises(ConfigurationError, match="MY_KEY") as refused:
        router({"mine": section(api_key="env:MY_KEY")})
    assert "provider mine" in str(refused.value)


def test_only_secrets_are_looked_up() -> None:
    routes = router({"mine": {"type": "echo", "models": "env:HOME"}}, {"HOME": "/root"})
    assert "env:HOME" in routes.models()


def test_a_key_of_the_environment_goes_to_its_own_address_only() -> None:
    environment = {"OPENAI_API_KEY": "sk-secret"}
    assert router({"openai": {}}, environment).providers["openai"].options.api_key == "sk-secret"
    routes = router({"openai": {"base_url": NOWHERE}}, environment)
    assert routes.providers["openai"].options.api_key == ""


# -- with the environment alone -----------------------------------------------------------

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
    assert answers(routes, model) == [(provider, model)]
    assert answers(routes, f"{provider}/anything") == [(provider, "anything")]
    with pytest.raises(ModelNotFound):
        routes.targets("some-name")


@pytest.mark.parametrize(
    ("variable", "model", "provider"),
    [
        ("OPENAI_API_KEY", "o3-mini", "openai"),
        ("GEMINI_API_KEY", "gemini-2.0-flash", "gemini"),
        ("GOOGLE_API_KEY", "gemini-2.0-flash", "gemini"),
    ],
)
def test_a_model_without_its_key_says_which_variable_to_set(
    variable: str, model: str, provider: str
) -> None:
    for name in (model, f"{provider}/anything"):
        with pytest.raises(ProviderNotConfigured) as missing:
            router(default_model="none").targets(name)
        assert variable in missing.value.message
        assert missing.value.status == 502 and missing.value.code == "provider_not_configured"


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
def test_the_environment_configures_a_type(
    environment: dict[str, str], provider: str, options: dict[str, str]
) -> None:
    routes = router(environment=environment)
    assert answers(routes, f"{provider}/m") == [(provider, "m")]
    found: Any = routes.providers[provider].options
    assert {name: getattr(found, name) for name in options} == options
    assert [name for name in routes.providers if name not in ("echo", "local")] == [provider]


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
def test_where_a_type_is_at_home(type: str, home: str) -> None:
    provider: Any = router({type: {"api_key": "k"}}).providers[type]
    assert provider.url("/chat/completions", "m") == f"{home}/chat/completions"


@pytest.mark.parametrize("end", ["", "/openai/", "/openai/v1"])
def test_where_azure_is_however_its_address_ends(end: str) -> None:
    options = {"api_key": "k", "base_url": f"https://x.openai.azure.com{end}"}
    provider: Any = router({"azure": options}).providers["azure"]
    home = "https://x.openai.azure.com/openai"
    assert provider.url("/responses", "m") == f"{home}/v1/responses"
    options["api_version"] = "2024-10-21"
    provider = router({"azure": options}).providers["azure"]
    asked = f"{home}/deployments/a%2Fb/chat/completions?api-version=2024-10-21"
    assert provider.url("/chat/completions", "a/b") == asked


def test_a_key_alone_is_for_ollamas_cloud() -> None:
    options: Any = router(environment={"OLLAMA_API_KEY": "k"}).providers["ollama"].options
    assert (options.api_key, options.base_url) == ("k", "https://ollama.com")


def test_one_providers_key_is_not_anothers() -> None:
    with pytest.raises(ProviderNotConfigured, match="ANTHROPIC_API_KEY"):
        router(environment={"OPENAI_API_KEY": "k"}).targets("claude-3")


def test_a_base_url_of_ones_own_takes_every_name_that_nothing_else_takes() -> None:
    environment = {"OPENAI_BASE_URL": NOWHERE, "ANTHROPIC_API_KEY": "k"}
    routes = router(environment=environment)
    assert answers(routes, "any/name-at:all") == [("openai", "any/name-at:all")]
    assert answers(routes, "claude-3") == [("anthropic", "claude-3")]
    assert answers(routes, "gemini-2") == [("openai", "gemini-2")]
    assert answers(routes, "echo") == [("echo", "echo")]


def test_with_sections_the_environment_adds_no_rules() -> None:
    routes = router({"mine": section(models="a")}, {"OPENAI_API_KEY": "k"})
    with pytest.raises(ModelNotFound):
        routes.targets("gpt-4")


# -- what is shown ------------------------------------------------------------------------


def test_what_can_be_asked_for_is_listed_with_who_answers() -> None:
    routes = router({"mine": {"type": "echo", "models": "a, b = c"}}, default_model="a")
    assert routes.models() == {"a": "mine", "b": "mine", "echo": "echo", "mine": "mine"}
    assert routes.describe() == [
        ("a", "mine"),
        ("b", "mine"),
        ("echo", "echo"),
        ("any other name", "mine"),
    ]


# -- where providers come from ------------------------------------------------------------


def test_a_provider_comes_in_through_its_entry_point(scripted: Callable[[], Script]) -> None:
    assert "scripted" in installed()
    routes = router({"mine": {"type": "scripted", "models": "m"}})
    assert answers(routes, "m") == [("mine", "m")]


@pytest.mark.parametrize(
    ("value", "words"),
    [
        ("no_such_module:Thing", "cannot be loaded"),
        ("scripted_provider:Script", "is not a Provider"),  # a class
        ("scripted_provider:End", "is not a Provider"),
    ],
)
def test_a_broken_entry_point_is_named(
    value: str, words: str, scripted: Callable[[], Script], tmp_path: Path
) -> None:
    entries = tmp_path / "scripted-1.dist-info" / "entry_points.txt"
    entries.write_text(f"[choreo_wsgi.providers]\nbroken = {value}\n")
    with pytest.raises(ConfigurationError, match=words) as refused:
        provider_class("broken")
    assert "'broken'" in str(refused.value)


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
def test_broken_code_is_an_error_of_that_provider_alone(
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
            asked = {"model": model, "messages": [{"role": "user", "content": "hello"}]}
            answer = client.exchange("POST", "/v1/chat/completions", asked)
            assert answer.status == status, model
            if status == 502:
                error = json.loads(answer.body)["error"]
                assert error["code"] == "provider_not_configured" and "'bad'" in error["message"]
    app.close()


@pytest.mark.parametrize(
    ("environment", "there"),
    [({"AWS_ACCESS_KEY_ID": "a"}, False), ({"AWS_BEARER_TOKEN_BEDROCK": "t"}, True)],
)
def test_bedrock_without_botocore(
    environment: dict[str, str], there: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Credentials that are there for other reasons ask for nothing; a key of its own does."""
    for name in ("provider", "answer"):
        monkeypatch.delitem(sys.modules, f"choreo_wsgi.providers.bedrock.{name}", raising=False)
    monkeypatch.setitem(sys.modules, "botocore.eventstream", None)
    monkeypatch.setitem(sys.modules, "botocore.auth", None)
    provider_class.cache_clear()
    routes = router(environment=environment)
    assert ("bedrock" in routes.providers) is there
    request = ChatRequest("m", [], {})
    if there:
        with pytest.raises(ProviderNotConfigured, match=r"pip install botocore$"):
            routes.targets("bedrock/m")[0].provider.open(request)
    provider_class.cache_clear()


def test_a_provider_that_is_not_named_is_not_imported(
    scripted: Callable[[], Script], tmp_path: Path
) -> None:
    entries = tmp_path / "scripted-1.dist-info" / "entry_points.txt"
    entries.write_text("[choreo_wsgi.providers]\nbroken = explosive_provider:Thing\n")
    (tmp_path / "explosive_provider.py").write_text("raise SystemExit('imported unasked')\n")
    assert "broken" in installed()
    routes = router(environment={"OPENAI_API_KEY": "k"})
    with pytest.raises(ModelNotFound):
        routes.targets("broken/model")


def test_every_installed_provider_can_be_loaded() -> None:
    for type in installed():
        assert provider_class(type).type == type


def test_names_that_callers_make_up_are_bounded() -> None:
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
def test_a_pattern_lists_what_it_takes_only(pattern: str, listed: bool) -> None:
    sections = {"mine": {"type": "local", "models": pattern}}
    assert (NAME in router(sections, default_model="none").models()) is listed


def test_who_is_done_with_a_router_closes_its_providers(monkeypatch: pytest.MonkeyPatch) -> None:
    """Else a local model's process would be left behind."""
    closed = []
    routes = router({"one": {"type": "echo"}, "two": section()}, default_model="none")
    for name, provider in routes.providers.items():
        monkeypatch.setattr(provider, "close", lambda name=name: closed.append(name))
    routes.close()
    assert {"one", "two"} <= {*closed} and len(closed) == len(routes.providers)
