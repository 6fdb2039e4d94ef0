"""Completions: from a checked request to the response that carries the answer."""

from __future__ import annotations

import logging
import secrets
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

from .. import sse
from ..chat.chunks import ChunkEncoder
from ..chat.items import Usage
from ..chat.request import ChatRequest
from ..chat.source import Frames, Reply
from ..providers.failover import Breakers, Candidate, Failover, in_order
from ..providers.routing import Router, Target
from ..settings import Settings
from ..streams.stream import Control, Endable, EventStream, Generation, wait_for_first
from .request import Call
from .response import Headers, Response, document, visible
from .slots import Slot, Slots

T = TypeVar("T", Frames, Reply)

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Started:
    """A stream whose first frames, or a long silence, have come: what carries it on."""

    generation: Generation
    frames: Frames
    label: str


class Completions:
    """Starts completions: a slot, the targets for the model, the first bytes, the response."""

    def __init__(self, router: Router, slots: Slots, control: Control, settings: Settings) -> None:
        self._router = router
        self._slots = slots
        self._control = control
        self._settings = settings
        self._breakers = Breakers()

    def answer(self, call: Call, request: ChatRequest) -> Response:
        """Return the response to a completion that is not resumable."""
        slot = self.take_slot(request)
        try:
            if not request.stream:
                return self._complete(call, request, slot)
            started = self.start(request, call.gone, call.waiting)
            return self.stream_response(call, request, started.generation, slot, started)
        except BaseException:
            slot.release()
            raise

    def take_slot(self, request: ChatRequest) -> Slot:
        """Return the slot of *request*, with room for each upstream call that it may become.

        Raises ModelNotFound, and as :meth:`Slots.take` does.
        """
        targets = self._router.targets(request.model)
        return self._slots.take(max(target.provider.calls(request) for target in targets))

    def start(
        self, request: ChatRequest, gone: Callable[[], bool], waiting: Callable[[], None]
    ) -> Started:
        """Begin a stream and wait for its first frames, but not longer than a heartbeat.

        *waiting* is called when nothing is left but to wait.  Raises ChoreoError when it fails
        before the first frames, ClientGone when *gone* says that nobody waits any more.
        """
        encoder = self.encoder(request)

        def begin(target: Target) -> Frames:
            return target.provider.stream(request.with_model(target.model), encoder)

        frames: Failover[Frames] = self._failover(request.model, begin)
        patience = self._settings.heartbeat_seconds
        try:
            first = wait_for_first(frames, gone, self._control, patience, waiting)
        except BaseException:
            frames.close()
            raise
        return Started(Generation(frames, self._control, first), frames, frames.label)

    def stream_response(
        self,
        call: Call,
        request: ChatRequest,
        generation: Endable,
        slot: Slot,
        started: Started,
        headers: Headers | None = None,
    ) -> Response:
        """Return the response that carries *generation*, what *started* began, to the client."""

        def on_close(outcome: str) -> None:
            slot.release()
            self._log(call, request, started.label, outcome, started.frames.usage)

        stream = EventStream(
            generation,
            gone=call.gone,
            heartbeat=self._settings.heartbeat_seconds,
            on_close=on_close,
        )
        head = [*sse.HEAD, ("Choreo-Provider", visible(started.label)), *(headers or [])]
        return Response(200, head, stream)

    def _complete(self, call: Call, request: ChatRequest, slot: Slot) -> Response:
        encoder = self.encoder(request)

        def begin(target: Target) -> Reply:
            return target.provider.complete(request.with_model(target.model), encoder)

        reply: Failover[Reply] = self._failover(request.model, begin)
        try:
            body = wait_for_first(reply, call.gone, self._control, waiting=call.waiting)
        finally:
            reply.close()
        slot.release()
        self._log(call, request, reply.label, "completed", reply.usage)
        return document(body, headers=[("Choreo-Provider", visible(reply.label))])

    def encoder(self, request: ChatRequest) -> ChunkEncoder:
        """Return the encoder of a new answer to *request*."""
        return ChunkEncoder(
            id="chatcmpl-" + secrets.token_urlsafe(18),  # 144 random bits
            created=int(time.time()),
            model=request.model,
            include_usage=request.include_usage,
        )

    def _failover(self, model: str, begin: Callable[[Target], T]) -> Failover[T]:
        def candidate(target: Target) -> Candidate[T]:
            breaker = self._breakers.of(target.label)
            return Candidate(breaker, lambda: begin(target), target.priority, target.weight)

        return Failover(in_order([candidate(target) for target in self._router.targets(model)]))

    def _log(
        self, call: Call, request: ChatRequest, label: str, outcome: str, usage: Usage | None
    ) -> None:
        logger.info(
            "%s: %s %s %s key=%s usage=%s",
            call.id,
            "stream" if request.stream else "completion",
            visible(label),
            outcome,
            call.key or "-",
            f"{usage.prompt_tokens}+{usage.completion_tokens}" if usage else "-",
        )
