"""The client, and what hangs on it."""

from __future__ import annotations

from functools import cached_property, partial
from types import TracebackType
from typing import Any, Generic, TypeVar
from urllib.parse import quote

from ..base import BaseClient, Options
from ..models import Model, ModelList
from ..objects import Object
from ..reading import object_of
from .call import AsyncCall
from .completions import AsyncCompletions
from .raw import AsyncRawCompletions, AsyncRawResponse, AsyncStreamedCompletions
from .responses import AsyncResponses
from .transport import AsyncTransport

R = TypeVar("R")
T = TypeVar("T", bound=Object)


class AsyncChoreoAI(BaseClient):
    __doc__ = BaseClient.__doc__

    def _connect(self) -> None:
        self._transport = AsyncTransport(self._network)

    def _share(self, other: AsyncChoreoAI) -> None:
        super()._share(other)
        self._transport = other._transport

    @cached_property
    def chat(self) -> AsyncChat:
        """Chat: ``chat.completions``."""
        return AsyncChat(self)

    @cached_property
    def responses(self) -> AsyncResponses:
        """The Responses API."""
        return AsyncResponses(self)

    @cached_property
    def models(self) -> AsyncModels:
        """The server's models."""
        return AsyncModels(self)

    @cached_property
    def with_raw_response(self) -> AsyncClientWith[AsyncRawCompletions]:
        """``with_raw_response`` of all resources."""
        raw = self.chat.completions.with_raw_response
        return AsyncClientWith(raw, self.models.with_raw_response)

    @cached_property
    def with_streaming_response(self) -> AsyncClientWith[AsyncStreamedCompletions]:
        """``with_streaming_response`` of the completions; models are read at once."""
        streamed = self.chat.completions.with_streaming_response
        return AsyncClientWith(streamed, self.models.with_raw_response)

    def _call(self, method: str, path: str, body: Any, options: Options) -> AsyncCall:
        """Return the call of *method* and *path*, to be carried out."""
        request = self._request(method, path, body, options)
        return AsyncCall(self._transport, request, options.timeout, options.max_retries)

    async def close(self) -> None:
        """Close the idle connections; streams that are being read go on."""
        self._closed = True
        self._transport.close()

    async def __aenter__(self) -> AsyncChoreoAI:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.close()


class AsyncChat:
    """``client.chat``."""

    def __init__(self, client: AsyncChoreoAI) -> None:
        self._client = client

    @cached_property
    def completions(self) -> AsyncCompletions:
        """``client.chat.completions``."""
        return AsyncCompletions(self._client)


class AsyncModels:
    """``client.models``."""

    def __init__(self, client: AsyncChoreoAI) -> None:
        self._client = client

    @cached_property
    def with_raw_response(self) -> AsyncRawModels:
        """The same methods; they return the answer's head and body beside its meaning."""
        return AsyncRawModels(self)

    async def list(self) -> ModelList:
        """Return the models that can be asked for."""
        return (await self.with_raw_response.list()).parse()

    async def retrieve(self, model: str) -> Model:
        """Return the model named *model*; raises NotFoundError."""
        return (await self.with_raw_response.retrieve(model)).parse()


class AsyncRawModels:
    """``client.models.with_raw_response``."""

    def __init__(self, models: AsyncModels) -> None:
        self._client = models._client

    async def list(self) -> AsyncRawResponse[ModelList]:
        """Return the answer's head beside the models."""
        return await self._get("/models", ModelList)

    async def retrieve(self, model: str) -> AsyncRawResponse[Model]:
        """Return the answer's head beside the model named *model*."""
        return await self._get("/models/" + quote(model, safe=""), Model)

    async def _get(self, path: str, kind: type[T]) -> AsyncRawResponse[T]:
        call = self._client._call("GET", path, None, self._client._options())
        return await AsyncRawResponse.fetch(call, partial(object_of, kind))


class AsyncClientWith(Generic[R]):
    """``client.with_raw_response`` and ``client.with_streaming_response``."""

    def __init__(self, completions: R, models: AsyncRawModels) -> None:
        self.chat = AsyncChatWith(completions)
        self.models = models


class AsyncChatWith(Generic[R]):
    """``client.with_raw_response.chat``."""

    def __init__(self, completions: R) -> None:
        self.completions = completions
