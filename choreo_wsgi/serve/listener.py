"""A listening socket: the connections that come are accepted, some at a time."""

from __future__ import annotations

import errno
import logging
import math
import socket
import time
from typing import Any

from ..streams.carrier import Load
from .channel import Channel
from .sockets import set_options

logger = logging.getLogger(__name__)

#: Connections that are accepted at once, at most.
ACCEPTED = 4

#: Seconds for which nothing is accepted when the process has no descriptor left.
EXHAUSTED = 0.5

#: Seconds for which other processes accept first while this one has more connections than they.
#: An idle one needs less; while it rests, nobody may be accepting at all.
REST = 0.002


class Listener(Load):
    """A listening socket, *sock*, of *server*."""

    #: Until when nothing is accepted, if it rests.
    due = math.inf

    def __init__(self, server: Any, sock: socket.socket) -> None:
        super().__init__(steady=True)
        self.server = server
        self.socket = sock
        self._expected = 1  # connections that probably wait
        self._kind = int(sock.family), int(sock.type), sock.proto
        set_options(sock, server.settings.send_timeout)
        name: Any = sock.getsockname()
        if isinstance(name, str):
            port, self.url = name, f"unix:{name}"
        else:
            host, port = name[0], str(name[1])
            self.url = f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
        #: What is the same in all requests' environs.
        self.variables: dict[str, Any] = {
            "SCRIPT_NAME": "",
            "SERVER_NAME": "choreo-wsgi.invalid",
            "SERVER_PORT": port,
            "wsgi.version": (1, 0),
            "wsgi.url_scheme": "http",
            "wsgi.multithread": True,
            "wsgi.multiprocess": False,
            "wsgi.run_once": False,
            "wsgi.input_terminated": True,
        }
        server.carrier.add(self)

    def fileno(self) -> int | None:
        """Return the descriptor to poll, or None while nothing is accepted."""
        accepts = self.due == math.inf and not (self.server.full or self.server.retired)
        return self.socket.fileno() if accepts else None

    def step(self, patience: float) -> None:
        """Accept some of the connections that wait; rest first if others have fewer."""
        server = self.server
        rested = self.due <= time.monotonic()
        if rested:
            self.due = math.inf
        expected, self._expected = self._expected, 1
        for number in range(expected):
            # One in any case after a rest: the others may be stuck.
            asks = server.over_share is not None and (number or not rested)
            if asks and server.over_share(len(server.connections)):
                self.due = time.monotonic() + REST
            if self.fileno() is None:
                return
            try:
                # Not accept(): it makes members of enums of what all connections have alike.
                number, address = self.socket._accept()  # type: ignore[attr-defined]
            except BlockingIOError:
                return
            except OSError as error:  # for one, the client has been quicker
                if error.errno in (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM):
                    logger.warning("no connection can be accepted: %s", error.strerror)
                    self.due = time.monotonic() + EXHAUSTED
                return
            connection = socket.socket(*self._kind, fileno=number)
            channel = Channel(self, connection, address[0] if address else "localhost")
            server.connections.add(channel)
            server.carrier.schedule(channel)  # mostly its request has come as well
            if server.full:
                count = len(server.connections)
                logger.warning("there are %d connections: no more are accepted", count)
        self._expected = min(2 * expected, ACCEPTED)

    def release(self) -> None:
        """Close the socket."""
        self.socket.close()
