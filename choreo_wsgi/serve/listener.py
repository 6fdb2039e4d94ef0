"""A listening socket, whose connections are accepted a few at a time."""

from __future__ import annotations

import errno
import logging
import math
import socket
import time
from typing import Any

from ..streams.load import Load
from .channel import Channel
from .sockets import set_options

logger = logging.getLogger(__name__)

#: Most connections that are accepted in one step.
ACCEPTED = 4

#: Seconds for which no connection is accepted when the process has no descriptor left.
EXHAUSTED = 0.5

#: Seconds for which a process with more than its share of the connections lets others accept.
#: Enough for an idle process to accept; if all others are stuck, clients wait no longer than that.
REST = 0.001


class Listener(Load):
    """A listening socket, *sock*, of *server*."""

    #: When accepting resumes, if it is paused.
    due = math.inf

    def __init__(self, server: Any, sock: socket.socket) -> None:
        super().__init__(steady=True)
        self.server = server
        self.socket = sock
        self._expected = 1  # how many connections probably wait
        self._kind = int(sock.family), int(sock.type), sock.proto
        set_options(sock, server.settings.send_timeout)
        name: Any = sock.getsockname()
        if isinstance(name, str):
            port, self.url = name, f"unix:{name}"
        else:
            host, port = name[0], str(name[1])
            self.url = f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
        #: The variables that are equal in all requests' environs.
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
        """Return the descriptor to poll, or None while no connection is accepted."""
        accepts = self.due == math.inf and not (self.server.full or self.server.retired)
        return self.socket.fileno() if accepts else None

    def step(self, timeout: float) -> None:
        """Accept some of the waiting connections; pause first if this process has too many."""
        server = self.server
        resumed = self.due <= time.monotonic()
        if resumed:
            self.due = math.inf
        expected, self._expected = self._expected, 1
        for number in range(expected):
            # After a pause one is accepted in any case: the other processes may be stuck.
            checks = server.over_share is not None and (number or not resumed)
            if checks and server.over_share(len(server.connections)):
                self.due = time.monotonic() + REST
            if self.fileno() is None:
                return
            try:
                # Not accept(), which looks up enum members for each connection.
                descriptor, address = self.socket._accept()  # type: ignore[attr-defined]
            except BlockingIOError:
                return
            except OSError as error:  # such as a client that has left already
                if error.errno in (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM):
                    logger.warning("no connection can be accepted: %s", error.strerror)
                    self.due = time.monotonic() + EXHAUSTED
                return
            # Not socket.socket, whose methods are written in Python.
            connection = socket.SocketType(*self._kind, descriptor)
            channel = Channel(self, connection, address[0] if address else "localhost")
            server.connections.add(channel)
            server.carrier.schedule(channel)  # usually its request has arrived, too
            if server.full:
                count = len(server.connections)
                logger.warning("there are %d connections: no more are accepted", count)
        self._expected = min(2 * expected, ACCEPTED)

    def release(self) -> None:
        self.socket.close()
