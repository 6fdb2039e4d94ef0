"""The reply of an OpenAI-compatible server, forwarded as frames or as one document."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TYPE_CHECKING

from ...chat.answer import AnswerWriter
from ...chat.items import Item, Marks, Usage, dump_large
from ...chat.longtext import LONG
from ...chat.normalise import Normaliser
from ...errors import ChoreoError, UpstreamInvalid
from ...late import Late
from ..answer import BLANK, FIELDS, MAX_DOCUMENT, Attempt, UpstreamAnswer
from ..reading import (
    PIECE,
    SHAPE_ERRORS,
    find_error,
    most_values,
    parse_json,
    read_usage,
    unknown_shape,
    unwrapped,
)
from .lane import Lane
from .relay import EventRelay

if TYPE_CHECKING:
    from ...chat import completion
    from .. import failures
    from . import chunks, long
else:
    failures = Late("choreo_wsgi.providers.failures")
    chunks = Late("choreo_wsgi.providers.openai.chunks")
    completion = Late("choreo_wsgi.chat.completion")
    long = Late("choreo_wsgi.providers.openai.long")

#: Seconds to wait for usage and the end marker after every choice has finished.
_GRACE = 2.0


class RelayedStream(UpstreamAnswer):
    """The frames of the answer to *attempt*, rewritten by *relay*: see ``chat.source.Reply``.

    A subclass of the upstream's answer, not a wrapper: every block of every stream passes here.
    """

    def __init__(self, attempt: Attempt, relay: EventRelay, label: str) -> None:
        super().__init__(attempt)
        self._relay = relay
        self.label = label
        self.ended = False
        self._grace = 0.0
        self._finished = False  # every choice has its finish reason

    @property
    def usage(self) -> Usage | None:
        return self._relay.usage

    def receive(self, timeout: float) -> bytes:
        """Return the frames, joined, of the bytes received within *timeout* seconds.

        Raises UpstreamTruncated if the stream ended too early, else the error of the provider
        or of the connection.
        """
        if self._failure is not None:
            raise self._failure
        if self.ended:
            return b""
        relay, finished = self._relay, self._finished
        if finished:
            timeout = self._grace_left(timeout)
        frames = b""
        try:
            data = b"" if self.behind else self.read_burst(timeout)
            if data or self.behind:
                frames = relay.receive_data(data)
                self.behind = bool(relay.left)
                if frames or self.behind:
                    self.bytes_without_output = 0
                self._finished = relay.normaliser.all_finished
                if relay.failure is not None:  # the next call raises it without reading
                    self.fail(relay.failure)
                    return frames
        except ChoreoError as error:
            if not finished:
                raise self.fail(error) from None
            return self._end(frames)  # the answer was complete
        if relay.normaliser.done or self.body_ended or (finished and self._grace_left(1) <= 0):
            return self._end(frames)
        return frames

    def lane(self) -> Lane | None:
        """Return a lane for small blocks of events that follow the last pattern, if any."""
        return self.new_lane(self._relay.pattern)

    def _grace_left(self, timeout: float) -> float:
        """Return how many of *timeout* seconds to wait for bytes after the last finish reason."""
        now = time.monotonic()
        if not self._grace:
            self._grace = now + _GRACE
        return min(timeout, self._grace - now)

    def _end(self, frames: bytes) -> bytes:
        self._failure = None
        try:
            frames += self._relay.end()
        except ChoreoError as error:
            self.fail(error)
            if not frames:
                raise
            return frames
        self.ended = True
        self._exchange.finish()
        return frames

    @property
    def due(self) -> float | None:
        """When to receive again without new bytes: at the end of the grace period too."""
        due = super().due
        return min(due, self._grace) if self._grace and due is not None else due


class RelayedDocument(UpstreamAnswer):
    """The document of a plain completion, forwarded: see ``chat.source.Reply``.

    *normaliser* returns a new normaliser, whose settings apply to the document.  *model* replaces
    the upstream's name of the model, unless empty.  If the upstream sends a stream instead, a new
    *translator* reads it and *writer* makes the document.
    """

    def __init__(
        self,
        attempt: Attempt,
        label: str,
        writer: AnswerWriter,
        translator: Callable[[], chunks.OpenAITranslator],
        normaliser: Callable[[], Normaliser],
        model: str,
    ) -> None:
        super().__init__(attempt)
        self.label = label
        self._writer = writer
        self._translator = translator
        self._new_normaliser = normaliser
        self._model = model
        self._size = 0
        self._document = bytearray()
        self._stream_reader: chunks.OpenAITranslator | None = None  # if the body is a stream
        self._unread = b""  # bytes of the stream
        self.ended = False
        self.usage: Usage | None = None

    def receive(self, timeout: float) -> bytes:
        """Return the whole document, or ``b""`` before it is complete.

        Raises the provider's error, and UpstreamInvalid for a body that is no completion.
        """
        if self.ended:
            return b""
        data = self._next(timeout)
        self._size += len(data)
        try:
            if self._size > MAX_DOCUMENT:
                raise UpstreamInvalid(f"the provider's answer is longer than {MAX_DOCUMENT} bytes")
            if self._stream_reader is None:
                self._document += data if self._document else data.lstrip(BLANK)
                if self._document.startswith(FIELDS):
                    self._stream_reader = self._translator()
                    self._unread, self._document = bytes(self._document), bytearray()
                    data = self._next(timeout)
            if self._stream_reader is not None:
                self._write(self._stream_reader, self._stream_reader.receive_data(data))
            if not self.body_ended:
                return b""
            document = self._mend() if self._stream_reader is None else self._end()
        except ChoreoError as error:
            raise self.fail(error) from None
        except SHAPE_ERRORS as error:
            raise self.fail(unknown_shape(error)) from None
        self.ended = True
        return document

    def _next(self, timeout: float) -> bytes:
        """Return the next bytes; of a stream only a PIECE if other streams wait for this one."""
        data, self._unread = self._unread or self.read(timeout), b""
        if self._stream_reader is not None and timeout <= 0:
            data, self._unread = data[:PIECE], data[PIECE:]
        self.behind = bool(self._unread)
        return data

    def _mend(self) -> bytes:
        body, self._document = bytes(self._document), bytearray()
        marks: Marks = {}
        is_long = len(body) > LONG
        try:
            short = long.shorten(body, marks) if is_long else body
            received = parse_json(short, most_values(short, len(marks), len(body)))
        except UpstreamInvalid:
            received = None
            marks.clear()
        short = b""
        if completion.is_usual(received):
            mended, usage = received, received["usage"]
        else:
            reply = unwrapped(received)
            if not isinstance(reply, dict) or "choices" not in reply or find_error(reply):
                received = reply = None
                marks.clear()
                if (events := chunks.unfold(body)) is None:
                    raise failures.response_error(200, {}, body, 0.0)
                self._stream_reader, body = self._translator(), b""
                for at in range(0, len(events), LONG):  # their items take several times as much
                    data = events[at : at + LONG]
                    self._write(self._stream_reader, self._stream_reader.receive_data(data))
                events = b""
                return self._end()
            settings = self._new_normaliser()
            if is_long and long.prepare(reply, marks, repair=settings.repair):
                received = None
            mended, usage = completion.normalise_completion(
                reply, settings.identity or {}, settings.new_id, settings.tools, marks
            )
            if not settings.repair:
                mended = reply
        self.usage = read_usage(usage) if usage is not None else None
        if self._model and mended.get("model") != self._model:
            mended = {**mended, "model": self._model}
        if mended is received:
            return body
        body = b""
        return long.encode(mended, marks) if is_long else dump_large(mended)

    def _write(self, translator: chunks.OpenAITranslator, items: list[Item]) -> None:
        for item in items:
            self._writer.write(item)
        while translator.waiting:
            for item in translator.receive_data(b""):
                self._writer.write(item)
        if translator.failure is not None:
            raise translator.failure

    def _end(self) -> bytes:
        translator, self._stream_reader = self._stream_reader, None
        assert translator is not None
        self._write(translator, translator.end())
        self.usage = translator.usage
        del translator  # with what it knows of the calls
        return self._writer.finish()
