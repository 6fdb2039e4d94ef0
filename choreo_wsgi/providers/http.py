"""A provider that is reached over HTTP: two pure parts, and the IO between them.

:class:`OverHTTP` is how it is asked, whoever reads the answer.  A subclass of
:class:`HTTPProvider` says what to send (:meth:`~HTTPProvider.encode`) and how to read what comes
back (a :class:`~choreo_wsgi.providers.translating.Translator`); neither touches a socket.  The
subclass's tests are recorded bytes, split anywhere.
"""

from __future__ import annotations

import re
import time
from abc import abstractmethod
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, ClassVar

from ..chat.items import Json, dump_large, new_call_id
from ..chat.longtext import restore
from ..chat.source import Source
from ..errors import ChoreoError
from ..late import Late
from ..settings import Settings
from ..upstream import Client, HTTPRequest, Timeouts
from .base import Provider, nothing

if TYPE_CHECKING:
    from ..chat.request import ChatRequest
    from . import answer as answers
    from . import capabilities, failures, tools, translating
    from .answer import Attempt
    from .capabilities import Capabilities
    from .translating import Translator
else:
    answers = Late("choreo_wsgi.providers.answer")
    capabilities = Late("choreo_wsgi.providers.capabilities")
    failures = Late("choreo_wsgi.providers.failures")
    tools = Late("choreo_wsgi.providers.tools")
    translating = Late("choreo_wsgi.providers.translating")


class OverHTTP(Provider):
    """A provider behind HTTP, and how it is asked."""

    blocking = False

    def __init__(self, name: str, options: Mapping[str, str], settings: Settings) -> None:
        super().__init__(name, options, settings)
        given, names = self.options, ("connect_timeout", "first_byte_timeout", "idle_timeout")
        waits = [getattr(given, name, 0) or getattr(settings, name) for name in names]
        self.client = Client(Timeouts(*waits), unix_socket=getattr(given, "unix_socket", ""))
        #: Makes the id of a tool call whose provider has none.
        self.new_call_id: Callable[[], str] = new_call_id
        lines = getattr(given, "capabilities", ())
        self._overrides = capabilities.overrides(lines) if lines else []

    def capabilities(self, model: str) -> Capabilities:
        """Return what *model* can do."""
        return capabilities.capabilities(model, self._overrides)

    def attempt(
        self, request: ChatRequest, sent: HTTPRequest, foreign: bytes = b"{[<", **judged: Any
    ) -> Attempt:
        """Return how *sent* is sent for *request* and, as :class:`Attempt` has it, *judged*.

        *sent* is taken over: it gets its long strings and more headers.
        """
        if request.marks:
            sent.body = restore(sent.body, request.marks)
        sent = self.signed(sent)
        sent.headers = {**sent.headers, **request.trace}  # not signed: proxies may change them
        judged = {"to_error": self.error, "secrets": self.secrets, "foreign": foreign, **judged}
        return answers.Attempt(lambda: self.client.send(sent), **judged)

    def post(self, url: str, headers: dict[str, str], body: dict[str, Json]) -> HTTPRequest:
        """Return what posts *body*, in which the marks of its request may be, to *url*."""
        headers = {"content-type": "application/json", **headers}
        return HTTPRequest("POST", url, headers, dump_large(body))

    def signed(self, sent: HTTPRequest) -> HTTPRequest:
        """Return *sent*, which is complete, with its signature, where requests are signed."""
        return sent

    def error(self, status: int, headers: Mapping[str, str], body: bytes) -> ChoreoError:
        """Return what an answer that is not what was asked for means for our caller."""
        return failures.response_error(status, headers, body, time.time())

    def close(self) -> None:
        self.client.close()


class HTTPProvider(OverHTTP):
    """A provider behind HTTP whose answers are translated; see the module's text."""

    native: ClassVar[frozenset[str]] = frozenset(("max_tokens", "stop"))
    #: What the provider takes as the name of a tool; None: whatever there is.
    tool_names: ClassVar[re.Pattern[str] | None] = None
    #: How an error says that the prompt is too long.  None: errors have OpenAI's words for that.
    too_long: ClassVar[re.Pattern[str] | None] = None

    @abstractmethod
    def encode(self, request: ChatRequest) -> HTTPRequest:
        """Return what to send for *request*; raises InvalidRequest for what cannot be sent."""

    @abstractmethod
    def translator(self, request: ChatRequest) -> Translator:
        """Return what reads the answer to *request*."""

    def open(self, request: ChatRequest) -> Source:
        if request.max_tokens == 0:
            return nothing(request.n)
        request, known = tools.fit_names(request, self.tool_names)
        sent, translator = self.encode(request), self.translator(request)
        events, unfold = isinstance(translator, translating.EventTranslator), translator.unfold
        attempt = self.attempt(request, sent, translator.foreign, events=events, unfold=unfold)
        return translating.HTTPSource(attempt, translator, known)

    def error(self, status: int, headers: Mapping[str, str], body: bytes) -> ChoreoError:
        """Return the error in an answer; :meth:`meaning` says what it really means."""
        return failures.response_error(status, headers, body, time.time(), self.meaning)

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
