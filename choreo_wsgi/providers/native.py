"""Answers of an upstream that speaks the requested API itself: its events are forwarded.

Runs of events that cannot need a change are forwarded as bytes, at the speed of memory.  The
events that begin and end an answer are parsed: for the model's name, the id, the usage, an error.
All events are parsed if they have to be numbered.  An upstream whose stream ends before its last
event has failed.
"""

from __future__ import annotations

import json
import re
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from functools import partial
from typing import Any

from .. import sse
from ..chat.answer import AnswerWriter
from ..chat.items import Json, Marks, Usage, dump, dump_large
from ..chat.large import dump_at_most, dump_restored
from ..chat.longtext import LONG, WINDOW, restore
from ..chat.request import ChatRequest
from ..chat.source import Reply
from ..errors import ChoreoError, ProviderError, UpstreamInvalid, UpstreamTruncated
from ..ids import keep
from ..upstream.request import HTTPRequest
from .answer import MAX_DOCUMENT, Attempt, UpstreamAnswer
from .dialects import DIALECTS as DIALECTS
from .dialects import Numbering, run_of
from .failures import provider_error, response_error
from .http import OverHTTP
from .logprobs import parse_into
from .reading import AT_ONCE, SHAPE_ERRORS, find_error, unknown_shape

#: In a 404 of an existing route, these name the missing thing, such as an item not stored.
_NAMED = (b"model", b"deployment", b" with id ")
#: Limit of bytes of the lines that begin an event, up to its object.
_MAX_HEAD = 200
#: Limit of bytes of an error.
_LONGEST_ERROR = 256 * 1024


class NativeReply(UpstreamAnswer):
    """The answer to *attempt* of an upstream that speaks the API of *writer*, forwarded.

    It is a ``chat.source.Reply`` of a *stream*, or of one document.  *model* is the upstream's
    name of the model, which is replaced by the requested one.  *limit* is that of the bytes of an
    event.  *unwrap*, if not None, converts the bytes that the upstream sends into events.
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
        # Secrets are redacted in bytes: as a str a long event would take several times as much.
        self._pattern = re.compile(self._secrets.pattern.encode(), re.IGNORECASE)
        self._marks: Marks = {}  # of long strings in the events being parsed
        self._decoder = sse.Decoder(limit, errors="strict")
        self._kept: dict[str, bytes] = {}  # the data of long events by the strings in their place
        self._decoder.shorten = partial(keep, self._kept)
        self._rest = b""  # an incomplete event
        self._output: list[bytes] = []  # frames to return
        #: For a response that is stored, or whose events have no numbers.
        self._numbering = Numbering(writer.fixed_id) if writer.fixed_id else None
        self._started = False
        self._stopped = False  # the stop reason of a message was received

    @property
    def usage(self) -> Usage | None:
        return self._dialect.counts.read(self._counts)

    def receive(self, timeout: float) -> bytes:
        """Return the frames received within *timeout* seconds, or the document once complete."""
        if self.ended:
            return b""
        try:
            if self._stream:
                passed = self._receive_frames(b"" if self.behind else self.read_burst(timeout))
            else:
                passed = self._receive_document(self.read(timeout))
        except (ChoreoError, *SHAPE_ERRORS) as error:
            failure = self.fail(error if isinstance(error, ChoreoError) else unknown_shape(error))
            passed = self._take_output()
            if not passed:
                raise failure from None
        if passed or self.behind:
            self.bytes_without_output = len(self._rest)
        if passed:
            self._writer.passed(passed)
        return passed

    def _receive_document(self, data: bytes) -> bytes:
        self._document += data
        if len(self._document) > MAX_DOCUMENT:
            raise UpstreamInvalid("the provider's answer is too long")
        if not self.body_ended:
            return b""
        body, self._document = bytes(self._document), bytearray()
        value = parse_into(self._marks, body)
        failure = find_error(value)
        if failure is not None:
            if self._dialect.member != "response":
                raise provider_error(self._restored(failure))
            if (redacted := self._redacted(body)) is not body:
                body, value = redacted, parse_into(self._marks, redacted)
        self.ended = True
        return dump_restored(value, self._marks) if self.amend(value) else body

    def amend(self, value: Json) -> bool:
        """Set the model and what this server decides; return whether that changed *value*."""
        if not isinstance(value, dict):
            return False
        if isinstance(value.get("usage"), dict):
            counted = {name: number for name, number in value["usage"].items() if number}
            self._counts = {**value["usage"], **self._counts, **counted}
        names = {"model": self._renamed, **self._writer.fixed}
        found = {**dict.fromkeys(names), **value} if value.get("object") == "response" else value
        new = {key: name for key, name in names.items() if name and found.get(key, name) != name}
        if value.get("error"):  # of a response that has failed
            new["error"] = self._restored(value["error"], self.redact_keys)
        value.update(new)
        return bool(new)

    def _redacted(self, data: bytes) -> bytes:
        """Return *data* with ``***`` in place of secrets; itself if it has none."""
        windows = range(0, len(data), WINDOW)  # other threads run between two of them
        found = any(self._pattern.search(data, at, at + 2 * WINDOW) for at in windows)
        return self._pattern.sub(b"***", data) if found else data

    def _restored(self, value: Json, change: Callable[[str], str] = str) -> Json:
        """Return *value* with its long strings; *change* is applied to its JSON text.

        Raises UpstreamInvalid if that is very long.
        """
        problem = "the provider sent a very long error"
        text = dump_at_most(_LONGEST_ERROR, value, self._marks, problem).decode()
        changed = change(text)
        return json.loads(changed) if self._marks or changed != text else value

    def _receive_frames(self, data: bytes) -> bytes:
        frames = b""
        if data or self.behind:
            self._rest += self._unwrap(data) if self._unwrap else data
            data = b""
            frames = self._forward()
        if self.body_ended and not self.ended and not frames:
            last, self._rest = self._rest + b"\n\n", b""  # an event without its blank line
            with suppress(UpstreamInvalid):  # it was cut
                self._parse(last)
            frames = self._take_output()
            if self.ended or frames:
                return frames
            if not self._stopped:
                raise UpstreamTruncated("the provider's answer ended before it was complete")
            self.ended = True  # complete but for its last event
            frames = sse.frame(b'{"type":"message_stop"}', event="message_stop")
        return frames

    def _forward(self) -> bytes:
        """Return the frames for the complete events received.

        Where events of a type that needs no change begin, the run of them is searched for and
        forwarded as bytes; the other events are parsed.  A search that finds no run costs the
        length of the block, so after two of them the rest of the block is parsed, AT_ONCE events
        in a call.
        """
        # An incomplete event is kept back: once in the decoder, it would need the next block too.
        data, self._rest = self._rest, b""
        end = data.rfind(b"\n\n") + 2
        if end > 1:
            data, self._rest = data[:end], data[end:]
        at, attempts, parsed = 0, 2, 0
        while at < len(data) and not self.ended and parsed < AT_ONCE:
            head = self._plain_head(data, at) if attempts else b""
            run = run_of(data, at, head) if head else b""
            if run:
                self._output.append(run)
                at += len(run)
            else:
                attempts -= bool(head)
                end = data.find(b"\n\n", at) + 2
                end = len(data) if self._decoder.pending or end < 2 else end
                event = [data[at:end]]  # in a list, so that nothing else keeps it alive
                if end - at > LONG:
                    data, end = data[end:], 0
                self._parse(event.pop())
                at, parsed = end, parsed + 1
        self.behind = at < len(data) and not self.ended
        self._rest = data[at:] + self._rest
        return self._take_output()

    def _plain_head(self, data: bytes, at: int) -> bytes:
        """Return the bytes before the object of the event at *at*, b"" if it is to be parsed."""
        plain = b"" if self._numbering else self._dialect.plain
        head = data[at : data.find(b"{", at, at + _MAX_HEAD) + 1]
        is_plain = plain and head.startswith(b"event: ") and head.endswith(plain)
        return head if is_plain and not self._decoder.pending else b""

    def _parse(self, data: bytes) -> None:
        try:
            events = self._decoder.receive_data(data)
        except sse.DecodeError as error:
            raise UpstreamInvalid(f"the provider's answer cannot be read: {error}") from error
        data = b""
        for event in events:
            self._output.append(self._frame(event))
            if self.ended:
                self._exchange.finish()
                break

    def _take_output(self) -> bytes:
        output, self._output = self._output, []
        self._marks.clear()
        return b"".join(output)

    def _frame(self, event: sse.Event) -> bytes:
        """Return the frame for *event*, b"" for none; raises the error that it reports."""
        dialect = self._dialect
        if event.data.startswith("[DONE]"):
            self.ended = not dialect.last
            return b""
        if event.data == "null" and not dialect.last:  # how llama.cpp begins several completions
            return b""
        data = self._kept.pop(event.data, b"") if self._kept else b""
        data = data or event.data.encode("utf-8", "replace")
        data = self._redacted(data)
        value = parse_into(self._marks, data)
        kind = str(value.get("type") or "")
        if not kind.isprintable():  # it becomes a line of the frame
            raise UpstreamInvalid("the provider sent an event whose type is not a word")
        if kind == "error" or (not dialect.last and value.get("error")):
            raise provider_error(self._restored(value))
        if kind == "ping":  # this server sends its own
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
        else:
            self._marks.clear()
        del value  # it and its long strings may take more memory than its frame
        return restore(sse.frame(data, event=kind if dialect.last else ""), self._marks)


def forward(
    provider: OverHTTP,
    request: ChatRequest,
    writer: AnswerWriter,
    sent: HTTPRequest,
    unwrap: Callable[[bytes], bytes] | None = None,
    **options: Any,
) -> Reply:
    """Return the answer to *sent*, forwarded: *provider* speaks the API of *writer*."""
    attempt = provider.attempt(request, sent, b"{[<" if request.stream else b"", **options)
    label, limit = provider.label(request.model), provider.settings.max_event_bytes
    return NativeReply(attempt, writer, request.model, label, request.stream, limit, unwrap)


class _NoSuchRoute(ProviderError):
    """The upstream has no such route."""


def route_error(status: int, headers: Mapping[str, str], body: bytes) -> ChoreoError:
    """Return the error for a response to a request of an API that the upstream may lack."""
    error = response_error(status, headers, body, time.time())
    text = body.lower()
    missing = status in (404, 405, 501) and not any(word in text for word in _NAMED)
    missing = missing or (status == 400 and b"operation is unsupported" in text)  # Azure's
    return _NoSuchRoute(error.message) if missing else error


class WithFallback:
    """*reply*, or the one that *other* makes if the upstream turns out not to have the API."""

    def __init__(self, reply: Reply, other: Callable[[], Reply]) -> None:
        self._reply = reply
        self._other = other

    def receive(self, timeout: float) -> bytes:
        try:
            return self._reply.receive(timeout)
        except _NoSuchRoute:
            self._reply.close()
            self._reply = self._other()
            return b""

    def __getattr__(self, name: str) -> Any:
        return getattr(self._reply, name)
