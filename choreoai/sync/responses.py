"""``client.responses``: the Responses API, kept and resumed as chat's streams are."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any, Literal, overload
from urllib.parse import quote

from ..base import stream_headers
from ..errors import StreamInterruptedError
from ..params import NOT_GIVEN, TimeoutLike, split
from ..reading import object_of
from ..responses import (
    RESPONSE_PARAMS,
    Response,
    ResponseEvent,
    ResponseParams,
    ResponseReading,
    finished,
)
from .feed import Feed, open_feed
from .stream import Stream

if TYPE_CHECKING:
    from ..params import Unpack
    from .client import ChoreoAI


class ResponseStream(Stream):
    """The events of a response, as they come; see :class:`choreoai.Stream`.

    Each is a :class:`choreoai.responses.ResponseEvent`.  Iterating ends in silence only after
    ``response.completed`` or ``response.incomplete``; a response that failed raises.
    """

    def __init__(self, feed: Feed, stop: Callable[[], None] | None, first: int | None) -> None:
        super().__init__(feed, 1, stop)
        self._events = self._reading = ResponseReading(first)

    def __iter__(self) -> Iterator[ResponseEvent]:  # type: ignore[override]
        return self

    def __next__(self) -> ResponseEvent:  # type: ignore[override]
        event: Any = super().__next__()
        return event  # type: ignore[no-any-return]

    @property
    def response(self) -> Response | None:
        """The response as the last event that holds it had it; its id is there at once."""
        return self._events.response

    def get_final_response(self) -> Response:
        """Read to the end and return the whole response.

        Raises what iterating raises, and StreamInterruptedError after an early close.
        """
        for _ in self:
            pass
        if not self._events.ended or self._events.response is None:
            raise self._events.fail(StreamInterruptedError("the stream was closed before its end"))
        return self._events.response


class Responses:
    """``client.responses``."""

    def __init__(self, client: ChoreoAI) -> None:
        self._client = client

    @overload
    def create(
        self,
        *,
        model: str,
        input: Any,
        stream: Literal[False] | None = None,
        **params: Unpack[ResponseParams],
    ) -> Response: ...

    @overload
    def create(
        self, *, model: str, input: Any, stream: Literal[True], **params: Unpack[ResponseParams]
    ) -> ResponseStream: ...

    def create(
        self, *, model: str, input: Any, stream: bool | None = None, **params: Any
    ) -> Response | ResponseStream:
        """Ask *model* to answer *input*, a text or a list of items.

        With *stream* an :class:`ResponseStream`, else a :class:`choreoai.responses.Response`.
        A stream with the option ``resumable`` is made in the background: it outlives its
        connection, and is read on over another when that breaks.

        Raises what ``chat.completions.create`` raises, and APIError for a response that failed.
        """
        members, given = split(params, RESPONSE_PARAMS)
        extra = given.pop("extra_body", None) or {}
        options = self._client._options(**given)
        body = {"model": model, "input": input, **members, **extra}
        if not stream:
            call = self._client._call("POST", "/responses", body, options)
            return finished(object_of(Response, (call.fetch())[1]))
        resumable = bool(options.resumable or body.get("background"))
        if resumable:
            body["background"] = True
        headers = stream_headers(replace(options, resumable=resumable))
        sent = replace(options, headers=headers)
        call = self._client._call("POST", "/responses", {**body, "stream": True}, sent)
        chat = self._client.chat.completions
        feed = open_feed(call, partial(chat._resume, options) if resumable else None)
        return ResponseStream(feed, self._stop(feed), 0)

    @overload
    def retrieve(
        self,
        response_id: str,
        *,
        stream: Literal[False] = False,
        timeout: TimeoutLike = NOT_GIVEN,
    ) -> Response: ...

    @overload
    def retrieve(
        self,
        response_id: str,
        *,
        stream: Literal[True],
        starting_after: int | None = None,
        timeout: TimeoutLike = NOT_GIVEN,
    ) -> ResponseStream: ...

    def retrieve(
        self,
        response_id: str,
        *,
        stream: bool = False,
        starting_after: int | None = None,
        timeout: TimeoutLike = NOT_GIVEN,
    ) -> Response | ResponseStream:
        """Return the response *response_id* as far as it came.

        With *stream* its events behind number *starting_after*, and those to come.
        """
        options = self._client._options(timeout)
        if not stream:
            call = self._client._call("GET", _path(response_id), None, options)
            return object_of(Response, (call.fetch())[1])
        query: dict[str, object] = {"stream": "true"}
        if starting_after is not None:
            query["starting_after"] = starting_after
        headers = {"Accept": "text/event-stream", **options.headers}
        sent = replace(options, headers=headers, query={**options.query, **query})
        call = self._client._call("GET", _path(response_id), None, sent)
        chat = self._client.chat.completions
        feed = open_feed(call, partial(chat._resume, options))
        first = 0 if starting_after is None else starting_after + 1
        return ResponseStream(feed, self._stop(feed), first)

    def cancel(self, response_id: str) -> Response:
        """Have the server stop making a response; return it as far as it came."""
        options = self._client._options()
        path = _path(response_id) + "/cancel"
        call = self._client._call("POST", path, None, options)
        return object_of(Response, (call.fetch())[1])

    def delete(self, response_id: str) -> None:
        """Have the server forget a response."""
        options = self._client._options()
        self._client._call("DELETE", _path(response_id), None, options).fetch()

    def _stop(self, feed: Feed) -> Callable[[], None] | None:
        return partial(self._client.chat.completions._delete, feed.id) if feed.id else None


def _path(response_id: str) -> str:
    return "/responses/" + quote(response_id, safe="")
