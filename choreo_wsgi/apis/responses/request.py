"""A request of the Responses API as a chat request.

https://platform.openai.com/docs/api-reference/responses/create says what may be in it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence

from ...chat.checks import MAX_TOKENS, check_tool_choice, filled, model_name
from ...chat.items import Json
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
    mapping_of,
    number,
    object_of,
    one_of,
)
from ...errors import InvalidRequest
from .items import chat_name, kind_of, messages_of

_TEXT = object_of({"text": STRING}, "text")
_PARTS = array(
    by_type(
        {
            **dict.fromkeys(("input_text", "output_text", "text"), _TEXT),
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
_TEXTS = array(_TEXT)
_OUTPUT = object_of({"call_id": STRING, "output": _CONTENT}, "call_id", "output")
_ITEMS = {
    "message": _MESSAGE,
    "item_reference": object_of({"id": STRING}, "id"),
    "function_call": object_of(
        {"call_id": STRING, "name": STRING, "arguments": STRING}, "call_id", "name", "arguments"
    ),
    "custom_tool_call": object_of(
        {"call_id": STRING, "name": STRING, "input": STRING}, "call_id", "name", "input"
    ),
    "function_call_output": _OUTPUT,
    "custom_tool_call_output": _OUTPUT,
    "reasoning": object_of(
        {"summary": _TEXTS, "content": _TEXTS, "encrypted_content": STRING},
    ),
}


def _item(value: Json) -> None:
    """Check an item of the input."""
    _TYPED(value)
    if test := _ITEMS.get(kind_of(value)):
        test(value)


_TYPED = object_of({"type": STRING})
_NAMED = object_of({"name": filled}, "name")
_TOLD = {"name": filled, "description": STRING}
_OWN_TOOLS = {
    "function": object_of({**_TOLD, "parameters": OBJECT, "strict": BOOLEAN}, "name"),
    "custom": object_of({**_TOLD, "format": object_of({"definition": STRING})}, "name"),
}
_NAMESPACE = object_of({**_TOLD, "tools": array(by_type(_OWN_TOOLS))}, "name", "tools")
_CHOICES = {"function": _NAMED, "custom": _NAMED}
_ALLOWED = object_of(
    {"mode": one_of("auto", "required"), "tools": array(by_type(_CHOICES))}, "mode", "tools"
)
_SCHEMA = object_of(
    {"name": STRING, "schema": OBJECT, "description": STRING, "strict": BOOLEAN}, "name", "schema"
)
_FORMAT = object_of({"type": one_of("text", "json_object", "json_schema")}, "type")


def _format(value: Json) -> None:
    _FORMAT(value)
    if value["type"] == "json_schema":
        _SCHEMA(value)


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
        "max_output_tokens": integer(0, MAX_TOKENS),
        "max_tool_calls": integer(0),
        "top_logprobs": integer(0, 20),
        "tools": array(by_type({**_OWN_TOOLS, "namespace": _NAMESPACE})),
        "tool_choice": either(
            str,
            one_of("none", "auto", "required"),
            dict,
            by_type({**_CHOICES, "allowed_tools": _ALLOWED}),
        ),
        "parallel_tool_calls": BOOLEAN,
        "text": object_of({"format": _format, "verbosity": one_of("low", "medium", "high")}),
        "reasoning": object_of(
            {"effort": STRING, "summary": one_of("auto", "concise", "detailed")}
        ),
        "truncation": one_of("auto", "disabled"),
        "stream_options": object_of({"include_obfuscation": BOOLEAN}),
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
    *("prompt_cache_key", "prompt_cache_retention", "service_tier", "stream"),
)
#: What a request includes to have the logarithms of its tokens' probabilities.
_LOGPROBS = "message.output_text.logprobs"
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
    body: dict[str, Json] = {"model": fields["model"], "messages": []}
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
    except Fault as fault:
        native_only = fault.error()
    body |= {name: fields[name] for name in _SAME if fields.get(name) is not None}
    if _LOGPROBS in (fields.get("include") or ()):
        body |= {"logprobs": True, "top_logprobs": int(fields.get("top_logprobs") or 0)}
    _add_text(body, fields)
    if fields.get("max_output_tokens") is not None:
        limit = int(fields["max_output_tokens"])
        fields["max_output_tokens"] = body["max_completion_tokens"] = limit
    native = _native(fields, items, past)
    return request_of(body, original=fields, native=native, native_only=native_only)


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
    tools: Iterable[dict[str, Json]], strict: bool = True, space: str = "", where: str = "tools"
) -> Iterator[dict[str, Json]]:
    """Yield the function and custom tools, each with its ``namespace`` if it is in one.

    Unless *strict* is false, a tool that only a server itself can have raises InvalidRequest
    with its name.  The tools are those of the namespace *space*, if it is not empty.
    """
    for index, tool in enumerate(tools):
        if tool["type"] in ("function", "custom"):
            yield tool
        elif tool["type"] == "namespace" and not space:
            inner = own_tools(tool["tools"], strict, tool["name"], f"{where}[{index}].tools")
            yield from ({**each, "namespace": tool["name"]} for each in inner)
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
        body["tool_choice"] = _tool_choice(choice)
        check_tool_choice(body)
    elif choice == "required" and not tools:
        raise InvalidRequest("tool_choice asks for a tool, and there are none", param="tool_choice")
    elif choice is not None and tools:
        body["tool_choice"] = choice


def _tool_choice(choice: dict[str, Json]) -> dict[str, Json]:
    kind = choice["type"]
    if kind == "allowed_tools":
        allowed = {"mode": choice["mode"], "tools": list(map(_tool_choice, choice["tools"]))}
        return {"type": kind, "allowed_tools": allowed}
    if kind not in _CHOICES:
        raise InvalidRequest(f"this model has no tool {kind!r}", param="tool_choice.type")
    return {"type": "function", "function": {"name": chat_name(choice)}}


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
