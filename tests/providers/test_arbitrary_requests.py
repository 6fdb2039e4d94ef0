"""An adapter sends any request, or rejects it with a parameter's name; nothing else."""

from __future__ import annotations

import json
from typing import Any

import pytest
from adapter_requests import MODELS
from hypothesis import given, settings
from hypothesis import strategies as st
from nightly import examples

from choreo_wsgi.chat.request import parse
from choreo_wsgi.errors import InvalidRequest
from choreo_wsgi.providers.http import HTTPProvider
from choreo_wsgi.providers.registry import provider_class
from choreo_wsgi.providers.support import PROVIDERS
from choreo_wsgi.settings import Settings

words = st.sampled_from(["", " ", "a", "é", "c1", "call_1", "x/y", '{"a":1}', "{", "null", "[1]"])
anything = st.recursive(
    st.none() | st.booleans() | st.integers(-5, 5) | st.floats(-2, 2) | words,
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(words, inner, max_size=2),
    max_leaves=4,
)
urls = st.sampled_from(
    [
        *("data:image/png;base64,iVBORw0KGgo=", "data:image/jpg;base64,/9j/", "https://a/b.png"),
        *("data:text/plain;base64,//8=", "data:application/pdf;base64,JVBERi0=", "JVBERi0=", ""),
        *("data:image/png;base64,!", "http://a/b", "data:,", "data:x/y;base64,AA=="),
    ]
)
marks = st.none() | st.just({"type": "ephemeral"}) | anything


def maybe(**members: Any) -> Any:
    """Return objects that have some of *members*."""
    return st.fixed_dictionaries({}, optional=members)


parts = st.one_of(
    st.builds(
        lambda text, mark: {"type": "text", "text": text, **mark}, words, maybe(cache_control=marks)
    ),
    st.builds(lambda url: {"type": "image_url", "image_url": {"url": url}}, urls),
    st.builds(
        lambda url, name: {"type": "file", "file": {"file_data": url, "filename": name}},
        urls,
        words,
    ),
    st.builds(
        lambda form: {"type": "input_audio", "input_audio": {"data": "AAAA", "format": form}},
        words,
    ),
    st.builds(
        lambda kind, value: {"type": kind, kind: value},
        st.sampled_from(["refusal", "video_url"]),
        words,
    ),
)
contents = words | st.lists(parts, min_size=1, max_size=3)
calls = st.lists(
    st.builds(
        lambda known, name, arguments, extra: {
            "id": known,
            "type": "function",
            "function": {"name": name, "arguments": arguments},
            **extra,
        },
        words,
        words,
        words,
        maybe(extra_content=anything, cache_control=marks),
    ),
    max_size=3,
)
members = maybe(
    **dict.fromkeys(
        ("thinking_blocks", "images", "extra_content", "reasoning_content", "is_error"), anything
    ),
    name=words,
    refusal=words,
    cache_control=marks,
)
messages = st.lists(
    st.one_of(
        st.builds(
            lambda role, content, more: {**more, "role": role, "content": content},
            st.sampled_from(["user", "system", "developer"]),
            contents,
            members,
        ),
        st.builds(
            lambda content, made, more: {
                **more,
                "role": "assistant",
                "content": content,
                "tool_calls": made,
            },
            contents,
            calls,
            members,
        ),
        st.builds(
            lambda content, known, more: {
                **more,
                "role": "tool",
                "content": content,
                "tool_call_id": known,
            },
            contents,
            words,
            members,
        ),
    ),
    min_size=1,
    max_size=4,
)
functions = st.builds(
    lambda name, more, mark: {"type": "function", "function": {"name": name, **more}, **mark},
    st.sampled_from(["f", "g", "a b"]),
    maybe(
        description=words,
        parameters=st.dictionaries(words, anything, max_size=2),
        strict=st.booleans(),
    ),
    maybe(cache_control=marks),
)
fields = maybe(
    tools=st.lists(functions | st.just({"type": "custom", "custom": {"name": "c"}}), max_size=2),
    tool_choice=st.sampled_from(["none", "auto", "required"]),
    reasoning_effort=st.sampled_from(["none", "low", "max", "more"]),
    response_format=st.just({"type": "json_object"})
    | st.builds(
        lambda s: {"type": "json_schema", "json_schema": {"name": "n", "schema": s}},
        st.dictionaries(words, anything, max_size=2),
    ),
    modalities=st.lists(words, max_size=2),
    stop=st.lists(words, max_size=2),
    **dict.fromkeys(
        ("thinking", "cache_control", "top_k", "logprobs_of", "prediction", "audio", "moderation"),
        anything,
    ),
)
models = {
    "anthropic": ["claude-3-haiku", "claude-opus-4-1", "claude-opus-4-8", "claude-opus-5-5", "m"],
    "bedrock": ["anthropic.claude-opus-4-8", "meta.llama4", "openai.gpt-oss-120b-1:0"],
    "gemini": ["gemini-2.0-flash", "gemini-2.5-pro", "gemini-3-pro", "gemma-3"],
    "ollama": ["gpt-oss:20b", "llama3"],
}


@pytest.mark.parametrize("type", PROVIDERS)
def test_sends_or_rejects_any_request(type: str) -> None:
    provider = provider_class(type)(type, {"api_key": "k"}, Settings())
    assert isinstance(provider, HTTPProvider) and set(models) == set(MODELS)

    @settings(max_examples=examples(150, 20_000), deadline=None)
    @given(messages, fields, st.sampled_from(models[type]))
    def check(history: Any, more: Any, model: str) -> None:
        try:
            request = parse(json.dumps({**more, "model": model, "messages": history}).encode())
        except InvalidRequest:
            return  # rejected before the adapter
        try:
            sent = provider.encode(request)
        except InvalidRequest as error:
            assert error.status == 400 and error.param and len(error.message) < 400
            return
        json.loads(sent.body, parse_constant=pytest.fail)

    check()
    provider.close()
