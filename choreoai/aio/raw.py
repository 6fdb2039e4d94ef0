"""Answers with their heads: ``with_raw_response`` and ``with_streaming_response``."""

from __future__ import annotations

import codecs
import json
from collections.abc import AsyncIterator, Callable, Mapping
from typing import Any, Generic, TypeVar

from ..objects import Object
from ..reading import completion_of
from .call import AsyncCall
from .feed import AsyncFeed
from .stream import AsyncStream
from .transport import AsyncAnswer, AsyncCancel

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
        self.headers = headers
        self.retries_taken = retries
        self.content = content
        self._parse = parse

    @classmethod
    async def fetch(cls, call: AsyncCall, parse: Callable[[bytes], T]) -> AsyncRawResponse[T]:
        """Carry *call* out and return what answers it."""
        answer, content = await call.fetch()
        return cls(answer.status, answer.headers, call.retries, content, parse)

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
    _answer: AsyncAnswer

    def __init__(self, call: AsyncCall, streamed: bool) -> None:
        self._call = call
        self._streamed = streamed
        self._cancel = AsyncCancel()

    async def __aenter__(self) -> AsyncStreamedResponse[T]:
        self._answer = await self._call.open(self._cancel)
        self.status_code = self._answer.status
        self.headers = self._answer.headers
        return self

    async def __aexit__(self, *error: object) -> None:
        await self.close()

    async def close(self) -> None:
        """Close the connection."""
        self._answer.close()

    @property
    def request_id(self) -> str | None:
        """The ``x-request-id`` of the answer."""
        return self.headers.get("x-request-id")

    @property
    def retries_taken(self) -> int:
        """How often the request was sent again."""
        return self._call.retries

    async def read(self) -> bytes:
        """Return the whole body."""
        return await self._call.read(self._answer)

    async def text(self) -> str:
        """Return the whole body as text."""
        return (await self.read()).decode("utf-8", "replace")

    async def json(self) -> Any:
        """Return the whole body, decoded."""
        return json.loads(await self.read())

    async def parse(self) -> T:
        """Return what the method would have returned; raises APIError."""
        made: Any
        if self._streamed:
            made = AsyncStream(AsyncFeed(self._call, self._answer, self._cancel))
        else:
            made = completion_of(await self.read())
        return made  # type: ignore[no-any-return]

    def iter_bytes(self) -> AsyncIterator[bytes]:
        """Return the body as it comes."""
        return self._call.blocks(self._answer)

    async def iter_text(self) -> AsyncIterator[str]:
        """Yield the body as it comes, as text."""
        decoder = codecs.getincrementaldecoder("utf-8")("replace")
        async for block in self.iter_bytes():
            yield decoder.decode(block)

    async def iter_lines(self) -> AsyncIterator[str]:
        """Yield the lines of the body as they come, without their ends."""
        rest = b""
        async for block in self.iter_bytes():
            *lines, rest = (rest + block).split(b"\n")
            for line in lines:
                yield line.rstrip(b"\r").decode("utf-8", "replace")
        if rest:
            yield rest.decode("utf-8", "replace")
