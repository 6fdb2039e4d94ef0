"""``client.chat.completions.stream()``: a stream as typed events."""

from __future__ import annotations

from typing import Any

from ..events import ChatCompletionStreamEvent, EventReading
from ..models import ChatCompletion
from ..parsing import ParsedChatCompletion, T
from .stream import Stream


class ChatCompletionStream(Stream[ChatCompletionStreamEvent[T]]):
    """The events of an answer, as they come.

    Raises what :class:`choreoai.Stream` does, and LengthFinishReasonError and
    ContentFilterFinishReasonError, where an answer that is to be parsed ends so.
    """

    _reading: EventReading[T]

    def __next__(self) -> ChatCompletionStreamEvent[T]:
        events = self._reading.events
        while not events:
            chunk: Any = super().__next__()
            events.extend(self._reading.of(chunk))
        return events.popleft()

    @property
    def current_completion_snapshot(self) -> ChatCompletion:
        """The answer so far."""
        return self.partial

    def until_done(self) -> ChatCompletionStream[T]:
        """Read to the end."""
        self._until_end()
        return self

    def get_final_completion(self) -> ParsedChatCompletion[T]:
        """Read to the end and return the whole answer, parsed."""
        return self._reading.parser.completion(super().get_final_completion())
