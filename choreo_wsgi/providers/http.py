"""A provider that is reached over HTTP: two pure parts, and the IO between them.

A subclass of :class:`HTTPProvider` says what to send (:meth:`~HTTPProvider.encode`) and how
to read what comes back (a :class:`Translator`); neither touches a socket.  The subclass's
tests are recorded bytes, split anywhere.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Mapping
from typing import ClassVar

from .. import sse
from ..chat.items import Item, Json, Usage
from ..chat.request import ChatRequest
from ..chat.source import Source
from ..errors import ChoreoError, ProviderNotConfigured, UpstreamInvalid, from_provider
from ..settings import Settings
from ..upstream import Client, Exchange, HTTPRequest, Timeouts
from .base import Provider
from .reading import SHAPE_ERRORS, error_message, new_call_id, retry_after

#: An error's body is read up to here; the rest says nothing more.
_ERROR_BYTES = 64 * 1024


class Translator:
    """Turns the bytes of one answer, split anywhere, into items.

    ``ended`` is true once the provider's terminal event came; ``usage`` is what was
    reported so far.  A failure inside the answer is kept in ``failure`` while the items
    before it are returned; the next call raises it.
    """

    ended = False
    failure: ChoreoError | None = None

    def receive_data(self, data: bytes) -> list[Item]:
        """Take the next bytes; return the items that they complete, in order.

        Raises what the provider reported, and UpstreamInvalid for bytes without meaning,
        unless there are items to return first.
        """
        if self.failure is not None:
            raise self.failure
        items: list[Item] = []
        if self.ended:
            return items
        try:
            self.translate(data, items)
        except ChoreoError as error:
            self.failure = error
        except SHAPE_ERRORS as error:
            self.failure = _strange(error)
        if self.failure is not None and not items:
            raise self.failure
        return items

    def end(self) -> list[Item]:
        """Say that the bytes have ended; return what was held back for that.

        Raises UpstreamTruncated when the provider's terminal event was not seen.
        """
        if self.failure is not None:
            raise self.failure
        try:
            return self.finish()
        except SHAPE_ERRORS as error:
            raise _strange(error) from error

    @property
    def usage(self) -> Usage | None:
        """What the provider reported so far, or None."""
        return None

    def translate(self, data: bytes, items: list[Item]) -> None:
        """Append to *items* what *data* completes; sets ``ended``, raises ChoreoError."""
        raise NotImplementedError

    def finish(self) -> list[Item]:
        """Return what the end of the bytes completes, or raise UpstreamTruncated."""
        raise NotImplementedError


def _strange(error: Exception) -> UpstreamInvalid:
    return UpstreamInvalid(f"the provider's answer has an unknown shape: {error!r}")


class EventTranslator(Translator):
    """A translator of Server-Sent Events; *limit* bounds the bytes of one."""

    def __init__(self, limit: int = 8 * 1024 * 1024) -> None:
        self._decoder = sse.Decoder(limit, errors="strict")

    def events(self, data: bytes) -> list[sse.Event]:
        """Return the events that *data* completes; those before undecodable bytes too."""
        try:
            return self._decoder.receive_data(data)
        except sse.DecodeError as error:
            self.failure = UpstreamInvalid(f"the provider's answer cannot be read: {error}")
            return error.events


class HTTPSource(Source):
    """The answer in *exchange*, read by *translator*.

    *failed* turns an answer that is no stream into an error: it is given the status, the
    headers (their names in lower case) and the beginning of the body.  *hide* is a secret
    that no error may show.
    """

    def __init__(
        self,
        exchange: Exchange,
        translator: Translator,
        failed: Callable[[int, Mapping[str, str], bytes], ChoreoError],
        hide: str = "",
    ) -> None:
        self._exchange = exchange
        self._translator = translator
        self._failed = failed
        self._hide = hide
        self._failure: ChoreoError | None = None
        self._refusal: bytearray | None = None  # the body of an answer that is no stream
        self._streaming = False

    def receive(self, timeout: float) -> list[Item]:
        """Return what came within *timeout* seconds, in order; what came before a failure first."""
        if self._failure is not None:
            raise self._failure
        items: list[Item] = []
        if self.ended:
            return items
        try:
            self._receive(timeout, items)
            self.usage = self._translator.usage
        except ChoreoError as error:
            self._failure = hidden(error, self._hide)
            self.close()
            if not items:
                raise
        return items

    def _receive(self, timeout: float, items: list[Item]) -> None:
        try:
            data = self._exchange.receive(timeout)
        except ChoreoError:
            if self._refusal is not None:  # an error page that was cut says enough
                raise self._error() from None
            # All that matters may have come before the connection broke.
            if not self._streaming or not self._complete(items):
                raise
            return
        if not self._streaming and not self._begin(data):
            return
        if data:
            items += self._translator.receive_data(data)
            if self._translator.failure is not None:
                raise self._translator.failure
        if self._exchange.ended or self._translator.ended:
            items += self._translator.end()
            self._leave()

    def _begin(self, data: bytes) -> bool:
        """Look at the head, once it is there; whether the body is the stream asked for."""
        status = self._exchange.status
        if status is None:
            return False
        if self._refusal is None:
            kind = self._exchange.headers.get("content-type", "").partition(";")[0].strip().lower()
            if status == 200 and kind not in ("text/html", "application/json"):
                self._streaming = True
                return True
            self._refusal = bytearray()
        self._refusal += data[: _ERROR_BYTES - len(self._refusal)]
        if self._exchange.ended or len(self._refusal) >= _ERROR_BYTES:
            raise self._error()
        return False

    def _error(self) -> ChoreoError:
        exchange = self._exchange
        headers = {name.lower(): value for name, value in exchange.headers.items()}
        return self._failed(exchange.status or 0, headers, bytes(self._refusal or b""))

    def _complete(self, items: list[Item]) -> bool:
        try:
            items += self._translator.end()
        except ChoreoError:
            return False
        self._leave()
        return True

    def _leave(self) -> None:
        """The answer is complete: leave the connection to others, if it can be."""
        self.ended = True
        self._exchange.finish()

    def fileno(self) -> int | None:
        """Return the file descriptor to poll for more, or None while only asking tells."""
        return None if self.ended or self._failure is not None else self._exchange.fileno()

    def close(self) -> None:
        """Stop the generation."""
        self.usage = self._translator.usage
        self._exchange.close()


def hidden(error: ChoreoError, secret: str) -> ChoreoError:
    """Return *error* with ``***`` wherever its message had *secret*."""
    if secret and secret in error.message:
        error.message = error.message.replace(secret, "***")
        error.args = (error.message,)
    return error


class HTTPProvider(Provider):
    """A provider behind HTTP; see the module's text."""

    native: ClassVar[frozenset[str]] = frozenset(("max_tokens", "stop"))

    def __init__(self, name: str, options: Mapping[str, str], settings: Settings) -> None:
        super().__init__(name, options, settings)
        self.client = Client(
            Timeouts(settings.connect_timeout, settings.first_byte_timeout, settings.idle_timeout)
        )
        #: Makes the id of a tool call whose provider has none.
        self.new_call_id: Callable[[], str] = new_call_id

    @abstractmethod
    def encode(self, request: ChatRequest) -> HTTPRequest:
        """Return what to send for *request*; raises InvalidRequest for what cannot be sent."""

    @abstractmethod
    def translator(self, request: ChatRequest) -> Translator:
        """Return what reads the answer to *request*."""

    def open(self, request: ChatRequest) -> Source:
        """Begin to answer *request*."""
        exchange = self.client.send(self.encode(request))
        key = str(getattr(self.options, "api_key", ""))
        return HTTPSource(exchange, self.translator(request), self.error, key)

    def key(self) -> str:
        """Return the provider's key; raises ProviderNotConfigured when there is none."""
        if not self.options.api_key:
            raise ProviderNotConfigured(
                f"provider {self.name!r} has no key: set {' or '.join(self.facts.keys)}"
            )
        return str(self.options.api_key)

    def error(self, status: int, headers: Mapping[str, str], body: bytes) -> ChoreoError:
        """Return what an answer that is no stream means for our caller."""
        message, error = error_message(body)
        if status == 200:
            return UpstreamInvalid(message or "the provider answered with a page, not a stream")
        message = message or f"the provider answered {status}"
        status, code = self.meaning(status, headers, message, error)
        return from_provider(
            status, message, code=code, retry_after=retry_after(headers.get("retry-after"))
        )

    def meaning(
        self, status: int, headers: Mapping[str, str], message: str, error: Mapping[str, Json]
    ) -> tuple[int, str | None]:
        """Return the status and code that an error really means; *error* is its JSON object."""
        code = error.get("code")
        return status, code if isinstance(code, str) else None

    def close(self) -> None:
        """Close the pooled connections."""
        self.client.close()
