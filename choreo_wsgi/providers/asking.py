"""How a provider behind HTTP is asked, whoever reads the answer."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from ..chat.items import new_call_id
from ..errors import ChoreoError
from ..late import Late
from ..settings import Settings
from ..upstream import Client, HTTPRequest, Timeouts
from .base import Provider

if TYPE_CHECKING:
    from ..chat import longtext
    from ..chat.request import ChatRequest
    from . import answer as answers
    from . import capabilities, failures
    from .answer import Asking
    from .capabilities import Capabilities
else:
    longtext = Late("choreo_wsgi.chat.longtext")
    answers = Late("choreo_wsgi.providers.answer")
    capabilities = Late("choreo_wsgi.providers.capabilities")
    failures = Late("choreo_wsgi.providers.failures")


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

    def able(self, model: str) -> Capabilities:
        """Return what *model* can do."""
        return capabilities.capabilities(model, self._overrides)

    def asking(
        self, request: ChatRequest, sent: HTTPRequest, foreign: bytes = b"{[<", **judged: Any
    ) -> Asking:
        """Return how *sent* is sent for *request* and, as :class:`Asking` has it, *judged*."""
        sent = self.signed(replace(sent, body=longtext.restore(sent.body, request.marks)))
        sent = replace(sent, headers={**sent.headers, **request.trace})  # proxies may change them
        judged = {"refused": self.error, "secrets": self.secrets, "foreign": foreign, **judged}
        return answers.Asking(lambda: self.client.send(sent), **judged)

    def signed(self, sent: HTTPRequest) -> HTTPRequest:
        """Return *sent*, which is complete, with its signature, where requests are signed."""
        return sent

    def error(self, status: int, headers: Mapping[str, str], body: bytes) -> ChoreoError:
        """Return what an answer that is not what was asked for means for our caller."""
        return failures.refusal(status, headers, body, time.time())

    def close(self) -> None:
        """Close the pooled connections."""
        self.client.close()
