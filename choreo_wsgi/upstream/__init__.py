"""HTTP to a provider: pooled connections, one exchange after the other, cancelled at will.

A :class:`Client` hands out :class:`Exchange` objects.  ``send()`` returns at once; looking
up the name, connecting, the TLS handshake, sending and reading all happen inside
``Exchange.receive(timeout)``, on the thread that asks, which never waits longer than it
said (looking up a name apart).
"""

from __future__ import annotations

from .exchange import Exchange, HTTPRequest, Timeouts
from .pool import Client

__all__ = ["Client", "Exchange", "HTTPRequest", "Timeouts"]
