"""A provider that is reached over HTTP: two pure parts, and the IO between them.

A subclass of :class:`HTTPProvider` says what to send (:meth:`~HTTPProvider.encode`) and how
to read what comes back (a :class:`~choreo_wsgi.providers.translating.Translator`); neither touches
a socket.  The subclass's tests are recorded bytes, split anywhere.
"""

from __future__ import annotations

import re
import time
from abc import abstractmethod
from collections.abc import Mapping
from typing import TYPE_CHECKING, ClassVar

from ..chat.items import Json
from ..chat.source import Source
from ..errors import ChoreoError, from_provider
from ..late import Late
from ..upstream import HTTPRequest
from .asking import OverHTTP
from .base import nothing

if TYPE_CHECKING:
    from ..chat.request import ChatRequest
    from . import failures, names, translating
    from .translating import Translator
else:
    failures = Late("choreo_wsgi.providers.failures")
    names = Late("choreo_wsgi.providers.names")
    translating = Late("choreo_wsgi.providers.translating")


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
        """Begin to answer *request*."""
        if request.max_tokens == 0:
            return nothing(request.n)
        request, known = names.fit_names(request, self.tool_names)
        sent, translator = self.encode(request), self.translator(request)
        events, unfold = isinstance(translator, translating.EventTranslator), translator.unfold
        asking = self.asking(request, sent, translator.foreign, events=events, unfold=unfold)
        return translating.HTTPSource(asking, translator, known)

    def error(self, status: int, headers: Mapping[str, str], body: bytes) -> ChoreoError:
        """Return the error in an answer; :meth:`meaning` says what it really means."""
        if status < 400:
            return super().error(status, headers, body)
        message, error = failures.read_body(body)
        message = message or f"the provider answered {status}"
        status, code = self.meaning(status, headers, message, error)
        wait = failures.retry_after(headers, time.time())
        wait = failures.retry_delay(error) if wait is None else wait
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
