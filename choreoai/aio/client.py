"""The client, and what hangs on it."""

from __future__ import annotations

from functools import cached_property
from types import TracebackType
from typing import Any
from urllib.parse import quote

from ..base import BaseClient, Options
from ..models import Model, ModelList
from ..reading import object_of
from ..transports.nonblocking import Transport
from .call import AsyncCall
from .completions import AsyncCompletions


class AsyncChoreoAI(BaseClient):
    __doc__ = BaseClient.__doc__

    def _connect(self) -> None:
        self._transport = Transport(self._network)

    def _share(self, other: AsyncChoreoAI) -> None:
        super()._share(other)
        self._transport = other._transport

    @cached_property
    def chat(self) -> AsyncChat:
        """Chat: ``chat.completions``."""
        return AsyncChat(self)

    @cached_property
    def models(self) -> AsyncModels:
        """The server's models."""
        return AsyncModels(self)

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

    async def list(self) -> ModelList:
        """Return the models that can be asked for."""
        call = self._client._call("GET", "/models", None, self._client._options())
        return object_of(ModelList, (await call.fetch())[1])

    async def retrieve(self, model: str) -> Model:
        """Return the model named *model*; raises NotFoundError."""
        path = "/models/" + quote(model, safe="")
        call = self._client._call("GET", path, None, self._client._options())
        return object_of(Model, (await call.fetch())[1])
