"""The stream that a caller iterates over."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any, Generic

from ..errors import APIError, StreamInterruptedError
from ..folding import Fold
from ..models import ChatCompletion, ChatCompletionChunk
from ..reading import Reading, Record, first_text
from ..transports.base import Cancelled
from .feed import Feed

if TYPE_CHECKING:
    from typing_extensions import TypeVar

    #: What the stream consists of.
    E = TypeVar("E", default=ChatCompletionChunk)
else:
    from typing import TypeVar

    E = TypeVar("E")  # Python 3.13 has defaults

S = TypeVar("S", bound="Stream[Any]")


class Stream(Generic[E]):
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

    def __init__(self, feed: Feed) -> None:
        self._feed = feed
        self._reading = Reading(feed.call.n)
        self._ready: deque[Record] = deque()
        self._closed = False
        self._busy = threading.Lock()

    def __iter__(self) -> Iterator[E]:
        return self

    def __next__(self) -> E:
        chunk: Any = None
        try:
            if self._ready or self._fill():
                chunk = self._reading.take(self._ready.popleft())
                if chunk is None:
                    self._feed.read()
                    self.close()
        except _Busy:
            raise
        except BaseException as error:
            replaced = self._explain(error)
            self._let_go()
            if replaced is error:
                raise
            raise replaced from None
        if chunk is None:
            raise StopIteration
        return chunk  # type: ignore[no-any-return]

    def _fill(self) -> bool:
        """Get the next records; return False when there are no more."""
        if not self._busy.acquire(blocking=False):
            raise _Busy("the stream is being read already, by another task or thread")
        try:
            if self._reading.failure is not None:
                raise self._reading.failure
            if self._reading.ended or self._closed:
                self._feed.close()
                return False
            self._ready.extend(self._feed.read())
        except Cancelled:
            if not self._closed:
                raise
            self._feed.close()
            return False
        finally:
            self._busy.release()
        if not self._ready:
            self._reading.cut(self._feed.over or "")
            self.close()
        return bool(self._ready)

    def _explain(self, error: BaseException) -> BaseException:
        """Return what to raise for *error*, met while reading."""
        reading = self._reading
        if reading.ended:
            return error
        if isinstance(error, Cancelled):
            error = StreamInterruptedError("the stream was closed while it was being read")
        if error is reading.failure:
            return error
        if isinstance(error, APIError):
            return reading.fail(error)
        # Not ours: a signal handler's, or a task's cancellation.
        failure = StreamInterruptedError(f"reading was interrupted by {type(error).__name__}")
        reading.fail(failure)
        # Out of here a StopIteration would look like the answer's end.
        return failure if isinstance(error, StopIteration) else error

    @property
    def response(self) -> Feed:
        """The response's head: its ``status_code`` and its ``headers``."""
        return self._feed

    @property
    def headers(self) -> Mapping[str, str]:
        """The response's headers; names are found whatever their case."""
        return self._feed.headers

    @property
    def request_id(self) -> str | None:
        """The ``x-request-id`` of the response."""
        return self._feed.headers.get("x-request-id")

    @property
    def id(self) -> str | None:
        """What the server calls a resumable stream; None for any other."""
        return self._feed.id

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
        self._until_end()
        return self.partial

    def _until_end(self) -> None:
        for _ in self:
            pass
        if not self._reading.ended:
            raise self._reading.fail(StreamInterruptedError("the stream was closed before its end"))

    def _let_go(self) -> None:
        self._closed = True
        self._ready.clear()
        if self._feed.over is None:
            self._feed.cancel()
        # Who is reading now was woken by that, and closes the feed itself.
        if self._busy.acquire(blocking=False):
            try:
                self._feed.close()
            finally:
                self._busy.release()

    def close(self) -> None:
        """Close the connection, as often as wanted, also while another reads."""
        self._let_go()

    def cancel(self) -> None:
        """Close the stream and have the server stop generating, resumable or not."""
        self._let_go()
        if self._feed.call.stop is not None and self.id is not None:
            self._feed.call.stop(self.id)

    def __enter__(self: S) -> S:
        return self

    def __exit__(self, *error: object) -> None:
        self._let_go()

    def __del__(self) -> None:
        if hasattr(self, "_busy"):
            self._feed.drop()

    def __repr__(self) -> str:
        state = "ended" if self._reading.ended else "closed" if self._closed else "open"
        return f"<{type(self).__name__} {state} id={self.id!r}>"


class _Busy(RuntimeError):
    """Two read at once: no fault of the stream, which goes on."""


class _Text:
    # Not a generator: an async one that is dropped is finished by the loop some time later,
    # and would keep the stream open until then.
    def __init__(self, stream: Stream[Any]) -> None:
        self._stream = stream

    def __iter__(self) -> _Text:
        return self

    def __next__(self) -> str:
        while True:
            if text := first_text(self._stream.__next__()):
                return text
