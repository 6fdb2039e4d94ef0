"""The HTTP request of a WSGI environ: its bounded body, its id and its trace headers."""

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
    """An HTTP request: its WSGI environ and its account."""

    environ: Environ
    account: Account

    def client_left(self) -> bool:
        """Return whether the client has closed its connection; False if the server cannot know."""
        disconnected = self.environ.get("waitress.client_disconnected")
        return bool(disconnected and disconnected())


def new_call(environ: Environ, observers: Sequence[Observer]) -> Call:
    """Return the request of *environ* with a new account, which is reported to *observers*."""
    account = Account(
        id=request_id(environ),
        method=environ["REQUEST_METHOD"],
        path=environ.get("PATH_INFO", "") or "/",
        client=environ.get("REMOTE_ADDR") or "",
        observers=observers,
    )
    return Call(environ, account)


def trace(call: Call) -> dict[str, str]:
    """Return the headers that correlate the provider's log with the caller's and ours.

    These are the id of the request and the caller's W3C Trace Context, if it sent one.
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

    Never reads beyond ``CONTENT_LENGTH``.  A body without one (such as a chunked one) is read only
    if the server itself marks its end (``wsgi.input_terminated``).

    Raises UnsupportedMediaType, LengthRequired, BodyTooLarge, and InvalidRequest for an invalid
    length or a body that is shorter than its length.
    """
    _check_type(environ)
    length = _content_length(environ)
    limit = settings.max_body_bytes
    if length is not None and length > limit:
        raise _too_large(limit)
    try:
        body = _read(environ["wsgi.input"], limit + 1 if length is None else length)
    except Exception:  # malformed chunks, or the client left: each server has its own exceptions
        raise InvalidRequest("the body could not be read to its end") from None
    if len(body) > limit:
        raise _too_large(limit)
    if length is None and not body:
        raise LengthRequired("the request has no body or no Content-Length")
    if length is not None and len(body) < length:
        raise InvalidRequest(
            f"the body ended after {len(body)} of the {length} bytes of its Content-Length"
        )
    return body


#: Bodies above this size, in bytes, are parsed on a thread of their own, beside running streams.
LARGE = 64 * 1024

_one_large_body = threading.Lock()


def while_parsing(size: int) -> contextlib.AbstractContextManager[None]:
    """Return a context manager in which to parse a body of *size* bytes."""
    return _parsing_large() if size > LARGE else contextlib.nullcontext()


@contextlib.contextmanager
def _parsing_large() -> Iterator[None]:
    """Parse one large body at a time, and without the cyclic garbage collector.

    The parser holds several copies of a body, with four bytes per character if one is an emoji;
    parsing two at once would need twice the memory and be no faster.  A parser makes containers
    but no cycles; every few hundred of them would start a collection, now and then a full one.
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
    """Return the caller's ``x-request-id`` if it is safe to send back, else a new one."""
    id = environ.get("HTTP_X_REQUEST_ID", "")
    return str(id) if _VISIBLE.fullmatch(id) else "req_" + random_hex()


def _check_type(environ: Environ) -> None:
    content_type = str(environ.get("CONTENT_TYPE") or "")
    if content_type == "application/json" and "HTTP_CONTENT_ENCODING" not in environ:
        return
    # Only application/json is accepted.  A page of any site can make a browser send other types,
    # or none, without a preflight (Fetch, "CORS-safelisted request-header").
    if content_type.partition(";")[0].strip().lower() != "application/json":
        problem = f"not {content_type[:100]!r}" if content_type else "and the request has none"
        raise UnsupportedMediaType(
            f"the Content-Type must be application/json, {problem}; "
            "with curl add -H 'Content-Type: application/json'"
        )
    coding = str(environ.get("HTTP_CONTENT_ENCODING") or "identity")
    if coding.strip().lower() != "identity":
        raise UnsupportedMediaType("the body must be sent without a Content-Encoding")


def _content_length(environ: Environ) -> int | None:
    """Return the body's length in bytes, or None if the server marks its end."""
    chunked = environ.get("HTTP_TRANSFER_ENCODING")  # overrides a length (RFC 9112, 6.3)
    length = "" if chunked else environ.get("CONTENT_LENGTH") or ""
    if not length:
        if environ.get("wsgi.input_terminated"):
            return None
        if chunked:
            raise LengthRequired("this server accepts no chunked bodies; send a Content-Length")
        raise LengthRequired("the request has no body or no Content-Length")
    if not _DIGITS.fullmatch(length):
        # int() would accept +10, 1_0, spaces and the digits of other scripts.
        raise InvalidRequest("the Content-Length is not a number of bytes")
    return int(length)


def _read(source: BinaryIO, count: int) -> bytes:
    """Return *count* bytes, fewer at the end; one read may return fewer than requested."""
    body = source.read(count)
    while 0 < len(body) < count and (piece := source.read(count - len(body))):
        body += piece
    return body


def _too_large(limit: int) -> BodyTooLarge:
    return BodyTooLarge(f"the body is longer than {limit} bytes")
