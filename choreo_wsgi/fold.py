"""Chunks folded into the one document of a plain completion."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from .chunks import Delta, Finish, Item, ToolCall, Usage

Json = Any  # what json.loads returns


@dataclass
class _Choice:
    text: list[str] = field(default_factory=list)
    reasoning: list[str] = field(default_factory=list)
    refusal: list[str] = field(default_factory=list)
    calls: dict[int, list[ToolCall]] = field(default_factory=dict)
    extra: dict[str, Json] = field(default_factory=dict)
    finish: Finish | None = None

    def add(self, delta: Delta) -> None:
        if delta.text:
            self.text.append(delta.text)
        if delta.reasoning:
            self.reasoning.append(delta.reasoning)
        if delta.refusal:
            self.refusal.append(delta.refusal)
        for call in delta.tool_calls:
            self.calls.setdefault(call.index, []).append(call)
        if delta.extra:
            merge(self.extra, delta.extra)

    def message(self) -> dict[str, Json]:
        text = "".join(self.text)
        message: dict[str, Json] = {
            "role": "assistant",
            "content": text if text or not (self.calls or self.refusal) else None,
        }
        if self.reasoning:
            message["reasoning_content"] = "".join(self.reasoning)
        if self.refusal:
            message["refusal"] = "".join(self.refusal)
        if self.calls:
            message["tool_calls"] = [_call(self.calls[index]) for index in sorted(self.calls)]
        message.update(self.extra)
        return message


def merge(into: dict[str, Json], members: Mapping[str, Json]) -> None:
    """Add *members* to *into*: objects are merged, lists and texts joined, others replaced."""
    for name, value in members.items():
        old = into.get(name)
        if isinstance(old, dict) and isinstance(value, dict):
            into[name] = old = dict(old)
            merge(old, value)
        elif isinstance(old, list) and isinstance(value, list):
            into[name] = [*old, *value]
        elif isinstance(old, str) and isinstance(value, str):
            into[name] = old + value
        else:
            into[name] = value


def _call(pieces: list[ToolCall]) -> dict[str, Json]:
    call: dict[str, Json] = {
        "id": next((piece.id for piece in pieces if piece.id), ""),
        "type": "function",
        "function": {
            "name": next((piece.name for piece in pieces if piece.name), ""),
            "arguments": "".join(piece.arguments for piece in pieces),
        },
    }
    for piece in pieces:
        if piece.extra:
            merge(call, piece.extra)
    return call


class Fold:
    """Gathers the items of a stream of *n* choices; :meth:`completion` is the document."""

    def __init__(self, n: int = 1) -> None:
        self._choices = [_Choice() for _ in range(n)]
        self.usage: Usage | None = None

    def add(self, item: Item) -> None:
        """Take the next item."""
        if isinstance(item, Usage):
            self.usage = item
        elif isinstance(item, Finish):
            self._choices[item.index].finish = item
        else:
            self._choices[item.index].add(item)

    @property
    def complete(self) -> bool:
        """Whether every choice has its finish reason."""
        return all(choice.finish for choice in self._choices)

    def completion(self, id: str, created: int, model: str) -> dict[str, Json]:
        """Return the ``chat.completion`` object; usage is there when it was reported."""
        choices = [
            {
                "index": index,
                "message": choice.message(),
                "finish_reason": choice.finish.reason if choice.finish else None,
                **((choice.finish.extra if choice.finish else None) or {}),
            }
            for index, choice in enumerate(self._choices)
        ]
        document = {"id": id, "object": "chat.completion", "created": created, "model": model}
        usage = {"usage": self.usage.to_dict()} if self.usage else {}
        return {**document, "choices": choices, **usage}
