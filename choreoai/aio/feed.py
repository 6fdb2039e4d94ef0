"""The records of a stream, read from the connection; and read on after a cut.

The pure part is :mod:`choreoai.reading`.
"""

from __future__ import annotations

import time
from contextlib import suppress

from choreo_wsgi.sse import Decoder

from ..errors import APIConnectionError, APIStatusError, APITimeoutError, StreamInterruptedError
from ..policy import backoff
from ..reading import Record, ends, records
from ..transports.base import Cancelled, Cut, Stalled
from .call import AsyncCall
from .transport import AsyncAnswer, AsyncCancel

# Reconnections in a row that bring nothing new: with the backoff about half a minute.
_MOST_TRIES = 9
# A connection is worth waiting this long (seconds) for the last bytes of its body.
_PATIENCE = 0.1

_NO_STREAM = ("application/json", "text/html")
_DOCUMENTS = (b"{", b"[", b"<")  # how these begin, and no stream of events does


class AsyncFeed:
    """The records of the stream that is the *answer* to *call*, sent with *cancel*.

    If the call can be resumed, a connection that breaks is replaced by another, and the records
    go on where they were; *after* is the number of the last event that the caller has already.
    """

    def __init__(
        self, call: AsyncCall, answer: AsyncAnswer, cancel: AsyncCancel, after: int = 0
    ) -> None:
        self.call = call
        self.status_code = answer.status
        self.headers = answer.headers
        #: What the server names the stream, when it can be resumed.
        self.id = self.headers.get("choreo-stream-id")
        #: Why there is no more; None as long as there may be.
        self.over: str | None = None
        self._answer = answer
        self._cancel = cancel
        self._resumable = call.resume is not None and self.id is not None
        # Frames may come twice.  Without that an id says nothing: it stands for all that follow.
        self._numbered = self._resumable or after > 0
        self._last = after
        self._decoder = Decoder(errors="strict")
        self._started = False  # a record came, so that from now on the idle limit counts
        self._ended = False
        self._judged = False  # the body began as one of events does
        self._early: list[Record] = []
        self._failures = 0

    @classmethod
    async def open(cls, call: AsyncCall, after: int = 0) -> AsyncFeed:
        """Carry *call* out and return the feed of the stream that answers it.

        Raises what ``call.open`` raises, and APIError when the answer is no stream.
        """
        cancel = AsyncCancel()
        answer = await call.open(cancel)
        feed = cls(call, answer, cancel, after)
        kind = answer.headers.get("content-type", "")
        if kind.split(";")[0].strip().lower() in _NO_STREAM:  # or events with a wrong label
            try:
                feed._early = await feed.read()
            except BaseException:
                answer.drop()
                raise
        return feed

    async def read(self) -> list[Record]:
        """Wait for the next records; none when the stream is over, and the connection let go.

        Raises APITimeoutError, StreamInterruptedError when reconnecting is given up,
        and Cancelled.
        """
        if early := self._early:
            self._early = []
            return early
        deadline = self._deadline()
        while self.over is None:
            try:
                block = await self._answer.receive(deadline)
            except Cut as error:
                await self._cut(f"the connection broke: {error}")
            except Stalled:
                limits = self.call.timeout
                why = f"nothing new in the stream for {limits.idle} seconds"
                if not self._started:
                    why = f"no answer within {limits.first_byte} seconds"
                raise APITimeoutError(why) from None
            else:
                if not block:
                    await self._cut("the connection was closed before the end of the answer")
                elif not self._judged and block.lstrip()[:1] in _DOCUMENTS:
                    raise await self.call.refusal(self._answer, block)
                else:
                    self._judged = self._judged or bool(block.strip())
                    if made := self._new(records(self._decoder, block)):
                        return made
                continue
            deadline = self._deadline()
        # Only now: what came with the end marker must not wait for the end of the body.
        if self._ended:
            with suppress(Cut, Stalled, Cancelled):
                await self._answer.receive(time.monotonic() + _PATIENCE)
        self._answer.close()
        return []

    def _deadline(self) -> float | None:
        limits = self.call.timeout
        if self._started:
            return None if limits.idle is None else time.monotonic() + limits.idle
        return None if limits.first_byte is None else self._answer.started + limits.first_byte

    def _new(self, made: list[Record]) -> list[Record]:
        """Return what of *made* was not read before."""
        if self._numbered:
            made = [record for record in made if record[0] is None or record[0] > self._last]
        if made:
            self._started = True
            self._failures = 0
            self._last = made[-1][0] or self._last
            if ends(made[-1]):
                self._ended = True
                self.over = "the stream has ended"
        return made

    async def _cut(self, why: str) -> None:
        """Deal with a connection that is over: be over too, or get another."""
        self._answer.close()
        if not self._resumable:
            self.over = why
            return
        while True:
            if self._failures == _MOST_TRIES:
                raise StreamInterruptedError(f"{why}; reconnecting did not help")
            delay = backoff(self._failures, first=0.1) if self._failures else 0.0
            self._failures += 1
            await self._cancel.pause(delay)
            if await self._reconnect(why):
                return

    async def _reconnect(self, why: str) -> bool:
        """Go on with another answer; return False if trying again may help."""
        assert self.call.resume is not None and self.id is not None
        try:
            self._answer = await self.call.resume(self.id, self._last).open(self._cancel)
        except APIStatusError as error:
            if error.status_code >= 500 or error.status_code == 429:
                return False
            message = f"{why}, and the stream cannot be resumed: {error}"
            raise StreamInterruptedError(message, code=error.code, type=error.type) from error
        except APIConnectionError:
            return False
        self._decoder = Decoder(errors="strict")
        self._judged = False
        return True

    def cancel(self) -> None:
        """End the reading; who waits in :meth:`read` gets Cancelled."""
        if not self._ended:  # else there is nothing to stop, and the connection may be used again
            self._cancel.cancel()

    def close(self) -> None:
        """Let go of the connection; for who reads."""
        if self.over is None:
            self.over = "the stream was closed"
        self._answer.close()

    def drop(self) -> None:
        """Close the connection, for a finaliser: nothing waits."""
        self._answer.drop()
