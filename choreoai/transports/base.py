"""What both transports share: the route to a server, and sockets that never wait."""

from __future__ import annotations

import base64
import socket
import ssl
import threading
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple, TypeVar, Union
from urllib.parse import urlsplit

import requests
from requests.utils import get_auth_from_url, select_proxy

from ..errors import APIConnectionError, APITimeoutError

T = TypeVar("T")
#: What is tried on a socket each time that it is ready, until it works.
Attempt = Callable[[socket.socket], T]

#: Some tens of frames: their objects are used while they are still in the processor's cache.
#: And a whole TLS record, so that none is left over in OpenSSL where no poll sees it.
BLOCK = 16 * 1024
_PIECE = 256 * 1024

_PORTS = {"http": 80, "https": 443}

#: What an attempt raises that has to wait.
NOT_READY = (BlockingIOError, ssl.SSLWantReadError, ssl.SSLWantWriteError)


class Stalled(Exception):
    """A time limit passed."""


class Cancelled(Exception):
    """The call was given up by its caller."""


class BaseWaiter:
    """Has *sock*, and waits for it on behalf of one task or thread at a time."""

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock
        #: Taken once: by who keeps the socket, or by who breaks it off from elsewhere.
        self.claim = threading.Lock()

    @staticmethod
    def wants_to_write(error: OSError, write: bool) -> bool:
        """Return whether to wait for writing after *error*, one of NOT_READY; *write* is before.

        Raises *error* if it is not the system's, but a signal handler's.
        """
        if error.errno is None:
            raise error
        plain = isinstance(error, BlockingIOError)
        return write if plain else isinstance(error, ssl.SSLWantWriteError)

    def shut_down(self) -> None:
        """End both directions of the socket: who waits for it goes on at once."""
        # The method of the plain socket: that of a TLS socket would take the TLS object away
        # from under a thread that is reading.
        plain: socket.socket = getattr(self.sock, "socket", self.sock)
        with suppress(OSError):
            socket.socket.shutdown(plain, socket.SHUT_RDWR)

    def close(self, keep: bool = False) -> None:
        """Wait no more; close the socket, unless it is to be kept.  From any thread."""
        if not keep:
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
        authority += f":{split.port or _PORTS[split.scheme]}"
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
    def proxy_headers(self) -> dict[str, str]:
        """The headers that tell the proxy who asks."""
        pair = ":".join(get_auth_from_url(self.proxy or ""))
        encoded = base64.b64encode(pair.encode()).decode()
        return {} if pair == ":" else {"Proxy-Authorization": f"Basic {encoded}"}

    def message(self, request: requests.PreparedRequest) -> bytes:
        """Return *request* as it is sent on this route."""
        authority = urlsplit(request.url or "").netloc.rpartition("@")[2]
        target = request.path_url
        headers = {"Host": authority, **request.headers}
        if self.proxy is not None and self.scheme == "http":
            target = f"http://{authority}{target}"  # RFC 9112, section 3.2.2
            headers.update(self.proxy_headers)
        lines = [f"{request.method} {target} HTTP/1.1", *map(": ".join, headers.items())]
        body = request.body or b""
        assert isinstance(body, bytes)
        return ("\r\n".join(lines) + "\r\n\r\n").encode("latin-1") + body

    def unreachable(
        self, why: object, *, timed_out: bool = False, hopeless: bool = False
    ) -> APIConnectionError:
        """Return the error for no connection; *hopeless* if another try would find the same."""
        words = "could not connect" if timed_out else "no connection"
        kind = APITimeoutError if timed_out else APIConnectionError
        error = kind(f"{words} to {self.origin}: {why}")
        error._hopeless = hopeless
        return error


def _usable(proxy: str) -> bool:
    try:
        split = urlsplit(proxy)
        return split.scheme in _PORTS and bool(split.hostname) and split.port != 0
    except ValueError:
        return False


class Nested:
    """TLS inside the TLS of a proxy: what is asked of a socket, without ever waiting.

    *socket* leads to the proxy; *tls* reads from *incoming* and writes to *outgoing*.
    """

    def __init__(
        self,
        socket: socket.socket,
        tls: ssl.SSLObject,
        incoming: ssl.MemoryBIO,
        outgoing: ssl.MemoryBIO,
    ) -> None:
        self.socket = socket
        self.fileno, self.close = socket.fileno, socket.close
        self._tls = tls
        self._incoming = incoming
        self._outgoing = outgoing
        self._unsent = b""

    def do_handshake(self) -> None:
        self._fed(self._tls.do_handshake)
        self._flush()

    def send(self, data: memoryview) -> int:
        self._flush()
        sent = self._tls.write(data)
        with suppress(*NOT_READY):
            self._flush()  # what is left goes out before anything else is done
        return sent

    def recv(self, size: int) -> bytes:
        """Return all that is there: what stayed in here no poll would see."""
        self._flush()
        data = self._fed(lambda: self._tls.read(size))
        with suppress(ssl.SSLWantReadError):
            while more := self._tls.read(size):
                data += more
        return data

    def _fed(self, operation: Callable[[], T]) -> T:
        while True:
            try:
                return operation()
            except ssl.SSLWantReadError:
                self._flush()
            if data := self.socket.recv(BLOCK):
                self._incoming.write(data)
            else:
                self._incoming.write_eof()

    def _flush(self) -> None:
        while data := self._unsent or self._outgoing.read(BLOCK):
            self._unsent = data
            self._unsent = data[self.socket.send(data) :]
