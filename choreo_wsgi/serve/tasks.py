"""Requests and their answers: response heads and framing.

Three things differ from waitress's tasks.  The head and the first bytes of the body leave
together; a chunked answer leaves the connection open for the next request; the answer to HEAD
has no body, whatever the application yields.
"""

from __future__ import annotations

import contextlib
import logging
import math
import time
from collections.abc import Callable, Iterable
from functools import lru_cache
from operator import length_hint
from typing import Any

from waitress.utilities import build_http_date

from ..chat.source import lane_of
from ..errors import BodyTooLarge, ChoreoError, InvalidRequest
from ..streams.carrier import Load
from .parser import Parser

logger = logging.getLogger(__name__)

#: Blocks that are sent before it is the next one's turn.
BLOCKS = 16

#: From this many bytes on, a block is handed to the system as it is, with its chunk's frame
#: beside it; copying a smaller one into its frame is cheaper.
GATHER = 16 * 1024


class Disconnected(Exception):
    """The client has gone."""


class _Blocks:
    """A body that can only be iterated: a worker does that, unless it is a list."""

    def __init__(self, body: Iterable[bytes]) -> None:
        self._next = iter(body)
        self.due = 0.0 if isinstance(body, list | tuple) else None
        self.ended = False
        self.close = getattr(body, "close", lambda: None)

    def fileno(self) -> None:
        return None

    def ready(self, patience: float) -> bytes:
        if self.due is None and not patience:
            return b""
        block = next(self._next, None)
        self.ended = block is None or (self.due is not None and not length_hint(self._next))
        return block or b""


class Task(Load):
    """One request and its answer.

    The application is called, what it returns is sent block by block, and the next block is
    asked for when the client has taken the last.  A body that tells what it waits for (it has
    ``ready``, ``fileno``, ``due`` and ``ended``) is the carrier's; one that can only be
    iterated is a worker's, and so is an application that may block (``blocks(environ)``).
    """

    status = ""
    response_headers: list[tuple[str, str]]
    content_length: int | None = None
    content_bytes_written = 0
    complete = False  # start_response was called
    wrote_header = False
    chunked_response = False
    close_on_finish = False

    def __init__(self, channel: Any, request: Parser) -> None:
        self.channel = channel
        self.request = request
        self.version = "1.1" if request.version == "1.1" else "1.0"
        self._body: Any = None
        #: The last block, once a worker has it.  The carrier sends the end and then closes the
        #: body, so what that gives back is there before the client's next request.
        self._end: bytes | None = None
        self._done = False  # all that is to be sent was given to the channel
        self._application = channel.server.application
        self.environ = request.environ(channel)
        blocks = getattr(self._application, "blocks", lambda environ: True)
        self._blocking = not request.error and blocks(self.environ)

    # What the carrier asks

    def fileno(self) -> int | None:
        """Return the descriptor that the body reads from, or None."""
        if self._body is None or self.channel.unsent:
            return None
        number: int | None = self._body.fileno()
        return number

    @property
    def due(self) -> float | None:
        """When to go on although nothing came; None: that may block."""
        if self.channel.unsent:
            return math.inf  # the channel steps us
        if self._done or self._end is not None:
            return 0.0
        if self._body is None:
            return None if self._blocking else 0.0
        due: float | None = self._body.due
        return due

    def step(self, patience: float) -> None:
        """Go on with the answer, waiting at most *patience* seconds for it."""
        self.lane = None
        if self.channel.unsent:
            return
        try:
            if self._body is None and not self._done:
                self._begin()
            for _ in range(BLOCKS):
                if self._done or not self._go_on(patience):
                    break
        except Exception as error:
            self._fail(error)
        if self.channel.unsent:
            return
        if self._done:
            self._close_body()
            self.ended = True
        elif self.chunked_response and self._end is None:
            self.lane = lane_of(self._body)
            if self.lane is not None:
                self.lane.send, self.lane.keep = self.channel.socket.send, self.channel.keep

    def leave(self) -> None:
        """Tell the channel that its request is answered."""
        self.channel.answered(self)

    def _begin(self) -> None:
        if self.request.error is None:
            body = self._application(self.environ, self.start_response)
        else:  # where the next request begins is not known
            self.channel.lingers = self.close_on_finish = True
            error = _translate(self.request.error)
            body = self._application.refuse(self.environ, self.start_response, error)
        self._take(body)
        if self.content_length is None and isinstance(body, list) and len(body) == 1:
            self.content_length = len(body[0])  # PEP 3333
        if not isinstance(self._body, _Blocks):
            # It waits, perhaps for minutes, and the conversation may be megabytes long.
            self.request.close()

    def _take(self, body: Any) -> None:
        self._body = body if hasattr(body, "due") else _Blocks(body)

    def _go_on(self, patience: float) -> bool:
        """Send the next block; return whether there may be another at once."""
        body = self._body
        if self._end is not None:
            self._send(self._end, last=True)
            return False
        block = body.ready(patience)
        decided = getattr(body, "decided", None)
        if decided is not None:
            self._take(decided)
            return True
        last = body.ended
        if last and patience:
            self._end = block
            return False
        if block or last:
            self._send(block, last)
        # A descriptor that is polled is asked for anew by the carrier; asking twice is dear.
        if not block or self.channel.unsent or self.descriptor is not None:
            return False
        return body.fileno() is None and body.due is not None and body.due <= time.monotonic()

    def _fail(self, error: Exception) -> None:
        """Answer 500, or leave the answer without its end."""
        self._done = self.close_on_finish = True
        if isinstance(error, Disconnected):
            logger.debug("the client of %s has gone", self.request.path)
            return
        logger.error("an answer to %s failed", self.request.path, exc_info=error)
        if not self.wrote_header:
            self.complete = False
            failure = ChoreoError("the server failed")
            body = self._application.refuse(self.environ, self.start_response, failure)
            with contextlib.suppress(Disconnected):
                self._send(b"".join(body), last=True)

    def _close_body(self) -> None:
        body, self._body = self._body, None
        try:
            if hasattr(body, "close"):
                body.close()
        except Exception:
            logger.exception("an answer to %s failed", self.request.path)
            self.close_on_finish = True

    # HTTP

    def start_response(
        self, status: str, headers: list[tuple[str, str]], exc_info: Any = None
    ) -> Callable[[bytes], None]:
        """Take the status and the headers (PEP 3333)."""
        if exc_info is None:
            if self.complete:
                raise RuntimeError("start_response was called twice")
        elif self.wrote_header:
            raise exc_info[1]
        text = status + "".join(map("".join, headers))
        if "\r" in text or "\n" in text:
            raise ValueError("a line break in the response's head")
        self.complete = True
        self.status = status
        self.response_headers = list(headers)
        self._fields = {name.lower(): value for name, value in headers}
        length = self._fields.get("content-length")
        self.content_length = None if length is None else int(length)
        return self.write

    def write(self, data: bytes) -> None:
        """Send *data*: PEP 3333's old way to do so."""
        self._send(data, last=False)

    @property
    def has_body(self) -> bool:
        """Whether the answer may have a body (RFC 9110, 6.4.1)."""
        bodiless = self.status.startswith(("1", "204", "304"))
        return not bodiless and self.request.command != "HEAD"

    def build_response_header(self) -> bytes:
        """Return the response's head; decides on framing and on keeping the connection."""
        lines = [f"{name}: {value}" for name, value in self.response_headers]
        asked = self.request.headers.get("CONNECTION", "").lower()
        options = {option.strip() for option in asked.split(",")}
        keep = "close" not in options and (self.version == "1.1" or "keep-alive" in options)
        if self.has_body and "content-length" not in self._fields:
            if self.content_length is not None:
                lines.append(f"Content-Length: {self.content_length}")
            elif self.version == "1.1":
                lines.append("Transfer-Encoding: chunked")
                self.chunked_response = True
            else:
                keep = False  # it ends with its connection
        if not keep or self.channel.server.draining:
            self.close_on_finish = True
        if self.close_on_finish:
            if "connection" not in self._fields:
                lines.append("Connection: close")
        elif self.version == "1.0":
            lines.append("Connection: Keep-Alive")
        if "date" not in self._fields:
            lines.append(f"Date: {_http_date(int(time.time()))}")
        head = "\r\n".join([f"HTTP/{self.version} {self.status}", *lines, "", ""])
        return head.encode("latin-1")

    def _send(self, data: bytes, last: bool) -> None:
        """Send a piece of the body: with the head before the first, and the end after the last."""
        head = b""
        if not self.wrote_header and (data or last):
            if not self.complete:
                raise RuntimeError("the application sent a body without start_response")
            head = self.build_response_header()
            self.wrote_header = True
        if self.chunked_response:
            end = b"0\r\n\r\n" if last else b""
            if len(data) >= GATHER:
                self.channel.transmit(b"%b%X\r\n" % (head, len(data)), data, b"\r\n" + end)
            elif data:
                self.channel.transmit(b"%b%X\r\n%b\r\n%b" % (head, len(data), data, end))
            elif head or end:
                self.channel.transmit(head + end)
        else:
            if self.content_length is not None:
                data = data[: self.content_length - self.content_bytes_written]
            self.content_bytes_written += len(data)
            if head or (data and self.has_body):
                self.channel.transmit(head, data if self.has_body else b"")
            if last and self.has_body and self.content_length is not None:
                short = self.content_bytes_written < self.content_length
                self.close_on_finish = self.close_on_finish or short
        self._done = last


_http_date = lru_cache(1)(build_http_date)


def _translate(error: Any) -> ChoreoError:
    """Return *error*, waitress's mostly, as one of ours."""
    if isinstance(error, ChoreoError):
        return error
    if error.code == 413:
        return BodyTooLarge("the request's body is too long")
    if error.code >= 500 and error.code != 501:
        return ChoreoError("the server failed")
    return InvalidRequest(f"{error.reason}: {error.body}", status=error.code)
