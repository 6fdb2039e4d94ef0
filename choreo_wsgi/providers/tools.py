"""The tools of a request, and the schema of its answer, for providers with APIs of their own."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

from ..chat.items import Json, dump_large
from ..chat.request import ChatRequest
from ..errors import InvalidRequest
from .capabilities import Capabilities

#: The parameters of a function that has none.
NOTHING: dict[str, Json] = {"type": "object", "properties": {}}


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


def choice(request: ChatRequest, able: Capabilities) -> tuple[str, str]:
    """Return how to choose among the functions: ``auto``, ``required``, ``none``, or ``named`` and
    the name of one; ``""`` when *request* does not say.

    Raises InvalidRequest for what the model is not *able* to do.
    """
    wanted = request.body.get("tool_choice")
    mode, name = (wanted, "") if isinstance(wanted, str) else ("", "")
    if isinstance(wanted, dict) and wanted["type"] == "function":
        mode, name = "named", wanted["function"]["name"]
    elif isinstance(wanted, dict):
        mode = wanted["allowed_tools"]["mode"]
    if mode in ("required", "named") and not able.forced_tools:
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
