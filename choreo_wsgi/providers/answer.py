"""The answer to a request over HTTP, judged once: what was asked for, or an error.

Judged by its status and by its first bytes, not by what its head announces: load balancers
label events as JSON, servers send a document where a stream was asked for, proxies compress.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ..errors import ChoreoError, UpstreamInvalid
from ..late import Late
from ..upstream import Exchange
from ..upstream.framing import FramingError
from .openai.lane import Lane
from .openai.pattern import Pattern
from .reading import SHAPE_ERRORS, unknown_shape

if TYPE_CHECKING:
    from ..upstream import coding
else:
    coding = Late("choreo_wsgi.upstream.coding")

#: An error's body is read up to here; the rest says nothing more.
_ERROR_BYTES = 64 * 1024
#: Longest document that is read where a stream was asked for.
_MAX_DOCUMENT = 64 * 1024 * 1024
#: What is unpacked at once of a body that came packed: as much as a block that is not.
_STEP = 128 * 1024
#: When so many bytes have come without anything to pass on, one event is large, or a document:
#: it may take long to read, so the rest is left to who may wait, a worker.
HEAVY = 64 * 1024

_STARRED = re.compile(r"[\w.-]{0,64}\*{3,}[\w-]*")

#: How a body of Server-Sent Events begins, behind BLANK bytes.
FIELDS = (b"data:", b"event:", b"id:", b"retry:", b"error:", b":")
BLANK = b"\xef\xbb\xbf \t\r\n"


# A block of dozens of events is a burst.  While one goes on each read is put off, for longer
# and longer, so that fewer and larger blocks are read, as network cards do it: half the CPU
# time, and at most 40 ms, which nobody sees in a stream of a thousand events a second.  Streams
# at the pace of a model are never held up; where blocks are full (a read takes 128 KiB) the
# waits get shorter again.  "make bench" shows it as "burst".
BURST, _ENOUGH, _FULL = 4 * 1024, 48 * 1024, 112 * 1024
_FIRST_PAUSE, _LONGEST_PAUSE = 0.002, 0.04


def _pause_after(size: int, last: float) -> float:
    """Return how long to wait after a block of *size* bytes; *last* is the wait before it."""
    if size < BURST:
        return 0.0
    if size < _ENOUGH:
        return min(2 * last + _FIRST_PAUSE, _LONGEST_PAUSE)
    return last if size < _FULL else last / 2


@dataclass(slots=True)
class Attempt:
    """How a request is sent, and how its answer is judged.

    *send* sends it.  A body that begins with one of the bytes in *foreign* is not the expected
    stream; *events* is whether that is a stream of Server-Sent Events.  *unfold* converts such a
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
    """What comes back for *attempt*; :meth:`read` returns the body of a good answer."""

    def __init__(self, attempt: Attempt) -> None:
        self._attempt: Attempt | None = attempt  # let go of once the answer is good
        self._secrets = attempt.secrets
        self._exchange = attempt.send()
        self._failure: ChoreoError | None = None
        self._body = bytearray()  # until it is judged
        self._begun: Exchange | None = None  # the exchange whose body has been looked at
        self._packing: coding.Decompressor | None = None
        self._waits = False  # there is more to unpack of what has come
        #: Bytes since the last that was of use; who reads sets it to 0.
        self.bytes_without_output = 0
        self._late: bytes | None = None  # what is left to who may wait
        #: Whether it is what was asked for, so far as it has come.
        self.good = False
        #: Whether the exchange's bytes need no further look.
        self._open = False
        self._pause = 0.0  # how long the next read of a burst is put off,
        self._paused = 0.0  # and since when

    @property
    def body_ended(self) -> bool:
        """Whether the body of a good answer was returned to its end."""
        return self.good and self._exchange.ended and not self._waits and self._late is None

    def read(self, timeout: float) -> bytes:
        """Return what came of the body within *timeout* seconds.

        Raises what the answer is instead, and goes on raising it.
        """
        if self._failure is not None:
            raise self._failure
        try:
            return self._read(timeout)
        except ChoreoError as error:
            raise self.fail(error) from None

    def read_burst(self, timeout: float) -> bytes:
        """Return what came, as :meth:`read` does; while much comes, less often."""
        if self._pause and timeout > 0:
            time.sleep(self._pause)
        if self._open and self._failure is None:
            late, self._late = self._late, None
            data = self._weighed(self._exchange.receive(timeout), timeout) if late is None else late
        else:
            data = self.read(timeout)
        self._pause = _pause_after(len(data), self._pause)
        self._paused = time.monotonic() if self._pause else 0.0
        return data

    def _weighed(self, data: bytes, timeout: float) -> bytes:
        """Return *data*; from within a large event on only to who may wait."""
        if self.bytes_without_output > HEAVY and timeout <= 0 and (data or self._exchange.ended):
            self._late, data = data, b""
        self.bytes_without_output += len(data)
        return data

    def new_lane(self, pattern: Pattern | None, plain: bool = False) -> Lane | None:
        """Return a lane for events that all follow *pattern*; for *plain* see there."""
        chunks = self._exchange.chunks()
        late = self._late is not None
        if pattern is None or not self._open or self._pause or late or chunks is None:
            return None
        return Lane(self._exchange, *chunks, pattern, BURST, plain)

    def hide(self, text: str) -> str:
        """Return *text* with ``***`` for secrets."""
        return self._secrets.sub("***", text)

    def hide_keys(self, text: str) -> str:
        """Return *text* with ``***`` for secrets, also as providers show them: ``sk-a***z``."""
        return _STARRED.sub("***", self.hide(text))

    def fail(self, error: ChoreoError) -> ChoreoError:
        """Let go of the answer because of *error*; return it with ``***`` for secrets."""
        error.message = self.hide_keys(error.message)
        error.args = (error.message,)
        error.param, error.code = (word and self.hide(word) for word in (error.param, error.code))
        self._failure = error
        self._exchange.close()
        return error

    def _read(self, timeout: float) -> bytes:
        exchange = self._exchange
        try:
            late, self._late = self._late, None
            data = self._weighed(self._unpacked(timeout), timeout) if late is None else late
        except ChoreoError:
            attempt = self._attempt
            if self._body and attempt is not None and self._is_good(attempt) is not None:
                return self._refuse(attempt)  # an error page that was cut says enough
            raise
        if self.good or self._late is not None or exchange.status is None:
            return data
        self._body += data
        ended = exchange.ended and not self._waits
        attempt = self._attempt
        assert attempt is not None
        well = 200 <= exchange.status < 300
        if well:
            good = self._is_good(attempt)
            if good or (ended and good is None):
                self.good = True
                self._open = self._packing is None
                attempt.on_success()
                self._attempt = None
                data, self._body = bytes(self._body), bytearray()
                return data
            if good is None:
                return b""
        limit = _MAX_DOCUMENT if well else _ERROR_BYTES
        return self._refuse(attempt) if ended or len(self._body) >= limit else b""

    def _unpacked(self, timeout: float) -> bytes:
        """Return what came of the body, as it was before it was packed."""
        exchange = self._exchange
        data = b"" if self._waits else exchange.receive(timeout)
        if data and self._begun is not exchange:
            self._begun = exchange
            named = exchange.headers.get("Content-Encoding", "").strip().lower()
            packed = data[:1] == b"\x1f" or named == "deflate"  # as far as these tell
            self._packing = (
                coding.Decompressor() if packed and coding.is_compressed(named, data) else None
            )
        if self._packing is not None:
            try:
                data = self._packing.step(data, _STEP)
                self._waits = self._packing.waiting
            except FramingError as error:
                raise UpstreamInvalid(f"the provider sent bad data: {error}") from error
        return data

    def _is_good(self, attempt: Attempt) -> bool | None:
        """Whether the body begins as what was asked for; None: more of it must be seen."""
        if not attempt.foreign:
            return True
        start = bytes(self._body[:64]).lstrip(BLANK) or bytes(self._body).lstrip(BLANK)
        if not start:
            self._body.clear()  # some send blanks for minutes before they answer
            return None
        if not attempt.events:
            return start[:1] not in attempt.foreign
        if not start.startswith(FIELDS) and any(field.startswith(start) for field in FIELDS):
            return None
        return start.startswith(FIELDS)

    def _refuse(self, attempt: Attempt) -> bytes:
        """Raise what the answer means, unless it is of use all the same."""
        exchange, body = self._exchange, bytes(self._body)
        status = exchange.status or 0
        self._body.clear()
        try:
            unfolded = attempt.unfold(body) if 200 <= status < 300 else None
        except SHAPE_ERRORS as error:
            raise unknown_shape(error) from error
        if unfolded is not None:
            self.good = True
            return unfolded
        other = attempt.retry(status, body)
        if other is not None:
            exchange.close()
            self._packing, self._waits = None, False
            self._attempt = other
            self._exchange = other.send()
            return b""
        headers = {name.lower(): value for name, value in exchange.headers.items()}
        raise attempt.to_error(status, headers, body)

    def fileno(self) -> int | None:
        """Return the file descriptor to poll, or None: a burst is waited for."""
        waits = self._pause or self._waits or self._late is not None
        return None if waits else self._exchange.fileno()

    @property
    def due(self) -> float | None:
        """When to ask again although nothing came: at once for what waits, or after a pause.

        None, and no descriptor, while what has come is left to who may wait.
        """
        if self._late is not None:
            return None
        if self._waits or self._failure is not None:
            return 0.0
        return self._paused + self._pause if self._pause else self._exchange.due

    def close(self) -> None:
        self._exchange.close()
