"""The largest requests within the server's limits, of each API, and the cases of giant answers.

A provider answers with the giant named in the question: ``giant:NAME``.
"""

# ruff: noqa: UP031  (JSON is full of braces)

from __future__ import annotations

import base64
import json
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

SIZE = 7_000_000

#: The sections of a configuration file with a model of each kind of provider.
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

[provider rest]
type = openai
base_url = {url}/v1
models = *
"""

#: Texts in the form that they have in JSON.
TEXTS: dict[str, Callable[[], str]] = {
    "text": lambda: "x" * SIZE,
    "emoji": lambda: "\U0001f600" + "x" * SIZE,
    "escapes": lambda: "\\n" * (SIZE // 2),
}


_TRANSLATED = ("chat", "chat plain", "responses", "responses plain", "messages", "messages plain")
#: The giant answers of each model in each of the translated APIs.
_ANSWERS = {
    "m": (
        *("chat text", "chat arguments", "chat many calls"),
        *("chat member", "chat details", "chat parts", "chat strings"),
        *("chat thoughts", "chat citations"),
    ),
    "claude": tuple(f"claude {one}" for one in ["text", "arguments", "values", "thought", "pile"]),
    "gemini": (
        *("gemini text", "gemini arguments", "gemini picture"),
        *("gemini calls", "gemini texts", "gemini pictures", "gemini document"),
    ),
    "ollama": ("ollama text", "ollama arguments"),
    "bedrock": ("bedrock text", "bedrock picture"),
}
#: Those that are also measured in stored responses, whose events repeat them.
_STORED = (
    ("m", "chat text"),
    ("m", "chat arguments"),
    ("m", "chat many calls"),
    ("claude", "claude text"),
    ("gemini", "gemini picture"),
    ("gemini", "gemini arguments"),
    ("gemini", "gemini calls"),
    ("ollama", "ollama arguments"),
)
_SINGLE_CASES = [
    ("m", "chat document", "chat plain"),
    ("own", "response text", "responses"),
    ("own", "claude text", "messages"),
    ("m", "legacy text", "completions"),
    ("m", "embedding", "embeddings"),
]


def answer_cases() -> Iterator[tuple[str, str, str]]:
    """Yield the model, its answer and the API of each case; "plain" in the API: no stream."""
    for model, answers in _ANSWERS.items():
        for answer in answers:
            for api in _TRANSLATED:
                if model == "m" and api == "chat plain":
                    continue
                if model == "claude" and api == "messages plain":
                    continue
                yield model, answer, api
    for model, answer in _STORED:
        for api in ("responses stored", "responses stored plain"):
            yield model, answer, api
    yield from _SINGLE_CASES


def requests() -> Iterator[tuple[str, str, str, str, Callable[[], bytes]]]:
    """Yield the model, its small answer, the API, the title and the maker of each request."""
    for model, answers in _ANSWERS.items():
        for api in ("chat", "responses", "messages"):
            arguments = partial(history, api, model, "x" * SIZE)
            for title, text in TEXTS.items():
                yield model, answers[0], api, title, partial(_question, api, model, text)
            yield model, answers[0], api, "picture", partial(picture, api, model)
            yield model, answers[0], api, "arguments", arguments
            yield model, answers[0], api, "turns", partial(many_turns, api, model)
            wide = partial(many_turns, api, model, "\U0001f600")
            yield model, answers[0], api, "turns with emoji", wide
            short = partial(many_turns, api, model, "y", 4, 3_100)
            yield model, answers[0], api, "short turns", short
            for size, pairs in ((70, 3_250), (200, 2_700)):
                short = partial(many_turns, api, model, "\U0001f600", size, pairs)
                yield model, answers[0], api, f"turns of {size} with emoji", short
            yield model, answers[0], api, "tools", partial(tools, api, model)
            yield model, answers[0], api, "rounds", partial(rounds, api, model)
            for title, many in MANY.items():
                yield model, answers[0], api, title, partial(many, api, model)
    for api, answer in (("completions", "legacy text"), ("embeddings", "embedding")):
        tokens = "[" + "1234567," * 300_000 + "1]"
        yield "m", answer, api, "text", partial(_question, api, "m", TEXTS["text"])
        yield "m", answer, api, "tokens", partial(request, api, "m", tokens, user="giant:none")


def _question(api: str, model: str, text: Callable[[], str]) -> bytes:
    return request(api, model, f'"{text()}giant:none"')


PATHS = {
    "chat": "/v1/chat/completions",
    "responses": "/v1/responses",
    "messages": "/v1/messages",
    "completions": "/v1/completions",
    "embeddings": "/v1/embeddings",
}


def request(api: str, model: str, text: str, **more: Any) -> bytes:
    """Return the body of a request of *api* with the input *text*, a JSON value."""
    api, *words = api.split()
    more |= {"store": True} if "stored" in words else {}
    question = {
        "chat": '"messages":[{"role":"user","content":%s}]',
        "responses": '"input":%s',
        "messages": '"max_tokens":9,"messages":[{"role":"user","content":%s}]',
        "completions": '"prompt":%s',
        "embeddings": '"input":%s',
    }[api] % text
    rest = "".join(f",{json.dumps(name)}:{json.dumps(value)}" for name, value in more.items())
    stream = "" if "plain" in words or api == "embeddings" else ',"stream":true'
    return f'{{"model":"{model}",{question}{stream}{rest}}}'.encode()


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
    """Return the body of a request of *api* with an earlier call with *text* in its arguments."""
    arguments = '{"a":"%s"}' % text
    quoted = json.dumps(arguments, ensure_ascii=False)
    if api == "messages":
        turns = (
            '{"role":"assistant","content":[{"type":"tool_use","id":"t","name":"f","input":%s}]},'
            '{"role":"user","content":[{"type":"tool_result","tool_use_id":"t","content":"ok"}]}'
        ) % arguments
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


def many_turns(
    api: str, model: str, letter: str = "y", size: int = 700, pairs: int = 4_900
) -> bytes:
    """Return the body of a request of *api* with *pairs* of messages of *size* letters.

    Each message begins with *letter*.
    """
    turn = '{"role":"user","content":"%s"},{"role":"assistant","content":"%s"},' % (
        (letter + "y" * (size - 1),) * 2
    )
    turns = f'[{turn * pairs}{{"role":"user","content":"giant:none"}}]'
    if api == "responses":
        return request(api, model, turns)
    body = request(api, model, '"-"').decode()
    return body.replace('[{"role":"user","content":"-"}]', turns).encode()


def rounds(api: str, model: str) -> bytes:
    """Return the body of a request of *api* with 1,300 rounds of a short call and its result."""
    pattern = {
        "chat": '{"role":"assistant","content":null,"tool_calls":[{"id":"t%d","type":"function",'
        '"function":{"name":"f","arguments":"{}"}}]},'
        '{"role":"tool","tool_call_id":"t%d","content":"o%d"},',
        "messages": '{"role":"assistant","content":[{"type":"tool_use","id":"t%d","name":"f",'
        '"input":{"a":"b"}}]},{"role":"user","content":[{"type":"tool_result","tool_use_id":"t%d",'
        '"content":"o%d"}]},',
        "responses": '{"type":"function_call","call_id":"t%d","name":"f","arguments":"{}"},'
        '{"type":"function_call_output","call_id":"t%d","output":"o%d"},',
    }[api]
    turns = "".join(pattern % (at, at, at) for at in range(1_300))
    question = '{"role":"user","content":"giant:none"}'
    body = request(api, model, f"[{question}]" if api == "responses" else '"giant:none"').decode()
    return body.replace(question, f"{question},{turns}{question}").encode()


def tools(api: str, model: str) -> bytes:
    """Return the body of a request of *api* with 700 tools of eight parameters each."""
    schema = {"type": "object", "properties": {key: {"type": "string"} for key in "abcdefgh"}}
    tools = [{"name": f"f{at}", "description": "does it"} for at in range(700)]
    declared: list[dict[str, Any]] = {
        "chat": [
            {"type": "function", "function": {**tool, "parameters": schema}} for tool in tools
        ],
        "responses": [{"type": "function", **tool, "parameters": schema} for tool in tools],
        "messages": [{**tool, "input_schema": schema} for tool in tools],
    }[api]
    return request(api, model, '"giant:none"', tools=declared)


def _fill(element: str, values: int, size: int = 1_900_000) -> str:
    """Return a list of *size* bytes of *element*, filled in with as many values as are allowed.

    *element* has ``%s`` for a text and so many *values*.
    """
    many = 27_500 // values
    text = "y" * max(0, size // many - len(element))
    return f"[{','.join([element % text] * many)}]"


def short_turns(api: str, model: str) -> bytes:
    """Return the body of a request of *api* with as many turns as 2 MB may have."""
    turns = _fill('{"role":"assistant","content":"%s"}', 3)[:-1]
    return _with_turns(api, model, turns + ',{"role":"user","content":"giant:none"}]')


def parts(api: str, model: str) -> bytes:
    """Return the body of a request of *api* with a turn of as many parts as 2 MB may have."""
    kind = "input_text" if api == "responses" else "text"
    content = _fill('{"type":"%s","text":"%%s"}' % kind, 3)[:-1]
    content += ',{"type":"%s","text":"giant:none"}]' % kind
    return _with_turns(api, model, '[{"role":"user","content":%s}]' % content)


def short_rounds(api: str, model: str) -> bytes:
    """Return the body of a request of *api* with as many short rounds as 2 MB may have."""
    pattern, values = {
        "chat": (
            '{"role":"assistant","content":null,"tool_calls":[{"id":"t","type":"function",'
            '"function":{"name":"f","arguments":"{}"}}]},'
            '{"role":"tool","tool_call_id":"t","content":"%s"}',
            14,
        ),
        "messages": (
            '{"role":"assistant","content":[{"type":"tool_use","id":"t","name":"f","input":{}}]},'
            '{"role":"user","content":[{"type":"tool_result","tool_use_id":"t","content":"%s"}]}',
            19,  # a call counts as three more
        ),
        "responses": (
            '{"type":"function_call","call_id":"t","name":"f","arguments":"{}"},'
            '{"type":"function_call_output","call_id":"t","output":"%s"}',
            14,  # an output counts as three more
        ),
    }[api]
    question = '{"role":"user","content":"giant:none"}'
    return _with_turns(api, model, f"[{question},{_fill(pattern, values)[1:-1]},{question}]")


def short_tools(api: str, model: str) -> bytes:
    """Return the body of a request of *api* with as many tools as it may have.

    These are about 2,000; a response, which repeats them, may have 1 MiB of them.
    """
    schema = '{"type":"object","properties":{"a":{"type":"string"},"b":{"type":"string"}}}'
    named = '"name":"f","description":"%s"'
    pattern = {
        "chat": f'{{"type":"function","function":{{{named},"parameters":{schema}}}}}',
        "responses": f'{{"type":"function",{named},"parameters":{schema}}}',
        "messages": f'{{{named},"input_schema":{schema}}}',
    }[api]
    tools = _fill(pattern, 14, 1_000_000 if api == "responses" else 1_900_000)
    return request(api, model, '"giant:none"', tools=json.loads(tools))


def _with_turns(api: str, model: str, turns: str) -> bytes:
    """Return the body of a request of *api* whose turns are the JSON list *turns*."""
    if api == "responses":
        return request(api, model, turns)
    return request(api, model, '"-"').replace(b'[{"role":"user","content":"-"}]', turns.encode())


#: Requests of 2 MB with as many values as are allowed.
MANY = {
    "short turns of 2 MB": short_turns,
    "parts of 2 MB": parts,
    "rounds of 2 MB": short_rounds,
    "2,000 tools": short_tools,
}
