"""A table of this package's provider types: the facts that are needed before importing one.

The configuration reads here which types the environment configures and which model names belong
to them; only then is a type's module imported.  The provider classes use the same facts.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

#: The setting ``capabilities``, which several types have.
CAPABILITIES = "capabilities of models, over the table: PATTERN NAME=VALUE ..., comma separated"


@dataclass(frozen=True)
class Facts:
    """The facts of a provider type, whose class is at *where* (``module:Class``).

    *keys* are the environment variables of its key, the first that is set is used; *base_url* is
    the variable of its address.  *patterns* (fnmatch) match the model names that are routed to it
    if there is no configuration but the environment.  *also* are other variables that configure
    it, in a way that the class defines.  *home* is the address of an OpenAI-compatible API, and
    *needs_key* is whether that requires a key.  *extra* is the extra of this distribution that
    the type needs.
    """

    where: str = ""
    keys: tuple[str, ...] = ()
    base_url: str = ""
    patterns: tuple[str, ...] = ()
    also: tuple[str, ...] = ()
    home: str = ""
    needs_key: bool = True
    extra: str = ""


def _own(where: str, name: str, *patterns: str, home: str = "", **more: Any) -> Facts:
    """Return the facts of a type in this package whose variables begin with *name*."""
    more = {"keys": (f"{name}_API_KEY",), "base_url": f"{name}_BASE_URL", **more}
    return Facts(f"choreo_wsgi.providers.{where}", patterns=patterns, home=home, **more)


#: In alphabetical order, in which their patterns are tried.
BUILT_IN: dict[str, Facts] = {
    "anthropic": _own("anthropic.provider:Anthropic", "ANTHROPIC", "claude-*"),
    "azure": _own(
        *("openai.azure:Azure", "AZURE_OPENAI"),
        base_url="AZURE_OPENAI_ENDPOINT",
        also=("AZURE_OPENAI_BASE_URL",),
    ),
    "bedrock": _own(
        *("bedrock.provider:Bedrock", "BEDROCK"),
        keys=("AWS_BEARER_TOKEN_BEDROCK",),
        also=("AWS_ACCESS_KEY_ID",),
        needs_key=False,
        extra="bedrock",
    ),
    "deepseek": _own("openai.presets:DeepSeek", "DEEPSEEK", home="https://api.deepseek.com/v1"),
    "echo": Facts("choreo_wsgi.providers.echo:Echo"),
    "gemini": _own(
        *("gemini.provider:Gemini", "GEMINI", "gemini-*"), keys=("GEMINI_API_KEY", "GOOGLE_API_KEY")
    ),
    "groq": _own("openai.presets:Groq", "GROQ", home="https://api.groq.com/openai/v1"),
    "local": Facts("choreo_wsgi.local.provider:Local"),
    "mistral": _own("openai.presets:Mistral", "MISTRAL", home="https://api.mistral.ai/v1"),
    "ollama": _own("ollama:Ollama", "OLLAMA", needs_key=False),
    "openai": _own(
        *("openai.provider:OpenAI", "OPENAI", "gpt-*", "chatgpt-*", "o[0-9]*"),
        home="https://api.openai.com/v1",
    ),
    "openrouter": _own(
        "openai.presets:OpenRouter", "OPENROUTER", home="https://openrouter.ai/api/v1"
    ),
    "sglang": _own(
        "openai.presets:SGLang", "SGLANG", home="http://127.0.0.1:30000/v1", needs_key=False
    ),
    "vllm": _own("openai.presets:VLLM", "VLLM", home="http://127.0.0.1:8000/v1", needs_key=False),
    "xai": _own(
        *("openai.presets:XAI", "XAI", "grok-*"),
        home="https://api.x.ai/v1",
        keys=("XAI_API_KEY", "GROK_API_KEY"),
    ),
}
