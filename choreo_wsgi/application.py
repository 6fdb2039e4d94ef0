"""The WSGI callable: routes, errors, and the completions it starts."""

from __future__ import annotations

import logging
import os
import secrets
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import TYPE_CHECKING, Any

from . import chat, cors, sse
from .auth import Gate
from .chunks import ChunkEncoder, dump
from .config import from_environment
from .errors import ChoreoError, EndpointNotFound, InternalError, MethodNotAllowed
from .failover import Breaker, Candidate, Failover, in_order
from .limits import Slot, Slots
from .request import Environ, read_body, request_id
from .routing import Router, Target
from .settings import Configuration
from .source import Frames, Reply
from .stream import ClientGone, Control, EventStream, Generation, wait_for_first

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse

__all__ = ["Application", "Response", "create_app"]

logger = logging.getLogger(__name__)

Headers = list[tuple[str, str]]


@dataclass
class Response:
    """An HTTP answer before it is sent."""

    status: int
    headers: Headers = field(default_factory=list)
    body: Iterable[bytes] = ()


@dataclass
class Call:
    """A request on its way through: its environ, the caller's key id and the request id."""

    environ: Environ
    key: str
    id: str

    def gone(self) -> bool:
        """Whether the client has closed its connection, where the server can tell."""
        tell = self.environ.get("waitress.client_disconnected")
        return bool(tell and tell())


class Application:
    """The server as a WSGI callable (PEP 3333).

    ``drain()``, ``stop()`` and ``close()`` are for whoever runs it: no new completions;
    running streams end with an error frame; the providers are let go.
    """

    def __init__(self, configuration: Configuration, environment: Mapping[str, str]) -> None:
        self.settings = configuration.settings
        self._gate = Gate(self.settings)
        self._cors = cors.Policy(self.settings)
        self._router = Router(configuration, environment)
        self._slots = Slots(self.settings.max_streams)
        self._control = Control()
        self._breakers: dict[str, Breaker] = {}
        self._started = int(time.time())
        self._routes: dict[str, dict[str, Callable[[Call], Response]]] = {
            "/v1/chat/completions": {"POST": self._chat},
            "/v1/models": {"GET": self._models},
            "/healthz": {"GET": self._health},
            "/readyz": {"GET": self._ready},
        }

    # -- for whoever runs it ------------------------------------------------------------

    @property
    def active(self) -> int:
        """How many completions are running."""
        return self._slots.active

    def drain(self) -> None:
        """Refuse new completions with 503 and answer ``/readyz`` with 503."""
        self._slots.drain()

    def stop(self) -> None:
        """End every running completion, a stream with the frame ``server_shutting_down``."""
        self._control.stopping = True

    def close(self) -> None:
        """Let the providers go."""
        self._router.close()

    def preload(self) -> None:
        """Start what would otherwise start at the first request."""
        for provider in self._router.providers.values():
            provider.preload()

    def describe_models(self) -> list[tuple[str, str]]:
        """Return each model name or pattern with who answers it, for a person to read."""
        return self._router.describe()

    # -- WSGI ---------------------------------------------------------------------------

    def __call__(self, environ: dict[str, Any], start_response: StartResponse) -> Iterable[bytes]:
        """Answer one request."""
        id = request_id(environ)
        response = self._answer(environ, id)
        headers = [*response.headers, ("x-request-id", id), *self._cors.headers(environ)]
        status = HTTPStatus(response.status)
        start_response(f"{status.value} {status.phrase}", headers)
        if environ["REQUEST_METHOD"] == "HEAD":
            # waitress sends what it is given, and the client would read it as the next answer.
            return []
        return response.body

    def _answer(self, environ: Environ, id: str) -> Response:
        try:
            return self._dispatch(environ, id)
        except ChoreoError as error:
            if error.status >= 500:
                logger.warning("%s: %d %s: %s", id, error.status, error.code, error.message)
            return _error(error)
        except ClientGone:
            return Response(408)  # nobody reads it
        except Exception:
            logger.exception("%s: a request failed", id)
            return _error(InternalError("the server failed to answer this request"))

    def _dispatch(self, environ: Environ, id: str) -> Response:
        method = environ["REQUEST_METHOD"]
        path = environ.get("PATH_INFO", "") or "/"
        if method == "OPTIONS":
            return Response(204, self._cors.preflight(environ))
        handlers = self._handlers(path)
        if path not in ("/healthz", "/readyz"):
            call = Call(environ, self._gate.admit(environ), id)
            self._cors.check(environ)
        else:
            call = Call(environ, "", id)
        if handlers is None:
            raise EndpointNotFound(f"there is no {path!a} here")
        handler = handlers.get("GET" if method == "HEAD" else method)
        if handler is None:
            allowed = [*handlers, *(["HEAD"] if "GET" in handlers else []), "OPTIONS"]
            raise MethodNotAllowed(
                f"{method!a} is not allowed here", headers=(("Allow", ", ".join(allowed)),)
            )
        return handler(call)

    def _handlers(self, path: str) -> Mapping[str, Callable[[Call], Response]] | None:
        if path.startswith("/v1/models/") and len(path) > len("/v1/models/"):
            return {"GET": self._model}
        return self._routes.get(path)

    # -- handlers -----------------------------------------------------------------------

    def _health(self, call: Call) -> Response:
        return _json({"status": "ok"})

    def _ready(self, call: Call) -> Response:
        if self._slots.draining:
            return _json({"status": "draining"}, 503)
        return _json({"status": "ok"})

    def _models(self, call: Call) -> Response:
        listed = self._router.models()
        data = [self._model_object(name, owner) for name, owner in listed.items()]
        return _json({"object": "list", "data": data})

    def _model(self, call: Call) -> Response:
        name = call.environ["PATH_INFO"].removeprefix("/v1/models/")
        name = name.encode("latin-1").decode("utf-8", "replace")  # PEP 3333: bytes as latin-1
        target = self._router.targets(name)[0]
        return _json(self._model_object(name, target.label))

    def _model_object(self, name: str, owner: str) -> dict[str, Any]:
        return {"id": name, "object": "model", "created": self._started, "owned_by": owner}

    def _chat(self, call: Call) -> Response:
        request = chat.parse(read_body(call.environ, self.settings))
        targets = self._router.targets(request.model)
        encoder = ChunkEncoder(
            id="chatcmpl-" + secrets.token_urlsafe(18),
            created=int(time.time()),
            model=request.model,
            include_usage=request.include_usage,
        )
        slot = self._slots.take()
        try:
            if request.stream:
                return self._stream(call, request, targets, encoder, slot)
            return self._complete(call, request, targets, encoder, slot)
        except BaseException:
            slot.release()
            raise

    def _stream(
        self,
        call: Call,
        request: chat.ChatRequest,
        targets: list[Target],
        encoder: ChunkEncoder,
        slot: Slot,
    ) -> Response:
        def begin(target: Target) -> Frames:
            return target.provider.stream(request.with_model(target.model), encoder)

        frames = self._failover(targets, begin)
        heartbeat = self.settings.heartbeat_seconds
        try:
            first = wait_for_first(frames, call.gone, self._control, heartbeat)
        except BaseException:
            frames.close()
            raise
        label = frames.label

        def on_close(outcome: str) -> None:
            slot.release()
            self._log(call, request, label, outcome, frames.usage)

        stream = EventStream(
            Generation(frames, self._control, first),
            gone=call.gone,
            heartbeat=heartbeat,
            on_close=on_close,
        )
        return Response(200, [*sse.HEAD, ("Choreo-Provider", _visible(label))], stream)

    def _complete(
        self,
        call: Call,
        request: chat.ChatRequest,
        targets: list[Target],
        encoder: ChunkEncoder,
        slot: Slot,
    ) -> Response:
        def begin(target: Target) -> Reply:
            return target.provider.complete(request.with_model(target.model), encoder)

        reply = self._failover(targets, begin)
        try:
            document = wait_for_first(reply, call.gone, self._control)
        finally:
            reply.close()
        slot.release()
        self._log(call, request, reply.label, "completed", reply.usage)
        headers = [("Choreo-Provider", _visible(reply.label))]
        return _document(document, 200, headers)

    def _failover(self, targets: list[Target], begin: Any) -> Failover[Any]:
        def candidate(target: Target) -> Candidate[Any]:
            breaker = self._breakers.setdefault(target.label, Breaker())
            return Candidate(breaker, lambda: begin(target), target.priority, target.weight)

        return Failover(in_order([candidate(target) for target in targets]))

    def _log(
        self, call: Call, request: chat.ChatRequest, label: str, outcome: str, usage: Any
    ) -> None:
        logger.info(
            "%s: %s %s %s key=%s usage=%s",
            call.id,
            "stream" if request.stream else "completion",
            _visible(label),
            outcome,
            call.key or "-",
            usage and f"{usage.prompt_tokens}+{usage.completion_tokens}",
        )


def create_app(configuration: Configuration | None = None) -> Application:
    """Return the WSGI application for *configuration*, by default that of the environment.

    The environment is the variables ``CHOREO_*``, the ini file named by ``CHOREO_CONFIG``,
    and the providers' own variables, as ``OPENAI_API_KEY``.  Raises ConfigurationError.
    """
    return Application(configuration or from_environment(os.environ), os.environ)


def _visible(text: str) -> str:
    """Return *text* as a header value can carry it: visible ASCII, the rest as ``?``."""
    return "".join(char if " " <= char <= "~" else "?" for char in text)


def _json(value: Any, status: int = 200) -> Response:
    return _document(dump(value), status, [])


def _document(body: bytes, status: int, headers: Headers) -> Response:
    head = [("Content-Type", "application/json"), ("Content-Length", str(len(body)))]
    return Response(status, head + headers, [body])


def _error(error: ChoreoError) -> Response:
    body = error.body()
    headers = [*error.response_headers(), ("Content-Length", str(len(body)))]
    return Response(error.status, headers, [body])
