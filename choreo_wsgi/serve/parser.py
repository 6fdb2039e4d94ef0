"""A request as it comes in: what waitress would take, and we refuse."""

from __future__ import annotations

import errno
import logging
from collections.abc import Callable
from typing import Any

from waitress.parser import HTTPRequestParser, ParsingError, get_header_lines
from waitress.receiver import ChunkedReceiver
from waitress.utilities import BadRequest, Error

#: Bytes of a body that is taken before anybody is asked; the connection then serves on.
SMALL = 64 * 1024

logger = logging.getLogger(__name__)

#: Bytes of a chunk's size line with its extensions, and of a chunked body's trailer.  waitress
#: searches all of an unfinished one again for each packet.
MAX_CHUNK_LINE = 1024
MAX_TRAILER = 8 * 1024


class BodyNotKept(Error):
    """There is no room for a request's body."""

    code = 507
    reason = "Insufficient Storage"


class NoDescriptor(Error):
    """There is no file descriptor left for a request's body."""

    code = 503
    reason = "Service Unavailable"


class Parser(HTTPRequestParser):
    """Refuses a body whose length could be read in two ways (RFC 9112, 6.1 and 6.3).

    waitress decodes such a request as chunked and goes on reading; a proxy in front may have
    gone by Content-Length, and what it took for a body would be served as a request.

    A body that is not small is taken only if *admitted* says so, when the head is there.
    Otherwise the request is complete without it: whoever looks at its head next is to refuse it.
    """

    completed: bool

    def __init__(self, adj: Any, admitted: Callable[[Parser], bool]) -> None:
        super().__init__(adj)
        self._admitted = admitted

    # A request refused before these are known is still answered and logged.
    command = path = query = fragment = request_uri = ""

    def received(self, data: bytes) -> int:
        """Take bytes from the client; return how many belong to this request."""
        looked = self.headers_finished
        try:
            consumed = int(super().received(data))
        except OSError as error:  # a large body goes to a temporary file
            logger.error("a request's body cannot be kept: %s", error)
            self.body_rcv = None
            full = error.errno not in (errno.EMFILE, errno.ENFILE)
            self.error = (BodyNotKept if full else NoDescriptor)(str(error))
            self.completed = True
            return len(data)
        announced = self.headers_finished and not (looked or self.completed)
        if announced and self._is_worth_asking() and not self._admitted(self):
            self.close()
            self.body_rcv = None
            self.headers["CONNECTION"] = "close"
            self.completed = True
            self.expect_continue = False
            return len(data)
        body = self.body_rcv
        if isinstance(body, ChunkedReceiver) and (
            len(body.control_line) > MAX_CHUNK_LINE or len(body.trailer) > MAX_TRAILER
        ):
            self.error = BadRequest("a chunk's size line, or the trailer, is too long")
            self.completed = True
        if self.error is not None:
            self.expect_continue = False  # refused: nobody shall send the body now
        return consumed

    def _is_worth_asking(self) -> bool:
        """Return whether the body costs more than the connection that goes with its refusal."""
        return self.chunked or self.expect_continue or self.content_length > SMALL

    def parse_header(self, header_plus: bytes) -> None:
        """Parse the request line and the headers; raises ParsingError."""
        super().parse_header(header_plus)
        if b"transfer-encoding" not in header_plus.lower():
            return
        lines = get_header_lines(header_plus.partition(b"\r\n")[2])
        fields = [line.partition(b":") for line in lines]
        codings = [
            value.strip(b" \t").lower()
            for name, _, value in fields
            if name.lower() == b"transfer-encoding"
        ]
        if not codings:
            return
        if "CONTENT_LENGTH" in self.headers:
            raise ParsingError("Content-Length together with Transfer-Encoding")
        if self.version != "1.1":
            raise ParsingError("Transfer-Encoding before HTTP/1.1")
        if codings != [b"chunked"]:
            raise ParsingError("Transfer-Encoding is not chunked, once")
