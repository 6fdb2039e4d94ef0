"""Resumable streams: generations that are logged as they are sent, and readings of the log.

What is sent is numbered and logged first.  When the client leaves, the recording becomes an
orphan, which goes on filling the log; a client that comes back reads the log, from wherever
it was, and goes on live.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable

from .. import sse
from ..errors import ChoreoError, InvalidRequest, ProducerLost, Unavailable
from ..replay.base import Fenced, Reader, Writer
from .carrier import Load
from .stream import Control, Generation

#: Blocks of an orphan that need not be waited for before it is the next one's turn.
BLOCKS = 16

#: Seconds between two looks at a silent stream: whether it was cancelled, or nobody reads it.
LOOK = 1.0

logger = logging.getLogger(__name__)


class Recording(Load):
    """A *generation* whose frames are numbered and put into the log before they are sent.

    *adopt* is called with the recording when its client leaves before the end; it returns
    whether somebody goes on with it, which is refused only when the server goes down.  It is
    carried as it is then, as an orphan.
    """

    def __init__(
        self, generation: Generation, writer: Writer, adopt: Callable[[Recording], bool]
    ) -> None:
        self._generation = generation
        self._writer = writer
        self._adopt = adopt
        #: Whether :meth:`receive` waits until the log has what it returns.
        self.waits = writer.blocking
        self.ended = False
        self.outcome = ""
        self._asked = time.monotonic()

    def receive(self, timeout: float) -> bytes:
        """Return the numbered frames that came within *timeout* seconds, once they are logged."""
        self._asked = time.monotonic()
        if self.ended:
            return b""
        if self._writer.cancelled:
            error = InvalidRequest("the stream was cancelled", code="stream_cancelled")
            return self._record(self._generation.fail(error))
        return self._record(self._generation.receive(timeout))

    def _record(self, block: bytes) -> bytes:
        generation = self._generation
        if not block and not generation.ended:
            return b""
        numbered, count = sse.number(block, self._writer.last + 1)
        try:
            self._writer.append(numbered, count, end=generation.ended, wait=self.waits)
        except Fenced as error:
            # Another replica has ended the stream: what its log says counts.
            self._finish("producer_lost")
            return generation.writer.fail(error)
        if generation.ended:
            self._finish(generation.outcome)
        return numbered

    def abandon(self, error: ChoreoError) -> None:
        """End the log with *error*: nobody goes on with the generation."""
        if not self.ended:
            self.waits = False
            self._record(self._generation.fail(error))

    def orphan(self, unread_seconds: float, left: Callable[[], None]) -> None:
        """Be carried without a client, until nobody has read the log for *unread_seconds*.

        *left* is called once, at the end.
        """
        self.waits = False
        self._unread_seconds = unread_seconds
        self._left = left

    def step(self, patience: float) -> None:
        """Log what there is."""
        try:
            if time.monotonic() - self._writer.last_read > self._unread_seconds:
                text = "nobody read the stream for too long"
                self.abandon(InvalidRequest(text, code="stream_cancelled"))
            for _ in range(BLOCKS):
                if not self.receive(patience) or self.fileno() is not None:
                    break
        except Exception:
            logger.exception("a stream without a client cannot go on")
            self._finish("internal_error")  # without an ending in the log

    def leave(self) -> None:
        """Count the orphan out."""
        self._left()

    def _finish(self, outcome: str) -> None:
        self.ended = True
        self.outcome = outcome
        self._generation.close()

    @property
    def failure(self) -> ChoreoError | None:
        """What the generation ended with, if that is an error."""
        return self._generation.failure

    @property
    def last(self) -> int:
        """The number of the last frame in the log."""
        return self._writer.last

    def fileno(self) -> int | None:
        """Return the file descriptor to poll for more, or None."""
        return None if self.waits else self._generation.fileno()

    @property
    def due(self) -> float | None:
        """When to ask again although nothing came, or None."""
        due = self._generation.due
        if self.waits or (due is None and self._generation.fileno() is None):
            return None
        look = self._asked + LOOK
        return look if due is None else min(look, due)

    def close(self) -> None:
        """The client has gone: let somebody else go on, or end the log."""
        if self.ended:
            return
        self.outcome = "client_left"
        if not self._adopt(self):
            self.abandon(Unavailable("the server is shutting down", code="server_shutting_down"))


class Playback:
    """A reading of the log, live at its end, until the stream's ending was handed over.

    *recover* is called when the stream's producer is lost, with the number of the last
    frame handed over; it sees to it that the log ends.  *fail* writes the frame that tells of an
    error of the reading, which has no number: the client may try again.  It is given the last
    frames that were handed over.
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
        self._asked = time.monotonic()

    def receive(self, timeout: float) -> bytes:
        """Return the frames that are logged, or come within *timeout* seconds."""
        self._asked = time.monotonic()
        try:
            block = self._receive(timeout)
            if self._control.stopping and not (block or self._reader.ended):
                raise Unavailable("the server is shutting down", code="server_shutting_down")
        except ChoreoError as error:
            self._finish(error.code or error.type)
            return self._fail(error, self._last)
        if self._reader.ended:
            self._finish("replayed")
        self._last = block or self._last
        return block

    def _receive(self, timeout: float) -> bytes:
        try:
            return self._reader.receive(timeout)
        except ProducerLost:
            self._recover(self._reader.last)
            return b""

    def _finish(self, outcome: str) -> None:
        self.ended = True
        self.outcome = outcome
        self._reader.close()

    def fileno(self) -> int | None:
        """Return the file descriptor to poll for more, or None."""
        return None if self.ended else self._reader.fileno()

    @property
    def due(self) -> float | None:
        """When to ask again although nothing came, so that the log knows of its reader, or None."""
        if self.ended:
            return 0.0
        return None if self._reader.fileno() is None else self._asked + LOOK

    def close(self) -> None:
        """Stop reading; the stream itself goes on."""
        if not self.ended:
            self._finish("client_closed")
