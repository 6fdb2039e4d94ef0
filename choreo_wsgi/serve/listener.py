"""A listening socket: the connections that come are accepted, some at a time."""

from __future__ import annotations

import errno
import logging
import math
import socket
import sys
import time
from collections.abc import Callable
from typing import Any

from waitress.adjustments import Adjustments

from ..streams.carrier import Carrier, Load
from .channel import Channel

logger = logging.getLogger(__name__)

#: Connections that are accepted at once, at most.
ACCEPTED = 4

#: Seconds for which nothing is accepted when the process has no descriptor left.
EXHAUSTED = 0.5

#: Seconds for which other processes accept first while this one has more connections than they.
#: An idle one needs less; while it rests, nobody may be accepting at all.
REST = 0.002


class Listener(Load):
    """A listening socket, *sock*, whose connections bring requests for *application*.

    *connections* are those of all listeners.  *crowd* is told how many there are, and says
    whether other processes shall accept first.
    """

    gives_way = keeps_descriptor = True
    #: Until when nothing is accepted, if it rests.
    due = math.inf
    draining = False
    retired = False  # another process accepts instead

    def __init__(
        self,
        carrier: Carrier,
        sock: socket.socket,
        adj: Adjustments,
        application: Any,
        send_timeout: float,
        connections: set[Channel],
        crowd: Callable[[int], bool] | None,
    ) -> None:
        self.carrier = carrier
        self.socket = sock
        sock.setblocking(False)
        self.adj = adj
        self.application = application
        self.send_timeout = send_timeout
        self.connections = connections
        self._crowd = crowd
        self._full = False
        self._expected = 1  # connections that probably wait
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
        carrier.take(self)

    def _set_options(self, sock: socket.socket) -> None:
        for level, option, value in self._options:
            sock.setsockopt(level, option, value)

    def fileno(self) -> int | None:
        """Return the descriptor to poll, or None while nothing is accepted."""
        accepts = not (self._full or self.retired) and self.due == math.inf
        return self.socket.fileno() if accepts else None

    def step(self, patience: float) -> None:
        """Accept some of the connections that wait; rest first if others have fewer."""
        rested = self.due <= time.monotonic()
        if rested:
            self.due = math.inf
        expected, self._expected = self._expected, 1
        for number in range(expected):
            # One in any case after a rest: the others may be stuck.
            if (number or not rested) and self._is_crowded():
                self._rest(REST)
            self.make_room()
            if self.fileno() is None:
                return
            try:
                connection, address = self.socket.accept()
            except BlockingIOError:
                return
            except OSError as error:  # for one, the client has been quicker
                if error.errno in (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM):
                    logger.warning("no connection can be accepted: %s", error.strerror)
                    self._rest(EXHAUSTED)
                return
            try:
                self._set_options(connection)
            except OSError:
                connection.close()
                continue
            channel = Channel(self, connection, address[:2] if address else ("localhost", None))
            self.connections.add(channel)
            self.carrier.give_time(channel)  # mostly its request has come as well
        self._expected = min(2 * expected, ACCEPTED)

    def _is_crowded(self) -> bool:
        return self._crowd is not None and self._crowd(len(self.connections))

    def _rest(self, seconds: float) -> None:
        self.due = time.monotonic() + seconds

    def make_room(self) -> None:
        """Look whether there are as many connections as are allowed."""
        full = len(self.connections) >= self.adj.connection_limit
        if full and not self._full:
            logger.warning("there are %d connections: no more are accepted", len(self.connections))
        self._full = full

    def left(self, channel: Channel) -> None:
        """Take note that *channel* is closed."""
        self.connections.discard(channel)
        if self._full:
            self.make_room()
            self.carrier.settle(self)

    def leave(self) -> None:
        """Close the socket."""
        self.socket.close()
