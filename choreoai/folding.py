"""Chunks merged into a completion of n choices, with tool calls, usage and finish reasons.

No I/O: objects in, objects out.
"""

from __future__ import annotations

from collections.abc import Container
from typing import Any

from choreo_wsgi.chat.calls import ToolCalls
from choreo_wsgi.chat.endings import is_finish
from choreo_wsgi.chat.shapes import reshape

from .models import ChatCompletion, ChatCompletionChunk

# The members whose strings come in pieces.  Any other string is whole, and replaces the last.
_PIECES = frozenset(
    (
        *("content", "refusal", "reasoning_content", "reasoning"),
        *("arguments", "input", "transcript", "data"),
    )
)


class _Text(list[str]):
    """The pieces of a string; :meth:`joined` joins only those that are new since the last call."""

    def joined(self) -> str:
        if len(self) > 1:
            # CPython appends in place to a string with a single reference, this local variable.
            whole = self[0]
            self[0] = ""
            whole += "".join(self[1:])
            self[:] = (whole,)
        return self[0] if self else ""


class Fold:
    """Merges the chunks of one stream.

    ``add`` adds a chunk; ``text()``, ``finished()`` and ``completion()`` return the state after
    the chunks so far.
    """

    def __init__(self) -> None:
        #: The last finish reason received.
        self.reason: Any = None
        self._members: dict[str, Any] = {"id": None, "object": "chat.completion"}
        self._choices: dict[int, dict[str, Any]] = {}
        self._calls: dict[int, ToolCalls] = {}

    def add(self, chunk: ChatCompletionChunk) -> None:
        """Add the next chunk, which is neither changed nor kept.

        Raises TypeError, AttributeError or UpstreamInvalid (of :mod:`choreo_wsgi.errors`) for an
        object that does not have the form of a chunk.
        """
        self.take(chunk.to_dict())

    def take(self, members: dict[str, Any]) -> None:
        """Add a chunk given as its *members*, which are changed to OpenAI's form where necessary.

        As in the server, content in parts becomes text (and reasoning), and tool calls are
        numbered 0, 1, ..., whatever numbers their pieces have.
        """
        choices = members.get("choices") or ()
        if not self._choices or not choices or members.get("usage") is not None:
            for name, value in members.items():
                if value is not None and name not in ("object", "choices"):
                    self._members[name] = {**value} if name == "usage" else value
        for choice in choices:
            index = choice.get("index") or 0
            if (whole := self._choices.get(index)) is None:
                if type(index) is not int or index < 0:
                    raise TypeError("the index of a choice must be 0 or more")
                message = {"role": "assistant", "content": None}
                whole = {"index": index, "message": message, "finish_reason": None}
                self._choices[index] = whole
            message, delta = whole["message"], choice.get("delta") or {}
            text, pieces = delta.get("content"), message["content"]
            # Fast path: most chunks hold only content, in a choice of three members.
            if len(delta) == 1 and type(text) is str and pieces is not None:
                pieces.append(text)
            else:
                self._add(index, message, delta)
            reason = choice.get("finish_reason")
            if reason is not None and not is_finish(reason):  # "null", "": not finished
                reason = choice["finish_reason"] = None
            if reason is not None or len(choice) > 3:
                self.reason = reason
                _merge(whole, choice, ("index", "delta"))

    def _add(self, index: int, message: dict[str, Any], delta: dict[str, Any]) -> None:
        if type(delta.get("content")) is list:
            reshape(delta)
        if type(delta.get("content") or "") is not str:
            raise TypeError("the content must be text")
        if delta.get("tool_calls"):
            calls = self._calls.setdefault(index, ToolCalls())
            delta["tool_calls"] = calls.normalise(delta["tool_calls"]) or None
        for piece in delta.get("tool_calls") or ():
            whole = message.setdefault("tool_calls", [])
            if piece["index"] == len(whole):
                whole.append({})
            _merge(whole[piece["index"]], piece, ("index",))
        _merge(message, delta, ("tool_calls",))

    def text(self, index: int = 0, name: str = "content") -> str:
        """Return the text so far of the member *name* (content, refusal) of choice *index*."""
        pieces = self._choices.get(index, {"message": {}})["message"].get(name)
        return pieces.joined() if isinstance(pieces, _Text) else ""

    def function(self, index: int, number: int) -> tuple[str, str]:
        """Return the name and the arguments so far of call *number* of choice *index*."""
        function = self._choices[index]["message"]["tool_calls"][number].get("function", {})
        return function.get("name", ""), function.get("arguments", _Text()).joined()

    def finished(self, n: int = 1) -> bool:
        """Return whether there are *n* choices and each of them has its finish_reason."""
        choices = self._choices.values()
        return len(choices) >= n and all(c["finish_reason"] is not None for c in choices)

    def finish(self) -> bool:
        """Give each unfinished choice the finish_reason of an end marker; False without choices."""
        for choice in self._choices.values():
            if choice["finish_reason"] is None:
                calls = choice["message"].get("tool_calls")
                choice["finish_reason"] = "tool_calls" if calls else "stop"
        return bool(self._choices)

    def completion(self) -> ChatCompletion:
        """Return the completion so far; an unfinished choice has no finish_reason."""
        choices = [self._choices[index] for index in sorted(self._choices)]
        return ChatCompletion.from_dict(_joined({**self._members, "choices": choices}))


def _merge(into: dict[str, Any], members: dict[str, Any], skip: Container[str] = ()) -> None:
    """Add *members* but those to *skip*: text is appended, lists extended, objects merged."""
    for name, value in members.items():
        old = into.get(name)
        if value is None or name in skip:
            continue
        if isinstance(value, str) and name in _PIECES:
            into[name] = old if isinstance(old, _Text) else _Text()
            into[name].append(value)
        elif isinstance(value, dict):
            into[name] = old if isinstance(old, dict) else {}
            _merge(into[name], value)
        elif isinstance(value, list):
            into[name] = old if isinstance(old, list) else []
            into[name].extend(value)
        else:
            into[name] = value


def _joined(value: Any) -> Any:
    """Return a copy of *value* with all pieces of text joined."""
    if isinstance(value, _Text):
        return value.joined()
    if isinstance(value, dict):
        return {name: _joined(item) for name, item in value.items()}
    return [_joined(item) for item in value] if isinstance(value, list) else value
