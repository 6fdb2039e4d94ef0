"""What streams and raw answers have in common."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from requests import PreparedRequest

    from .aio.exchange import AsyncExchange
    from .sync.exchange import Exchange

A = TypeVar("A", bound="Answered")


class Answered:
    """What has an answer's head."""

    def __init__(self, exchange: AsyncExchange | Exchange) -> None:
        self._exchange = exchange

    def __reduce__(self) -> Any:
        raise TypeError(f"a {type(self).__name__} belongs to its connection, and has no copies")

    @property
    def status_code(self) -> int:
        """The answer's status."""
        return self._exchange.status_code

    @property
    def headers(self) -> Mapping[str, str]:
        """The answer's headers; names are found whatever their case."""
        return self._exchange.headers

    @property
    def request_id(self) -> str | None:
        """The ``x-request-id`` of the answer."""
        return self.headers.get("x-request-id")

    @property
    def http_response(self: A) -> A:
        """What has ``status_code``, ``headers`` and the body: this answer itself."""
        return self

    @property
    def http_request(self) -> PreparedRequest:
        """The request, with its ``method``, ``url``, ``headers`` and ``body``."""
        return self._exchange.request

    request = http_request

    @property
    def is_closed(self) -> bool:
        """Whether the connection was closed or given back."""
        return self._exchange.closed

    @property
    def retries_taken(self) -> int:
        """How often the request was sent again."""
        return self._exchange.retries
