"""``choreo-wsgi serve``: what is under the application, from start to drain."""

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
SWITCH = 0.0002

#: M_MMAP_THRESHOLD and M_TRIM_THRESHOLD: larger blocks glibc maps, and gives back at once.  Left
#: alone it raises that to the largest ever freed, and an event of 8 MiB leaves several times that.
ALLOCATION = {-3: 256 * 1024, -1: 2 * 1024 * 1024}

#: Containers that are made before the collector looks for cycles among them.  A request leaves
#: none, so that there is little to find; the default (700) is reached every few requests.
YOUNG = 50_000


class Server:
    """Listens for *application*; binds on creation, so that the addresses are known.

    The sockets *inherited*, when there are any, stand in for the addresses of the settings.
    *over_share* is told how many connections there are, and says whether others shall accept first.
    Raises ConfigurationError if an address cannot be bound, or must not be exposed without
    API keys.
    """

    #: Whether connections are closed when their request is answered.
    draining = False
    #: Whether another process accepts instead.
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
        self._most = max(1000, 2 * settings.max_streams)
        raise_open_files(3 * self._most + 256)
        with contextlib.suppress(OSError):  # looked for while there are descriptors
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
        #: How long a request may be that waitress reads.  Only what is beyond any doubt is
        #: refused before the application sees it.
        self.limits = Limits(max_request_body_size=settings.max_body_bytes + 65536)
        #: How many requests may wait behind the one that is answered.  Reading on meanwhile is how
        #: a client that left is noticed; one that only shut down its sending side cannot be told
        #: apart.
        self.lookahead = 0 if settings.half_close else 1
        self.over_share = over_share
        self.connections: set[Channel] = set()
        self._listeners = [Listener(self, one) for one in sockets]
        self._signals = 0
        self._wakes = False
        self._ended = threading.Event()

    @property
    def addresses(self) -> list[str]:
        """The URLs that are served, or ``unix:PATH``."""
        return [item.url for item in self._listeners]

    @property
    def full(self) -> bool:
        """Whether there are as many connections as are allowed."""
        return len(self.connections) >= self._most

    def left(self, channel: Channel) -> None:
        """Take note that *channel* is closed."""
        self.connections.discard(channel)
        if len(self.connections) == self._most - 1:
            for listener in self._listeners:
                self.carrier.update(listener)

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
        with contextlib.suppress(AttributeError, OSError, TypeError):  # another system's libc
            for option, size in ALLOCATION.items():
                ctypes.CDLL(None).mallopt(option, size)
        gc.collect()
        gc.freeze()  # what is there now stays: nobody need look through it again
        gc.set_threshold(YOUNG)
        try:
            self.carrier.run()
        finally:
            if self._wakes:
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
        """Let running streams end, for ``drain_seconds`` at most, and then stop the server.

        The listeners stay open meanwhile, so that a load balancer learns from ``/readyz`` and
        callers get an answer; what still runs at the end gets its error frame.
        """
        patience = self.settings.drain_seconds
        logger.info("shutting down: %d streams have %g s", self.application.active, patience)
        self.application.drain()
        self.draining = True
        # Asked twice: whoever asks does not want to wait.
        self._wait(patience, lambda: self._signals > 1 or self.application.active == 0)
        threading.Thread(target=self._force, name="force", daemon=True).start()
        self.application.stop()
        self.carrier.step_all()
        self._wait(LAST_FRAMES, lambda: not self._busy())
        for channel in self._busy():
            channel.abort()
        self.carrier.stop()

    def retire(self) -> None:
        """Stop when all is answered that is under way, while another process accepts.

        However long that takes: only SIGTERM cuts a stream.  Requests on connections that are
        kept are looked at with the keys that are valid now.
        """
        self.application.reload()
        self.retired = self.draining = True
        self.carrier.step_all()
        while self.application.active or any(one.expected for one in list(self.connections)):
            if self._signals:
                return  # it drains already
            time.sleep(0.05)
        self.drain()

    def _force(self) -> None:
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
