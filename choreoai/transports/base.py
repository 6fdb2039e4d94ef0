"""The common part of both transports: routes, non-blocking socket operations, the pool."""

from __future__ import annotations

import os
import re
import socket
import ssl
import threading
from collections import defaultdict
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple, TypeVar, Union
from urllib.parse import urlsplit

import requests
from requests.adapters import HTTPAdapter
from requests.utils import select_proxy
from urllib3.util.wait import wait_for_read

from ..errors import APIConnectionError, APIError, APITimeoutError

T = TypeVar("T")
#: An operation that is tried each time the socket is ready, until it does not raise NOT_READY.
Attempt = Callable[[socket.socket], T]

#: Bytes per receive: some tens of frames, so that their objects still fit in the CPU cache when
#: they are used.  It must hold a whole TLS record (16 KiB): poll() does not see a rest in OpenSSL.
BLOCK = 16 * 1024
_SEND_SIZE = 256 * 1024
_IDLE_CONNECTIONS = 100

PORTS = {"http": 80, "https": 443}
#: Errors of a TLS handshake with a server that speaks plain http: it answers so, or waits for more.
_PLAIN = re.compile("WRONG_VERSION_NUMBER|record layer failure|handshake .*timed out")

#: The exceptions of an attempt that must wait.
NOT_READY = (BlockingIOError, ssl.SSLWantReadError, ssl.SSLWantWriteError)


def wants_to_write(error: OSError, write: bool) -> bool:
    """Return whether to wait for writing after *error*; a plain socket waits as before, *write*."""
    return write if isinstance(error, BlockingIOError) else isinstance(error, ssl.SSLWantWriteError)


class Stalled(TimeoutError):
    """A time limit passed."""


class Cancelled(APIError):
    """The caller cancelled the call."""


class BaseWaiter:
    """Owns *sock* and waits for it, for one task or thread at a time."""

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock
        self._pid = os.getpid()
        #: Acquired once and never released: by the reader that returns the socket to the pool, or
        #: by the thread that cancels the call and shuts the socket down.  Never by both.
        self.claim = threading.Lock()

    @property
    def inherited(self) -> bool:
        """Whether the connection was opened by a parent process, before fork()."""
        return self._pid != os.getpid()

    def shut_down(self) -> None:
        """Shut down both directions of the socket, which wakes the waiting task or thread."""
        # SSLSocket.shutdown() would also drop the TLS object, while another thread may read.
        plain: socket.socket = getattr(self.sock, "socket", self.sock)
        with suppress(OSError):
            socket.socket.shutdown(plain, socket.SHUT_RDWR)

    def release(self) -> None:
        """Stop waiting and leave the socket open."""

    def drop(self) -> None:
        """Stop waiting and close the socket.  Never blocks; may be called in any thread."""
        if not self.inherited:  # else the parent process still uses the connection
            self.shut_down()
            self.release()
        self.sock.close()


def receive_some(sock: socket.socket) -> bytes:
    """Return the bytes that are available, ``b""`` at the end of the stream."""
    try:
        return sock.recv(BLOCK)
    except ssl.SSLEOFError:
        return b""


def send_some(data: memoryview, sock: socket.socket) -> int:
    """Send as many bytes as possible without waiting; return their number."""
    return sock.send(data[:_SEND_SIZE])


class Route(NamedTuple):
    """The way to a server; requests with equal routes can share a connection."""

    scheme: str
    host: str
    authority: str  # host:port, an IPv6 address in brackets
    proxy: str | None
    verify: Union[bool, str]
    cert: Union[str, tuple[str, str], None]

    @classmethod
    def find(cls, session: requests.Session, url: str) -> Route:
        """Return the route to *url* with the settings of *session* and of the environment.

        Raises APIConnectionError for a proxy that cannot be used and for a missing file.
        """
        split = urlsplit(url)
        host = split.hostname or ""
        authority = f"[{host}]" if ":" in host else host
        authority += f":{split.port or PORTS[split.scheme]}"
        verify: Any = session.verify  # with None a bundle of the environment would replace False
        settings = session.merge_environment_settings(url, {}, False, verify, None)
        verify = settings["verify"] is not False and (settings["verify"] or True)
        cert = settings["cert"]
        cert = tuple(cert) if isinstance(cert, list) else cert
        proxy = select_proxy(url, settings["proxies"])
        if proxy is not None and "://" not in proxy:
            proxy = f"http://{proxy}"
        route = cls(split.scheme, host, authority, proxy, verify, cert)
        for path in (verify, *(cert if isinstance(cert, tuple) else (cert,))):
            if isinstance(path, str) and not Path(path).exists():
                raise route.unreachable(f"there is no file {path}", no_retry=True)
        if proxy is not None and not _is_http_proxy(proxy):
            shown = proxy.rpartition("@")[2]  # without the password
            why = f"{shown!r} is not the address of an HTTP proxy (SOCKS is not supported)"
            raise route.unreachable(why, no_retry=True)
        return route

    @property
    def origin(self) -> str:
        """``scheme://host:port``."""
        return f"{self.scheme}://{self.authority}"

    @property
    def proxy_headers(self) -> Mapping[str, str]:
        """The headers for the proxy: its authorization."""
        return HTTPAdapter().proxy_headers(self.proxy) if self.proxy is not None else {}

    def message(self, request: requests.PreparedRequest) -> bytes:
        """Return the bytes of *request* as it is sent on this route."""
        authority = urlsplit(request.url or "").netloc.rpartition("@")[2]
        target = request.path_url
        headers = {"Host": authority, **request.headers}
        if self.proxy is not None and self.scheme == "http":
            target = f"http://{authority}{target}"  # RFC 9112, section 3.2.2
            headers.update(self.proxy_headers)
        body = request.body or b""
        assert isinstance(body, bytes)
        return head(f"{request.method} {target}", headers) + body

    def unreachable(self, error: object, no_retry: bool = False) -> APIConnectionError:
        """Return the error for a failed connection; *no_retry* if a retry would fail as well."""
        kind = APITimeoutError if isinstance(error, TimeoutError) else APIConnectionError
        reason = str(error) or "the time limit passed"
        if self.scheme == "https" and _PLAIN.search(reason):
            reason += " (the server may speak plain http: try an address that begins with http://)"
        result = kind(f"could not connect to {self.origin}: {reason}")
        result._no_retry = no_retry or isinstance(error, ssl.SSLError)
        return result


def head(target: str, headers: Mapping[str, str]) -> bytes:
    """Return the head of a request; *target* is its method and its target."""
    lines = (f"{target} HTTP/1.1", *map(": ".join, headers.items()), "", "")
    return "\r\n".join(lines).encode("latin-1")


def _is_http_proxy(proxy: str) -> bool:
    try:
        HTTPAdapter().proxy_headers(proxy)  # raises if a header cannot hold the user's name
        split = urlsplit(proxy)
        return split.scheme in PORTS and bool(split.hostname) and split.port != 0
    except ValueError:
        return False


class Pool:
    """Idle connections, shared by threads and tasks.

    Between two requests a connection is only a socket, and belongs to no event loop.  *session*
    provides the settings: proxies, certificates, and whether the environment's apply.
    """

    def __init__(self, session: requests.Session) -> None:
        self.session = session
        self.closed = False
        self._pid = os.getpid()
        self._idle: dict[Route, list[socket.socket]] = defaultdict(list)

    def __reduce__(self) -> Any:
        raise TypeError("a client has connections: no pickle; use client.copy() for a copy")

    def get(self, route: Route) -> socket.socket | None:
        """Return an idle connection, or None; one with unread bytes (or at its end) is closed."""
        if self._pid != os.getpid():
            # A child of fork(): the idle connections here are in use by its parent.
            self._close_idle()
            self._pid = os.getpid()
        idle = self._idle[route]
        with suppress(IndexError):  # no check before pop(): another thread may take the last one
            while wait_for_read(sock := idle.pop(), 0):
                sock.close()
            return sock
        return None

    def put(self, route: Route, sock: socket.socket) -> None:
        """Keep *sock* for the next request on *route*."""
        idle = self._idle[route]
        idle.append(sock)
        if self.closed or len(idle) > _IDLE_CONNECTIONS:
            idle.pop(0).close()

    def close(self) -> None:
        """Close the idle connections now, and those in use once their answers are read."""
        self.closed = True
        self._close_idle()

    def _close_idle(self) -> None:
        for idle in list(self._idle.values()):
            while idle:
                idle.pop().close()

    def __del__(self) -> None:
        self._close_idle()


@dataclass(eq=False)
class Nested:
    """TLS inside the TLS of a proxy, with the methods of a non-blocking socket.

    *socket* is connected to the proxy; *tls* reads from *incoming* and writes to *outgoing*.
    """

    socket: socket.socket
    tls: ssl.SSLObject
    incoming: ssl.MemoryBIO
    outgoing: ssl.MemoryBIO
    unsent: bytes = b""

    def fileno(self) -> int:
        return self.socket.fileno()

    def close(self) -> None:
        self.socket.close()

    def do_handshake(self) -> None:
        self._perform(self.tls.do_handshake)
        self._flush()

    def send(self, data: memoryview) -> int:
        sent = self._perform(partial(self.tls.write, data))
        with suppress(*NOT_READY):
            self._flush()  # the next operation sends the rest first
        return sent

    def recv(self, size: int) -> bytes:
        """Return all bytes that are available, even more than *size*: poll() sees no rest here."""
        data = self._perform(partial(self.tls.read, size))
        with suppress(ssl.SSLWantReadError):
            while more := self.tls.read(size):
                data += more
        return data

    def _perform(self, operation: Callable[[], T]) -> T:
        while True:
            self._flush()
            try:
                return operation()
            except ssl.SSLWantReadError:
                self._flush()
            if data := self.socket.recv(BLOCK):
                self.incoming.write(data)
            else:
                self.incoming.write_eof()

    def _flush(self) -> None:
        while data := self.unsent or self.outgoing.read(BLOCK):
            self.unsent = data
            self.unsent = data[self.socket.send(data) :]
