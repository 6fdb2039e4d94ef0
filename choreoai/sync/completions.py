"""``client.chat.completions``: an answer asked for, whole or as a stream."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import replace
from functools import cached_property, partial
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, overload

from ..base import Options, stream_headers, stream_path
from ..errors import NotFoundError
from ..models import ChatCompletion
from ..params import (
    NOT_GIVEN,
    CompletionParams,
    FormattedParams,
    Messages,
    TimeoutLike,
    declared,
    split,
)
from ..parsing import ParsedChatCompletion, Parser, T, response_format_of
from ..reading import completion_of
from .call import Call
from .event_stream import ChatCompletionStreamManager
from .feed import Feed, Resume, open_feed
from .raw import RawCompletions, RawResponse, StreamedCompletions
from .stream import Stream

if TYPE_CHECKING:
    from ..params import Unpack
    from .client import ChoreoAI


class Asked(NamedTuple):
    """A completion that was asked for: its call, its choices, and how a stream is resumed."""

    call: Call
    n: int
    resume: Callable[[str], Resume] | None

    def stream(self, stop: Callable[[str], None]) -> Stream:
        """Return the answer as a stream that *stop*, given its id, makes the server end."""
        feed = open_feed(self.call, self.resume)
        return stream_of(feed, self.n, stop)


def stream_of(feed: Feed, n: int, stop: Callable[[str], None]) -> Stream:
    """Return the stream of *n* choices that *feed* brings."""
    return Stream(feed, n, None if feed.id is None else partial(stop, feed.id))


class Completions:
    """``client.chat.completions``."""

    def __init__(self, client: ChoreoAI) -> None:
        self._client = client

    @cached_property
    def with_raw_response(self) -> RawCompletions:
        """The same methods; they return the answer's head and body beside its meaning."""
        return RawCompletions(self)

    @cached_property
    def with_streaming_response(self) -> StreamedCompletions:
        """The same methods; the body is read as it comes."""
        return StreamedCompletions(self)

    @overload
    def create(
        self,
        *,
        model: str,
        messages: Messages,
        stream: Literal[False] | None = None,
        **params: Unpack[FormattedParams],
    ) -> ChatCompletion: ...

    @overload
    def create(
        self,
        *,
        model: str,
        messages: Messages,
        stream: Literal[True],
        **params: Unpack[FormattedParams],
    ) -> Stream: ...

    @overload
    def create(
        self,
        *,
        model: str,
        messages: Messages,
        stream: bool | None,
        **params: Unpack[FormattedParams],
    ) -> ChatCompletion | Stream: ...

    @declared
    def create(
        self,
        *,
        model: str,
        messages: Messages,
        stream: bool | None = None,
        **params: Any,
    ) -> ChatCompletion | Stream:
        """Ask *model* to answer *messages*.

        With *stream* a :class:`choreoai.Stream`, returned as soon as the response head is
        there; without it the whole :class:`choreoai.ChatCompletion`.  *params* are those of
        :class:`choreoai.params.CompletionParams` (``temperature``, ``max_tokens``, ``n``,
        ``stop``, ``tools``, ``stream_options``, ...), and ``response_format``.

        Raises APIStatusError, APIConnectionError and APITimeoutError; ChoreoAIError when the
        arguments cannot be written as JSON, and TypeError for a parameter of another name.
        """
        asked = self._ask(model, messages, stream, params)
        if stream:
            return asked.stream(self._delete)
        return (RawResponse.fetch(asked.call, completion_of)).parse()

    @declared
    def parse(
        self,
        *,
        model: str,
        messages: Messages,
        response_format: type[T] | Mapping[str, Any] | None = None,
        **params: Unpack[CompletionParams],
    ) -> ParsedChatCompletion[T]:
        """Ask for an answer in the form of *response_format*, a pydantic model or a dataclass.

        It stands in ``message.parsed``, and parsed arguments of strict tools (and of those of
        :func:`choreoai.pydantic_function_tool`) in ``function.parsed_arguments``.  Raises what
        :meth:`create` raises, LengthFinishReasonError, ContentFilterFinishReasonError, and
        pydantic's ValidationError.
        """
        parser, members = _parsing(response_format, params)
        asked = self._ask(model, messages, False, members)
        answer = RawResponse.fetch(asked.call, completion_of)
        return parser.completion(answer.parse())

    @declared
    def stream(
        self,
        *,
        model: str,
        messages: Messages,
        response_format: type[T] | Mapping[str, Any] | None = None,
        **params: Unpack[CompletionParams],
    ) -> ChatCompletionStreamManager[T]:
        """Ask for an answer as a stream of typed events, in an ``with`` block.

        The arguments are those of :meth:`parse`; see :mod:`choreoai.events`.
        """
        parser, members = _parsing(response_format, params)
        asked = self._ask(model, messages, True, members)
        return ChatCompletionStreamManager(partial(asked.stream, self._delete), parser)

    def resume(self, id: str, *, after: int = 0, timeout: TimeoutLike = NOT_GIVEN) -> Stream:
        """Return the resumable stream *id* from the event that follows number *after*.

        *id* is :attr:`choreoai.Stream.id`, *after* its ``last_event_id``.  Raises what
        :meth:`create` raises; NotFoundError when the server has no such stream (any more).
        """
        options = self._client._options(timeout)
        call = self._resuming(id, options, after)
        feed = open_feed(call, partial(self._resume, options), after)
        return stream_of(feed, 1, self._delete)

    def _ask(
        self, model: str, messages: Messages, stream: bool | None, params: Mapping[str, Any]
    ) -> Asked:
        """Return what is asked, to be sent."""
        members, given = split(params)
        extra = given.pop("extra_body", None) or {}
        options = self._client._options(**given)
        body = {"model": model, "messages": list(messages), **members, **extra}
        sent, resume = options, None
        if stream is not None:
            body["stream"] = stream
        if stream:
            sent = replace(options, headers=stream_headers(options))
            resume = partial(self._resume, options) if options.resumable else None
        call = self._client._call("POST", "/chat/completions", body, sent)
        n = body.get("n")
        return Asked(call, n if isinstance(n, int) and n > 0 else 1, resume)

    def _resume(self, options: Options, stream_id: str) -> Resume:
        # No retries in the call: the feed counts its tries from one event to the next.
        return partial(self._resuming, stream_id, replace(options, max_retries=0))

    def _resuming(self, stream_id: str, options: Options, after: int) -> Call:
        headers = {**options.headers, "Accept": "text/event-stream", "Last-Event-ID": str(after)}
        sent = replace(options, headers=headers)
        return self._client._call("GET", stream_path(stream_id), None, sent)

    def _delete(self, stream_id: str) -> None:
        with suppress(NotFoundError):  # it is over and forgotten
            path = stream_path(stream_id)
            self._client._call("DELETE", path, None, self._client._options()).fetch()


def _parsing(response_format: Any, params: Mapping[str, Any]) -> tuple[Parser[Any], dict[str, Any]]:
    """Return what parses the answer, and the parameters with the format as the API takes it."""
    members = dict(params)
    if response_format is not None:
        members["response_format"] = response_format_of(response_format)
    members["tools"] = list(params.get("tools") or ()) or NOT_GIVEN
    return Parser(response_format, members["tools"] or ()), members
