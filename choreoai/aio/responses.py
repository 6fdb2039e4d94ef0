"""``client.responses``: the Responses API; its streams can be resumed as chat's can."""

from __future__ import annotations

from collections.abc import AsyncIterator, Coroutine
from contextlib import asynccontextmanager
from functools import partial
from typing import TYPE_CHECKING, Any, Generic, Literal, cast, overload

from ..base import path_of
from ..models import ParsedResponse, Response, ResponseEvent
from ..options import T, is_streamed, with_parameters
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
    """The events of a response, as they are received; see :class:`choreoai.AsyncStream`.

    Each is a :class:`choreoai.models.ResponseEvent`.  Iterating ends without an error only after
    ``response.completed`` or ``response.incomplete``; a failed response raises APIError.
    """

    _reading: ResponseReading[T]

    @property
    def response(self) -> Response | None:  # type: ignore[override]
        """The response as of the last event that holds one; the first event already has its id."""
        return self._reading.response

    async def get_final_response(self) -> ParsedResponse[T]:
        """Read the rest of the stream and return the whole response, parsed.

        Raises the errors of iterating, and StreamInterruptedError after an early close.
        """
        await self.until_done()
        return self._reading.parsed()


class AsyncResponses(AsyncResource):
    """``client.responses``."""

    _stream = AsyncResponseStream
    if TYPE_CHECKING:
        with_raw_response: AsyncRawResponses
        with_streaming_response: AsyncStreamedResponses

    @with_parameters(ResponseParams)
    async def _create(self, *, stream: bool | None = None, **params: Any) -> Any:
        """Return the response of *model* to *input*, a text or a list of items.

        With *stream* the result is of :class:`AsyncResponseStream`, else of
        :class:`choreoai.models.Response`.  A stream with the option ``resumable`` is generated in
        the background: it outlives its connection, and is continued over a new one after a cut.

        Raises the errors of ``chat.completions.create``, and APIError for a failed response.
        """
        return await self._execute(self._prepare(stream, params))

    create: CreateResponse[
        Coroutine[Any, Any, Response], Coroutine[Any, Any, AsyncResponseStream]
    ] = cast(Any, _create)

    @with_parameters(ResponseParams)
    async def parse(
        self, *, text_format: type[T] | None = None, **params: Unpack[ResponseParams]
    ) -> ParsedResponse[T]:
        """Return a response in the form of *text_format*, a pydantic model or a dataclass.

        The parsed text is in ``output_parsed``, the parsed arguments of strict tools in their
        items' ``parsed_arguments``.  Raises the errors of :meth:`create`, and pydantic's
        ValidationError.
        """
        exchange = self._prepare(False, params, True, text_format)
        return await self._execute(exchange)  # type: ignore[no-any-return]

    @with_parameters(ResponseParams)
    @asynccontextmanager
    async def stream(
        self, *, text_format: type[T] | None = None, **params: Unpack[ResponseParams]
    ) -> AsyncIterator[AsyncResponseStream[T]]:
        """Return the same response as :meth:`parse` as a stream, for use in ``async with``."""
        exchange = self._prepare(True, params, True, text_format)
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
        """Return the response *response_id* as far as it was generated.

        With *stream* return its events from the one that follows number *starting_after*.
        """
        after, path = options.pop("starting_after", None), _path(response_id)
        if not stream:
            return await self._call("GET", path, options)
        reading = ResponseReading[None](0 if after is None else after + 1)
        path += "?stream=true" if after is None else f"?stream=true&starting_after={after}"
        return await self._call("GET", path, {**options, "resumable": True}, reading=reading)

    async def cancel(self, response_id: str, **options: Unpack[CallOptions]) -> Response:
        """Stop the generation of a response at the server; return the response so far."""
        response: Response = await self._call("POST", _path(response_id) + "/cancel", options)
        return response

    async def delete(self, response_id: str, **options: Unpack[CallOptions]) -> None:
        """Delete a response from the server."""
        await self._call("DELETE", _path(response_id), options, parse=lambda body: None)

    def _prepare(
        self, stream: bool | None, params: Any, parsed: bool = False, kind: Any = None
    ) -> AsyncExchange:
        """Return the exchange for a response; it is *parsed*, its text into a *kind*, or not."""
        body, options = self._client._body_and_options(params, ResponseParams)
        parser = ResponseParser[Any](body, kind) if parsed else None
        if is_streamed(stream):
            body["stream"] = True
            if options.resumable or body.get("background"):
                options = options._replace(resumable=True)
                body["background"] = True
        parse = partial(response_of, parser)
        reading = ResponseReading[Any](0, parser) if stream else None
        return self._exchange("POST", "/responses", options, body, parse, reading)

    async def _call(self, method: str, path: str, options: Any, **more: Any) -> Any:
        _, call = self._client._body_and_options(options)
        more.setdefault("parse", partial(object_of, Response))
        return await self._execute(self._exchange(method, path, call, **more))


_path = partial(path_of, "/responses")
