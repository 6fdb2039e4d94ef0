"""Writing a request's head and parsing an answer's head."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache, partial

from ..errors import ConfigurationError
from ..version import __version__
from .framing import Framing, FramingError, UntilClose, framing_of

#: Longest head of an answer, status line included; haproxy and nginx allow less.
MAX_HEAD = 64 * 1024

_MAX_HEADERS = 100

#: Longest head whose parsed form is cached.
_SHORT = 2 * 1024

#: Content codings that callers can decode (providers.answer), although we request identity.
_CODINGS = frozenset(("identity", "gzip", "x-gzip", "deflate"))

_END = re.compile(rb"\n\r?\n")
_STATUS = re.compile(rb"HTTP/1\.([01]) ([1-5][0-9][0-9])(?: ([^\r\n]*))?\r?\n")
_TOKEN = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_VALUE = re.compile(r"[\t\x20-\x7e\x80-\xff]*")


class Headers:
    """The headers of an answer, with case-insensitive names."""

    def __init__(self, values: dict[str, list[str]] | None = None) -> None:
        self._values = values or {}  # by the name in lower case

    def get(self, name: str, default: str = "") -> str:
        """Return the first value of the header *name*."""
        values = self._values.get(name.lower())
        return values[0] if values else default

    def get_all(self, name: str, /) -> list[str] | None:
        """Return the values of all headers called *name*, or None."""
        return self._values.get(name.lower())

    def items(self) -> Iterator[tuple[str, str]]:
        """Return the name of every header, in lower case, with its last value."""
        return ((name, values[-1]) for name, values in self._values.items())

    def __contains__(self, name: str) -> bool:
        return name.lower() in self._values


@dataclass(slots=True)
class Head:
    """An answer's head; *keep_alive* is whether the connection may be used again."""

    status: int
    reason: str
    headers: Headers
    keep_alive: bool
    framing: Framing


def request_head(
    method: str, target: str, host: str, headers: Mapping[str, str], size: int
) -> bytes:
    """Return the head of a request with a body of *size* bytes.

    It requests the identity coding: a compressed answer could not be relayed frame by frame, and
    a small one may decompress to gigabytes.  Raises ConfigurationError for an invalid header.
    """
    fields = {
        "Host": host,
        "User-Agent": f"choreo-wsgi/{__version__}",
        "Accept-Encoding": "identity",
        **headers,
    }
    if size or method not in ("GET", "HEAD"):
        fields["Content-Length"] = str(size)
    lines = "".join(map(_line, fields, fields.values()))
    return f"{method} {target} HTTP/1.1\r\n{lines}\r\n".encode("latin-1")


@lru_cache(256)  # most lines are the same in all requests
def _line(name: str, value: str) -> str:
    if not (_TOKEN.fullmatch(name) and _VALUE.fullmatch(value)):
        # The value may be a key and is not shown.
        raise ConfigurationError(f"the header {name!r} to a provider has invalid characters")
    return f"{name}: {value}\r\n"


def head_end(data: bytes, seen: int = 0) -> int:
    """Return where the head at the start of *data* ends, or -1 if it is incomplete.

    The first *seen* bytes were searched before and have no end, so every byte is searched once.
    Raises FramingError for a head that is too long, or not of HTTP.
    """
    found = _END.search(data, max(0, seen - 2))
    if found is None and not b"HTTP/".startswith(data[:5]):
        raise FramingError("it is not HTTP")
    if (found.end() if found else len(data)) > MAX_HEAD:
        raise FramingError("its head is too long")
    return found.end() if found else -1


def parse_head(data: bytes, method: str) -> Head:
    """Parse *data*, an answer's head up to its empty line; *method* is the request's.

    Raises FramingError if it is not HTTP/1, or the body's length or coding is unclear.
    """
    # A long head would fill the cache's memory.
    read = _read_head if len(data) <= _SHORT else _read_head.__wrapped__
    new_head, new_framing = read(data, method)
    return new_head(new_framing())


@lru_cache(64)  # a self-hosted server's answers within one second mostly have the same head
def _read_head(data: bytes, method: str) -> tuple[Callable[[Framing], Head], Callable[[], Framing]]:
    match = _STATUS.match(data)
    if match is None:
        raise FramingError("it is not HTTP")
    headers = _parse_headers(data[match.end() :].decode("latin-1"))
    status = int(match[2])
    new_framing = framing_of(method, status, headers)
    options = headers.get("connection").lower()
    keep = "close" not in options if match[1] == b"1" else "keep-alive" in options
    keep = keep and new_framing is not UntilClose
    if "transfer-encoding" in headers and "content-length" in headers:
        keep = False  # RFC 9112, 6.1: possibly an attempt at request smuggling
    coding = headers.get("content-encoding", "identity").lower()
    if coding not in _CODINGS and not new_framing().done:
        raise FramingError(f"it is compressed with {coding[:40]!r}")
    reason = (match[3] or b"").decode("latin-1")
    return partial(Head, status, reason, headers, keep), new_framing


def _parse_headers(text: str) -> Headers:
    """Return the headers in *text*; a line that begins with white space continues the last.

    The standard library's parser is made for mail and takes ten times as long.
    Raises FramingError for more than 100 lines.
    """
    lines = [line for line in text.split("\n") if line.strip()]
    if len(lines) > _MAX_HEADERS:
        raise FramingError(f"it has more than {_MAX_HEADERS} headers")
    headers: dict[str, list[str]] = {}
    values: list[str] = []
    for line in lines:
        name, colon, value = line.partition(":")
        if line[:1] in (" ", "\t"):
            if values:
                values[-1] += " " + line.strip()
        elif colon:
            values = headers.setdefault(name.strip().lower(), [])
            values.append(value.strip(" \t\r"))
    return Headers(headers)


def retry_after(headers: Mapping[str, str], now: float) -> float | None:
    """Return the seconds to wait according to ``Retry-After`` or ``retry-after-ms``, or None.

    ``Retry-After`` is a number of seconds or a date (RFC 9110, section 10.2.3), relative to the
    answer's own ``Date`` or else to *now*, the time in seconds since 1970.
    """
    for name, unit in (("retry-after-ms", 1000.0), ("retry-after", 1.0)):
        text = headers.get(name, "").strip()
        if text.isascii() and text.replace(".", "", 1).isdigit():
            return min(float(text) / unit, 1e9)
    moment = _time(headers.get("retry-after", ""))
    if moment is None:
        return None
    return max(0.0, moment - (_time(headers.get("date", "")) or now))


def _time(text: str) -> float | None:
    from email.utils import parsedate_to_datetime  # rarely needed, and slow to import

    try:
        return parsedate_to_datetime(text).timestamp()
    except (TypeError, ValueError, OverflowError):
        return None
