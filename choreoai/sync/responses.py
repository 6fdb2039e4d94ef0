"""``client.responses``: the Responses API, kept and resumed as chat's streams are."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Literal, overload
from urllib.parse import quote

from ..base import Options
from ..reading import object_of
from ..responses import Response, ResponseEvent, ResponseParams, ResponseReading, failure_of
from .exchange import Exchange
from .stream import Stream

if TYPE_CHECKING:
    from ..params import CallOptions, Unpack
    from .client import ChoreoAI


class ResponseStream(Stream[ResponseEvent]):
    """The events of a response, as they come; see :class:`choreoai.Stream`.

    Each is a :class:`choreoai.responses.ResponseEvent`.  Iterating ends in silence only after
    ``response.completed`` or ``response.incomplete``; a response that failed raises.
    """

    _reading: ResponseReading

    @property
    def response(self) -> Response | None:  # type: ignore[override]
        """The response as the last event that holds it had it; its id is there at once."""
        return self._reading.response

    def get_final_response(self) -> Response:
        """Read to the end and return the whole response.

        Raises what iterating raises, and StreamInterruptedError after an early close.
        """
        self._until_end()
        return self._reading.response or Response()


class Responses:
    """``client.responses``."""

    def __init__(self, client: ChoreoAI) -> None:
        self._client = client

    @overload
    def create(
        self, *, stream: Literal[False] | None = None, **params: Unpack[ResponseParams]
    ) -> Response: ...

    @overload
    def create(
        self, *, stream: Literal[True], **params: Unpack[ResponseParams]
    ) -> ResponseStream: ...

    def create(self, *, stream: bool | None = None, **params: Any) -> Response | ResponseStream:
        """Ask *model* to answer *input*, a text or a list of items.

        With *stream* an :class:`ResponseStream`, else a :class:`choreoai.responses.Response`.
        A stream with the option ``resumable`` is made in the background: it outlives its
        connection, and is read on over another when that breaks.

        Raises what ``chat.completions.create`` raises, and APIError for a response that failed.
        """
        body, options = self._client._asked(params, ResponseParams)
        if not stream:
            response = self._whole("POST", "/responses", options, body)
            if response.status == "failed":
                raise failure_of(response)
            return response
        if options.resumable or body.get("background"):
            options = options._replace(resumable=True)
            body["background"] = True
        body["stream"] = True
        return self._stream("POST", "/responses", options, body)

    @contextmanager
    def stream(self, **params: Unpack[ResponseParams]) -> Iterator[ResponseStream]:
        """Ask for a stream as :meth:`create` does, in an ``with`` block that closes it."""
        with self.create(stream=True, **params) as stream:
            yield stream

    @overload
    def retrieve(
        self, response_id: str, *, stream: Literal[False] = False, **options: Unpack[CallOptions]
    ) -> Response: ...

    @overload
    def retrieve(
        self,
        response_id: str,
        *,
        stream: Literal[True],
        starting_after: int | None = None,
        **options: Unpack[CallOptions],
    ) -> ResponseStream: ...

    def retrieve(
        self,
        response_id: str,
        *,
        stream: bool = False,
        starting_after: int | None = None,
        **options: Unpack[CallOptions],
    ) -> Response | ResponseStream:
        """Return the response *response_id* as far as it came.

        With *stream* its events behind number *starting_after*, and those to come.
        """
        _, given = self._client._asked(options)
        if not stream:
            return self._whole("GET", _path(response_id), given)
        path, first = _path(response_id) + "?stream=true", 0
        if starting_after is not None:
            path, first = f"{path}&starting_after={starting_after}", starting_after + 1
        return self._stream("GET", path, given._replace(resumable=True), first=first)

    def cancel(self, response_id: str, **options: Unpack[CallOptions]) -> Response:
        """Have the server stop making a response; return it as far as it came."""
        path = _path(response_id) + "/cancel"
        return self._whole("POST", path, self._client._asked(options)[1])

    def delete(self, response_id: str, **options: Unpack[CallOptions]) -> None:
        """Have the server forget a response."""
        _, given = self._client._asked(options)
        Exchange(self._client, "DELETE", _path(response_id), given).fetch()

    def _whole(self, method: str, path: str, options: Options, body: Any = None) -> Response:
        exchange = Exchange(self._client, method, path, options, body)
        return object_of(Response, exchange.fetch())

    def _stream(
        self, method: str, path: str, options: Options, body: Any = None, first: int = 0
    ) -> ResponseStream:
        reading = ResponseReading(first)
        exchange = Exchange(self._client, method, path, options, body, reading=reading)
        return ResponseStream(exchange)._open()


def _path(response_id: str) -> str:
    return "/responses/" + quote(response_id, safe="")
