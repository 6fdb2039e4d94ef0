"""What both transports share: the route to a server, sockets that never wait, idle ones."""

from __future__ import annotations

import os
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
#: What is tried on a socket each time that it is ready, until it works.
Attempt = Callable[[socket.socket], T]

#: Some tens of frames: their objects are used while they are still in the processor's cache.
#: And a whole TLS record, so that none is left over in OpenSSL where no poll sees it.
BLOCK = 16 * 1024
_PIECE = 256 * 1024
_IDLE_CONNECTIONS = 100

PORTS = {"http": 80, "https": 443}

#: What an attempt raises that has to wait.
NOT_READY = (BlockingIOError, ssl.SSLWantReadError, ssl.SSLWantWriteError)


def wants_to_write(error: OSError, write: bool) -> bool:
    """Return whether to wait for writing after *error*, one of NOT_READY; *write* is before."""
    plain = isinstance(error, BlockingIOError)
    return write if plain else isinstance(error, ssl.SSLWantWriteError)


class Stalled(TimeoutError):
    """A time limit passed."""


class Cancelled(APIError):
    """The call was given up by its caller."""


class BaseWaiter:
    """Has *sock*, and waits for it on behalf of one task or thread at a time."""

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock
        self._pid = os.getpid()
        #: Taken once: by who keeps the socket, or by who breaks it off from elsewhere.
        self.claim = threading.Lock()

    @property
    def inherited(self) -> bool:
        """Whether the connection is that of the process that this one was forked from."""
        return self._pid != os.getpid()

    def shut_down(self) -> None:
        """End both directions of the socket: who waits for it goes on at once."""
        # The method of the plain socket: that of a TLS socket would take the TLS object away
        # from under a thread that is reading.
        plain: socket.socket = getattr(self.sock, "socket", self.sock)
        with suppress(OSError):
            socket.socket.shutdown(plain, socket.SHUT_RDWR)

    def release(self) -> None:
        """Wait no more, and leave the socket open."""

    def drop(self) -> None:
        """Wait no more, and close the socket; from any thread, and nothing here waits."""
        if not self.inherited:  # else the parent, and its loop, go on with their own
            self.shut_down()
            self.release()
        self.sock.close()


def receive_some(sock: socket.socket) -> bytes:
    """Receive what is there, ``b""`` at the end."""
    try:
        return sock.recv(BLOCK)
    except ssl.SSLEOFError:
        return b""


def send_some(data: memoryview, sock: socket.socket) -> int:
    """Send what goes out at once; return how many bytes that were."""
    return sock.send(data[:_PIECE])


class Route(NamedTuple):
    """How a server is reached; requests with equal routes can share a connection."""

    scheme: str
    host: str
    authority: str  # host:port, an IPv6 address in brackets
    proxy: str | None
    verify: Union[bool, str]
    cert: Union[str, tuple[str, str], None]

    @classmethod
    def find(cls, session: requests.Session, url: str) -> Route:
        """Return the route to *url* with the settings of *session* and of the environment.

        Raises APIConnectionError for a proxy that cannot be used and for files that are not there.
        """
        split = urlsplit(url)
        host = split.hostname or ""
        authority = f"[{host}]" if ":" in host else host
        authority += f":{split.port or PORTS[split.scheme]}"
        verify: Any = session.verify  # else an environment's bundle would win over False
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
                raise route.unreachable(f"there is no file {path}", hopeless=True)
        if proxy is not None and not _usable(proxy):
            shown = proxy.rpartition("@")[2]  # without the password
            why = f"{shown!r} is not the address of an HTTP proxy (SOCKS is not supported)"
            raise route.unreachable(why, hopeless=True)
        return route

    @property
    def origin(self) -> str:
        """``scheme://host:port``."""
        return f"{self.scheme}://{self.authority}"

    @property
    def proxy_headers(self) -> Mapping[str, str]:
        """The headers that tell the proxy who asks."""
        return HTTPAdapter().proxy_headers(self.proxy) if self.proxy is not None else {}

    def message(self, request: requests.PreparedRequest) -> bytes:
        """Return *request* as it is sent on this route."""
        authority = urlsplit(request.url or "").netloc.rpartition("@")[2]
        target = request.path_url
        headers = {"Host": authority, **request.headers}
        if self.proxy is not None and self.scheme == "http":
            target = f"http://{authority}{target}"  # RFC 9112, section 3.2.2
            headers.update(self.proxy_headers)
        body = request.body or b""
        assert isinstance(body, bytes)
        return head(f"{request.method} {target}", headers) + body

    def unreachable(self, error: object, hopeless: bool = False) -> APIConnectionError:
        """Return the error for no connection; *hopeless* if another try would find the same."""
        kind, words = APIConnectionError, "no connection"
        if isinstance(error, TimeoutError):
            kind, words = APITimeoutError, "could not connect"
        made = kind(f"{words} to {self.origin}: {str(error) or 'it took too long'}")
        made._hopeless = hopeless or isinstance(error, ssl.SSLError)
        return made


def head(target: str, headers: Mapping[str, str]) -> bytes:
    """Return the head of a request; *target* follows its method."""
    lines = (f"{target} HTTP/1.1", *map(": ".join, headers.items()), "", "")
    return "\r\n".join(lines).encode("latin-1")


def _usable(proxy: str) -> bool:
    try:
        HTTPAdapter().proxy_headers(proxy)  # may be of characters that no header can carry
        split = urlsplit(proxy)
        return split.scheme in PORTS and bool(split.hostname) and split.port != 0
    except ValueError:
        return False


class Pool:
    """Idle connections; threads and tasks may share them.

    Between two requests a connection is a plain socket, and belongs to no event loop.  *session* is
    there for its settings: proxies, roots, and what the environment says of them.
    """

    def __init__(self, session: requests.Session) -> None:
        self.session = session
        self.closed = False
        self._pid = os.getpid()
        self._idle: dict[Route, list[socket.socket]] = defaultdict(list)

    def __reduce__(self) -> Any:
        raise TypeError("a client has connections: no pickle, and no copy but client.copy()")

    def take(self, route: Route) -> socket.socket | None:
        """Return an idle connection on which nothing came since, if there is one."""
        if self._pid != os.getpid():
            # A child of fork(): its parent reads the connections that are idle here.
            self._close_idle()
            self._pid = os.getpid()
        idle = self._idle[route]
        with suppress(IndexError):  # not asked before: another thread may be quicker
            while wait_for_read(sock := idle.pop(), 0):
                sock.close()
            return sock
        return None

    def keep(self, route: Route, sock: socket.socket) -> None:
        """Take *sock* for the next request on *route*."""
        idle = self._idle[route]
        idle.append(sock)
        if self.closed or len(idle) > _IDLE_CONNECTIONS:
            idle.pop(0).close()

    def close(self) -> None:
        """Close the idle connections, and those in use when their answers are read."""
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
    """TLS inside the TLS of a proxy: what is asked of a socket, without ever waiting.

    *socket* leads to the proxy; *tls* reads from *incoming* and writes to *outgoing*.
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
            self._flush()  # what is left goes out before anything else is done
        return sent

    def recv(self, size: int) -> bytes:
        """Return all that is there: what stayed in here no poll would see."""
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
