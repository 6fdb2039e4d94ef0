"""Parsing of the Responses API's answers and events.  No I/O."""

from __future__ import annotations

from typing import Any, Generic

from choreo_wsgi.chat.endings import RESPONSE_ENDINGS

from .errors import APIError, StreamInterruptedError
from .models import ParsedResponse, Response, ResponseEvent, ResponseFailure
from .options import T
from .parsing import Parser
from .reading import Reading, object_of


def failure_of(response: Response) -> APIError:
    """Return the error that *response* failed with."""
    error = response.error or ResponseFailure()
    message = error.message or f"the response was {response.status}"
    code = getattr(error, "type", None) or error.code
    return APIError(message, code=code, body=response.to_dict())


def response_of(parser: ResponseParser[Any] | None, body: bytes) -> Response:
    """Return the response in *body*, parsed by *parser* if there is one; raises APIError."""
    response = object_of(Response, body)
    if response.status == "failed":
        raise failure_of(response)
    return response if parser is None else parser.response(response)


class ResponseParser(Parser[T]):
    """Adds the text format *kind* to a request's *body*, and parses the response into it."""

    def __init__(self, body: dict[str, Any], kind: type[T] | None = None) -> None:
        body["text_format"] = kind
        super().__init__(body, "text_format")
        if self.schema is not None:
            form = {"type": "json_schema", **self.schema}
            body["text"] = {**(body.get("text") or {}), "format": form}
        if "tools" in body:  # chat's tools have one more level
            body["tools"] = [
                {"type": "function", **tool["function"]} if "function" in tool else tool
                for tool in body["tools"]
            ]

    def response(self, response: Response) -> ParsedResponse[T]:
        """Return *response* parsed; raises pydantic's ValidationError."""
        for part in response._texts():
            part.parsed = self.content(part.text)
        for item in response.output:
            if item.type == "function_call":
                item.parsed_arguments = self.arguments(item.name, item.arguments)
        return ParsedResponse[T].from_dict(vars(response))


class ResponseReading(Reading, Generic[T]):
    """A stream of events as far as it was read, starting with event number *first*."""

    def __init__(self, first: int = 0, parser: ResponseParser[T] | None = None) -> None:
        super().__init__()
        self._next = first
        self._parser = parser or ResponseParser[T]({})
        #: The response as of the last event that holds one.
        self.response: Response | None = None

    def parsed(self) -> ParsedResponse[T]:
        """Return the response, parsed."""
        return self._parser.response(self.response or Response())

    def _read(self, value: dict[str, Any]) -> ResponseEvent:
        event = ResponseEvent.from_dict(value)
        kind, number = event.type, event.sequence_number
        if type(kind) is not str or not kind:
            raise self.fail(APIError(f"the stream holds an event without a type: {value!r}"))
        if value.get("sequence_number") is not None:  # some servers do not number events
            if number != self._next:
                text = f"event {self._next} is missing: the next one is number {number}"
                raise self.fail(StreamInterruptedError(text))
            self._next += 1
        if isinstance(event.response, Response):
            self.response = event.response
        if kind == "response.output_text.delta" and isinstance(event.delta, str):
            self.fold.take({"choices": [{"delta": {"content": event.delta}}]})
        if kind == "response.failed":
            raise self.fail(failure_of(self.response or Response()))
        self.ended = kind in RESPONSE_ENDINGS  # a stream that stops after any other was cut
        return event

    def _end(self) -> None:
        if not self.ended:
            self.cut("the stream ended before its last event")
