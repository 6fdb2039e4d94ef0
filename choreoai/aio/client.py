"""The client, and what hangs on it."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property, partial
from typing import TYPE_CHECKING, Generic, TypeVar

from ..base import BaseClient, path_of
from ..models import Model, ModelList
from ..objects import AsyncListing, Object
from ..reading import object_of
from .completions import AsyncCompletions, AsyncRawCompletions, AsyncStreamedCompletions
from .exchange import AsyncExchange
from .raw import AsyncRawResponse
from .responses import AsyncResponses

if TYPE_CHECKING:
    from ..options import CallOptions, Unpack

R = TypeVar("R")
T = TypeVar("T", bound=Object)


class AsyncChoreoAI(BaseClient):
    __doc__ = BaseClient.__doc__

    @cached_property
    def chat(self) -> AsyncChat[AsyncCompletions]:
        """Chat: ``chat.completions``."""
        return AsyncChat(AsyncCompletions(self))

    @property
    def beta(self) -> AsyncChoreoAI:
        """This client: what began as ``beta.chat`` is ``chat`` by now."""
        return self

    @cached_property
    def responses(self) -> AsyncResponses:
        """The Responses API."""
        return AsyncResponses(self)

    @cached_property
    def models(self) -> AsyncModels:
        """The server's models."""
        return AsyncModels(AsyncRawModels(self))

    @cached_property
    def with_raw_response(self) -> AsyncClientWith[AsyncRawCompletions]:
        """``with_raw_response`` of all resources."""
        raw = self.chat.completions.with_raw_response
        return AsyncClientWith(AsyncChat(raw), self.models.with_raw_response)

    @cached_property
    def with_streaming_response(self) -> AsyncClientWith[AsyncStreamedCompletions]:
        """``with_streaming_response`` of the completions; models are read at once."""
        streamed = self.chat.completions.with_streaming_response
        return AsyncClientWith(AsyncChat(streamed), self.models.with_raw_response)

    async def close(self) -> None:
        """Close the idle connections; streams that are being read go on."""
        self._pool.close()

    async def __aenter__(self) -> AsyncChoreoAI:
        return self

    async def __aexit__(self, *error: object) -> None:
        await self.close()


@dataclass(frozen=True)
class AsyncChat(Generic[R]):
    """``client.chat``."""

    completions: R


@dataclass(frozen=True)
class AsyncModels:
    """``client.models``."""

    #: The same methods; they return the answer's head and body beside its meaning.
    with_raw_response: AsyncRawModels

    def list(self, **options: Unpack[CallOptions]) -> AsyncListing:
        """Return the models that can be asked for."""
        return AsyncListing(self._list(options))

    async def _list(self, options: CallOptions) -> ModelList:
        return (await self.with_raw_response.list(**options)).parse()

    async def retrieve(self, model: str, **options: Unpack[CallOptions]) -> Model:
        """Return the model named *model*; raises NotFoundError."""
        return (await self.with_raw_response.retrieve(model, **options)).parse()


class AsyncRawModels:
    """``client.models.with_raw_response``."""

    def __init__(self, client: AsyncChoreoAI) -> None:
        self._client = client

    async def list(self, **options: Unpack[CallOptions]) -> AsyncRawResponse[ModelList]:
        """Return the answer's head beside the models."""
        return await self._get("/models", ModelList, options)

    async def retrieve(self, model: str, **options: Unpack[CallOptions]) -> AsyncRawResponse[Model]:
        """Return the answer's head beside the model named *model*."""
        return await self._get(path_of("/models", model), Model, options)

    async def _get(self, path: str, kind: type[T], options: CallOptions) -> AsyncRawResponse[T]:
        _, given = self._client._asked(options)
        meaning = partial(object_of, kind)
        exchange = AsyncExchange(self._client, "GET", path, given, meaning=meaning)
        return await AsyncRawResponse.fetch(exchange)


@dataclass(frozen=True)
class AsyncClientWith(Generic[R]):
    """``client.with_raw_response`` and ``client.with_streaming_response``."""

    chat: AsyncChat[R]
    models: AsyncRawModels
