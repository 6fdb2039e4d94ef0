"""The server under the application, from its start to its drain.

Threads: the main thread runs the carrier (``Server.run``), which does the network input and
output that does not block; workers call applications that may block; signal handlers only start
the threads that reload, drain or retire.  Those set flags (``draining``, ``retired``), step all
loads, which read the flags, and poll until they are done.

Order of a drain: new streams are refused and connections are closed after their answers; running
streams have ``drain_seconds``; then all get an error frame; then connections that still have an
answer are reset; then the carrier stops.  A watchdog ends the process if any of that hangs.
"""

from __future__ import annotations

import contextlib
import ctypes
import gc
import logging
import os
import signal
import socket
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import ConfigurationError
from ..streams.carrier import Carrier
from ..streams.workers import Workers
from .channel import Channel
from .listener import Listener
from .parser import Limits
from .sockets import bind, check_exposure, raise_open_files

if TYPE_CHECKING:
    from ..app.application import Application

logger = logging.getLogger(__name__)

#: Threads without which the server does not work; started first, to prove that they are allowed.
LEAST_THREADS = 4

#: Threads in addition to one per completion, for requests that are answered while all of those
#: are busy: health checks, refusals, model lists.
RESERVE = 16

#: Seconds between the error frames at a drain's end and resetting the remaining connections: a
#: stream on a worker's thread checks for the drain every 0.25 s.
LAST_FRAMES = 1.5

#: Seconds after all that until the watchdog ends the process.
FORCE = 3.0

#: The interpreter's switch interval in seconds.  While a worker computes, the carrier waits for so
#: long to get the interpreter, before each of its steps.
SWITCH = 0.0002

#: M_MMAP_THRESHOLD and M_TRIM_THRESHOLD: glibc maps larger blocks, and unmaps them when freed; it
#: keeps so much free memory at a heap's end.  By default it raises both with the largest block ever
#: freed, and keeps several of that size.  M_ARENA_MAX: all threads share a heap, as a thread cannot
#: use what another has freed in its own, such as the parts of a request that is sent.
ALLOCATION = {-3: 256 * 1024, -1: 256 * 1024, -8: 1}

#: The garbage collector's threshold.  A request leaves no cycles, so a collection finds little;
#: the default (700 new containers) is reached every few requests.
YOUNG = 50_000


def tune_allocation() -> None:
    """Set :data:`ALLOCATION`, before the first other thread allocates memory."""
    with contextlib.suppress(AttributeError, OSError, TypeError):  # another system's libc
        for option, size in ALLOCATION.items():
            ctypes.CDLL(None).mallopt(option, size)


class Server:
    """Serves *application*; its sockets are bound on creation, so that the addresses are known.

    The sockets *inherited*, if any, replace the addresses of the settings.  *over_share* is
    called with the number of connections and returns whether other processes are to accept first.
    Raises ConfigurationError if an address cannot be bound, or must not be exposed without
    API keys.
    """

    #: Whether connections are closed when their request is answered.
    draining = False
    #: Whether another process accepts connections instead.
    retired = False

    def __init__(
        self,
        application: Application,
        inherited: Sequence[socket.socket] = (),
        over_share: Callable[[int], bool] | None = None,
    ) -> None:
        settings = self.settings = application.settings
        self.application = application
        self._inherited = bool(inherited)
        self._max_connections = max(1000, 2 * settings.max_streams)
        raise_open_files(3 * self._max_connections + 256)
        with contextlib.suppress(OSError):  # found once, while descriptors are available
            tempfile.gettempdir()
        sockets = inherited or bind(settings)
        workers = Workers(settings.max_streams + RESERVE)
        try:
            if not (application.has_keys or settings.allow_anonymous):
                check_exposure(sockets)
            workers.ensure(LEAST_THREADS)
        except (ConfigurationError, RuntimeError) as error:
            workers.close()
            for one in sockets:
                one.close()
            if isinstance(error, ConfigurationError):
                raise
            raise ConfigurationError(f"threads: {error} (ulimit -u, pids limit)") from None
        self.carrier = Carrier(workers)
        application.carry_with(self.carrier)
        #: The parser's limits; larger than the application's, which refuses with its own error.
        self.limits = Limits(max_request_body_size=settings.max_body_bytes + 65536)
        #: How many requests are read while one is answered.  Reading is how a client that left
        #: is noticed; one that closed only its sending side looks the same.
        self.lookahead = 0 if settings.half_close else 1
        self.over_share = over_share
        self.connections: set[Channel] = set()
        self._listeners = [Listener(self, one) for one in sockets]
        self._signals = 0
        self._has_wakeup_fd = False
        self._ended = threading.Event()

    @property
    def addresses(self) -> list[str]:
        """The URLs of the listeners, or ``unix:PATH``."""
        return [item.url for item in self._listeners]

    @property
    def full(self) -> bool:
        """Whether the limit of connections is reached."""
        return len(self.connections) >= self._max_connections

    def on_closed(self, channel: Channel) -> None:
        """Forget *channel*, which is closed; accept connections again if the server was full."""
        self.connections.discard(channel)
        if len(self.connections) == self._max_connections - 1:
            for listener in self._listeners:
                self.carrier.update(listener)

    def handle_signals(self) -> None:
        """Drain on SIGTERM and SIGINT; reload keys and providers on SIGHUP.

        To be called in the main thread, before the server announces that it is ready.
        """
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._on_signal)
        if hasattr(signal, "SIGHUP"):
            signal.signal(signal.SIGHUP, self._on_hangup)
        # Python runs a handler in the main thread, between two instructions: a signal that
        # arrives just before the poller waits, or at another thread, must end that wait.
        signal.set_wakeup_fd(self.carrier.waker.fileno(), warn_on_full_buffer=False)
        self._has_wakeup_fd = True

    def run(self) -> None:
        """Serve until a drain has ended."""
        sys.setswitchinterval(SWITCH)
        gc.collect()
        gc.freeze()  # objects that exist now live as long as the server
        gc.set_threshold(YOUNG)
        try:
            self.carrier.run()
        finally:
            if self._has_wakeup_fd:
                signal.set_wakeup_fd(-1)
            self.application.close()
            for one in [*self.connections, *self._listeners]:
                one.release()
            self.carrier.close()
            if self.settings.unix_socket and not self._inherited:
                Path(self.settings.unix_socket).unlink(missing_ok=True)
            self._ended.set()

    def _on_hangup(self, number: int, frame: Any) -> None:
        threading.Thread(target=self.application.reload, name="reload", daemon=True).start()

    def _on_signal(self, number: int, frame: Any) -> None:
        self._signals += 1
        if self._signals == 1:
            threading.Thread(target=self.drain, name="drain", daemon=True).start()

    def drain(self) -> None:
        """Stop the server after running streams have ended, or had ``drain_seconds`` to end.

        The listeners accept meanwhile: ``/readyz`` reports the drain to load balancers, and
        requests are refused with an answer.  Streams that still run then get an error frame.
        """
        patience = self.settings.drain_seconds
        logger.info("shutting down: %d streams have %g s", self.application.active, patience)
        self.application.drain()
        self.draining = True
        # A second signal ends the wait.
        self._wait(patience, lambda: self._signals > 1 or self.application.active == 0)
        threading.Thread(target=self._end_if_stuck, name="force", daemon=True).start()
        self.application.stop()
        self.carrier.step_all()
        self._wait(LAST_FRAMES, lambda: not self._answering())
        for channel in self._answering():
            channel.abort()
        self.carrier.call(self.carrier.stop)  # after the aborts, which close the bodies

    def retire(self) -> None:
        """Stop accepting, answer all requests, however long that takes, and stop the server.

        Another process accepts instead.  Only SIGTERM cuts a stream.  The keys are reloaded for
        requests on connections that are open; closing those might lose one that is on its way.
        """
        self.application.reload()
        self.retired = self.draining = True
        while self.application.active or self.connections:
            time.sleep(0.05)
        if not self._signals:  # else the signal has started the drain
            self.drain()

    def _end_if_stuck(self) -> None:
        if not self._ended.wait(LAST_FRAMES + FORCE):
            logger.warning("the shutdown hangs: the process is ended")
            os._exit(0)

    def _answering(self) -> list[Channel]:
        return [one for one in list(self.connections) if one.requests]

    @staticmethod
    def _wait(seconds: float, done: Callable[[], bool]) -> None:
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline and not done():
            time.sleep(0.02)
