"""A request to an OpenAI-compatible server, and its answer as frames, items or a document."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from email.message import Message
from typing import Any

from ..chunks import Item, Usage, dump
from ..errors import ChoreoError, UpstreamInvalid
from ..openai_wire import parse_object, provider_error, read_usage, retry_after
from ..relay import EventRelay
from ..repair import repair_completion
from ..source import Source
from ..upstream import Exchange
from .openai_chunks import OpenAIChunks

__all__ = ["Answers", "Call", "ChunkSource", "RelayFrames", "RelayReply"]

Json = Any  # what json.loads returns

#: An error's body is read up to here; the rest says nothing more.
_ERROR_BYTES = 64 * 1024
#: Seconds for usage and the end marker to come once every choice has finished.
_GRACE = 2.0


@dataclass(frozen=True)
class Answers:
    """How a call is begun and judged.

    *begin* sends the request, with ``stream_options`` or without; *refused* is told a
    refusal's status and body and says whether to ask once more without; *accepted* is told
    which way worked.  *secret* never shows in an error.
    """

    begin: Callable[[bool], Exchange]
    refused: Callable[[int, bytes], bool]
    accepted: Callable[[bool], None]
    secret: str = ""


class Call:
    """An exchange whose answer is what was asked for, or an error.

    *options* is whether the first try has ``stream_options``; *stream* whether events are
    expected.
    """

    def __init__(self, answers: Answers, options: bool, stream: bool) -> None:
        self._answers = answers
        self._options = options
        self._stream = stream
        self._exchange = answers.begin(options)
        self._good = False
        self._body: bytearray | None = None  # of an answer that is not what was asked for
        self._failure: ChoreoError | None = None

    @property
    def ended(self) -> bool:
        """Whether the answer was returned to its end."""
        return self._good and self._exchange.ended

    def receive(self, timeout: float) -> bytes:
        """Return what came of the answer within *timeout* seconds.

        Raises the provider's error, and UpstreamInvalid for a page where events were
        expected.
        """
        if self._failure is not None:
            raise self._failure
        try:
            return self._receive(timeout)
        except ChoreoError as error:
            self._failure = self.hide(error)
            self._exchange.close()
            raise

    def hide(self, error: ChoreoError) -> ChoreoError:
        """Return *error* with ``***`` wherever its message had the secret."""
        secret = self._answers.secret
        if secret and secret in error.message:
            error.message = error.message.replace(secret, "***")
            error.args = (error.message,)
        return error

    def _receive(self, timeout: float) -> bytes:
        exchange = self._exchange
        try:
            data = exchange.receive(timeout)
        except ChoreoError:
            if self._body is not None:  # an error page that was cut says enough
                return self._refuse()
            raise
        if self._good:
            return data
        if exchange.status is None:
            return b""
        if self._body is None:
            if exchange.status == 200 and not (self._stream and _is_page(exchange.headers)):
                self._good = True
                self._answers.accepted(self._options)
                return data
            self._body = bytearray()
        self._body += data
        if exchange.ended or len(self._body) >= _ERROR_BYTES:
            return self._refuse()
        return b""

    def _refuse(self) -> bytes:
        """Raise what the answer means, or ask once more without ``stream_options``."""
        exchange, body = self._exchange, bytes(self._body or b"")
        assert exchange.status is not None
        if self._options and self._answers.refused(exchange.status, body):
            exchange.close()
            self._options, self._body = False, None
            self._exchange = self._answers.begin(False)
            return b""
        raise _error(exchange.status, exchange.headers, body)

    def fileno(self) -> int | None:
        """Return the file descriptor to poll, or None."""
        return self._exchange.fileno()

    def finish(self) -> None:
        """Leave the connection to others if nothing but the answer's end is still to come."""
        self._exchange.finish()

    def close(self) -> None:
        """Break the exchange off."""
        self._exchange.close()


def _is_page(headers: Message) -> bool:
    kind = (headers.get("Content-Type") or "").partition(";")[0].strip().lower()
    return kind in ("text/html", "application/json")


def _error(status: int, headers: Message, body: bytes) -> ChoreoError:
    try:
        value = parse_object(body)
    except UpstreamInvalid:
        value = None
    if status == 200:
        if value is not None and value.get("error"):
            return provider_error(value)
        return UpstreamInvalid("the provider answered with a page where a stream was asked for")
    if 300 <= status < 400 or status < 200:
        return UpstreamInvalid(f"the provider answered {status}, which is not followed")
    if value is None:
        text = body[:500].decode("utf-8", "replace").strip()
        shown = text if text and "<" not in text else f"the provider answered {status}"
        value = {"message": shown}
    return provider_error(value, status, retry_after(headers.get("Retry-After")))


class RelayFrames:
    """The frames of a stream, passed on from *call* by *relay*: see ``source.Frames``."""

    def __init__(self, call: Call, relay: EventRelay, label: str) -> None:
        self._call = call
        self._relay = relay
        self.label = label
        self.ended = False
        self._failure: ChoreoError | None = None
        self._grace = 0.0

    @property
    def usage(self) -> Usage | None:
        """What the provider reported so far."""
        return self._relay.usage

    def receive(self, timeout: float) -> bytes:
        """Return the frames that came within *timeout* seconds, joined.

        Raises UpstreamTruncated when the stream ended too early, and what the provider's
        answer or its end was otherwise.
        """
        if self._failure is not None:
            raise self._failure
        if self.ended:
            return b""
        relay = self._relay
        finished = relay.progress.all_finished
        if finished:
            timeout = self._patience(timeout)
        frames = b""
        try:
            data = self._call.receive(timeout)
            if data:
                frames = relay.receive_data(data)
        except ChoreoError as error:
            if not finished:
                raise self._fail(error) from None
            return self._end(frames)  # all that matters had come
        if relay.done or self._call.ended or (finished and self._patience(1) <= 0):
            return self._end(frames)
        return frames

    def _patience(self, timeout: float) -> float:
        """Return how long to wait for what may follow the finish reasons."""
        now = time.monotonic()
        if not self._grace:
            self._grace = now + _GRACE
        return min(timeout, self._grace - now)

    def _end(self, frames: bytes) -> bytes:
        try:
            frames += self._relay.end()
        except ChoreoError as error:
            self._fail(error)
            if not frames:
                raise
            return frames
        self.ended = True
        self._call.finish()
        return frames

    def _fail(self, error: ChoreoError) -> ChoreoError:
        self._failure = self._call.hide(error)
        self._call.close()
        return error

    def fileno(self) -> int | None:
        """Return the file descriptor to poll, or None."""
        return self._call.fileno()

    def close(self) -> None:
        """Stop the generation."""
        self._call.close()


class ChunkSource(Source):
    """The items of a stream, read from *call* by *chunks*."""

    def __init__(self, call: Call, chunks: OpenAIChunks) -> None:
        self._call = call
        self._chunks = chunks
        self._failure: ChoreoError | None = None

    def receive(self, timeout: float) -> list[Item]:
        """Return what came within *timeout* seconds, in order."""
        if self._failure is not None:
            raise self._failure
        items: list[Item] = []
        if self.ended:
            return items
        try:
            data = self._call.receive(timeout)
            if data:
                items = self._chunks.receive_data(data)
            if self._chunks.progress.done or self._call.ended:
                self._chunks.close()
                self._leave()
        except ChoreoError as error:
            if self._chunks.progress.all_finished:
                self._leave()
            else:
                self._failure = self._call.hide(error)
                self._call.close()
                if not items:
                    raise
        self.usage = next((one for one in items if isinstance(one, Usage)), self.usage)
        return items

    def _leave(self) -> None:
        self.ended = True
        self._call.finish()

    def fileno(self) -> int | None:
        """Return the file descriptor to poll, or None."""
        return self._call.fileno()

    def close(self) -> None:
        """Stop the generation."""
        self._call.close()


class RelayReply:
    """The document of a plain completion, passed on from *call*: see ``source.Reply``.

    *model* is the name to write for the upstream's, or empty; *limit* bounds its bytes.
    """

    def __init__(self, call: Call, label: str, model: str, repair: bool, limit: int) -> None:
        self._call = call
        self.label = label
        self._model = model
        self._repair = repair
        self._limit = limit
        self._body = bytearray()
        self.ended = False
        self.usage: Usage | None = None

    def receive(self, timeout: float) -> bytes:
        """Return the whole document once it is there, ``b""`` before.

        Raises the provider's error, and UpstreamInvalid for what is no completion.
        """
        if self.ended:
            return b""
        self._body += self._call.receive(timeout)
        if len(self._body) > self._limit:
            raise UpstreamInvalid(f"the provider's answer is longer than {self._limit} bytes")
        if not self._call.ended:
            return b""
        try:
            body = self._document(bytes(self._body))
        except ChoreoError as error:
            raise self._call.hide(error) from None
        self.ended = True
        return body

    def _document(self, body: bytes) -> bytes:
        reply = parse_object(body)
        if reply.get("error"):
            raise provider_error(reply)
        choices = reply.get("choices")
        if not (isinstance(choices, list) and choices and all(map(_has_message, choices))):
            raise UpstreamInvalid("the provider's answer is not a chat completion")
        if isinstance(reply.get("usage"), dict):
            self.usage = read_usage(reply["usage"])
        changed = self._repair and repair_completion(reply)
        if self._model and reply.get("model") != self._model:
            reply["model"] = self._model
            changed = True
        return dump(reply) if changed else body

    def fileno(self) -> int | None:
        """Return the file descriptor to poll, or None."""
        return self._call.fileno()

    def close(self) -> None:
        """Stop the generation."""
        self._call.close()


def _has_message(choice: Json) -> bool:
    return isinstance(choice, dict) and isinstance(choice.get("message"), dict)
