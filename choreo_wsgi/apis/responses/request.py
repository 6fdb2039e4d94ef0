"""A request of the Responses API as a chat request.

https://platform.openai.com/docs/api-reference/responses/create describes its members.
"""

from __future__ import annotations

import operator
from collections.abc import Mapping, Sequence
from itertools import islice

from ...chat import large
from ...chat.checks import AUDIO_PART, MAX_TOKENS, SHARED, filled, remote_url
from ...chat.items import Json, Marks
from ...chat.request import MOST_TOOLS, ChatRequest
from ...chat.schema import Notation, by_type, check_of, demand, either, integer, passes, text_or
from ...errors import InvalidRequest
from ..translation import add_tools, members, to_chat, unsupported, unsupported_tool
from .items import (
    CALLER_TOOLS,
    UNTYPED,
    all_tools,
    chat_name,
    for_provider,
    found_tools,
    kind_of,
    messages_of,
)

_TEXT = {"text!": str}
_PART = by_type(
    {
        "input_text output_text text": _TEXT,
        "refusal": {"refusal!": str},
        "input_image": {"image_url": remote_url, "detail file_id": str},
        "input_file": {"file_data file_url": remote_url, "file_id filename": str},
        "input_audio": AUDIO_PART,
    }
)
_CALLER_TOOLS: dict[str, Notation] = {
    "function": {"name!": filled, "description": str, "parameters": dict, "strict": bool},
    "custom": {"name!": filled, "description": str, "format": {"definition": str}},
    "tool_search": {"description": str, "parameters": dict},
}
_NAMESPACE = {"name!": filled, "description": str, "tools!": [by_type(_CALLER_TOOLS)]}
_TOOLS = [by_type({**_CALLER_TOOLS, "namespace": _NAMESPACE})]
_ITEM = by_type(
    {
        "message": {"role!": "user assistant system developer", "content!": text_or(_PART)},
        "item_reference": {"id!": str},
        "function_call": {"call_id! name! arguments!": str, "extra_content": dict},
        "custom_tool_call": {"call_id! name! input!": str},
        "function_call_output": {"call_id": str, "output!": text_or(_PART)},
        "custom_tool_call_output": {"call_id!": str, "output!": text_or(_PART)},
        "tool_search_call": {"call_id": str, "arguments!": dict},
        "tool_search_output": {"call_id": str, "tools!": _TOOLS},
        "additional_tools": {"tools!": _TOOLS},
        "reasoning": {"summary content": [_TEXT], "encrypted_content": str},
        "image_generation_call": {"result output_format": str, "extra_content": dict},
        UNTYPED: {"type!": str},
    },
    kind_of,
)
_ITEMS = check_of([_ITEM])
_CHOICES = {"function custom": {"name!": filled}}
_ALLOWED = {"mode!": "auto required", "tools!": [by_type(_CHOICES)]}
_SCHEMA = {"name!": str, "schema!": dict, "description": str, "strict": bool}
_FORMAT = by_type({"text json_object": {}, "json_schema": _SCHEMA}, only=True)
_REQUEST = check_of(
    {
        **SHARED,
        "input": text_or(_ITEM),
        "background": bool,
        "max_output_tokens": integer(0, MAX_TOKENS),
        "max_tool_calls": integer(0),
        "tools": _TOOLS,
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
        "include": [str],
        "instructions previous_response_id": str,
    }
)

_SAME = (
    *("temperature", "top_p", "parallel_tool_calls", "metadata", "user", "safety_identifier"),
    *("prompt_cache_key", "prompt_cache_options", "prompt_cache_retention"),
    *("service_tier", "stream"),
    # Parameters of chat only, which self-hosted servers accept here too.
    *("stop", "seed", "frequency_penalty", "presence_penalty", "logit_bias", "top_k"),
    *("max_tokens", "response_format", "reasoning_effort"),
)
#: Chat's names of the members that it has too.
NAMES = {
    **{name: name for name in _SAME},
    "max_output_tokens": "max_completion_tokens",
    "text.verbosity": "verbosity",
    "reasoning.effort": "reasoning_effort",
}
#: The values that a chat supports of members that change the answer; other members are dropped.
_SUPPORTED = check_of(
    {
        "conversation prompt moderation": unsupported,
        "access_programs": {"cyber": "standard"},
        "image": {"context_compression": "auto disabled"},
        "prompt_cache_options": {"prewarm": unsupported},
    }
)
#: The element of ``include`` that requests log probabilities.
_LOGPROBS = "message.output_text.logprobs"

#: The members that a response repeats from its request, and their defaults.
_REPEATED: dict[str, Json] = {
    **dict.fromkeys(("instructions", "temperature", "top_p", "max_output_tokens", "user")),
    **dict.fromkeys(("max_tool_calls", "previous_response_id", "prompt_cache_key")),
    **dict.fromkeys(("safety_identifier", "service_tier")),
    "metadata": {},
    "parallel_tool_calls": True,
    "tool_choice": "auto",
    "tools": [],
    "background": False,
    "reasoning": {"effort": None, "summary": None},
    "store": False,
    "text": {"format": {"type": "text"}},
    "top_logprobs": 0,
    "truncation": "disabled",
}
#: Bytes of the members that events repeat in a request that is translated.
_LIMITED, _LARGEST = ("tools", "tool_choice", "text", "metadata"), 1024 * 1024


def read_request(
    fields: dict[str, Json], marks: Marks, past: Sequence[Json] | None = None
) -> ChatRequest:
    """Return the chat request for *fields*, which may hold *marks*; raises InvalidRequest.

    *past* holds the items before the input, if the previous response is stored here.
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
            raise unknown_previous("the previous response is not stored here, or has expired")
        if past and not passes(_ITEMS, past):
            text = "the previous response has items that this model cannot read"
            raise InvalidRequest(text, param="previous_response_id")
        messages = messages_of(past or (), marks) + messages_of(items, marks)
        if system := fields.get("instructions"):
            messages.insert(0, {"role": "system", "content": system})
        body["messages"] = messages
        every, choice = (*(past or ()), *items), fields.get("tool_choice")
        limited = [*map(fields.get, _LIMITED), *filter(None, map(found_tools, every))]
        if sum(map(len, large.restored_parts(limited, marks))) > _LARGEST:
            text = "tools, text and metadata may have 1 MiB, also tools that searches have found"
            raise InvalidRequest(text, param="tools")
        tools = list(map(_function, islice(all_tools(fields, every), MOST_TOOLS + 1)))
        if len(tools) > MOST_TOOLS:
            raise InvalidRequest(f"there may be at most {MOST_TOOLS:,} tools", param="tools")
        add_tools(body, tools, _tool_choice(choice) if isinstance(choice, dict) else choice)

    native = _native(fields, items, past, marks)
    return to_chat(fields, NAMES, _SUPPORTED, translate, native=native, marks=marks)


def repeated(request: ChatRequest) -> dict[str, Json]:
    """Return the members that the response to *request* repeats."""
    return {**_REPEATED, **members(request.original or {}, " ".join(_REPEATED))}


def repeated_size(request: ChatRequest) -> int:
    """Return how many bytes of *request* its response repeats in several events."""
    return sum(map(len, large.restored_parts(repeated(request), request.marks)))


def unknown_previous(problem: str) -> InvalidRequest:
    """Return the error for a *problem* with the previous response."""
    code = "previous_response_not_found"
    return InvalidRequest(problem, param="previous_response_id", code=code)


def input_items(fields: Mapping[str, Json]) -> list[dict[str, Json]]:
    """Return the items of the ``input``; a text becomes one user message."""
    value = fields.get("input") or []
    return [{"role": "user", "content": value}] if isinstance(value, str) else value


def _native(
    fields: dict[str, Json], items: Sequence[Json], past: Sequence[Json] | None, marks: Marks
) -> dict[str, Json] | None:
    """Return the request for a provider that speaks this API; None to forward the caller's own.

    A response that is stored here is not stored by the provider, which gets the items of
    previous responses again, without items that it cannot read.
    """
    stored = bool(fields.get("store"))  # also true for every background response
    before = [for_provider(item, marks, True) for item in past or ()]
    given = [for_provider(item, marks, False) for item in items]
    kept = list(filter(None, (*before, *given)))
    has_new_input = past is not None or any(map(operator.is_not, given, items))
    if not (stored or has_new_input):
        return None
    native = {name: value for name, value in fields.items() if name != "background"}
    native |= {"store": False, "stream": True} if stored else {}
    native |= {"input": kept} if has_new_input else {}
    if past is not None:
        del native["previous_response_id"]
    return native


#: The parameters of the function that stands for a custom tool, whose input is a text.
_INPUT = {
    "type": "object",
    "properties": {"input": {"type": "string"}},
    "required": ["input"],
    "additionalProperties": False,
}


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
        if len(choice["tools"]) > MOST_TOOLS:
            text = f"tool_choice may allow at most {MOST_TOOLS:,} tools"
            raise InvalidRequest(text, param="tool_choice.tools")
        allowed = {"mode": choice["mode"], "tools": list(map(_tool_choice, choice["tools"]))}
        return {"type": kind, "allowed_tools": allowed}
    if kind not in CALLER_TOOLS:
        raise unsupported_tool(kind, "tool_choice.type")
    return {"type": "function", "function": {"name": chat_name(choice)}}
