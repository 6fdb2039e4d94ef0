"""Answers with their heads: ``with_raw_response`` and ``with_streaming_response``."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from types import TracebackType
from typing import TYPE_CHECKING, Any, Generic, Literal, TypeVar, overload

from requests.structures import CaseInsensitiveDict

from ..models import ChatCompletion
from ..objects import Object
from ..params import FormattedParams, Messages, declared
from ..reading import completion_of
from .call import Call, lower
from .feed import Feed
from .stream import Stream
from .transport import Answer, Cancel

if TYPE_CHECKING:
    from ..params import Unpack
    from .completions import Completions

T = TypeVar("T")


class RawResponse(Generic[T]):
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
    def fetch(cls, call: Call, parse: Callable[[bytes], T]) -> RawResponse[T]:
        """Carry *call* out and return what answers it."""
        answer, content = call.fetch()
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


class StreamedResponse(Generic[T]):
    """An answer whose body is read as it comes, in an ``with`` block.

    Entering sends the request, and raises what it raises; leaving closes the connection.
    """

    status_code: int
    headers: Mapping[str, str]

    def __init__(self, call: Call, n: int | None) -> None:
        self._call = call
        self._n = n  # the choices of a stream
        self._cancel = Cancel()
        self._answer: Answer | None = None

    def __enter__(self) -> StreamedResponse[T]:
        self._answer = self._call.open(self._cancel)
        self.status_code = self._answer.status
        self.headers = CaseInsensitiveDict(lower(self._answer.headers))
        return self

    def __exit__(
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

    def read(self) -> bytes:
        """Return the whole body."""
        assert self._answer is not None
        return self._call.read(self._answer)

    def text(self) -> str:
        """Return the whole body as text."""
        return (self.read()).decode("utf-8", "replace")

    def json(self) -> Any:
        """Return the whole body, decoded."""
        return json.loads(self.read())

    def parse(self) -> T:
        """Return what the method would have returned; raises APIError."""
        if self._n is None:
            made: Any = completion_of(self.read())
        else:
            assert self._answer is not None
            feed = Feed(self._call, self._answer, self._cancel, None, 0)
            made = Stream(feed, self._n)
        return made  # type: ignore[no-any-return]

    def iter_bytes(self) -> Iterator[bytes]:
        """Return the body as it comes."""
        assert self._answer is not None
        return self._call.blocks(self._answer)

    def iter_lines(self) -> Iterator[str]:
        """Yield the lines of the body as they come, without their ends."""
        rest = b""
        for block in self.iter_bytes():
            *lines, rest = (rest + block).split(b"\n")
            for line in lines:
                yield line.rstrip(b"\r").decode("utf-8", "replace")
        if rest:
            yield rest.decode("utf-8", "replace")


class RawCompletions:
    """``client.chat.completions.with_raw_response``."""

    def __init__(self, completions: Completions) -> None:
        self._completions = completions

    @overload
    def create(
        self,
        *,
        model: str,
        messages: Messages,
        stream: Literal[False] | None = None,
        **params: Unpack[FormattedParams],
    ) -> RawResponse[ChatCompletion]: ...

    @overload
    def create(
        self,
        *,
        model: str,
        messages: Messages,
        stream: Literal[True],
        **params: Unpack[FormattedParams],
    ) -> RawResponse[Stream]: ...

    @declared
    def create(
        self, *, model: str, messages: Messages, stream: bool | None = None, **params: Any
    ) -> RawResponse[Any]:
        """Do as ``create``, and return the answer's head beside what it returns."""
        asked = self._completions._ask(model, messages, stream, params)
        if stream:
            opened = asked.stream(self._completions._delete)
            return RawResponse(200, opened.headers, asked.call.retries, b"", lambda _: opened)
        return RawResponse.fetch(asked.call, completion_of)


class StreamedCompletions:
    """``client.chat.completions.with_streaming_response``."""

    def __init__(self, completions: Completions) -> None:
        self._completions = completions

    @overload
    def create(
        self,
        *,
        model: str,
        messages: Messages,
        stream: Literal[False] | None = None,
        **params: Unpack[FormattedParams],
    ) -> StreamedResponse[ChatCompletion]: ...

    @overload
    def create(
        self,
        *,
        model: str,
        messages: Messages,
        stream: Literal[True],
        **params: Unpack[FormattedParams],
    ) -> StreamedResponse[Stream]: ...

    @declared
    def create(
        self, *, model: str, messages: Messages, stream: bool | None = None, **params: Any
    ) -> StreamedResponse[Any]:
        """Return the answer to what ``create`` would send, to be entered with ``with``."""
        asked = self._completions._ask(model, messages, stream, params)
        return StreamedResponse(asked.call, asked.n if stream else None)
