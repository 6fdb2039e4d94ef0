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
from ..streams.recording import Recording
from ..streams.stream import Control, Endable, EventStream, Generation, wait_for_first
from .limits import Limits, demand_model
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

    def __init__(
        self, router: Router, slots: Slots, limits: Limits, control: Control, settings: Settings
    ) -> None:
        self.router = router
        self._slots = slots
        self._limits = limits
        self._control = control
        self._settings = settings
        self.breakers = Breakers()

    def answer(self, call: Call, api: API, request: ChatRequest) -> Response:
        """Return the response to a completion of *api* that is not resumable."""
        slot = self.take_slot(call, request)
        try:
            if not request.stream:
                return self._complete(call, api, request, slot)
            started = self.start(call, api, request, call.gone)
            return self.stream_response(call, request, started.generation, slot, started)
        except BaseException:
            slot.release()
            raise

    def take_slot(self, call: Call, request: ChatRequest) -> Slot:
        """Return the slot of *request*, with room for each upstream call that it may become.

        Raises ModelNotFound, PermissionDenied and RateLimited by the limits of the caller's
        key, and as :meth:`Slots.take` does.
        """
        demand_model(call.key, request.model)
        targets = self.router.targets(request.model)
        calls = max(target.provider.calls(request) for target in targets)
        slot = self._slots.take(calls)
        try:
            slot.lease = self._limits.take(call.account, request, calls)
        except BaseException:
            slot.release()
            raise
        return slot

    def start(
        self, call: Call, api: API, request: ChatRequest, gone: Callable[[], bool]
    ) -> Started:
        """Begin a stream and wait for its first frames, but not longer than a heartbeat.

        Raises ChoreoError when it fails before the first frames, ClientGone when *gone* says
        that nobody waits any more.
        """
        writer = api.writer(request)
        frames = self._failover(request, writer)
        patience = self._settings.heartbeat_seconds
        try:
            first = wait_for_first(frames, gone, self._control, patience, call.waiting)
        except BaseException:
            frames.close()
            raise
        finally:
            call.account.target = frames.label
            call.account.failovers = frames.failovers
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
        """Return the response that carries *generation*, what *started* began, to the client.

        The key is charged when the generation ends, so before the client can ask again.  The
        slot is free when the client has all, or when a recording, which goes on without its
        client, has ended.
        """
        account = call.account

        def on_end() -> None:
            account.charge(started.frames.usage)
            if isinstance(generation, Recording):
                slot.settle(account.usage, generation.last)
                slot.release()
            else:
                slot.settle(account.usage, account.frames)

        def on_close(outcome: str) -> None:
            if not isinstance(generation, Recording):
                slot.release()
            account.finish(outcome)

        started.generation.on_end = on_end
        stream = EventStream(
            generation,
            gone=call.gone,
            heartbeat=self._settings.heartbeat_seconds,
            ping=started.generation.writer.ping,
            on_close=on_close,
            meter=account,
        )
        head = [*sse.HEAD, ("Choreo-Provider", visible(started.label)), *(headers or [])]
        return Response(200, head, stream)

    def _complete(self, call: Call, api: API, request: ChatRequest, slot: Slot) -> Response:
        reply = self._failover(request, api.writer(request))
        try:
            body = wait_for_first(reply, call.gone, self._control, waiting=call.waiting)
        finally:
            reply.close()
            call.account.target = reply.label
            call.account.failovers = reply.failovers
        slot.settle(reply.usage)
        slot.release()
        call.account.charge(reply.usage)
        call.account.outcome = "completed"
        return document(body, headers=[("Choreo-Provider", visible(reply.label))])

    def _failover(self, request: ChatRequest, writer: AnswerWriter) -> Failover:
        def candidate(target: Target) -> Candidate:
            def begin() -> Reply:
                return target.provider.answer(request.with_model(target.model), writer)

            breaker = self.breakers.of(target.label)
            return Candidate(breaker, begin, target.priority, target.weight)

        targets = self.router.targets(request.model)
        return Failover(in_order([candidate(target) for target in targets]))
