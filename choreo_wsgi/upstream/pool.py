"""The keep-alive connections to one provider."""

from __future__ import annotations

import functools
import os
import ssl
import threading
import time
from collections.abc import Mapping
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..late import Late
from .address import Address, parse_url
from .connection import BLOCK, Connection
from .exchange import Exchange
from .head import request_head
from .request import HTTPRequest, Steps, Timeouts

if TYPE_CHECKING:
    from . import connect
else:
    connect = Late("choreo_wsgi.upstream.connect")

#: Seconds after which an idle connection is closed: most servers have closed it by then.
MAX_IDLE_SECONDS = 60.0
#: Limit of idle connections: a burst of streams should not leave thousands of sockets open.
MAX_IDLE = 256


class Client:
    """Sends requests over pooled connections; one for each provider, used by any thread.

    *unix_socket* is a path to connect to, regardless of the URL's host.  *environ* holds
    HTTP_PROXY, HTTPS_PROXY, ALL_PROXY, NO_PROXY, REQUESTS_CA_BUNDLE, CURL_CA_BUNDLE and
    SSL_CERT_FILE; None is the process's own environment.
    """

    def __init__(
        self,
        timeouts: Timeouts,
        *,
        unix_socket: str = "",
        environ: Mapping[str, str] | None = None,
    ) -> None:
        self.timeouts = timeouts
        self.unix_socket = unix_socket
        self.environ = os.environ if environ is None else environ
        self._idle: dict[Address, list[Connection]] = {}
        self._lock = threading.Lock()
        self._closed = False
        # Not a method, which would put each client of a local model's request in a cycle.
        parse = functools.partial(_parse, environ={} if unix_socket else self.environ)
        self._address = functools.lru_cache(64)(parse)

    def send(self, request: HTTPRequest) -> Exchange:
        """Return an exchange for *request*; its ``receive()`` connects and sends.

        Raises ConfigurationError for an invalid URL or header.
        """
        address, target, host = self._address(request.url)
        headers = request.headers
        if address.proxy is not None and address.proxy.authorization and address.scheme == "http":
            headers = {**headers, "Proxy-Authorization": address.proxy.authorization}
        body = request.pieces
        size = sum(map(len, body))
        head = request_head(request.method, target, host, headers, size)
        # A long body is not joined, with the head or itself: that would copy it.
        parts = (head, *body) if size > BLOCK else (head + b"".join(body),)
        return Exchange(self, address, request.method, *parts)

    def close(self) -> None:
        """Close the idle connections; exchanges under way are closed by their owners."""
        with self._lock:
            self._closed = True
            idle = [connection for found in self._idle.values() for connection in found]
            self._idle.clear()
        for connection in idle:
            connection.close()

    def acquire(self, address: Address, new: bool) -> Connection:
        """Return the idle connection to *address* that was used last, or a *new* one."""
        while not new:
            with self._lock:
                found = self._idle.get(address)
                connection = found.pop() if found else None
            if connection is None:
                break
            young = time.monotonic() - connection.idle_since < MAX_IDLE_SECONDS
            if young and connection.is_reusable():
                connection.reused = True
                return connection
            connection.close()
        return Connection(address)

    def connect(self, connection: Connection, until: float) -> Steps:
        """Return the steps that connect *connection* by *until* (monotonic)."""
        if connection.address.scheme == "https" and "ssl_context" not in self.__dict__:
            yield 0, until  # reading the certificates takes tens of milliseconds
            self.ssl_context  # noqa: B018
        yield from connect.connect(connection, self.unix_socket, lambda: self.ssl_context, until)

    def release(self, connection: Connection) -> None:
        """Keep *connection* for the next exchange, and close those that were idle too long."""
        now = connection.idle_since = time.monotonic()
        with self._lock:
            kept = self._idle.setdefault(connection.address, [])
            kept.append(connection)
            old = 0
            while old < len(kept) and now - kept[old].idle_since > MAX_IDLE_SECONDS:
                old += 1
            old = len(kept) if self._closed else max(old, len(kept) - MAX_IDLE)
            dropped = kept[:old]
            del kept[:old]
        for connection in dropped:
            connection.close()

    @functools.cached_property
    def ssl_context(self) -> ssl.SSLContext:
        """Verifies servers against the CA bundle that the environment names, or certifi's."""
        bundles = ("REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE", "SSL_CERT_FILE")
        named = [self.environ[name] for name in bundles if self.environ.get(name)]
        path = named[0] if named else import_module("certifi").where()  # only for https
        location: dict[str, Any] = {"capath" if Path(path).is_dir() else "cafile": path}
        context = ssl.create_default_context(**location)
        context.set_alpn_protocols(["http/1.1"])
        return context


def _parse(url: str, environ: Mapping[str, str]) -> tuple[Address, str, str]:
    address, target = parse_url(url, environ)
    return address, target, address.host_header
