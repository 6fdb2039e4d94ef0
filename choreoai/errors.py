"""The errors that a call can raise.

Their names are those of the openai package, so that code written for it catches them.
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
    """The base class of this package's errors."""

    def __init__(self, message: str = "", **members: Any) -> None:
        super().__init__(message)
        self.message = message
        vars(self).update(members)


class APIError(ChoreoAIError):
    """A call failed.

    *code*, *type* and *param* are those of the server's error object, None if it sent none;
    *body* is the decoded body that the server sent.  An error raised by a stream also holds the
    answer so far: *partial_text* (the first choice's text) and *partial* (an unfinished
    completion).  *request* is the request that was sent, if it is known.
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

    *headers* are those of the answer; their names are case-insensitive.  *content* is its whole
    body; *body* is the error object in it, or the whole decoded body if it has none.
    """

    status_code: int = 0
    headers: Mapping[str, str] = CaseInsensitiveDict()
    content: bytes = b""

    @property
    def response(self) -> APIStatusError:
        """This error itself, which has an answer's ``headers``, ``text`` and ``json()``."""
        return self

    @property
    def text(self) -> str:
        """The whole body as text."""
        return self.content.decode("utf-8", "replace")

    def json(self) -> Any:
        """Return the decoded body, or its text if it is not JSON."""
        return decoded(self.content)

    @property
    def request_id(self) -> str | None:
        """The ``x-request-id`` of the answer, which the server's log also shows."""
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
    """422: the request is well-formed but cannot be carried out."""


class RateLimitError(APIStatusError):
    """429: too many requests or tokens, or the quota is used up."""


class InternalServerError(APIStatusError):
    """500 and above: the server or its provider failed."""


class APIConnectionError(APIError, ConnectionError):
    """The server could not be reached, or the connection to it broke."""

    _no_retry = False  # True if a retry would fail in the same way, or could do harm


class APITimeoutError(APIConnectionError, TimeoutError):
    """A limit of :class:`choreoai.Timeout` passed."""


class StreamInterruptedError(APIConnectionError, ChunkedEncodingError):
    """A stream stopped before the answer was complete."""


class LengthFinishReasonError(ChoreoAIError):
    """The answer reached its token limit and cannot be parsed; *completion* is the answer."""

    completion: ChatCompletion


class ContentFilterFinishReasonError(ChoreoAIError):
    """The content filter ended the answer; it cannot be parsed.  *completion* is the answer."""

    completion: ChatCompletion


# In the order of their classes above.
_STATUSES = (400, 401, 403, 404, 409, 422, 429)
_BY_STATUS = dict(zip(_STATUSES, APIStatusError.__subclasses__(), strict=False))

# Codes of error frames that mean that the answer was cut behind the server.
_CUTS = frozenset(("upstream_truncated", "producer_lost", "server_shutting_down"))


def decoded(content: bytes) -> Any:
    """Return the JSON value in *content*; its text if that is not JSON, None if it is empty."""
    try:
        return json.loads(content)
    except (ValueError, RecursionError):
        return content.decode("utf-8", "replace") or None


def status_error(status: int, headers: Mapping[str, str], content: bytes) -> APIStatusError:
    """Return the error for an answer with *status* and the body *content*."""
    kind = _BY_STATUS.get(status, InternalServerError if status >= 500 else APIStatusError)
    message, details = _message_and_details(decoded(content))
    if 300 <= status < 400 and (target := headers.get("location")):
        message = f"the server redirects to {target}, and redirects are not followed"
    text = f"HTTP {status}: {message}" if message else f"HTTP {status}"
    details.update(status_code=status, headers=CaseInsensitiveDict(headers), content=content)
    return kind(text, **details)


def frame_error(body: Any) -> APIError:
    """Return the error for an error frame with the JSON *body*."""
    message, details = _message_and_details(body)
    kind = StreamInterruptedError if details["code"] in _CUTS else APIError
    return kind(message or "the server reported an error", **details)


def incomplete_error(reason: str | None, completion: ChatCompletion) -> ChoreoAIError | None:
    """Return the error for a *completion* that cannot be parsed because of its finish *reason*."""
    if reason == "length":
        text = "the answer reached its token limit"
        return LengthFinishReasonError(text, completion=completion)
    if reason == "content_filter":
        text = "the content filter ended the answer"
        return ContentFilterFinishReasonError(text, completion=completion)
    return None


def _message_and_details(body: Any) -> tuple[str, dict[str, Any]]:
    """Return the message of an error, in any form that servers use, and its other members."""
    error = (body.get("error") or body) if isinstance(body, dict) else body
    details: dict[str, Any] = {"body": error}
    for name in ("code", "type", "param"):
        value = error.get(name) if isinstance(error, dict) else None
        details[name] = None if value is None else str(value)
    return error_words(error, places=True).strip()[:500], details
