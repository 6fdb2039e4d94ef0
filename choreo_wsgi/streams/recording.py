"""Resumable streams: generations that are logged as they are sent, and playbacks of the log.

Every frame is numbered and logged before it is sent.  When the client leaves, the recording
becomes an orphan, which the carrier continues; a client that returns plays the log back from the
frame that it received last, and then receives new frames as they are logged.
"""

from __future__ import annotations

import logging
import math
import threading
import time
from collections import Counter
from collections.abc import Callable

from .. import sse
from ..errors import ChoreoError, InvalidRequest, ProducerLost, Unavailable
from ..replay import Fenced, Reader, Writer
from .carrier import Carrier
from .load import Load
from .stream import BROKEN_OFF, LARGE, Control, Generation
from .workers import Workers

#: Blocks of an orphan that are logged in one step, so that one orphan cannot delay the others.
BLOCKS = 16

#: Seconds between two checks of a silent stream: whether it was cancelled, or nobody reads it.
LOOK = 1.0

#: Threads for orphans whose steps block, under another server than ours.
THREADS = 256

logger = logging.getLogger(__name__)


class Recording(Load):
    """A *generation* whose frames are numbered and logged before they are sent.

    *adopt* is called with the recording when its client leaves before the end; it returns
    whether the recording goes on as an orphan, which is False only when the server shuts down.
    """

    def __init__(
        self, generation: Generation, writer: Writer, adopt: Callable[[Recording], bool]
    ) -> None:
        super().__init__()
        self.generation = generation
        self.writer = writer
        self._adopt = adopt
        #: Whether :meth:`receive` waits until the log has stored the frames that it returns.
        self.waits = writer.blocking
        #: Seconds without a reader of the log after which an orphan is stopped.
        self.unread_seconds = math.inf
        self.outcome = ""
        self._last_receive = time.monotonic()

    def receive(self, timeout: float) -> bytes:
        """Return the frames received within *timeout* seconds, numbered and logged."""
        self._last_receive = time.monotonic()
        if self.ended:
            return b""
        if self.writer.cancelled:
            error = InvalidRequest("the stream was cancelled", code="stream_cancelled")
            return self._record(lambda: self.generation.fail(error))
        return self._record(lambda: self.generation.receive(timeout))

    def _record(self, receive: Callable[[], bytes]) -> bytes:
        """Return what *receive* returns, logged and numbered, or else an error; never raises.

        If not even the error can be logged, the log is deleted: no reader waits for its end.
        """
        try:
            return self._log(receive())
        except Exception:
            logger.exception("a stream cannot be logged")
        error = ChoreoError(BROKEN_OFF)
        frame = sse.frame(error.body())
        try:
            frame = self.generation.fail(error) or self.generation.writer.fail(error)
            frame = self._log(frame)
        except Exception:
            logger.exception("a stream cannot be ended in its log")
            try:
                self.writer.discard()
            except Exception:
                logger.exception("the log of a stream cannot be deleted")
        self._finish("internal_error")
        return frame

    def _log(self, block: bytes) -> bytes:
        generation = self.generation
        if not block and not generation.ended:
            return b""
        if block.startswith(b"id: "):  # by the writer of the answer
            numbered, count = block, sse.count(block)
        else:
            if len(block) > LARGE:  # what it pushes out is freed before it is copied
                self.writer.make_room(len(block))
            numbered, count = sse.number(block, self.writer.last + 1)
        block = b""  # it may be large
        try:
            self.writer.append(numbered, count, end=generation.ended, wait=self.waits)
        except Fenced as error:
            # Another replica has ended the stream in the log, and the log is authoritative.
            self._finish("producer_lost")
            return generation.writer.fail(error)
        if generation.ended:
            self._finish(generation.outcome)
        return numbered

    def fail(self, error: ChoreoError) -> None:
        """Stop the generation, and end the log with *error*."""
        if not self.ended:
            self._record(lambda: self.generation.fail(error))

    def abandon(self, error: Exception) -> None:
        self.fail(ChoreoError(BROKEN_OFF))

    def step(self, timeout: float) -> None:
        """Log the frames that are there."""
        if time.monotonic() - self.writer.last_read > self.unread_seconds:
            text = "nobody read the stream for too long"
            self.fail(InvalidRequest(text, code="stream_cancelled"))
        for _ in range(BLOCKS):
            block = self.receive(timeout)
            if not block or len(block) > LARGE or self.fileno() is not None:
                break

    def _finish(self, outcome: str) -> None:
        self.ended = True
        self.outcome = outcome
        self.generation.close()

    def fileno(self) -> int | None:
        return None if self.waits else self.generation.fileno()

    @property
    def due(self) -> float | None:
        due = self.generation.due
        if self.waits or (due is None and self.generation.fileno() is None):
            return None
        look = self._last_receive + LOOK
        return look if due is None else min(look, due)

    def close(self) -> None:
        """Hand the recording over because its client has left, or end the log."""
        if self.ended:
            return
        self.outcome = "client_left"
        error: ChoreoError = Unavailable("the server is shutting down", code="server_shutting_down")
        try:
            if self._adopt(self):
                return
        except Exception:
            logger.exception("a stream cannot go on without its client")
            error = ChoreoError(BROKEN_OFF)
        self.fail(error)


class Playback:
    """The frames of the log, those that are there and then new ones, until the stream's ending.

    *recover* is called when the stream's producer is lost, with the number of the last frame
    returned; it ensures that the log ends.  *fail* writes the frame for an error of the log, from
    the error and the last frames returned; it has no number, so the client may try again.
    """

    def __init__(
        self,
        reader: Reader,
        control: Control,
        recover: Callable[[int], None],
        fail: Callable[[ChoreoError, bytes], bytes],
    ) -> None:
        self._reader = reader
        self._control = control
        self._recover = recover
        self._fail = fail
        self._last = b""
        self.ended = False
        self.outcome = ""
        self._last_receive = time.monotonic()

    def receive(self, timeout: float) -> bytes:
        """Return the next logged frames, waiting up to *timeout* seconds for them."""
        self._last_receive = time.monotonic()
        try:
            try:
                block = self._reader.receive(timeout)
            except ProducerLost:
                self._recover(self._reader.last)
                block = b""
            if not (block or self._reader.ended):
                self._control.check()
        except ChoreoError as error:
            return self._break_off(error)
        except Exception:
            logger.exception("the log of a stream cannot be read")
            return self._break_off(ChoreoError(BROKEN_OFF))
        if self._reader.ended:
            self._finish("replayed")
        self._last = block or self._last
        return block

    def _break_off(self, error: ChoreoError) -> bytes:
        self._finish(error.code or error.type)
        return self._fail(error, self._last)

    def _finish(self, outcome: str) -> None:
        self.ended = True
        self.outcome = outcome
        self._reader.close()

    def fileno(self) -> int | None:
        return self._reader.fileno()

    @property
    def due(self) -> float | None:
        # Regularly, so that the log knows that it still has a reader.
        return None if self._reader.fileno() is None else self._last_receive + LOOK

    def close(self) -> None:
        """Stop reading; the stream itself goes on."""
        if not self.ended:
            self._finish("client_closed")


class Orphans:
    """Recordings that go on after their client has left; each keeps its slot, which limits them.

    An orphan whose log nobody has read for *unread_seconds* is stopped.  The server sets
    *carrier*; under other servers one is created for the first orphan.
    """

    def __init__(self, unread_seconds: float) -> None:
        self.carrier: Carrier | None = None
        self._own_carrier: Carrier | None = None
        self._unread_seconds = unread_seconds
        self._lock = threading.Lock()
        self._owners: Counter[str] = Counter()
        self._closing = False

    @property
    def active(self) -> int:
        """The number of orphans."""
        return self._owners.total()

    def active_of(self, owner: str) -> int:
        """Return the number of orphans of *owner*."""
        return self._owners[owner]

    def add(self, recording: Recording, owner: str) -> bool:
        """Continue *recording*; return False, and do nothing, after :meth:`close`."""
        with self._lock:
            if self._closing:
                return False
            if self.carrier is None:
                carrier = Carrier(Workers(THREADS))
                carrier.start()  # it raises if the system allows no thread
                self.carrier = self._own_carrier = carrier
            self._owners[owner] += 1
        previous = recording.generation.on_end

        # Called before the end is logged, so that a client that read it may begin another stream.
        def on_end() -> None:
            with self._lock:
                self._owners[owner] -= 1
            if previous is not None:
                previous()

        recording.generation.on_end = on_end
        recording.waits = False
        recording.unread_seconds = self._unread_seconds
        self.carrier.carry(recording)
        return True

    def close(self) -> None:
        """Accept no more orphans; those that run are left as they are."""
        with self._lock:
            self._closing = True
        if self._own_carrier is not None:
            self._own_carrier.close()
