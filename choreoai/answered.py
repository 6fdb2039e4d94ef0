"""The base class of streams and raw answers: access to the answer's head."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from requests import PreparedRequest

    from .aio.exchange import AsyncExchange
    from .sync.exchange import Exchange

A = TypeVar("A", bound="Answered")


class Answered:
    """An answer with its status, its headers and its request."""

    def __init__(self, exchange: AsyncExchange | Exchange) -> None:
        self._exchange = exchange

    def __reduce__(self) -> Any:
        raise TypeError(f"a {type(self).__name__} has a connection: no copies, no pickle")

    @property
    def status_code(self) -> int:
        """The answer's status."""
        return self._exchange.status_code

    @property
    def headers(self) -> Mapping[str, str]:
        """The answer's headers; their names are case-insensitive."""
        return self._exchange.headers

    @property
    def request_id(self) -> str | None:
        """The ``x-request-id`` of the answer."""
        return self.headers.get("x-request-id")

    @property
    def http_response(self: A) -> A:
        """This answer itself, which has ``status_code``, ``headers`` and the body."""
        return self

    @property
    def http_request(self) -> PreparedRequest:
        """The request, with its ``method``, ``url``, ``headers`` and ``body``."""
        return self._exchange.request

    request = http_request

    @property
    def is_closed(self) -> bool:
        """Whether the connection was closed or returned to the pool."""
        return self._exchange.closed

    @property
    def retries_taken(self) -> int:
        """The number of retries of the request."""
        return self._exchange.retries
