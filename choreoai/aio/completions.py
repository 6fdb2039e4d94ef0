"""``client.chat.completions``: an answer asked for, whole or as a stream."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any, Literal, overload

from ..base import Options, stream_headers, stream_path
from ..errors import NotFoundError
from ..models import ChatCompletion
from ..params import NOT_GIVEN, FormattedParams, Messages, TimeoutLike, declared, split
from ..reading import completion_of
from .call import AsyncCall
from .feed import AsyncFeed, Resume, open_feed
from .stream import AsyncStream

if TYPE_CHECKING:
    from ..params import Unpack
    from .client import AsyncChoreoAI

_PATH = "/chat/completions"


class AsyncCompletions:
    """``client.chat.completions``."""

    def __init__(self, client: AsyncChoreoAI) -> None:
        self._client = client

    @overload
    async def create(
        self,
        *,
        model: str,
        messages: Messages,
        stream: Literal[False] | None = None,
        **params: Unpack[FormattedParams],
    ) -> ChatCompletion: ...

    @overload
    async def create(
        self,
        *,
        model: str,
        messages: Messages,
        stream: Literal[True],
        **params: Unpack[FormattedParams],
    ) -> AsyncStream: ...

    @overload
    async def create(
        self,
        *,
        model: str,
        messages: Messages,
        stream: bool | None,
        **params: Unpack[FormattedParams],
    ) -> ChatCompletion | AsyncStream: ...

    @declared
    async def create(
        self,
        *,
        model: str,
        messages: Messages,
        stream: bool | None = None,
        **params: Any,
    ) -> ChatCompletion | AsyncStream:
        """Ask *model* to answer *messages*.

        With *stream* a :class:`choreoai.AsyncStream`, returned as soon as the response head is
        there; without it the whole :class:`choreoai.ChatCompletion`.  *params* are those of
        :class:`choreoai.params.CompletionParams` (``temperature``, ``max_tokens``, ``n``,
        ``stop``, ``tools``, ``stream_options``, ...), and ``response_format``.

        Raises APIStatusError, APIConnectionError and APITimeoutError; ChoreoAIError when the
        arguments cannot be written as JSON.
        """
        body, options = self._prepare(model, messages, params)
        if stream:
            return await self._stream(body, options)
        call = self._client._call("POST", _PATH, body, options)
        return completion_of((await call.fetch())[1])

    async def resume(
        self, id: str, *, after: int = 0, timeout: TimeoutLike = NOT_GIVEN
    ) -> AsyncStream:
        """Return the resumable stream *id* from the event that follows number *after*.

        *id* is :attr:`choreoai.AsyncStream.id`, *after* its ``last_event_id``.  Raises what
        :meth:`create` raises; NotFoundError when the server has no such stream (any more).
        """
        options = self._client._options(timeout)
        call = self._resuming(id, options, after)
        feed = await open_feed(call, partial(self._resume, options), after)
        return AsyncStream(feed, stop=self._stop(feed))

    def _prepare(
        self, model: str, messages: Messages, params: dict[str, Any]
    ) -> tuple[dict[str, Any], Options]:
        """Return the JSON body of a request, and its options."""
        members, options = split(params)
        extra = options.pop("extra_body", None) or {}
        body = {"model": model, "messages": list(messages), **members, **extra}
        return body, self._client._options(**options)

    async def _stream(self, body: dict[str, Any], options: Options) -> AsyncStream:
        """Return the stream that answers *body*."""
        body = {**body, "stream": True}
        sent = replace(options, headers=stream_headers(options))
        call = self._client._call("POST", _PATH, body, sent)
        resume = partial(self._resume, options) if options.resumable else None
        feed = await open_feed(call, resume)
        n = body.get("n")
        choices = n if isinstance(n, int) and n > 0 else 1
        return AsyncStream(feed, choices, self._stop(feed))

    def _resume(self, options: Options, stream_id: str) -> Resume:
        # No retries in the call: the feed counts its tries from one event to the next.
        return partial(self._resuming, stream_id, replace(options, max_retries=0))

    def _resuming(self, stream_id: str, options: Options, after: int) -> AsyncCall:
        headers = {**options.headers, "Accept": "text/event-stream", "Last-Event-ID": str(after)}
        sent = replace(options, headers=headers)
        return self._client._call("GET", stream_path(stream_id), None, sent)

    def _stop(self, feed: AsyncFeed) -> Callable[[], Awaitable[None]] | None:
        return None if feed.id is None else partial(self._delete, feed.id)

    async def _delete(self, stream_id: str) -> None:
        with suppress(NotFoundError):  # it is over and forgotten
            path = stream_path(stream_id)
            await self._client._call("DELETE", path, None, self._client._options()).fetch()
