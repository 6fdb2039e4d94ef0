"""A request of the Responses API as a chat request.

https://platform.openai.com/docs/api-reference/responses/create says what may be in it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence

from ...chat.checks import model_name
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
from .items import chat_name, messages_of

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
        "model": model_name,
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
        body["messages"] = list(messages_of(fields.get("instructions"), told, len(past or ())))
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


#: The parameters of a custom tool, which takes text, as a function.
_INPUT = {
    "type": "object",
    "properties": {"input": {"type": "string"}},
    "required": ["input"],
    "additionalProperties": False,
}


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
