"""The requests that the adapters of providers with their own APIs send."""

from __future__ import annotations

import json
from typing import Any

from choreo_wsgi.chat.request import ChatRequest, parse
from choreo_wsgi.local.request import chat_body, tool_members
from choreo_wsgi.providers.http import HTTPProvider
from choreo_wsgi.providers.registry import provider_class
from choreo_wsgi.settings import Settings

#: A model of each provider that supports most features.
MODELS = {
    "anthropic": "claude-opus-4-5",
    "bedrock": "anthropic.claude-opus-4-5-v1:0",
    "gemini": "gemini-3-pro",
    "ollama": "llama3",
}


def request(model: str, **more: Any) -> ChatRequest:
    body = {"model": model, "messages": [{"role": "user", "content": "hi"}], **more}
    return parse(json.dumps(body).encode())


def sent(type: str, **more: Any) -> Any:
    """Return the body that the provider's adapter sends."""
    if type == "local":
        parsed = request("m", **more)
        return {**chat_body(parsed, 8192, 512, 2048), **tool_members(parsed)}
    provider = provider_class(type)(type, {"api_key": "k"}, Settings())
    assert isinstance(provider, HTTPProvider)
    try:
        return json.loads(provider.encode(request(more.pop("model", MODELS[type]), **more)).body)
    finally:
        provider.close()
