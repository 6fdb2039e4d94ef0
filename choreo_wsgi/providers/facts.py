"""The provider types of this package, as a table: what is known of one before it is imported.

Routing asks the table which types the environment configures and which model names go where;
only then is a type's module imported.  The classes take their facts from here too.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

#: The setting ``capabilities``, which several types have.
CAPABILITIES = "what models take, before the table: PATTERN NAME=VALUE ..., comma separated"


@dataclass(frozen=True)
class Facts:
    """What configures a provider type; *where* its class stands is ``module:Class``.

    *keys* are the environment variables of its key (the first that is set is taken) and
    *base_url* is that of its address.  *patterns* are the model names (fnmatch patterns) that go
    to it when only the environment is configured.  *also* are other variables that may
    configure it; the class says how.  *home* is the address of an OpenAI-compatible API, and
    *needs_key* whether nothing can be had there without a key.  *extra* is the extra of this
    distribution that the type needs.
    """

    where: str = ""
    keys: tuple[str, ...] = ()
    base_url: str = ""
    patterns: tuple[str, ...] = ()
    also: tuple[str, ...] = ()
    home: str = ""
    needs_key: bool = True
    extra: str = ""

    def may_be_configured(self, environment: Mapping[str, str]) -> bool:
        """Return whether *environment* has a variable that could configure this type."""
        return any(environment.get(name) for name in (*self.keys, self.base_url, *self.also))


_OPENAI, _PRESETS = "choreo_wsgi.providers.openai", "choreo_wsgi.providers.openai.presets"

#: In alphabetical order, which is the order in which their patterns are asked.
BUILT_IN: dict[str, Facts] = {
    "anthropic": Facts(
        "choreo_wsgi.providers.anthropic.provider:Anthropic",
        ("ANTHROPIC_API_KEY",),
        "ANTHROPIC_BASE_URL",
        ("claude-*",),
    ),
    "azure": Facts(
        f"{_OPENAI}.azure:Azure",
        ("AZURE_OPENAI_API_KEY",),
        "AZURE_OPENAI_ENDPOINT",
        also=("AZURE_OPENAI_BASE_URL",),
    ),
    "bedrock": Facts(
        "choreo_wsgi.providers.bedrock.provider:Bedrock",
        ("AWS_BEARER_TOKEN_BEDROCK",),
        "BEDROCK_BASE_URL",
        also=("AWS_ACCESS_KEY_ID",),
        extra="bedrock",
    ),
    "deepseek": Facts(
        f"{_PRESETS}:DeepSeek",
        ("DEEPSEEK_API_KEY",),
        "DEEPSEEK_BASE_URL",
        home="https://api.deepseek.com/v1",
    ),
    "echo": Facts("choreo_wsgi.providers.echo:Echo"),
    "gemini": Facts(
        "choreo_wsgi.providers.gemini.provider:Gemini",
        ("GEMINI_API_KEY", "GOOGLE_API_KEY"),
        "GEMINI_BASE_URL",
        ("gemini-*",),
    ),
    "groq": Facts(
        f"{_PRESETS}:Groq",
        ("GROQ_API_KEY",),
        "GROQ_BASE_URL",
        home="https://api.groq.com/openai/v1",
    ),
    "local": Facts("choreo_wsgi.local.provider:Local"),
    "mistral": Facts(
        f"{_PRESETS}:Mistral",
        ("MISTRAL_API_KEY",),
        "MISTRAL_BASE_URL",
        home="https://api.mistral.ai/v1",
    ),
    "ollama": Facts("choreo_wsgi.providers.ollama:Ollama", ("OLLAMA_API_KEY",), "OLLAMA_BASE_URL"),
    "openai": Facts(
        f"{_OPENAI}.provider:OpenAI",
        ("OPENAI_API_KEY",),
        "OPENAI_BASE_URL",
        ("gpt-*", "chatgpt-*", "o[0-9]*"),
        home="https://api.openai.com/v1",
    ),
    "openrouter": Facts(
        f"{_PRESETS}:OpenRouter",
        ("OPENROUTER_API_KEY",),
        "OPENROUTER_BASE_URL",
        home="https://openrouter.ai/api/v1",
    ),
    "sglang": Facts(
        f"{_PRESETS}:SGLang",
        ("SGLANG_API_KEY",),
        "SGLANG_BASE_URL",
        home="http://127.0.0.1:30000/v1",
        needs_key=False,
    ),
    "vllm": Facts(
        f"{_PRESETS}:VLLM",
        ("VLLM_API_KEY",),
        "VLLM_BASE_URL",
        home="http://127.0.0.1:8000/v1",
        needs_key=False,
    ),
    "xai": Facts(
        f"{_PRESETS}:XAI",
        ("XAI_API_KEY", "GROK_API_KEY"),
        "XAI_BASE_URL",
        ("grok-*",),
        home="https://api.x.ai/v1",
    ),
}
