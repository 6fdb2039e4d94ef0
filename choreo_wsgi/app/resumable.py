"""The routes of resumable streams: begin or join one, read on, stop it."""

from __future__ import annotations

import hashlib
import logging
import re
from urllib.parse import parse_qs, quote

from .. import sse
from ..chat import request as chat
from ..chat.request import ChatRequest
from ..errors import ChoreoError, InvalidValue, ProducerLost, StreamCancelled
from ..replay import Store, Writer
from ..settings import Settings
from ..streams.carrier import Drainer
from ..streams.continuation import read_log, the_rest
from ..streams.recording import Playback, Recording
from ..streams.stream import TICK, Control, EventStream, Generation
from .completions import Completions
from .request import Call
from .response import Headers, Response
from .slots import Slot, Slots

_KEY = re.compile(r"[!-~]{1,255}")
_NUMBER = re.compile(r"[0-9]{1,18}")

logger = logging.getLogger(__name__)


def is_resumable(call: Call) -> bool:
    """Whether the request opts in to outliving its connection (``Choreo-Resumable: 1``).

    Raises InvalidValue for anything but 0 and 1.
    """
    value = call.environ.get("HTTP_CHOREO_RESUMABLE", "0")
    if value not in ("0", "1"):
        raise InvalidValue("Choreo-Resumable must be 1 or 0", param="Choreo-Resumable")
    return bool(value == "1")


class Resumption:
    """Begins resumable streams and lets their callers come back to them."""

    def __init__(
        self,
        store: Store,
        completions: Completions,
        slots: Slots,
        control: Control,
        settings: Settings,
    ) -> None:
        self._store = store
        self._completions = completions
        self._slots = slots
        self._control = control
        self._settings = settings
        self.drainer = Drainer(
            settings.max_orphans, settings.max_orphans_per_key, settings.orphan_seconds
        )

    def close(self) -> None:
        """Let go of the streams without a client, then of the store."""
        self.drainer.close()
        self._store.close()

    # -- begin ----------------------------------------------------------------------------

    def begin(self, call: Call, request: ChatRequest, body: bytes) -> Response:
        """Return the response to a resumable POST: a new stream, or the one of its key."""
        if not request.stream:
            raise InvalidValue("only a stream can be resumable", param="stream")
        key = call.environ.get("HTTP_IDEMPOTENCY_KEY")
        if key is not None and not _KEY.fullmatch(key):
            raise InvalidValue(
                "an Idempotency-Key is 1 to 255 visible ASCII characters", param="Idempotency-Key"
            )
        slot = self._slots.take()
        try:
            digest = hashlib.sha256(body).hexdigest()
            claim = self._store.create(
                call.key, model=request.model, request=body, key=key, digest=digest
            )
            if claim.writer is None:
                return self._play(call, claim.id, 0, slot)
            return self._record(call, request, claim.writer, slot, keyed=key is not None)
        except BaseException:
            slot.release()
            raise

    def _record(
        self, call: Call, request: ChatRequest, writer: Writer, slot: Slot, *, keyed: bool
    ) -> Response:
        # A client that left can come back only with its key: it has no id yet.
        gone = (lambda: False) if keyed else call.gone
        try:
            started = self._completions.start(request, gone, call.waiting)
        except BaseException:
            writer.discard()
            raise
        recording = self._recording(started.generation, writer, call.key)
        head = _head(call, writer.id)
        return self._completions.stream_response(call, request, recording, slot, started, head)

    def _recording(self, generation: Generation, writer: Writer, owner: str) -> Recording:
        def adopt(recording: Recording) -> bool:
            return self.drainer.adopt(recording, owner)

        return Recording(generation, writer, adopt, self._settings.continue_lost)

    # -- read on --------------------------------------------------------------------------

    def resume(self, call: Call, id: str) -> Response:
        """Return the response to ``GET /v1/streams/<id>``: what follows a number, then live."""
        after = _after(call)
        slot = self._slots.take()
        try:
            return self._play(call, id, after, slot)
        except BaseException:
            slot.release()
            raise

    def _play(self, call: Call, id: str, after: int, slot: Slot) -> Response:
        owner = call.key
        call.waiting()
        reader = self._store.read(id, owner, after)
        playback = Playback(reader, self._control, lambda last: self._recover(id, owner, last))

        def on_close(outcome: str) -> None:
            slot.release()
            logger.info("%s: resumed stream %s key=%s", call.id, outcome, owner or "-")

        stream = EventStream(
            playback,
            gone=call.gone,
            heartbeat=self._settings.heartbeat_seconds,
            on_close=on_close,
        )
        return Response(200, [*sse.HEAD, *_head(call, id)], stream)

    # -- stop -----------------------------------------------------------------------------

    def cancel(self, call: Call, id: str) -> Response:
        """Return the response to ``DELETE /v1/streams/<id>``, which stops the generation."""
        self._store.cancel(id, call.key)
        # Nobody else tells the readers of a stream that has lost its producer.
        writer = self._store.take_over(id, call.key)
        if writer is not None:
            _end(writer, _error_frame(StreamCancelled("the stream was cancelled")))
        return Response(204)

    # -- a lost producer ------------------------------------------------------------------

    def _recover(self, id: str, owner: str, after: int) -> None:
        """End the log of a stream that has lost its producer, or go on with it."""
        writer = self._store.take_over(id, owner, after)
        if writer is None:
            return  # somebody was faster, or the producer is back
        if writer.cancelled:
            _end(writer, _error_frame(StreamCancelled("the stream was cancelled")))
        elif not (self._settings.continue_lost and self._go_on(id, owner, writer)):
            _end(writer, _error_frame(ProducerLost("the server of this stream is gone")))

    def _go_on(self, id: str, owner: str, writer: Writer) -> bool:
        """Continue the answer from the text in the log; whether that is possible."""
        record = self._store.find(id, owner)
        if writer.gap or record.first > 1 or not record.request:
            return False
        told = read_log(self._log(id, owner, record.last))
        if told is None:
            return False
        if told.finished:
            _end(writer, sse.DONE)
            return True
        request = chat.parse(record.request)
        request, encoder = the_rest(request, told, self._completions.encoder(request))
        try:
            frames = self._completions.go_on(request, encoder)
        except ChoreoError as error:
            logger.warning("a lost stream cannot be continued: %s", error.message)
            return False
        if frames is None:
            return False
        generation = Generation(frames, self._control)
        adopted = self.drainer.adopt(self._recording(generation, writer, owner), owner)
        if not adopted:
            generation.close()
        return adopted

    def _log(self, id: str, owner: str, last: int) -> bytes:
        """Return the frames of the log up to number *last*."""
        reader = self._store.read(id, owner)
        blocks = []
        try:
            while reader.last < last:
                blocks.append(reader.receive(TICK))
        finally:
            reader.close()
        return b"".join(blocks)


def _end(writer: Writer, frame: bytes) -> None:
    """End a log with *frame*."""
    numbered, count = sse.number(frame, writer.last + 1)
    writer.append(numbered, count, end=True)


def _error_frame(error: ChoreoError) -> bytes:
    return sse.frame(error.body())


def _head(call: Call, id: str) -> Headers:
    location = quote(call.environ.get("SCRIPT_NAME", ""), encoding="latin-1") + "/v1/streams/" + id
    return [("Choreo-Stream-Id", id), ("Content-Location", location)]


def _after(call: Call) -> int:
    """Return the number after which the caller wants to read, 0 for all.

    Raises InvalidValue for what is no number.
    """
    query = parse_qs(call.environ.get("QUERY_STRING", ""), keep_blank_values=True)
    given = call.environ.get("HTTP_LAST_EVENT_ID") or query.get("after", ["0"])[-1]
    if not _NUMBER.fullmatch(given):
        raise InvalidValue("not the number of a frame", param="after")
    return int(given)
