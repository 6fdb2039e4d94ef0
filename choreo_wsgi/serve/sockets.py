"""Sockets that systemd has opened for the server (sd_listen_fds(3))."""

from __future__ import annotations

import socket
from collections.abc import Mapping

from ..errors import ConfigurationError

#: The first descriptor that is handed over; what is below are the standard streams.
FIRST = 3


def inherited_sockets(environment: Mapping[str, str], process: int) -> list[socket.socket]:
    """Return the listening sockets that are meant for *process*, none without activation.

    Raises ConfigurationError when ``LISTEN_FDS`` is no count of open stream sockets.
    """
    if environment.get("LISTEN_PID") != str(process):
        return []
    count = environment.get("LISTEN_FDS", "")
    if not (count.isascii() and count.isdigit() and len(count) < 4):
        raise ConfigurationError(f"LISTEN_FDS: {count!r} is no number of sockets")
    try:
        sockets = [socket.socket(fileno=FIRST + n) for n in range(int(count))]
    except OSError as error:
        raise ConfigurationError(f"LISTEN_FDS: {error}") from error
    for item in sockets:
        # Not for the local model's process, which would keep the address after our end.
        item.set_inheritable(False)
        if item.type != socket.SOCK_STREAM:
            raise ConfigurationError("LISTEN_FDS: not a stream socket")
    return sockets
