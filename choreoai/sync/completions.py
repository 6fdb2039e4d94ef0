"""``client.chat.completions``: answers as a whole or as a stream."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, cast

from ..base import path_of
from ..events import ChatCompletionStreamEvent, EventReading
from ..models import ChatCompletion, ParsedChatCompletion
from ..objects import Object
from ..options import NOT_GIVEN, T, TimeoutLike, is_streamed, with_parameters
from ..params import FormattedParams
from ..parsing import Parser
from ..reading import Reading, completion_of
from .exchange import Exchange
from .resource import Resource
from .stream import Stream

if TYPE_CHECKING:
    from ..options import Unpack
    from ..params import CreateCompletion, ParseParams
    from .wrapped import RawCompletions, StreamedCompletions


class ChatCompletionStream(Stream[ChatCompletionStreamEvent[T]]):
    """The typed events of an answer, as they are received.

    Raises the errors of :class:`choreoai.Stream`, and LengthFinishReasonError or
    ContentFilterFinishReasonError if an answer to be parsed ends for that reason.
    """

    _reading: EventReading[T]

    def __next__(self) -> ChatCompletionStreamEvent[T]:
        events = self._reading.events
        while not events:
            try:
                chunk: Any = super().__next__()
            except StopIteration:
                if self._reading.ended:
                    events.extend(self._reading.last_events())
                if not events:
                    raise
            else:
                events.extend(self._reading.events_of(chunk))
        return events.popleft()

    @property
    def current_completion_snapshot(self) -> ChatCompletion:
        """The answer so far."""
        return self.partial

    def get_final_completion(self) -> ParsedChatCompletion[T]:
        """Read the rest of the stream and return the whole answer, parsed."""
        return self._reading.parser.completion(super().get_final_completion())


class Completions(Resource):
    """``client.chat.completions``."""

    if TYPE_CHECKING:
        with_raw_response: RawCompletions
        with_streaming_response: StreamedCompletions

    @with_parameters(FormattedParams)
    def _create(self, *, stream: bool | None = None, **params: Any) -> Any:
        """Return the answer of *model* to *messages*.

        With *stream* it is a :class:`choreoai.Stream`, returned as soon as the answer's head
        is received; without it the whole :class:`choreoai.ChatCompletion`.  *params* are those of
        :class:`choreoai.params.CompletionParams` (``temperature``, ``max_tokens``, ``n``,
        ``stop``, ``tools``, ``stream_options``, ...), and ``response_format``.

        Raises APIStatusError, APIConnectionError and APITimeoutError; ChoreoAIError if the
        arguments cannot be written as JSON, and TypeError for an unknown parameter.
        """
        return self._execute(self._prepare(stream, params))

    create: CreateCompletion[ChatCompletion, Stream] = cast(Any, _create)

    @with_parameters(FormattedParams)
    def parse(self, **params: Unpack[ParseParams[T]]) -> ParsedChatCompletion[T]:
        """Return an answer in the form of *response_format*, a pydantic model or a dataclass.

        The parsed answer is in ``message.parsed``, the parsed arguments of strict tools (such as
        those of :func:`choreoai.pydantic_function_tool`) in ``function.parsed_arguments``.  Raises
        the errors of :meth:`create`, LengthFinishReasonError, ContentFilterFinishReasonError, and
        pydantic's ValidationError.
        """
        exchange = self._prepare(False, params, parsed=True)
        return self._execute(exchange)  # type: ignore[no-any-return]

    @with_parameters(FormattedParams)
    @contextmanager
    def stream(self, **params: Unpack[ParseParams[T]]) -> Iterator[ChatCompletionStream[T]]:
        """Return an answer as a stream of typed events, for use in ``with``.

        The arguments are those of :meth:`parse`; see :mod:`choreoai.events`.
        """
        exchange = self._prepare(True, params, parsed=True)
        with ChatCompletionStream[T](exchange)._open() as stream:
            yield stream

    def resume(self, id: str, *, after: int = 0, timeout: TimeoutLike = NOT_GIVEN) -> Stream:
        """Return the resumable stream *id* from the event that follows number *after*.

        *id* is :attr:`choreoai.Stream.id`, *after* its ``last_event_id``.  Raises the errors
        of :meth:`create`, and NotFoundError if the stream does not exist or has expired.
        """
        headers = {"Last-Event-ID": str(after)}
        _, options = self._client._body_and_options(
            {"timeout": timeout, "resumable": True, "extra_headers": headers}
        )
        path, reading = path_of("/streams", id), Reading(after=after)
        exchange = self._exchange("GET", path, options, reading=reading)
        return self._execute(exchange)  # type: ignore[no-any-return]

    def _prepare(
        self, stream: bool | None, params: Mapping[str, Any], parsed: bool = False
    ) -> Exchange:
        """Return the exchange for a completion; its answer is *parsed* or not."""
        body, options = self._client._body_and_options(params, FormattedParams)
        messages = body["messages"]
        single = (str, bytes, Mapping, Object)  # iterables, but not of messages
        if not isinstance(messages, Iterable) or isinstance(messages, single):
            raise TypeError("messages must be a list of messages")
        body["messages"] = list(messages)
        if isinstance(stream, bool):
            body["stream"] = stream
        if not parsed and isinstance(body.get("response_format"), type):
            raise TypeError("response_format can be a type only in parse() and stream()")
        parser = Parser[Any](body, "response_format") if parsed else None
        if parser is not None and parser.schema is not None:
            body["response_format"] = {"type": "json_schema", "json_schema": parser.schema}
        n = body.get("n")
        n = n if isinstance(n, int) and n > 0 else 1
        reading: Reading | None = None
        if is_streamed(stream):
            reading = Reading(n) if parser is None else EventReading(n, parser)

        def parse(answer: bytes) -> ChatCompletion:
            completion = completion_of(answer, n)
            return completion if parser is None else parser.completion(completion)

        return self._exchange("POST", "/chat/completions", options, body, parse, reading)
