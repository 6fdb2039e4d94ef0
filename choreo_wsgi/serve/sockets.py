"""Listening sockets: bound to the settings' addresses, or inherited from systemd."""

from __future__ import annotations

import errno
import ipaddress
import logging
import os
import re
import socket
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from ..errors import ConfigurationError
from ..settings import Settings

try:
    import resource
except ImportError:  # not a Unix
    resource = None  # type: ignore[assignment]

logger = logging.getLogger(__name__)

#: Bytes that the system buffers for a client that does not read; its default is 4 MB.
UNSENT = 512 * 1024

_ADDRESS = re.compile(r"(\[[\w:.%]+\]|[^\s:/\[\]]*)(?::([0-9]{1,9}))?", re.ASCII)

#: The first descriptor that systemd passes, behind the standard streams.
FIRST = 3


def listen_addresses(settings: Settings) -> list[str]:
    """Return the addresses of *settings* as HOST:PORT; ``port`` is the default port.

    Raises ConfigurationError, with a hint at the correct form, for an invalid address.
    """
    bare = settings.host.count(":") > 1 and "[" not in settings.host
    host = f"[{settings.host}]" if bare else settings.host
    found = []
    for text in settings.listen or (host,):
        if text.isdecimal():
            raise ConfigurationError(
                f"listen: {text} is a port without an address: write 127.0.0.1:{text}, "
                f"or port = {text}"
            )
        match = _ADDRESS.fullmatch(text)
        if match is None:
            bare = text.count(":") > 1 and "[" not in text
            hint = f"; put an IPv6 address in brackets: [{text}]" if bare else ""
            if "://" in text:
                hint = f"; write it without {text.partition('://')[0]}://"
            elif "/" in text:
                hint = "; use the setting unix_socket for the path of a unix socket"
            raise ConfigurationError(f"listen: {text!r} is not HOST:PORT{hint}")
        port = int(match[2] or settings.port)
        if port > 65535:
            raise ConfigurationError(f"listen: {text}: there is no port above 65535")
        found.append(f"{match[1] or '*'}:{port}")
    return found


def inherited_sockets(environment: Mapping[str, str], process: int) -> list[socket.socket]:
    """Return the listening sockets that systemd opened for *process* (sd_listen_fds(3)).

    Raises ConfigurationError when ``LISTEN_FDS`` is not the number of open stream sockets.
    """
    if environment.get("LISTEN_PID") != str(process):
        return []
    count = environment.get("LISTEN_FDS", "")
    if not (count.isascii() and count.isdigit() and len(count) < 4):
        raise ConfigurationError(f"LISTEN_FDS: {count!r} is not a number of sockets")
    try:
        sockets = [socket.socket(fileno=FIRST + n) for n in range(int(count))]
    except OSError as error:
        raise ConfigurationError(f"LISTEN_FDS: {error}") from error
    for item in sockets:
        # The local model's process would keep the address in use after our end.
        item.set_inheritable(False)
        if item.type != socket.SOCK_STREAM:
            raise ConfigurationError("LISTEN_FDS: not a stream socket")
    return sockets


def bind(settings: Settings) -> list[socket.socket]:
    """Return listening sockets for the addresses of *settings*; raises ConfigurationError."""
    if settings.unix_socket:
        places = [(f"unix:{settings.unix_socket}", socket.AF_UNIX, settings.unix_socket)]
    else:
        places = [place for text in listen_addresses(settings) for place in _look_up(text)]
    found: list[socket.socket] = []
    for text, family, address in places:
        try:
            one = socket.socket(family)
            found.append(one)
            one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if family == socket.AF_INET6:
                one.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            if settings.unix_socket and Path(address).is_socket():
                one.setblocking(False)
                if one.connect_ex(address) != errno.ECONNREFUSED:
                    raise OSError("another server listens there")
                Path(address).unlink()  # left by a server that was killed
            elif settings.unix_socket and Path(address).exists():
                raise OSError("the file exists and is not a socket")
            one.bind(address)
            if settings.unix_socket:
                os.chmod(address, 0o600)  # noqa: PTH101 (never a link)
            one.listen(max(1024, settings.max_streams))
        except OSError as error:
            for one in found:
                one.close()
            raise ConfigurationError(f"listen: {text}: {error.strerror or error}") from None
    return found


def _look_up(text: str) -> list[tuple[str, socket.AddressFamily, Any]]:
    """Return the addresses of *text*, HOST:PORT, each with *text* and its family."""
    host, _, port = text.rpartition(":")
    name = None if host == "*" else host.strip("[]")
    try:
        found = socket.getaddrinfo(name, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except (OSError, UnicodeError):
        raise ConfigurationError(f"listen: unknown host: {text}") from None
    return [(text, family, address) for family, _, _, _, address in found]


def check_exposure(sockets: Iterable[socket.socket]) -> None:
    """Raise ConfigurationError if one of *sockets* can be reached from other machines.

    Access to a unix socket is limited by its file's permissions.
    """
    for one in sockets:
        host = one.getsockname()[0] if one.family != socket.AF_UNIX else "::1"
        if not ipaddress.ip_address(host).is_loopback:
            raise ConfigurationError(
                f"listen: {host} can be reached from other machines and there are no API keys; "
                "set CHOREO_API_KEYS, or allow all clients with --allow-anonymous"
            )


def raise_open_files(needed: int) -> None:
    """Raise the limit of open files to *needed*, or as far as the system allows."""
    if resource is None:
        return
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY or soft >= needed:
        return
    wanted = needed if hard == resource.RLIM_INFINITY else min(needed, hard)
    resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
    if wanted < needed:
        logger.warning("only %d open files allowed, %d may be needed (ulimit -n)", wanted, needed)


def set_options(listener: socket.socket, send_timeout: float) -> None:
    """Set options on *listener* that its connections inherit: no delay, and limits of buffering."""
    listener.setblocking(False)
    if listener.family == socket.AF_UNIX:
        return
    listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    if hasattr(socket, "TCP_USER_TIMEOUT"):
        # Drops a client that has vanished, even if its stream is too slow to ever fill a buffer.
        # Later than our own timeout, because the system does not send a reset.
        milliseconds = int(send_timeout * 1000) + 10_000
        listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, milliseconds)
    if hasattr(socket, "TCP_NOTSENT_LOWAT"):
        # Limits the bytes that wait, and not, as SO_SNDBUF would, those on the network.
        listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NOTSENT_LOWAT, UNSENT)
