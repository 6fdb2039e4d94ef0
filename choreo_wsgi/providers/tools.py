"""The tools of a request, and the schema of its answer, for providers with APIs of their own.

Names of tools that a provider refuses are made to fit on the way there and mapped back:
OpenAI-compatible servers take ``files.read`` and ``1st``; a conversation that moves to a provider
whose pattern has no room for them would be refused in every turn.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace

from ..chat.items import Delta, Item, Json, dump_large
from ..chat.request import ChatRequest
from ..errors import InvalidRequest
from .capabilities import Capabilities

#: The parameters of a function that has none.
NOTHING: dict[str, Json] = {"type": "object", "properties": {}}
_ODD = re.compile(r"[^a-zA-Z0-9_-]", re.ASCII)
_STEM = 48  # of 63 characters that all take in a name; a mark and a hash follow


@dataclass(frozen=True)
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
        """The members that Anthropic and Bedrock call alike."""
        members = {"description": self.description, "strict": self.strict}
        return {"name": self.name, **{name: told for name, told in members.items() if told}}

    @property
    def schema(self) -> dict[str, Json]:
        """The parameters as a schema that says that it is one of an object."""
        given = self.parameters or NOTHING
        return given if "type" in given else {"type": "object", **given}


def functions(request: ChatRequest) -> list[Function]:
    """Return the functions of *request* that its ``tool_choice`` allows.

    Raises InvalidRequest where that allows others, or demands one of none.
    """
    found: dict[bytes, Function] = {}  # by all that they say: the same one twice is refused
    for tool in request.body.get("tools") or ():
        function = tool["function"]
        made = Function(
            function["name"],
            function.get("description") or "",
            function.get("parameters"),
            function.get("strict") is True,
            tool.get("cache_control") or function.get("cache_control"),
        )
        found.setdefault(hashlib.sha256(dump_large(vars(made))).digest(), made)
    wanted = request.body.get("tool_choice")
    if isinstance(wanted, dict) and wanted["type"] == "allowed_tools":
        allowed = {tool["function"]["name"] for tool in wanted["allowed_tools"]["tools"]}
        kept = [function for function in found.values() if function.name in allowed]
        is_required = wanted["allowed_tools"]["mode"] == "required"
        if not allowed <= {function.name for function in kept} or (is_required and not kept):
            raise InvalidRequest(
                "tool_choice must allow tools that are among tools", param="tool_choice"
            )
        return kept
    return list(found.values())


def choice(request: ChatRequest, caps: Capabilities) -> tuple[str, str]:
    """Return how to choose among the functions: ``auto``, ``required``, ``none``, or ``named`` and
    the name of one; ``""`` when *request* does not say.

    Raises InvalidRequest if the model (*caps*) cannot do it.
    """
    wanted = request.body.get("tool_choice")
    mode, name = (wanted, "") if isinstance(wanted, str) else ("", "")
    if isinstance(wanted, dict) and wanted["type"] == "function":
        mode, name = "named", wanted["function"]["name"]
    elif isinstance(wanted, dict):
        mode = wanted["allowed_tools"]["mode"]
    if mode in ("required", "named") and not caps.forced_tools:
        raise InvalidRequest(
            f"{request.model[:200]} cannot be made to call a tool", param="tool_choice"
        )
    return mode, name


def schema(request: ChatRequest, demanding: str = "") -> dict[str, Json] | None:
    """Return the ``json_schema`` that ``response_format`` asks for; None for plain text.

    Its ``schema`` is always there, None for any JSON object.  Raises InvalidRequest where a
    provider that is *demanding* one, named so, gets none.
    """
    wanted = request.body.get("response_format")
    if wanted is None or wanted["type"] == "text":
        return None
    if wanted["type"] == "json_object" and demanding:
        raise InvalidRequest(
            f"{demanding} has no json_object; use json_schema", param="response_format.type"
        )
    if wanted["type"] == "json_object":
        return {"schema": None}
    about: dict[str, Json] = wanted["json_schema"]
    return {**about, "schema": about.get("schema") or {"type": "object"}}


def fit_names(
    request: ChatRequest, fits: re.Pattern[str] | None
) -> tuple[ChatRequest, dict[str, str]]:
    """Return *request* with names of tools that match *fits* (None: all do), and for each name
    that was made the one it stands for.

    A name always becomes the same one, so that what a provider keeps of a conversation still
    matches.
    """
    names: dict[str, str] = {}
    if fits is None:
        return request, names

    def renamed(value: Json) -> Json:
        """Return tools, calls or a choice, whatever they are in, with names that fit."""
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
        stem = _ODD.sub("_", name)[:_STEM]
        mark = "" if stem[:1].isalpha() else "_"  # Gemini's begin with a letter or that
        made = f"{mark}{stem}_{hashlib.sha256(name.encode('utf-8', 'replace')).hexdigest()[:10]}"
        names[made] = name
        return {**value, "function": {**function, "name": made}}

    messages = [
        {**message, "tool_calls": renamed(message["tool_calls"])}
        if message.get("tool_calls")
        else message
        for message in request.messages
    ]
    chosen = {name: renamed(request.body.get(name)) for name in ("tools", "tool_choice")}
    if not names:
        return request, names
    body = {**request.body, **{name: one for name, one in chosen.items() if one is not None}}
    return replace(request, body={**body, "messages": messages}, messages=messages), names


def restore_names(items: Iterable[Item], names: Mapping[str, str]) -> None:
    """Give the calls in *items* the names that the caller knows."""
    for item in items:
        if isinstance(item, Delta):
            for call in item.tool_calls:
                call.name = names.get(call.name, call.name)
