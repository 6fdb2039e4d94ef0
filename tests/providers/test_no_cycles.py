"""Translators, with the texts that they set aside, are freed without the cyclic collector."""

from __future__ import annotations

import weakref
from collections.abc import Callable
from typing import Any

import pytest
from work import collected

from choreo_wsgi.providers.anthropic.answer import AnthropicTranslator
from choreo_wsgi.providers.bedrock.answer import BedrockTranslator
from choreo_wsgi.providers.gemini.answer import GeminiTranslator
from choreo_wsgi.providers.ollama import OllamaTranslator
from choreo_wsgi.providers.openai.chunks import OpenAITranslator


@pytest.mark.parametrize(
    "make",
    [AnthropicTranslator, BedrockTranslator, GeminiTranslator, OllamaTranslator, OpenAITranslator],
)
def test_translators_are_in_no_reference_cycle(make: Callable[[], Any]) -> None:
    with collected():
        gone = weakref.ref(make())
        assert gone() is None
