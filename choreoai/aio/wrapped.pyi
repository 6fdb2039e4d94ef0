# Generated from the resources in this folder by `make sync`: the types of
# ``with_raw_response`` and ``with_streaming_response``.
from collections.abc import Coroutine
from typing import Any, Literal, overload

from ..models import (
    ChatCompletion,
    Model,
    ModelList,
    ParsedChatCompletion,
    ParsedResponse,
    Response,
)
from ..options import NOT_GIVEN, CallOptions, T, TimeoutLike, Unpack
from ..params import CreateCompletion, CreateResponse, ParseParams, ResponseParams
from .client import AsyncChat
from .raw import AsyncRawResponse, AsyncStreamedResponse
from .responses import AsyncResponseStream
from .stream import AsyncStream

class AsyncRawCompletions:
    create: CreateCompletion[
        Coroutine[Any, Any, AsyncRawResponse[ChatCompletion]],
        Coroutine[Any, Any, AsyncRawResponse[AsyncStream]],
    ]
    async def parse(
        self, **params: Unpack[ParseParams[T]]
    ) -> AsyncRawResponse[ParsedChatCompletion[T]]: ...
    async def resume(
        self, id: str, *, after: int = 0, timeout: TimeoutLike = NOT_GIVEN
    ) -> AsyncRawResponse[AsyncStream]: ...

class AsyncRawResponses:
    create: CreateResponse[
        Coroutine[Any, Any, AsyncRawResponse[Response]],
        Coroutine[Any, Any, AsyncRawResponse[AsyncResponseStream]],
    ]
    async def parse(
        self, *, text_format: type[T] | None = None, **params: Unpack[ResponseParams]
    ) -> AsyncRawResponse[ParsedResponse[T]]: ...
    @overload
    async def retrieve(
        self, response_id: str, *, stream: Literal[False] = False, **options: Unpack[CallOptions]
    ) -> AsyncRawResponse[Response]: ...
    @overload
    async def retrieve(
        self,
        response_id: str,
        *,
        stream: Literal[True],
        starting_after: int | None = None,
        **options: Unpack[CallOptions],
    ) -> AsyncRawResponse[AsyncResponseStream]: ...
    async def cancel(
        self, response_id: str, **options: Unpack[CallOptions]
    ) -> AsyncRawResponse[Response]: ...
    async def delete(
        self, response_id: str, **options: Unpack[CallOptions]
    ) -> AsyncRawResponse[None]: ...

class AsyncRawModels:
    async def list(self, **options: Unpack[CallOptions]) -> AsyncRawResponse[ModelList]: ...
    async def retrieve(
        self, model: str, **options: Unpack[CallOptions]
    ) -> AsyncRawResponse[Model]: ...

class AsyncRawClient:
    @property
    def chat(self) -> AsyncChat[AsyncRawCompletions]: ...
    @property
    def models(self) -> AsyncRawModels: ...
    @property
    def responses(self) -> AsyncRawResponses: ...

class AsyncStreamedCompletions:
    create: CreateCompletion[
        AsyncStreamedResponse[ChatCompletion], AsyncStreamedResponse[AsyncStream]
    ]
    def parse(
        self, **params: Unpack[ParseParams[T]]
    ) -> AsyncStreamedResponse[ParsedChatCompletion[T]]: ...
    def resume(
        self, id: str, *, after: int = 0, timeout: TimeoutLike = NOT_GIVEN
    ) -> AsyncStreamedResponse[AsyncStream]: ...

class AsyncStreamedResponses:
    create: CreateResponse[
        AsyncStreamedResponse[Response], AsyncStreamedResponse[AsyncResponseStream]
    ]
    def parse(
        self, *, text_format: type[T] | None = None, **params: Unpack[ResponseParams]
    ) -> AsyncStreamedResponse[ParsedResponse[T]]: ...
    @overload
    def retrieve(
        self, response_id: str, *, stream: Literal[False] = False, **options: Unpack[CallOptions]
    ) -> AsyncStreamedResponse[Response]: ...
    @overload
    def retrieve(
        self,
        response_id: str,
        *,
        stream: Literal[True],
        starting_after: int | None = None,
        **options: Unpack[CallOptions],
    ) -> AsyncStreamedResponse[AsyncResponseStream]: ...
    def cancel(
        self, response_id: str, **options: Unpack[CallOptions]
    ) -> AsyncStreamedResponse[Response]: ...
    def delete(
        self, response_id: str, **options: Unpack[CallOptions]
    ) -> AsyncStreamedResponse[None]: ...

class AsyncStreamedModels:
    def list(self, **options: Unpack[CallOptions]) -> AsyncStreamedResponse[ModelList]: ...
    def retrieve(
        self, model: str, **options: Unpack[CallOptions]
    ) -> AsyncStreamedResponse[Model]: ...

class AsyncStreamedClient:
    @property
    def chat(self) -> AsyncChat[AsyncStreamedCompletions]: ...
    @property
    def models(self) -> AsyncStreamedModels: ...
    @property
    def responses(self) -> AsyncStreamedResponses: ...
