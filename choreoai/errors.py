"""What can go wrong in a call.

The names are those of the openai package, so that code written for it catches the same.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from requests.exceptions import ChunkedEncodingError
from requests.structures import CaseInsensitiveDict

from choreo_wsgi.chat.errorwords import error_words

if TYPE_CHECKING:
    from .models import ChatCompletion


class ChoreoAIError(Exception):
    """The base of all errors that this package raises on its own account."""

    def __init__(self, message: str = "", **members: Any) -> None:
        super().__init__(message)
        self.message = message
        vars(self).update(members)


class APIError(ChoreoAIError):
    """A call failed.

    *code*, *type* and *param* are those of the server's error object, None when it sent
    none; *body* is what the server sent, decoded.  An error raised by a stream also holds
    the answer as far as it came: *partial_text* (the first choice's text) and *partial*
    (all of it, as an unfinished completion).  *request* is what was sent, if it is known.
    """

    code: str | None = None
    type: str | None = None
    param: str | None = None
    body: Any = None
    request: Any = None
    partial_text: str = ""
    partial: ChatCompletion | None = None


class APIStatusError(APIError):
    """The server answered with a status that is not a success.

    *headers* are those of the answer; their names are found in any case.  *content* is its whole
    body, and *body* the error object in that, or all of it, if there is none.
    """

    status_code: int = 0
    headers: Mapping[str, str] = CaseInsensitiveDict()
    content: bytes = b""

    @property
    def response(self) -> APIStatusError:
        """This error, which has what is asked of an answer: ``headers``, ``text``, ``json()``."""
        return self

    @property
    def text(self) -> str:
        """The whole body as text."""
        return self.content.decode("utf-8", "replace")

    def json(self) -> Any:
        """Return the whole body, decoded; its text, if it is not JSON."""
        return decoded(self.content)

    @property
    def request_id(self) -> str | None:
        """The ``x-request-id`` of the answer, by which the server's log knows the call."""
        return self.headers.get("x-request-id")


class BadRequestError(APIStatusError):
    """400: the request is wrong."""


class AuthenticationError(APIStatusError):
    """401: the API key is missing or wrong."""


class PermissionDeniedError(APIStatusError):
    """403: the API key may not do this."""


class NotFoundError(APIStatusError):
    """404: no such model, stream or path."""


class ConflictError(APIStatusError):
    """409: the request contradicts an earlier one."""


class UnprocessableEntityError(APIStatusError):
    """422: the request can be read but not carried out."""


class RateLimitError(APIStatusError):
    """429: too many requests or tokens, or the quota is used up."""


class InternalServerError(APIStatusError):
    """500 and above: the server or its provider failed."""


class APIConnectionError(APIError, ConnectionError):
    """The server could not be reached, or the connection to it broke."""

    _hopeless = False  # whether another try would find the same, or do harm


class APITimeoutError(APIConnectionError, TimeoutError):
    """A limit of :class:`choreoai.Timeout` passed."""


class StreamInterruptedError(APIConnectionError, ChunkedEncodingError):
    """A stream stopped before the answer was complete."""


class LengthFinishReasonError(ChoreoAIError):
    """An answer that was to be parsed reached its token limit; *completion* is that answer."""

    completion: ChatCompletion


class ContentFilterFinishReasonError(ChoreoAIError):
    """An answer that was to be parsed was filtered; *completion* is that answer."""

    completion: ChatCompletion


# In the order of their classes.
_STATUSES = (400, 401, 403, 404, 409, 422, 429)
_BY_STATUS = dict(zip(_STATUSES, APIStatusError.__subclasses__(), strict=False))

# The answer broke off behind the server: for the caller that is a cut like any other.
_CUTS = frozenset(("upstream_truncated", "producer_lost", "server_shutting_down"))


def decoded(content: bytes) -> Any:
    """Return the JSON value in *content*, or else its text, None if it is empty."""
    try:
        return json.loads(content)
    except (ValueError, RecursionError):
        return content.decode("utf-8", "replace") or None


def status_error(status: int, headers: Mapping[str, str], content: bytes) -> APIStatusError:
    """Return the error for an answer with *status* and the body *content*."""
    kind = _BY_STATUS.get(status, InternalServerError if status >= 500 else APIStatusError)
    message, details = _read(decoded(content))
    if 300 <= status < 400 and (place := headers.get("location")):
        message = f"the server redirects to {place}, and redirects are not followed"
    text = f"HTTP {status}: {message}" if message else f"HTTP {status}"
    details.update(status_code=status, headers=CaseInsensitiveDict(headers), content=content)
    return kind(text, **details)


def frame_error(body: Any) -> APIError:
    """Return the error that an error frame with the JSON *body* stands for."""
    message, details = _read(body)
    kind = StreamInterruptedError if details["code"] in _CUTS else APIError
    return kind(message or "the server reported an error", **details)


def unparsable(reason: str | None, completion: ChatCompletion) -> ChoreoAIError | None:
    """Return why the answer *completion*, ended for *reason*, is not parsed; None if it can be."""
    if reason == "length":
        text = "the answer reached its token limit"
        return LengthFinishReasonError(text, completion=completion)
    if reason == "content_filter":
        text = "the content filter ended the answer"
        return ContentFilterFinishReasonError(text, completion=completion)
    return None


def _read(body: Any) -> tuple[str, dict[str, Any]]:
    """Return the words of an error, as several servers write it, and its members."""
    error = (body.get("error") or body) if isinstance(body, dict) else body
    details: dict[str, Any] = {"body": error}
    for name in ("code", "type", "param"):
        value = error.get(name) if isinstance(error, dict) else None
        details[name] = None if value is None else str(value)
    return error_words(error, places=True).strip()[:500], details
