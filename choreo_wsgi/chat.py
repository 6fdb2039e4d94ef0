"""A chat completion request: parsed from bytes, checked, and ready for a provider."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from . import checks, jsonbody

__all__ = ["ChatRequest", "content_text", "parse"]

Json = Any  # what json.loads returns


@dataclass(frozen=True)
class ChatRequest:
    """A checked request; *body* is the JSON object as it came, unknown fields included.

    *stop* has no empty strings: they would match everywhere.
    """

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
        """The text of the last user message, its text parts joined; ``""`` without one."""
        for message in reversed(self.messages):
            if message["role"] == "user":
                return content_text(message["content"])
        return ""

    def with_model(self, name: str) -> ChatRequest:
        """Return the same request for the model *name*, as another provider calls it."""
        return replace(self, model=name, body={**self.body, "model": name})


def content_text(content: str | list[dict[str, Json]] | None) -> str:
    """Return the text of a message's *content*: its text parts joined, other parts left out."""
    if content is None or isinstance(content, str):
        return content or ""
    return "".join(part["text"] for part in content if part["type"] == "text")


def parse(body: bytes) -> ChatRequest:
    """Return the request in *body*, raising InvalidRequest for whatever is wrong with it."""
    fields = jsonbody.loads(body)
    checks.check(fields)
    get = fields.get
    stream = bool(get("stream"))
    options = get("stream_options") or {}
    stop = get("stop") or ()
    limit = get("max_completion_tokens")
    if limit is None:
        limit = get("max_tokens")
    return ChatRequest(
        model=fields["model"],
        messages=fields["messages"],
        body=fields,
        stream=stream,
        include_usage=stream and bool(options.get("include_usage")),
        n=int(get("n") or 1),
        max_tokens=None if limit is None else int(limit),
        stop=(stop,) if isinstance(stop, str) else tuple(filter(None, stop)),
    )
