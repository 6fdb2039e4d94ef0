"""Answers to requests: calling the application, the response's head and its framing.

The head and the first bytes of the body are sent together; the application leaves out
the body of an answer to HEAD.
"""

from __future__ import annotations

import contextlib
import logging
import math
import time
from functools import lru_cache
from typing import Any

from waitress.utilities import build_http_date

from ..app.response import unexpected
from ..chat.source import lane_of
from ..errors import BodyTooLarge, ChoreoError, InvalidRequest
from ..streams.load import Load
from .parser import Parser

logger = logging.getLogger(__name__)

#: Blocks that are sent in one step; a LARGE one ends the step.
BLOCKS, LARGE = 16, 128 * 1024

#: Seconds of a step after which no further block is sent in it.
PATIENCE = 0.001

#: Bytes of a block from which on it is sent beside its chunk's size line, in one system call;
#: copying a smaller block behind its size line is cheaper.
GATHER = 16 * 1024


class Disconnected(Exception):
    """The client has left."""


class Task(Load):
    """One request and its answer.

    The application is called, and its body is sent block by block; the next block is read when
    the system has accepted the last.  A list is sent at once; any other body has ``ready``,
    ``fileno``, ``due`` and ``ended``, as an event stream has.  If the application may block
    (``blocks(environ)``), a worker calls it.
    """

    def __init__(self, channel: Any, request: Parser) -> None:
        super().__init__()
        self.close_on_finish = False
        #: The length of a body that is a list.
        self._length: int | None = None
        self._wrote_head = self._chunked = False
        #: Whether the client expects the connection to be closed after the answer.
        self._client_closes = False
        self.channel = channel
        self.request = request
        self.version = "1.1" if request.version == "1.1" else "1.0"
        self._body: Any = None
        #: The last block, once it is read.  The carrier sends it and closes the body in one step,
        #: so the body's slot is free before the client's next request is read.
        self._last_block: bytes | None = None
        self._done = False  # all was sent, or buffered by the channel
        self._application = channel.server.application
        self._environ = request.environ(channel)
        #: Whether a worker is to call the application.
        self.blocking = not request.error and self._application.blocks(self._environ)

    # Called by the carrier

    def fileno(self) -> int | None:
        if self._body is None or self._last_block is not None or self.channel.unsent:
            return None
        number: int | None = self._body.fileno()
        return number

    @property
    def due(self) -> float | None:
        if self.channel.unsent:
            return math.inf  # the channel steps this task
        if self._done or self._last_block is not None:
            return 0.0
        if self._body is None:
            return None if self.blocking else 0.0
        due: float | None = self._body.due
        return due

    def step(self, timeout: float) -> None:
        """Send the next blocks of the answer, waiting at most *timeout* seconds for them."""
        self.lane = None
        if self.channel.unsent:
            return
        try:
            if self._body is None and not self._done:
                self._begin()
            until = time.monotonic() + PATIENCE
            for _ in range(BLOCKS):
                if self._done or not self._send_next(timeout) or time.monotonic() > until:
                    break
        except Exception as error:
            self._fail(error)
        if self.channel.unsent:
            return
        if self._done:
            self._close_body()
            self.ended = True
        elif self._chunked and self._last_block is None:
            self.lane = lane_of(self._body)
            if self.lane is not None:
                self.lane.send, self.lane.keep = self.channel.socket.send, self.channel.buffer

    def release(self) -> None:
        """Return to the channel, whose request is answered."""
        self.channel.on_answered(self)

    def _begin(self) -> None:
        if self.request.error is None:
            self._set_body(self._application(self._environ, self.start_response))
        else:  # it is unknown where the next request begins
            self.channel.lingers = self.close_on_finish = True
            self._refuse(_translate(self.request.error))
        # The answer may take minutes, and the request's body may be megabytes long.
        self.request.close()

    def _set_body(self, body: Any) -> None:
        self._body = body
        if isinstance(body, list):
            self._last_block = b"".join(body)
            self._length = len(self._last_block)

    def _send_next(self, timeout: float) -> bool:
        """Send the next block; return whether there may be another at once."""
        body = self._body
        if self._last_block is not None:
            if not timeout:
                self._send(self._last_block, last=True)
            return False
        block = body.ready(timeout)
        decided = getattr(body, "decided", None)
        if decided is not None:
            self._set_body(decided)
            return True
        last = body.ended
        if last and timeout:
            self._last_block = block
            return False
        if block or last:
            self._send(block, last)
        # If the carrier polls a descriptor, it will call again: fileno() and due are costly.
        large = len(block) > LARGE
        if not block or large or self.channel.unsent or self.descriptor is not None:
            return False
        return body.fileno() is None and body.due is not None and body.due <= time.monotonic()

    def _fail(self, error: Exception) -> None:
        """Answer 500, or stop the answer before its end."""
        self.close_on_finish = True
        if isinstance(error, Disconnected):
            logger.debug("the client of %s has left", self.request.path)
        else:
            logger.error("an answer to %s failed", self.request.path, exc_info=error)
            if not self._wrote_head:
                self._close_body()
                self._refuse(unexpected(error, "the server failed"))
                with contextlib.suppress(Disconnected):
                    self._send(self._last_block or b"", last=True)
        self._done = True

    def abandon(self, error: Exception) -> None:
        self._fail(error)
        self._close_body()

    def _refuse(self, error: ChoreoError) -> None:
        self._set_body(self._application.refuse(self._environ, self.start_response, error))

    def _close_body(self) -> None:
        body, self._body = self._body, None
        try:
            if hasattr(body, "close"):
                body.close()
        except Exception:
            logger.exception("an answer to %s failed", self.request.path)
            self.close_on_finish = True

    # HTTP

    def start_response(self, status: str, headers: list[tuple[str, str]]) -> None:
        """Store the status and the headers (PEP 3333).  Our application calls it once."""
        self.status = status
        fields = [f"{name}: {value}\r\n" for name, value in headers]
        self._app_head = head = "".join([f"{status}\r\n", *fields])
        if not head.count("\r") == head.count("\n") == len(headers) + 1:
            raise ValueError("a line break in the response's head")

    def _head(self) -> bytes:
        """Return the response's head; choose its framing and whether the connection is kept."""
        more = f"Date: {_http_date(int(time.time()))}\r\n"
        keep = _keeps_alive(self.request.headers.get("CONNECTION", ""), self.version)
        self._client_closes = not keep
        # RFC 9110, 6.4.1
        bodiless = self.status.startswith("204") or self.request.command == "HEAD"
        if not (bodiless or "\r\ncontent-length:" in self._app_head.lower()):
            if self._length is not None:
                more += f"Content-Length: {self._length}\r\n"
            elif self.version == "1.1":
                more += "Transfer-Encoding: chunked\r\n"
                self._chunked = True
            else:
                keep = False  # the end of the connection ends the body
        if not keep or self.channel.server.draining:
            self.close_on_finish = True
        if self.close_on_finish:
            more += "Connection: close\r\n"
        elif self.version == "1.0":
            more += "Connection: Keep-Alive\r\n"
        return f"HTTP/{self.version} {self._app_head}{more}\r\n".encode("latin-1")

    def _send(self, data: bytes, last: bool) -> None:
        """Send a block of the body: the first with the head, the last with the body's end."""
        before, after = b"", b""
        if not self._wrote_head and (data or last):
            before = self._head()
            self._wrote_head = True
        if self._chunked:
            after = b"0\r\n\r\n" if last else b""
            if data:
                before, after = b"%b%X\r\n" % (before, len(data)), b"\r\n" + after
        if len(data) >= GATHER:
            self.channel.transmit(before, data, after, closes=last and self._client_closes)
        elif before or data or after:
            joined = b"%b%b%b" % (before, data, after)
            self.channel.transmit(joined, closes=last and self._client_closes)
        self._done = last


_http_date = lru_cache(1)(build_http_date)


@lru_cache(16)
def _keeps_alive(connection: str, version: str) -> bool:
    """Return whether the client's header *connection* allows keep-alive (RFC 9112, 9.3)."""
    options = "".join(connection.lower().split()).split(",")
    return "close" not in options and (version == "1.1" or "keep-alive" in options)


def _translate(error: Any) -> ChoreoError:
    """Return *error*, of waitress or ours, as one of ours."""
    if isinstance(error, ChoreoError):
        return error
    if error.code == 413:
        return BodyTooLarge("the request's body is too long")
    return InvalidRequest(f"{error.reason}: {error.body}", status=error.code)
