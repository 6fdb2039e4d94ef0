"""More of the largest requests within the limits: stored, counted, in lists, with wide tools."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

from . import giants

#: The APIs by the form of their requests, if that is another's, and all their paths.
FORMS = {"count_tokens": "messages", "input_tokens": "responses", "stored": "responses"}
PATHS = {
    **giants.PATHS,
    "count_tokens": "/v1/messages/count_tokens",
    "input_tokens": "/v1/responses/input_tokens",
    "stored": "/v1/responses",
}
EMOJI = "\U0001f600"


def wide_tools(api: str, model: str) -> bytes:
    """Return the body of a request of *api* with 3 MB of tools described with an emoji each.

    A response, which repeats them, may have 1 MiB.
    """
    text = EMOJI + "y" * 2_100
    schema = {"type": "object", "properties": {"a": {"type": "string", "description": text}}}
    named: dict[str, Any] = {"name": "f", "description": text}
    tool: dict[str, Any] = {
        "chat": {"type": "function", "function": {**named, "parameters": schema}},
        "responses": {"type": "function", **named, "parameters": schema},
        "messages": {**named, "input_schema": schema},
    }[api]
    number = 230 if api == "responses" else 700
    many = json.dumps([tool] * number, ensure_ascii=False)
    many = many.replace('"f"', '"f%d"') % tuple(range(number))
    body = giants.request(api, model, '"giant:none"', tools=[])
    return body.replace(b'"tools":[]', b'"tools":' + many.encode())


def agent(api: str, model: str) -> bytes:
    """Return the body of a request of *api* with 650 rounds of calls, of 1.5 kB each, of an agent.

    The outputs begin with an emoji, and 40 tools are declared.
    """
    text, found = "Now I look at it. " * 8, EMOJI + "y" * 1_500
    given = json.dumps({"path": "x" * 200})
    called = {"id": "t", "type": "function", "function": {"name": "f0", "arguments": given}}
    use = {"type": "tool_use", "id": "t", "name": "f0", "input": {"path": "x" * 200}}
    result = {"type": "tool_result", "tool_use_id": "t", "content": [_text(found), _text("ok")]}
    turns: list[Any] = {
        "chat": [
            {"role": "assistant", "content": text, "tool_calls": [called]},
            {"role": "tool", "tool_call_id": "t", "content": found},
        ],
        "responses": [
            {"type": "reasoning", "summary": [{"type": "summary_text", "text": text}]},
            {"role": "assistant", "content": [{"type": "output_text", "text": text}]},
            {"type": "function_call", "call_id": "t", "name": "f0", "arguments": given},
            {"type": "function_call_output", "call_id": "t", "output": found},
        ],
        "messages": [
            {"role": "assistant", "content": [_text(text), use]},
            {"role": "user", "content": [result]},
        ],
    }[api]
    question = {"role": "user", "content": "giant:none"}
    history = json.dumps([question, *turns * 650, question], ensure_ascii=False)
    return _turns(api, model, history)


def _text(text: str) -> dict[str, str]:
    return {"type": "text", "text": text}


def _turns(api: str, model: str, turns: str) -> bytes:
    if api == "responses":
        return giants.request(api, model, turns)
    body = giants.request(api, model, '"-"')
    return body.replace(b'[{"role":"user","content":"-"}]', turns.encode())


def prompts(api: str, text: str) -> bytes:
    """Return the body of a request of *api* with 30,000 prompts that begin with *text*."""
    many = [text + "y" * 50] * 30_000
    return giants.request(api, "m", json.dumps(many, ensure_ascii=False), user="giant:none")


def stored(model: str, text: str, turns: int) -> bytes:
    """Return the body of a request whose response is stored, with so many *turns* of *text*."""
    turn = {"role": "assistant", "content": text}
    question = {"role": "user", "content": "giant:none"}
    given = json.dumps([*[turn] * turns, question], ensure_ascii=False)
    return giants.request("responses", model, given, store=True)


def calls(model: str, text: str, rounds: int, **more: bool) -> bytes:
    """Return the body of a request of Responses with so many *rounds* of a call and its *text*."""
    called = {"type": "function_call", "call_id": "t", "name": "f", "arguments": "{}"}
    output = {"type": "function_call_output", "call_id": "t", "output": text}
    question = {"role": "user", "content": "giant:none"}
    given = json.dumps([question, *[called, output] * rounds, question], separators=(",", ":"))
    return giants.request("responses", model, given, **more)


def unknown(model: str, text: str, number: int) -> bytes:
    """Return the body of a request whose response is stored, with so many items of no provider."""
    question = {"role": "user", "content": "giant:none"}
    given = json.dumps([question, *[{"type": "mcp_call", "x": text}] * number])
    return giants.request("responses", model, given, store=True)


def allowed_tools(model: str, text: str, number: int) -> bytes:
    """Return the body of a request of Responses that allows a tool so often, with a *text*."""
    tool = {"type": "function", "name": "f"}
    choice = {"type": "allowed_tools", "mode": "auto", "tools": [{**tool, "x": text}] * number}
    more = {"tools": [tool], "tool_choice": choice}
    body = giants.request("responses", model, '"giant:none"', **more)
    return body.replace(b"\\u0436", "\u0436".encode())


def generated(model: str, number: int) -> bytes:
    """Return the body of a request of Responses with so many generated images of 2 kB."""
    image = {"type": "image_generation_call", "result": "QUJD" * 500}
    question = {"role": "user", "content": "giant:none"}
    return giants.request("responses", model, json.dumps([question, *[image] * number, question]))


def objects(api: str, model: str) -> bytes:
    """Return the body of a request of *api* with 5,900 unknown objects of a text with a euro."""
    many = [{f"k{at}": "\u20ac" + "x" * 200} for at in range(5_900)]
    return _wide(giants.request(api, model, '"giant:none"', x=many))


def text_files(model: str, text: str, number: int) -> bytes:
    """Return the body of a request of the Messages API with so many files of *text*."""
    source = {"type": "text", "media_type": "text/plain", "data": text}
    content = [*[{"type": "document", "source": source}] * number, _text("giant:none")]
    return giants.request("messages", model, json.dumps(content, ensure_ascii=False))


def members(api: str, model: str) -> bytes:
    """Return the body of a request of *api* with 16,000 members of metadata, with a euro each."""
    many = {f"k{at}": "\u20ac" + "x" * 44 for at in range(16_000)}
    return _wide(giants.request(api, model, '"giant:none"', metadata=many))


def schema(api: str, model: str) -> bytes:
    """Return the body of a request of *api* with 2,900 members in the schema of its answer."""
    described = {"type": "string", "description": "\u20ac" + "x" * 300}
    properties = {f"k{at}": described for at in range(2_900)}
    schema = {"type": "object", "properties": properties}
    form = {"type": "json_schema", "name": "a", "schema": schema}
    member, value = {
        "chat": ("response_format", {"type": "json_schema", "json_schema": form}),
        "responses": ("text", {"format": form}),
        "messages": ("output_format", form),
    }[api]
    body = giants.request(api, model, '"giant:none"')[:-1]
    return _wide(body + f',"{member}":{json.dumps(value)}}}'.encode())


def _wide(body: bytes) -> bytes:
    return body.replace(b"\\u20ac", "\u20ac".encode())


def calls_of_a_turn(model: str) -> bytes:
    """Return the body of a request of the Messages API with a turn of 2,800 calls."""
    call = {"type": "tool_use", "id": "t%d", "name": "f", "input": {"a": "x" * 590}}
    turns = [{"role": "user", "content": "a"}, {"role": "assistant", "content": [call] * 2_800}]
    history = json.dumps([*turns, {"role": "user", "content": "giant:none"}])
    return _turns("messages", model, history % tuple(range(2_800)))


def custom_calls(model: str, text: str, rounds: int, **more: bool) -> bytes:
    """Return the body of a request of Responses with so many *rounds* of a custom call."""
    called = {"type": "custom_tool_call", "call_id": "t%d", "name": "f", "input": text}
    output = {"type": "custom_tool_call_output", "call_id": "t%d", "output": "ok"}
    question = {"role": "user", "content": "giant:none"}
    given = json.dumps([question, *[called, output] * rounds, question], separators=(",", ":"))
    return giants.request(
        "responses", model, given % tuple(at // 2 for at in range(2 * rounds)), **more
    )


def stops(model: str) -> bytes:
    """Return the body of a request of the Messages API with 1.5 MB of stop strings."""
    many = ["\u20ac" + "x" * 6_000] * 250
    return _wide(giants.request("messages", model, '"giant:none"', stop_sequences=many))


def requests() -> Iterator[tuple[str, str, str, str, Callable[[], bytes]]]:
    """Yield the model, its small answer, the API, the title and the maker of each request."""
    small = {"m": "chat text", "claude": "claude text", "gemini": "gemini text"}
    for model, answer in small.items():
        for api in ("chat", "responses", "messages"):
            yield model, answer, api, "tools with emoji", partial(wide_tools, api, model)
            yield model, answer, api, "rounds of an agent", partial(agent, api, model)
        for title, text, turns in (
            ("text with an emoji", EMOJI + "x" * giants.SIZE, 1),
            ("turns", "x" * 700, 2_500),
        ):
            yield model, answer, "stored", title, partial(stored, model, text, turns)
        for title, text, number in (
            ("text file", EMOJI + "x" * giants.SIZE, 1),
            ("text files of 2 kB", EMOJI + "x" * 1_900, 1_000),
        ):
            yield model, answer, "messages", title, partial(text_files, model, text, number)
        some_calls = partial(calls, model, "x" * 1_150, 1_650)
        yield model, answer, "responses", "calls of 1.1 kB", some_calls
        stored_calls = partial(calls, model, "x" * 4_000, 870, store=True)
        yield model, answer, "stored", "calls of 4 kB", stored_calls
        items = partial(unknown, model, "x" * 2_000, 1_000)
        yield model, answer, "stored", "unknown items, refused", items
        refused = ", refused" if model == "claude" else ""  # it takes none of the assistant
        images = partial(generated, model, 500)
        yield model, answer, "responses", f"generated images{refused}", images
        choice = partial(allowed_tools, model, "\u0436" * 50 + "x" * 300, 2_040)
        yield model, answer, "responses", "allowed tools", choice
        for api in ("responses", "messages"):
            yield model, answer, api, "objects with a euro", partial(objects, api, model)
    items = partial(unknown, "own", "x" * 2_000, 1_000)
    yield "own", "response text", "stored", "unknown items", items
    for api, form in (("count_tokens", "messages"), ("input_tokens", "responses")):
        text = EMOJI + "x" * giants.SIZE
        yield "m", "chat text", api, "emoji", partial(giants.request, form, "m", f'"{text}"')
    for api, answer in (("completions", "legacy text"), ("embeddings", "embedding")):
        yield "m", answer, api, "prompts", partial(prompts, api, "")
    for model, answer in {**small, "bedrock": "bedrock text", "ollama": "ollama text"}.items():
        yield model, answer, "chat", "metadata with a euro", partial(members, "chat", model)
        for api in ("chat", "responses", "messages"):
            yield model, answer, api, "schema with a euro", partial(schema, api, model)
        yield model, answer, "messages", "calls of a turn", partial(calls_of_a_turn, model)
        yield model, answer, "messages", "stop strings", partial(stops, model)
        customs = partial(custom_calls, model, "x" * 1_200, 2_300)
        yield model, answer, "responses", "custom calls", customs
        quoted = partial(custom_calls, model, '"' * 2_000, 1_900, store=True)
        yield model, answer, "stored", "quoted custom calls", quoted
        if model != "ollama":  # which takes no files
            files = partial(text_files, model, "x" * 720, 2_000)
            yield model, answer, "messages", "text files of 700 bytes", files
