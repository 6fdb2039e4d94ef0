"""The API's objects, with attributes.

Each object is laid over the dictionary that ``json.loads`` returned, which makes it cost
little more than that dictionary: its members are the object's attributes, what the server
sent beyond the documented fields included.  A documented field that is absent is None.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, ClassVar, TypeVar

T = TypeVar("T", bound="Object")


class Object:
    """What all objects of the API have in common."""

    # Members that are objects themselves, or lists of them.
    _nested: ClassVar[tuple[tuple[str, type[Object]], ...]] = ()
    # Members whose absence is an empty object or list, so that reading through them is safe.
    _always: ClassVar[dict[str, type]] = {}

    def __init__(self, **members: Any) -> None:
        build(type(self), members, self)

    @classmethod
    def from_dict(cls: type[T], members: dict[str, Any]) -> T:
        """Return the object for *members*, decoded JSON, which it takes over."""
        return build(cls, members)

    def to_dict(self) -> dict[str, Any]:
        """Return the object as plain dictionaries and lists, ready for ``json.dumps``."""
        return {name: _plain(value) for name, value in self.__dict__.items()}

    def __repr__(self) -> str:
        members = (
            f"{name}={value!r}" for name, value in self.__dict__.items() if value is not None
        )
        return f"{type(self).__name__}({', '.join(members)})"

    def __eq__(self, other: object) -> bool:
        if type(other) is not type(self):
            return NotImplemented
        return self.__dict__ == other.__dict__

    __hash__ = None  # type: ignore[assignment]


def build(cls: type[T], members: dict[str, Any], self: T | None = None) -> T:
    """Return *members* as an object of *cls*: the one place where objects are made."""
    made = cls.__new__(cls) if self is None else self
    for name, kind in cls._nested:
        value = members.get(name)
        if type(value) is list:
            members[name] = [build(kind, v) if type(v) is dict else v for v in value]
        elif type(value) is dict:
            members[name] = build(kind, value)
    for name, empty in cls._always.items():
        if members.get(name) is None:
            members[name] = empty()
    made.__dict__ = members
    return made


def build_chunk(members: dict[str, Any]) -> ChatCompletionChunk:
    """Return what ``build(ChatCompletionChunk, members)`` returns.

    Written out for the chunk that streams consist of, text in its choices and nothing else:
    it comes thousands of times, and the general way costs three times as much.
    """
    choices = members.get("choices")
    if type(choices) is not list or members.get("usage") is not None:
        return build(ChatCompletionChunk, members)
    for at, choice in enumerate(choices):
        if type(choice) is not dict:
            continue
        choices[at] = made = _new(ChunkChoice)
        delta = choice.get("delta")
        if type(delta) is not dict or "tool_calls" in delta:
            build(ChunkChoice, choice, made)
            continue
        choice["delta"] = made_delta = _new(Delta)
        made_delta.__dict__ = delta
        made.__dict__ = choice
    chunk = _new(ChatCompletionChunk)
    chunk.__dict__ = members
    return chunk


_new = object.__new__


def _plain(value: Any) -> Any:
    if isinstance(value, Object):
        return value.to_dict()
    if isinstance(value, list):
        return [_plain(item) for item in value]
    return value


class Function(Object):
    """The function that a tool call names; *arguments* is JSON text, or a piece of it."""

    name: str | None = None
    arguments: str | None = None


class ToolCall(Object):
    """A tool call; in a stream a piece of one, and *index* tells which."""

    index: int | None = None
    id: str | None = None
    type: str | None = None
    function: Function

    _nested = (("function", Function),)
    _always = {"function": Function}


class Message(Object):
    """What the model said."""

    role: str | None = None
    content: str | None = None
    refusal: str | None = None
    reasoning_content: str | None = None
    tool_calls: list[ToolCall] | None = None

    _nested = (("tool_calls", ToolCall),)


class Delta(Message):
    """A piece of a message."""


class Usage(Object):
    """How many tokens the call read and wrote."""

    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    total_tokens: int | None = None
    prompt_tokens_details: dict[str, Any] | None = None
    completion_tokens_details: dict[str, Any] | None = None


class Choice(Object):
    """One of the *n* answers."""

    index: int = 0
    message: Message
    finish_reason: str | None = None
    logprobs: dict[str, Any] | None = None

    _nested = (("message", Message),)
    _always = {"message": Message}


class ChunkChoice(Object):
    """A piece of one of the *n* answers."""

    index: int = 0
    delta: Delta
    finish_reason: str | None = None
    logprobs: dict[str, Any] | None = None

    _nested = (("delta", Delta),)
    _always = {"delta": Delta}


class _Completion(Object):
    id: str | None = None
    object: str | None = None
    created: int | None = None
    model: str | None = None
    usage: Usage | None = None
    system_fingerprint: str | None = None
    service_tier: str | None = None

    _always = {"choices": list}


class ChatCompletion(_Completion):
    """A whole answer."""

    choices: list[Choice]

    _nested = (("choices", Choice), ("usage", Usage))


class ChatCompletionChunk(_Completion):
    """A piece of a streamed answer; the last one may have no choices but the usage."""

    choices: list[ChunkChoice]

    _nested = (("choices", ChunkChoice), ("usage", Usage))


class Model(Object):
    """A model that can be asked for by its *id*."""

    id: str | None = None
    object: str | None = None
    created: int | None = None
    owned_by: str | None = None


class ModelList(Object):
    """The models of a server; iterating goes through *data*."""

    object: str | None = None
    data: list[Model]

    _nested = (("data", Model),)
    _always = {"data": list}

    def __iter__(self) -> Iterator[Model]:
        return iter(self.data)

    def __len__(self) -> int:
        return len(self.data)
