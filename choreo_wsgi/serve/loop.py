"""The loop: waitress's sockets and the streams' descriptors on one poller, in one thread.

It is the streams' carrier, which also runs waitress's connections.  waitress asks every
connection what it waits for each time it wakes: felt when hundreds of streams begin at once.
Here a connection is asked when something happened to it.

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

from waitress import wasyncore
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
QUIET = 0.25

#: Seconds for which nothing is accepted when the process has no descriptor left.
EXHAUSTED = 0.5

#: Seconds for which other processes accept first while this one has more connections than they.
REST = 0.02


class Loop(dict[int, Any], Carrier):
    """The map from descriptors to dispatchers that waitress wants, which also runs them."""

    def __init__(self, workers: Workers) -> None:
        dict.__init__(self)
        Carrier.__init__(self, workers)
        self._events: dict[int, int] = {}
        self._cleanup = time.monotonic() + CLEANUP
        self._looks = 0.0
        self.resting = 0.0  # until when nothing is accepted
        self.listeners: list[Listener] = []

    def __setitem__(self, descriptor: int, dispatcher: Any) -> None:
        super().__setitem__(descriptor, dispatcher)
        # Asked later: it is not fully made yet.
        self._calls.append(functools.partial(self._ask, dispatcher))

    def __delitem__(self, descriptor: int) -> None:
        super().__delitem__(descriptor)
        if self._events.pop(descriptor, 0):
            self._unregister(descriptor, self._handlers[descriptor])

    def changed(self, dispatcher: Any) -> None:
        """Ask *dispatcher* anew what it waits for; from any thread."""
        self.call(functools.partial(self._ask, dispatcher))

    def begin(self, task: Task) -> None:
        """Begin with *task* when its turn comes, or on a worker when it may block."""
        if task.due is None:
            self._take(task)
        else:
            self._beginning.append(task)

    def close(self) -> None:
        """Close every socket."""
        wasyncore.close_all(self, ignore_all=True)
        super().close()

    def channels(self) -> list[Channel]:
        """Return the open connections."""
        return [item for item in list(self.values()) if isinstance(item, Channel)]

    def _start(self) -> None:
        """Do nothing: the server runs the loop in its own thread."""

    def _look(self) -> None:
        now = time.monotonic()
        for listener in self.listeners:  # whether there is room changes with every connection
            self._ask(listener)
        if now >= self._cleanup:
            self._cleanup = now + CLEANUP
            for channel in self.channels():
                if channel.overdue(now):
                    channel.handle_close()
        self._looks = now + (REST if self.resting > now else QUIET)

    def _dispatch(self, dispatcher: Any, events: int) -> None:
        if not self._holds(dispatcher):
            return  # closed by an earlier event of this round
        known = self._events.get(dispatcher._fileno, 0)
        # A connection that broke turns up as neither of the two, and is felt by either.
        if known & IN and events & ~OUT:
            wasyncore.read(dispatcher)
        if known & OUT and events & ~IN and self._holds(dispatcher):
            wasyncore.write(dispatcher)
        self._ask(dispatcher)

    def _ask(self, dispatcher: Any) -> None:
        """Register the events that *dispatcher* needs; flush what can be written now."""
        if not self._holds(dispatcher):
            return
        if not dispatcher.accepting and dispatcher.writable():
            wasyncore.write(dispatcher)
            if not self._holds(dispatcher):
                return
        events = IN if dispatcher.readable() else 0
        if not dispatcher.accepting and dispatcher.writable():
            events |= OUT
        descriptor = dispatcher._fileno
        known = self._events.get(descriptor, 0)
        if events == known:
            return
        if not known:
            self._register(descriptor, events, functools.partial(self._dispatch, dispatcher))
        elif events:
            self._poller.modify(descriptor, events)
        else:
            self._unregister(descriptor, self._handlers[descriptor])
        self._events[descriptor] = events

    def _holds(self, dispatcher: Any) -> bool:
        """Return whether *dispatcher* is still open."""
        return self.get(dispatcher._fileno) is dispatcher


class Listener:
    """A listening socket, *sock*, whose connections bring requests for *application*.

    *crowd* is told how many connections there are, and says whether other processes shall accept
    first.
    """

    accepting = True
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
        self.connections = self._map = loop
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
        self._fileno = sock.fileno()
        loop[self._fileno] = self

    def _set_options(self, sock: socket.socket) -> None:
        for level, option, value in self._options:
            sock.setsockopt(level, option, value)

    def changed(self, channel: Channel) -> None:
        """Have the loop look at *channel*; from any thread."""
        self._map.changed(channel)

    def add_task(self, channel: Channel) -> None:
        """Begin with the next request of *channel*."""
        channel.task = Task(channel, channel.requests[0])
        self._map.begin(channel.task)

    def step(self, task: Task) -> None:
        """Go on with *task*: its client has taken what was sent, or has gone."""
        self._map.step(task)

    def readable(self) -> bool:
        """Return whether a connection can be accepted."""
        now = time.monotonic()
        if self._map.resting <= now - REST and self.crowded():
            self._map.resting = now + REST
        full = len(self._map) >= self.adj.connection_limit
        if full and not self._full:
            logger.warning("there are %d connections: no more are accepted", len(self._map))
        self._full = full
        return not (full or self.retired or now < self._map.resting)

    def crowded(self) -> bool:
        """Return whether another process shall accept first."""
        return self._crowd is not None and self._crowd(len(self._map))

    def handle_read_event(self) -> None:
        """Accept some of the connections that wait; rest while there is no descriptor."""
        for number in range(ACCEPTED):
            if number and self.crowded():  # one in any case: the others may be stuck
                self._map.resting = time.monotonic() + REST
                return
            try:
                connection, address = self.socket.accept()
            except BlockingIOError:
                return
            except OSError as error:  # for one, the client has been quicker
                if error.errno in (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM):
                    logger.warning("no connection can be accepted: %s", error.strerror)
                    self._map.resting = time.monotonic() + EXHAUSTED
                return
            try:
                self._set_options(connection)
            except OSError:
                connection.close()
                continue
            Channel(self, connection, address[:2] if address else ("localhost", None))

    def handle_error(self) -> None:
        """Go on listening after an error of ours, which is being handled."""
        logger.exception("a connection could not be begun")

    def close(self) -> None:
        """Close the socket."""
        self._map.pop(self._fileno, None)
        self.socket.close()
