"""The client whose calls block."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from functools import partial
from types import TracebackType
from typing import Any, Literal, overload

from .background import run
from .base import UNSET, BaseClient, Messages, Plan, TimeoutLike, body_of, object_of
from .call import Call
from .errors import NotFoundError
from .models import ChatCompletion, Model, ModelList
from .policy import DEFAULT_TIMEOUT, Timeout
from .stream import Stream

__all__ = ["ChoreoAI"]


class ChoreoAI(BaseClient):
    """A client of choreo-wsgi, and of any server with OpenAI's chat completions.

    *api_key* and *base_url* fall back on the environment's ``CHOREOAI_API_KEY`` and
    ``CHOREOAI_BASE_URL``, the address at last on ``http://localhost:8000``; ``/v1`` may be
    there or not.  *timeout* is a :class:`choreoai.Timeout`, or seconds for each of its
    parts.  *max_retries* is how often a call is repeated before any of its answer came.
    With *resumable* a stream that is cut reconnects and goes on by itself, if the server
    can do that.  *default_headers* are sent with every call.

    Use it as a context manager, or call :meth:`close`; threads may share it.
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
        self.chat = Chat(self)
        self.models = Models(self)

    def close(self) -> None:
        """Close the idle connections; streams that are being read go on."""
        self._session.close()

    def __enter__(self) -> ChoreoAI:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()


def _fetch(call: Call) -> Any:
    return run(call.fetch, call.cancel)


def _open(plan: Plan) -> Stream:
    feed = run(plan.open, plan.call.cancel)
    stop = None if feed.id is None else partial(_stop, plan, feed.id)
    return Stream(feed, plan.n, stop)


def _stop(plan: Plan, stream_id: str) -> None:
    with suppress(NotFoundError):  # it is over and forgotten
        _fetch(plan.stop(stream_id))


class Completions:
    """``client.chat.completions``."""

    def __init__(self, client: ChoreoAI) -> None:
        self._client = client

    @overload
    def create(
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
    def create(
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
    ) -> Stream: ...

    @overload
    def create(
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
    ) -> ChatCompletion | Stream: ...

    def create(
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
    ) -> ChatCompletion | Stream:
        """Ask *model* to answer *messages*.

        With *stream* a :class:`choreoai.Stream`, returned as soon as the response head is
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
            return object_of(ChatCompletion, _fetch(call))
        resumes = client._resumable if resumable is None else resumable
        return _open(client._stream_plan(body, options, resumes))

    def resume(self, id: str, *, after: int = 0, timeout: TimeoutLike = UNSET) -> Stream:
        """Return the resumable stream *id* from the event that follows number *after*.

        *id* is :attr:`choreoai.Stream.id`, *after* its ``last_event_id``.  Raises what
        :meth:`create` raises; NotFoundError when the server has no such stream (any more).
        """
        client = self._client
        options = client._options(timeout, None, None)
        return _open(client._resume_plan(id, after, options))


class Chat:
    """``client.chat``."""

    def __init__(self, client: ChoreoAI) -> None:
        self.completions = Completions(client)


class Models:
    """``client.models``."""

    def __init__(self, client: ChoreoAI) -> None:
        self._client = client

    def list(self) -> ModelList:
        """Return the models that can be asked for."""
        return object_of(ModelList, _fetch(self._client._models_call()))

    def retrieve(self, model: str) -> Model:
        """Return the model named *model*; raises NotFoundError."""
        return object_of(Model, _fetch(self._client._models_call(model)))
