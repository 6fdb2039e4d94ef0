"""A chat completion request: parsed from bytes, checked, and ready for a provider."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

Json = Any  # what json.loads returns


@dataclass(frozen=True)
class ChatRequest:
    """A checked request; *body* is the JSON object as it came, unknown fields included."""

    model: str
    messages: list[dict[str, Json]]
    body: dict[str, Json]
    stream: bool = False
    include_usage: bool = False
    n: int = 1
    max_tokens: int | None = None  # max_completion_tokens, or else max_tokens
    stop: tuple[str, ...] = ()

    @property
    def last_user_text(self) -> str:
        """The text of the last user message, its text parts joined."""
        raise NotImplementedError

    def with_model(self, name: str) -> ChatRequest:
        """Return the same request for the model *name*, as another provider calls it."""
        return replace(self, model=name, body={**self.body, "model": name})


def parse(body: bytes) -> ChatRequest:
    """Return the request in *body*, raising InvalidRequest for whatever is wrong with it."""
    raise NotImplementedError
