"""``client.chat.completions``: an answer asked for, whole or as a stream."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, cast

from ..base import path_of
from ..events import ChatCompletionStreamEvent, EventReading
from ..models import ChatCompletion, ParsedChatCompletion
from ..objects import Object
from ..options import NOT_GIVEN, T, TimeoutLike, declared
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
    """The events of an answer, as they come.

    Raises what :class:`choreoai.Stream` does, and LengthFinishReasonError and
    ContentFilterFinishReasonError, where an answer that is to be parsed ends so.
    """

    _reading: EventReading[T]

    def __next__(self) -> ChatCompletionStreamEvent[T]:
        events = self._reading.events
        while not events:
            chunk: Any = super().__next__()
            events.extend(self._reading.of(chunk))
        return events.popleft()

    @property
    def current_completion_snapshot(self) -> ChatCompletion:
        """The answer so far."""
        return self.partial

    def get_final_completion(self) -> ParsedChatCompletion[T]:
        """Read to the end and return the whole answer, parsed."""
        return self._reading.parser.completion(super().get_final_completion())


class Completions(Resource):
    """``client.chat.completions``."""

    if TYPE_CHECKING:
        with_raw_response: RawCompletions
        with_streaming_response: StreamedCompletions

    @declared(FormattedParams)
    def _create(self, *, stream: bool | None = None, **params: Any) -> Any:
        """Ask *model* to answer *messages*.

        With *stream* a :class:`choreoai.Stream`, returned as soon as the response head is
        there; without it the whole :class:`choreoai.ChatCompletion`.  *params* are those of
        :class:`choreoai.params.CompletionParams` (``temperature``, ``max_tokens``, ``n``,
        ``stop``, ``tools``, ``stream_options``, ...), and ``response_format``.

        Raises APIStatusError, APIConnectionError and APITimeoutError; ChoreoAIError when the
        arguments cannot be written as JSON, and TypeError for a parameter of another name.
        """
        return self._carry(self._ask(stream, params))

    create: CreateCompletion[ChatCompletion, Stream] = cast(Any, _create)

    @declared(FormattedParams)
    def parse(self, **params: Unpack[ParseParams[T]]) -> ParsedChatCompletion[T]:
        """Ask for an answer in the form of *response_format*, a pydantic model or a dataclass.

        It stands in ``message.parsed``, and parsed arguments of strict tools (and of those of
        :func:`choreoai.pydantic_function_tool`) in ``function.parsed_arguments``.  Raises what
        :meth:`create` raises, LengthFinishReasonError, ContentFilterFinishReasonError, and
        pydantic's ValidationError.
        """
        completion: ParsedChatCompletion[T]
        completion = self._carry(self._ask(False, params, parsed=True))
        return completion

    @declared(FormattedParams)
    @contextmanager
    def stream(self, **params: Unpack[ParseParams[T]]) -> Iterator[ChatCompletionStream[T]]:
        """Ask for an answer as a stream of typed events, in an ``with`` block.

        The arguments are those of :meth:`parse`; see :mod:`choreoai.events`.
        """
        exchange = self._ask(True, params, parsed=True)
        with ChatCompletionStream[T](exchange)._open() as stream:
            yield stream

    def resume(self, id: str, *, after: int = 0, timeout: TimeoutLike = NOT_GIVEN) -> Stream:
        """Return the resumable stream *id* from the event that follows number *after*.

        *id* is :attr:`choreoai.Stream.id`, *after* its ``last_event_id``.  Raises what
        :meth:`create` raises; NotFoundError when the server has no such stream (any more).
        """
        headers = {"Last-Event-ID": str(after)}
        _, options = self._client._asked(
            {"timeout": timeout, "resumable": True, "extra_headers": headers}
        )
        path = path_of("/streams", id)
        reading = Reading(after=after)
        stream: Stream
        stream = self._carry(self._exchange("GET", path, options, reading=reading))
        return stream

    def _ask(
        self, stream: bool | None, params: Mapping[str, Any], parsed: bool = False
    ) -> Exchange:
        """Return the exchange that asks for an answer, which is *parsed* or not."""
        body, options = self._client._asked(params, FormattedParams)
        messages = body["messages"]
        pieces = (str, bytes, Mapping, Object)  # those of one message would be sent
        if not isinstance(messages, Iterable) or isinstance(messages, pieces):
            raise TypeError("messages must be a list of messages")
        body["messages"] = list(messages)
        if isinstance(stream, bool):
            body["stream"] = stream
        if not parsed and isinstance(body.get("response_format"), type):
            raise TypeError("a type as response_format is for parse() and stream()")
        parser = Parser[Any](body, "response_format") if parsed else None
        if parser is not None and parser.schema is not None:
            body["response_format"] = {"type": "json_schema", "json_schema": parser.schema}
        n = body.get("n")
        n = n if isinstance(n, int) and n > 0 else 1
        reading: Reading | None = None
        if stream:
            reading = Reading(n) if parser is None else EventReading(n, parser)

        def meaning(answer: bytes) -> ChatCompletion:
            completion = completion_of(answer, n)
            return completion if parser is None else parser.completion(completion)

        path = "/chat/completions"
        return self._exchange("POST", path, options, body, meaning, reading)
