"""OpenAI, and everything that speaks its chat completions over http, https or a unix socket."""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass

from ...chat.answer import AnswerWriter
from ...chat.items import dump
from ...chat.request import ChatRequest
from ...chat.source import Reply, Source
from ...errors import ChoreoError, ConfigurationError, ProviderNotConfigured
from ...settings import Secret, Settings, setting
from ...upstream import Client, Exchange, HTTPRequest, Timeouts
from ..answer import Answers, Call
from ..base import Provider
from ..facts import BUILT_IN
from ..reading import parse_object
from .answer import ChunkSource, RelayFrames, RelayReply
from .chunks import OpenAIChunks
from .relay import EventRelay, Rewriting

#: How long a list of models is believed, and how long the lack of one, in seconds.
_LIST_SECONDS = 300.0
_NO_LIST_SECONDS = 30.0
#: A list that takes longer is not waited for: somebody waits for ours.
_LIST_PATIENCE = 5.0
#: Longest plain completion that is passed on, in bytes.
_MAX_REPLY = 64 * 1024 * 1024


class OpenAI(Provider):
    """Passes requests and answers through; of the answers only what must change is touched.

    The upstream is always asked for usage.  One that refuses to be asked is asked once more
    without, and from then on.
    """

    type = "openai"
    facts = BUILT_IN["openai"]
    native = frozenset({"n", "stop", "max_tokens"})

    @dataclass(frozen=True)
    class Options:
        """Settings of an OpenAI-compatible provider; timeouts are in seconds."""

        base_url: str = setting("", "where the API is, up to and with /v1; empty: its own address")
        api_key: Secret = setting(Secret(""), "its key, or env:NAME")
        unix_socket: str = setting("", "path of a unix socket to connect to instead")
        headers: tuple[str, ...] = setting((), "more headers, NAME: VALUE, comma separated")
        repair: bool = setting(True, "mend what the upstream gets wrong")
        connect_timeout: float = setting(0.0, "0: the server's", minimum=0)
        first_byte_timeout: float = setting(0.0, "0: the server's", minimum=0)
        idle_timeout: float = setting(0.0, "0: the server's", minimum=0)

    def __init__(self, name: str, options: Mapping[str, str], settings: Settings) -> None:
        super().__init__(name, options, settings)
        given = self.options
        timeouts = Timeouts(
            given.connect_timeout or settings.connect_timeout,
            given.first_byte_timeout or settings.first_byte_timeout,
            given.idle_timeout or settings.idle_timeout,
        )
        self.client = Client(timeouts, unix_socket=given.unix_socket)
        self._base_url = (given.base_url or self.facts.home).rstrip("/")
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
        if writer.api != "chat":
            return super().answer(request, writer)
        # The name that was asked for, where the upstream knows the model by another.
        renamed = writer.model if writer.model != request.model else ""
        label = self.label(request.model)
        if not request.stream:
            call = self._plain_call(request)
            return RelayReply(call, label, renamed, self.options.repair, _MAX_REPLY)
        rewriting = Rewriting(request.include_usage, renamed, self.options.repair)
        relay = EventRelay(request.n, rewriting, self.settings.max_event_bytes)
        return RelayFrames(self._stream_call(request), relay, label)

    def open(self, request: ChatRequest) -> Source:
        """Begin to answer *request*; the source reads the upstream's chunks."""
        chunks = OpenAIChunks(request.n, self.settings.max_event_bytes)
        return ChunkSource(self._stream_call(request), chunks)

    def _plain_call(self, request: ChatRequest) -> Call:
        body = {key: value for key, value in request.body.items() if key != "stream_options"}
        body |= {"model": request.model, "stream": False}
        answers = Answers(
            lambda _: self._post(request.model, dump(body)),
            lambda status, text: False,
            lambda options: None,
            self.options.api_key,
        )
        return Call(answers, options=False, stream=False)

    def _stream_call(self, request: ChatRequest) -> Call:
        body = {**request.body, "model": request.model, "n": request.n, "stream": True}
        if "n" not in request.body and request.n == 1:
            del body["n"]
        asked = body.pop("stream_options", None)
        options = {**(asked or {}), "include_usage": True}

        def begin(with_options: bool) -> Exchange:
            sent = {**body, "stream_options": options} if with_options else body
            return self._post(request.model, dump(sent))

        answers = Answers(begin, self._refused, self._accepted, self.options.api_key)
        return Call(answers, options=self._takes_stream_options is not False, stream=True)

    def _post(self, model: str, body: bytes) -> Exchange:
        if self.facts.needs_key and not self.options.api_key and self._base_url == self.facts.home:
            raise ProviderNotConfigured(
                f"provider {self.name!r} has no key: set {' or '.join(self.facts.keys)}"
            )
        url = self.url("/chat/completions", model)
        return self.client.send(HTTPRequest("POST", url, self._headers, body))

    def _refused(self, status: int, body: bytes) -> bool:
        """Whether a refusal may be of ``stream_options``; sure once they have been taken."""
        if status not in (400, 422):
            return False
        named = b"stream_options" in body or b"include_usage" in body
        return named or self._takes_stream_options is None

    def _accepted(self, options: bool) -> None:
        self._takes_stream_options = options

    # -- models ----------------------------------------------------------------------

    def models(self) -> list[str]:
        """Return the models that the upstream lists, at most some minutes old."""
        until, names = self._listed
        if time.monotonic() < until:
            return names
        with self._listing:
            until, names = self._listed
            if time.monotonic() >= until:
                try:
                    names, seconds = self._list(), _LIST_SECONDS
                except ChoreoError:
                    seconds = _NO_LIST_SECONDS
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
        data = parse_object(bytes(body)).get("data") if exchange.status == 200 else None
        models = data if isinstance(data, list) else []
        names = [model.get("id") for model in models if isinstance(model, dict)]
        return [name for name in names if isinstance(name, str)]

    def close(self) -> None:
        """Close the pooled connections."""
        self.client.close()
