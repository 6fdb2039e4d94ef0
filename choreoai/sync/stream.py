"""The stream that a caller iterates over, read on over another connection after a cut."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Iterator
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Generic

from choreo_wsgi.sse import Decoder

from ..answered import Answered
from ..base import backoff, path_of, retry_delay
from ..errors import (
    APIConnectionError,
    APIError,
    APIStatusError,
    APITimeoutError,
    NotFoundError,
    StreamInterruptedError,
)
from ..folding import Fold
from ..models import ChatCompletion, ChatCompletionChunk
from ..reading import Reading, Record, records
from ..transports.base import Cancelled
from .exchange import Exchange

if TYPE_CHECKING:
    from typing_extensions import TypeVar

    #: What the stream consists of.
    E = TypeVar("E", default=ChatCompletionChunk)
else:
    from typing import TypeVar

    E = TypeVar("E")  # Python 3.13 has defaults

S = TypeVar("S", bound="Stream[Any]")

# Reconnections in a row that bring nothing new: with the backoff about half a minute.
_MOST_TRIES = 9
# A connection is worth waiting this long (seconds) for the last bytes of its body.
_PATIENCE = 0.1

_DOCUMENTS = (b"{", b"[", b"<")  # how these begin, and no stream of events does


class Stream(Answered, Generic[E]):
    """The chunks of an answer, as they come.

    Iterate over it once.  It closes itself at the end, on an error, on leaving a ``with``
    block and when it is dropped; closing it early makes the server stop generating (a
    resumable stream goes on there: :meth:`cancel` stops that one too).

    Iterating raises StreamInterruptedError when the answer breaks off, APIError when the
    server reports an error in it, and APITimeoutError.  It ends in silence only after an
    answer's true end, or after :meth:`close`.  What a signal handler raises comes out as it is,
    but for StopIteration: it would end the loop as if the answer had, and becomes a
    StreamInterruptedError.  One task or thread reads at a time: a second
    one gets a RuntimeError.
    """

    _exchange: Exchange
    _reading: Reading

    def __init__(self, exchange: Exchange) -> None:
        super().__init__(exchange)
        self._reading = exchange.reading or Reading()
        self._ready: deque[Record] = deque()
        self._closed = False
        self._busy = threading.Lock()
        self._over: str | None = None  # why nothing more comes from the connection
        self._after = self._last = self._reading.after  # the number of the last event that came
        self._begun = False  # a record came, so that from now on the idle limit counts
        self._failures = 0
        self._decoder: Decoder | None = None  # there when the body has begun

    def _open(self: S) -> S:
        """Send the request; return this stream when the answer's head is there.

        Raises what ``Exchange.open`` raises, and APIError when the answer is no stream.
        """
        self._exchange.open()
        if "json" in (kind := self.headers.get("content-type", "").lower()) or "html" in kind:
            self._fill()  # they may be events with a wrong label
        return self

    def __iter__(self) -> Iterator[E]:
        return self

    def __next__(self) -> E:
        if not self._busy.acquire(blocking=False):
            raise RuntimeError("the stream is being read already, by another task or thread")
        chunk: Any = None
        try:
            if self._ready or self._fill():
                chunk = self._reading.take(self._ready.popleft())
                if chunk is None:
                    # Only now: what came with the end marker must not wait for the body's end.
                    with suppress(APIConnectionError, Cancelled):
                        self._exchange.receive(time.monotonic() + _PATIENCE)
        except BaseException as error:
            if not (self._closed and isinstance(error, Cancelled)):
                replaced = self._explain(error)
                if isinstance(replaced, APIError):
                    replaced.request = self._exchange.request
                self.close()
                if replaced is error:
                    raise
                raise replaced from None
        finally:
            if chunk is None:
                self._exchange.close()
            self._busy.release()
        if chunk is None:
            raise StopIteration
        return chunk  # type: ignore[no-any-return]

    def _fill(self) -> bool:
        """Wait for the next records; return False when there are no more.

        Raises APITimeoutError, StreamInterruptedError and Cancelled.
        """
        if self._reading.failure is not None:
            raise self._reading.failure
        if self._reading.ended or self._closed:
            return False
        deadline = self._exchange.deadline(self._begun)
        while self._over is None:
            why = "the connection was closed before the end of the answer"
            try:
                block = self._exchange.receive(deadline)
            except APITimeoutError:
                raise
            except APIConnectionError as error:
                block, why = b"", str(error)
            if not block:
                self._cut(why)
                deadline = self._exchange.deadline(self._begun)
            elif self._decoder is None and block.lstrip()[:1] in _DOCUMENTS:
                raise self._exchange.refusal(block)
            elif self._take(block):
                return True
        self._reading.cut(self._over)
        return False

    def _take(self, block: bytes) -> bool:
        """Take the records that *block* completes; return whether there are any."""
        self._decoder = self._decoder or Decoder(errors="strict")
        made = records(self._decoder, block)
        # A resumed stream's frames may come twice.  In any other an id says nothing: it stands
        # for all that follow.
        if self._after or (self._exchange.options.resumable and self.id is not None):
            made = [record for record in made if record[0] is None or record[0] > self._last]
        if made:
            self._begun = True
            self._failures = 0
            self._last = made[-1][0] or self._last
            if not isinstance(made[-1][1], dict):
                self._over = "the stream has ended"
            self._ready.extend(made)
        return bool(made)

    def _cut(self, why: str) -> None:
        """Deal with a connection that is over: be over too, or get another."""
        if not self._exchange.options.resumable or self.id is None:
            self._over = why
            return None
        self._decoder = None
        while True:
            if self._failures == _MOST_TRIES:
                raise StreamInterruptedError(f"{why}; reconnecting did not help")
            if self._failures:
                self._exchange.pause(backoff(self._failures, first=0.1))
            self._failures += 1
            try:
                return self._exchange.resume(self.id, self._last)
            except (APIConnectionError, APIStatusError) as error:
                if retry_delay(error, 0, time.time()) is None:
                    message = f"{why}, and the stream cannot be resumed: {error}"
                    code, kind = error.code, error.type
                    raise StreamInterruptedError(message, code=code, type=kind) from error

    def _explain(self, error: BaseException) -> BaseException:
        """Return what to raise for *error*, met while reading."""
        reading = self._reading
        if reading.ended or error is reading.failure:
            return error
        if isinstance(error, APIError):
            return reading.fail(error)
        # Not ours: a signal handler's, or a task's cancellation.
        why = f"reading was interrupted by {type(error).__name__}"
        failure = reading.fail(StreamInterruptedError(why))
        # Out of here a StopIteration would look like the answer's end.
        return failure if isinstance(error, StopIteration) else error

    @property
    def response(self) -> Stream[E]:
        """What has the response's head, ``status_code`` and ``headers``: the stream itself."""
        return self

    @property
    def id(self) -> str | None:
        """What the server calls a resumable stream; None for any other."""
        return self._exchange.headers.get("choreo-stream-id")

    @property
    def last_event_id(self) -> int | None:
        """The number of the event handed out last, None without such numbers."""
        return self._reading.last_event_id

    @property
    def fold(self) -> Fold:
        """What the chunks so far add up to."""
        return self._reading.fold

    @property
    def partial_text(self) -> str:
        """The text of the first choice so far."""
        return self._reading.fold.text()

    @property
    def partial(self) -> ChatCompletion:
        """The answer so far, all choices; the unfinished ones have no finish_reason."""
        return self._reading.fold.completion()

    @property
    def text(self) -> Iterator[str]:
        """The pieces of the first choice's text; chunks without choices are passed over."""
        return _Text(self)

    def get_final_completion(self) -> ChatCompletion:
        """Read to the end and return the whole answer as one completion.

        Raises what iterating raises, and StreamInterruptedError after an early close.
        """
        self.until_done()
        return self.partial

    def until_done(self: S) -> S:
        """Read to the end; raises what :meth:`get_final_completion` does."""
        for _ in self:
            pass
        if not self._reading.ended:
            raise self._reading.fail(StreamInterruptedError("the stream was closed before its end"))
        return self

    def close(self) -> None:
        """Close the connection, as often as wanted, also while another reads."""
        self._closed = True
        self._ready.clear()
        if self._over is None:  # else there is nothing to stop, and the connection can be kept
            self._exchange.cancel()
        # Who is reading now was woken by that, and closes the connection itself.
        if self._busy.acquire(blocking=False):
            self._exchange.close()
            self._busy.release()

    def cancel(self) -> None:
        """Close the stream and have the server stop generating, resumable or not."""
        self.close()
        if self.id is not None:
            client = self._exchange.client
            path, options = path_of("/streams", self.id), client._asked({})[1]
            with suppress(NotFoundError):  # it is over and forgotten
                Exchange(client, "DELETE", path, options).fetch()

    def __enter__(self: S) -> S:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def __del__(self) -> None:
        self._exchange.close()


class _Text:
    # Not a generator: an async one that is dropped is finished by the loop some time later,
    # which would keep the stream open until then; trio warns of it too.
    def __init__(self, stream: Stream[Any]) -> None:
        self._stream = stream

    def __iter__(self) -> _Text:
        return self

    def __next__(self) -> str:
        while True:
            # Of the base class: a subclass may make events of the chunks.
            chunk: Any = Stream.__next__(self._stream)
            said = (choice.delta.content or "" for choice in chunk.choices if choice.index == 0)
            if text := "".join(said):
                return text
