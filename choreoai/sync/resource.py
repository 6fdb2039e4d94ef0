"""What ``client.chat.completions``, ``client.responses`` and ``client.models`` have in common."""

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
    """Carry *exchange* out and return what the answer says."""
    return (RawResponse[Any].fetch(exchange)).parse()


def unsent(exchange: Exchange) -> Exchange:
    """Return *exchange* itself, for who reads the answer as it comes."""
    return exchange


class Resource:
    """The methods of an API.  Each makes an exchange, and *carry* makes of that what it returns.

    ``make sync`` writes the types of the methods that return the same in another form.
    """

    _stream: Any = Stream

    def __init__(self, client: ChoreoAI, carry: Callable[..., Any] = parsed) -> None:
        self._client = client
        self._carry = carry

    def _exchange(self, *request: Any, **more: Any) -> Exchange:
        return Exchange(self._client, *request, **more, stream=self._stream)

    @cached_property
    def with_raw_response(self) -> Any:
        """The same methods; they return the answer's head and body beside its meaning."""
        return type(self)(self._client, RawResponse.fetch)

    @cached_property
    def with_streaming_response(self) -> Any:
        """The same methods, to be entered with ``with``; the body is read as it comes."""
        return Streamed(type(self)(self._client, unsent))


class Streamed:
    """``with_streaming_response`` of the resource *plain*, which sends nothing."""

    def __init__(self, plain: Resource) -> None:
        self._plain = plain

    def __getattr__(self, name: str) -> Any:
        method = getattr(self._plain, name)

        @wraps(method)
        def ask(*args: Any, **params: Any) -> StreamedResponse[Any]:
            return StreamedResponse(method(*args, **params))

        return ask
