"""``client.chat.completions``: an answer asked for, whole or as a stream."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any, cast

from requests import PreparedRequest

from ..base import stream_headers, stream_path
from ..errors import NotFoundError
from ..events import EventReading
from ..models import ChatCompletion
from ..params import NOT_GIVEN, CompletionParams, Create, FormattedParams, TimeoutLike, declared
from ..parsing import ParsedChatCompletion, Parser, T
from ..policy import Options
from ..reading import Reading, completion_of
from .event_stream import ChatCompletionStream
from .exchange import Exchange
from .raw import RawResponse, StreamedResponse
from .stream import Stream

if TYPE_CHECKING:
    from ..params import Unpack
    from .client import ChoreoAI


class Completions:
    """``client.chat.completions``."""

    def __init__(self, client: ChoreoAI) -> None:
        self._client = client
        #: The same methods; they return the answer's head and body beside its meaning.
        self.with_raw_response = RawCompletions(self)
        #: The same methods; the body is read as it comes.
        self.with_streaming_response = StreamedCompletions(self)

    def _create(self, *, stream: bool | None = None, **params: Any) -> Any:
        """Ask *model* to answer *messages*.

        With *stream* a :class:`choreoai.Stream`, returned as soon as the response head is
        there; without it the whole :class:`choreoai.ChatCompletion`.  *params* are those of
        :class:`choreoai.params.CompletionParams` (``temperature``, ``max_tokens``, ``n``,
        ``stop``, ``tools``, ``stream_options``, ...), and ``response_format``.

        Raises APIStatusError, APIConnectionError and APITimeoutError; ChoreoAIError when the
        arguments cannot be written as JSON, and TypeError for a parameter of another name.
        """
        return (self.with_raw_response._create(stream=stream, **params)).parse()

    create: Create[ChatCompletion, Stream] = declared(cast(Any, _create))

    @declared
    def parse(
        self,
        *,
        response_format: type[T] | Mapping[str, Any] | None = None,
        **params: Unpack[CompletionParams],
    ) -> ParsedChatCompletion[T]:
        """Ask for an answer in the form of *response_format*, a pydantic model or a dataclass.

        It stands in ``message.parsed``, and parsed arguments of strict tools (and of those of
        :func:`choreoai.pydantic_function_tool`) in ``function.parsed_arguments``.  Raises what
        :meth:`create` raises, LengthFinishReasonError, ContentFilterFinishReasonError, and
        pydantic's ValidationError.
        """
        raw = self.with_raw_response
        return (raw.parse(response_format=response_format, **params)).parse()

    @declared
    @contextmanager
    def stream(
        self,
        *,
        response_format: type[T] | Mapping[str, Any] | None = None,
        **params: Unpack[CompletionParams],
    ) -> Iterator[ChatCompletionStream[T]]:
        """Ask for an answer as a stream of typed events, in an ``with`` block.

        The arguments are those of :meth:`parse`; see :mod:`choreoai.events`.
        """
        parser = Parser[T](response_format, params)
        exchange = self._ask(True, parser.params)
        reading = EventReading(exchange.n, parser)
        with ChatCompletionStream[T](exchange, reading)._open() as stream:
            yield stream

    def resume(self, id: str, *, after: int = 0, timeout: TimeoutLike = NOT_GIVEN) -> Stream:
        """Return the resumable stream *id* from the event that follows number *after*.

        *id* is :attr:`choreoai.Stream.id`, *after* its ``last_event_id``.  Raises what
        :meth:`create` raises; NotFoundError when the server has no such stream (any more).
        """
        _, options = self._client._asked({"timeout": timeout})
        request, resume = self._resuming(options, id, after), partial(self._resuming, options)
        pool, stop = self._client._transport, self._delete
        exchange = Exchange(pool, request, options, resume=resume, stop=stop)
        return Stream(exchange, Reading(), after)._open()

    def _ask(self, stream: bool | None, params: Mapping[str, Any]) -> Exchange:
        """Return the exchange that asks for an answer, to be carried out."""
        body, options = self._client._asked(params, FormattedParams)
        if isinstance(body["messages"], (str, bytes, Mapping)):  # whose pieces would be sent
            raise TypeError("messages must be a list of messages")
        body["messages"] = list(body["messages"])
        sent, n, resume = options, body.get("n"), None
        if stream is not None:
            body["stream"] = stream
        if stream:
            sent = replace(options, headers=stream_headers(options))
            resume = partial(self._resuming, options) if options.resumable else None
        return self._client._call(
            "POST",
            "/chat/completions",
            body,
            sent,
            n=n if isinstance(n, int) and n > 0 else 1,
            resume=resume,
            stop=self._delete,
        )

    def _resuming(self, options: Options, stream_id: str, after: int) -> PreparedRequest:
        """Return the request for what follows event *after* of a stream."""
        headers = {**options.headers, "Accept": "text/event-stream", "Last-Event-ID": str(after)}
        sent = replace(options, headers=headers)
        return self._client._request("GET", stream_path(stream_id), None, sent)

    def _delete(self, stream_id: str) -> None:
        with suppress(NotFoundError):  # it is over and forgotten
            path = stream_path(stream_id)
            self._client._call("DELETE", path, None, self._client._asked({})[1]).fetch()


class RawCompletions:
    """``client.chat.completions.with_raw_response``."""

    def __init__(self, completions: Completions) -> None:
        self._completions = completions

    def _create(self, *, stream: bool | None = None, **params: Any) -> RawResponse[Any]:
        """Do as ``create``, and return the answer's head beside what it returns."""
        exchange = self._completions._ask(stream, params)
        if not stream:
            return RawResponse.fetch(exchange, lambda body: completion_of(body, exchange.n))
        opened = Stream(exchange, Reading(exchange.n))._open()
        return RawResponse(exchange, b"", lambda _: opened)

    create: Create[
        RawResponse[ChatCompletion],
        RawResponse[Stream],
    ] = declared(cast(Any, _create))

    @declared
    def parse(
        self,
        *,
        response_format: type[T] | Mapping[str, Any] | None = None,
        **params: Unpack[CompletionParams],
    ) -> RawResponse[ParsedChatCompletion[T]]:
        """Do as ``parse``, and return the answer's head beside what it returns."""
        parser = Parser[T](response_format, params)
        exchange = self._completions._ask(False, parser.params)
        return RawResponse.fetch(
            exchange, lambda body: parser.completion(completion_of(body, exchange.n))
        )


class StreamedCompletions:
    """``client.chat.completions.with_streaming_response``."""

    def __init__(self, completions: Completions) -> None:
        self._completions = completions

    def _create(self, *, stream: bool | None = None, **params: Any) -> StreamedResponse[Any]:
        """Return the answer to what ``create`` would send, to be entered with ``with``."""
        return StreamedResponse(self._completions._ask(stream, params), bool(stream))

    create: Create[StreamedResponse[ChatCompletion], StreamedResponse[Stream]] = declared(
        cast(Any, _create)
    )
