"""An HTTP/1.1 client with pooled connections, whose exchanges any thread can cancel.

``Client.send()`` returns an :class:`Exchange` at once.  Name lookup, connecting, the TLS
handshake, sending and reading all happen inside ``Exchange.receive(timeout)``, on the calling
thread, which waits no longer than *timeout* (except for the name lookup).
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .exchange import Exchange
    from .pool import Client
    from .request import HTTPRequest, Timeouts

__all__ = ["Client", "Exchange", "HTTPRequest", "Timeouts"]


def __getattr__(name: str) -> Any:
    # Imported on demand: choreoai uses ``framing`` alone, without sockets and TLS.
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module = {"Client": ".pool", "Exchange": ".exchange"}.get(name, ".request")
    value = getattr(import_module(module, __name__), name)
    globals()[name] = value
    return value
