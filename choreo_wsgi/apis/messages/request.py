"""A request of the Messages API as a chat request.

https://docs.anthropic.com/en/api/messages says what may be in it.  Unknown members are passed
over: betas come and go.
"""

from __future__ import annotations

import base64
from collections.abc import Iterator, Mapping
from typing import Any

from ...chat.checks import model_name
from ...chat.items import Json, dump
from ...chat.request import ChatRequest
from ...chat.schema import (
    BOOLEAN,
    OBJECT,
    STRING,
    Fault,
    anything,
    array,
    by_type,
    either,
    integer,
    number,
    object_of,
    one_of,
)
from ...errors import InvalidRequest

_SOURCE = by_type(
    {
        "base64": object_of({"media_type": STRING, "data": STRING}, "media_type", "data"),
        "url": object_of({"url": STRING}, "url"),
        "text": object_of({"data": STRING}, "data"),
        "content": object_of({"content": either(str, anything, list, array(OBJECT))}, "content"),
    }
)
_BLOCKS: dict[str, Any] = {
    "text": object_of({"text": STRING}, "text"),
    "image": object_of({"source": _SOURCE}, "source"),
    "document": object_of({"source": _SOURCE, "title": STRING, "context": STRING}, "source"),
    "tool_use": object_of({"id": STRING, "name": STRING, "input": OBJECT}, "id", "name", "input"),
    "thinking": object_of({"thinking": STRING, "signature": STRING}, "thinking"),
    "redacted_thinking": object_of({"data": STRING}, "data"),
}
_BLOCKS["tool_result"] = object_of(
    {
        "tool_use_id": STRING,
        "content": either(str, anything, list, array(by_type(dict(_BLOCKS)))),
        "is_error": BOOLEAN,
    },
    "tool_use_id",
)
_CONTENT = either(str, anything, list, array(by_type(_BLOCKS)))
_ROLES = one_of("user", "assistant", "system")
_TOOL = object_of({"type": STRING, "name": STRING, "description": STRING, "input_schema": OBJECT})
_REQUEST = {
    "model": model_name,
    "messages": array(object_of({"role": _ROLES, "content": _CONTENT}, "role", "content")),
    "system": _CONTENT,
    "max_tokens": integer(0),
    "stream": BOOLEAN,
    "temperature": number(0, 1),
    "top_p": number(0, 1),
    "top_k": integer(0),
    "stop_sequences": array(STRING),
    "tools": array(_TOOL),
    "tool_choice": object_of(
        {"type": one_of("auto", "any", "tool", "none"), "name": STRING}, "type"
    ),
    "thinking": object_of({"type": STRING, "budget_tokens": integer(0)}, "type"),
    "output_config": object_of({"effort": STRING, "format": OBJECT}),
    "metadata": object_of({"user_id": STRING}),
}
_CHECK = object_of(_REQUEST, "model", "messages", "max_tokens")
_CHECK_COUNT = object_of(_REQUEST, "model", "messages")


def read_request(fields: dict[str, Json], counting: bool = False) -> ChatRequest:
    """Return the chat request for *fields*; when *counting*, ``max_tokens`` may be missing.

    What no chat API can do stays in the request as ``native_only``: a provider that speaks
    this API may take it.  Raises InvalidRequest.
    """
    try:
        (_CHECK_COUNT if counting else _CHECK)(fields)
        if not fields["messages"]:
            raise Fault("must not be empty", ".messages", code="invalid_messages_format")
    except Fault as fault:
        raise fault.error() from None
    body: dict[str, Json] = {"model": fields["model"], "messages": []}
    native_only: InvalidRequest | None = None
    try:
        body["messages"] = list(_messages(fields))
        _add_tools(body, fields)
    except InvalidRequest as error:
        native_only = error
    for name in ("temperature", "top_p", "top_k", "cache_control", "thinking"):
        if fields.get(name) is not None:
            body[name] = fields[name]
    _add_effort(body, fields)
    if user := (fields.get("metadata") or {}).get("user_id"):
        body["user"] = user
    stop = tuple(filter(None, fields.get("stop_sequences") or ()))
    if stop:
        body["stop"] = list(stop)
    limit = fields.get("max_tokens")
    if limit is not None:
        limit = body["max_completion_tokens"] = int(limit)
    return ChatRequest(
        model=fields["model"],
        messages=body["messages"],
        body=body,
        stream=bool(fields.get("stream")),
        max_tokens=limit,
        stop=stop,
        original=fields,
        native_only=native_only,
    )


def _messages(fields: Mapping[str, Json]) -> Iterator[dict[str, Json]]:
    system = _content(fields.get("system") or "", "system")
    if system:
        yield {"role": "system", "content": system}
    for index, message in enumerate(fields["messages"]):
        where = f"messages[{index}].content"
        content = message["content"]
        if message["role"] == "assistant" and not isinstance(content, str):
            yield _assistant(content, where)
            continue
        said = content
        if not isinstance(content, str):
            said = []
            for at, block in enumerate(content):
                if block["type"] == "tool_result":  # results stand before what else is said
                    yield _result(block, f"{where}[{at}]")
                else:
                    said.append(_part(block, f"{where}[{at}]"))
        if said or content == "":
            yield {"role": message["role"], "content": said}


#: Members of a call that go with it.
_KEPT = ("cache_control", "extra_content")


def _assistant(blocks: list[dict[str, Json]], where: str) -> dict[str, Json]:
    message: dict[str, Json] = {"role": "assistant", "content": None}
    said: list[Json] = []
    calls: list[Json] = []
    thinking: list[dict[str, Json]] = []
    for at, block in enumerate(blocks):
        kind = block["type"]
        if kind in ("thinking", "redacted_thinking"):
            thinking.append(block)
        elif kind == "tool_use":
            function = {"name": block["name"], "arguments": dump(block["input"]).decode()}
            call = {"id": block["id"], "type": "function", "function": function}
            extra = {
                name: block[name] for name in ("cache_control", "extra_content") if name in block
            }
            calls.append({**call, **extra})
        else:
            said.append(_part(block, f"{where}[{at}]"))
    if said:
        message["content"] = said
    if calls:
        message["tool_calls"] = calls
    told = "".join(block.get("thinking") or "" for block in thinking)
    if told:
        message["reasoning_content"] = told
    signed = [block for block in thinking if block.get("signature") or block.get("data")]
    if signed:
        message["thinking_blocks"] = signed
    return message


def _result(block: dict[str, Json], where: str) -> dict[str, Json]:
    content = _content(block.get("content") or "", f"{where}.content")
    message = {"role": "tool", "tool_call_id": block["tool_use_id"], "content": content}
    return message | {
        name: block[name] for name in ("is_error", "cache_control") if block.get(name)
    }


def _content(content: str | list[dict[str, Json]], where: str) -> Json:
    if isinstance(content, str):
        return content
    return [_part(block, f"{where}[{at}]") for at, block in enumerate(content)]


def _part(block: dict[str, Json], where: str) -> dict[str, Json]:
    kind = block["type"]
    cached = {"cache_control": block["cache_control"]} if block.get("cache_control") else {}
    if kind == "text":
        return {"type": "text", "text": block["text"], **cached}
    source = block.get("source") or {}
    if kind == "image" and source.get("type") in ("base64", "url"):
        return {"type": "image_url", "image_url": {"url": _url(source)}, **cached}
    if kind == "document" and source.get("type") in ("base64", "url", "text"):
        if source["type"] == "text":
            data = base64.b64encode(source["data"].encode()).decode()
            source = {"type": "base64", "media_type": "text/plain", "data": data}
        file = {"file_data": _url(source), "filename": block.get("title") or "document"}
        return {"type": "file", "file": file, **cached}
    told = f" with a source of type {source['type']!r}" if source else ""
    raise InvalidRequest(f"this model takes no {kind!r} block{told}", param=f"{where}.type")


def _url(source: dict[str, Json]) -> str:
    if source["type"] == "url":
        return str(source["url"])
    return f"data:{source['media_type']};base64,{source['data']}"


def _add_tools(body: dict[str, Json], fields: Mapping[str, Json]) -> None:
    tools = []
    for index, tool in enumerate(fields.get("tools") or ()):
        if (tool.get("type") or "custom") != "custom" or "name" not in tool:
            raise InvalidRequest(
                f"this model has no tool {tool.get('type')!r}, only tools of one's own",
                param=f"tools[{index}].type",
            )
        function = {"name": tool["name"], "parameters": tool.get("input_schema") or {}}
        if tool.get("description"):
            function["description"] = tool["description"]
        if tool.get("strict") is not None:
            function["strict"] = tool["strict"]
        cached = {"cache_control": tool["cache_control"]} if tool.get("cache_control") else {}
        tools.append({"type": "function", "function": function, **cached})
    if not tools:
        return
    body["tools"] = tools
    choice = fields.get("tool_choice")
    if choice is None:
        return
    words = {"auto": "auto", "any": "required", "none": "none"}
    if choice["type"] == "tool":
        body["tool_choice"] = {"type": "function", "function": {"name": choice.get("name") or ""}}
    else:
        body["tool_choice"] = words[choice["type"]]
    if choice.get("disable_parallel_tool_use"):
        body["parallel_tool_calls"] = False


def _add_effort(body: dict[str, Json], fields: Mapping[str, Json]) -> None:
    config = fields.get("output_config") or {}
    if config.get("effort"):
        body["reasoning_effort"] = config["effort"]
    form = config.get("format") or fields.get("output_format") or {}
    if form.get("type") == "json_schema":
        schema = {"name": "answer", "schema": form.get("schema") or {}, "strict": True}
        body["response_format"] = {"type": "json_schema", "json_schema": schema}
