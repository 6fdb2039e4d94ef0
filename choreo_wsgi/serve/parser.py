"""A request as it comes in: ordinary ones are read here, all others by waitress.

What nearly every client sends means the same to whoever reads it: a head in one piece, of plain
characters, without a header twice, and a small body whose length is told.  It is read here in
a third of the time.  For anything else nothing is decided here; waitress reads it, and some of
what waitress would take is refused.
"""

from __future__ import annotations

import errno
import io
import logging
import re
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from waitress.parser import HTTPRequestParser, ParsingError
from waitress.receiver import ChunkedReceiver
from waitress.utilities import BadRequest

from ..errors import Exhausted, InsufficientStorage

#: Bytes of a body that is taken before anybody is asked; the connection then serves on.
SMALL = 64 * 1024

#: Bytes of an ordinary head.
LONGEST = 16 * 1024

#: Bytes of a head whose lines are worth remembering.
SHORT = 4 * 1024

#: The method, the path and the query of the target, and the version.
_REQUEST = re.compile(
    r"([A-Z]{1,16}) (/(?:[\w.~-][\w.~/-]*)?)(?:\?([\w.~/=&%+:,-]*))? HTTP/(1\.[01])", re.ASCII
)
_FIELD = re.compile(r"([A-Za-z0-9-]{1,64}):([\t -~]*)", re.ASCII)
_CODING = re.compile(rb"(?im)^transfer-encoding[ \t]*:(.*(?:\n[ \t].*)*)")
_HOST = re.compile(r"[\w.~%!$&'()*+;=:\[\]-]*", re.ASCII)
#: Headers that change how the rest is read.
_ODD = frozenset(("TRANSFER_ENCODING", "EXPECT"))

logger = logging.getLogger(__name__)

#: Bytes of a chunk's size line with its extensions, and of a chunked body's trailer.  waitress
#: searches all of an unfinished one again for each packet.
MAX_CHUNK_LINE = 1024
MAX_TRAILER = 8 * 1024


@dataclass(frozen=True)
class Limits:
    """The settings of waitress that its parser looks at; sizes are in bytes."""

    max_request_body_size: int
    max_request_header_size: int = 65536
    inbuf_overflow: int = 512 * 1024
    url_scheme: str = "http"


@lru_cache(256)
def _request(line: str) -> tuple[str, str, str, str] | None:
    """Return the method, the path, the query and the version in *line*, None if it is odd."""
    match = _REQUEST.fullmatch(line)
    return None if match is None else (match[1], match[2], match[3] or "", match[4])


@lru_cache(256)  # of a client, and of all that use one library, most are the same
def _field(line: str) -> tuple[str, str] | None:
    """Return the name of the header in *line*, as waitress has it, and its value, or None."""
    match = _FIELD.fullmatch(line)
    return None if match is None else (match[1].upper().replace("-", "_"), match[2].strip(" \t"))


def _has_host(version: str, headers: Mapping[str, str]) -> bool:
    """Return whether the Host header is one and sound; HTTP/1.0 needs none (RFC 9112, 3.2)."""
    return _HOST.fullmatch(headers.get("HOST", "" if version == "1.0" else " ")) is not None


@lru_cache(256)
def _variable(name: str) -> str:
    """Return the name in the environ of the header *name* (RFC 3875, 4.1)."""
    return name if name in ("CONTENT_TYPE", "CONTENT_LENGTH") else f"HTTP_{name}"


class Parser(HTTPRequestParser):
    """A request; *headers* has each name in capitals, with underscores.

    Refuses a body whose length could be read in two ways (RFC 9112, 6.1 and 6.3).

    waitress decodes such a request as chunked and goes on reading; a proxy in front may have
    gone by Content-Length, and what it took for a body would be served as a request.

    A body that is not small is taken only if *admitted* says so, when the head is there.
    Otherwise the request is complete without it: whoever looks at its head next is to refuse it.
    """

    completed: bool
    expect_continue: bool
    #: Why it is refused: an error of waitress's, or of ours.
    error: Any

    def __init__(self, adj: Any, admitted: Callable[[Parser], bool]) -> None:
        super().__init__(adj)
        self.headers: dict[str, str]
        self._admitted = admitted
        self._left = 0  # bytes of an ordinary body that are still to come
        self._body = io.BytesIO()

    # A request refused before these are known is still answered and logged.
    command = path = query = fragment = ""

    def received(self, data: bytes) -> int:
        """Take bytes from the client; return how many belong to this request."""
        if self._left:
            return self._take_body(data, 0)
        looked = self.headers_finished
        if not (looked or self.header_plus) and (end := self._read_ordinary(data)):
            return end + self._take_body(data, end)
        try:
            consumed = int(super().received(data))
        except OSError as error:  # a large body goes to a temporary file
            logger.error("a request's body cannot be kept: %s", error)
            self.body_rcv = None
            if error.errno in (errno.EMFILE, errno.ENFILE):
                self.error = Exhausted("the server has no file descriptor left", retry_after=1)
            else:
                self.error = InsufficientStorage("the server has no room for the request's body")
            self.completed = True
            return len(data)
        announced = self.headers_finished and not (looked or self.completed)
        # Worth asking: the body costs more than the connection that goes with its refusal.
        costly = self.chunked or self.expect_continue or self.content_length > SMALL
        if announced and costly and not self._admitted(self):
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

    def _read_ordinary(self, data: bytes) -> int:
        """Read the head at the start of *data*; return where it ends, 0 if it is not ordinary."""
        end = data.find(b"\r\n\r\n", 0, LONGEST)
        line, *lines = data[: max(end, 0)].decode("latin-1").split("\r\n")
        # Of a long head nothing is kept.
        request = (_request if end <= SHORT else _request.__wrapped__)(line)
        fields = map(_field if end <= SHORT else _field.__wrapped__, lines)
        headers = dict(filter(None, fields))
        length = headers.get("CONTENT_LENGTH", "0")
        if request is None or len(headers) < len(lines):  # one is odd, or there twice
            return 0
        is_small = length.isdigit() and len(length) < 6 and int(length) <= SMALL
        if not (is_small and _ODD.isdisjoint(headers) and _has_host(request[3], headers)):
            return 0
        self.command, self.path, self.query, self.version = request
        self.headers = headers
        self.headers_finished = True
        self._left = int(length)
        return end + 4

    def _take_body(self, data: bytes, at: int) -> int:
        """Take what *data* has from *at* of an ordinary body; return its size."""
        piece = data[at : at + self._left]
        self._left -= len(piece)
        if self._left or self.body_bytes_received:
            self._body.write(piece)
        else:
            self._body = io.BytesIO(piece)  # whole, as mostly: it is not copied
        self.body_bytes_received += len(piece)
        if not self._left:
            self._body.seek(0)
            self.completed = True
        return len(piece)

    def environ(self, channel: Any) -> dict[str, Any]:
        """Return the WSGI environ of the request, which came over *channel* (PEP 3333)."""
        path = self.path
        environ = {
            **channel.listener.variables,
            "REMOTE_ADDR": channel.host,
            "REQUEST_METHOD": self.command.upper(),
            "SERVER_PROTOCOL": "HTTP/1.1" if self.version == "1.1" else "HTTP/1.0",
            "PATH_INFO": "/" + path.lstrip("/") if path.startswith("//") else path,
            "QUERY_STRING": self.query,
            "wsgi.errors": sys.stderr,
            "wsgi.input": self.get_body_stream(),
            # Noticed only while something may be read: see channel_request_lookahead.
            "waitress.client_disconnected": lambda: not channel.connected,
        }
        environ.update(zip(map(_variable, self.headers), self.headers.values(), strict=True))
        return environ

    def get_body_stream(self) -> Any:
        """Return the body, to be read from its start."""
        return self._body if self.body_rcv is None else super().get_body_stream()

    def close(self) -> None:
        """Let the body go."""
        self._body.close()
        super().close()

    def parse_header(self, header_plus: bytes) -> None:
        """Parse the request line and the headers; raises ParsingError."""
        super().parse_header(header_plus)
        if not _has_host(self.version, self.headers):
            raise ParsingError("a request needs one Host header, an address with or without a port")
        codings = _CODING.findall(header_plus)
        if codings and "CONTENT_LENGTH" in self.headers:
            raise ParsingError("Content-Length together with Transfer-Encoding")
        if codings and self.version != "1.1":
            raise ParsingError("Transfer-Encoding before HTTP/1.1")
        if codings and [coding.strip().lower() for coding in codings] != [b"chunked"]:
            raise ParsingError("Transfer-Encoding is not chunked, once")
