"""A provider that is reached over HTTP: two pure parts, and the IO between them.

A subclass of :class:`HTTPProvider` says what to send (:meth:`~HTTPProvider.encode`) and how
to read what comes back (a :class:`Translator`); neither touches a socket.  The subclass's
tests are recorded bytes, split anywhere.
"""

from __future__ import annotations

import re
import time
from abc import abstractmethod
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import replace
from typing import TYPE_CHECKING, Any, ClassVar

from .. import sse
from ..chat.items import Item, Json, Marks, Usage, new_call_id
from ..chat.source import Lane, Source
from ..errors import ChoreoError, ProviderNotConfigured, UpstreamInvalid, from_provider
from ..late import Late
from ..settings import Settings
from ..upstream import Client, HTTPRequest, Timeouts
from .answer import Asking, UpstreamAnswer
from .base import Provider, nothing
from .reading import SHAPE_ERRORS, parse_object, unknown_shape

if TYPE_CHECKING:
    from ..chat import aside, longtext
    from ..chat.answer import AnswerWriter
    from ..chat.request import ChatRequest
    from ..chat.source import Reply
    from . import capabilities, failures, native, translating
    from . import names as toolnames
    from .capabilities import Capabilities
    from .openai import pattern
else:
    aside = Late("choreo_wsgi.chat.aside")
    longtext = Late("choreo_wsgi.chat.longtext")
    capabilities = Late("choreo_wsgi.providers.capabilities")
    failures = Late("choreo_wsgi.providers.failures")
    native = Late("choreo_wsgi.providers.native")
    pattern = Late("choreo_wsgi.providers.openai.pattern")
    toolnames = Late("choreo_wsgi.providers.names")
    translating = Late("choreo_wsgi.providers.translating")


class Translator:
    """Turns the bytes of one answer, split anywhere, into items.

    ``ended`` is true once the provider's terminal event came; ``usage`` is what was
    reported so far.  A failure inside the answer is kept in ``failure`` while the items
    before it are returned; the next call raises it.
    """

    ended = False
    failure: ChoreoError | None = None
    #: What is around a plain text in the next events, probably; what came last is looked at.
    ends: tuple[bytes, bytes] | None = None
    #: With these bytes no body begins that this reads.
    foreign = b"{[<"

    def __init__(self) -> None:
        #: What the marks stand for that are in the place of long strings until the items are
        #: returned.
        self.marks: Marks = {}

    def shorten(self, text: bytes) -> bytes:
        """Return *text*, JSON, with marks for its long strings."""
        return aside.shorten_into(self.marks, text)

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
            self.failure = unknown_shape(error)
        if self.failure is not None and not items:
            raise self.failure
        return self._spread(items)

    def _spread(self, items: list[Item]) -> list[Item]:
        marks = getattr(self, "marks", None)  # others' translators have no constructor to call
        if marks:
            items = list(translating.spread(items, marks))
            marks.clear()
        return items

    def end(self) -> list[Item]:
        """Say that the bytes have ended; return what was held back for that.

        Raises UpstreamTruncated when the provider's terminal event was not seen.
        """
        if self.failure is not None:
            raise self.failure
        try:
            return self._spread(self.finish())
        except SHAPE_ERRORS as error:
            raise unknown_shape(error) from error

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

    @staticmethod
    def unfold(body: bytes) -> bytes | None:
        """Return the bytes of the stream that says what *body*, a whole document, says.

        Servers and proxies that cannot stream send one all the same.  None if it is something else.
        """
        return None


class EventTranslator(Translator):
    """A translator of Server-Sent Events; *limit* bounds the bytes of one.

    *decoder* is what reads them.
    """

    def __init__(
        self, limit: int = 8 * 1024 * 1024, decoder: type[sse.Decoder] = sse.Decoder
    ) -> None:
        super().__init__()
        self._decoder = decoder(limit, errors="strict")
        self._limit = limit
        self._decoder.shorten = self.shorten

    def events(self, data: bytes) -> list[sse.Event]:
        """Return the events that *data* completes; those before undecodable bytes too."""
        try:
            return self._decoder.receive_data(data)
        except sse.DecodeError as error:
            self.failure = UpstreamInvalid(f"the provider's answer cannot be read: {error}")
            return error.events

    def objects(self, data: bytes) -> Iterator[dict[str, Json]]:
        """Yield the JSON objects of the events that *data* completes: not of empty keep-alives,
        nor of the end marker that some put behind answers that have none."""
        for event in self.events(data):
            if event.data.strip() not in ("", "[DONE]"):
                yield parse_object(event.data)


class HTTPSource(UpstreamAnswer, Source):
    """The answer to *asking*, read by *translator*.

    *names* are the names of tools that were made for the provider, and what they stand for.
    """

    def __init__(
        self, asking: Asking, translator: Translator, names: Mapping[str, str] | None = None
    ) -> None:
        super().__init__(asking)
        self._translator = translator
        self._names = names or {}

    def receive(self, timeout: float) -> list[Item]:
        """Return what came within *timeout* seconds, in order; what came before a failure first."""
        if self._failure is not None:
            raise self._failure
        items: list[Item] = []
        if self.ended:
            return items
        try:
            self._receive(timeout, items)
        except ChoreoError as error:
            self.fail(error)
            if not items:
                raise
        finally:
            self.usage = self._translator.usage
        if self._names:
            toolnames.restore_names(items, self._names)
        return items

    def _receive(self, timeout: float, items: list[Item]) -> None:
        translator = self._translator
        try:
            data = self.read(timeout)
        except ChoreoError:
            if not self.good:
                raise
            # All that matters may have come before the connection broke.
            with suppress(ChoreoError):
                items += translator.end()
                self._leave()
            if not self.ended:
                raise
            return
        if data:
            items += translator.receive_data(data)
            if translator.failure is not None:
                raise translator.failure
        if self.body_ended or translator.ended:
            items += translator.end()
            self._leave()

    def _leave(self) -> None:
        """The answer is complete: leave the connection to others, if it can be."""
        self.ended, self._failure = True, None
        self.finish()

    def lane(self, ends: tuple[bytes, bytes]) -> Lane | None:
        """Return a lane for events of a plain text, which becomes a frame with these *ends*."""
        came = self._translator.ends
        if came is None or self.ended or self._failure is not None:
            return None
        return self.new_lane(pattern.new_pattern(*came, *ends), plain=True)

    def close(self) -> None:
        """Stop the generation."""
        self.usage = self._translator.usage
        super().close()


class HTTPProvider(Provider):
    """A provider behind HTTP; see the module's text."""

    native: ClassVar[frozenset[str]] = frozenset(("max_tokens", "stop"))
    blocking = False
    #: What the provider takes as the name of a tool; None: whatever there is.
    tool_names: ClassVar[re.Pattern[str] | None] = None
    #: How an error says that the prompt is too long.  None: errors have OpenAI's words for that.
    too_long: ClassVar[re.Pattern[str] | None] = None

    def __init__(self, name: str, options: Mapping[str, str], settings: Settings) -> None:
        super().__init__(name, options, settings)
        self.client = Client(
            Timeouts(settings.connect_timeout, settings.first_byte_timeout, settings.idle_timeout)
        )
        #: Makes the id of a tool call whose provider has none.
        self.new_call_id: Callable[[], str] = new_call_id
        given = getattr(self.options, "capabilities", ())
        self._overrides = capabilities.overrides(given) if given else []

    def able(self, request: ChatRequest) -> Capabilities:
        """Return what the model of *request* can do."""
        return capabilities.capabilities(request.model, self._overrides)

    @abstractmethod
    def encode(self, request: ChatRequest) -> HTTPRequest:
        """Return what to send for *request*; raises InvalidRequest for what cannot be sent."""

    @abstractmethod
    def translator(self, request: ChatRequest) -> Translator:
        """Return what reads the answer to *request*."""

    def open(self, request: ChatRequest) -> Source:
        """Begin to answer *request*."""
        if request.max_tokens == 0:
            return nothing(request.n)
        request, names = toolnames.fit_names(request, self.tool_names)
        sent, translator = self.encode(request), self.translator(request)
        events, unfold = isinstance(translator, EventTranslator), translator.unfold
        asking = self.asking(request, sent, translator.foreign, events=events, unfold=unfold)
        return HTTPSource(asking, translator, names)

    def asking(
        self, request: ChatRequest, sent: HTTPRequest, foreign: bytes, **judged: Any
    ) -> Asking:
        """Return how *sent* is sent for *request* and, as :class:`Asking` has it, *judged*."""
        sent = self.signed(replace(sent, body=longtext.restore(sent.body, request.marks)))
        sent = replace(sent, headers={**sent.headers, **request.trace})  # proxies may change them
        judged = {"refused": self.error, "secrets": self.secrets, **judged}
        return Asking(lambda: self.client.send(sent), foreign, **judged)

    def signed(self, sent: HTTPRequest) -> HTTPRequest:
        """Return *sent*, which is complete, with its signature, where requests are signed."""
        return sent

    def passed_on(
        self,
        request: ChatRequest,
        writer: AnswerWriter,
        sent: HTTPRequest,
        unwrap: Callable[[bytes], bytes] | None = None,
        **judged: Any,
    ) -> Reply:
        """Return the answer to *sent* in the provider's own words, which are those of *writer*."""
        asking = self.asking(request, sent, b"{[<" if request.stream else b"", **judged)
        label, limit = self.label(request.model), self.settings.max_event_bytes
        reply: Reply = native.NativeReply(
            asking, writer, request.model, label, request.stream, limit, unwrap
        )
        return reply

    def key(self) -> str:
        """Return the provider's key; raises ProviderNotConfigured when there is none."""
        if not self.options.api_key:
            raise ProviderNotConfigured(
                f"provider {self.name!r} has no key: set {' or '.join(self.facts.keys)}"
            )
        return str(self.options.api_key)

    def error(self, status: int, headers: Mapping[str, str], body: bytes) -> ChoreoError:
        """Return what an answer that is no stream means for our caller."""
        if status < 400:
            return failures.refusal(status, headers, body, time.time())
        message, error = failures.read_body(body)
        message = message or f"the provider answered {status}"
        status, code = self.meaning(status, headers, message, error)
        wait = failures.retry_after(headers, time.time())
        return from_provider(status, message, code=code, retry_after=wait)

    def meaning(
        self, status: int, headers: Mapping[str, str], message: str, error: Mapping[str, Json]
    ) -> tuple[int, str | None]:
        """Return the status and code that an error really means; *error* is its JSON object."""
        if self.too_long is None:
            code = error.get("code")
            return status, code if isinstance(code, str) else None
        status = failures.named_status(error) or status
        if status in (400, 413) and self.too_long.search(message):
            return 400, "context_length_exceeded"
        return status, None

    def close(self) -> None:
        """Close the pooled connections."""
        self.client.close()
