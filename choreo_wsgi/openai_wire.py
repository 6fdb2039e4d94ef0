"""What an OpenAI-compatible provider sends, read: objects, errors, usage, and the ending.

Used by the relay, which passes events on, and by the reader that makes items of them.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from . import sse
from .chunks import Usage
from .errors import ChoreoError, ProviderAPIError, UpstreamInvalid, UpstreamTruncated, from_provider

__all__ = [
    "EventReader",
    "Progress",
    "parse_object",
    "provider_error",
    "read_usage",
    "retry_after",
]

Json = Any  # what json.loads returns

# What a code in an error event means when it is a word; elsewhere it is the HTTP status.
_STATUS_OF = {
    "rate_limit_exceeded": 429,
    "rate_limit_error": 429,
    "insufficient_quota": 429,
    "invalid_request_error": 400,
    "context_length_exceeded": 400,
    "exceed_context_size_error": 400,
    "authentication_error": 401,
    "permission_error": 403,
    "not_found_error": 404,
    "timeout_error": 504,
    "overloaded_error": 503,
    "unavailable_error": 503,
    "service_unavailable": 503,
}
_MAX_MESSAGE = 4000


def _refuse(constant: str) -> Json:
    raise ValueError(f"{constant} is not JSON")


# Python's own parser lets NaN and Infinity pass, which no client could read.
_decode = json.JSONDecoder(parse_constant=_refuse).decode


def parse_object(text: str | bytes) -> dict[str, Json]:
    """Return the JSON object in *text*; raises UpstreamInvalid for anything else."""
    try:
        value = _decode(text if isinstance(text, str) else text.decode("utf-8"))
    except (ValueError, RecursionError) as error:
        raise UpstreamInvalid("the provider sent data that is not JSON") from error
    if not isinstance(value, dict):
        raise UpstreamInvalid("the provider sent data that is not a JSON object")
    return value


def provider_error(
    body: Json, status: int | None = None, retry_after: float | None = None
) -> ChoreoError:
    """Return the error in *body*, an object of whatever shape, as our caller is told of it.

    *status* is the answer's HTTP status; None inside a stream, where the error itself may
    name one.
    """
    error = body.get("error", body) if isinstance(body, dict) else body
    if not isinstance(error, dict):
        error = {"message": error}
    message = error.get("message") or error.get("detail") or "the provider reported an error"
    if not isinstance(message, str):
        message = json.dumps(message, ensure_ascii=False)
    told = [error.get(key) for key in ("code", "type", "status")]
    words = [word for word in told if isinstance(word, str) and not word.isdigit()]
    code = words[0] if words else None
    if "exceed_context_size_error" in words:  # llama.cpp's name
        code = "context_length_exceeded"
    if status is None:
        status = _status_in(error, words)
    param = error.get("param")
    return from_provider(
        status,
        message[:_MAX_MESSAGE],
        code=code,
        param=param if isinstance(param, str) else None,
        retry_after=retry_after,
    )


def _status_in(error: Mapping[str, Json], words: list[str]) -> int:
    for key in ("code", "status", "status_code"):
        value = error.get(key)
        if type(value) is int and 400 <= value < 600:
            return value
        if isinstance(value, str) and len(value) == 3 and value.isascii() and value.isdigit():
            return int(value)
    return next((_STATUS_OF[word] for word in words if word in _STATUS_OF), 502)


def retry_after(value: str | None) -> float | None:
    """Return the seconds of a Retry-After header; None for none, for a date, for nonsense."""
    text = (value or "").strip()
    if text.isascii() and text.replace(".", "", 1).isdigit() and len(text) < 8:
        return float(text)
    return None


def read_usage(usage: Mapping[str, Json]) -> Usage:
    """Return what *usage*, the API's object, says; counts that are none are left out."""
    prompt = usage.get("prompt_tokens_details")
    completion = usage.get("completion_tokens_details")
    prompt = prompt if isinstance(prompt, dict) else {}
    completion = completion if isinstance(completion, dict) else {}
    return Usage(
        _count(usage.get("prompt_tokens")) or 0,
        _count(usage.get("completion_tokens")) or 0,
        _count(prompt.get("cached_tokens")),
        _count(prompt.get("cache_write_tokens")),
        _count(completion.get("reasoning_tokens")),
    )


def _count(value: Json) -> int | None:
    return value if type(value) is int and value >= 0 else None


class EventReader(sse.Decoder):
    """A decoder that is strict about UTF-8 and knows the pseudo-field ``error:``.

    Older llama.cpp sends ``error: {...}`` as a line of its own, which the standard ignores.
    """

    def __init__(self, max_event_bytes: int) -> None:
        super().__init__(max_event_bytes, errors="strict")
        self.error: ChoreoError | None = None

    def unknown(self, line: bytes) -> None:
        """Remember an ``error:`` line as the provider's error."""
        if line.startswith(b"error:") and self.error is None:
            self.error = provider_error(parse_object(line[6:]))

    def read(self, data: bytes) -> tuple[list[sse.Event], ChoreoError | None]:
        """Return the events that *data* completes, and the failure behind them, if any."""
        try:
            return self.receive_data(data), self.error
        except sse.DecodeError as error:
            failure = UpstreamInvalid(f"the provider's stream cannot be read: {error}")
            return error.events, failure
        except ChoreoError as error:  # an error: line that is no JSON
            return [], error


@dataclass
class Progress:
    """How far a stream of *n* choices has come, and so whether it may end.

    It is complete when every choice has its finish reason, or when ``[DONE]`` followed on a
    choice; a stream that ends otherwise was cut.
    """

    n: int = 1
    seen: set[int] = field(default_factory=set)
    finished: set[int] = field(default_factory=set)
    done: bool = False

    @property
    def all_finished(self) -> bool:
        """Whether every choice that was asked for has its finish reason."""
        return len(self.finished) >= self.n

    @property
    def unfinished(self) -> list[int]:
        """The choices that came and have no finish reason, in order."""
        return sorted(self.seen - self.finished)

    def take_done(self) -> None:
        """Take note of ``[DONE]``; raises UpstreamTruncated when no choice came before it."""
        if not self.seen:
            raise UpstreamTruncated("the provider's answer ended before it began")
        self.done = True

    def check_end(self) -> None:
        """Raise UpstreamTruncated unless the stream may end here."""
        if not (self.done or self.all_finished):
            raise UpstreamTruncated("the provider's answer ended before it was complete")


def finish_error(reason: str) -> ChoreoError | None:
    """Return the error behind a finish reason that is none."""
    if reason == "error":
        return ProviderAPIError("the provider broke its answer off with an error")
    return None
