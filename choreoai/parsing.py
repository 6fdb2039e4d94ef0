"""Structured output: answers parsed into pydantic models and dataclasses.

It needs pydantic, which is imported at the first use.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import is_dataclass
from typing import TYPE_CHECKING, Any, Generic

from .errors import incomplete_error
from .models import ChatCompletion, ParsedChatCompletion
from .options import T

if TYPE_CHECKING:
    import pydantic


class FunctionTool(dict[str, Any]):
    """The definition of a function whose arguments are a pydantic *model*."""

    model: type[pydantic.BaseModel]


def pydantic_function_tool(
    model: type[pydantic.BaseModel], *, name: str | None = None, description: str | None = None
) -> dict[str, Any]:
    """Return a tool with *model* as its arguments; the name and description default to its own."""
    name = name or model.__name__
    tool = FunctionTool(name=name, strict=True, parameters=strict_schema(model))
    tool.model = model
    description = model.__doc__ if description is None else description
    if description is not None:
        tool["description"] = description
    return {"type": "function", "function": tool}


def strict_schema(kind: type) -> dict[str, Any]:
    """Return the JSON schema of *kind* in the form that OpenAI requires for ``strict``.

    All properties are required, no others are allowed, and a ``$ref`` has no other members beside
    it.  Raises TypeError if *kind* is neither a pydantic model nor a dataclass.
    """
    root: dict[str, Any] = _adapter(kind).json_schema()
    _make_strict(root, root)
    return root


def _adapter(kind: Any) -> Any:
    from pydantic import TypeAdapter

    if not (hasattr(kind, "model_validate_json") or is_dataclass(kind)):
        raise TypeError(f"{kind!r} is neither a pydantic model nor a dataclass")
    return TypeAdapter(kind)


def _make_strict(schema: dict[str, Any], root: dict[str, Any]) -> None:
    """Make *schema*, a part of *root*, strict in place."""
    parts = [schema.get("items"), *schema.get("anyOf", ()), *schema.get("allOf", ())]
    for name in ("$defs", "definitions", "properties"):
        parts += schema.get(name, {}).values()
    for part in parts:
        if isinstance(part, dict):
            _make_strict(part, root)
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
        _make_strict(schema, root)


def _partial_json(text: str) -> Any:
    """Return the value of *text*, an incomplete JSON text; None if pydantic is not installed."""
    try:
        from pydantic_core import from_json
    except ImportError:
        return None
    return from_json(text, allow_partial=True) if text.strip() else None


class Parser(Generic[T]):
    """Parses the answers to a request with *body*, by its strict tools and a type.

    The type, if any, is the member *name*, which is removed from *body*.
    """

    def __init__(self, body: dict[str, Any], name: str) -> None:
        self._adapter = None
        #: The JSON schema of the type as the API expects it, None without a type.
        self.schema: dict[str, Any] | None = None
        kind = body.pop(name, None)
        if isinstance(kind, type):
            self._adapter = _adapter(kind)
            self.schema = {"schema": strict_schema(kind), "name": kind.__name__, "strict": True}
        elif kind is not None:
            body[name] = kind  # a format in the API's own form
        if tools := list(body.pop("tools", None) or ()):
            body["tools"] = tools
        functions = [tool.get("function", tool) for tool in tools if isinstance(tool, Mapping)]
        self._strict = {one.get("name"): one for one in functions if one.get("strict")}
        #: Whether there is anything to parse.
        self.active = bool(self.schema or self._strict)

    def content(self, text: str | None, *, partial: bool = False) -> Any:
        """Return the answer's *text* parsed; a *partial* text as plain JSON as far as it goes."""
        if self._adapter is None or not text:
            return None
        return _partial_json(text) if partial else self._adapter.validate_json(text)

    def arguments(self, name: Any, text: str | None, *, partial: bool = False) -> Any:
        """Return *text*, arguments of the function *name*, parsed; None if it is not strict."""
        if (tool := self._strict.get(name)) is None:
            return None
        if partial:
            return _partial_json(text or "")
        if isinstance(tool, FunctionTool):
            return tool.model.model_validate_json(text or "")
        return json.loads(text or "")

    def completion(self, completion: ChatCompletion) -> ParsedChatCompletion[T]:
        """Return *completion* parsed.

        Raises LengthFinishReasonError, ContentFilterFinishReasonError and ValidationError.
        """
        members = completion.to_dict()
        for choice in members["choices"]:
            if error := incomplete_error(choice.get("finish_reason"), completion):
                raise error
            message = choice["message"]
            text = None if message.get("refusal") else message.get("content")
            message.setdefault("tool_calls", None)
            message["parsed"] = self.content(text)
            for call in message.get("tool_calls") or ():
                if function := call.get("function"):
                    parsed = self.arguments(function.get("name"), function.get("arguments"))
                    function["parsed_arguments"] = parsed
        return ParsedChatCompletion[T].from_dict(members)
