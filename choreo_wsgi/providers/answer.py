"""A request to an OpenAI-compatible server: sent, perhaps once more, and judged."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from email.message import Message

from ..errors import ChoreoError, UpstreamInvalid
from ..upstream import Exchange
from .reading import parse_object, provider_error, retry_after

#: An error's body is read up to here; the rest says nothing more.
_ERROR_BYTES = 64 * 1024


@dataclass(frozen=True)
class Answers:
    """How a call is begun and judged.

    *begin* sends the request, with ``stream_options`` or without; *refused* is told a
    refusal's status and body and says whether to ask once more without; *accepted* is told
    which way worked.  *secret* never shows in an error.
    """

    begin: Callable[[bool], Exchange]
    refused: Callable[[int, bytes], bool]
    accepted: Callable[[bool], None]
    secret: str = ""


class Call:
    """An exchange whose answer is what was asked for, or an error.

    *options* is whether the first try has ``stream_options``; *stream* whether events are
    expected.
    """

    def __init__(self, answers: Answers, options: bool, stream: bool) -> None:
        self._answers = answers
        self._options = options
        self._stream = stream
        self._exchange = answers.begin(options)
        self._good = False
        self._body: bytearray | None = None  # of an answer that is not what was asked for
        self._failure: ChoreoError | None = None

    @property
    def ended(self) -> bool:
        """Whether the answer was returned to its end."""
        return self._good and self._exchange.ended

    def receive(self, timeout: float) -> bytes:
        """Return what came of the answer within *timeout* seconds.

        Raises the provider's error, and UpstreamInvalid for a page where events were
        expected.
        """
        if self._failure is not None:
            raise self._failure
        try:
            return self._receive(timeout)
        except ChoreoError as error:
            self._failure = self.hide(error)
            self._exchange.close()
            raise

    def hide(self, error: ChoreoError) -> ChoreoError:
        """Return *error* with ``***`` wherever its message had the secret."""
        secret = self._answers.secret
        if secret and secret in error.message:
            error.message = error.message.replace(secret, "***")
            error.args = (error.message,)
        return error

    def _receive(self, timeout: float) -> bytes:
        exchange = self._exchange
        try:
            data = exchange.receive(timeout)
        except ChoreoError:
            if self._body is not None:  # an error page that was cut says enough
                return self._refuse()
            raise
        if self._good:
            return data
        if exchange.status is None:
            return b""
        if self._body is None:
            if exchange.status == 200 and not (self._stream and _is_page(exchange.headers)):
                self._good = True
                self._answers.accepted(self._options)
                return data
            self._body = bytearray()
        self._body += data
        if exchange.ended or len(self._body) >= _ERROR_BYTES:
            return self._refuse()
        return b""

    def _refuse(self) -> bytes:
        """Raise what the answer means, or ask once more without ``stream_options``."""
        exchange, body = self._exchange, bytes(self._body or b"")
        assert exchange.status is not None
        if self._options and self._answers.refused(exchange.status, body):
            exchange.close()
            self._options, self._body = False, None
            self._exchange = self._answers.begin(False)
            return b""
        raise _error(exchange.status, exchange.headers, body)

    def fileno(self) -> int | None:
        """Return the file descriptor to poll, or None."""
        return self._exchange.fileno()

    def finish(self) -> None:
        """Leave the connection to others if nothing but the answer's end is still to come."""
        self._exchange.finish()

    def close(self) -> None:
        """Break the exchange off."""
        self._exchange.close()


def _is_page(headers: Message) -> bool:
    kind = (headers.get("Content-Type") or "").partition(";")[0].strip().lower()
    return kind in ("text/html", "application/json")


def _error(status: int, headers: Message, body: bytes) -> ChoreoError:
    try:
        value = parse_object(body)
    except UpstreamInvalid:
        value = None
    if status == 200:
        if value is not None and value.get("error"):
            return provider_error(value)
        return UpstreamInvalid("the provider answered with a page where a stream was asked for")
    if 300 <= status < 400 or status < 200:
        return UpstreamInvalid(f"the provider answered {status}, which is not followed")
    if value is None:
        text = body[:500].decode("utf-8", "replace").strip()
        shown = text if text and "<" not in text else f"the provider answered {status}"
        value = {"message": shown}
    return provider_error(value, status, retry_after(headers.get("Retry-After")))
