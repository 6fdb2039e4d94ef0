"""Answers parsed into pydantic's models and dataclasses: structured output.

pydantic is needed for it, and imported by who uses it only.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import is_dataclass
from typing import TYPE_CHECKING, Any, Generic

from .errors import unparsable
from .models import ChatCompletion, Choice, Message
from .params import NOT_GIVEN

if TYPE_CHECKING:
    import pydantic
    from typing_extensions import TypeVar

    #: What an answer is parsed as; None where nothing is to be parsed.
    T = TypeVar("T", default=None)
else:
    from typing import TypeVar

    T = TypeVar("T")  # Python 3.13 has defaults


class ParsedMessage(Message, Generic[T]):
    """A message; *parsed* is its content as what was asked for, None for a refusal."""

    parsed: T | None = None


class ParsedChoice(Choice, Generic[T]):
    """One of the answers, parsed."""

    message: ParsedMessage[T]


class ParsedChatCompletion(ChatCompletion, Generic[T]):
    """A whole answer, parsed."""

    choices: list[ParsedChoice[T]]  # type: ignore[assignment]


class FunctionTool(dict[str, Any]):
    """The definition of a function whose arguments are a pydantic *model*."""

    model: type[pydantic.BaseModel]


def pydantic_function_tool(
    model: type[pydantic.BaseModel], *, name: str | None = None, description: str | None = None
) -> dict[str, Any]:
    """Return the tool whose arguments are *model*, named and described like it by default."""
    name = name or model.__name__
    tool = FunctionTool(name=name, strict=True, parameters=strict_schema(model))
    tool.model = model
    description = model.__doc__ if description is None else description
    if description is not None:
        tool["description"] = description
    return {"type": "function", "function": tool}


def strict_schema(kind: type) -> dict[str, Any]:
    """Return the JSON schema of *kind* in the form that OpenAI's ``strict`` demands.

    All properties are required, no others allowed, and a reference stands alone.
    Raises TypeError for what is neither a pydantic model nor a dataclass.
    """
    root: dict[str, Any] = _adapter(kind).json_schema()
    _be_strict(root, root)
    return root


def _adapter(kind: Any) -> Any:
    from pydantic import TypeAdapter

    if not (hasattr(kind, "model_validate_json") or is_dataclass(kind)):
        raise TypeError(f"{kind!r} is neither a pydantic model nor a dataclass")
    return TypeAdapter(kind)


def _be_strict(schema: dict[str, Any], root: dict[str, Any]) -> None:
    """Make *schema*, a part of *root*, strict in place."""
    parts = [schema.get("items"), *schema.get("anyOf", ()), *schema.get("allOf", ())]
    for name in ("$defs", "definitions", "properties"):
        parts += schema.get(name, {}).values()
    for part in parts:
        if isinstance(part, dict):
            _be_strict(part, root)
    if schema.get("type") == "object":
        schema.setdefault("additionalProperties", False)
    if "properties" in schema:
        schema["required"] = list(schema["properties"])
    if len(schema.get("allOf", ())) == 1:
        schema.update(schema.pop("allOf")[0])
    if schema.get("default", "") is None:
        del schema["default"]
    if "$ref" in schema and len(schema) > 1:
        target: Any = root
        for name in schema.pop("$ref").removeprefix("#/").split("/"):
            target = target[name]
        schema.update({**target, **schema})
        _be_strict(schema, root)


class Parser(Generic[T]):
    """Parses what answers to a request with *response_format*, a type or what the API takes.

    ``params`` are those of the request, *params* with the format.
    """

    def __init__(self, response_format: Any, params: Mapping[str, Any]) -> None:
        self.params = {**params, "tools": list(params.get("tools") or ()) or NOT_GIVEN}
        self._adapter = None
        if isinstance(response_format, type):
            self._adapter = _adapter(response_format)
            schema = strict_schema(response_format)
            wanted = {"schema": schema, "name": response_format.__name__, "strict": True}
            response_format = {"type": "json_schema", "json_schema": wanted}
        if response_format is not None:
            self.params["response_format"] = response_format
        self._tools = {
            tool["function"]["name"]: tool["function"]
            for tool in self.params["tools"] or ()
            if isinstance(tool, Mapping) and tool.get("type") == "function"
        }
        #: Whether there is anything to parse.
        self.active = bool(self._adapter) or any(t.get("strict") for t in self._tools.values())

    def content(self, message: Mapping[str, Any], *, partial: bool = False) -> Any:
        """Return the content of *message* parsed; *partial* as far as it came, as plain JSON."""
        text = message.get("content")
        if self._adapter is None or not text or message.get("refusal"):
            return None
        if not partial:
            return self._adapter.validate_json(text)
        from pydantic_core import from_json

        return from_json(text, allow_partial=True) if text.strip() else None

    def arguments(self, name: str, text: str) -> Any:
        """Return the arguments *text* of the function *name* parsed, None if it is not strict."""
        tool = self._tools.get(name)
        if isinstance(tool, FunctionTool):
            return tool.model.model_validate_json(text)
        return json.loads(text) if tool and tool.get("strict") else None

    def completion(self, completion: ChatCompletion) -> ParsedChatCompletion[T]:
        """Return *completion* parsed.

        Raises LengthFinishReasonError, ContentFilterFinishReasonError, and what pydantic does.
        """
        members = completion.to_dict()
        for choice in members["choices"]:
            if error := unparsable(choice.get("finish_reason"), completion):
                raise error
            message = choice["message"]
            message["parsed"] = self.content(message)
            for call in message.get("tool_calls") or ():
                if function := call.get("function"):
                    name, text = function.get("name"), function.get("arguments") or ""
                    function["parsed_arguments"] = self.arguments(name, text)
        return ParsedChatCompletion[T].from_dict(members)
