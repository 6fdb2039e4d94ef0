"""Providers that speak OpenAI's API and differ in nothing but what the table says of them."""

from __future__ import annotations

from ..facts import BUILT_IN
from .provider import OpenAI


class XAI(OpenAI):
    """Grok, at xAI."""

    type = "xai"
    facts = BUILT_IN["xai"]


class OpenRouter(OpenAI):
    """Models of many makers, at OpenRouter."""

    type = "openrouter"
    facts = BUILT_IN["openrouter"]


class Groq(OpenAI):
    """Open models at Groq."""

    type = "groq"
    facts = BUILT_IN["groq"]


class Mistral(OpenAI):
    """Mistral's models."""

    type = "mistral"
    facts = BUILT_IN["mistral"]


class DeepSeek(OpenAI):
    """DeepSeek's models."""

    type = "deepseek"
    facts = BUILT_IN["deepseek"]


class VLLM(OpenAI):
    """A vLLM server of one's own."""

    type = "vllm"
    facts = BUILT_IN["vllm"]


class SGLang(OpenAI):
    """An SGLang server of one's own."""

    type = "sglang"
    facts = BUILT_IN["sglang"]
