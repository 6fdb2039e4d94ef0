"""Answers with their heads: ``with_raw_response`` and ``with_streaming_response``."""

from __future__ import annotations

import codecs
import json
from collections.abc import AsyncIterator, Awaitable
from typing import Any, Generic, TypeVar

from ..answered import Answered
from ..objects import Object
from .exchange import AsyncExchange

T = TypeVar("T")


class AsyncRawResponse(Answered, Generic[T]):
    """An answer's head and body; ``parse()`` returns the result of the plain method.

    *content* is empty for a stream, which is read from the result of ``parse()``.
    """

    _exchange: AsyncExchange

    def __init__(self, exchange: AsyncExchange, content: bytes, stream: Any) -> None:
        super().__init__(exchange)
        self.content = content
        self._stream = stream

    @classmethod
    async def fetch(cls, exchange: AsyncExchange) -> AsyncRawResponse[T]:
        """Send the request of *exchange* and return its answer."""
        if exchange.reading is None:
            return cls(exchange, await exchange.fetch(), None)
        return cls(exchange, b"", await exchange.stream(exchange)._open())

    @property
    def text(self) -> str:
        """The body as text."""
        return self.content.decode("utf-8", "replace")

    def json(self) -> Any:
        """Return the body decoded as JSON."""
        return json.loads(self.content)

    def parse(self) -> T:
        """Return the result of the plain method; raises APIError."""
        result = self._stream or self._exchange.parse(self.content)
        if isinstance(result, Object):
            result._id = self.request_id
        return result  # type: ignore[no-any-return]


class AsyncStreamedResponse(Answered, Generic[T]):
    """An answer whose body is read as it is received; for use in ``async with``.

    Entering sends the request and raises the call's errors; leaving closes the connection.
    """

    _exchange: AsyncExchange

    def __init__(self, unsent: Awaitable[AsyncExchange]) -> None:
        self._unsent = unsent
        self._content: bytes | None = None

    async def __aenter__(self) -> AsyncStreamedResponse[T]:
        self._exchange = await self._unsent
        await self._exchange.open()
        return self

    async def __aexit__(self, *error: object) -> None:
        await self.close()

    async def close(self) -> None:
        """Close the connection."""
        self._exchange.close()

    async def read(self) -> bytes:
        """Return the whole body."""
        if self._content is None:
            self._content = await self._exchange.read()
        return self._content

    async def text(self) -> str:
        """Return the whole body as text."""
        return (await self.read()).decode("utf-8", "replace")

    async def json(self) -> Any:
        """Return the whole body decoded as JSON."""
        return json.loads(await self.read())

    async def parse(self) -> T:
        """Return the result of the plain method; raises APIError."""
        if self._exchange.reading is None:
            return self._exchange.parse(await self.read())  # type: ignore[no-any-return]
        return self._exchange.stream(self._exchange)  # type: ignore[no-any-return]

    async def iter_bytes(self, chunk_size: int | None = None) -> AsyncIterator[bytes]:
        """Yield the body as it is received, in pieces of at most *chunk_size* bytes."""
        begun = False
        while block := await self._exchange.receive(self._exchange.deadline(begun)):
            begun = True
            size = chunk_size or len(block)
            for start in range(0, len(block), size):
                yield block[start : start + size]

    async def iter_text(self, chunk_size: int | None = None) -> AsyncIterator[str]:
        """Yield the body as it is received, as text, from at most *chunk_size* bytes each."""
        decoder = codecs.getincrementaldecoder("utf-8")("replace")
        async for block in self.iter_bytes(chunk_size):
            yield decoder.decode(block)
        if rest := decoder.decode(b"", True):  # the beginning of a character
            yield rest

    async def iter_lines(self) -> AsyncIterator[str]:
        """Yield the lines of the body as they are received, without their line ends."""
        pieces: list[str] = []  # of the line that has begun
        async for text in self.iter_text():
            first, *others = text.split("\n")
            pieces.append(first)
            for line in others:
                yield "".join(pieces).rstrip("\r")
                pieces = [line]
        if rest := "".join(pieces):
            yield rest
