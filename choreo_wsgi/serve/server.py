"""``choreo-wsgi serve``: waitress under the application, from start to drain.

Everything that waitress needs to know follows from ``max_streams``; its own defaults would
serve four streams.
"""

from __future__ import annotations

import contextlib
import gc
import ipaddress
import logging
import os
import signal
import socket
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from waitress.adjustments import Adjustments

from ..errors import ConfigurationError
from ..settings import Settings
from ..streams.carrier import Carrier
from ..streams.workers import Workers
from .channel import Channel
from .listener import Listener
from .sockets import bind, listen_addresses, raise_open_files, socket_options

if TYPE_CHECKING:
    from ..app.application import Application

logger = logging.getLogger(__name__)

#: Threads without which nothing works: they are made at once, to find out whether they can be.
LEAST_THREADS = 4

#: Threads beyond one for each completion, for what must be answered while all are taken:
#: health checks, refusals, model lists.
RESERVE = 16

#: Seconds between the error frames of a drain's end and the closing of what still runs: a
#: stream on a worker's thread looks for its end every 0.25 s.
LAST_FRAMES = 1.5

#: Seconds after all that until the process ends by force.
FORCE = 3.0


#: Seconds after which a thread that waits for the interpreter makes another hand it over: the
#: loop would wait for that long, behind a worker that computes, before each of its steps.
SWITCH = 0.002


#: Containers that are made before the collector looks for cycles among them.  A request leaves
#: none, so that there is little to find; the default (700) is reached every few requests.
YOUNG = 10_000


def adjustments(settings: Settings) -> Adjustments:
    """Return waitress's own settings for *settings*; raises ConfigurationError."""
    if settings.unix_socket:
        where: dict[str, Any] = {"unix_socket": settings.unix_socket}
    else:
        where = {"listen": " ".join(listen_addresses(settings))}
    others = {
        "threads": settings.max_streams + RESERVE,
        "connection_limit": max(1000, 2 * settings.max_streams),
        "backlog": max(1024, settings.max_streams),
        # Reading on while a request runs is how a client that left is noticed; one that only
        # shut down its sending side cannot be told apart.
        "channel_request_lookahead": 0 if settings.half_close else 1,
        # Only what is beyond any doubt is refused before the application sees it.
        "max_request_body_size": settings.max_body_bytes + 65536,
        "max_request_header_size": 65536,
        "recv_bytes": 65536,
        # The application itself must see that a request came through a proxy.
        "clear_untrusted_proxy_headers": False,
        "log_socket_errors": False,
        "ident": None,
    }
    try:
        return Adjustments(**where, **others)
    except ValueError:
        # All that waitress can refuse here: the other values are checked, or ours.
        names = ", ".join(listen_addresses(settings))
        raise ConfigurationError(f"listen: there is no such host: {names}") from None


class Server:
    """Listens for *application*; binds on creation, so that the addresses are known.

    The sockets *inherited*, when there are any, stand in for the addresses of the settings.
    *crowd* is told how many connections there are, and says whether others shall accept first.
    Raises ConfigurationError if an address cannot be bound, or must not be exposed without
    API keys.
    """

    def __init__(
        self,
        application: Application,
        inherited: Sequence[socket.socket] = (),
        crowd: Callable[[int], bool] | None = None,
    ) -> None:
        settings = self.settings = application.settings
        self._application = application
        self._inherited = bool(inherited)
        adj = adjustments(settings)
        if not (application.has_keys or settings.allow_anonymous):
            _check_exposure(_names(adj, inherited))
        raise_open_files(2 * adj.connection_limit + 256)
        with contextlib.suppress(OSError):  # looked for while there are descriptors
            tempfile.gettempdir()
        adj.socket_options = socket_options(adj.socket_options, settings.send_timeout)
        workers = Workers(adj.threads)
        try:
            workers.prove(LEAST_THREADS)
        except RuntimeError as error:
            raise ConfigurationError(f"threads: {error} (ulimit -u, pids limit)") from None
        self.carrier = Carrier(workers)
        application.carry_with(self.carrier)
        try:
            sockets = inherited or bind(adj)
        except ConfigurationError:
            self.carrier.close()
            raise
        self.connections: set[Channel] = set()
        common = adj, application, settings.send_timeout, self.connections, crowd
        self._listeners = [Listener(self.carrier, one, *common) for one in sockets]
        self._signals = 0
        self._wakes = False
        self._hurry = threading.Event()
        self._ended = threading.Event()

    @property
    def addresses(self) -> list[str]:
        """The URLs that are served, or ``unix:PATH``."""
        return [_url(item.host, item.port) for item in self._listeners]

    def handle_signals(self) -> None:
        """Drain on SIGTERM and SIGINT; read keys and providers anew on SIGHUP.

        To be called in the main thread, before anybody is told that the server is there.
        """
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._on_signal)
        if hasattr(signal, "SIGHUP"):
            signal.signal(signal.SIGHUP, self._on_hangup)
        # Python runs a handler when the main thread gets to it: a signal that comes just before
        # the thread waits, or to another thread, has to end that wait.
        signal.set_wakeup_fd(self.carrier.waker.fileno(), warn_on_full_buffer=False)
        self._wakes = True

    def run(self) -> None:
        """Serve until a drain is over."""
        sys.setswitchinterval(SWITCH)
        gc.collect()
        gc.freeze()  # what is there now stays: nobody need look through it again
        gc.set_threshold(YOUNG)
        try:
            self.carrier.run()
        finally:
            if self._wakes:
                signal.set_wakeup_fd(-1)
            self._application.close()
            for one in [*self._listeners, *self.connections]:
                one.leave()
            self.carrier.close()
            if self.settings.unix_socket and not self._inherited:
                Path(self.settings.unix_socket).unlink(missing_ok=True)
            self._ended.set()

    def _on_hangup(self, number: int, frame: Any) -> None:
        threading.Thread(target=self._application.reload, name="reload", daemon=True).start()

    def _on_signal(self, number: int, frame: Any) -> None:
        self._signals += 1
        if self._signals == 1:
            threading.Thread(target=self.drain, name="drain", daemon=True).start()
        else:  # asked twice: whoever asks does not want to wait
            self._hurry.set()

    def drain(self) -> None:
        """Let running streams end, for ``drain_seconds`` at most, and then stop the server.

        The listeners stay open meanwhile, so that a load balancer learns from ``/readyz`` and
        callers get an answer; what still runs at the end gets its error frame.
        """
        patience = self.settings.drain_seconds
        logger.info("shutting down: %d streams have %g s", self._application.active, patience)
        threading.Thread(target=self._force, name="force", daemon=True).start()
        self._application.drain()
        for listener in self._listeners:
            listener.draining = True
        self._wait(patience, lambda: self._hurry.is_set() or self._application.active == 0)
        self._application.stop()
        self.carrier.step_all()
        if not self._wait(LAST_FRAMES, lambda: not self._busy()):
            for channel in self._busy():
                channel.abort()
        self.carrier.stop()

    def retire(self) -> None:
        """Stop when all is answered that is under way, while another process accepts.

        However long that takes: only SIGTERM cuts a stream.  Requests on connections that are
        kept are looked at with the keys that are valid now.
        """
        self._application.reload()
        for listener in self._listeners:
            listener.retired = listener.draining = True
        self.carrier.step_all()
        while self._application.active or any(one.expected for one in list(self.connections)):
            if self._signals:
                return  # it drains already
            time.sleep(0.05)
        self.drain()

    def _force(self) -> None:
        self._hurry.wait(self.settings.drain_seconds)
        if not self._ended.wait(LAST_FRAMES + FORCE):
            logger.warning("something still hangs; leaving without it")
            os._exit(0)

    def _busy(self) -> list[Channel]:
        return [one for one in list(self.connections) if one.requests]

    @staticmethod
    def _wait(seconds: float, done: Callable[[], bool]) -> bool:
        deadline = time.monotonic() + seconds
        while not done():
            if time.monotonic() >= deadline:
                return False
            time.sleep(0.02)
        return True


def _names(adj: Adjustments, inherited: Sequence[socket.socket]) -> list[Any]:
    """Return the internet addresses that are to be listened on."""
    if inherited:
        return [item.getsockname() for item in inherited if item.family != socket.AF_UNIX]
    return [] if adj.unix_socket else [name for *_, name in adj.listen]


def _check_exposure(names: Iterable[Any]) -> None:
    """Raise ConfigurationError if strangers could call at one of *names*.

    Not asked of unix sockets: the file's permissions say who may.
    """
    for host, *_ in names:
        if not ipaddress.ip_address(host.partition("%")[0]).is_loopback:
            raise ConfigurationError(
                f"listen: {host} can be reached from elsewhere and there are no API keys; "
                "set CHOREO_API_KEYS, or insist with --allow-anonymous"
            )


def _url(host: str, port: Any) -> str:
    if host == "unix":
        return f"unix:{port}"
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
