"""Providers that are reached over HTTP.

:class:`OverHTTP` sends requests and reports errors.  A subclass of :class:`HTTPProvider` adds two
pure parts: :meth:`~HTTPProvider.encode` makes the request, and a
:class:`~choreo_wsgi.providers.translating.Translator` reads the answer.  Neither uses a socket, so
the tests of a subclass are recorded bytes, split anywhere.
"""

from __future__ import annotations

import re
import time
from abc import abstractmethod
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, ClassVar

from ..chat.items import Json, Marks, new_call_id
from ..chat.longtext import dump_pieces, restore
from ..chat.source import Source
from ..errors import ChoreoError
from ..late import Late
from ..settings import Settings
from ..upstream.pool import Client
from ..upstream.request import HTTPRequest, Timeouts
from .base import Provider, empty_answer

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
    """A provider behind HTTP; how its answers are read is left to subclasses."""

    blocking = False

    def __init__(self, name: str, options: Mapping[str, str], settings: Settings) -> None:
        super().__init__(name, options, settings)
        own, names = self.options, ("connect_timeout", "first_byte_timeout", "idle_timeout")
        timeouts = Timeouts(*(getattr(own, name, 0) or getattr(settings, name) for name in names))
        self.client = Client(timeouts, unix_socket=getattr(own, "unix_socket", ""))
        #: Makes the ids of tool calls if the provider sends none.
        self.new_call_id: Callable[[], str] = new_call_id
        lines = getattr(own, "capabilities", ())
        self._overrides = capabilities.overrides(lines) if lines else []

    def capabilities(self, model: str) -> Capabilities:
        """Return the capabilities of *model*."""
        return capabilities.capabilities(model, self._overrides)

    def attempt(
        self, request: ChatRequest, sent: HTTPRequest, foreign: bytes = b"{[<", **options: Any
    ) -> Attempt:
        """Return the attempt to send *sent* for *request*; *options* are those of Attempt.

        *sent* is changed: the marks in its body are replaced by their strings, headers are added.
        """
        if request.marks and isinstance(sent.body, bytes):
            sent.body = restore(sent.body, request.marks)
        sent = self.signed(sent)
        sent.headers = {**sent.headers, **request.trace}  # not signed: proxies may change them
        options = {"to_error": self.error, "secrets": self.secrets, "foreign": foreign, **options}
        return answers.Attempt(lambda: self.client.send(sent), **options)

    def post(
        self, url: str, headers: dict[str, str], body: dict[str, Json], marks: Marks
    ) -> HTTPRequest:
        """Return the request that posts *body*, which may hold *marks*, to *url*."""
        headers = {"content-type": "application/json", **headers}
        return HTTPRequest("POST", url, headers, dump_pieces(body, marks))

    def signed(self, sent: HTTPRequest) -> HTTPRequest:
        """Return the complete request *sent* with a signature, if the API needs one."""
        return sent

    def error(self, status: int, headers: Mapping[str, str], body: bytes) -> ChoreoError:
        """Return the error for a response that is not the expected one."""
        return failures.response_error(status, headers, body, time.time())

    def close(self) -> None:
        self.client.close()


class HTTPProvider(OverHTTP):
    """A provider behind HTTP whose answers are translated; see the module's docstring."""

    native: ClassVar[frozenset[str]] = frozenset(("max_tokens", "stop"))
    #: Matches the tool names that the provider accepts; None if it accepts all.
    tool_names: ClassVar[re.Pattern[str] | None] = None
    #: Matches the error messages for a prompt that is too long; None if they are OpenAI's.
    too_long: ClassVar[re.Pattern[str] | None] = None

    @abstractmethod
    def encode(self, request: ChatRequest) -> HTTPRequest:
        """Return the HTTP request for *request*; raises InvalidRequest if it is not supported."""

    @abstractmethod
    def translator(self, request: ChatRequest) -> Translator:
        """Return a translator of the answer to *request*."""

    def open(self, request: ChatRequest) -> Source:
        if request.max_tokens == 0:
            return empty_answer(request.n)
        request, names = tools.fit_names(request, self.tool_names)
        sent, translator = self.encode(request), self.translator(request)
        events, unfold = isinstance(translator, translating.EventTranslator), translator.unfold
        attempt = self.attempt(request, sent, translator.foreign, events=events, unfold=unfold)
        return translating.HTTPSource(attempt, translator, names)

    def error(self, status: int, headers: Mapping[str, str], body: bytes) -> ChoreoError:
        """Return the error for a response; :meth:`meaning` finds its real status and code."""
        return failures.response_error(status, headers, body, time.time(), self.meaning)

    def meaning(
        self, status: int, headers: Mapping[str, str], message: str, error: Mapping[str, Json]
    ) -> tuple[int, str | None]:
        """Return the real status and the code of an error; *error* is its JSON object."""
        if self.too_long is None:
            code = error.get("code")
            return status, code if isinstance(code, str) else None
        named = failures.named_status(error)
        if named and named != 400:  # the least exact: some send invalid_request_error with a 429
            status = named
        if status in (400, 413) and self.too_long.search(message):
            return 400, "context_length_exceeded"
        return status, None
