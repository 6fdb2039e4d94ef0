"""HTTP to a provider: pooled connections, one exchange after the other, cancelled at will.

A :class:`Client` hands out :class:`Exchange` objects.  ``send()`` returns at once; looking
up the name, connecting, the TLS handshake, sending and reading all happen inside
``Exchange.receive(timeout)``, on the thread that asks, which never waits longer than it
said (looking up a name apart).
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
    # On demand: who wants ``framing`` alone (the client does) gets no socket and no TLS.
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module = {"Client": ".pool", "Exchange": ".exchange"}.get(name, ".request")
    value = getattr(import_module(module, __name__), name)
    globals()[name] = value
    return value
