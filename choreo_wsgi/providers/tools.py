"""The tools of a request, and the schema of its answer, for providers with APIs of their own.

Tool names that a provider refuses are replaced in requests and restored in answers.
OpenAI-compatible servers accept ``files.read`` and ``1st``; a conversation that moves to a stricter
provider would be refused at every turn.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace

from ..chat.items import Delta, Item, Json, dump_large
from ..chat.longtext import restored
from ..chat.request import MOST_TOOLS, ChatRequest
from ..errors import InvalidRequest
from .capabilities import Capabilities

#: The schema of a function without parameters.
NO_PARAMETERS: dict[str, Json] = {"type": "object", "properties": {}}
_NOT_IN_NAMES = re.compile(r"[^a-zA-Z0-9_-]", re.ASCII)
_MAX_STEM = 48  # of the 63 characters that all providers allow; 12 are added to it


@dataclass(frozen=True, slots=True)
class Function:
    """A function that the model may call; *parameters* is a JSON schema.

    *cache* is its ``cache_control``, if it has one.
    """

    name: str
    description: str = ""
    parameters: dict[str, Json] | None = None
    strict: bool = False
    cache: Json = None

    @property
    def named(self) -> dict[str, Json]:
        """The members that have the same names at Anthropic and Bedrock."""
        members = {"description": self.description, "strict": self.strict}
        return {"name": self.name, **{name: value for name, value in members.items() if value}}

    @property
    def schema(self) -> dict[str, Json]:
        """The schema of the parameters, always with a ``type``."""
        schema = self.parameters or NO_PARAMETERS
        return schema if "type" in schema else {"type": "object", **schema}


def functions(request: ChatRequest) -> list[Function]:
    """Return the functions of *request* that its ``tool_choice`` allows.

    Raises InvalidRequest if it allows an unknown function, or requires one of an empty list, and
    for more than MOST_TOOLS.
    """
    if len(request.body.get("tools") or ()) > MOST_TOOLS:
        raise InvalidRequest(f"this model takes at most {MOST_TOOLS:,} tools", param="tools")
    found: dict[bytes, Function] = {}  # by hash: providers refuse a duplicate
    for tool in request.body.get("tools") or ():
        members = tool["function"]
        values = [
            members["name"],
            members.get("description") or "",
            members.get("parameters"),
            members.get("strict") is True,
            tool.get("cache_control") or members.get("cache_control"),
        ]
        digest = hashlib.sha256()
        for part in restored(dump_large(values), request.marks):
            digest.update(part)
        found.setdefault(digest.digest(), Function(*values))
    tool_choice = request.body.get("tool_choice")
    if isinstance(tool_choice, dict) and tool_choice["type"] == "allowed_tools":
        names = {tool["function"]["name"] for tool in tool_choice["allowed_tools"]["tools"]}
        allowed = [function for function in found.values() if function.name in names]
        is_required = tool_choice["allowed_tools"]["mode"] == "required"
        if not names <= {function.name for function in allowed} or (is_required and not allowed):
            raise InvalidRequest(
                "tool_choice must allow tools that are among tools", param="tool_choice"
            )
        return allowed
    return list(found.values())


def choice(request: ChatRequest, caps: Capabilities) -> tuple[str, str]:
    """Return the mode of ``tool_choice`` and, if it is ``named``, the name of the function.

    The mode is ``auto``, ``required``, ``none``, ``named``, or ``""`` if *request* has none.
    Raises InvalidRequest if the model (*caps*) does not support it.
    """
    tool_choice = request.body.get("tool_choice")
    mode, name = (tool_choice, "") if isinstance(tool_choice, str) else ("", "")
    if isinstance(tool_choice, dict) and tool_choice["type"] == "function":
        mode, name = "named", tool_choice["function"]["name"]
    elif isinstance(tool_choice, dict):
        mode = tool_choice["allowed_tools"]["mode"]
    if mode in ("required", "named") and not caps.forced_tools:
        raise InvalidRequest(
            f"{request.model[:200]} cannot be forced to call a tool", param="tool_choice"
        )
    return mode, name


def schema(request: ChatRequest, demanding: str = "") -> dict[str, Json] | None:
    """Return the ``json_schema`` of ``response_format``; None for plain text.

    It always has a ``schema``, which is None for ``json_object``.  Raises InvalidRequest for that
    if *demanding*, the name of a provider that requires a schema, is set.
    """
    form = request.body.get("response_format")
    if form is None or form["type"] == "text":
        return None
    if form["type"] == "json_object" and demanding:
        raise InvalidRequest(
            f"{demanding} does not support json_object; use json_schema",
            param="response_format.type",
        )
    if form["type"] == "json_object":
        return {"schema": None}
    members: dict[str, Json] = form["json_schema"]
    return {**members, "schema": members.get("schema") or {"type": "object"}}


def fit_names(
    request: ChatRequest, fits: re.Pattern[str] | None
) -> tuple[ChatRequest, dict[str, str]]:
    """Return *request* with tool names that match *fits* (None: all do), and new name -> old name.

    A name is always replaced by the same one, so that the provider's prompt cache still matches.
    """
    names: dict[str, str] = {}
    if fits is None:
        return request, names

    def renamed(value: Json) -> Json:
        """Return *value* (tools, calls or a choice) with valid names at any depth."""
        if isinstance(value, list):
            return list(map(renamed, value))
        if not isinstance(value, dict):
            return value
        function = value.get("function")
        if not isinstance(function, dict):
            return {key: renamed(inner) for key, inner in value.items()}
        name = function.get("name")
        if not isinstance(name, str) or fits.fullmatch(name):
            return value
        stem = _NOT_IN_NAMES.sub("_", name)[:_MAX_STEM]
        start = "" if stem[:1].isalpha() else "_"  # Gemini's names start with a letter or this
        new = f"{start}{stem}_{hashlib.sha256(name.encode('utf-8', 'replace')).hexdigest()[:10]}"
        names[new] = name
        return {**value, "function": {**function, "name": new}}

    messages = [
        {**message, "tool_calls": renamed(message["tool_calls"])}
        if message.get("tool_calls")
        else message
        for message in request.messages
    ]
    fields = {name: renamed(request.body.get(name)) for name in ("tools", "tool_choice")}
    if not names:
        return request, names
    fields = {name: value for name, value in fields.items() if value is not None}
    body = {**request.body, **fields, "messages": messages}
    return replace(request, body=body, messages=messages), names


def restore_names(items: Iterable[Item], names: Mapping[str, str]) -> None:
    """Restore the client's tool names in the calls among *items*; *names* is new -> old."""
    for item in items:
        if isinstance(item, Delta):
            for call in item.tool_calls:
                call.name = names.get(call.name, call.name)
