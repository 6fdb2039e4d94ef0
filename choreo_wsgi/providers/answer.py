"""The answer to a request over HTTP: the expected body, or an error.

Which of the two it is depends on the status and on the first bytes of the body, not on its
Content-Type: load balancers label events as JSON, servers send a document in place of a stream,
proxies compress.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ..errors import ChoreoError, UpstreamInvalid
from ..late import Late
from ..upstream.exchange import Exchange
from ..upstream.framing import FramingError
from .openai.lane import Lane
from .openai.pattern import Pattern
from .reading import PIECE, SHAPE_ERRORS, unknown_shape

if TYPE_CHECKING:
    from ..upstream import coding
else:
    coding = Late("choreo_wsgi.upstream.coding")

#: Limit of bytes that are read of an error's body.
_ERROR_BYTES = 64 * 1024
#: Limit of bytes of a document, also of one that is sent in place of a stream.
MAX_DOCUMENT = 64 * 1024 * 1024
#: Limit of bytes that are decompressed at once: as many as one read of an uncompressed body.
_STEP = 128 * 1024
#: After this many bytes without output, or twice as many of a block without the end of an event, a
#: large event or document is being received.  Parsing it may take long, so the event loop leaves
#: it to a worker.
HEAVY = 16 * 1024

_STARRED = re.compile(r"[\w.-]{0,64}\*{3,}[\w-]*")

#: The first bytes of a body of Server-Sent Events, after any BLANK bytes.
FIELDS = (b"data:", b"event:", b"id:", b"retry:", b"error:", b":")
BLANK = b"\xef\xbb\xbf \t\r\n"


# A block of dozens of events is a burst.  During a burst there is a growing pause before each
# read, so that fewer and larger blocks are read, as network cards coalesce interrupts.  That
# halves the CPU time.  The pause is at most 40 ms, which goes unnoticed in a stream of a thousand
# events a second.  Streams at the pace of a model have no pauses, and while reads are full
# (128 KiB) the pauses shrink.  "make bench" measures it as "burst".
BURST, _ENOUGH, _FULL = 4 * 1024, 48 * 1024, 112 * 1024
_FIRST_PAUSE, _LONGEST_PAUSE = 0.002, 0.04


def _pause_after(size: int, last: float) -> float:
    """Return the seconds to wait after a block of *size* bytes; *last* is the previous wait."""
    if size < BURST:
        return 0.0
    if size < _ENOUGH:
        return min(2 * last + _FIRST_PAUSE, _LONGEST_PAUSE)
    return last if size < _FULL else last / 2


def _has_large_event(block: bytes) -> bool:
    """Whether HEAVY bytes somewhere in *block* have no blank line: twice as many always count."""
    return any(
        block.find(b"\n\n", at, at + HEAVY) < 0 and block.find(b"\r\n\r\n", at, at + HEAVY) < 0
        for at in range(0, len(block) - HEAVY + 1, HEAVY)
    )


def _unended(block: bytes, before: int) -> int:
    """Return how many bytes follow the last blank line, *before* of them in earlier blocks."""
    ends = [at + len(end) for end in (b"\n\n", b"\r\n\r\n") if (at := block.rfind(end)) >= 0]
    return len(block) - max(ends) if ends else before + len(block)


@dataclass(slots=True)
class Attempt:
    """How a request is sent, and how its answer is recognised.

    *send* sends it.  A body that begins with one of the bytes in *foreign* is not the expected
    one; *events* is whether a stream of Server-Sent Events is expected.  *unfold* converts such a
    body into the stream's bytes, or returns None if it cannot.  *to_error* makes the error from
    the status, the headers (names in lower case) and the beginning of the body.  *retry* may
    return another attempt after an error.  *on_success* is called once the answer is good.  Text
    that *secrets* matches never appears in an error.
    """

    send: Callable[[], Exchange]
    to_error: Callable[[int, Mapping[str, str], bytes], ChoreoError]
    foreign: bytes = b"{[<"
    events: bool = True
    unfold: Callable[[bytes], bytes | None] = lambda body: None
    retry: Callable[[int, bytes], Attempt | None] = lambda status, body: None
    on_success: Callable[[], None] = lambda: None
    secrets: re.Pattern[str] = re.compile("(?!)")


class UpstreamAnswer:
    """The answer to *attempt*; :meth:`read` returns its body if it is good, or else raises."""

    def __init__(self, attempt: Attempt) -> None:
        self._attempt: Attempt | None = attempt  # dropped once the answer is good
        self._secrets = attempt.secrets
        self._exchange = attempt.send()
        self._failure: ChoreoError | None = None
        self._body = bytearray()  # until the answer is known to be good or bad
        self._inspected: Exchange | None = None  # whose first bytes were checked for compression
        self._decompressor: coding.Decompressor | None = None
        self._has_more = False  # the decompressor has more of the received bytes
        #: Bytes received since the last output; the reader resets it to 0.
        self.bytes_without_output = 0
        self._has_events = attempt.events
        self._unended = 0  # bytes received since the end of an event
        self._deferred: bytes | None = None  # received bytes that only a worker may return
        #: Whether the reader has events that it left for the next call: see reading.AT_ONCE.
        self.behind = False
        #: Whether the body has begun as expected.
        self.good = False
        self._direct = False  # whether the exchange's bytes are returned unchanged
        self._pause = 0.0  # seconds until the next read of a burst,
        self._paused = 0.0  # and when they began

    @property
    def body_ended(self) -> bool:
        """Whether the body of a good answer was returned to its end."""
        has_more = self.behind or self._has_more or self._deferred is not None
        return self.good and self._exchange.ended and not has_more

    def read(self, timeout: float) -> bytes:
        """Return the bytes of the body that are received within *timeout* seconds.

        Raises ChoreoError if the answer is not good, then and at each later call.
        """
        if self._failure is not None:
            raise self._failure
        try:
            return self._read(timeout)
        except ChoreoError as error:
            raise self.fail(error) from None

    def read_burst(self, timeout: float) -> bytes:
        """Read as :meth:`read` does, with pauses during a burst."""
        if self._pause and timeout > 0:
            time.sleep(self._pause)
        if self._direct and self._failure is None:
            data, self._deferred = self._deferred, None
            if data is None:
                data = self._defer_large(self._exchange.receive(timeout), timeout)
        else:
            data = self.read(timeout)
        self._pause = _pause_after(len(data), self._pause)
        self._paused = time.monotonic() if self._pause else 0.0
        return data

    def _defer_large(self, data: bytes, timeout: float) -> bytes:
        """Return *data*, or b"" if it belongs to a large event and the caller does not wait."""
        so_far = max(self.bytes_without_output, self._unended)
        is_heavy = so_far > HEAVY and (data or self._exchange.ended)
        self.bytes_without_output += len(data)
        if self._has_events:
            self._unended = _unended(data, self._unended)
        if timeout <= 0 and (is_heavy or _has_large_event(data)):
            self._deferred, data = data, b""
        return data

    def new_lane(self, pattern: Pattern | None, plain: bool = False) -> Lane | None:
        """Return a lane for events that follow *pattern*, or None; *plain* is as in Lane."""
        is_paused = self._pause or self.behind or self._deferred is not None
        if pattern is None or not self._direct or is_paused:
            return None
        chunks = self._exchange.chunks()
        return None if chunks is None else Lane(self._exchange, *chunks, pattern, BURST, plain)

    def redact(self, text: str) -> str:
        """Return *text* with ``***`` in place of secrets."""
        return self._secrets.sub("***", text)

    def redact_keys(self, text: str) -> str:
        """Redact secrets, also in the shortened form that providers show: ``sk-a***z``."""
        return _STARRED.sub("***", self.redact(text))

    def fail(self, error: ChoreoError) -> ChoreoError:
        """Close the exchange because of *error*; return it with its secrets redacted."""
        error.message = self.redact_keys(error.message)
        error.args = (error.message,)
        error.param, error.code = (word and self.redact(word) for word in (error.param, error.code))
        self._failure = error
        self._exchange.close()
        return error

    def _read(self, timeout: float) -> bytes:
        exchange, attempt = self._exchange, self._attempt
        try:
            data, self._deferred = self._deferred, None
            if data is None:
                data = self._defer_large(self._decompressed(timeout), timeout)
        except ChoreoError:
            if self._body and attempt is not None and self._is_good(attempt) is not None:
                return self._handle_unexpected(attempt)  # a truncated error page suffices
            raise
        if self.good or self._deferred is not None or exchange.status is None:
            return data
        self._body += data
        ended = exchange.ended and not self._has_more
        assert attempt is not None
        is_success = 200 <= exchange.status < 300
        if is_success:
            good = self._is_good(attempt)
            if good or (ended and good is None):
                self.good = True
                self._direct = self._decompressor is None
                attempt.on_success()
                self._attempt = None
                data, self._body = bytes(self._body), bytearray()
                return data
            if good is None:
                return b""
        limit = MAX_DOCUMENT if is_success else _ERROR_BYTES
        if not ended and len(self._body) < limit:
            return b""
        if timeout <= 0 and len(self._body) > PIECE:
            self._deferred = b""  # it may hold thousands of values
            return b""
        return self._handle_unexpected(attempt)

    def _decompressed(self, timeout: float) -> bytes:
        """Receive bytes of the body and return them decompressed."""
        exchange = self._exchange
        data = b"" if self._has_more else exchange.receive(timeout)
        if data and self._inspected is not exchange:
            self._inspected = exchange
            named = exchange.headers.get("Content-Encoding", "").strip().lower()
            # The module is loaded only if the body may be compressed.
            may_be = data[:1] == b"\x1f" or named == "deflate"
            compressed = may_be and coding.is_compressed(named, data)
            self._decompressor = coding.Decompressor() if compressed else None
        if self._decompressor is not None:
            try:
                data = self._decompressor.step(data, _STEP)
                self._has_more = self._decompressor.waiting
            except FramingError as error:
                raise UpstreamInvalid(f"the provider sent bad data: {error}") from error
        return data

    def _is_good(self, attempt: Attempt) -> bool | None:
        """Whether the body begins as expected; None if more bytes are needed to decide."""
        if not attempt.foreign:
            return True
        start = bytes(self._body[:64]).lstrip(BLANK) or bytes(self._body).lstrip(BLANK)
        if not start:
            self._body.clear()  # some providers send blanks for minutes before they answer
            return None
        if not attempt.events:
            return start[:1] not in attempt.foreign
        if not start.startswith(FIELDS) and any(field.startswith(start) for field in FIELDS):
            return None
        return start.startswith(FIELDS)

    def _handle_unexpected(self, attempt: Attempt) -> bytes:
        """Convert the body or begin another attempt if possible, or else raise the error."""
        exchange, body = self._exchange, bytes(self._body.strip(BLANK))
        status = exchange.status or 0
        self._body.clear()
        try:
            unfolded = attempt.unfold(body) if 200 <= status < 300 else None
        except SHAPE_ERRORS as error:
            raise unknown_shape(error) from error
        if unfolded is not None:
            self.good = True
            return unfolded
        following = attempt.retry(status, body)
        if following is not None:
            exchange.close()
            self._decompressor, self._has_more = None, False
            self._attempt = following
            self._exchange = following.send()
            return b""
        headers = {name.lower(): value for name, value in exchange.headers.items()}
        raise attempt.to_error(status, headers, body)

    def fileno(self) -> int | None:
        """Return the file descriptor to poll, or None: also during a pause, see :attr:`due`."""
        is_paused = self._pause or self._has_more or self.behind or self._deferred is not None
        return None if is_paused else self._exchange.fileno()

    @property
    def due(self) -> float | None:
        """When to read again without new bytes: at once, at the end of a pause, or a timeout.

        None, as :meth:`fileno` is, while received bytes are deferred to a worker.
        """
        if self._deferred is not None:
            return None
        if self._has_more or self.behind or self._failure is not None:
            return 0.0
        return self._paused + self._pause if self._pause else self._exchange.due

    def close(self) -> None:
        self._exchange.close()
