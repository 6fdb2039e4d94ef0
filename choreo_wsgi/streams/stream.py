"""The stream: a WSGI iterable that ends in exactly one way.

A :class:`Generation` is the model's output with exactly one ending: the end marker or one error
frame.  An :class:`EventStream` forwards it to a client, sends pings while the provider is
silent, and stops the generation when the client has left.

Neither is a Python generator: ``close()`` also works on a stream that was never started, and
the thread that reads may change from call to call.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Protocol

from .. import sse
from ..chat.source import Lane, Readable, lane_of
from ..errors import ChoreoError, Unavailable

if TYPE_CHECKING:
    from ..chat.answer import AnswerWriter

#: Seconds between two checks for a client that left, while the provider is silent.  A client
#: that leaves frees its upstream within this time.
TICK = 0.25

#: The message of an unexpected failure after the first frame.
BROKEN_OFF = "the server failed in the middle of the stream"

logger = logging.getLogger(__name__)


class Control:
    """A flag that the server sets for all of its streams."""

    def __init__(self) -> None:
        #: Whether every stream is to end now with an error frame.
        self.stopping = False

    def check(self) -> None:
        """Raise Unavailable if streams are to end now."""
        if self.stopping:
            raise Unavailable("the server is shutting down", code="server_shutting_down")


def drop_traceback(error: BaseException) -> None:
    """Drop the traceback and the causes of *error*, once it has been reported.

    A failed stream refers to its error, and the error's traceback to the stream and its request:
    a cycle, which only the garbage collector would free, much later.
    """
    error.__traceback__ = error.__cause__ = error.__context__ = None


#: Bytes of a last block that is not joined with the end marker.
LARGE = 256 * 1024


class Generation:
    """The *frames* of an answer and its one ending, which *writer* writes.

    *first* is the block of frames that was received already.
    ``outcome`` is how it ended: ``completed``, the code of the error frame, or
    ``client_closed``.  ``on_end``, if set, is called once, when it has ended and before the
    ending is returned.
    """

    def __init__(
        self,
        frames: Readable[bytes],
        control: Control,
        writer: AnswerWriter,
        first: bytes = b"",
    ) -> None:
        self._frames = frames
        self.writer = writer
        self._control = control
        self._first = first
        self.ended = False
        self.outcome = ""
        #: The error that it ended with, if any.
        self.failure: ChoreoError | None = None
        self.on_end: Callable[[], None] | None = None

    def receive(self, timeout: float) -> bytes:
        """Return the frames received within *timeout* seconds; the last block has the ending."""
        if self.ended:
            return b""
        try:
            self._control.check()
            block, self._first = self._first, b""
            if not block and not self._frames.ended:
                block = self._frames.receive(timeout)
        except ChoreoError as error:
            return self.fail(error)
        except Exception:
            logger.exception("a provider failed in the middle of a stream")
            return self.fail(ChoreoError(BROKEN_OFF))
        if self._frames.ended:
            done = self.writer.done
            if len(block) > LARGE and done:
                self._first = done  # returned alone: joining would copy the block
                return block
            self._end("completed")
            return block if block is done else block + done
        return block

    def fail(self, error: ChoreoError) -> bytes:
        """End with *error*; return its frame, ``b""`` if the generation has ended already."""
        if self.ended:
            return b""
        self.failure = error
        drop_traceback(error)
        self._end(error.code or error.type)
        return self.writer.fail(error)

    def lane(self) -> Lane | None:
        return lane_of(self._frames)

    def fileno(self) -> int | None:
        return self._frames.fileno()

    @property
    def due(self) -> float | None:
        return 0.0 if self._first else self._frames.due

    def _end(self, outcome: str) -> None:
        self.ended = True
        self.outcome = outcome
        on_end, self.on_end = self.on_end, None  # that of a recording refers to this generation
        for release in filter(None, (self._frames.close, on_end)):
            try:
                release()
            except Exception:  # the ending is sent, and logged, nevertheless
                logger.exception("a stream failed to release what it holds")

    def close(self) -> None:
        """Stop the generation if it still runs."""
        if not self.ended:
            self._end("client_closed")


class FrameStream(Readable[bytes], Protocol):
    """Frames that include their one ending."""

    @property
    def outcome(self) -> str:
        """How the stream ended; see :class:`Generation`."""


class Meter(Protocol):
    """Counts the *pings* and the frames that an event stream sends."""

    pings: int

    def sent(self, frames: int, now: float) -> None:
        """Add *frames*, which are sent to the client *now* (``time.monotonic``)."""


class EventStream:
    """The WSGI iterable that carries *generation* to a client.

    *gone* returns whether the client has closed its connection.  *heartbeat* is the silence in
    seconds after which *ping* is sent.  *on_close* is called once, with the outcome; *meter*
    counts every block and ping before it is sent.
    """

    def __init__(
        self,
        generation: FrameStream,
        *,
        gone: Callable[[], bool],
        heartbeat: float,
        ping: bytes = sse.PING,
        on_close: Callable[[str], None],
        meter: Meter,
    ) -> None:
        self._generation = generation
        self._gone = gone
        self._heartbeat = heartbeat
        self._ping = ping
        self._on_close: Callable[[str], None] | None = on_close
        self._meter = meter
        self._last_sent: float | None = None
        self._lane: Lane | None = None

    def __iter__(self) -> EventStream:
        return self

    def __next__(self) -> bytes:
        while not self.ended:
            block = self.ready(min(TICK, self._heartbeat))
            if block:
                return block
        self.close()
        raise StopIteration

    @property
    def ended(self) -> bool:
        """Whether all has been sent."""
        begun = self._last_sent is not None
        return self._on_close is None or (begun and self._generation.ended)

    def fileno(self) -> int | None:
        """Return the descriptor that is readable when :meth:`ready` has data, or None."""
        return self._generation.fileno()

    @property
    def due(self) -> float | None:
        """When to call :meth:`ready` even if nothing is readable, or None."""
        due = self._generation.due
        if due is None and self._generation.fileno() is None:
            return None
        last = self._last_sent_at()
        ping = 0.0 if last is None else last + self._heartbeat
        return ping if due is None else min(due, ping)

    def lane(self) -> Lane | None:
        """Return the lane of the next frames, or None."""
        self._lane = lane = None if self._last_sent is None else lane_of(self._generation)
        if lane is not None:
            lane.on_frames = self._meter.sent
        return lane

    def _last_sent_at(self) -> float | None:
        """Return when a block was last sent, by the lane or by :meth:`ready`, or None."""
        lane, last = self._lane, self._last_sent
        return last if lane is None or last is None else max(last, lane.last_forwarded)

    def ready(self, timeout: float = 0.0) -> bytes:
        """Return the next bytes to send, ``b""`` if there are none within *timeout* seconds.

        Call it when :meth:`fileno` is readable and when it is :attr:`due`; with a timeout of 0
        it does not block unless both are None.
        """
        if self.ended:
            return b""
        last = self._last_sent = self._last_sent_at()
        begun = last is not None
        block = self._generation.receive(timeout if begun else 0)
        now = time.monotonic()
        if block:
            self._meter.sent(sse.count(block), now)
        elif begun and self._gone():
            self.close()
            return b""
        # A stream begins with a ping if no frame is there: the head is sent with the first bytes.
        elif last is None or now - last >= self._heartbeat:
            self._meter.pings += 1
            block = self._ping
        if block:
            self._last_sent = now
        return block

    def close(self) -> None:
        """Stop the generation and call *on_close*; may be called at any time, repeatedly."""
        on_close, self._on_close = self._on_close, None
        if on_close is None:
            return
        try:
            self._generation.close()
        finally:
            on_close(self._generation.outcome)
