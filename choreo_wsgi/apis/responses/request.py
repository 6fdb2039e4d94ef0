"""A request of the Responses API as a chat request.

https://platform.openai.com/docs/api-reference/responses/create says what may be in it.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence

from ...chat import jsontext
from ...chat.items import Json
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
    mapping_of,
    number,
    object_of,
    one_of,
)
from ...errors import InvalidRequest

_PARTS = array(
    by_type(
        {
            "input_text": object_of({"text": STRING}, "text"),
            "output_text": object_of({"text": STRING}, "text"),
            "refusal": object_of({"refusal": STRING}, "refusal"),
            "input_image": object_of({"image_url": STRING, "detail": STRING, "file_id": STRING}),
            "input_file": object_of(
                {"file_data": STRING, "file_url": STRING, "file_id": STRING, "filename": STRING}
            ),
            "input_audio": object_of(
                {"input_audio": object_of({"data": STRING, "format": STRING}, "data", "format")},
                "input_audio",
            ),
        }
    )
)
_CONTENT = either(str, anything, list, _PARTS)
_ROLES = one_of("user", "assistant", "system", "developer")
_MESSAGE = object_of({"role": _ROLES, "content": _CONTENT}, "role", "content")
_TEXTS = array(object_of({"text": STRING}, "text"))
_ITEMS = by_type(
    {
        "message": _MESSAGE,
        "function_call": object_of(
            {"call_id": STRING, "name": STRING, "arguments": STRING}, "call_id", "name", "arguments"
        ),
        "custom_tool_call": object_of(
            {"call_id": STRING, "name": STRING, "input": STRING}, "call_id", "name", "input"
        ),
        "function_call_output": object_of(
            {"call_id": STRING, "output": _CONTENT}, "call_id", "output"
        ),
        "custom_tool_call_output": object_of(
            {"call_id": STRING, "output": _CONTENT}, "call_id", "output"
        ),
        "reasoning": object_of(
            {"summary": _TEXTS, "content": _TEXTS, "encrypted_content": STRING},
        ),
    }
)


def _item(value: Json) -> None:
    """Check an item of the input; one without a type is a message."""
    if type(value) is dict and value.get("type") is None:
        _MESSAGE(value)
    else:
        _ITEMS(value)


_NAMED = object_of({"name": STRING}, "name")
_TOLD = {"name": STRING, "description": STRING}
_TOOL = by_type(
    {
        "function": object_of({**_TOLD, "parameters": OBJECT}, "name"),
        "custom": object_of({**_TOLD, "format": OBJECT}, "name"),
    }
)
_TOOLS = array(
    by_type(
        {
            "function": _TOOL,
            "custom": _TOOL,
            "namespace": object_of({**_TOLD, "tools": array(_TOOL)}, "name", "tools"),
        }
    )
)
_FORMAT = by_type(
    {"json_schema": object_of({"name": STRING, "schema": OBJECT}, "name", "schema")},
)
_REQUEST = object_of(
    {
        "model": STRING,
        "input": either(str, anything, list, array(_item)),
        "instructions": STRING,
        "stream": BOOLEAN,
        "background": BOOLEAN,
        "store": BOOLEAN,
        "previous_response_id": STRING,
        "temperature": number(0, 2),
        "top_p": number(0, 1),
        "max_output_tokens": integer(0),
        "top_logprobs": integer(0, 20),
        "tools": _TOOLS,
        "tool_choice": either(
            str,
            one_of("none", "auto", "required"),
            dict,
            by_type(
                {
                    "function": _NAMED,
                    "custom": _NAMED,
                    "allowed_tools": object_of(
                        {"mode": STRING, "tools": array(OBJECT)}, "mode", "tools"
                    ),
                }
            ),
        ),
        "parallel_tool_calls": BOOLEAN,
        "text": object_of({"format": _FORMAT, "verbosity": STRING}),
        "reasoning": object_of({"effort": STRING, "summary": STRING}),
        "metadata": mapping_of(STRING),
        "user": STRING,
        "safety_identifier": STRING,
        "prompt_cache_key": STRING,
        "prompt_cache_retention": STRING,
        "service_tier": STRING,
        "include": array(STRING),
    },
    "model",
)

#: Sent on as they are: chat has them by the same name.
_SAME = (
    *("temperature", "top_p", "parallel_tool_calls", "metadata", "user", "safety_identifier"),
    *("prompt_cache_key", "prompt_cache_retention", "service_tier"),
)
#: What only a server that speaks this API itself can do.
_NATIVE_MEMBERS = ("conversation", "prompt")

#: Begins the ``encrypted_content`` that this server wrote: base64 of JSON follows.
SEALED = "choreo."


def read_request(fields: dict[str, Json], past: Sequence[Json] | None = None) -> ChatRequest:
    """Return the chat request for *fields*; *past* are the items of the previous response.

    What no chat API can do stays in the request as ``native_only``: a provider that speaks
    this API may take it.  Raises InvalidRequest.
    """
    try:
        _REQUEST(fields)
    except Fault as fault:
        raise fault.error() from None
    given = fields.get("input")
    items = [{"role": "user", "content": given}] if isinstance(given, str) else given or []
    if not (items or past or fields.get("prompt")):
        raise InvalidRequest("input is required", param="input", code="missing_parameter")
    body: dict[str, Json] = {"model": fields["model"]}
    native_only: InvalidRequest | None = None
    try:
        if fields.get("previous_response_id") and past is None:
            raise InvalidRequest(
                "there is no such response here",
                param="previous_response_id",
                code="previous_response_not_found",
            )
        told = [*(past or ()), *items]
        body["messages"] = list(_messages(fields.get("instructions"), told, len(past or ())))
        _add_tools(body, fields)
        for name in _NATIVE_MEMBERS:
            if fields.get(name) is not None:
                raise InvalidRequest(f"{name} is not supported by this model", param=name)
    except InvalidRequest as error:
        native_only = error
        body.setdefault("messages", [])
    body |= {name: fields[name] for name in _SAME if fields.get(name) is not None}
    _add_text(body, fields)
    limit = fields.get("max_output_tokens")
    if limit is not None:
        limit = body["max_completion_tokens"] = int(limit)
    return ChatRequest(
        model=fields["model"],
        messages=body["messages"],
        body=body,
        stream=bool(fields.get("stream")),
        max_tokens=limit,
        original=fields,
        native=_native(fields, items, past),
        native_only=native_only,
    )


def _native(
    fields: dict[str, Json], items: Sequence[Json], past: Sequence[Json] | None
) -> dict[str, Json] | None:
    """Return the request for a provider that speaks this API, where it is not the caller's.

    What is kept here is not kept there, and what came before is told again.
    """
    kept = bool(fields.get("background") or fields.get("store"))
    if past is None and not kept:
        return None
    native = {name: value for name, value in fields.items() if name != "background"}
    native |= {"store": False, "stream": True} if kept else {}
    if past is not None:
        native["input"] = [*past, *items]
        del native["previous_response_id"]
    return native


def _messages(
    instructions: str | None, items: Sequence[dict[str, Json]], skip: int
) -> Iterator[dict[str, Json]]:
    """Yield the messages of *items*, of which the first *skip* are not the caller's."""
    if instructions:
        yield {"role": "system", "content": instructions}
    spoken: dict[str, Json] = {}  # what the assistant said: reasoning, text and calls are items
    for index, item in enumerate(items, -skip):
        where = f"input[{max(index, 0)}]"
        kind = item.get("type") or "message"
        if kind == "reasoning":
            if spoken.get("content") or spoken.get("tool_calls"):
                yield spoken
                spoken = {}
            _add_reasoning(spoken, item)
        elif kind in ("function_call", "custom_tool_call"):
            spoken.setdefault("tool_calls", []).append(_call(item))
        elif kind == "message" and item["role"] == "assistant":
            if spoken.get("content") or spoken.get("tool_calls"):
                yield spoken
                spoken = {}
            spoken["content"] = _parts(item["content"], f"{where}.content")
        else:
            if spoken:
                yield {"role": "assistant", "content": None, **spoken}
                spoken = {}
            yield _other(kind, item, where)
        if spoken:
            spoken = {"role": "assistant", "content": None, **spoken}
    if spoken:
        yield spoken


def _other(kind: str, item: dict[str, Json], where: str) -> dict[str, Json]:
    if kind == "message":
        role = "user" if item["role"] == "user" else "system"
        return {"role": role, "content": _parts(item["content"], f"{where}.content")}
    if kind in ("function_call_output", "custom_tool_call_output"):
        content = _parts(item["output"], f"{where}.output")
        return {"role": "tool", "tool_call_id": item["call_id"], "content": content}
    raise InvalidRequest(
        f"{where}: this model takes no items of type {kind!r}", param=f"{where}.type"
    )


def _call(item: dict[str, Json]) -> dict[str, Json]:
    arguments = item.get("arguments")
    if arguments is None:
        arguments = json.dumps({"input": item["input"]}, ensure_ascii=False)
    call: dict[str, Json] = {
        "id": item["call_id"],
        "type": "function",
        "function": {"name": chat_name(item), "arguments": arguments},
    }
    if isinstance(item.get("extra_content"), dict):
        call["extra_content"] = item["extra_content"]
    return call


def _add_reasoning(spoken: dict[str, Json], item: dict[str, Json]) -> None:
    texts = [*(item.get("content") or ()), *(item.get("summary") or ())]
    told = "".join(part["text"] for part in texts)
    if told:
        spoken["reasoning_content"] = spoken.get("reasoning_content", "") + told
    sealed = item.get("encrypted_content") or ""
    if sealed.startswith(SEALED):
        try:
            blocks = jsontext.parse(base64.b64decode(sealed.removeprefix(SEALED), validate=True))
        except ValueError:
            return
        if isinstance(blocks, list) and all(isinstance(block, dict) for block in blocks):
            spoken["thinking_blocks"] = [*spoken.get("thinking_blocks", ()), *blocks]


def _parts(content: str | list[dict[str, Json]], where: str) -> Json:
    if isinstance(content, str):
        return content
    parts = [_part(part, f"{where}[{index}]") for index, part in enumerate(content)]
    if all(part["type"] == "text" for part in parts):
        return "".join(part["text"] for part in parts)
    return parts


def _part(part: dict[str, Json], where: str) -> dict[str, Json]:
    kind = part["type"]
    if kind in ("input_text", "output_text", "text", "summary_text"):
        return {"type": "text", "text": part.get("text") or ""}
    if kind == "refusal":
        return {"type": "text", "text": part["refusal"]}
    if kind == "input_image" and part.get("image_url"):
        detail = {"detail": part["detail"]} if part.get("detail") else {}
        return {"type": "image_url", "image_url": {"url": part["image_url"], **detail}}
    if kind == "input_audio":
        return {"type": "input_audio", "input_audio": part["input_audio"]}
    if kind == "input_file" and (data := part.get("file_data") or part.get("file_url")):
        file = {"file_data": data, "filename": part.get("filename") or "file"}
        return {"type": "file", "file": file}
    if "file_id" in part:
        raise InvalidRequest("this model cannot read stored files", param=f"{where}.file_id")
    raise InvalidRequest(f"this model takes no content of type {kind!r}", param=f"{where}.type")


#: The parameters of a custom tool, which takes text, as a function.
_INPUT = {
    "type": "object",
    "properties": {"input": {"type": "string"}},
    "required": ["input"],
    "additionalProperties": False,
}


def chat_name(item: Mapping[str, Json]) -> str:
    """Return the name of a tool as a function of chat: that of its namespace stands before it."""
    space = item.get("namespace")
    return f"{space}__{item['name']}" if space else str(item["name"])


def own_tools(
    tools: Iterable[dict[str, Json]], where: str = "tools", strict: bool = True
) -> Iterator[dict[str, Json]]:
    """Yield the function and custom tools, each with its ``namespace`` if it is in one.

    Unless *strict* is false, a tool that only a server itself can have raises InvalidRequest
    with its name.
    """
    for index, tool in enumerate(tools):
        if tool["type"] == "namespace":
            for inner in own_tools(tool["tools"], f"{where}[{index}].tools", strict):
                yield {**inner, "namespace": tool["name"]}
        elif tool["type"] in ("function", "custom"):
            yield tool
        elif strict:
            raise InvalidRequest(
                f"this model has no tool {tool['type']!r}, only function and custom tools",
                param=f"{where}[{index}].type",
            )


def _add_tools(body: dict[str, Json], fields: Mapping[str, Json]) -> None:
    tools = []
    for tool in own_tools(fields.get("tools") or ()):
        function: dict[str, Json] = {"name": chat_name(tool)}
        description = tool.get("description") or ""
        grammar = (tool.get("format") or {}).get("definition")
        if grammar:
            description += f"\n\nThe input follows this grammar:\n{grammar}"
        if description:
            function["description"] = description
        if tool["type"] == "custom":
            function["parameters"] = _INPUT
        else:
            function |= {
                name: tool[name] for name in ("parameters", "strict") if tool.get(name) is not None
            }
        tools.append({"type": "function", "function": function})
    if tools:
        body["tools"] = tools
    choice = fields.get("tool_choice")
    if isinstance(choice, dict):
        choice = _tool_choice(choice)
    if choice is not None and tools:
        body["tool_choice"] = choice


def _tool_choice(choice: dict[str, Json]) -> dict[str, Json]:
    kind = choice["type"]
    if kind == "allowed_tools":
        tools = [
            {"type": "function", "function": {"name": chat_name({"name": "", **tool})}}
            for tool in choice["tools"]
        ]
        return {"type": kind, "allowed_tools": {"mode": choice["mode"], "tools": tools}}
    if kind not in ("function", "custom"):
        raise InvalidRequest(f"this model has no tool {kind!r}", param="tool_choice.type")
    return {"type": "function", "function": {"name": choice["name"]}}


def _add_text(body: dict[str, Json], fields: Mapping[str, Json]) -> None:
    text = fields.get("text") or {}
    form = text.get("format") or {"type": "text"}
    if form["type"] == "json_schema":
        schema = {name: value for name, value in form.items() if name != "type"}
        body["response_format"] = {"type": "json_schema", "json_schema": schema}
    elif form["type"] != "text":
        body["response_format"] = {"type": form["type"]}
    if text.get("verbosity"):
        body["verbosity"] = text["verbosity"]
    if effort := (fields.get("reasoning") or {}).get("effort"):
        body["reasoning_effort"] = effort
