"""Parsing of requests: ordinary ones here, all others by waitress.

An ordinary request is one that all HTTP parsers read alike: a head in one piece, of plain
characters, without a repeated header, and a small body with Content-Length.  Nearly every request
is ordinary, and is parsed here in a third of the time.  All others are parsed by waitress; some
that waitress accepts are rejected.
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

#: Longest body that is received even if the request is then refused, which keeps the connection.
SMALL = 64 * 1024

#: Longest ordinary head, in bytes.
LONGEST = 16 * 1024

#: Longest head whose lines are cached, in bytes.
SHORT = 4 * 1024

#: The method, the path and the query of the target, and the version.
_REQUEST = re.compile(
    r"([A-Z]{1,16}) (/(?:[\w.~-][\w.~/-]*)?)(?:\?([\w.~/=&%+:,-]*))? HTTP/(1\.[01])", re.ASCII
)
_FIELD = re.compile(r"([A-Za-z0-9-]{1,64}):([\t -~]*)", re.ASCII)
_CODING = re.compile(rb"(?im)^transfer-encoding[ \t]*:(.*(?:\n[ \t].*)*)")
_HOST = re.compile(r"[\w.~%!$&'()*+;=:\[\]-]*", re.ASCII)
#: Headers that change how the body is received.
_ODD = frozenset(("TRANSFER_ENCODING", "EXPECT"))

logger = logging.getLogger(__name__)

#: Longest size line of a chunk with its extensions, and longest trailer, in bytes.  waitress
#: searches an incomplete one from its start again for each packet.
MAX_CHUNK_LINE = 1024
MAX_TRAILER = 8 * 1024


@dataclass(frozen=True)
class Limits:
    """The settings that waitress's parser reads; sizes are in bytes."""

    max_request_body_size: int
    max_request_header_size: int = 65536
    inbuf_overflow: int = 512 * 1024
    url_scheme: str = "http"


@lru_cache(256)
def _request(line: str) -> tuple[str, str, str, str] | None:
    """Return method, path, query and version of the request line, None if it is not ordinary."""
    match = _REQUEST.fullmatch(line)
    return None if match is None else (match[1], match[2], match[3] or "", match[4])


@lru_cache(256)  # most lines are the same in all requests of one client library
def _field(line: str) -> tuple[str, str] | None:
    """Return a header's name, in waitress's form, and its value, None if it is not ordinary."""
    match = _FIELD.fullmatch(line)
    return None if match is None else (match[1].upper().replace("-", "_"), match[2].strip(" \t"))


def _has_host(version: str, headers: Mapping[str, str]) -> bool:
    """Return whether Host is valid; only HTTP/1.0 may leave it out (RFC 9112, 3.2)."""
    return _HOST.fullmatch(headers.get("HOST", "" if version == "1.0" else " ")) is not None


@lru_cache(256)
def _variable(name: str) -> str:
    """Return the environ's name of the header *name* (RFC 3875, 4.1)."""
    return name if name in ("CONTENT_TYPE", "CONTENT_LENGTH") else f"HTTP_{name}"


class Parser(HTTPRequestParser):
    """A request; ``headers`` has each name in capitals, with underscores.

    Rejects a body whose length is ambiguous (RFC 9112, 6.1 and 6.3).  waitress would decode such
    a body as chunked and parse the rest as the next request; a proxy in front that goes by
    Content-Length would have forwarded that rest as body (request smuggling).

    A body that is not small is received only if *admit* returns True for the head.  Otherwise the
    request is complete without its body, and the application must refuse it by its head.
    """

    completed: bool
    expect_continue: bool
    #: Why it is rejected: an error of waitress or of ours.
    error: Any

    def __init__(self, adj: Any, admit: Callable[[Parser], bool]) -> None:
        super().__init__(adj)
        self.headers: dict[str, str]
        self._admit = admit
        self._left = 0  # bytes of an ordinary body that are not received yet
        self._body = io.BytesIO()

    # Defaults, because a request rejected before they are parsed is also answered and logged.
    command = path = query = fragment = ""

    def received(self, data: bytes) -> int:
        """Parse *data*; return how many of its bytes belong to this request."""
        if self._left:
            return self._receive_body(data, 0)
        had_head = self.headers_finished
        if not (had_head or self.header_plus) and (end := self._parse_ordinary(data)):
            return end + self._receive_body(data, end)
        if data.startswith(b"\x16") and not (had_head or self.header_plus):
            # A TLS handshake, which has no empty line to end the head.
            self.error = BadRequest("this port speaks plain http, not https")
            self.completed = True
            return len(data)
        try:
            consumed = int(super().received(data))
        except OSError as error:  # a large body goes to a temporary file
            logger.error("a request's body cannot be stored: %s", error)
            self.body_rcv = None
            if error.errno in (errno.EMFILE, errno.ENFILE):
                self.error = Exhausted("the server has no file descriptor left", retry_after=1)
            else:
                self.error = InsufficientStorage("the server has no room for the request's body")
            self.completed = True
            return len(data)
        has_body = self.headers_finished and not (had_head or self.completed)
        # Refusing before the body costs the connection: only worth it for a large body.
        costly = self.chunked or self.expect_continue or self.content_length > SMALL
        if has_body and costly and not self._admit(self):
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
            self.expect_continue = False  # rejected: the client need not send the body
        return consumed

    def _parse_ordinary(self, data: bytes) -> int:
        """Parse the head at the start of *data*; return where it ends, 0 if it is not ordinary."""
        end = data.find(b"\r\n\r\n", 0, LONGEST)
        line, *lines = data[: max(end, 0)].decode("latin-1").split("\r\n")
        # The lines of a long head are not cached.
        request = (_request if end <= SHORT else _request.__wrapped__)(line)
        fields = map(_field if end <= SHORT else _field.__wrapped__, lines)
        headers = dict(filter(None, fields))
        length = headers.get("CONTENT_LENGTH", "0")
        if request is None or len(headers) < len(lines):  # a header is not ordinary or repeated
            return 0
        is_small = length.isdigit() and len(length) < 6 and int(length) <= SMALL
        if not (is_small and _ODD.isdisjoint(headers) and _has_host(request[3], headers)):
            return 0
        self.command, self.path, self.query, self.version = request
        self.headers = headers
        self.headers_finished = True
        self._left = int(length)
        return end + 4

    def _receive_body(self, data: bytes, at: int) -> int:
        """Store the part of an ordinary body that begins at *at* in *data*; return its size."""
        piece = data[at : at + self._left]
        self._left -= len(piece)
        if self._left or self.body_bytes_received:
            self._body.write(piece)
        else:
            self._body = io.BytesIO(piece)  # usually the whole body: it is not copied
        self.body_bytes_received += len(piece)
        if not self._left:
            self._body.seek(0)
            self.completed = True
        return len(piece)

    def environ(self, channel: Any) -> dict[str, Any]:
        """Return the WSGI environ of the request, received over *channel* (PEP 3333)."""
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
            # Updated only while the channel reads: see waitress's channel_request_lookahead.
            "waitress.client_disconnected": lambda: not channel.connected,
        }
        environ.update(zip(map(_variable, self.headers), self.headers.values(), strict=True))
        return environ

    def get_body_stream(self) -> Any:
        """Return the body as a file."""
        return self._body if self.body_rcv is None else super().get_body_stream()

    def close(self) -> None:
        """Free the body."""
        self._body.close()
        super().close()

    def parse_header(self, header_plus: bytes) -> None:
        """Parse the request line and the headers; raises ParsingError."""
        try:
            super().parse_header(header_plus)
        except ValueError:  # more digits than Python converts
            raise ParsingError("Content-Length is too long") from None
        if not _has_host(self.version, self.headers):
            raise ParsingError("a request needs one Host header, an address with or without a port")
        codings = _CODING.findall(header_plus)
        if codings and "CONTENT_LENGTH" in self.headers:
            raise ParsingError("a request cannot have Content-Length and Transfer-Encoding")
        if codings and self.version != "1.1":
            raise ParsingError("Transfer-Encoding needs HTTP/1.1")
        if codings and [coding.strip().lower() for coding in codings] != [b"chunked"]:
            raise ParsingError("Transfer-Encoding must be chunked, once")
