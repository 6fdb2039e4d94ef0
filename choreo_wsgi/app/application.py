"""The WSGI callable: it routes requests, and turns exceptions into error responses."""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from http import HTTPStatus
from typing import TYPE_CHECKING, Any

from ..errors import ChoreoError, ConfigurationError, MethodNotAllowed, NotFound
from ..late import Late
from ..providers.building import build
from ..providers.routing import Router
from ..settings import Configuration, configure
from ..streams.stream import Control, EventStream, drop_traceback
from ..version import __version__
from . import log
from .access import OPEN, Gate, describe_arrival
from .account import load_observers
from .completions import Completions
from .endpoints import TEMPLATES, Endpoints
from .keys import Key, known_keys
from .pending import ClientGone, Pending
from .request import LARGE, Call, Environ, new_call
from .response import Document, Response, error_answer, error_response, json_response, unexpected
from .slots import Slots
from .unused import warn_unused

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse

    from .. import replay
    from ..streams.carrier import Carrier
    from . import limits, models, page, resumable, shared_limits
else:
    replay = Late("choreo_wsgi.replay")
    limits = Late("choreo_wsgi.app.limits")
    models = Late("choreo_wsgi.app.models")
    page = Late("choreo_wsgi.app.page")
    resumable = Late("choreo_wsgi.app.resumable")
    shared_limits = Late("choreo_wsgi.app.shared_limits")

Make = Callable[[], "Response | Pending"]
_OK = {"status": "ok"}
_READY = {False: (_OK, 200), True: ({"status": "draining"}, 503)}  # by whether it is draining
_REASONS = {status.value: status.phrase for status in HTTPStatus}
logger = logging.getLogger(__name__)


class Application:
    """The server as a WSGI callable (PEP 3333).

    The server calls ``drain()`` to refuse new completions, ``stop()`` to end running streams with
    an error frame, and ``close()`` to close the providers.
    """

    def __init__(self, configuration: Configuration, environment: Mapping[str, str]) -> None:
        self.settings = configuration.settings
        self.has_keys = configuration.has_keys
        self._environment = environment
        warn_unused(configuration)
        self._read_again = configuration.again
        self._replaced: list[Router] = []
        keys = known_keys(configuration)
        self._gate = Gate(keys, self.settings)
        self.router = build(configuration, environment)
        self._slots = Slots(self.settings.max_streams)
        self._control = Control()
        self._completions = Completions(self.router, self._slots, self._control, self.settings)
        #: Slots for connections that read a log: its generation already has a completion's slot.
        self._readers = Slots(self.settings.max_streams)
        self._carrier: Carrier | None = None
        self._loading = threading.Lock()
        self._loaded: resumable.Resumption | None = None
        if not self.settings.replay.startswith("memory:"):
            self._resumption()  # reports a wrong address at start
        self._enable_limits(keys)
        self._endpoints = Endpoints(self._completions, self._resumption, self.settings)
        #: The functions that ``/metrics`` calls for gauges; the server adds its own.
        self.gauges: dict[str, Callable[[], float]] = {
            "active_streams": lambda: self._slots.active,
            "orphans": lambda: self._loaded.orphans.active if self._loaded else 0,
            "readers": lambda: self._readers.active,
            "replay_reachable": lambda: self._loaded.store.reachable if self._loaded else 1,
        }
        self.breakers = self._completions.breakers
        self.observers = load_observers(self)
        self._since = int(time.time())
        self._routes: dict[str, dict[str, Callable[[Call], Response | Pending]]] = {
            **self._endpoints.routes,
            "/v1/models": {"GET": lambda call: models.all_models(call, self.router, self._since)},
            "/": {"GET": self._root},
            **{path: {"GET": lambda call: json_response(_OK)} for path in ("/health", "/healthz")},
            "/readyz": {"GET": lambda call: json_response(*_READY[self._slots.draining])},
        }
        for observer in self.observers:
            self._routes.update(observer.routes)

    def _resumption(self) -> resumable.Resumption:
        """Return the handler of resumable streams; it and its log are loaded at the first use."""
        with self._loading:
            if self._loaded is None:
                store = replay.open_store(self.settings.replay, self.settings)
                self._loaded = resumable.Resumption(
                    store, self._completions, self._readers, self._control, self.settings
                )
                self._loaded.orphans.carrier = self._carrier
            return self._loaded

    def _enable_limits(self, keys: Mapping[str, Key]) -> None:
        if self._completions.limits is None and any(key.options.limits for key in keys.values()):
            if (url := self.settings.replay).startswith("memory:"):
                self._completions.limits = limits.Limits()
            else:
                self._completions.limits = shared_limits.SharedLimits(replay.open_counts(url))

    # -- for the server -----------------------------------------------------------------

    @property
    def active(self) -> int:
        """The number of running completions and readers, with a client or without."""
        return self._slots.active + self._readers.active

    def carry_with(self, carrier: Carrier) -> None:
        """Let *carrier*, the server's, run the streams that have lost their clients."""
        self._carrier = carrier
        if self._loaded is not None:  # with a shared store it is loaded at start
            self._loaded.orphans.carrier = carrier
        self.gauges["carried_streams"] = lambda: carrier.carried
        self.gauges["loop_lag_seconds"] = lambda: carrier.lag

    def blocks(self, environ: Environ) -> bool:
        """Return whether the callable may block, or compute for long, for this request."""
        path = environ.get("PATH_INFO", "")
        if path.startswith(("/v1/models", "/v1/responses")) or path == "/metrics":
            return True  # lists of models come from upstreams, and responses from the store
        limits = self._completions.limits
        if limits is not None and limits.blocking and environ["REQUEST_METHOD"] == "POST":
            return True
        logged = path.startswith("/v1/streams/") or "HTTP_CHOREO_RESUMABLE" in environ
        if logged and self._resumption().store.blocking:
            return True
        return int(environ.get("CONTENT_LENGTH") or 0) > LARGE

    def drain(self) -> None:
        """Refuse new completions with 503 and answer ``/readyz`` with 503."""
        self._slots.draining = self._readers.draining = True

    def stop(self) -> None:
        """End every running completion, a stream with the frame ``server_shutting_down``."""
        self._control.stopping = True

    def close(self) -> None:
        """Close the providers, the replay store and the store of the limits."""
        for one in (self._loaded, self._completions.limits, *self._replaced, self.router):
            if one is not None:
                one.close()

    def reload(self) -> bool:
        """Reload keys and providers; running streams are not affected.

        Returns whether that succeeded: on any error the old ones stay in use, and the error is
        logged.  Other settings change only at the next start.
        """
        try:
            if self._read_again is None:
                raise ConfigurationError("it did not come from a file")
            configuration = self._read_again()
            keys = known_keys(configuration)
            gate = Gate(keys, self.settings)
            router = build(configuration, self._environment, self.router.providers)
        except ConfigurationError as error:
            logger.error("the configuration stays as it was: %s", error.message)
            return False
        # Running streams may use providers of the old router, so it is closed only at the end.
        self._replaced.append(self.router)
        self.router = self._completions.router = router
        self._gate = gate
        self._enable_limits(keys)
        logger.info("the keys and providers were read anew")
        return True

    def preload(self) -> None:
        """Start the providers now instead of at their first request (such as a local model)."""
        for provider in self.router.providers.values():
            provider.preload()

    # -- WSGI ---------------------------------------------------------------------------

    def __call__(self, environ: dict[str, Any], start_response: StartResponse) -> Iterable[bytes]:
        """Answer one request."""
        call = new_call(environ, self.observers)
        return self._respond(call, start_response, partial(self._dispatch, call))

    def refuse(
        self, environ: dict[str, Any], start_response: StartResponse, error: ChoreoError
    ) -> Iterable[bytes]:
        """Answer a request that the server cannot serve with *error*; imports and opens nothing."""
        call = new_call(environ, self.observers)
        call.account.outcome = error.code or error.type
        answer = error_answer(error, error.status, error.body())
        return self._respond(call, start_response, lambda: answer)

    def _respond(self, call: Call, start_response: StartResponse, make: Make) -> Iterable[bytes]:
        """Call start_response for the response that *make* returns or raises; return the body."""
        environ, account = call.environ, call.account
        response = self._response(call, make)
        if isinstance(response, Pending):
            response.respond = partial(self._respond, call, start_response)
            return response
        account.status = response.status
        try:
            if "HTTP_CHOREO_CHECK" in environ:
                account.headers.append(("Choreo-Saw", describe_arrival(environ, self.settings)))
            # A provider may use a status that HTTP does not define, such as 529.
            reason = _REASONS.get(response.status, "Error")
            headers = [*response.headers, *account.headers, ("x-request-id", account.id)]
            if account.path.startswith("/v1/messages"):
                headers.append(("request-id", account.id))  # which Anthropic's clients read
            headers += self._gate.cors_headers(environ)
            start_response(f"{response.status} {reason}", headers)
        except BaseException:
            response.close()  # the server will not do it
            account.finish("start_response_failed")
            raise
        if account.method == "HEAD":
            # waitress would send the body, which the client would read as the next response.
            response.close()
            response.body = []
        if not isinstance(response.body, EventStream | Document):
            account.finish()
        return response.body

    def _response(self, call: Call, make: Make) -> Response | Pending:
        """Return the response of *make*, or one that reports the error that it raises."""
        account = call.account
        try:
            return make()
        except ChoreoError as error:
            account.outcome = error.code or error.type
            if error.status >= 500:
                logger.warning("%s: %d %s: %s", account.id, error.status, error.code, error.message)
            drop_traceback(error)
            return error_response(error, call.environ)
        except ClientGone as error:
            drop_traceback(error)
            account.outcome = "client_closed"
            return json_response({}, 408)  # nobody reads it
        except Exception as error:
            failure = unexpected(error, "the server failed to answer this request")
            account.outcome = failure.code or failure.type
            logger.exception("%s: a request failed", account.id)
            drop_traceback(error)
            return error_response(failure, call.environ)

    def admit(self, environ: Environ) -> None:
        """Raise ChoreoError if the request will be refused; called before its body is received."""
        self._gate.admit(environ)

    def _dispatch(self, call: Call) -> Response | Pending:
        method, path = call.account.method, call.account.path
        if method == "OPTIONS":
            return Response(204, self._gate.preflight(call.environ))
        handlers = self._handlers(path)
        call.account.key = self._gate.admit(call.environ)
        if path not in OPEN:
            self._gate.check_origin(call.environ)
        if handlers is None:
            names = ", ".join(self._route_names())
            raise NotFound(f"the path {path!a} does not exist; the routes are {names}")
        handler = handlers.get("GET" if method == "HEAD" else method)
        if handler is None:
            allowed = [*handlers, *(["HEAD"] if "GET" in handlers else []), "OPTIONS"]
            text = f"the method {method!a} is not allowed here; use {' or '.join(handlers)}"
            if "HTTP_UPGRADE" in call.environ:
                text = 'WebSockets are not supported: POST "stream": true for the same events'
            raise MethodNotAllowed(text, headers=(("Allow", ", ".join(allowed)),))
        return handler(call)

    def _handlers(self, path: str) -> Mapping[str, Callable[[Call], Response | Pending]] | None:
        if path in self._routes:
            return self._routes[path]
        if path.startswith("/v1/models/") and len(path) > len("/v1/models/"):
            return {"GET": lambda call: models.one_model(call, self.router, self._since)}
        return self._endpoints.find(path)

    def _route_names(self) -> list[str]:
        """Return the routes in readable form, such as ``POST /v1/chat/completions``."""
        routes: dict[str, Iterable[str]] = {**self._routes, **TEMPLATES}
        return [f"{' '.join(routes[path])} {path}" for path in sorted(routes)]

    # -- handlers -----------------------------------------------------------------------

    def _root(self, call: Call) -> Response:
        if self.settings.page and "text/html" in call.environ.get("HTTP_ACCEPT", ""):
            return page.page()
        about = {"name": "choreo-wsgi", "version": __version__, "routes": self._route_names()}
        return json_response(about)


def create_app(configuration: Configuration | None = None) -> Application:
    """Return the WSGI application for *configuration*, by default that of the environment.

    The environment consists of the variables ``CHOREO_*``, the ini file named by
    ``CHOREO_CONFIG``, and the providers' own variables, such as ``OPENAI_API_KEY``.  With it the
    log is set up too, to standard error and by the settings: a WSGI server sets up only its own
    loggers.  Raises ConfigurationError.
    """
    if configuration is None:
        configuration = configure({}, os.environ)
        log.set_up(logging.getLogger("choreo_wsgi"), configuration.settings)
    return Application(configuration, os.environ)
