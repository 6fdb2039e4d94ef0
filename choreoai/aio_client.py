"""The client for asyncio: the names of :mod:`choreoai.client`, awaited."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from functools import partial
from types import TracebackType
from typing import Any, Literal, overload

from .aio_stream import AsyncStream, in_thread
from .base import UNSET, BaseClient, Messages, Plan, TimeoutLike, body_of, object_of
from .call import Call
from .errors import NotFoundError
from .models import ChatCompletion, Model, ModelList
from .policy import DEFAULT_TIMEOUT, Timeout

__all__ = ["AsyncChoreoAI"]


class AsyncChoreoAI(BaseClient):
    """The client for asyncio.

    Takes the arguments of :class:`choreoai.ChoreoAI` and has its methods, to be awaited.
    Cancelling a task closes the connection that it waits for, at once.
    """

    def __init__(
        self,
        api_key: str | None = None,
        base_url: str | None = None,
        *,
        timeout: Timeout | float | None = DEFAULT_TIMEOUT,
        max_retries: int = 2,
        resumable: bool = False,
        default_headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(
            api_key,
            base_url,
            timeout=timeout,
            max_retries=max_retries,
            resumable=resumable,
            default_headers=default_headers,
        )
        self.chat = AsyncChat(self)
        self.models = AsyncModels(self)

    async def close(self) -> None:
        """Close the idle connections; streams that are being read go on."""
        self._session.close()

    async def __aenter__(self) -> AsyncChoreoAI:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.close()


async def _fetch(call: Call) -> Any:
    return await in_thread(call.fetch, call.cancel)


async def _open(plan: Plan) -> AsyncStream:
    feed = await in_thread(plan.open, plan.call.cancel)
    stop = None if feed.id is None else partial(_stop, plan, feed.id)
    return AsyncStream(feed, plan.n, stop)


async def _stop(plan: Plan, stream_id: str) -> None:
    with suppress(NotFoundError):  # it is over and forgotten
        await _fetch(plan.stop(stream_id))


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
        timeout: TimeoutLike = UNSET,
        resumable: bool | None = None,
        extra_headers: Mapping[str, str] | None = None,
        extra_query: Mapping[str, str] | None = None,
        extra_body: Mapping[str, Any] | None = None,
        **parameters: Any,
    ) -> ChatCompletion: ...

    @overload
    async def create(
        self,
        *,
        model: str,
        messages: Messages,
        stream: Literal[True],
        timeout: TimeoutLike = UNSET,
        resumable: bool | None = None,
        extra_headers: Mapping[str, str] | None = None,
        extra_query: Mapping[str, str] | None = None,
        extra_body: Mapping[str, Any] | None = None,
        **parameters: Any,
    ) -> AsyncStream: ...

    @overload
    async def create(
        self,
        *,
        model: str,
        messages: Messages,
        stream: bool | None,
        timeout: TimeoutLike = UNSET,
        resumable: bool | None = None,
        extra_headers: Mapping[str, str] | None = None,
        extra_query: Mapping[str, str] | None = None,
        extra_body: Mapping[str, Any] | None = None,
        **parameters: Any,
    ) -> ChatCompletion | AsyncStream: ...

    async def create(
        self,
        *,
        model: str,
        messages: Messages,
        stream: bool | None = None,
        timeout: TimeoutLike = UNSET,
        resumable: bool | None = None,
        extra_headers: Mapping[str, str] | None = None,
        extra_query: Mapping[str, str] | None = None,
        extra_body: Mapping[str, Any] | None = None,
        **parameters: Any,
    ) -> ChatCompletion | AsyncStream:
        """Ask *model* to answer *messages*.

        With *stream* a :class:`choreoai.AsyncStream`, returned as soon as the response head is
        there; without it the whole :class:`choreoai.ChatCompletion`.  *parameters* are sent
        as they are: those of the API (``temperature``, ``max_tokens``, ``n``, ``stop``,
        ``tools``, ``stream_options``, ...) and any that a provider understands beyond them.
        *timeout* and *resumable* stand in for the client's own.

        Raises APIStatusError, APIConnectionError and APITimeoutError; ChoreoAIError when the
        arguments cannot be written as JSON.
        """
        client = self._client
        body = body_of(model, messages, parameters, extra_body)
        options = client._options(timeout, extra_headers, extra_query)
        if not stream:
            call = client._call("POST", "/chat/completions", body, options)
            return object_of(ChatCompletion, await _fetch(call))
        resumes = client._resumable if resumable is None else resumable
        return await _open(client._stream_plan(body, options, resumes))

    async def resume(self, id: str, *, after: int = 0, timeout: TimeoutLike = UNSET) -> AsyncStream:
        """Return the resumable stream *id* from the event that follows number *after*.

        *id* is :attr:`choreoai.AsyncStream.id`, *after* its ``last_event_id``.  Raises what
        :meth:`create` raises; NotFoundError when the server has no such stream (any more).
        """
        client = self._client
        options = client._options(timeout, None, None)
        return await _open(client._resume_plan(id, after, options))


class AsyncChat:
    """``client.chat``."""

    def __init__(self, client: AsyncChoreoAI) -> None:
        self.completions = AsyncCompletions(client)


class AsyncModels:
    """``client.models``."""

    def __init__(self, client: AsyncChoreoAI) -> None:
        self._client = client

    async def list(self) -> ModelList:
        """Return the models that can be asked for."""
        return object_of(ModelList, await _fetch(self._client._models_call()))

    async def retrieve(self, model: str) -> Model:
        """Return the model named *model*; raises NotFoundError."""
        return object_of(Model, await _fetch(self._client._models_call(model)))
