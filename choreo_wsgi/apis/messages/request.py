"""A request of the Messages API as a chat request.

https://docs.anthropic.com/en/api/messages says what may be in it.  Unknown members are passed
over: betas come and go.
"""

from __future__ import annotations

import base64
from collections.abc import Iterator, Mapping
from typing import Any

from ...chat.checks import check_tool_choice, filled, model_name
from ...chat.items import Json, dump
from ...chat.request import ChatRequest, request_of
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

_TEXT = object_of({"text": STRING}, "text")
_SOURCE = by_type(
    {
        "base64": object_of({"media_type": STRING, "data": STRING}, "media_type", "data"),
        "url": object_of({"url": STRING}, "url"),
        "text": object_of({"data": STRING}, "data"),
        "content": object_of(
            {"content": either(str, anything, list, array(by_type({"text": _TEXT})))}, "content"
        ),
    }
)
_BLOCKS: dict[str, Any] = {
    "text": _TEXT,
    "image": object_of({"source": _SOURCE}, "source"),
    "document": object_of({"source": _SOURCE, "title": STRING, "context": STRING}, "source"),
    "search_result": object_of(
        {"title": STRING, "source": STRING, "content": array(_TEXT)}, "title", "source", "content"
    ),
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
_SYSTEM = object_of({"type": one_of("text"), "text": STRING}, "type", "text")
_ANY_TOOL = object_of({"type": STRING, "name": STRING})
_OWN_TOOL = object_of(
    {"name": filled, "description": STRING, "input_schema": OBJECT, "strict": BOOLEAN},
    "name",
    "input_schema",
)


def _is_own(tool: dict[str, Json]) -> bool:
    """Whether the caller runs *tool*, and not Anthropic."""
    return tool.get("type") in (None, "custom")


def _tool(value: Json) -> None:
    _ANY_TOOL(value)
    if _is_own(value):
        _OWN_TOOL(value)


_REQUEST = {
    "model": model_name,
    "messages": array(object_of({"role": _ROLES, "content": _CONTENT}, "role", "content")),
    "system": either(str, anything, list, array(_SYSTEM)),
    "max_tokens": integer(0),
    "stream": BOOLEAN,
    "temperature": number(0, 1),
    "top_p": number(0, 1),
    "top_k": integer(0),
    "stop_sequences": array(STRING),
    "tools": array(_tool),
    "tool_choice": object_of(
        {
            "type": one_of("auto", "any", "tool", "none"),
            "name": STRING,
            "disable_parallel_tool_use": BOOLEAN,
        },
        "type",
    ),
    "thinking": object_of(
        {"type": one_of("enabled", "disabled", "adaptive"), "budget_tokens": integer(0)}, "type"
    ),
    "output_config": object_of({"effort": STRING, "format": OBJECT}),
    "output_format": OBJECT,
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
        _check_thinking(fields)
        _add_output(body, fields)
    except InvalidRequest as error:
        native_only = error
    except Fault as fault:
        native_only = fault.error()
    body |= _members(fields, "temperature", "top_p", "top_k", "cache_control", "thinking", "stream")
    if user := (fields.get("metadata") or {}).get("user_id"):
        body["user"] = user
    if stop := list(filter(None, fields.get("stop_sequences") or ())):
        body["stop"] = stop
    if fields.get("max_tokens") is not None:
        body["max_completion_tokens"] = int(fields["max_tokens"])
    return request_of(body, original=fields, native_only=native_only)


def _members(holder: Mapping[str, Json], *names: str) -> dict[str, Json]:
    """Return those of the members *names* that *holder* has."""
    return {name: holder[name] for name in names if holder.get(name) is not None}


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
            calls.append({**call, **_members(block, "cache_control", "extra_content")})
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
    failed = {"is_error": True} if block.get("is_error") else {}
    return {**message, **failed, **_members(block, "cache_control")}


def _content(content: str | list[dict[str, Json]], where: str) -> Json:
    if isinstance(content, str):
        return content
    return [_part(block, f"{where}[{at}]") for at, block in enumerate(content)]


def _part(block: dict[str, Json], where: str) -> dict[str, Json]:
    kind = block["type"]
    cached = _members(block, "cache_control")
    if kind == "text":
        return {"type": "text", "text": block["text"], **cached}
    if kind == "search_result":
        lines = [block["title"], block["source"], *(part["text"] for part in block["content"])]
        return {"type": "text", "text": "\n".join(lines), **cached}
    source = block["source"] if kind in ("image", "document") else {}
    if kind == "image" and (url := _url(source)):
        return {"type": "image_url", "image_url": {"url": url}, **cached}
    if kind == "document" and (url := _url(source) or _text_url(source)):
        file = {"file_data": url, "filename": block.get("title") or "document"}
        return {"type": "file", "file": file, **cached}
    told = f" with a source of type {source['type']!r}" if source else ""
    raise InvalidRequest(f"this model takes no {kind!r} block{told}", param=f"{where}.type")


def _url(source: dict[str, Json]) -> str:
    """Return the URL of a picture or a file, which may hold its data; empty if it has none."""
    if source["type"] == "url":
        return str(source["url"])
    if source["type"] == "base64":
        return f"data:{source['media_type']};base64,{source['data']}"
    return ""


def _text_url(source: dict[str, Json]) -> str:
    """Return the URL that holds the text of a document; empty if it has something else."""
    text = source.get("data") if source["type"] == "text" else source.get("content")
    if isinstance(text, list) and all(part["type"] == "text" for part in text):
        text = "\n".join(part["text"] for part in text)
    if not isinstance(text, str):
        return ""
    return "data:text/plain;base64," + base64.b64encode(text.encode()).decode()


def _add_tools(body: dict[str, Json], fields: Mapping[str, Json]) -> None:
    tools = [_function(tool, index) for index, tool in enumerate(fields.get("tools") or ())]
    choice = fields.get("tool_choice") or {"type": "auto"}
    if tools:
        body["tools"] = tools
    elif choice["type"] in ("any", "tool"):
        raise InvalidRequest("tool_choice asks for a tool, and there are none", param="tool_choice")
    else:
        return
    if choice["type"] == "tool":
        body["tool_choice"] = {"type": "function", "function": {"name": choice.get("name") or ""}}
        check_tool_choice(body)
    elif fields.get("tool_choice"):
        words = {"auto": "auto", "any": "required", "none": "none"}
        body["tool_choice"] = words[choice["type"]]
    if choice.get("disable_parallel_tool_use"):
        body["parallel_tool_calls"] = False


def _function(tool: dict[str, Json], index: int) -> dict[str, Json]:
    """Return *tool* as chat has it; raises InvalidRequest for one that only Anthropic runs."""
    if not _is_own(tool):
        raise InvalidRequest(
            f"this model has no tool {tool['type']!r}, only tools that the caller runs",
            param=f"tools[{index}].type",
        )
    function = {"name": tool["name"], "parameters": tool["input_schema"]}
    function |= _members(tool, "description", "strict")
    return {"type": "function", "function": function, **_members(tool, "cache_control")}


def _check_thinking(fields: Mapping[str, Json]) -> None:
    """Refuse a budget that Anthropic refuses.  Only betas let it be above ``max_tokens``."""
    thinking, limit = fields.get("thinking") or {}, fields.get("max_tokens")
    if thinking.get("type") != "enabled":
        return
    budget = thinking.get("budget_tokens")
    if budget is None or budget < 1024 or (limit is not None and budget >= limit):
        raise InvalidRequest(
            "must be at least 1024 and less than max_tokens", param="thinking.budget_tokens"
        )


def _add_output(body: dict[str, Json], fields: Mapping[str, Json]) -> None:
    config = fields.get("output_config") or {}
    if config.get("effort"):
        body["reasoning_effort"] = config["effort"]
    form = config.get("format") or fields.get("output_format")
    if not form:
        return
    if form.get("type") != "json_schema" or not isinstance(form.get("schema"), dict):
        raise InvalidRequest(
            "must be a json_schema with a schema, an object", param="output_config.format"
        )
    schema = {"name": "answer", "schema": form["schema"], "strict": True}
    body["response_format"] = {"type": "json_schema", "json_schema": schema}
