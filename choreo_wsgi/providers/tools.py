"""Tools, the choice among them and the form of the answer, for providers with other words."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from ..chat import ChatRequest
from ..errors import InvalidValue

__all__ = ["Choice", "Function", "Schema", "choice", "functions", "schema"]

Json = Any  # what json.loads returns

#: The parameters of a function that has none.
_NOTHING = {"type": "object", "properties": {}}


@dataclass(frozen=True)
class Function:
    """A function that the model may call; *parameters* is a JSON schema."""

    name: str
    description: str
    parameters: dict[str, Json]
    strict: bool = False


@dataclass(frozen=True)
class Choice:
    """How to choose among the functions: ``auto``, ``required``, ``none`` or ``named``."""

    mode: str = "auto"
    name: str = ""


@dataclass(frozen=True)
class Schema:
    """The JSON schema that the answer must follow; None for any JSON object."""

    schema: dict[str, Json] | None
    name: str = ""
    description: str = ""


def functions(request: ChatRequest) -> list[Function]:
    """Return the functions of *request* that its ``tool_choice`` allows."""
    found = []
    for index, tool in enumerate(request.body.get("tools") or ()):
        if tool["type"] != "function":
            raise InvalidValue(
                f"tools of type {tool['type']!r} are not supported here",
                param=f"tools[{index}].type",
            )
        function = tool["function"]
        found.append(
            Function(
                function["name"],
                function.get("description") or "",
                function.get("parameters") or _NOTHING,
                function.get("strict") is True,
            )
        )
    wanted = request.body.get("tool_choice")
    if isinstance(wanted, dict) and wanted["type"] == "allowed_tools":
        allowed = {tool["function"]["name"] for tool in wanted["allowed_tools"]["tools"]}
        found = [function for function in found if function.name in allowed]
    return found


def choice(request: ChatRequest) -> Choice | None:
    """Return how to choose among the functions; None when *request* does not say."""
    wanted = request.body.get("tool_choice")
    if wanted is None:
        return None
    if isinstance(wanted, str):
        return Choice(wanted)
    if wanted["type"] == "allowed_tools":
        return Choice(wanted["allowed_tools"]["mode"])
    if wanted["type"] == "function":
        return Choice("named", wanted["function"]["name"])
    raise InvalidValue(
        f"tools of type {wanted['type']!r} are not supported here", param="tool_choice.type"
    )


def schema(request: ChatRequest) -> Schema | None:
    """Return the schema that ``response_format`` asks for; None for plain text."""
    wanted = request.body.get("response_format")
    if wanted is None or wanted["type"] == "text":
        return None
    if wanted["type"] == "json_object":
        return Schema(None)
    about = wanted["json_schema"]
    given = about.get("schema") or {"type": "object"}
    return Schema(given, about.get("name") or "", about.get("description") or "")
