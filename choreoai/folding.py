"""Chunks folded into a completion: n choices, tool calls, usage, and who has finished.

Pure: objects in, objects out.
"""

from __future__ import annotations

from typing import Any

from .models import ChatCompletion, ChatCompletionChunk, ToolCall
from .objects import Object

# The strings that come in pieces.  Any other string is whole, and the last one counts.
_PIECES = frozenset(("content", "refusal", "reasoning_content", "reasoning", "arguments"))


class _Text(list[str]):
    """The pieces of a string, joined when somebody asks, and only those that are new."""

    def joined(self) -> str:
        if len(self) > 1:
            # As a local variable that alone holds the string, it grows in place.
            whole = self[0]
            self[0] = ""
            whole += "".join(self[1:])
            self[:] = (whole,)
        return self[0] if self else ""


class _Part:
    """One choice, as far as it came."""

    __slots__ = ("calls", "members", "message", "text")

    def __init__(self) -> None:
        self.text = _Text()
        self.message: dict[str, Any] = {"role": "assistant", "content": None}
        self.calls: dict[int, dict[str, Any]] = {}
        self.members: dict[str, Any] = {"finish_reason": None}

    def add(self, delta: dict[str, Any]) -> None:
        """Take the members of a delta, its content apart."""
        for name, value in delta.items():
            if name == "tool_calls":
                for call in value or ():
                    self._add_call(call)
            elif name == "content":
                if value is not None:
                    self.message["content"] = self.text
            elif value is not None:
                _merge(self.message, name, value)

    def _add_call(self, call: ToolCall) -> None:
        members = call.to_dict()
        index = members.pop("index", None)
        if index is None:
            # Some servers leave the index out: a piece with an id begins the next call.
            index = len(self.calls) - (0 if members.get("id") or not self.calls else 1)
        whole = self.calls.setdefault(_number(index), {})
        for name, value in members.items():
            if value is not None:
                _merge(whole, name, value)

    def choice(self, index: int) -> dict[str, Any]:
        message = _finish(self.message)
        if self.text:
            message["content"] = self.text.joined()
        if self.calls:
            message["tool_calls"] = [_finish(self.calls[key]) for key in sorted(self.calls)]
        return {"index": index, "message": message, **_finish(self.members)}


class Fold:
    """Adds up the chunks of one stream.

    ``add`` takes a chunk; ``text()``, ``finished()`` and ``completion()`` tell what the
    chunks so far amount to.
    """

    def __init__(self) -> None:
        #: The finish reason that came last.
        self.reason: Any = None
        self._parts: dict[int, _Part] = {}
        self._members: dict[str, Any] = {"id": None, "object": "chat.completion"}

    def add(self, chunk: ChatCompletionChunk) -> None:
        """Take the next chunk, which is not kept and not changed.

        Raises TypeError or AttributeError for what has not the form of a chunk.
        """
        choices = chunk.choices
        if not self._parts or not choices or chunk.usage is not None:
            self._add_members(chunk.__dict__)
        for choice in choices:
            index = choice.index or 0
            part = self._parts.get(index)
            if part is None:
                part = self._parts[_number(index)] = _Part()
            delta = choice.delta.__dict__
            text = delta.get("content")
            if text:
                part.text.append("" + text)
            # What most chunks have is content and nothing else, and a choice of three members.
            if not text or len(delta) > 1:
                part.add(delta)
            if choice.finish_reason is not None or len(choice.__dict__) > 3:
                self.reason = choice.finish_reason
                for name, value in choice.__dict__.items():
                    if name not in ("index", "delta") and value is not None:
                        _merge(part.members, name, value)

    def _add_members(self, members: dict[str, Any]) -> None:
        for name, value in members.items():
            if name == "usage":
                if value is not None:
                    self._members["usage"] = value.to_dict()
            elif name not in ("object", "choices") and value is not None:
                self._members[name] = value

    def text(self, index: int = 0, name: str = "content") -> str:
        """Return the text of choice *index* so far; its refusal, if that is the *name*."""
        part = self._parts.get(index)
        if part is None:
            return ""
        pieces = part.text if name == "content" else part.message.get(name)
        return pieces.joined() if isinstance(pieces, _Text) else ""

    def function(self, index: int, number: int) -> tuple[str, str]:
        """Return the name and the arguments so far of call *number* of choice *index*."""
        call = self._parts[index].calls.get(number, {})
        function = call.get("function", {})
        pieces = function.get("arguments")
        arguments = pieces.joined() if isinstance(pieces, _Text) else ""
        return str(function.get("name") or ""), arguments

    def finished(self, n: int = 1) -> bool:
        """Return whether *n* choices came and every choice that came has its finish_reason."""
        parts = self._parts.values()
        return len(parts) >= n and all(p.members["finish_reason"] is not None for p in parts)

    def completion(self) -> ChatCompletion:
        """Return a completion of what came; an unfinished choice has no finish_reason."""
        members = _finish(self._members)
        members["choices"] = [self._parts[index].choice(index) for index in sorted(self._parts)]
        return ChatCompletion.from_dict(members)


def _number(index: Any) -> int:
    if type(index) is not int:
        raise TypeError("an index must be an integer")
    return index


def _merge(into: dict[str, Any], name: str, value: Any) -> None:
    """Add *value* to the member *name*: pieces are joined, lists extended, objects merged."""
    if isinstance(value, Object):
        value = value.to_dict()
    old = into.get(name)
    if isinstance(value, str) and name in _PIECES:
        if isinstance(old, _Text):
            old.append(value)
        else:
            into[name] = _Text((value,))
    elif isinstance(value, dict):
        if not isinstance(old, dict):
            old = into[name] = {}
        for key, item in value.items():
            if item is not None:
                _merge(old, key, item)
    elif isinstance(value, list) and isinstance(old, list):
        old.extend(value)
    else:
        into[name] = list(value) if isinstance(value, list) else value


def _finish(value: Any) -> Any:
    """Return a copy of *value* in which pieces are joined."""
    if isinstance(value, _Text):
        return value.joined()
    if isinstance(value, dict):
        return {name: _finish(item) for name, item in value.items()}
    return [_finish(item) for item in value] if isinstance(value, list) else value
