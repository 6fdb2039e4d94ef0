"""The base class of ``client.chat.completions``, ``client.responses`` and ``client.models``."""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property, wraps
from typing import TYPE_CHECKING, Any

from .exchange import Exchange
from .raw import RawResponse, StreamedResponse
from .stream import Stream

if TYPE_CHECKING:
    from .client import ChoreoAI


def parsed(exchange: Exchange) -> Any:
    """Send the request of *exchange* and return the parsed answer."""
    return (RawResponse[Any].fetch(exchange)).parse()


def unsent(exchange: Exchange) -> Exchange:
    """Return *exchange* itself: :class:`StreamedResponse` sends its request."""
    return exchange


class Resource:
    """The methods of an API.  Each creates an exchange and returns the result of *execute* for it.

    ``make sync`` writes the types of ``with_raw_response`` and ``with_streaming_response``, whose
    methods return the answer in another form.
    """

    _stream: Any = Stream

    def __init__(self, client: ChoreoAI, execute: Callable[..., Any] = parsed) -> None:
        self._client = client
        self._execute = execute

    def _exchange(self, *request: Any, **more: Any) -> Exchange:
        return Exchange(self._client, *request, **more, stream=self._stream)

    @cached_property
    def with_raw_response(self) -> Any:
        """The same methods, returning the answer's head and body, which ``parse()`` parses."""
        return type(self)(self._client, RawResponse.fetch)

    @cached_property
    def with_streaming_response(self) -> Any:
        """The same methods, for ``with``; the body is read as it is received."""
        return Streamed(type(self)(self._client, unsent))


class Streamed:
    """``with_streaming_response``; the methods of *resource* return exchanges not sent yet."""

    def __init__(self, resource: Resource) -> None:
        self._resource = resource

    def __getattr__(self, name: str) -> Any:
        method = getattr(self._resource, name)

        @wraps(method)
        def call(*args: Any, **params: Any) -> StreamedResponse[Any]:
            return StreamedResponse(method(*args, **params))

        return call
