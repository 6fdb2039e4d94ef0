"""Resumable streams: generations that are logged as they are sent, and readings of the log.

What is sent is numbered and logged first.  When the client leaves, the recording becomes an
orphan, which goes on filling the log; a client that comes back reads the log, from wherever
it was, and goes on live.
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
from .carrier import Carrier, Load
from .stream import Control, Generation
from .workers import Workers

#: Blocks of an orphan that need not be waited for before it is the next one's turn.
BLOCKS = 16

#: Seconds between two looks at a silent stream: whether it was cancelled, or nobody reads it.
LOOK = 1.0

#: Threads for orphans that must be waited for, where no server has threads of its own.
THREADS = 256

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
        super().__init__()
        self.generation = generation
        self.writer = writer
        self._adopt = adopt
        #: Whether :meth:`receive` waits until the log has what it returns.
        self.waits = writer.blocking
        #: For so long an orphan goes on although nobody reads the log.
        self.unread_seconds = math.inf
        self.outcome = ""
        self._asked = time.monotonic()

    def receive(self, timeout: float) -> bytes:
        """Return the numbered frames that came within *timeout* seconds, once they are logged."""
        self._asked = time.monotonic()
        if self.ended:
            return b""
        if self.writer.cancelled:
            error = InvalidRequest("the stream was cancelled", code="stream_cancelled")
            return self._record(self.generation.fail(error))
        return self._record(self.generation.receive(timeout))

    def _record(self, block: bytes) -> bytes:
        """Log *block*, which came from the generation; return it numbered."""
        generation = self.generation
        if not block and not generation.ended:
            return b""
        numbered, count = sse.number(block, self.writer.last + 1)
        try:
            self.writer.append(numbered, count, end=generation.ended, wait=self.waits)
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
            self._record(self.generation.fail(error))

    def step(self, patience: float) -> None:
        """Log what there is."""
        try:
            if time.monotonic() - self.writer.last_read > self.unread_seconds:
                text = "nobody read the stream for too long"
                self.abandon(InvalidRequest(text, code="stream_cancelled"))
            for _ in range(BLOCKS):
                if not self.receive(patience) or self.fileno() is not None:
                    break
        except Exception:
            logger.exception("a stream without a client cannot go on")
            self._finish("internal_error")  # without an ending in the log

    def _finish(self, outcome: str) -> None:
        self.ended = True
        self.outcome = outcome
        self.generation.close()

    def fileno(self) -> int | None:
        """Return the file descriptor to poll for more, or None."""
        return None if self.waits else self.generation.fileno()

    @property
    def due(self) -> float | None:
        """When to ask again although nothing came, or None."""
        due = self.generation.due
        if self.waits or (due is None and self.generation.fileno() is None):
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
            try:
                block = self._reader.receive(timeout)
            except ProducerLost:
                self._recover(self._reader.last)
                block = b""
            if not (block or self._reader.ended):
                self._control.check()
        except ChoreoError as error:
            self._finish(error.code or error.type)
            return self._fail(error, self._last)
        if self._reader.ended:
            self._finish("replayed")
        self._last = block or self._last
        return block

    def _finish(self, outcome: str) -> None:
        self.ended = True
        self.outcome = outcome
        self._reader.close()

    def fileno(self) -> int | None:
        """Return the file descriptor to poll for more, or None."""
        return self._reader.fileno()

    @property
    def due(self) -> float | None:
        """When to ask again although nothing came, so that the log knows of its reader, or None."""
        return None if self._reader.fileno() is None else self._asked + LOOK

    def close(self) -> None:
        """Stop reading; the stream itself goes on."""
        if not self.ended:
            self._finish("client_closed")


class Orphans:
    """Recordings whose client has left: they go on, each in its slot, which bounds them.

    One that nobody has read for *unread_seconds* is stopped.  Who has a carrier already sets
    *carrier*; otherwise one is made for the first orphan.
    """

    def __init__(self, unread_seconds: float) -> None:
        self.carrier: Carrier | None = None
        self._own: Carrier | None = None
        self._unread_seconds = unread_seconds
        self._lock = threading.Lock()
        self._owners: Counter[str] = Counter()
        self._closing = False

    @property
    def active(self) -> int:
        """How many there are."""
        return self._owners.total()

    def active_of(self, owner: str) -> int:
        """Return how many there are of *owner*."""
        return self._owners[owner]

    def add(self, recording: Recording, owner: str) -> bool:
        """Go on with *recording*; False after :meth:`close`."""
        with self._lock:
            if self._closing:
                return False
            self._owners[owner] += 1
            if self.carrier is None:
                self.carrier = self._own = Carrier(Workers(THREADS))
                self._own.start()
        ended = recording.generation.on_end

        def on_end() -> None:  # before the log has the end: who has read that may begin another
            with self._lock:
                self._owners[owner] -= 1
            if ended is not None:
                ended()

        recording.generation.on_end = on_end
        recording.waits = False
        recording.unread_seconds = self._unread_seconds
        self.carrier.carry(recording)
        return True

    def close(self) -> None:
        """Take no more; what runs is left as it is."""
        with self._lock:
            self._closing = True
        if self._own is not None:
            self._own.close()
