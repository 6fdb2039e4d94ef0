"""OpenAI, and everything that speaks its chat completions over http, https or a unix socket."""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, ClassVar

from ...chat.items import Json, dump_large
from ...chat.source import Reply, Source
from ...errors import ChoreoError, ConfigurationError
from ...late import Late
from ...settings import Secret, Settings, setting
from ...upstream import HTTPRequest
from ..facts import BUILT_IN, CAPABILITIES
from ..http import OverHTTP

if TYPE_CHECKING:
    from ...chat import normalise
    from ...chat.answer import AnswerWriter
    from ...chat.request import ChatRequest
    from .. import native, reading, translating
    from ..answer import Attempt
    from . import answer as relayed
    from . import chunks, relay, strict
else:
    normalise = Late("choreo_wsgi.chat.normalise")
    native = Late("choreo_wsgi.providers.native")
    reading = Late("choreo_wsgi.providers.reading")
    translating = Late("choreo_wsgi.providers.translating")
    relayed = Late("choreo_wsgi.providers.openai.answer")
    chunks = Late("choreo_wsgi.providers.openai.chunks")
    relay = Late("choreo_wsgi.providers.openai.relay")
    strict = Late("choreo_wsgi.providers.openai.strict")

_OPENAIS = ("chat", "responses", "input_tokens", "compact")
_APIS = frozenset((*_OPENAIS, "messages", "count_tokens", "completions", "embeddings"))
_LIMITS = ("max_tokens", "max_completion_tokens")
_ABLE = frozenset((*_LIMITS, "parallel_tool_calls"))  # depends on what the model can do

#: How long a list of models is believed, and how long the lack of one, in seconds.
_LIST_SECONDS = 300.0
_NO_LIST_SECONDS = 30.0
#: A list that takes longer is not waited for: somebody waits for ours.
_LIST_PATIENCE = 5.0
#: Longest plain completion that is passed on, in bytes.
_MAX_REPLY = 64 * 1024 * 1024


class OpenAI(OverHTTP):
    """Passes requests and answers through, and changes nothing but what must change.

    The upstream is always asked for usage.  One that refuses to be asked is asked once more
    without, and from then on.
    """

    type = "openai"
    facts = BUILT_IN["openai"]
    native = frozenset({"n", "stop", "max_tokens"})
    takes_marks = True
    #: The APIs that a server of this type is known to speak, without the option ``apis``.
    known_apis: ClassVar[tuple[str, ...]] = ("chat",)
    #: Whether it refuses members that OpenAI's chat does not have, as OpenAI itself does.
    strict: bool = False
    #: Whether it does not know the newer name of ``max_tokens``, ``max_completion_tokens``.
    old_limit: ClassVar[bool] = False

    @dataclass(frozen=True)
    class Options:
        """Settings of an OpenAI-compatible provider; timeouts are in seconds."""

        base_url: str = setting("", "where the API is, up to and with /v1; empty: its own address")
        api_key: Secret = setting(Secret(""), "its key, or env:NAME")
        unix_socket: str = setting("", "path of a unix socket to connect to instead")
        headers: tuple[Secret, ...] = setting((), "more headers, NAME: VALUE, comma separated")
        apis: tuple[str, ...] = setting(
            (), "APIs that the upstream itself speaks, as chat, responses, messages"
        )
        repair: bool = setting(True, "mend what the upstream gets wrong")
        capabilities: tuple[str, ...] = setting((), CAPABILITIES)
        usage: bool = setting(True, "ask for usage in streams; off for one that this silences")
        connect_timeout: float = setting(0.0, "0: the server's", minimum=0)
        first_byte_timeout: float = setting(0.0, "0: the server's", minimum=0)
        idle_timeout: float = setting(0.0, "0: the server's", minimum=0)

    def __init__(self, name: str, options: Mapping[str, str], settings: Settings) -> None:
        super().__init__(name, options, settings)
        given = self.options
        self._base_url = (given.base_url or self.facts.home).rstrip("/")
        known = self.known_apis
        if self.type == "openai" and self._base_url == OpenAI.facts.home:
            known, self.strict = _OPENAIS, True
        self.apis = frozenset((*(given.apis or known), "completions", "embeddings"))
        if unknown := self.apis - _APIS:
            raise ConfigurationError(f"provider {name}: apis: {', '.join(unknown)} is no API")
        self._headers = self.request_headers()
        # None: not known yet.
        self._takes_stream_options: bool | None = None
        self._listed: tuple[float, list[str]] = (0.0, [])
        self._listing = threading.Lock()

    # -- what a relative may do otherwise --------------------------------------------

    def request_headers(self) -> dict[str, str]:
        """Return the headers of every request; raises ConfigurationError for wrong ones."""
        headers = {"Content-Type": "application/json"}
        if self.options.api_key:
            headers["Authorization"] = f"Bearer {str.__str__(self.options.api_key)}"
        for line in self.options.headers:
            name, colon, value = (part.strip() for part in line.partition(":"))
            if not (colon and name):
                raise ConfigurationError(f"provider {self.name}: headers: not NAME: VALUE")
            headers[name] = value
        return headers

    def url(self, path: str, model: str) -> str:
        """Return the URL of *path* (as ``/models``) for *model*."""
        return f"{self._base_url}{path}"

    # -- answering -------------------------------------------------------------------

    def answer(self, request: ChatRequest, writer: AnswerWriter) -> Reply:
        """Begin to answer *request*: chat with the upstream's own bytes, else with items."""
        if writer.api in self.apis and writer.api != "chat" and not request.threaded:
            return self._pass_on(request, writer)
        if writer.api != "chat":
            return super().answer(request, writer)
        # The name that was asked for, where the upstream knows the model by another.
        renamed = writer.model if writer.model != request.model else ""
        label, limit = self.label(request.model), self.settings.max_event_bytes
        tools, repair = _tool_names(request), self.options.repair
        mending = partial(
            normalise.Normaliser,
            *(request.n, writer.identity, renamed, repair, self.new_call_id, tools),
        )
        if request.stream:
            events = relay.EventRelay(mending(), request.include_usage, limit, label)
            return relayed.RelayedStream(self._stream(request), events, label)
        fold = partial(self._translator, request.n, tools)
        attempt = self._document(request)
        return relayed.RelayedDocument(attempt, label, writer, fold, mending, renamed, _MAX_REPLY)

    def _pass_on(self, request: ChatRequest, writer: AnswerWriter) -> Reply:
        """Answer a request of an API that the upstream itself speaks with its own events."""
        body = {**(request.native or request.original or {}), "model": request.model}
        sent = self._post(request, body, native.DIALECTS[writer.api].path)
        to_error = self.error if self.options.apis else native.route_error
        reply = native.forward(self, request, writer, sent, to_error=to_error)
        if self.options.apis:
            return reply

        def translate() -> Reply:
            self.apis -= {writer.api}
            return super(OpenAI, self).answer(request, writer)

        return native.WithFallback(reply, translate)

    def open(self, request: ChatRequest) -> Source:
        """Begin to answer *request*; the source reads the upstream's chunks."""
        if self.strict and request.original is not None:
            request = strict.without_hints(request)
        tools = _tool_names(request)
        return translating.HTTPSource(self._stream(request), self._translator(request.n, tools))

    def _translator(self, n: int, tools: frozenset[str]) -> chunks.OpenAITranslator:
        return chunks.OpenAITranslator(n, self.settings.max_event_bytes, self.new_call_id, tools)

    def prepare(self, body: dict[str, Json]) -> dict[str, Json]:
        """Return *body*, what is sent for a request, as this upstream needs it; may change it."""
        if _ABLE.isdisjoint(body):
            return body
        caps = self.capabilities(body["model"])
        if self.old_limit and "max_completion_tokens" in body:
            body["max_tokens"] = body.pop("max_completion_tokens")
        for name in _LIMITS:
            if body.get(name):
                body[name] = caps.limit(body[name])
        if caps.parallel == "one":
            body.pop("parallel_tool_calls", None)
        return body

    def _document(self, request: ChatRequest) -> Attempt:
        body = {**request.body, "model": request.model, "stream": False}
        body.pop("stream_options", None)
        return self.attempt(request, self._post(request, self.prepare(body)), b"")

    def _stream(self, request: ChatRequest) -> Attempt:
        body = {**request.body, "model": request.model, "n": request.n, "stream": True}
        if "n" not in request.body and request.n == 1:
            del body["n"]
        options = {**(body.pop("stream_options", None) or {}), "include_usage": True}
        if self._base_url == OpenAI.facts.home:
            # Padding that differs in every event hides that they are alike.
            options.setdefault("include_obfuscation", False)
        body = self.prepare(body)

        def attempt(body: dict[str, Json]) -> Attempt:
            def on_success() -> None:
                if self.options.usage:
                    self._takes_stream_options = "stream_options" in body

            sent = self._post(request, body)
            return self.attempt(
                request, sent, unfold=lambda body: chunks.unfold(body), on_success=on_success
            )

        if not self.options.usage or self._takes_stream_options is False:
            return attempt(body)

        def retry(status: int, text: bytes) -> Attempt | None:
            """Leave the options out if they may be what was refused; sure once they were taken."""
            named = b"stream_options" in text or b"include_usage" in text
            may_be = status in (400, 422) and (named or self._takes_stream_options is None)
            return attempt(body) if may_be else None

        first = attempt({**body, "stream_options": options})
        first.retry = retry
        return first

    def _post(
        self, request: ChatRequest, body: dict[str, Json], path: str = "/chat/completions"
    ) -> HTTPRequest:
        if self.lacks_key():
            self.key()
        url = self.url(path, request.model)
        return HTTPRequest("POST", url, self._headers, dump_large(body))

    def models(self) -> list[str]:
        """Return the models that the upstream lists, at most some minutes old.

        One caller at a time asks for the list; the others get the last one, or none yet: an
        upstream that does not answer must not hold up a thread for each.
        """
        until, names = self._listed
        if time.monotonic() < until or not self._listing.acquire(blocking=False):
            return names
        try:
            names, seconds = self._list(), _LIST_SECONDS
        except ChoreoError:
            seconds = _NO_LIST_SECONDS
        finally:
            self._listing.release()
        self._listed = (time.monotonic() + seconds, names)
        return names

    def _list(self) -> list[str]:
        """Ask for the list; raises ChoreoError when there is none."""
        exchange = self.client.send(HTTPRequest("GET", self.url("/models", ""), self._headers))
        deadline = time.monotonic() + _LIST_PATIENCE
        body = bytearray()
        try:
            while not exchange.ended and time.monotonic() < deadline and len(body) < _MAX_REPLY:
                body += exchange.receive(0.25)
        finally:
            exchange.close()
        listed = exchange.status == 200
        data = reading.parse_object(bytes(body), reading.MAX_VALUES).get("data") if listed else None
        models = data if isinstance(data, list) else []
        names = [model.get("id") for model in models if isinstance(model, dict)]
        return [name for name in names if isinstance(name, str)]


def _tool_names(request: ChatRequest) -> frozenset[str]:
    """Return the names of the functions that *request* offers."""
    tools = [tool.get("function") or {} for tool in request.body.get("tools") or ()]
    return frozenset([function["name"] for function in tools if "name" in function])
