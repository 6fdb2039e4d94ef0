"""Providers that speak OpenAI's API: an address and the name of a key each."""

from __future__ import annotations

from typing import ClassVar

from .openai import OpenAI

__all__ = ["VLLM", "XAI", "DeepSeek", "Groq", "Mistral", "OpenRouter", "SGLang"]


class XAI(OpenAI):
    """Grok, at xAI."""

    type = "xai"
    key_variables: ClassVar[tuple[str, ...]] = ("XAI_API_KEY", "GROK_API_KEY")
    base_url_variable: ClassVar[str] = "XAI_BASE_URL"
    patterns: ClassVar[tuple[str, ...]] = ("grok-*",)
    home: ClassVar[str] = "https://api.x.ai/v1"


class OpenRouter(OpenAI):
    """Models of many makers, at OpenRouter."""

    type = "openrouter"
    key_variables: ClassVar[tuple[str, ...]] = ("OPENROUTER_API_KEY",)
    base_url_variable: ClassVar[str] = "OPENROUTER_BASE_URL"
    patterns: ClassVar[tuple[str, ...]] = ()
    home: ClassVar[str] = "https://openrouter.ai/api/v1"


class Groq(OpenAI):
    """Open models at Groq."""

    type = "groq"
    key_variables: ClassVar[tuple[str, ...]] = ("GROQ_API_KEY",)
    base_url_variable: ClassVar[str] = "GROQ_BASE_URL"
    patterns: ClassVar[tuple[str, ...]] = ()
    home: ClassVar[str] = "https://api.groq.com/openai/v1"


class Mistral(OpenAI):
    """Mistral's models."""

    type = "mistral"
    key_variables: ClassVar[tuple[str, ...]] = ("MISTRAL_API_KEY",)
    base_url_variable: ClassVar[str] = "MISTRAL_BASE_URL"
    patterns: ClassVar[tuple[str, ...]] = ()
    home: ClassVar[str] = "https://api.mistral.ai/v1"


class DeepSeek(OpenAI):
    """DeepSeek's models."""

    type = "deepseek"
    key_variables: ClassVar[tuple[str, ...]] = ("DEEPSEEK_API_KEY",)
    base_url_variable: ClassVar[str] = "DEEPSEEK_BASE_URL"
    patterns: ClassVar[tuple[str, ...]] = ()
    home: ClassVar[str] = "https://api.deepseek.com/v1"


class VLLM(OpenAI):
    """A vLLM server of one's own."""

    type = "vllm"
    key_variables: ClassVar[tuple[str, ...]] = ("VLLM_API_KEY",)
    base_url_variable: ClassVar[str] = "VLLM_BASE_URL"
    patterns: ClassVar[tuple[str, ...]] = ()
    home: ClassVar[str] = "http://127.0.0.1:8000/v1"
    needs_key: ClassVar[bool] = False


class SGLang(OpenAI):
    """An SGLang server of one's own."""

    type = "sglang"
    key_variables: ClassVar[tuple[str, ...]] = ("SGLANG_API_KEY",)
    base_url_variable: ClassVar[str] = "SGLANG_BASE_URL"
    patterns: ClassVar[tuple[str, ...]] = ()
    home: ClassVar[str] = "http://127.0.0.1:30000/v1"
    needs_key: ClassVar[bool] = False
