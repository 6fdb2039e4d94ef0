"""``client.responses``: the Responses API, kept and resumed as chat's streams are."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any, Literal, overload
from urllib.parse import quote

from ..base import Options
from ..reading import object_of
from ..responses import Response, ResponseEvent, ResponseParams, ResponseReading, failure_of
from .exchange import AsyncExchange
from .stream import AsyncStream

if TYPE_CHECKING:
    from ..params import CallOptions, Unpack
    from .client import AsyncChoreoAI


class AsyncResponseStream(AsyncStream[ResponseEvent]):
    """The events of a response, as they come; see :class:`choreoai.AsyncStream`.

    Each is a :class:`choreoai.responses.ResponseEvent`.  Iterating ends in silence only after
    ``response.completed`` or ``response.incomplete``; a response that failed raises.
    """

    _reading: ResponseReading

    @property
    def response(self) -> Response | None:  # type: ignore[override]
        """The response as the last event that holds it had it; its id is there at once."""
        return self._reading.response

    async def get_final_response(self) -> Response:
        """Read to the end and return the whole response.

        Raises what iterating raises, and StreamInterruptedError after an early close.
        """
        await self._until_end()
        return self._reading.response or Response()


class AsyncResponses:
    """``client.responses``."""

    def __init__(self, client: AsyncChoreoAI) -> None:
        self._client = client

    @overload
    async def create(
        self, *, stream: Literal[False] | None = None, **params: Unpack[ResponseParams]
    ) -> Response: ...

    @overload
    async def create(
        self, *, stream: Literal[True], **params: Unpack[ResponseParams]
    ) -> AsyncResponseStream: ...

    async def create(
        self, *, stream: bool | None = None, **params: Any
    ) -> Response | AsyncResponseStream:
        """Ask *model* to answer *input*, a text or a list of items.

        With *stream* an :class:`AsyncResponseStream`, else a :class:`choreoai.responses.Response`.
        A stream with the option ``resumable`` is made in the background: it outlives its
        connection, and is read on over another when that breaks.

        Raises what ``chat.completions.create`` raises, and APIError for a response that failed.
        """
        body, options = self._client._asked(params, ResponseParams)
        if not stream:
            response = await self._whole("POST", "/responses", options, body)
            if response.status == "failed":
                raise failure_of(response)
            return response
        if options.resumable or body.get("background"):
            options = options._replace(resumable=True)
            body["background"] = True
        body["stream"] = True
        return await self._stream("POST", "/responses", options, body)

    @asynccontextmanager
    async def stream(self, **params: Unpack[ResponseParams]) -> AsyncIterator[AsyncResponseStream]:
        """Ask for a stream as :meth:`create` does, in an ``async with`` block that closes it."""
        async with await self.create(stream=True, **params) as stream:
            yield stream

    @overload
    async def retrieve(
        self, response_id: str, *, stream: Literal[False] = False, **options: Unpack[CallOptions]
    ) -> Response: ...

    @overload
    async def retrieve(
        self,
        response_id: str,
        *,
        stream: Literal[True],
        starting_after: int | None = None,
        **options: Unpack[CallOptions],
    ) -> AsyncResponseStream: ...

    async def retrieve(
        self,
        response_id: str,
        *,
        stream: bool = False,
        starting_after: int | None = None,
        **options: Unpack[CallOptions],
    ) -> Response | AsyncResponseStream:
        """Return the response *response_id* as far as it came.

        With *stream* its events behind number *starting_after*, and those to come.
        """
        _, given = self._client._asked(options)
        if not stream:
            return await self._whole("GET", _path(response_id), given)
        path, first = _path(response_id) + "?stream=true", 0
        if starting_after is not None:
            path, first = f"{path}&starting_after={starting_after}", starting_after + 1
        return await self._stream("GET", path, given._replace(resumable=True), first=first)

    async def cancel(self, response_id: str, **options: Unpack[CallOptions]) -> Response:
        """Have the server stop making a response; return it as far as it came."""
        path = _path(response_id) + "/cancel"
        return await self._whole("POST", path, self._client._asked(options)[1])

    async def delete(self, response_id: str, **options: Unpack[CallOptions]) -> None:
        """Have the server forget a response."""
        _, given = self._client._asked(options)
        await AsyncExchange(self._client, "DELETE", _path(response_id), given).fetch()

    async def _whole(self, method: str, path: str, options: Options, body: Any = None) -> Response:
        exchange = AsyncExchange(self._client, method, path, options, body)
        return object_of(Response, await exchange.fetch())

    async def _stream(
        self, method: str, path: str, options: Options, body: Any = None, first: int = 0
    ) -> AsyncResponseStream:
        reading = ResponseReading(first)
        exchange = AsyncExchange(self._client, method, path, options, body, reading=reading)
        return await AsyncResponseStream(exchange)._open()


def _path(response_id: str) -> str:
    return "/responses/" + quote(response_id, safe="")
