"""Requests and their answers: response heads and framing.

The head and the first bytes of the body leave together; the answer to HEAD has no body.
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
from ..streams.carrier import Load
from .parser import Parser

logger = logging.getLogger(__name__)

#: Blocks that are sent before it is the next one's turn, unless one is LARGE.
BLOCKS, LARGE = 16, 128 * 1024

#: From this many bytes on, a block is handed to the system as it is, with its chunk's frame
#: beside it; copying a smaller one into its frame is cheaper.
GATHER = 16 * 1024


class Disconnected(Exception):
    """The client has gone."""


class Task(Load):
    """One request and its answer.

    The application is called, what it returns is sent block by block, and the next block is
    asked for when the client has taken the last.  A list is sent at once; any other body tells
    what it waits for (``ready``, ``fileno``, ``due`` and ``ended``).  An application that may
    block (``blocks(environ)``) is called by a worker.
    """

    def __init__(self, channel: Any, request: Parser) -> None:
        super().__init__()
        self.close_on_finish = False
        #: The length of a body that is a list.
        self._length: int | None = None
        self._wrote_head = self._chunked = False
        #: Whether the client itself expects that the connection is closed.
        self._parting = False
        self.channel = channel
        self.request = request
        self.version = "1.1" if request.version == "1.1" else "1.0"
        self._body: Any = None
        #: The last block, once it is there.  The carrier sends it and then closes the body, so
        #: what that gives back is there before the client's next request.
        self._end: bytes | None = None
        self._done = False  # all that is to be sent was given to the channel
        self._application = channel.server.application
        self._environ = request.environ(channel)
        #: Whether a worker is to call the application.
        self.blocking = not request.error and self._application.blocks(self._environ)

    # What the carrier asks

    def fileno(self) -> int | None:
        """Return the descriptor that the body reads from, or None."""
        if self._body is None or self._end is not None or self.channel.unsent:
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
            return None if self.blocking else 0.0
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
        elif self._chunked and self._end is None:
            self.lane = lane_of(self._body)
            if self.lane is not None:
                self.lane.send, self.lane.keep = self.channel.socket.send, self.channel.keep

    def release(self) -> None:
        """Tell the channel that its request is answered."""
        self.channel.answered(self)

    def _begin(self) -> None:
        if self.request.error is None:
            self._take(self._application(self._environ, self.start_response))
        else:  # where the next request begins is not known
            self.channel.lingers = self.close_on_finish = True
            self._refuse(_translate(self.request.error))
        # The answer waits, perhaps for minutes, and the conversation may be megabytes long.
        self.request.close()

    def _take(self, body: Any) -> None:
        self._body = body
        if isinstance(body, list):
            self._end = b"".join(body)
            self._length = len(self._end)

    def _go_on(self, patience: float) -> bool:
        """Send the next block; return whether there may be another at once."""
        body = self._body
        if self._end is not None:
            if not patience:
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
        large = len(block) > LARGE
        if not block or large or self.channel.unsent or self.descriptor is not None:
            return False
        return body.fileno() is None and body.due is not None and body.due <= time.monotonic()

    def _fail(self, error: Exception) -> None:
        """Answer 500, or leave the answer without its end."""
        self.close_on_finish = True
        if isinstance(error, Disconnected):
            logger.debug("the client of %s has gone", self.request.path)
        else:
            logger.error("an answer to %s failed", self.request.path, exc_info=error)
            if not self._wrote_head:
                self._close_body()
                self._refuse(unexpected(error, "the server failed"))
                with contextlib.suppress(Disconnected):
                    self._send(self._end or b"", last=True)
        self._done = True

    def _refuse(self, error: ChoreoError) -> None:
        self._take(self._application.refuse(self._environ, self.start_response, error))

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
        """Take the status and the headers (PEP 3333).  The application is ours: called once."""
        self.status = status
        lines = [f"{name}: {value}\r\n" for name, value in headers]
        self._given = given = "".join([f"{status}\r\n", *lines])
        if not given.count("\r") == given.count("\n") == len(headers) + 1:
            raise ValueError("a line break in the response's head")

    def _head(self) -> bytes:
        """Return the response's head; decides on framing and on keeping the connection."""
        more = f"Date: {_http_date(int(time.time()))}\r\n"
        asked = self.request.headers.get("CONNECTION")
        keep = self.version == "1.1" if asked is None else _keeps(asked, self.version)
        self._parting = not keep
        # RFC 9110, 6.4.1
        bodiless = self.status.startswith(("1", "204", "304")) or self.request.command == "HEAD"
        if not (bodiless or "\r\ncontent-length:" in self._given.lower()):
            if self._length is not None:
                more += f"Content-Length: {self._length}\r\n"
            elif self.version == "1.1":
                more += "Transfer-Encoding: chunked\r\n"
                self._chunked = True
            else:
                keep = False  # it ends with its connection
        if not keep or self.channel.server.draining:
            self.close_on_finish = True
        if self.close_on_finish:
            more += "Connection: close\r\n"
        elif self.version == "1.0":
            more += "Connection: Keep-Alive\r\n"
        return f"HTTP/{self.version} {self._given}{more}\r\n".encode("latin-1")

    def _send(self, data: bytes, last: bool) -> None:
        """Send a piece of the body: with the head before the first, and the end after the last."""
        before, after = b"", b""
        if not self._wrote_head and (data or last):
            before = self._head()
            self._wrote_head = True
        if self._chunked:
            after = b"0\r\n\r\n" if last else b""
            if data:
                before, after = b"%b%X\r\n" % (before, len(data)), b"\r\n" + after
        if len(data) >= GATHER:
            self.channel.transmit(before, data, after, parting=last and self._parting)
        elif before or data or after:
            joined = b"%b%b%b" % (before, data, after)
            self.channel.transmit(joined, parting=last and self._parting)
        self._done = last


_http_date = lru_cache(1)(build_http_date)


@lru_cache(16)
def _keeps(asked: str, version: str) -> bool:
    """Return whether the connection of a client that has *asked* so is kept (RFC 9112, 9.3)."""
    options = "".join(asked.lower().split()).split(",")
    return "close" not in options and (version == "1.1" or "keep-alive" in options)


def _translate(error: Any) -> ChoreoError:
    """Return *error*, waitress's mostly, as one of ours."""
    if isinstance(error, ChoreoError):
        return error
    if error.code == 413:
        return BodyTooLarge("the request's body is too long")
    return InvalidRequest(f"{error.reason}: {error.body}", status=error.code)
