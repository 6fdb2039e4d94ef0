"""The routes of resumable streams: start or join one, resume reading, stop it.

A :class:`Recording` writes a resumable stream to a log, and continues without its client: then it
is an orphan.  A client that returns reads the log by a :class:`Playback`, maybe in another process.
If the process that writes the log dies, the next reader ends the log with an error frame.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qs, quote

from .. import sse
from ..apis import API, load
from ..chat import longtext
from ..chat.items import Marks
from ..chat.request import ChatRequest
from ..errors import ChoreoError, InvalidRequest, ProducerLost, RateLimited, Unavailable
from ..late import Late
from ..replay import Store, Writer
from ..settings import Settings
from ..streams.recording import Orphans, Playback, Recording
from ..streams.stream import Control, EventStream, Generation
from .completions import Completions
from .pending import Pending
from .request import Call, Headers
from .response import Response
from .slots import RETRY_AFTER, Slot, Slots

if TYPE_CHECKING:
    from ..apis.responses import log
else:
    log = Late("choreo_wsgi.apis.responses.log")

_KEY = re.compile(r"[!-~]{1,255}")
_NUMBER = re.compile(r"[0-9]{1,18}")
#: The default setting of ``replay_stream_bytes`` lets a response repeat 512 KiB of its request.
_LEAST_REPEATED = 64 * 1024
#: The prefixes of an API's frames; those of chat have no event name.
_NAMES = (
    (b"event: message_", "messages"),
    (b"event: content_block_", "messages"),
    (b"event: response.", "responses"),
    (b"event: choreo.request", "responses"),  # the first frame of a stored response
)


class Resumption:
    """Starts resumable streams, and answers the callers that resume them."""

    def __init__(
        self,
        store: Store,
        completions: Completions,
        readers: Slots,
        control: Control,
        settings: Settings,
    ) -> None:
        self.store = store
        self.completions = completions
        self.readers = readers
        self.control = control
        self.settings = settings
        self.orphans = Orphans(settings.orphan_seconds)

    def close(self) -> None:
        """Close the streams without a client, then the store."""
        self.orphans.close()
        self.store.close()

    # -- start ----------------------------------------------------------------------------

    def begin(self, call: Call, api: API, request: ChatRequest, digest: str) -> Response | Pending:
        """Return the response to a resumable POST: a new stream, or that of its Idempotency-Key.

        *digest* is the digest of the request's body.
        """
        if not request.stream:
            raise InvalidRequest("Choreo-Resumable needs stream: true", param="stream")
        self.check_model(call, request)
        self.check_repeated(api.repeats(request))
        key = self.idempotency_key(call)
        claim = self.store.create(call.account.key.id, key=key, digest=digest)
        if claim.writer is None:
            return self.join(call, claim.id, 0)
        return self.record(call, api, request, claim.writer)

    def check_model(self, call: Call, request: ChatRequest) -> None:
        """Raise the error of a request that no target of its model reads, before a log has it."""
        call.account.key.require_model(request.model)
        read = self.completions.router.forwards(call.account.api, request.model)
        if request.native_only is not None and not read:
            raise request.native_only

    def check_repeated(self, size: int) -> None:
        """Raise InvalidRequest if a log cannot have *size* bytes in several of its frames."""
        most = max(_LEAST_REPEATED, self.settings.replay_stream_bytes // 8)
        if size > most:
            raise InvalidRequest(
                "instructions, tools and others that a stored or resumable response repeats in its "
                f"events may have {most:,} bytes together: raise replay_stream_bytes for more",
                param="tools",
            )

    @staticmethod
    def idempotency_key(call: Call) -> str | None:
        """Return the request's Idempotency-Key; raises InvalidRequest."""
        key: str | None = call.environ.get("HTTP_IDEMPOTENCY_KEY")
        if key is not None and not _KEY.fullmatch(key):
            text = "an Idempotency-Key is 1 to 255 visible ASCII characters"
            raise InvalidRequest(text, param="Idempotency-Key")
        return key

    def _take_slot(self, call: Call, request: ChatRequest) -> Slot:
        """Return the slot of a resumable stream; raises if there are too many orphans.

        An orphan is not stopped to make room: its client may be about to return.
        """
        limit, per_key = self.settings.max_orphans, self.settings.max_orphans_per_key
        if limit and self.orphans.active >= limit:
            raise Unavailable("too many streams run without a client", retry_after=RETRY_AFTER)
        if per_key and self.orphans.active_of(call.account.key.id) >= per_key:
            text = "too many streams of this key run without a client"
            raise RateLimited(text, retry_after=RETRY_AFTER)
        return self.completions.take_slot(call, request)

    def record(self, call: Call, api: API, request: ChatRequest, writer: Writer) -> Pending:
        """Return the answer of a stream that *writer* logs."""
        request = replace(request, log=writer)
        keyed = self.idempotency_key(call) is not None

        def abandon(error: BaseException | None) -> None:
            if keyed:  # another request with the key may have joined
                if not isinstance(error, ChoreoError):
                    error = ChoreoError("the server failed to answer this request")
                try:
                    writer.fail(*sse.number(api.writer(request).fail(error), writer.last + 1))
                except BaseException:
                    writer.discard()  # it would never end for those who read it
                    raise
            else:
                writer.discard()

        try:
            return self.completions.stream(
                call,
                api,
                request,
                self._take_slot(call, request),
                record=self._recorder(call, writer),
                abandon=abandon,
                # The client has no stream id yet, so it can return only by its Idempotency-Key.
                # Without one the stream ends when the client leaves.
                client_left=(lambda: False) if keyed else None,
                headers=stream_head(call, writer.id),
            )
        except BaseException as error:
            abandon(error)
            raise

    def record_alone(self, call: Call, api: API, request: ChatRequest, writer: Writer) -> Recording:
        """Start a stream that *writer* logs, and that is sent to no client."""
        request = replace(request, log=writer)
        try:
            slot = self._take_slot(call, request)
            return self.completions.record(call, api, request, slot, self._recorder(call, writer))
        except BaseException:
            writer.discard()
            raise

    def _recorder(self, call: Call, writer: Writer) -> Callable[[Generation], Recording]:
        """Return a function that starts the recording of a generation by *writer*."""
        adopt = partial(self.orphans.add, owner=call.account.key.id)
        return lambda generation: Recording(generation, writer, adopt)

    # -- resume ---------------------------------------------------------------------------

    def resume(self, call: Call, id: str) -> Response:
        """Return the response to ``GET /v1/streams/<id>``: the log, then live frames."""
        after = _after(call)
        call.account.api = "streams"
        return self.join(call, id, after)

    def join(self, call: Call, id: str, after: int) -> Response:
        """Return the response that reads the log of stream *id* after frame *after*."""
        slot = self.readers.take()
        try:
            playback = self.playback(call, id, after)
        except BaseException:
            slot.release()
            raise

        def on_close(outcome: str) -> None:
            slot.release()
            call.account.finish(outcome)

        stream = EventStream(
            playback,
            gone=call.client_left,
            heartbeat=self.settings.heartbeat_seconds,
            on_close=on_close,
            meter=call.account,
        )
        return Response(200, [*sse.HEAD, *stream_head(call, id)], stream)

    def playback(self, call: Call, id: str, after: int) -> Playback:
        """Return a playback of the log of stream *id* after frame *after*, for *call*."""
        owner = call.account.key.id

        def fail(error: ChoreoError, last: bytes) -> bytes:
            api = call.account.api
            return _error_frame(_api_of(last) if api == "streams" else api, error, last)

        reader = self.store.read(id, owner, after)
        return Playback(reader, self.control, lambda last: self._recover(id, owner, last), fail)

    # -- stop -----------------------------------------------------------------------------

    def cancel(self, call: Call, id: str) -> Response:
        """Return the response to ``DELETE /v1/streams/<id>``, which stops the generation."""
        self.store.cancel(id, call.account.key.id)
        # If the stream has lost its producer, no other process ends it for its readers.
        self._recover(id, call.account.key.id, 0)
        return Response(204)

    # -- a lost producer ------------------------------------------------------------------

    def _recover(self, id: str, owner: str, after: int) -> None:
        """End the log of a stream that has lost its producer by an error frame of its API."""
        lost = self.store.lost(id, owner, after)
        if lost is None:
            return  # another reader has ended it, or the producer is back
        error: ChoreoError = ProducerLost("the server that produced this stream has stopped")
        if lost.cancelled:
            error = InvalidRequest("the stream was cancelled", code="stream_cancelled")
        try:
            # Any frame shows the API; the first one may have been dropped, the last one not.
            reader = self.store.read(id, owner, max(0, lost.last - 1))
            last = reader.receive(0)
            reader.close()
            api = _api_of(last)
            if api == "responses":
                marks: Marks = {}
                events = self.events(id, owner, marks, recover=False)
                response, number = log.read_events(events, "failed")
                frame = longtext.restore(log.failed_event(response, error, number), marks)
            else:
                frame = _error_frame(api, error)
        except ChoreoError:  # the first frames, with the response, were dropped
            frame = sse.frame(error.body())
        lost.end(*sse.number(frame, lost.last + 1))

    def events(
        self,
        id: str,
        owner: str,
        marks: Marks,
        after: int = 0,
        timeout: float = 0.0,
        recover: bool = True,
    ) -> Iterator[Any]:
        """Yield the data of the events in the log of stream *id* after frame *after*.

        The marks in them, which stand for long strings, are added to *marks*.

        A store that can block waits *timeout* seconds for the first, if the log has not ended.
        That of a lost producer is ended first, if *recover*: its client may never read it.
        """
        timeout = timeout if self.store.blocking else 0.0
        reader = self.store.read(id, owner, after)
        try:
            while not reader.ended and (block := reader.receive(timeout)):
                yield from log.events_in(block, marks)
                timeout = 0.0
        except ProducerLost:
            if recover:
                self._recover(id, owner, 0)
                yield from self.events(id, owner, marks, reader.last, recover=False)
        finally:
            reader.close()


def _api_of(frames: bytes) -> str:
    """Return the API whose events are in *frames*."""
    return next((api for name, api in _NAMES if name in frames), "chat")


def _error_frame(api: str, error: ChoreoError, last: bytes = b"") -> bytes:
    """Return the frame that reports *error* in the format of *api*, after the frames *last*."""
    if api == "messages":
        return sse.frame(load(api).error(error)[1], event="error")
    if api == "responses":
        return log.error_event(error, log.next_number(last))
    return sse.frame(error.body())


def stream_head(call: Call, id: str) -> Headers:
    """Return the headers by which the client can resume stream *id*."""
    location = quote(call.environ.get("SCRIPT_NAME", ""), encoding="latin-1") + "/v1/streams/" + id
    return [("Choreo-Stream-Id", id), ("Content-Location", location)]


def _after(call: Call) -> int:
    """Return the number of the last frame that the client has received, 0 for none.

    Raises InvalidRequest for a value that is not a number.
    """
    query = parse_qs(call.environ.get("QUERY_STRING", ""), keep_blank_values=True)
    # The parameter is starting_after at OpenAI, from in llama.cpp's server.
    names = ("after", "starting_after", "from")
    number = call.environ.get("HTTP_LAST_EVENT_ID") or next(
        (query[name][-1] for name in names if name in query), "0"
    )
    if not _NUMBER.fullmatch(number):
        raise InvalidRequest("after must be the number of a frame", param="after")
    return int(number)
