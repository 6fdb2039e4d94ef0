"""An API over an upstream that speaks that very API: its events pass as they are.

Blocks of events in which nothing can need a change pass untouched, at the speed of memory.  The
events that begin and end an answer are taken apart: for the model's name, the id, the usage, a
failure.  All are where they have to be numbered.  How a stream ends is ours: an upstream that
stops before its last event has failed.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

from .. import sse
from ..chat.answer import AnswerWriter
from ..chat.items import Json, Marks, Usage, dump, dump_large
from ..chat.longtext import LONG, restore
from ..chat.request import ChatRequest
from ..chat.source import Reply
from ..errors import ChoreoError, ProviderError, UpstreamInvalid, UpstreamTruncated
from ..upstream import HTTPRequest
from .answer import Attempt, UpstreamAnswer
from .dialects import DIALECTS as DIALECTS
from .dialects import Numbering
from .failures import provider_error, response_error
from .http import OverHTTP
from .logprobs import shorten_into
from .reading import SHAPE_ERRORS, find_error, parse_object

#: Longest document that is passed on, in bytes.
_MAX_DOCUMENT = 64 * 1024 * 1024
#: What a 404 says whose route is there: something else is not, as an item that was not stored.
_NAMED = (b"model", b"deployment", b" with id ")
#: The lines that an event begins with, up to its object, are shorter.
_LONGEST_HEAD = 200


class NativeReply(UpstreamAnswer):
    """The answer to *attempt* of an upstream that speaks the API of *writer*, as it came.

    It is a ``chat.source.Reply`` of a *stream*, or of one document.  *model* is the name that
    the upstream has for the model; the caller's stands in the answer.  *limit* bounds the bytes
    of an event.  *unwrap*, if not None, makes events of what the upstream sends instead.
    """

    def __init__(
        self,
        attempt: Attempt,
        writer: AnswerWriter,
        model: str,
        label: str,
        stream: bool,
        limit: int,
        unwrap: Callable[[bytes], bytes] | None = None,
    ) -> None:
        super().__init__(attempt)
        self._writer = writer
        self._dialect = DIALECTS[writer.api]
        self._renamed = writer.model if writer.model != model else ""
        self.label = label
        self._stream = stream
        self._unwrap = unwrap
        self.ended = False
        self._counts: dict[str, Json] = {}  # running totals
        self._document = bytearray()
        self._marks: Marks = {}  # what stands for what is long in what is looked at
        self._decoder = sse.Decoder(limit, errors="strict")
        self._decoder.shorten = partial(shorten_into, self._marks)
        self._rest = b""  # behind the last whole event
        self._looked: list[bytes] = []  # frames of events that were taken apart
        #: Of a response that is kept, or whose events have no numbers.
        self._numbering = Numbering() if writer.fixed_id else None
        self._started = False
        self._stopped = False  # the reason why a message stopped has come

    @property
    def usage(self) -> Usage | None:
        """What the upstream reported so far."""
        return self._dialect.counts.read(self._counts)

    def receive(self, timeout: float) -> bytes:
        """Return what came within *timeout* seconds: frames, or the document once it is whole."""
        if self.ended:
            return b""
        try:
            if self._stream:
                passed = self._frames(self.read_burst(timeout))
            else:
                passed = self._whole(self.read(timeout))
        except (ChoreoError, *SHAPE_ERRORS) as error:
            if not isinstance(error, ChoreoError):
                error = UpstreamInvalid("the provider's answer is not as expected")
            failure = self.fail(error)
            passed = self._taken_apart()
            if not passed:
                raise failure from None
        if passed:
            self.bytes_without_output = 0
            self._writer.passed(passed)
        return passed

    def _whole(self, data: bytes) -> bytes:
        self._document += data
        if len(self._document) > _MAX_DOCUMENT:
            raise UpstreamInvalid("the provider's answer is too long")
        if not self.body_ended:
            return b""
        body, self._document = bytes(self._document), bytearray()
        value = parse_object(shorten_into(self._marks, body))
        failure = find_error(value)
        if failure is not None:
            body = self.redact(body.decode()).encode()
            value = parse_object(shorten_into(self._marks, body))
        if failure is not None and self._dialect.member != "response":
            raise provider_error(self._whole_value(failure))
        self.ended = True
        return restore(dump_large(value), self._marks) if self.amend(value) else body

    def amend(self, value: Json) -> bool:
        """Write the names that the caller knows into *value*; return whether any differed."""
        if not isinstance(value, dict):
            return False
        if isinstance(value.get("usage"), dict):
            told = {name: number for name, number in value["usage"].items() if number}
            self._counts = {**value["usage"], **self._counts, **told}
        known = {"model": self._renamed, "id": self._writer.fixed_id}
        new = {name: word for name, word in known.items() if word and value.get(name, word) != word}
        if value.get("error"):  # of a response that has failed
            new["error"] = self._whole_value(value["error"], self.redact_keys)
        value.update(new)
        return bool(new)

    def _whole_value(self, value: Json, told: Callable[[str], str] = str) -> Json:
        """Return *value* with its long strings, its text as *told* has it."""
        return json.loads(told(restore(dump(value), self._marks).decode()))

    def _frames(self, data: bytes) -> bytes:
        frames = b""
        if data:
            frames = self._pass(self._unwrap(data) if self._unwrap else data)
        if self.body_ended and not self.ended and not frames:
            if not self._stopped:
                raise UpstreamTruncated("the provider's answer ended before it was complete")
            self.ended = True  # all of it came but its last event
            frames = sse.frame(b'{"type":"message_stop"}', event="message_stop")
        return frames

    def _pass(self, data: bytes) -> bytes:
        # Only whole events are looked at: a part would keep the next block from passing untouched.
        data, self._rest = self._rest + data, b""
        end = data.rfind(b"\n\n") + 2
        if end > 1:
            data, self._rest = data[:end], data[end:]
        at, attempts = 0, 2  # what fails costs the block's length
        while at < len(data) and not self.ended:
            head = self._plain_head(data, at) if attempts else b""
            run = _run(data, at, head) if head else b""
            if run:
                self._looked.append(run)
            else:
                attempts -= bool(head)
                end = data.find(b"\n\n", at) + 2
                run = data[at : len(data) if self._decoder.pending or end < 2 else end]
                self._take_apart(run)
            at += len(run)
        return self._taken_apart()

    def _plain_head(self, data: bytes, at: int) -> bytes:
        """Return how the event at *at* begins, if its type is never taken apart."""
        plain = b"" if self._numbering else self._dialect.plain
        head = data[at : data.find(b"{", at, at + _LONGEST_HEAD) + 1]
        is_plain = plain and head.startswith(b"event: ") and head.endswith(plain)
        return head if is_plain and not self._decoder.pending else b""

    def _take_apart(self, data: bytes) -> None:
        try:
            events = self._decoder.receive_data(data)
        except sse.DecodeError as error:
            raise UpstreamInvalid(f"the provider's answer cannot be read: {error}") from error
        for event in events:
            self._looked.append(self._look(event))
            if self.ended:
                self._exchange.finish()
                break

    def _taken_apart(self) -> bytes:
        looked, self._looked = self._looked, []
        self._marks.clear()
        return b"".join(looked)

    def _look(self, event: sse.Event) -> bytes:
        dialect = self._dialect
        if event.data.startswith("[DONE]"):
            self.ended = not dialect.last
            return b""
        if event.data == "null" and not dialect.last:  # how llama.cpp begins several completions
            return b""
        data = self.redact(event.data).encode("utf-8", "replace")
        value = parse_object(data)
        kind = str(value.get("type") or "")
        if kind == "error" or (not dialect.last and value.get("error")):
            raise provider_error(self._whole_value(value))
        if kind == "ping":  # a silent stream has ours
            return b""
        if kind and kind == dialect.first:
            if self._started:
                raise UpstreamInvalid("the provider began its answer a second time")
            self._started = True
            if dialect.member == "response" and "sequence_number" not in value:
                self._numbering = self._numbering or Numbering()
        elif kind == "message_delta":
            self._stopped = bool(value["delta"].get("stop_reason"))
        changed = [self.amend(value), self.amend(value.get(dialect.member))]
        if self._numbering is not None:
            self._numbering.apply(value)
        self.ended = kind in dialect.last
        if any(changed) or self._numbering or b"\n" in data:
            data = dump_large(value) if len(data) > LONG else dump(value)
        return restore(sse.frame(data, event=kind if dialect.last else ""), self._marks)


def _run(data: bytes, at: int, head: bytes) -> bytes:
    """Return the events in *data* from *at* to the last that begins with *head*.

    Return ``b""`` if others are between them, or they are not UTF-8.  Without what is between two
    of them they look like one: searching for that is the fastest.
    """
    between = b"}\n\n" + head
    run = data[at : data.find(b"\n\n", max(at, data.rfind(between, at)) + 3) + 2]
    one = run.replace(between, b"")
    is_one = one.endswith(b"}\n\n") and one.count(b"\n") == 3 and b"\r" not in one
    is_text = run.isascii() or run.decode("utf-8", "ignore").encode() == run
    return run if is_one and is_text else b""


def forward(
    provider: OverHTTP,
    request: ChatRequest,
    writer: AnswerWriter,
    sent: HTTPRequest,
    unwrap: Callable[[bytes], bytes] | None = None,
    **judged: Any,
) -> Reply:
    """Return the answer to *sent* in the words of *provider*, which are those of *writer*."""
    attempt = provider.attempt(request, sent, b"{[<" if request.stream else b"", **judged)
    model, limit = request.model, provider.settings.max_event_bytes
    label = provider.label(model)
    return NativeReply(attempt, writer, model, label, request.stream, limit, unwrap)


class _NoSuchRoute(ProviderError):
    """The upstream has no such route."""


def route_error(status: int, headers: Mapping[str, str], body: bytes) -> ChoreoError:
    """Return what a response_error means of an API that the upstream may not have after all."""
    error = response_error(status, headers, body, time.time())
    text = body.lower()
    missing = status in (404, 405, 501) and not any(word in text for word in _NAMED)
    missing = missing or (status == 400 and b"operation is unsupported" in text)  # Azure's
    return _NoSuchRoute(error.message) if missing else error


class WithFallback:
    """*reply*, or what *other* makes when the upstream turns out not to have the API."""

    def __init__(self, reply: Reply, other: Callable[[], Reply]) -> None:
        self._reply = reply
        self._other = other

    def receive(self, timeout: float) -> bytes:
        """Return what came within *timeout* seconds from whichever answers."""
        try:
            return self._reply.receive(timeout)
        except _NoSuchRoute:
            self._reply.close()
            self._reply = self._other()
            return b""

    def __getattr__(self, name: str) -> Any:
        """Return the attribute *name* of whichever answers."""
        return getattr(self._reply, name)
