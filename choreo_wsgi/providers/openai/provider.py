"""OpenAI, and any server with its chat completions over http, https or a unix socket."""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, ClassVar

from ...chat.items import Json
from ...chat.longtext import dump_pieces
from ...chat.source import Reply, Source
from ...errors import ChoreoError, ConfigurationError, ProviderError
from ...late import Late
from ...settings import Secret, Settings, setting
from ...upstream.request import HTTPRequest
from ..facts import BUILT_IN, CAPABILITIES
from ..http import OverHTTP

if TYPE_CHECKING:
    from ...chat import normalise
    from ...chat.answer import AnswerWriter
    from ...chat.request import ChatRequest
    from .. import answer as answers
    from .. import logprobs, native, translating
    from ..answer import Attempt
    from . import answer as relayed
    from . import chunks, relay, strict
else:
    normalise = Late("choreo_wsgi.chat.normalise")
    answers = Late("choreo_wsgi.providers.answer")
    logprobs = Late("choreo_wsgi.providers.logprobs")
    native = Late("choreo_wsgi.providers.native")
    translating = Late("choreo_wsgi.providers.translating")
    relayed = Late("choreo_wsgi.providers.openai.answer")
    chunks = Late("choreo_wsgi.providers.openai.chunks")
    relay = Late("choreo_wsgi.providers.openai.relay")
    strict = Late("choreo_wsgi.providers.openai.strict")

_OPENAIS = ("chat", "responses", "input_tokens", "compact")
_APIS = frozenset((*_OPENAIS, "messages", "count_tokens", "completions", "embeddings"))
_LIMITS = ("max_tokens", "max_completion_tokens")
#: Members of a request that depend on the capabilities of the model.
_CAPABILITY_MEMBERS = frozenset((*_LIMITS, "parallel_tool_calls"))

#: How long a list of models is cached, and how long a failure to get one, in seconds.
_LIST_SECONDS = 300.0
_NO_LIST_SECONDS = 30.0
#: Longest wait for the list, in seconds: a client waits for ours meanwhile.
_LIST_PATIENCE = 5.0


class OpenAI(OverHTTP):
    """Forwards requests and answers with as few changes as possible.

    Requests for streams always ask for usage.  If the upstream rejects that, the request is sent
    again without, and so are all later ones.
    """

    type = "openai"
    facts = BUILT_IN["openai"]
    native = frozenset({"n", "stop", "max_tokens"})
    takes_marks = True
    #: The APIs of a server of this type, unless the option ``apis`` is set.
    known_apis: ClassVar[tuple[str, ...]] = ("chat",)
    #: Whether the server rejects members that OpenAI's chat does not have, as OpenAI itself does.
    strict: bool = False
    #: Whether the server knows only ``max_tokens``, not the newer ``max_completion_tokens``.
    old_limit: ClassVar[bool] = False

    @dataclass(frozen=True)
    class Options:
        """Settings of an OpenAI-compatible provider; timeouts are in seconds."""

        base_url: str = setting("", "URL of the API, including /v1; empty: the provider's own")
        api_key: Secret = setting(Secret(""), "API key, or env:NAME")
        unix_socket: str = setting("", "path of a unix socket to connect to instead")
        headers: tuple[Secret, ...] = setting((), "more headers, NAME: VALUE, comma separated")
        apis: tuple[str, ...] = setting(
            (), "APIs that the upstream has, as chat, responses, messages"
        )
        repair: bool = setting(True, "mend answers that break the schema")
        capabilities: tuple[str, ...] = setting((), CAPABILITIES)
        usage: bool = setting(
            True, "ask for usage in streams; off if the server then sends nothing"
        )
        connect_timeout: float = setting(0.0, "0: as the server's setting", minimum=0)
        first_byte_timeout: float = setting(0.0, "0: as the server's setting", minimum=0)
        idle_timeout: float = setting(0.0, "0: as the server's setting", minimum=0)

    def __init__(self, name: str, options: Mapping[str, str], settings: Settings) -> None:
        super().__init__(name, options, settings)
        self._base_url = (self.options.base_url or self.facts.home).rstrip("/")
        known = self.known_apis
        if self.type == "openai" and self._base_url == OpenAI.facts.home:
            known, self.strict = _OPENAIS, True
        self.apis = frozenset((*(self.options.apis or known), "completions", "embeddings"))
        if unknown := self.apis - _APIS:
            raise ConfigurationError(f"provider {name}: apis: unknown: {', '.join(unknown)}")
        self._headers = self.request_headers()
        self._accepts_stream_options: bool | None = None  # None: unknown
        self._listed: tuple[float, list[str]] = (0.0, [])
        self._listing = threading.Lock()

    # -- hooks for subclasses --------------------------------------------------------

    def request_headers(self) -> dict[str, str]:
        """Return the headers of every request; raises ConfigurationError for an invalid one."""
        headers = {"Content-Type": "application/json"}
        if self.options.api_key:
            headers["Authorization"] = f"Bearer {str.__str__(self.options.api_key)}"
        for line in self.options.headers:
            name, colon, value = (part.strip() for part in line.partition(":"))
            if not (colon and name):
                raise ConfigurationError(f"provider {self.name}: headers: not NAME: VALUE")
            same = next((known for known in headers if known.lower() == name.lower()), name)
            headers[same] = value
        return headers

    def url(self, path: str, model: str) -> str:
        """Return the URL of *path* (as ``/models``) for *model*."""
        return f"{self._base_url}{path}"

    # -- answering -------------------------------------------------------------------

    def answer(self, request: ChatRequest, writer: AnswerWriter) -> Reply:
        """Begin to answer *request*: with the upstream's own bytes if it has the API of *writer*.

        Otherwise the upstream's chat is read as items, which *writer* turns into that API.
        """
        if writer.api in self.apis and writer.api != "chat" and not request.threaded:
            return self._forward(request, writer)
        if writer.api != "chat":
            return super().answer(request, writer)
        # The model's name in the request, if the upstream's is different.
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
        return relayed.RelayedDocument(attempt, label, writer, fold, mending, renamed)

    def _forward(self, request: ChatRequest, writer: AnswerWriter) -> Reply:
        """Answer with the events of the upstream, which has the API of *writer* itself."""
        body = {**(request.native or request.original or {}), "model": request.model}
        sent = self._post(request, body, native.DIALECTS[writer.api].path)
        if self.options.apis:
            return native.forward(self, request, writer, sent)
        reply = native.forward(self, request, writer, sent, to_error=native.route_error)

        def translate() -> Reply:
            self.apis -= {writer.api}
            return super(OpenAI, self).answer(request, writer)

        return native.WithFallback(reply, translate)

    def restored(self, request: ChatRequest) -> ChatRequest:
        """Return *request* itself: it is sent as it is."""
        return request

    def open(self, request: ChatRequest) -> Source:
        """Return the source of the answer to *request*, which reads the upstream's chunks."""
        if self.strict:
            request = strict.without_foreign_members(request)
        tools = _tool_names(request)
        return translating.HTTPSource(self._stream(request), self._translator(request.n, tools))

    def _translator(self, n: int, tools: frozenset[str]) -> chunks.OpenAITranslator:
        return chunks.OpenAITranslator(n, self.settings.max_event_bytes, self.new_call_id, tools)

    def prepare(self, body: dict[str, Json]) -> dict[str, Json]:
        """Return the *body* of a request as this upstream needs it; may change *body*."""
        if _CAPABILITY_MEMBERS.isdisjoint(body):
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
            # Without random padding all events follow one pattern.
            options.setdefault("include_obfuscation", False)
        body = self.prepare(body)

        def attempt(body: dict[str, Json]) -> Attempt:
            def on_success() -> None:
                self._accepts_stream_options = "stream_options" in body

            sent = self._post(request, body)
            return self.attempt(
                request, sent, unfold=lambda body: chunks.unfold(body), on_success=on_success
            )

        if not self.options.usage or self._accepts_stream_options is False:
            return attempt(body)

        def retry(status: int, text: bytes) -> Attempt | None:
            """Return the request without the options if they may be the reason of the refusal."""
            named = b"stream_options" in text or b"include_usage" in text
            maybe = status in (400, 422) and (named or self._accepts_stream_options is None)
            return attempt(body) if maybe else None

        first = attempt({**body, "stream_options": options})
        first.retry = retry
        return first

    def _post(
        self, request: ChatRequest, body: dict[str, Json], path: str = "/chat/completions"
    ) -> HTTPRequest:
        if self.lacks_key():
            self.key()
        url = self.url(path, request.model)
        return HTTPRequest("POST", url, self._headers, dump_pieces(body, request.marks))

    def models(self) -> list[str]:
        """Return the names of the upstream's models, at most some minutes old.

        One caller at a time requests the list.  The others get the last one, which may be empty:
        an upstream that does not answer must not block a thread for each.
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
        """Request the list of models; raises ChoreoError if the upstream fails."""
        exchange = self.client.send(HTTPRequest("GET", self.url("/models", ""), self._headers))
        deadline, limit = time.monotonic() + _LIST_PATIENCE, answers.MAX_DOCUMENT
        body = bytearray()
        try:
            while not exchange.ended and time.monotonic() < deadline and len(body) < limit:
                body += exchange.receive(0.25)
        finally:
            exchange.close()
        if exchange.status == 404:
            return []  # it has no list
        if exchange.status != 200:
            raise ProviderError("the provider did not send its list of models")
        data = logprobs.parse_into({}, bytes(body)).get("data")
        models = data if isinstance(data, list) else []
        names = [model.get("id") for model in models if isinstance(model, dict)]
        return [name for name in names if isinstance(name, str)]


def _tool_names(request: ChatRequest) -> frozenset[str]:
    """Return the names of the functions that the model may call."""
    tools = [tool.get("function") or {} for tool in request.body.get("tools") or ()]
    return frozenset([function["name"] for function in tools if "name" in function])
