"""The client, with its chat, models and responses."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property, partial
from typing import TYPE_CHECKING, Generic, TypeVar, cast

from ..base import BaseClient, path_of
from ..models import Model, ModelList
from ..objects import AsyncListing, Object
from ..reading import object_of
from .completions import AsyncCompletions
from .resource import AsyncResource
from .responses import AsyncResponses

if TYPE_CHECKING:
    from ..options import CallOptions, Unpack
    from .wrapped import (
        AsyncRawClient,
        AsyncRawModels,
        AsyncStreamedClient,
        AsyncStreamedModels,
    )

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
        """This client itself: openai's former ``beta.chat`` is now ``chat``."""
        return self

    @cached_property
    def responses(self) -> AsyncResponses:
        """The Responses API."""
        return AsyncResponses(self)

    @cached_property
    def models(self) -> AsyncModels:
        """The server's models."""
        return AsyncModels(self)

    @cached_property
    def with_raw_response(self) -> AsyncRawClient:
        """``with_raw_response`` of all resources."""
        return cast("AsyncRawClient", AsyncClientWith(self, "with_raw_response"))

    @cached_property
    def with_streaming_response(self) -> AsyncStreamedClient:
        """``with_streaming_response`` of all resources."""
        return cast("AsyncStreamedClient", AsyncClientWith(self, "with_streaming_response"))

    async def close(self) -> None:
        """Close the idle connections; streams being read are not interrupted."""
        self._pool.close()

    async def __aenter__(self) -> AsyncChoreoAI:
        return self

    async def __aexit__(self, *error: object) -> None:
        await self.close()


@dataclass(frozen=True)
class AsyncChat(Generic[R]):
    """``client.chat``."""

    completions: R


class AsyncModels(AsyncResource):
    """``client.models``."""

    if TYPE_CHECKING:
        with_raw_response: AsyncRawModels
        with_streaming_response: AsyncStreamedModels

    def list(self, **options: Unpack[CallOptions]) -> AsyncListing:
        """Return the server's models."""
        return AsyncListing(self._get("/models", ModelList, options))

    async def retrieve(self, model: str, **options: Unpack[CallOptions]) -> Model:
        """Return the model named *model*; raises NotFoundError."""
        return await self._get(path_of("/models", model), Model, options)

    async def _get(self, path: str, kind: type[T], options: CallOptions) -> T:
        _, call = self._client._body_and_options(options)
        exchange = self._exchange("GET", path, call, parse=partial(object_of, kind))
        return await self._execute(exchange)  # type: ignore[no-any-return]


class AsyncClientWith:
    """``client.with_raw_response`` or ``client.with_streaming_response``: the attribute *name*."""

    def __init__(self, client: AsyncChoreoAI, name: str) -> None:
        self.chat = AsyncChat(getattr(client.chat.completions, name))
        self.models = getattr(client.models, name)
        self.responses = getattr(client.responses, name)
