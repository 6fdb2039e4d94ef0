"""The client, and what hangs on it."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property, partial
from typing import TYPE_CHECKING, Generic, TypeVar

from ..base import BaseClient, path_of
from ..models import Model, ModelList
from ..objects import Object
from ..reading import object_of
from .completions import Completions, RawCompletions, StreamedCompletions
from .exchange import Exchange
from .raw import RawResponse
from .responses import Responses

if TYPE_CHECKING:
    from ..options import CallOptions, Unpack

R = TypeVar("R")
T = TypeVar("T", bound=Object)


class ChoreoAI(BaseClient):
    __doc__ = BaseClient.__doc__

    @cached_property
    def chat(self) -> Chat[Completions]:
        """Chat: ``chat.completions``."""
        return Chat(Completions(self))

    @property
    def beta(self) -> ChoreoAI:
        """This client: what began as ``beta.chat`` is ``chat`` by now."""
        return self

    @cached_property
    def responses(self) -> Responses:
        """The Responses API."""
        return Responses(self)

    @cached_property
    def models(self) -> Models:
        """The server's models."""
        return Models(RawModels(self))

    @cached_property
    def with_raw_response(self) -> ClientWith[RawCompletions]:
        """``with_raw_response`` of all resources."""
        raw = self.chat.completions.with_raw_response
        return ClientWith(Chat(raw), self.models.with_raw_response)

    @cached_property
    def with_streaming_response(self) -> ClientWith[StreamedCompletions]:
        """``with_streaming_response`` of the completions; models are read at once."""
        streamed = self.chat.completions.with_streaming_response
        return ClientWith(Chat(streamed), self.models.with_raw_response)

    def close(self) -> None:
        """Close the idle connections; streams that are being read go on."""
        self._pool.close()

    def __enter__(self) -> ChoreoAI:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()


@dataclass(frozen=True)
class Chat(Generic[R]):
    """``client.chat``."""

    completions: R


@dataclass(frozen=True)
class Models:
    """``client.models``."""

    #: The same methods; they return the answer's head and body beside its meaning.
    with_raw_response: RawModels

    def list(self, **options: Unpack[CallOptions]) -> ModelList:
        """Return the models that can be asked for."""
        return self._list(options)

    def _list(self, options: CallOptions) -> ModelList:
        return (self.with_raw_response.list(**options)).parse()

    def retrieve(self, model: str, **options: Unpack[CallOptions]) -> Model:
        """Return the model named *model*; raises NotFoundError."""
        return (self.with_raw_response.retrieve(model, **options)).parse()


class RawModels:
    """``client.models.with_raw_response``."""

    def __init__(self, client: ChoreoAI) -> None:
        self._client = client

    def list(self, **options: Unpack[CallOptions]) -> RawResponse[ModelList]:
        """Return the answer's head beside the models."""
        return self._get("/models", ModelList, options)

    def retrieve(self, model: str, **options: Unpack[CallOptions]) -> RawResponse[Model]:
        """Return the answer's head beside the model named *model*."""
        return self._get(path_of("/models", model), Model, options)

    def _get(self, path: str, kind: type[T], options: CallOptions) -> RawResponse[T]:
        _, given = self._client._asked(options)
        meaning = partial(object_of, kind)
        exchange = Exchange(self._client, "GET", path, given, meaning=meaning)
        return RawResponse.fetch(exchange)


@dataclass(frozen=True)
class ClientWith(Generic[R]):
    """``client.with_raw_response`` and ``client.with_streaming_response``."""

    chat: Chat[R]
    models: RawModels
