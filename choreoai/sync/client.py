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
from .call import Call
from .completions import Completions
from .raw import RawCompletions, RawResponse, StreamedCompletions
from .responses import Responses
from .transport import Transport

R = TypeVar("R")
T = TypeVar("T", bound=Object)


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
    def responses(self) -> Responses:
        """The Responses API."""
        return Responses(self)

    @cached_property
    def models(self) -> Models:
        """The server's models."""
        return Models(self)

    @cached_property
    def with_raw_response(self) -> ClientWith[RawCompletions]:
        """``with_raw_response`` of all resources."""
        raw = self.chat.completions.with_raw_response
        return ClientWith(raw, self.models.with_raw_response)

    @cached_property
    def with_streaming_response(self) -> ClientWith[StreamedCompletions]:
        """``with_streaming_response`` of the completions; models are read at once."""
        streamed = self.chat.completions.with_streaming_response
        return ClientWith(streamed, self.models.with_raw_response)

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

    @cached_property
    def with_raw_response(self) -> RawModels:
        """The same methods; they return the answer's head and body beside its meaning."""
        return RawModels(self)

    def list(self) -> ModelList:
        """Return the models that can be asked for."""
        return (self.with_raw_response.list()).parse()

    def retrieve(self, model: str) -> Model:
        """Return the model named *model*; raises NotFoundError."""
        return (self.with_raw_response.retrieve(model)).parse()


class RawModels:
    """``client.models.with_raw_response``."""

    def __init__(self, models: Models) -> None:
        self._client = models._client

    def list(self) -> RawResponse[ModelList]:
        """Return the answer's head beside the models."""
        return self._get("/models", ModelList)

    def retrieve(self, model: str) -> RawResponse[Model]:
        """Return the answer's head beside the model named *model*."""
        return self._get("/models/" + quote(model, safe=""), Model)

    def _get(self, path: str, kind: type[T]) -> RawResponse[T]:
        call = self._client._call("GET", path, None, self._client._options())
        return RawResponse.fetch(call, partial(object_of, kind))


class ClientWith(Generic[R]):
    """``client.with_raw_response`` and ``client.with_streaming_response``."""

    def __init__(self, completions: R, models: RawModels) -> None:
        self.chat = ChatWith(completions)
        self.models = models


class ChatWith(Generic[R]):
    """``client.with_raw_response.chat``."""

    def __init__(self, completions: R) -> None:
        self.completions = completions
