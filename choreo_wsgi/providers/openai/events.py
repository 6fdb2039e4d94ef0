"""What an OpenAI-compatible provider sends, read: objects, errors, usage, and the ending.

Used by the relay, which passes events on, and by the reader that makes items of them.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from ... import sse
from ...errors import (
    ChoreoError,
    ProviderError,
    UpstreamInvalid,
    UpstreamTruncated,
)
from ..reading import parse_object, provider_error


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
        return ProviderError("the provider broke its answer off with an error")
    return None
