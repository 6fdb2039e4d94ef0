"""The answer of an OpenAI-compatible server as frames, as items, or as one document."""

from __future__ import annotations

import time

from ...chat.items import Item, Json, Usage, dump
from ...chat.source import Source
from ...errors import ChoreoError, UpstreamInvalid
from ..answer import Call
from ..reading import parse_object, provider_error, read_usage
from .chunks import OpenAIChunks
from .relay import EventRelay
from .repair import repair_completion

#: Seconds for usage and the end marker to come once every choice has finished.
_GRACE = 2.0


# A block of dozens of events is a burst.  While one goes on each read is put off, for longer
# and longer, so that fewer and larger blocks are read, as network cards do it: half the CPU
# time, and at most 40 ms, which nobody sees in a stream of a thousand events a second.  Streams
# at the pace of a model are never held up; where blocks are full (a read takes 128 KiB) the
# waits get shorter again.
_BURST, _ENOUGH, _FULL = 4 * 1024, 48 * 1024, 112 * 1024
_FIRST_PAUSE, _LONGEST_PAUSE = 0.002, 0.04


def _pause_after(size: int, last: float) -> float:
    """Return how long to wait after a block of *size* bytes; *last* is the wait before it."""
    if size < _BURST:
        return 0.0
    if size < _ENOUGH:
        return min(2 * last + _FIRST_PAUSE, _LONGEST_PAUSE)
    return last if size < _FULL else last / 2


class RelayFrames:
    """The frames of a stream, passed on from *call* by *relay*: see ``chat.source.Reply``."""

    def __init__(self, call: Call, relay: EventRelay, label: str) -> None:
        self._call = call
        self._relay = relay
        self.label = label
        self.ended = False
        self._failure: ChoreoError | None = None
        self._grace = 0.0
        self._pause = 0.0
        self._finished = False  # every choice has its finish reason

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
        relay, finished = self._relay, self._finished
        if finished:
            timeout = self._patience(timeout)
        frames = b""
        try:
            if self._pause and timeout > 0:
                time.sleep(self._pause)
            data = self._call.receive(timeout)
            self._pause = _pause_after(len(data), self._pause)
            if data:
                frames = relay.receive_data(data)
                self._finished = relay.progress.all_finished
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
        """Return the file descriptor to poll, or None: a burst is waited for."""
        return None if self._pause else self._call.fileno()

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
    """The document of a plain completion, passed on from *call*: see ``chat.source.Reply``.

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
