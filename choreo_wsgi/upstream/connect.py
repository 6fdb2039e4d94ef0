"""Connecting: name lookup, TCP, a proxy's tunnel and TLS, as steps (:data:`.request.Steps`).

The only step that blocks is the name lookup; it is announced by events of 0.
"""

from __future__ import annotations

import errno
import ipaddress
import os
import socket
import ssl
import time
from collections.abc import Callable, Generator
from functools import lru_cache

from ..errors import Exhausted, ProviderTimeout, ProviderUnavailable
from .address import Address
from .connection import POLLIN, POLLOUT, TLS, Connection
from .framing import FramingError
from .head import head_end, parse_head
from .request import Steps

_SocketAddress = tuple[int, object]  # an address family, and the argument of connect()


def connect(
    connection: Connection,
    unix_socket: str,
    context: Callable[[], ssl.SSLContext],
    until: float,
) -> Steps:
    """Connect *connection* to its address, or to *unix_socket*, by *until* (monotonic).

    Raises ProviderUnavailable, ProviderTimeout, and Exhausted if this process has no file
    descriptor left.
    """
    address = connection.address
    try:
        addresses = yield from _look_up(address, unix_socket, until)
        yield from _connect_to_first(connection, addresses, until)
        if address.proxy is not None and address.scheme == "https":
            yield from _tunnel(connection, until)
        if address.scheme == "https":
            connection.tls = TLS(context(), address.host)
            while not connection.handshake():
                yield from _flush(connection, until)
                yield POLLIN, until
                data = connection.receive_raw()
                if data is not None:
                    connection.tls.feed(data)
    except ssl.SSLCertVerificationError as error:
        why = f"the provider's certificate is invalid: {error.verify_message}"
        raise ProviderUnavailable(why) from error
    except FramingError as error:
        raise ProviderUnavailable(f"the proxy's answer cannot be read: {error}") from error
    except TimeoutError as error:
        raise ProviderTimeout("connecting to the provider timed out") from error
    except OSError as error:
        if _out_of_descriptors():
            raise Exhausted("the server has no file descriptor left", retry_after=1) from error
        why = f"no connection to the provider: {_reason(error)}"
        raise ProviderUnavailable(why) from error
    connection.established(tcp=not unix_socket)


def _out_of_descriptors() -> bool:
    """Return whether this process cannot open a descriptor, whichever call failed for that."""
    try:
        socket.socket().close()
    except OSError as error:
        return error.errno in (errno.EMFILE, errno.ENFILE)
    return False


def _reason(error: OSError) -> str:
    if isinstance(error, ssl.SSLError):
        return f"TLS: {error.reason or error.args[-1]} (the server may speak plain http)"
    return error.strerror or str(error)


def _look_up(
    address: Address, unix_socket: str, until: float
) -> Generator[tuple[int, float], None, list[_SocketAddress]]:
    if unix_socket:
        return [(socket.AF_UNIX, unix_socket)]
    peer = address.proxy or address
    if not _is_literal(peer.host):
        yield 0, until
    found = socket.getaddrinfo(peer.host, peer.port, type=socket.SOCK_STREAM)
    return [(family, socket_address) for family, _, _, _, socket_address in found]


@lru_cache(256)
def _is_literal(host: str) -> bool:
    """Return whether *host* is an IP address, which needs no lookup."""
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True


def _connect_to_first(
    connection: Connection, addresses: list[_SocketAddress], until: float
) -> Steps:
    """Connect to the first address that accepts, each tried for its share of the time left."""
    failure = OSError("the name has no address")
    for left in range(len(addresses), 0, -1):
        family, address = addresses[-left]
        now = time.monotonic()
        share = now + (until - now) / left
        sock = socket.socket(family, socket.SOCK_STREAM)
        sock.setblocking(False)
        connection.sock = sock
        try:
            yield from _connect_to(sock, address, share)
            connection.round_trip = min(time.monotonic() - now, 1.0)
            return
        except OSError as error:
            failure = error
            sock.close()
        except BaseException:
            sock.close()
            raise
    raise failure


def _connect_to(sock: socket.socket, address: object, until: float) -> Steps:
    try:
        sock.connect(address)  # type: ignore[arg-type]
        return
    except BlockingIOError:
        if sock.family == socket.AF_UNIX:  # its queue is full, and no event reports its end
            raise
    yield POLLOUT, until
    error = sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
    if error:
        raise OSError(error, os.strerror(error))


def _tunnel(connection: Connection, until: float) -> Steps:
    """Open a tunnel through the proxy to the address: RFC 9110, 9.3.6."""
    address = connection.address
    assert address.proxy is not None
    request = f"CONNECT {address.authority} HTTP/1.1\r\nHost: {address.authority}\r\n"
    if address.proxy.authorization:
        request += f"Proxy-Authorization: {address.proxy.authorization}\r\n"
    connection.queue_raw(f"{request}\r\n".encode("latin-1"))
    yield from _flush(connection, until)
    answer = b""
    while (end := head_end(answer)) < 0:
        yield POLLIN, until
        data = connection.receive_raw()
        if data == b"":
            raise ProviderUnavailable("the proxy closed the connection")
        answer += data or b""
    head = parse_head(answer[:end], "HEAD")
    if head.status != 200 or len(answer) > end:
        raise ProviderUnavailable(f"the proxy answered {head.status} {head.reason}")


def _flush(connection: Connection, until: float) -> Steps:
    while not connection.flush():
        yield POLLOUT, until
