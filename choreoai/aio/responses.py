"""``client.responses``: the Responses API, kept and resumed as chat's streams are."""

from __future__ import annotations

from collections.abc import AsyncIterator, Coroutine
from contextlib import asynccontextmanager
from functools import partial
from typing import TYPE_CHECKING, Any, Generic, Literal, cast, overload

from ..base import path_of
from ..models import ParsedResponse, Response, ResponseEvent
from ..options import T, declared
from ..params import ResponseParams
from ..reading import object_of
from ..responses import ResponseParser, ResponseReading, response_of
from .exchange import AsyncExchange
from .resource import AsyncResource
from .stream import AsyncStream

if TYPE_CHECKING:
    from ..options import CallOptions, Unpack
    from ..params import CreateResponse
    from .wrapped import AsyncRawResponses, AsyncStreamedResponses


class AsyncResponseStream(AsyncStream[ResponseEvent], Generic[T]):
    """The events of a response, as they come; see :class:`choreoai.AsyncStream`.

    Each is a :class:`choreoai.models.ResponseEvent`.  Iterating ends in silence only after
    ``response.completed`` or ``response.incomplete``; a response that failed raises.
    """

    _reading: ResponseReading[T]

    @property
    def response(self) -> Response | None:  # type: ignore[override]
        """The response as the last event that holds it had it; its id is there at once."""
        return self._reading.response

    async def get_final_response(self) -> ParsedResponse[T]:
        """Read to the end and return the whole response, parsed.

        Raises what iterating raises, and StreamInterruptedError after an early close.
        """
        await self.until_done()
        return self._reading.parsed()


class AsyncResponses(AsyncResource):
    """``client.responses``."""

    _stream = AsyncResponseStream
    if TYPE_CHECKING:
        with_raw_response: AsyncRawResponses
        with_streaming_response: AsyncStreamedResponses

    @declared(ResponseParams)
    async def _create(self, *, stream: bool | None = None, **params: Any) -> Any:
        """Ask *model* to answer *input*, a text or a list of items.

        With *stream* an :class:`AsyncResponseStream`, else a :class:`choreoai.models.Response`.
        A stream with the option ``resumable`` is made in the background: it outlives its
        connection, and is read on over another when that breaks.

        Raises what ``chat.completions.create`` raises, and APIError for a response that failed.
        """
        return await self._carry(self._ask(stream, params))

    create: CreateResponse[
        Coroutine[Any, Any, Response], Coroutine[Any, Any, AsyncResponseStream]
    ] = cast(Any, _create)

    @declared(ResponseParams)
    async def parse(
        self, *, text_format: type[T] | None = None, **params: Unpack[ResponseParams]
    ) -> ParsedResponse[T]:
        """Ask for a text in the form of *text_format*, a pydantic model or a dataclass.

        It stands in ``output_parsed``, and the arguments of strict tools in their items'
        ``parsed_arguments``.  Raises what :meth:`create` raises, and pydantic's ValidationError.
        """
        response: ParsedResponse[T]
        response = await self._carry(self._ask(False, params, True, text_format))
        return response

    @declared(ResponseParams)
    @asynccontextmanager
    async def stream(
        self, *, text_format: type[T] | None = None, **params: Unpack[ResponseParams]
    ) -> AsyncIterator[AsyncResponseStream[T]]:
        """Ask for what :meth:`parse` does as a stream, in an ``async with`` block."""
        exchange = self._ask(True, params, True, text_format)
        async with await AsyncResponseStream[T](exchange)._open() as stream:
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

    async def retrieve(self, response_id: str, *, stream: bool = False, **options: Any) -> Any:
        """Return the response *response_id* as far as it came.

        With *stream* its events behind number *starting_after*, and those to come.
        """
        after, path = options.pop("starting_after", None), _path(response_id)
        if not stream:
            return await self._call("GET", path, options)
        reading = ResponseReading[None](0 if after is None else after + 1)
        path += "?stream=true" if after is None else f"?stream=true&starting_after={after}"
        return await self._call("GET", path, {**options, "resumable": True}, reading=reading)

    async def cancel(self, response_id: str, **options: Unpack[CallOptions]) -> Response:
        """Have the server stop making a response; return it as far as it came."""
        response: Response = await self._call("POST", _path(response_id) + "/cancel", options)
        return response

    async def delete(self, response_id: str, **options: Unpack[CallOptions]) -> None:
        """Have the server forget a response."""
        await self._call("DELETE", _path(response_id), options, meaning=lambda body: None)

    def _ask(
        self, stream: bool | None, params: Any, parsed: bool = False, kind: Any = None
    ) -> AsyncExchange:
        """Return the exchange that asks for a response, which is *parsed* as a *kind* or not."""
        body, options = self._client._asked(params, ResponseParams)
        parser = ResponseParser[Any](body, kind) if parsed else None
        if stream:
            body["stream"] = True
            if options.resumable or body.get("background"):
                options = options._replace(resumable=True)
                body["background"] = True
        meaning = partial(response_of, parser)
        reading = ResponseReading[Any](0, parser) if stream else None
        return self._exchange("POST", "/responses", options, body, meaning, reading)

    async def _call(self, method: str, path: str, options: Any, **more: Any) -> Any:
        _, given = self._client._asked(options)
        more.setdefault("meaning", partial(object_of, Response))
        return await self._carry(self._exchange(method, path, given, **more))


_path = partial(path_of, "/responses")
