"""Checks chat completion requests: OpenAI's published schema as a table.

:data:`REQUEST` names each field once, with its type and range in the schema; the tables before it
are its parts.  Unknown fields, unknown values of most enumerations and unknown types of content
parts and tools are accepted: they grow faster than this table, and providers check their own.
Fields that this server does not read, such as ``audio`` or ``prediction``, are not checked either.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from .items import Json
from .schema import (
    Check,
    Fault,
    Notation,
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

#: Longer than any model's name with its provider, its region and its tags.  The name is logged,
#: sent back in a header, and stored.
MAX_MODEL_NAME = 256
model_name = string(MAX_MODEL_NAME)
#: OpenAI and other providers reject longer names of functions.
_function_name = string(64)

#: More than any model writes; beyond 32 bits providers and libraries fail in various ways.
MAX_TOKENS = 2**31 - 1


def check(body: dict[str, Json]) -> None:
    """Raise InvalidRequest if *body* is not a valid request."""
    demand(REQUEST, body)
    demand(check_tool_choice, body)


_string = check_of(str)


# URL parsers skip leading controls and spaces, and tabs and line ends anywhere (WHATWG URL, section
# 4.4).  No scheme has a "~", with which a mark begins: the text behind it is unknown here.
_FILE_URL = re.compile(
    "[\0- ]*(?:~|f[\0- ]*(?:~|i[\0- ]*(?:~|l[\0- ]*(?:~|e[\0- ]*[~:]))))", re.ASCII | re.IGNORECASE
)


def remote_url(value: Json) -> None:
    """Check for a string that is no file: URL, which would name a file of the upstream."""
    _string(value)
    if _FILE_URL.match(value):
        raise Fault("must not be a file: URL")


AUDIO_PART = {"input_audio!": {"data! format!": str}}
_PART = by_type(
    {
        "text": {"text!": str},
        "image_url": {"image_url!": {"url!": remote_url, "detail": str}},
        "input_audio": AUDIO_PART,
        "file": {"file!": {"file_data": remote_url, "file_id filename": str}},
        "refusal": {"refusal!": str},
    }
)
_CONTENT = text_or(_PART)


def not_empty(notation: Notation) -> Check:
    """Check as *notation* says, and that the value is not an empty array."""
    check = check_of(notation)

    def test(value: Json) -> None:
        check(value)
        if value == []:
            raise Fault("must not be empty", code="invalid_messages_format")

    return test


_content = not_empty(_CONTENT)
_TOOL_CALL = by_type(
    {
        "function": {"id!": str, "function!": {"name!": _function_name, "arguments!": str}},
        "custom": {"id!": str, "custom!": {"name! input!": str}},
    }
)
_PROMPT = {"content!": _content, "name": str}
_ASSISTANT = check_of(
    {
        "content": _CONTENT,  # may be empty beside calls
        "name refusal": str,
        "tool_calls": [_TOOL_CALL],
        "function_call": {"name!": _function_name, "arguments": str},
    }
)
_ASSISTANT_CONTENT = ("content", "tool_calls", "function_call", "refusal", "audio")


def _assistant(value: Json) -> None:
    _ASSISTANT(value)
    content = value.get("content")
    if content in (None, []) and not any(value.get(name) for name in _ASSISTANT_CONTENT):
        raise Fault("is required without tool_calls", ".content", code="invalid_messages_format")


_USUAL_FIELDS, _USUAL_ROLES = {"role", "content"}, ("user", "assistant", "system", "developer")
_ROLES = {
    **dict.fromkeys(("user", "system", "developer"), check_of(_PROMPT)),
    "assistant": _assistant,
    "tool": check_of({"content!": _content, "tool_call_id!": str}),
    "function": check_of({"name!": str, "content": _content}),
}
_ROLE = check_of({"role!": str})


def _message(value: Json) -> None:
    if (
        type(value) is dict
        and value.keys() == _USUAL_FIELDS
        and type(value["content"]) is str
        and value["role"] in _USUAL_ROLES
    ):
        return  # a fast path: a request may have thousands of such messages
    _ROLE(value)
    test = _ROLES.get(value["role"])
    if test is None:
        raise Fault(f"must be one of {', '.join(_ROLES)}", ".role", code="invalid_messages_format")
    test(value)


def filled(value: Json) -> None:
    """Check for a string with more than blanks."""
    _string(value)
    if not value.strip():
        raise Fault("must not be empty")


def _new_name(value: Json) -> None:
    """Check the name of a tool; unlike the name in a past call it must not be empty."""
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

#: Fields that the legacy completions have too.
SAMPLING = {
    "temperature": number(0, 2),
    "top_p": number(0, 1),
    "n": integer(1, 128),
    "stop": text_or(str, most=4),
    "presence_penalty frequency_penalty": number(-2, 2),
    "logit_bias": mapping_of(number(-100, 100)),
    "seed": integer(-9223372036854776000, 9223372036854776000),  # as the schema has it
}
#: Fields that Responses have too.
SHARED = {
    **SAMPLING,
    "model!": model_name,
    "stream parallel_tool_calls store": bool,
    "max_tokens": integer(0, MAX_TOKENS),
    "top_logprobs": integer(0, 20),
    "response_format": by_type({"json_schema": {"json_schema!": _JSON_SCHEMA}}),
    "metadata": mapping_of(str),
    "user safety_identifier service_tier reasoning_effort": str,
    "prompt_cache_key prompt_cache_retention": str,
}
REQUEST = check_of(
    {
        **SHARED,
        "messages!": not_empty([_message]),
        "logprobs": bool,
        "stream_options": {"include_usage include_obfuscation": bool},
        "max_completion_tokens": integer(0, MAX_TOKENS),
        "tools": [_TOOL],
        "tool_choice": either(str, "none auto required", dict, _TOOL_CHOICE),
        "functions": [_FUNCTION],
        "function_call": either(str, anything, dict, _NAMED),
        "modalities": [str],
        "verbosity": str,
    }
)
