"""The keep-alive connections to one provider."""

from __future__ import annotations

from collections.abc import Mapping

from .exchange import Exchange, HTTPRequest, Timeouts


class Client:
    """Sends requests over pooled connections; one for each provider, used by any thread.

    *unix_socket* is a path to connect to whatever the URL's host.  *environ* holds
    HTTP_PROXY, HTTPS_PROXY, ALL_PROXY, NO_PROXY, SSL_CERT_FILE and REQUESTS_CA_BUNDLE; None
    is the process's own environment.
    """

    def __init__(
        self,
        timeouts: Timeouts,
        *,
        unix_socket: str = "",
        environ: Mapping[str, str] | None = None,
    ) -> None:
        raise NotImplementedError

    def send(self, request: HTTPRequest) -> Exchange:
        """Return the exchange of *request*; nothing is sent before its ``receive()``."""
        raise NotImplementedError

    def close(self) -> None:
        """Close the idle connections; exchanges under way are their holders' to close."""
        raise NotImplementedError
