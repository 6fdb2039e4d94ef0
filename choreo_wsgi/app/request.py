"""The HTTP request of a WSGI environ: its body, within limits, and its id."""

from __future__ import annotations

import contextlib
import gc
import re
import threading
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, BinaryIO

from ..errors import BodyTooLarge, InvalidRequest, LengthRequired, UnsupportedMediaType
from ..ids import random_hex
from ..settings import Settings
from .account import Account, Observer

Environ = Mapping[str, Any]
Headers = list[tuple[str, str]]

_VISIBLE = re.compile(r"[!-~]{1,128}")
# https://www.w3.org/TR/trace-context/#traceparent-header; a later version may be longer.
_TRACEPARENT = re.compile(r"[0-9a-f]{2}-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}(-[!-~]{0,64})?")
_TRACESTATE = re.compile(r"[ -~]{1,512}")
_DIGITS = re.compile(r"[0-9]{1,18}")


@dataclass(slots=True)
class Call:
    """A request that was admitted: its environ and its account."""

    environ: Environ
    account: Account

    def gone(self) -> bool:
        """Return whether the client has closed its connection, where the server can tell."""
        tell = self.environ.get("waitress.client_disconnected")
        return bool(tell and tell())


def new_call(environ: Environ, observers: Sequence[Observer]) -> Call:
    """Return the request of *environ* with its account, of which *observers* are told."""
    account = Account(
        id=request_id(environ),
        method=environ["REQUEST_METHOD"],
        path=environ.get("PATH_INFO", "") or "/",
        client=environ.get("REMOTE_ADDR") or "",
        observers=observers,
    )
    return Call(environ, account)


def trace(call: Call) -> dict[str, str]:
    """Return the headers that join a provider's log with the caller's and ours.

    These are the id of the request and, when the caller sent one, its W3C Trace Context.
    """
    headers = {"x-request-id": call.account.id}
    parent = call.environ.get("HTTP_TRACEPARENT", "")
    if _TRACEPARENT.fullmatch(parent):
        headers["traceparent"] = parent
        state = call.environ.get("HTTP_TRACESTATE", "")
        if _TRACESTATE.fullmatch(state):
            headers["tracestate"] = state
    return headers


def read_body(environ: Environ, settings: Settings) -> bytes:
    """Return the whole body of a JSON request, at most ``settings.max_body_bytes`` long.

    Not one byte is read beyond ``CONTENT_LENGTH``; without it, as in chunked bodies, only
    where the server marks the end itself (``wsgi.input_terminated``).

    Raises UnsupportedMediaType, LengthRequired, BodyTooLarge, and InvalidRequest for a
    length that is no number or a body shorter than it.
    """
    _check_type(environ)
    length = _content_length(environ)
    limit = settings.max_body_bytes
    if length is not None and length > limit:
        raise _too_large(limit)
    try:
        body = _read(environ["wsgi.input"], limit + 1 if length is None else length)
    except Exception:  # malformed chunks, or the caller has gone: each server has its own kind
        raise InvalidRequest("the body could not be read to its end") from None
    if len(body) > limit:
        raise _too_large(limit)
    if length is None and not body:
        raise LengthRequired("the request has no body, or none with a Content-Length")
    if length is not None and len(body) < length:
        raise InvalidRequest(
            f"the body ended after {len(body)} of the {length} bytes of its Content-Length"
        )
    return body


#: From this many bytes on, a body is parsed on a thread of its own, beside running streams.
LARGE = 64 * 1024

_one_large_body = threading.Lock()


def while_parsing(size: int) -> contextlib.AbstractContextManager[None]:
    """Return what prepares for the parsing of a body of *size* bytes, if that is large."""
    return _alone() if size > LARGE else contextlib.nullcontext()


@contextlib.contextmanager
def _alone() -> Iterator[None]:
    """Prepare for the parsing of a large body.

    One large body at a time: the parser has several copies of it, four bytes for each character
    where there is an emoji, and two at once would be no faster.  Without the cyclic collector:
    a parser makes containers and no cycles, yet each time that it has made some hundred of
    them the collector would look at others, and now and then at all that there are.
    """
    with _one_large_body:
        was_on = gc.isenabled()
        gc.disable()
        try:
            yield
        finally:
            if was_on:
                gc.enable()


def request_id(environ: Environ) -> str:
    """Return the caller's ``x-request-id`` if it can be sent back as it is, else a new one."""
    given = environ.get("HTTP_X_REQUEST_ID", "")
    if _VISIBLE.fullmatch(given):
        return str(given)
    return "req_" + random_hex()


def _check_type(environ: Environ) -> None:
    given = str(environ.get("CONTENT_TYPE") or "")
    if given == "application/json" and "HTTP_CONTENT_ENCODING" not in environ:
        return
    # Nothing but application/json: other types, or none, a browser sends to any site without
    # asking it first (Fetch, "CORS-safelisted request-header").
    if given.partition(";")[0].strip().lower() != "application/json":
        problem = f"not {given[:100]!r}" if given else "and none was given"
        raise UnsupportedMediaType(
            f"the Content-Type must be application/json, {problem}; "
            "with curl add -H 'Content-Type: application/json'"
        )
    coding = str(environ.get("HTTP_CONTENT_ENCODING") or "identity")
    if coding.strip().lower() != "identity":
        raise UnsupportedMediaType("the body must be sent without a Content-Encoding")


def _content_length(environ: Environ) -> int | None:
    """Return the body's length in bytes, or None when the server marks its end."""
    terminated = bool(environ.get("wsgi.input_terminated"))
    if environ.get("HTTP_TRANSFER_ENCODING"):  # overrides a length (RFC 9112, 6.3)
        if terminated:
            return None
        raise LengthRequired("this server takes no chunked bodies; send a Content-Length")
    given = environ.get("CONTENT_LENGTH") or ""
    if not given and not terminated:
        raise LengthRequired("the request has no body, or none with a Content-Length")
    if not given:
        return None
    if not _DIGITS.fullmatch(given):
        # int() would take +10, 1_0, spaces and the digits of other scripts.
        raise InvalidRequest("the Content-Length is not a number of bytes")
    return int(given)


def _read(source: BinaryIO, count: int) -> bytes:
    """Return *count* bytes, fewer at the end; some servers return less for each read."""
    body = source.read(count)
    while 0 < len(body) < count and (piece := source.read(count - len(body))):
        body += piece
    return body


def _too_large(limit: int) -> BodyTooLarge:
    return BodyTooLarge(f"the body is longer than {limit} bytes")
