"""What a chat completion request must look like: OpenAI's published schema as a table.

:data:`REQUEST` names each field once, with the type and range that the schema gives it; the
tables before it are its parts.  What the schema leaves open stays open: unknown fields,
unknown values of most enumerations, unknown kinds of content parts and tools grow faster
than this table, and providers know their own.  So do fields that nothing here reads, such as
``audio`` or ``prediction``: they pass as they came.
"""

from __future__ import annotations

from collections.abc import Mapping

from .items import Json
from .schema import (
    Fault,
    anything,
    by_type,
    check_of,
    demand,
    either,
    integer,
    mapping_of,
    number,
    string,
    text_or,
)

#: Longer than any model's name with its provider, its region and its tags.  It is logged, sent
#: back in a header, and remembered.
MAX_MODEL_NAME = 256
model_name = string(MAX_MODEL_NAME)
#: OpenAI refuses longer names of functions, and so do others.
_function_name = string(64)

#: No model writes as much; beyond 32 bits providers and libraries fail in ways of their own.
MAX_TOKENS = 2**31 - 1


def check(body: dict[str, Json]) -> None:
    """Raise the InvalidRequest that tells what is wrong with *body*, if anything is."""
    demand(REQUEST, body)
    demand(check_tool_choice, body)


_string = check_of(str)


def _image_url(value: Json) -> None:
    _string(value)
    # URL parsers skip leading controls and spaces (WHATWG URL, section 4.4).
    if value[:64].lstrip("".join(map(chr, range(33))))[:5].lower() == "file:":
        raise Fault("must not be a file: URL")


AUDIO_PART = {"input_audio!": {"data! format!": str}}
_PART = by_type(
    {
        "text": {"text!": str},
        "image_url": {"image_url!": {"url!": _image_url, "detail": str}},
        "input_audio": AUDIO_PART,
        "file": {"file!": {"file_data file_id filename": str}},
        "refusal": {"refusal!": str},
    }
)
_CONTENT = text_or(_PART)


def _content(value: Json) -> None:
    _CONTENT(value)
    if value == []:
        raise Fault("must not be empty", code="invalid_messages_format")


_TOOL_CALL = by_type(
    {
        "function": {"id!": str, "function!": {"name!": _function_name, "arguments!": str}},
        "custom": {"id!": str, "custom!": {"name! input!": str}},
    }
)
_SPOKEN = {"content!": _content, "name": str}
_ASSISTANT = check_of(
    {
        "content": _CONTENT,  # may be empty beside calls
        "name refusal": str,
        "tool_calls": [_TOOL_CALL],
        "function_call": {"name!": _function_name, "arguments": str},
    }
)
_SAID_BY_ASSISTANT = ("content", "tool_calls", "function_call", "refusal", "audio")


def _assistant(value: Json) -> None:
    _ASSISTANT(value)
    content = value.get("content")
    if content in (None, []) and not any(value.get(name) for name in _SAID_BY_ASSISTANT):
        raise Fault(
            "is required where there are no tool_calls", ".content", code="invalid_messages_format"
        )


_USUAL, _SPEAKERS = {"role", "content"}, ("user", "assistant", "system", "developer")
_ROLES = {
    **dict.fromkeys(("user", "system", "developer"), check_of(_SPOKEN)),
    "assistant": _assistant,
    "tool": check_of({"content!": _content, "tool_call_id!": str}),
    "function": check_of({"name!": str, "content": _content}),
}
_ROLE = check_of({"role!": str})


def _message(value: Json) -> None:
    if (
        type(value) is dict
        and value.keys() == _USUAL
        and type(value["content"]) is str
        and value["role"] in _SPEAKERS
    ):
        return  # as most are, of which there may be thousands
    _ROLE(value)
    test = _ROLES.get(value["role"])
    if test is None:
        raise Fault(f"must be one of {', '.join(_ROLES)}", ".role", code="invalid_messages_format")
    test(value)


_MESSAGES = check_of([_message])


def _messages(value: Json) -> None:
    _MESSAGES(value)
    if not value:
        raise Fault("must not be empty", code="invalid_messages_format")


def filled(value: Json) -> None:
    """Check for a string that is more than blanks."""
    _string(value)
    if not value.strip():
        raise Fault("must not be empty")


def _new_name(value: Json) -> None:
    """Check the name of a function that is offered; in a history a model may have left it out."""
    _function_name(value)
    filled(value)


_NAMED = {"name!": _new_name}
_FUNCTION = {"name!": _new_name, "description": str, "parameters": dict, "strict": bool}
_TOOL = by_type(
    {
        "function": {"function!": _FUNCTION},
        "custom": {"custom!": {"name!": filled, "description": str}},
    }
)
_TOOL_CHOICE = by_type(
    {
        "function": {"function!": _NAMED},
        "custom": {"custom!": {"name!": str}},
        "allowed_tools": {"allowed_tools!": {"mode!": str, "tools!": [dict]}},
    }
)


def check_tool_choice(body: Mapping[str, Json]) -> None:
    """Check that the ``tool_choice`` of *body* names one of its tools, if any."""
    choice = body.get("tool_choice")
    if type(choice) is not dict or choice["type"] == "allowed_tools":
        return
    kind = choice["type"]
    name = choice[kind]["name"] if kind in ("function", "custom") else None
    for tool in body.get("tools") or ():
        if tool["type"] == kind and (name is None or tool[kind]["name"] == name):
            return
    raise Fault("names a tool that is not among tools", "tool_choice")


_JSON_SCHEMA = {"name!": str, "description": str, "schema": dict, "strict": bool}
RESPONSE_FORMAT = by_type({"json_schema": {"json_schema!": _JSON_SCHEMA}})

#: What the older completions have too.
SAMPLING = {
    "temperature": number(0, 2),
    "top_p": number(0, 1),
    "n": integer(1, 128),
    "stop": text_or(str, most=4),
    "presence_penalty frequency_penalty": number(-2, 2),
    "logit_bias": mapping_of(number(-100, 100)),
    "seed": integer(-9223372036854776000, 9223372036854776000),  # as the schema has it
}
REQUEST = check_of(
    {
        **SAMPLING,
        "model!": model_name,
        "messages!": _messages,
        "stream logprobs parallel_tool_calls store": bool,
        "stream_options": {"include_usage include_obfuscation": bool},
        "max_tokens max_completion_tokens": integer(0, MAX_TOKENS),
        "top_logprobs": integer(0, 20),
        "tools": [_TOOL],
        "tool_choice": either(str, "none auto required", dict, _TOOL_CHOICE),
        "functions": [_FUNCTION],
        "function_call": either(str, anything, dict, _NAMED),
        "response_format": RESPONSE_FORMAT,
        "modalities": [str],
        "metadata": mapping_of(str),
        "user safety_identifier service_tier reasoning_effort verbosity": str,
        "prompt_cache_key prompt_cache_retention": str,
    }
)
