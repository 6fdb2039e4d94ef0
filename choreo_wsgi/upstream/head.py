"""The head of a request, written, and the head of an answer, read."""

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

#: Bytes of a head that is worth remembering.
_SHORT = 2 * 1024

#: Content codings that a caller can undo (providers.answer), though identity is asked for.
_CODINGS = frozenset(("identity", "gzip", "x-gzip", "deflate"))

_END = re.compile(rb"\n\r?\n")
_STATUS = re.compile(rb"HTTP/1\.([01]) ([1-5][0-9][0-9])(?: ([^\r\n]*))?\r?\n")
_TOKEN = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_VALUE = re.compile(r"[\t\x20-\x7e\x80-\xff]*")


class Headers:
    """The headers of an answer; their names are found in any case."""

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
        """Return every header with its last value, the name in lower case."""
        return ((name, values[-1]) for name, values in self._values.items())

    def __contains__(self, name: str) -> bool:
        return name.lower() in self._values


@dataclass(slots=True)
class Head:
    """An answer's head; *keep_alive* is whether the connection may be used once more."""

    status: int
    reason: str
    headers: Headers
    keep_alive: bool
    framing: Framing


def request_head(
    method: str, target: str, host: str, headers: Mapping[str, str], size: int
) -> bytes:
    """Return the head of a request with a body of *size* bytes.

    Identity coding is asked for: a compressed answer could not be relayed frame by frame,
    and a small one may unpack to gigabytes.  Raises ConfigurationError for a header that
    cannot be sent.
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


@lru_cache(256)  # most are the same in all requests
def _line(name: str, value: str) -> str:
    if not (_TOKEN.fullmatch(name) and _VALUE.fullmatch(value)):
        # The value may be a key: it is not shown.
        raise ConfigurationError(f"the header {name!r} to a provider cannot be sent")
    return f"{name}: {value}\r\n"


def head_end(data: bytes, seen: int = 0) -> int:
    """Return where the head at the start of *data* ends, or -1 when it goes on.

    No end is in the first *seen* bytes: a head that comes byte by byte is looked through once.
    Raises FramingError for one that is too long.
    """
    found = _END.search(data, max(0, seen - 2))
    if (found.end() if found else len(data)) > MAX_HEAD:
        raise FramingError("its head is too long")
    return found.end() if found else -1


def parse_head(data: bytes, method: str) -> Head:
    """Return the head in *data*, which ends in an empty line, as the answer to *method*.

    Raises FramingError for what is not HTTP/1, and for a body whose end or coding is
    not clear.
    """
    # A long head is kept by nobody.
    read = _read_head if len(data) <= _SHORT else _read_head.__wrapped__
    new_head, new_framing = read(data, method)
    return new_head(new_framing())


@lru_cache(64)  # the answers of one second of a server of one's own have mostly the same
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
        keep = False  # RFC 9112 6.1: what follows may not be what it seems
    coding = headers.get("content-encoding", "identity").lower()
    if coding not in _CODINGS and not new_framing().done:
        raise FramingError(f"it is compressed with {coding[:40]!r}")
    reason = (match[3] or b"").decode("latin-1")
    return partial(Head, status, reason, headers, keep), new_framing


def _parse_headers(text: str) -> Headers:
    """Return the headers in *text*; a line that begins with white space belongs to the last.

    Not by the standard library, whose parser is made for mail and takes ten times as long.
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
    """Return the seconds that ``Retry-After`` or ``retry-after-ms`` asks to wait, or None.

    ``Retry-After`` is a number of seconds or a date (RFC 9110, section 10.2.3), which is read
    against the answer's own ``Date`` or else *now*, the time in seconds since 1970.
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
    from email.utils import parsedate_to_datetime  # seldom needed, and slow to import

    try:
        return parsedate_to_datetime(text).timestamp()
    except (TypeError, ValueError, OverflowError):
        return None
