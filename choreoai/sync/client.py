"""The client, with its chat, models and responses."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property, partial
from typing import TYPE_CHECKING, Generic, TypeVar, cast

from ..base import BaseClient, path_of
from ..models import Model, ModelList
from ..objects import Object
from ..reading import object_of
from .completions import Completions
from .resource import Resource
from .responses import Responses

if TYPE_CHECKING:
    from ..options import CallOptions, Unpack
    from .wrapped import (
        RawClient,
        RawModels,
        StreamedClient,
        StreamedModels,
    )

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
        """This client itself: openai's former ``beta.chat`` is now ``chat``."""
        return self

    @cached_property
    def responses(self) -> Responses:
        """The Responses API."""
        return Responses(self)

    @cached_property
    def models(self) -> Models:
        """The server's models."""
        return Models(self)

    @cached_property
    def with_raw_response(self) -> RawClient:
        """``with_raw_response`` of all resources."""
        return cast("RawClient", ClientWith(self, "with_raw_response"))

    @cached_property
    def with_streaming_response(self) -> StreamedClient:
        """``with_streaming_response`` of all resources."""
        return cast("StreamedClient", ClientWith(self, "with_streaming_response"))

    def close(self) -> None:
        """Close the idle connections; streams being read are not interrupted."""
        self._pool.close()

    def __enter__(self) -> ChoreoAI:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()


@dataclass(frozen=True)
class Chat(Generic[R]):
    """``client.chat``."""

    completions: R


class Models(Resource):
    """``client.models``."""

    if TYPE_CHECKING:
        with_raw_response: RawModels
        with_streaming_response: StreamedModels

    def list(self, **options: Unpack[CallOptions]) -> ModelList:
        """Return the server's models."""
        return self._get("/models", ModelList, options)

    def retrieve(self, model: str, **options: Unpack[CallOptions]) -> Model:
        """Return the model named *model*; raises NotFoundError."""
        return self._get(path_of("/models", model), Model, options)

    def _get(self, path: str, kind: type[T], options: CallOptions) -> T:
        _, call = self._client._body_and_options(options)
        exchange = self._exchange("GET", path, call, parse=partial(object_of, kind))
        return self._execute(exchange)  # type: ignore[no-any-return]


class ClientWith:
    """``client.with_raw_response`` or ``client.with_streaming_response``: the attribute *name*."""

    def __init__(self, client: ChoreoAI, name: str) -> None:
        self.chat = Chat(getattr(client.chat.completions, name))
        self.models = getattr(client.models, name)
        self.responses = getattr(client.responses, name)
