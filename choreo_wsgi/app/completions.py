"""Completions: from a checked request to the response that carries the answer."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from .. import sse
from ..apis import API
from ..chat.answer import AnswerWriter
from ..chat.request import ChatRequest
from ..chat.source import Reply
from ..providers.failover import Breakers, Candidate, Failover, in_order
from ..providers.routing import Router, Target
from ..settings import Settings
from ..streams.stream import Control, Endable, EventStream, Generation, wait_for_first
from .request import Call, Headers
from .response import Response, document, visible
from .slots import Slot, Slots


@dataclass(frozen=True)
class Started:
    """A stream whose first frames, or a long silence, have come: what carries it on."""

    generation: Generation
    frames: Reply
    label: str


class Completions:
    """Starts completions: a slot, the targets for the model, the first bytes, the response."""

    def __init__(self, router: Router, slots: Slots, control: Control, settings: Settings) -> None:
        self._router = router
        self._slots = slots
        self._control = control
        self._settings = settings
        self._breakers = Breakers()

    def answer(self, call: Call, api: API, request: ChatRequest) -> Response:
        """Return the response to a completion of *api* that is not resumable."""
        slot = self.take_slot(request)
        try:
            if not request.stream:
                return self._complete(call, api, request, slot)
            started = self.start(api, request, call.gone, call.waiting)
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
        self,
        api: API,
        request: ChatRequest,
        gone: Callable[[], bool],
        waiting: Callable[[], None],
    ) -> Started:
        """Begin a stream and wait for its first frames, but not longer than a heartbeat.

        *waiting* is called when nothing is left but to wait.  Raises ChoreoError when it fails
        before the first frames, ClientGone when *gone* says that nobody waits any more.
        """
        writer = api.writer(request)
        frames = self._failover(request, writer)
        patience = self._settings.heartbeat_seconds
        try:
            first = wait_for_first(frames, gone, self._control, patience, waiting)
        except BaseException:
            frames.close()
            raise
        return Started(Generation(frames, self._control, writer, first), frames, frames.label)

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
            call.account.usage = started.frames.usage
            call.account.target = started.label
            call.account.finish(outcome)

        stream = EventStream(
            generation,
            gone=call.gone,
            heartbeat=self._settings.heartbeat_seconds,
            ping=started.generation.writer.ping,
            on_close=on_close,
            meter=call.account,
        )
        head = [*sse.HEAD, ("Choreo-Provider", visible(started.label)), *(headers or [])]
        return Response(200, head, stream)

    def _complete(self, call: Call, api: API, request: ChatRequest, slot: Slot) -> Response:
        reply = self._failover(request, api.writer(request))
        try:
            body = wait_for_first(reply, call.gone, self._control, waiting=call.waiting)
        finally:
            reply.close()
        slot.release()
        call.account.usage = reply.usage
        call.account.target = reply.label
        call.account.outcome = "completed"
        return document(body, headers=[("Choreo-Provider", visible(reply.label))])

    def _failover(self, request: ChatRequest, writer: AnswerWriter) -> Failover:
        def candidate(target: Target) -> Candidate:
            def begin() -> Reply:
                return target.provider.answer(request.with_model(target.model), writer)

            breaker = self._breakers.of(target.label)
            return Candidate(breaker, begin, target.priority, target.weight)

        targets = self._router.targets(request.model)
        return Failover(in_order([candidate(target) for target in targets]))
