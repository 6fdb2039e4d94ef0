"""The loop: the clients' sockets and the streams' descriptors on one poller, in one thread.

It is the streams' carrier, which also runs the connections.  A connection is asked what it waits
for when something happened to it.

Requests begin here too, unless the application says that it may block.  Frames of running
streams go first; connections and beginnings share half a millisecond of each round, so that
a storm of requests is spread over many.
"""

from __future__ import annotations

import errno
import functools
import logging
import socket
import sys
import time
from collections.abc import Callable
from typing import Any

from waitress.adjustments import Adjustments

from ..streams.carrier import Carrier
from ..streams.poller import IN, OUT
from ..streams.workers import Workers
from .channel import Channel
from .tasks import Task

logger = logging.getLogger(__name__)

#: Seconds between two looks for connections that exceeded a timeout.
CLEANUP = 5.0

#: Connections that are accepted in one round.
ACCEPTED = 4

#: Seconds between two looks at the listeners while nothing but frames comes.
QUIET = 1.0

#: Seconds for which nothing is accepted when the process has no descriptor left.
EXHAUSTED = 0.5

#: Seconds for which other processes accept first while this one has more connections than they.
REST = 0.02


class Loop(Carrier):
    """The carrier of the streams, which runs the listeners and the connections too."""

    def __init__(self, workers: Workers) -> None:
        super().__init__(workers)
        self._open: dict[int, Channel | Listener] = {}
        self._cleanup = time.monotonic() + CLEANUP
        self._looks = 0.0
        self.resting = 0.0  # until when nothing is accepted
        self.listeners: list[Listener] = []

    @property
    def sockets(self) -> int:
        """How many sockets are open."""
        return len(self._open)

    def add(self, one: Channel | Listener) -> None:
        """Run *one* until it is removed."""
        self._open[one.descriptor] = one
        if isinstance(one, Channel):  # mostly its request has come as well
            self._run(one, one.on_readable)
        self.ask(one)

    def remove(self, one: Channel | Listener) -> None:
        """Let go of *one*, which will be closed: there may be room for another."""
        self._open.pop(one.descriptor, None)
        if one.polled:
            del self._handlers[one.descriptor]
            self._poller.unregister(one.descriptor)
        for listener in self.listeners:
            if not listener.polled:
                self.ask(listener)

    def rest(self, seconds: float) -> None:
        """Accept nothing for so long."""
        self.resting = time.monotonic() + seconds
        self._looks = min(self._looks, self.resting)

    def changed(self, one: Channel | Listener) -> None:
        """Ask *one* anew what it waits for; from any thread."""
        self.call(functools.partial(self.ask, one))

    def begin(self, task: Task) -> None:
        """Begin with *task* when its turn comes, or on a worker when it may block."""
        if task.due is None:
            self._take(task)
        else:
            self._beginning.append(task)

    def close(self) -> None:
        """Close every socket."""
        for one in list(self._open.values()):
            one.close()
        super().close()

    def channels(self) -> list[Channel]:
        """Return the open connections."""
        return [one for one in list(self._open.values()) if isinstance(one, Channel)]

    def _start(self) -> None:
        """Do nothing: the server runs the loop in its own thread."""

    def _look(self) -> None:
        now = time.monotonic()
        self._looks = now + QUIET
        for listener in self.listeners:
            self.ask(listener)
        if now >= self._cleanup:
            self._cleanup = now + CLEANUP
            for channel in self.channels():
                if channel.overdue(now):
                    channel.handle_close()

    def _handle(self, one: Channel | Listener, events: int) -> None:
        known = one.polled
        # A connection that broke turns up as neither of the two, and is felt by either.
        if known & IN and events & ~OUT and self._holds(one):
            self._run(one, one.on_readable)
        if known & OUT and events & ~IN and self._holds(one):
            self._run(one, one.on_writable)
        self.ask(one)

    def ask(self, one: Channel | Listener) -> None:
        """Poll for the events that *one* needs; have it write what can be written now."""
        if self._holds(one) and one.writable():
            self._run(one, one.on_writable)
        if not self._holds(one):
            return
        events = (IN if one.readable() else 0) | (OUT if one.writable() else 0)
        if events == one.polled:
            return
        if not one.polled:
            self._register(one.descriptor, events, functools.partial(self._handle, one))
        elif events:
            self._poller.modify(one.descriptor, events)
        else:
            self._forget(one.descriptor)
        one.polled = events

    def _run(self, one: Channel | Listener, function: Callable[[], None]) -> None:
        try:
            function()
        except Exception:
            logger.exception("a connection failed")
            one.on_error()

    def _holds(self, one: Channel | Listener) -> bool:
        """Return whether *one* is still open."""
        return self._open.get(one.descriptor) is one


class Listener:
    """A listening socket, *sock*, whose connections bring requests for *application*.

    *crowd* is told how many connections there are, and says whether other processes shall accept
    first.
    """

    #: The events that the loop polls for.
    polled = 0
    draining = False
    retired = False  # another process accepts instead
    _full = False

    def __init__(
        self,
        loop: Loop,
        sock: socket.socket,
        adj: Adjustments,
        application: Any,
        send_timeout: float,
        crowd: Callable[[int], bool] | None,
    ) -> None:
        self.loop = loop
        self.socket = sock
        sock.setblocking(False)
        self.adj = adj
        self.application = application
        self.admit = application.admit
        self.send_timeout = send_timeout
        self._crowd = crowd
        name: Any = sock.getsockname()
        unix = isinstance(name, str)
        #: Where it listens: an address and a port, or ``unix`` and a path.
        self.host: str = "unix" if unix else name[0]
        self.port: int | str = name if unix else name[1]
        self._options: list[Any] = [] if unix else adj.socket_options
        if sys.platform == "linux":
            # What it accepts inherits them: three system calls less for each connection.
            self._set_options(sock)
            self._options = []
        #: What is the same in all requests' environs.
        self.variables: dict[str, Any] = {
            "SCRIPT_NAME": "",
            "SERVER_NAME": adj.server_name,
            "SERVER_PORT": str(self.port),
            "wsgi.version": (1, 0),
            "wsgi.url_scheme": "http",
            "wsgi.multithread": True,
            "wsgi.multiprocess": False,
            "wsgi.run_once": False,
            "wsgi.input_terminated": True,
        }
        self.descriptor = sock.fileno()
        loop.add(self)

    def _set_options(self, sock: socket.socket) -> None:
        for level, option, value in self._options:
            sock.setsockopt(level, option, value)

    def readable(self) -> bool:
        """Return whether a connection can be accepted."""
        now = time.monotonic()
        if self.loop.resting <= now - REST and self.crowded():
            self.loop.rest(REST)
        full = self.loop.sockets >= self.adj.connection_limit
        if full and not self._full:
            logger.warning("there are %d connections: no more are accepted", self.loop.sockets)
        self._full = full
        return not (full or self.retired or now < self.loop.resting)

    def crowded(self) -> bool:
        """Return whether another process shall accept first."""
        return self._crowd is not None and self._crowd(self.loop.sockets)

    def writable(self) -> bool:
        """Return False."""
        return False

    def on_writable(self) -> None:
        """Do nothing."""

    def on_readable(self) -> None:
        """Accept some of the connections that wait; rest while there is no descriptor."""
        if not self.readable():
            return
        for number in range(ACCEPTED):
            if number and self.crowded():  # one in any case: the others may be stuck
                self.loop.rest(REST)
                return
            try:
                connection, address = self.socket.accept()
            except BlockingIOError:
                return
            except OSError as error:  # for one, the client has been quicker
                if error.errno in (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM):
                    logger.warning("no connection can be accepted: %s", error.strerror)
                    self.loop.rest(EXHAUSTED)
                return
            try:
                self._set_options(connection)
            except OSError:
                connection.close()
                continue
            Channel(self, connection, address[:2] if address else ("localhost", None))

    def on_error(self) -> None:
        """Go on listening."""

    def close(self) -> None:
        """Close the socket."""
        self.loop.remove(self)
        self.socket.close()
