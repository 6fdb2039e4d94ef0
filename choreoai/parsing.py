"""Answers parsed into pydantic's models and dataclasses: structured output.

pydantic is needed for it, and imported by who uses it only.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import is_dataclass
from typing import TYPE_CHECKING, Any, Generic

from .errors import ContentFilterFinishReasonError, LengthFinishReasonError
from .models import ChatCompletion, Choice, Function, Message, ToolCall
from .params import NOT_GIVEN

if TYPE_CHECKING:
    import pydantic
    from typing_extensions import TypeVar

    #: What an answer is parsed as; None where nothing is to be parsed.
    T = TypeVar("T", default=None)
else:
    from typing import TypeVar

    T = TypeVar("T")  # Python 3.13 has defaults


#: What is raised for an answer that ended too early to be parsed, by its finish reason.
UNPARSABLE: dict[str | None, type[LengthFinishReasonError | ContentFilterFinishReasonError]] = {
    "length": LengthFinishReasonError,
    "content_filter": ContentFilterFinishReasonError,
}


class ParsedFunction(Function):
    """A function with its arguments parsed, where the tool was strict or a model."""

    parsed_arguments: Any = None


class ParsedToolCall(ToolCall):
    """A tool call with parsed arguments."""

    function: ParsedFunction


class ParsedMessage(Message, Generic[T]):
    """A message; *parsed* is its content as what was asked for, None for a refusal."""

    parsed: T | None = None
    tool_calls: list[ParsedToolCall] | None = None  # type: ignore[assignment]


class ParsedChoice(Choice, Generic[T]):
    """One of the answers, parsed."""

    message: ParsedMessage[T]


class ParsedChatCompletion(ChatCompletion, Generic[T]):
    """A whole answer, parsed."""

    choices: list[ParsedChoice[T]]  # type: ignore[assignment]


class FunctionTool(dict[str, Any]):
    """The definition of a function whose arguments are a pydantic *model*."""

    def __init__(self, definition: Mapping[str, Any], model: type[pydantic.BaseModel]) -> None:
        super().__init__(definition)
        self.model = model


def pydantic_function_tool(
    model: type[pydantic.BaseModel], *, name: str | None = None, description: str | None = None
) -> dict[str, Any]:
    """Return the tool whose arguments are *model*, named and described like it by default."""
    definition = {
        "name": name or model.__name__,
        "strict": True,
        "parameters": strict_schema(model),
    }
    description = model.__doc__ if description is None else description
    if description is not None:
        definition["description"] = description
    return {"type": "function", "function": FunctionTool(definition, model)}


def response_format_of(kind: Any) -> Any:
    """Return *kind*, a type or a ready ``response_format``, as the API takes it."""
    if not isinstance(kind, type):
        return kind
    schema = {"schema": strict_schema(kind), "name": kind.__name__, "strict": True}
    return {"type": "json_schema", "json_schema": schema}


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
    for name in ("$defs", "definitions", "properties"):
        for part in schema.get(name, {}).values():
            _be_strict(part, root)
    for part in [*schema.get("anyOf", ()), *schema.get("allOf", ())]:
        _be_strict(part, root)
    if isinstance(schema.get("items"), dict):
        _be_strict(schema["items"], root)
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
    """Parses what answers to requests with *response_format* and *tools*."""

    def __init__(self, response_format: Any, tools: Iterable[Any]) -> None:
        self._adapter = _adapter(response_format) if isinstance(response_format, type) else None
        self._tools = {
            tool["function"]["name"]: tool["function"]
            for tool in tools
            if isinstance(tool, Mapping) and tool.get("type") == "function"
        }

    @property
    def active(self) -> bool:
        """Whether there is anything to parse."""
        strict = (isinstance(t, FunctionTool) or t.get("strict") for t in self._tools.values())
        return self._adapter is not None or any(strict)

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
            if kind := UNPARSABLE.get(choice.get("finish_reason")):
                raise kind(completion=completion)
            message = choice["message"]
            message["parsed"] = self.content(message)
            for call in message.get("tool_calls") or ():
                function = call.get("function")
                if function:
                    given = self.arguments(function.get("name"), function.get("arguments") or "")
                    function["parsed_arguments"] = given
        return ParsedChatCompletion[T].from_dict(members)


def parsing(response_format: Any, params: Mapping[str, Any]) -> tuple[Parser[Any], dict[str, Any]]:
    """Return what parses the answer, and the parameters with the format as the API takes it."""
    members = dict(params)
    if response_format is not None:
        members["response_format"] = response_format_of(response_format)
    members["tools"] = list(params.get("tools") or ()) or NOT_GIVEN
    return Parser(response_format, members["tools"] or ()), members
