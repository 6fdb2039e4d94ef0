"""A request of the Messages API as a chat request.

https://docs.anthropic.com/en/api/messages describes its members.  Unknown members are ignored:
betas come and go.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial

from ...chat.aside import json_text
from ...chat.checks import MAX_TOKENS, filled, model_name, not_empty, remote_url
from ...chat.growing import base64_or_mark
from ...chat.items import Json, Marks
from ...chat.request import ChatRequest
from ...chat.schema import (
    Fault,
    Notation,
    by_type,
    check_of,
    demand,
    either,
    integer,
    number,
    text_or,
)
from ...errors import InvalidRequest
from ..translation import (
    TranslatePart,
    add_tools,
    extend_member,
    members,
    to_chat,
    translate_content,
    unsupported,
    unsupported_tool,
)

_TEXT = {"text!": str}
_SOURCE = by_type(
    {
        "base64": {"media_type! data!": str},
        "url": {"url!": remote_url},
        "text": {"data!": str},
        "content": {"content!": text_or(by_type({"text": _TEXT}))},
    }
)
_BLOCKS: dict[str, Notation] = {
    "text": _TEXT,
    "image document": {"source!": _SOURCE, "title context": str},
    "search_result": {"title! source!": str, "content!": [_TEXT]},
    "tool_reference": {"tool_name!": str},
    "tool_use": {"id! name!": str, "input!": dict, "extra_content": dict},
    "thinking": {"thinking!": str, "signature": str},
    "redacted_thinking": {"data!": str},
}
_RESULT = {"tool_use_id!": str, "content": text_or(by_type(_BLOCKS)), "is_error": bool}
_MESSAGE = {
    "role!": "user assistant system",
    "content!": text_or(by_type({**_BLOCKS, "tool_result": _RESULT})),
}
_TOOL = {"name!": filled, "description": str, "input_schema!": dict, "strict": bool}
_FORMAT = {"type!": "json_schema", "schema!": dict}


def _kind_of(tool: Mapping[str, Json]) -> str:
    return str(tool.get("type") or "custom")  # custom: run by the caller, not by Anthropic


_REQUEST: dict[str, Notation] = {
    "model!": model_name,
    "messages!": not_empty([_MESSAGE]),
    "system": text_or({"type!": "text", "text!": str}),
    "stream": bool,
    "temperature top_p": number(0, 1),
    "top_k": integer(0),
    "stop_sequences": [str],
    "tools": [by_type({"custom": _TOOL}, _kind_of)],
    "tool_choice": {
        "type!": "auto any tool none",
        "name": str,
        "disable_parallel_tool_use": bool,
    },
    "thinking": {"type!": "enabled disabled adaptive between_tools", "budget_tokens": integer(0)},
    "output_config": {"effort": str, "format": _FORMAT},
    "output_format": _FORMAT,
    "metadata": {"user_id": str},
}
_CHECK = check_of({**_REQUEST, "max_tokens!": integer(0, MAX_TOKENS)})
_CHECK_COUNT = check_of({**_REQUEST, "max_tokens": integer(0, MAX_TOKENS)})


def _thread(value: Json) -> None:
    # If a thread were ignored, the next request would contain only the last turn.  On this
    # error code Anthropic's SDKs send the whole conversation.
    raise Fault("is not supported", code="thread_unsupported_request")


#: The values that a chat supports of members that change the answer; other members are dropped.
_SUPPORTED = check_of(
    {
        "container mcp_servers compaction": unsupported,
        "thread": _thread,
        "fallbacks": either(str, "default", list, unsupported),
        "inference_geo": "global",
        "billing_policy": {"bill_to": "self"},
    }
)
#: Chat's names of the members that it has too.
NAMES = {
    **{name: name for name in ("temperature", "top_p", "top_k", "thinking", "stream")},
    "cache_control": "cache_control",
    "max_tokens": "max_completion_tokens",
    "metadata.user_id": "user",
    "output_config.effort": "reasoning_effort",
}


def read_request(fields: dict[str, Json], marks: Marks, counting: bool = False) -> ChatRequest:
    """Return the chat request for *fields*, which may hold *marks*; raises InvalidRequest.

    When *counting*, ``max_tokens`` may be missing.
    """
    demand(_CHECK_COUNT if counting else _CHECK, fields)

    def translate(body: dict[str, Json]) -> None:
        if stop := list(filter(None, fields.get("stop_sequences") or ())):
            body["stop"] = stop
        body["messages"] = _chat_messages(fields, marks)
        _add_tools(body, fields)
        _check_thinking(fields)
        form = (fields.get("output_config") or {}).get("format") or fields.get("output_format")
        if form:
            schema = {"name": "answer", "schema": form["schema"], "strict": True}
            body["response_format"] = {"type": "json_schema", "json_schema": schema}

    return to_chat(fields, NAMES, _SUPPORTED, translate, marks=marks)


def _chat_messages(fields: Mapping[str, Json], marks: Marks) -> list[dict[str, Json]]:
    part = partial(_part, marks=marks)
    system = translate_content(fields.get("system") or "", "system", part)
    messages = [{"role": "system", "content": system}] if system else []
    for index, message in enumerate(fields["messages"]):
        where, content = f"messages[{index}].content", message["content"]
        if isinstance(content, str) and len(message) == 2:  # the same in chat
            messages.append(message)
            continue
        role = message["role"]
        result, is_reply = {"role": role, "content": content}, role == "assistant"
        if not isinstance(content, str):
            chat_parts: list[Json] = []
            result["content"] = chat_parts
            for at, block in enumerate(content):
                here, kind = f"{where}[{at}]", block["type"]
                if kind == "tool_result" and not is_reply:
                    messages.append(_tool_message(block, here, part))  # before the user's message
                elif is_reply and kind in ("thinking", "redacted_thinking"):
                    extend_member(result, "reasoning_content", block.get("thinking"))
                    if block.get("signature") or block.get("data"):
                        extend_member(result, "thinking_blocks", [block])
                elif is_reply and kind == "tool_use":
                    extend_member(result, "tool_calls", [_tool_call(block, marks)])
                else:
                    chat_parts.append(part(block, here))
            if is_reply and not chat_parts:
                result["content"] = None
        if result["content"] != [] or not content:  # not if it had only results
            messages.append(result)
    return messages


def _tool_call(block: dict[str, Json], marks: Marks) -> dict[str, Json]:
    function = {"name": block["name"], "arguments": json_text(block["input"], marks)}
    call = {"id": block["id"], "type": "function", "function": function}
    return {**call, **members(block, "cache_control extra_content")}


def _tool_message(block: dict[str, Json], where: str, part: TranslatePart) -> dict[str, Json]:
    content = translate_content(block.get("content") or "", f"{where}.content", part)
    message = {"role": "tool", "tool_call_id": block["tool_use_id"], "content": content}
    failed = {"is_error": True} if block.get("is_error") else {}
    return {**message, **failed, **members(block, "cache_control")}


def _part(block: dict[str, Json], where: str, marks: Marks) -> dict[str, Json]:
    kind = block["type"]
    cached = members(block, "cache_control")
    if kind == "text":
        return block if len(block) == 2 else {"type": "text", "text": block["text"], **cached}
    if kind == "search_result":
        lines = [block["title"], block["source"], *(part["text"] for part in block["content"])]
        return {"type": "text", "text": "\n".join(lines), **cached}
    if kind == "tool_reference":  # a tool found by a tool search; the model has all tools anyway
        return {"type": "text", "text": block["tool_name"], **cached}
    source = block["source"] if kind in ("image", "document") else {}
    url = _url(source, marks) if source else ""
    if kind == "image" and source["type"] in ("base64", "url"):
        return {"type": "image_url", "image_url": {"url": url}, **cached}
    if kind == "document" and url:
        file = {"file_data": url, "filename": block.get("title") or "document"}
        return {"type": "file", "file": file, **cached}
    of_source = f" with a source of type {source['type']!r}" if source else ""
    text = f"this model does not support {kind!r} blocks{of_source}"
    raise InvalidRequest(text, param=f"{where}.type")


def _url(source: dict[str, Json], marks: Marks) -> str:
    """Return the URL of *source*, a ``data:`` URL if it holds the data; empty if it has neither."""
    if source["type"] == "url":
        return str(source["url"])
    if source["type"] == "base64":
        return f"data:{source['media_type']};base64,{source['data']}"
    text = source.get("data") if source["type"] == "text" else source.get("content")
    if isinstance(text, list) and all(part["type"] == "text" for part in text):
        text = "\n".join(part["text"] for part in text)
    if not isinstance(text, str):
        return ""
    return f"data:text/plain;base64,{base64_or_mark(text, marks)}"


def _add_tools(body: dict[str, Json], fields: Mapping[str, Json]) -> None:
    tools = []
    for index, tool in enumerate(fields.get("tools") or ()):
        if _kind_of(tool) != "custom":
            raise unsupported_tool(tool["type"], f"tools[{index}].type")
        function = members(tool, "name description strict")
        function["parameters"] = tool["input_schema"]
        tools.append({"type": "function", "function": function, **members(tool, "cache_control")})
    choice = fields.get("tool_choice") or {"type": None}
    modes = {"auto": "auto", "any": "required", "none": "none", None: None}
    named = {"type": "function", "function": {"name": choice.get("name") or ""}}
    add_tools(body, tools, modes.get(choice["type"], named))
    if tools and choice.get("disable_parallel_tool_use"):
        body["parallel_tool_calls"] = False


def _check_thinking(fields: Mapping[str, Json]) -> None:
    """Reject budgets that Anthropic rejects.  Only betas allow one above ``max_tokens``."""
    thinking, limit = fields.get("thinking") or {}, fields.get("max_tokens")
    if thinking.get("type") != "enabled":
        return
    budget = thinking.get("budget_tokens")
    if budget is None or budget < 1024 or (limit is not None and budget >= limit):
        raise InvalidRequest(
            "must be at least 1024 and less than max_tokens", param="thinking.budget_tokens"
        )
