"""Answers with their heads: ``with_raw_response`` and ``with_streaming_response``."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Callable, Mapping
from types import TracebackType
from typing import TYPE_CHECKING, Any, Generic, Literal, TypeVar, overload

from requests.structures import CaseInsensitiveDict

from ..models import ChatCompletion
from ..objects import Object
from ..params import FormattedParams, Messages, declared
from ..reading import completion_of
from .call import AsyncCall, lower
from .feed import AsyncFeed
from .stream import AsyncStream
from .transport import AsyncAnswer, AsyncCancel

if TYPE_CHECKING:
    from ..params import Unpack
    from .completions import AsyncCompletions

T = TypeVar("T")


class AsyncRawResponse(Generic[T]):
    """An answer's head and body, and ``parse()`` for what the method itself returns.

    *headers* finds names whatever their case; *content* is empty for a stream, which is read
    through what ``parse()`` returns.
    """

    def __init__(
        self,
        status: int,
        headers: Mapping[str, str],
        retries: int,
        content: bytes,
        parse: Callable[[bytes], T],
    ) -> None:
        self.status_code = status
        self.headers: Mapping[str, str] = CaseInsensitiveDict(headers)
        self.retries_taken = retries
        self.content = content
        self._parse = parse

    @classmethod
    async def fetch(cls, call: AsyncCall, parse: Callable[[bytes], T]) -> AsyncRawResponse[T]:
        """Carry *call* out and return what answers it."""
        answer, content = await call.fetch()
        return cls(answer.status, lower(answer.headers), call.retries, content, parse)

    @property
    def request_id(self) -> str | None:
        """The ``x-request-id`` of the answer."""
        return self.headers.get("x-request-id")

    @property
    def text(self) -> str:
        """The body as text."""
        return self.content.decode("utf-8", "replace")

    def json(self) -> Any:
        """Return the body, decoded."""
        return json.loads(self.content)

    def parse(self) -> T:
        """Return what the method would have returned; raises APIError."""
        made = self._parse(self.content)
        value: object = made
        if isinstance(value, Object):
            value._id = self.request_id
        return made


class AsyncStreamedResponse(Generic[T]):
    """An answer whose body is read as it comes, in an ``async with`` block.

    Entering sends the request, and raises what it raises; leaving closes the connection.
    """

    status_code: int
    headers: Mapping[str, str]

    def __init__(self, call: AsyncCall, n: int | None) -> None:
        self._call = call
        self._n = n  # the choices of a stream
        self._cancel = AsyncCancel()
        self._answer: AsyncAnswer | None = None

    async def __aenter__(self) -> AsyncStreamedResponse[T]:
        self._answer = await self._call.open(self._cancel)
        self.status_code = self._answer.status
        self.headers = CaseInsensitiveDict(lower(self._answer.headers))
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._answer is not None:
            self._answer.close()

    @property
    def request_id(self) -> str | None:
        """The ``x-request-id`` of the answer."""
        return self.headers.get("x-request-id")

    async def read(self) -> bytes:
        """Return the whole body."""
        assert self._answer is not None
        return await self._call.read(self._answer)

    async def text(self) -> str:
        """Return the whole body as text."""
        return (await self.read()).decode("utf-8", "replace")

    async def json(self) -> Any:
        """Return the whole body, decoded."""
        return json.loads(await self.read())

    async def parse(self) -> T:
        """Return what the method would have returned; raises APIError."""
        if self._n is None:
            made: Any = completion_of(await self.read())
        else:
            assert self._answer is not None
            feed = AsyncFeed(self._call, self._answer, self._cancel, None, 0)
            made = AsyncStream(feed, self._n)
        return made  # type: ignore[no-any-return]

    def iter_bytes(self) -> AsyncIterator[bytes]:
        """Return the body as it comes."""
        assert self._answer is not None
        return self._call.blocks(self._answer)

    async def iter_lines(self) -> AsyncIterator[str]:
        """Yield the lines of the body as they come, without their ends."""
        rest = b""
        async for block in self.iter_bytes():
            *lines, rest = (rest + block).split(b"\n")
            for line in lines:
                yield line.rstrip(b"\r").decode("utf-8", "replace")
        if rest:
            yield rest.decode("utf-8", "replace")


class AsyncRawCompletions:
    """``client.chat.completions.with_raw_response``."""

    def __init__(self, completions: AsyncCompletions) -> None:
        self._completions = completions

    @overload
    async def create(
        self,
        *,
        model: str,
        messages: Messages,
        stream: Literal[False] | None = None,
        **params: Unpack[FormattedParams],
    ) -> AsyncRawResponse[ChatCompletion]: ...

    @overload
    async def create(
        self,
        *,
        model: str,
        messages: Messages,
        stream: Literal[True],
        **params: Unpack[FormattedParams],
    ) -> AsyncRawResponse[AsyncStream]: ...

    @declared
    async def create(
        self, *, model: str, messages: Messages, stream: bool | None = None, **params: Any
    ) -> AsyncRawResponse[Any]:
        """Do as ``create``, and return the answer's head beside what it returns."""
        asked = self._completions._ask(model, messages, stream, params)
        if stream:
            opened = await asked.stream(self._completions._delete)
            return AsyncRawResponse(200, opened.headers, asked.call.retries, b"", lambda _: opened)
        return await AsyncRawResponse.fetch(asked.call, completion_of)


class AsyncStreamedCompletions:
    """``client.chat.completions.with_streaming_response``."""

    def __init__(self, completions: AsyncCompletions) -> None:
        self._completions = completions

    @overload
    def create(
        self,
        *,
        model: str,
        messages: Messages,
        stream: Literal[False] | None = None,
        **params: Unpack[FormattedParams],
    ) -> AsyncStreamedResponse[ChatCompletion]: ...

    @overload
    def create(
        self,
        *,
        model: str,
        messages: Messages,
        stream: Literal[True],
        **params: Unpack[FormattedParams],
    ) -> AsyncStreamedResponse[AsyncStream]: ...

    @declared
    def create(
        self, *, model: str, messages: Messages, stream: bool | None = None, **params: Any
    ) -> AsyncStreamedResponse[Any]:
        """Return the answer to what ``create`` would send, to be entered with ``async with``."""
        asked = self._completions._ask(model, messages, stream, params)
        return AsyncStreamedResponse(asked.call, asked.n if stream else None)
