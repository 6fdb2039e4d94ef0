"""A request of the Responses API as a chat request.

https://platform.openai.com/docs/api-reference/responses/create says what may be in it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence

from ...chat.checks import (
    AUDIO_PART,
    MAX_TOKENS,
    RESPONSE_FORMAT,
    SAMPLING,
    filled,
    model_name,
)
from ...chat.items import Json, Marks
from ...chat.request import ChatRequest
from ...chat.schema import (
    by_type,
    check_of,
    demand,
    either,
    integer,
    mapping_of,
    text_or,
)
from ...errors import InvalidRequest
from ..translation import add_tools, members, no_tool, nothing, to_chat
from .items import UNTYPED, chat_name, is_sealed, kind_of, messages_of

_TEXT = {"text!": str}
_PART = by_type(
    {
        "input_text output_text text": _TEXT,
        "refusal": {"refusal!": str},
        "input_image": {"image_url detail file_id": str},
        "input_file": {"file_data file_url file_id filename": str},
        "input_audio": AUDIO_PART,
    }
)
_ITEM = by_type(
    {
        "message": {"role!": "user assistant system developer", "content!": text_or(_PART)},
        "item_reference": {"id!": str},
        "function_call": {"call_id! name! arguments!": str, "extra_content": dict},
        "custom_tool_call": {"call_id! name! input!": str},
        "function_call_output custom_tool_call_output": {
            "call_id!": str,
            "output!": text_or(_PART),
        },
        "reasoning": {"summary content": [_TEXT], "encrypted_content": str},
        "image_generation_call": {"result output_format": str, "extra_content": dict},
        UNTYPED: {"type!": str},
    },
    kind_of,
)
_OWN_TOOLS = {
    "function": {"name!": filled, "description": str, "parameters": dict, "strict": bool},
    "custom": {"name!": filled, "description": str, "format": {"definition": str}},
}
_NAMESPACE = {"name!": filled, "description": str, "tools!": [by_type(_OWN_TOOLS)]}
_CHOICES = {"function custom": {"name!": filled}}
_ALLOWED = {"mode!": "auto required", "tools!": [by_type(_CHOICES)]}
_SCHEMA = {"name!": str, "schema!": dict, "description": str, "strict": bool}
_FORMAT = by_type({"text json_object": {}, "json_schema": _SCHEMA}, only=True)
_REQUEST = check_of(
    {
        "model!": model_name,
        "input": text_or(_ITEM),
        "stream background store parallel_tool_calls": bool,
        **SAMPLING,
        "response_format": RESPONSE_FORMAT,
        "max_output_tokens max_tokens": integer(0, MAX_TOKENS),
        "max_tool_calls": integer(0),
        "top_logprobs": integer(0, 20),
        "tools": [by_type({**_OWN_TOOLS, "namespace": _NAMESPACE})],
        "tool_choice": either(
            str,
            "none auto required",
            dict,
            by_type({**_CHOICES, "allowed_tools": _ALLOWED}),
        ),
        "text": {"format": _FORMAT, "verbosity": "low medium high"},
        "reasoning": {"effort": str, "summary generate_summary": "auto concise detailed"},
        "truncation": "auto disabled",
        "stream_options": {"include_obfuscation": bool},
        "metadata": mapping_of(str),
        "include": [str],
        "instructions previous_response_id user safety_identifier": str,
        "prompt_cache_key prompt_cache_retention service_tier reasoning_effort": str,
    }
)

_SAME = (
    *("temperature", "top_p", "parallel_tool_calls", "metadata", "user", "safety_identifier"),
    *("prompt_cache_key", "prompt_cache_options", "prompt_cache_retention"),
    *("service_tier", "stream"),
    # Chat's alone, but servers of one's own take them here too.
    *("stop", "seed", "frequency_penalty", "presence_penalty", "logit_bias", "top_k"),
    *("max_tokens", "response_format", "reasoning_effort"),
)
#: What chat calls the members that it has too.
NAMES = {
    **{name: name for name in _SAME},
    "max_output_tokens": "max_completion_tokens",
    "text.verbosity": "verbosity",
    "reasoning.effort": "reasoning_effort",
}
#: What a chat can do of members that would change the answer; others that it has not are dropped.
_POSSIBLE = check_of(
    {
        "conversation prompt moderation": nothing,
        "access_programs": {"cyber": "standard"},
        "image": {"context_compression": "auto disabled"},
        "prompt_cache_options": {"prewarm": nothing},
    }
)
#: What a request includes to have the logarithms of its tokens' probabilities.
_LOGPROBS = "message.output_text.logprobs"


def read_request(
    fields: dict[str, Json], marks: Marks, past: Sequence[Json] | None = None
) -> ChatRequest:
    """Return the chat request for *fields*, in which may be *marks*; *past* are the items of the
    previous response.

    Raises InvalidRequest.
    """
    demand(_REQUEST, fields)
    items = input_items(fields)
    if not (items or fields.get("previous_response_id") or fields.get("prompt")):
        raise InvalidRequest("input is required", param="input", code="missing_parameter")

    def translate(body: dict[str, Json]) -> None:
        form = (fields.get("text") or {}).get("format") or {"type": "text"}
        if form["type"] == "json_schema":
            schema = {name: value for name, value in form.items() if name != "type"}
            body["response_format"] = {"type": "json_schema", "json_schema": schema}
        elif form["type"] != "text":
            body["response_format"] = {"type": form["type"]}
        if _LOGPROBS in (fields.get("include") or ()):
            body |= {"logprobs": True, "top_logprobs": int(fields.get("top_logprobs") or 0)}
        if fields.get("previous_response_id") and past is None:
            raise InvalidRequest(
                "there is no such response here",
                param="previous_response_id",
                code="previous_response_not_found",
            )
        said = messages_of(past or (), marks) + messages_of(items, marks)
        if system := fields.get("instructions"):
            said.insert(0, {"role": "system", "content": system})
        body["messages"] = said
        tools = list(map(_function, own_tools(fields.get("tools") or ())))
        choice = fields.get("tool_choice")
        add_tools(body, tools, _tool_choice(choice) if isinstance(choice, dict) else choice)

    native = _native(fields, items, past, marks)
    return to_chat(fields, NAMES, _POSSIBLE, translate, native=native, marks=marks)


def input_items(fields: Mapping[str, Json]) -> list[dict[str, Json]]:
    """Return the items of the ``input``, which may be a text."""
    given = fields.get("input") or []
    return [{"role": "user", "content": given}] if isinstance(given, str) else given


def _native(
    fields: dict[str, Json], items: Sequence[Json], past: Sequence[Json] | None, marks: Marks
) -> dict[str, Json] | None:
    """Return the request for a provider that speaks this API, where it is not the caller's.

    What is kept here is not kept there, and what came before is told again, but for reasoning
    that the provider cannot read: what was sealed here, and what it would have to have kept.
    """
    kept = bool(fields.get("store"))  # as all that are made in the background
    given = [item for item in items if not is_sealed(item, marks)]
    if past is None and not kept and len(given) == len(items):
        return None
    native = {name: value for name, value in fields.items() if name != "background"}
    native |= {"store": False, "stream": True} if kept else {}
    if past is not None:
        del native["previous_response_id"]
        told = [item for item in past if not is_sealed(item, marks)]
        given[:0] = [
            item
            for item in told
            if kind_of(item) != "reasoning" or item.get("encrypted_content") or item.get("content")
        ]
    if past is not None or len(given) < len(items):
        native["input"] = given
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
        if tool["type"] in _OWN_TOOLS:
            yield {**tool, "namespace": space} if space else tool
        elif tool["type"] == "namespace" and not space:
            yield from own_tools(tool["tools"], strict, tool["name"], f"{where}[{index}].tools")
        elif strict:
            raise no_tool(tool["type"], f"{where}[{index}].type")


def _function(tool: dict[str, Json]) -> dict[str, Json]:
    description = tool.get("description") or ""
    if grammar := (tool.get("format") or {}).get("definition"):
        description = f"{description}\n\nThe input follows this grammar:\n{grammar}".strip()
    is_custom = tool["type"] == "custom"
    more = {"parameters": _INPUT} if is_custom else members(tool, "parameters strict")
    function = {"name": chat_name(tool), **more}
    if description:
        function["description"] = description
    return {"type": "function", "function": function}


def _tool_choice(choice: dict[str, Json]) -> dict[str, Json]:
    kind = choice["type"]
    if kind == "allowed_tools":
        allowed = {"mode": choice["mode"], "tools": list(map(_tool_choice, choice["tools"]))}
        return {"type": kind, "allowed_tools": allowed}
    if kind not in _OWN_TOOLS:
        raise no_tool(kind, "tool_choice.type")
    return {"type": "function", "function": {"name": chat_name(choice)}}
