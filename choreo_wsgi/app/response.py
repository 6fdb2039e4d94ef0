"""The answer to a request, before it is sent."""

from __future__ import annotations

import errno
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

from .. import apis
from ..chat.items import dump
from ..errors import ChoreoError, Exhausted
from ..streams.stream import EventStream
from .request import Environ, Headers


@dataclass(slots=True)
class Response:
    """An HTTP answer: status, headers and a WSGI body."""

    status: int
    headers: Headers = field(default_factory=list)
    body: Iterable[bytes] = field(default_factory=list)

    def close(self) -> None:
        """Close a body that will not be sent."""
        if isinstance(self.body, EventStream | Document):
            self.body.close()


class Document(list[bytes]):
    """A body of one block; *on_close* is called once, when the server has sent or dropped it."""

    def __init__(self, body: bytes, on_close: Callable[[], None]) -> None:
        super().__init__((body,))
        self._on_close: Callable[[], None] | None = on_close

    def close(self) -> None:
        """Call *on_close*: the last byte was sent, or never will be; idempotent."""
        on_close, self._on_close = self._on_close, None
        if on_close is not None:
            on_close()


def document(
    body: bytes,
    status: int = 200,
    headers: Headers | None = None,
    on_close: Callable[[], None] | None = None,
) -> Response:
    """Return the response that carries the JSON document *body*; see :class:`Document`."""
    head = [("Content-Type", "application/json"), ("Content-Length", str(len(body)))]
    blocks = [body] if on_close is None else Document(body, on_close)
    return Response(status, head + (headers or []), blocks)


def json_response(value: Any, status: int = 200) -> Response:
    """Return the response that carries *value* as JSON."""
    return document(dump(value), status)


def error_response(error: ChoreoError, environ: Environ) -> Response:
    """Return the response that reports *error* in the format of the API of *environ*."""
    path = environ.get("PATH_INFO", "")
    if path.startswith("/v1/messages") or "HTTP_ANTHROPIC_VERSION" in environ:
        name = "messages"
    else:
        name = "responses" if path.startswith("/v1/responses") else "chat"
    return error_answer(error, *apis.load(name).error(error))


def error_answer(error: ChoreoError, status: int, body: bytes) -> Response:
    """Return the response that reports *error* with this *status* and *body*."""
    headers = [*error.response_headers(), ("Content-Length", str(len(body)))]
    return Response(status, headers, [body])


def visible(text: str) -> str:
    """Return *text* as a valid header value: every character but printable ASCII as ``?``."""
    if text.isascii() and text.isprintable():
        return text
    return "".join(char if " " <= char <= "~" else "?" for char in text)


def unexpected(error: Exception, message: str) -> ChoreoError:
    """Return the error to answer for an unexpected *error*: a 500 with *message*.

    If no file descriptor was free (so that not even a module could be imported) it is Exhausted.
    """
    if isinstance(error, OSError) and error.errno in (errno.EMFILE, errno.ENFILE):
        return Exhausted("the server has no file descriptor left", retry_after=1)
    return ChoreoError(message)
