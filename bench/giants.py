"""The largest requests that are within the limits, of each API, and who is asked for which giant.

A provider answers with the giant that the question names: ``giant:NAME``.
"""

# ruff: noqa: UP031  (JSON is full of braces)

from __future__ import annotations

import base64
import json
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

SIZE = 7_000_000

#: The sections of a configuration file in which each kind of provider has a model.
PROVIDERS = """
[provider up]
type = openai
base_url = {url}/v1
models = m

[provider own]
type = openai
base_url = {url}/v1
apis = chat, responses, messages
models = own

[provider claude]
type = anthropic
base_url = {url}
api_key = key
models = claude

[provider gemini]
type = gemini
base_url = {url}
api_key = key
models = gemini

[provider ollama]
type = ollama
base_url = {url}
models = ollama

[provider bedrock]
type = bedrock
base_url = {url}
api_key = key
models = bedrock
"""

#: Texts as they stand in JSON.
TEXTS: dict[str, Callable[[], str]] = {
    "text": lambda: "x" * SIZE,
    "emoji": lambda: "\U0001f600" + "x" * SIZE,
    "escapes": lambda: "\\n" * (SIZE // 2),
}


_TRANSLATED = ("chat", "chat plain", "responses", "responses plain", "messages", "messages plain")
#: Who answers with what.
_SAID = {
    "m": ("chat text", "chat arguments", "chat many calls"),
    "claude": ("claude text", "claude arguments"),
    "gemini": ("gemini text", "gemini arguments", "gemini picture"),
    "ollama": ("ollama text", "ollama arguments"),
    "bedrock": ("bedrock text",),
}
_ALONE = [
    ("m", "chat document", "chat plain"),
    ("own", "response text", "responses"),
    ("own", "claude text", "messages"),
    ("m", "legacy text", "completions"),
    ("m", "embedding", "embeddings"),
]


def asked() -> Iterator[tuple[str, str, str]]:
    """Yield models, what they answer with, and the APIs in which they do; plain: no stream."""
    for model, answers in _SAID.items():
        for answer in answers:
            for api in _TRANSLATED:
                if model == "m" and api == "chat plain":
                    continue
                if model == "claude" and api == "messages plain":
                    continue
                yield model, answer, api
    yield from _ALONE


def requests() -> Iterator[tuple[str, str, str, str, Callable[[], bytes]]]:
    """Yield models, their small answers, APIs, titles of requests, and what makes these."""
    for model, answers in _SAID.items():
        for api in ("chat", "responses", "messages"):
            made = partial(history, api, model, "x" * SIZE)
            for title, text in TEXTS.items():
                yield model, answers[0], api, title, partial(_telling, api, model, text)
            yield model, answers[0], api, "picture", partial(picture, api, model)
            yield model, answers[0], api, "arguments", made
            yield model, answers[0], api, "turns", partial(many_turns, api, model)
            wide = partial(many_turns, api, model, "\U0001f600")
            yield model, answers[0], api, "turns with emoji", wide
            yield model, answers[0], api, "short turns", partial(many_turns, api, model, "y", 4)
            for size in (70, 200):
                short = partial(many_turns, api, model, "\U0001f600", size)
                yield model, answers[0], api, f"turns of {size} with emoji", short
            yield model, answers[0], api, "tools", partial(tools, api, model)
            yield model, answers[0], api, "rounds", partial(rounds, api, model)
    for api, answer in (("completions", "legacy text"), ("embeddings", "embedding")):
        tokens = "[" + "1234567," * 300_000 + "1]"
        yield "m", answer, api, "text", partial(_telling, api, "m", TEXTS["text"])
        yield "m", answer, api, "tokens", partial(request, api, "m", tokens, user="giant:none")


def _telling(api: str, model: str, text: Callable[[], str]) -> bytes:
    return request(api, model, f'"{text()}giant:none"')


PATHS = {
    "chat": "/v1/chat/completions",
    "responses": "/v1/responses",
    "messages": "/v1/messages",
    "completions": "/v1/completions",
    "embeddings": "/v1/embeddings",
}


def request(api: str, model: str, text: str, **more: Any) -> bytes:
    """Return the body of a request of *api* that says *text*, which is a JSON string."""
    api, _, plain = api.partition(" ")
    said = {
        "chat": '"messages":[{"role":"user","content":%s}]',
        "responses": '"input":%s',
        "messages": '"max_tokens":9,"messages":[{"role":"user","content":%s}]',
        "completions": '"prompt":%s',
        "embeddings": '"input":%s',
    }[api] % text
    rest = "".join(f",{json.dumps(name)}:{json.dumps(value)}" for name, value in more.items())
    stream = "" if plain or api == "embeddings" else ',"stream":true'
    return f'{{"model":"{model}",{said}{stream}{rest}}}'.encode()


def picture(api: str, model: str) -> bytes:
    """Return the body of a request of *api* with a picture."""
    data = base64.b64encode(b"\x89PNG\r\n\x1a\n" + bytes(SIZE // 4 * 3)).decode()
    url = f"data:image/png;base64,{data}"
    source = f'{{"type":"base64","media_type":"image/png","data":"{data}"}}'
    content = {
        "chat": f'[{{"type":"text","text":"giant:none"}},'
        f'{{"type":"image_url","image_url":{{"url":"{url}"}}}}]',
        "messages": f'[{{"type":"text","text":"giant:none"}},{{"type":"image","source":{source}}}]',
        "responses": '[{"role":"user","content":[{"type":"input_text","text":"giant:none"},'
        f'{{"type":"input_image","image_url":"{url}"}}]}}]',
    }[api]
    return request(api, model, content)


def history(api: str, model: str, text: str) -> bytes:
    """Return the body of a request of *api* with a call that had *text* in its arguments."""
    given = '{"a":"%s"}' % text
    quoted = json.dumps(given, ensure_ascii=False)
    if api == "messages":
        turns = (
            '{"role":"assistant","content":[{"type":"tool_use","id":"t","name":"f","input":%s}]},'
            '{"role":"user","content":[{"type":"tool_result","tool_use_id":"t","content":"ok"}]}'
        ) % given
        body = request(api, model, '"giant:none"').decode()
        return body.replace(
            '"content":"giant:none"}]', f'"content":"giant:none"}},{turns}]'
        ).encode()
    if api == "responses":
        items = (
            '[{"role":"user","content":"giant:none"},'
            '{"type":"function_call","call_id":"t","name":"f","arguments":%s},'
            '{"type":"function_call_output","call_id":"t","output":"ok"}]'
        ) % quoted
        return request(api, model, items)
    call = '{"id":"t","type":"function","function":{"name":"f","arguments":%s}}' % quoted
    turns = (
        '{"role":"assistant","content":null,"tool_calls":[%s]},'
        '{"role":"tool","tool_call_id":"t","content":"ok"}'
    ) % call
    body = request(api, model, '"giant:none"').decode()
    return body.replace('"content":"giant:none"}]', f'"content":"giant:none"}},{turns}]').encode()


def many_turns(api: str, model: str, letter: str = "y", size: int = 700) -> bytes:
    """Return the body of a request of *api* with thousands of turns of *size* letters.

    Each begins with *letter*.
    """
    turn = '{"role":"user","content":"%s"},{"role":"assistant","content":"%s"},' % (
        (letter + "y" * (size - 1),) * 2
    )
    many = min(5_000, 3_100 + 8 * size)  # so many that their values are within the limit
    turns = f'[{turn * many}{{"role":"user","content":"giant:none"}}]'
    if api == "responses":
        return request(api, model, turns)
    body = request(api, model, '"-"').decode()
    return body.replace('[{"role":"user","content":"-"}]', turns).encode()


def rounds(api: str, model: str) -> bytes:
    """Return the body of a request of *api* with 1,300 rounds of a short call and its result."""
    made = {
        "chat": '{"role":"assistant","content":null,"tool_calls":[{"id":"t%d","type":"function",'
        '"function":{"name":"f","arguments":"{}"}}]},'
        '{"role":"tool","tool_call_id":"t%d","content":"o%d"},',
        "messages": '{"role":"assistant","content":[{"type":"tool_use","id":"t%d","name":"f",'
        '"input":{"a":"b"}}]},{"role":"user","content":[{"type":"tool_result","tool_use_id":"t%d",'
        '"content":"o%d"}]},',
        "responses": '{"type":"function_call","call_id":"t%d","name":"f","arguments":"{}"},'
        '{"type":"function_call_output","call_id":"t%d","output":"o%d"},',
    }[api]
    turns = "".join(made % (at, at, at) for at in range(1_300))
    question = '{"role":"user","content":"giant:none"}'
    body = request(api, model, f"[{question}]" if api == "responses" else '"giant:none"').decode()
    return body.replace(question, f"{question},{turns}{question}").encode()


def tools(api: str, model: str) -> bytes:
    """Return the body of a request of *api* with 700 tools of eight parameters each."""
    schema = {"type": "object", "properties": {key: {"type": "string"} for key in "abcdefgh"}}
    named = [{"name": f"f{at}", "description": "does it"} for at in range(700)]
    made: list[dict[str, Any]] = {
        "chat": [
            {"type": "function", "function": {**name, "parameters": schema}} for name in named
        ],
        "responses": [{"type": "function", **name, "parameters": schema} for name in named],
        "messages": [{**name, "input_schema": schema} for name in named],
    }[api]
    return request(api, model, '"giant:none"', tools=made)
