"""The connections that wait for their next request; threads and tasks may share them.

Between two requests a connection is a plain socket, and belongs to no event loop.
"""

from __future__ import annotations

import os
import socket
from collections import defaultdict
from contextlib import suppress

import requests
from urllib3.util.wait import wait_for_read

from ..transports.base import Route
from ..transports.blocking import dial

_IDLE_CONNECTIONS = 100


class Pool:
    """Idle connections, of this process alone: also after a fork.

    *session* is there for its settings: proxies, roots, and what the environment says of them.
    """

    def __init__(self, session: requests.Session) -> None:
        self.session = session
        self._pid = os.getpid()
        self._idle: dict[Route, list[socket.socket]] = defaultdict(list)
        self._closed = False

    def connect(self, route: Route, limit: float | None) -> socket.socket:
        """Return an idle connection on which nothing came since, or a new one.

        Raises APIConnectionError, APITimeoutError after *limit* seconds.
        """
        if self._pid != os.getpid():
            # A child of fork(): its parent reads the connections that are idle here.
            self._close_idle()
            self._pid = os.getpid()
        idle = self._idle[route]
        with suppress(IndexError):  # not asked before: another thread may be quicker
            while wait_for_read(sock := idle.pop(), 0):
                sock.close()
            return sock
        return dial(route, limit)

    def keep(self, route: Route, sock: socket.socket) -> None:
        """Take *sock* for the next request on *route*."""
        idle = self._idle[route]
        idle.append(sock)
        if self._closed or len(idle) > _IDLE_CONNECTIONS:
            idle.pop(0).close()

    def close(self) -> None:
        """Close the idle connections, and those in use when their answers are read."""
        self._closed = True
        self._close_idle()

    def _close_idle(self) -> None:
        for idle in list(self._idle.values()):
            while idle:
                idle.pop().close()

    def __del__(self) -> None:
        self._close_idle()
