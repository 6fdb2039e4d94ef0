# Generated from the resources in this folder by `make sync`: the types of
# ``with_raw_response`` and ``with_streaming_response``.
from typing import Literal, overload

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
from .client import Chat
from .raw import RawResponse, StreamedResponse
from .responses import ResponseStream
from .stream import Stream

class RawCompletions:
    create: CreateCompletion[
        RawResponse[ChatCompletion],
        RawResponse[Stream],
    ]
    def parse(self, **params: Unpack[ParseParams[T]]) -> RawResponse[ParsedChatCompletion[T]]: ...
    def resume(
        self, id: str, *, after: int = 0, timeout: TimeoutLike = NOT_GIVEN
    ) -> RawResponse[Stream]: ...

class RawResponses:
    create: CreateResponse[
        RawResponse[Response],
        RawResponse[ResponseStream],
    ]
    def parse(
        self, *, text_format: type[T] | None = None, **params: Unpack[ResponseParams]
    ) -> RawResponse[ParsedResponse[T]]: ...
    @overload
    def retrieve(
        self, response_id: str, *, stream: Literal[False] = False, **options: Unpack[CallOptions]
    ) -> RawResponse[Response]: ...
    @overload
    def retrieve(
        self,
        response_id: str,
        *,
        stream: Literal[True],
        starting_after: int | None = None,
        **options: Unpack[CallOptions],
    ) -> RawResponse[ResponseStream]: ...
    def cancel(self, response_id: str, **options: Unpack[CallOptions]) -> RawResponse[Response]: ...
    def delete(self, response_id: str, **options: Unpack[CallOptions]) -> RawResponse[None]: ...

class RawModels:
    def list(self, **options: Unpack[CallOptions]) -> RawResponse[ModelList]: ...
    def retrieve(self, model: str, **options: Unpack[CallOptions]) -> RawResponse[Model]: ...

class RawClient:
    @property
    def chat(self) -> Chat[RawCompletions]: ...
    @property
    def models(self) -> RawModels: ...
    @property
    def responses(self) -> RawResponses: ...

class StreamedCompletions:
    create: CreateCompletion[StreamedResponse[ChatCompletion], StreamedResponse[Stream]]
    def parse(
        self, **params: Unpack[ParseParams[T]]
    ) -> StreamedResponse[ParsedChatCompletion[T]]: ...
    def resume(
        self, id: str, *, after: int = 0, timeout: TimeoutLike = NOT_GIVEN
    ) -> StreamedResponse[Stream]: ...

class StreamedResponses:
    create: CreateResponse[StreamedResponse[Response], StreamedResponse[ResponseStream]]
    def parse(
        self, *, text_format: type[T] | None = None, **params: Unpack[ResponseParams]
    ) -> StreamedResponse[ParsedResponse[T]]: ...
    @overload
    def retrieve(
        self, response_id: str, *, stream: Literal[False] = False, **options: Unpack[CallOptions]
    ) -> StreamedResponse[Response]: ...
    @overload
    def retrieve(
        self,
        response_id: str,
        *,
        stream: Literal[True],
        starting_after: int | None = None,
        **options: Unpack[CallOptions],
    ) -> StreamedResponse[ResponseStream]: ...
    def cancel(
        self, response_id: str, **options: Unpack[CallOptions]
    ) -> StreamedResponse[Response]: ...
    def delete(
        self, response_id: str, **options: Unpack[CallOptions]
    ) -> StreamedResponse[None]: ...

class StreamedModels:
    def list(self, **options: Unpack[CallOptions]) -> StreamedResponse[ModelList]: ...
    def retrieve(self, model: str, **options: Unpack[CallOptions]) -> StreamedResponse[Model]: ...

class StreamedClient:
    @property
    def chat(self) -> Chat[StreamedCompletions]: ...
    @property
    def models(self) -> StreamedModels: ...
    @property
    def responses(self) -> StreamedResponses: ...
