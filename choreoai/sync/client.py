"""The client, and what hangs on it."""

from __future__ import annotations

from functools import cached_property
from types import TracebackType
from typing import Any
from urllib.parse import quote

from ..base import BaseClient, Options
from ..models import Model, ModelList
from ..reading import object_of
from ..transports.blocking import Transport
from .call import Call
from .completions import Completions


class ChoreoAI(BaseClient):
    __doc__ = BaseClient.__doc__

    def _connect(self) -> None:
        self._transport = Transport(self._network)

    def _share(self, other: ChoreoAI) -> None:
        super()._share(other)
        self._transport = other._transport

    @cached_property
    def chat(self) -> Chat:
        """Chat: ``chat.completions``."""
        return Chat(self)

    @cached_property
    def models(self) -> Models:
        """The server's models."""
        return Models(self)

    def _call(self, method: str, path: str, body: Any, options: Options) -> Call:
        """Return the call of *method* and *path*, to be carried out."""
        request = self._request(method, path, body, options)
        return Call(self._transport, request, options.timeout, options.max_retries)

    def close(self) -> None:
        """Close the idle connections; streams that are being read go on."""
        self._closed = True
        self._transport.close()

    def __enter__(self) -> ChoreoAI:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()


class Chat:
    """``client.chat``."""

    def __init__(self, client: ChoreoAI) -> None:
        self._client = client

    @cached_property
    def completions(self) -> Completions:
        """``client.chat.completions``."""
        return Completions(self._client)


class Models:
    """``client.models``."""

    def __init__(self, client: ChoreoAI) -> None:
        self._client = client

    def list(self) -> ModelList:
        """Return the models that can be asked for."""
        call = self._client._call("GET", "/models", None, self._client._options())
        return object_of(ModelList, (call.fetch())[1])

    def retrieve(self, model: str) -> Model:
        """Return the model named *model*; raises NotFoundError."""
        path = "/models/" + quote(model, safe="")
        call = self._client._call("GET", path, None, self._client._options())
        return object_of(Model, (call.fetch())[1])
