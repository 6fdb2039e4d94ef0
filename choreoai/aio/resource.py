"""The base class of ``client.chat.completions``, ``client.responses`` and ``client.models``."""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property, wraps
from typing import TYPE_CHECKING, Any

from .exchange import AsyncExchange
from .raw import AsyncRawResponse, AsyncStreamedResponse
from .stream import AsyncStream

if TYPE_CHECKING:
    from .client import AsyncChoreoAI


async def parsed(exchange: AsyncExchange) -> Any:
    """Send the request of *exchange* and return the parsed answer."""
    return (await AsyncRawResponse[Any].fetch(exchange)).parse()


async def unsent(exchange: AsyncExchange) -> AsyncExchange:
    """Return *exchange* itself: :class:`AsyncStreamedResponse` sends its request."""
    return exchange


class AsyncResource:
    """The methods of an API.  Each creates an exchange and returns the result of *execute* for it.

    ``make sync`` writes the types of ``with_raw_response`` and ``with_streaming_response``, whose
    methods return the answer in another form.
    """

    _stream: Any = AsyncStream

    def __init__(self, client: AsyncChoreoAI, execute: Callable[..., Any] = parsed) -> None:
        self._client = client
        self._execute = execute

    def _exchange(self, *request: Any, **more: Any) -> AsyncExchange:
        return AsyncExchange(self._client, *request, **more, stream=self._stream)

    @cached_property
    def with_raw_response(self) -> Any:
        """The same methods, returning the answer's head and body, which ``parse()`` parses."""
        return type(self)(self._client, AsyncRawResponse.fetch)

    @cached_property
    def with_streaming_response(self) -> Any:
        """The same methods, for ``async with``; the body is read as it is received."""
        return AsyncStreamed(type(self)(self._client, unsent))


class AsyncStreamed:
    """``with_streaming_response``; the methods of *resource* return exchanges not sent yet."""

    def __init__(self, resource: AsyncResource) -> None:
        self._resource = resource

    def __getattr__(self, name: str) -> Any:
        method = getattr(self._resource, name)

        @wraps(method)
        def call(*args: Any, **params: Any) -> AsyncStreamedResponse[Any]:
            return AsyncStreamedResponse(method(*args, **params))

        return call
