"""Completions: from a validated request to the response that carries the answer.

Both kinds of answer, stream and document, go the same way: a slot is taken, :meth:`_begin` starts a
call to the first target for the model, and a :class:`Pending` waits for its first bytes.  Then
``decide`` makes the response, or ``give_up`` releases the slot.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING

from .. import sse
from ..apis import API
from ..chat.source import Reply
from ..providers.failover import Breakers, Failover, in_order
from ..providers.routing import Router, Target
from ..settings import Settings
from ..streams.stream import Control, EventStream, FrameStream, Generation
from .pending import Pending
from .request import Call, Headers
from .response import Response, document, visible
from .slots import Slot, Slots

if TYPE_CHECKING:
    from ..chat.answer import AnswerWriter
    from ..chat.request import ChatRequest
    from ..streams.recording import Recording
    from .limits import Limits


class Completions:
    """Starts completions."""

    def __init__(self, router: Router, slots: Slots, control: Control, settings: Settings) -> None:
        self.router = router
        self._slots = slots
        #: The limits of keys; None as long as no key has any.
        self.limits: Limits | None = None
        self._control = control
        self._settings = settings
        self.breakers = Breakers()

    def answer(self, call: Call, api: API, request: ChatRequest) -> Pending:
        """Return the answer to a request of *api* that is not resumable."""
        slot = self.take_slot(call, request)
        return (self.stream if request.stream else self._complete)(call, api, request, slot)

    def take_slot(self, call: Call, request: ChatRequest) -> Slot:
        """Return a slot for *request* that counts each provider call that it may need.

        Raises ModelNotFound, PermissionDenied and RateLimited by the limits of the caller's
        key, and the errors of :meth:`Slots.take`.
        """
        call.account.key.require_model(request.model)
        targets = self.router.targets(request.model)
        calls = max([target.provider.calls(request) for target in targets])
        slot = self._slots.take(calls)
        try:
            if self.limits is not None:
                slot.charge = self.limits.admit(call.account, request, calls)
        except BaseException:
            slot.release()
            raise
        return slot

    def stream(
        self,
        call: Call,
        api: API,
        request: ChatRequest,
        slot: Slot,
        *,
        record: Callable[[Generation], Recording] | None = None,
        abandon: Callable[[Exception | None], None] = lambda error: None,
        client_left: Callable[[], bool] | None = None,
        headers: Headers | None = None,
    ) -> Pending:
        """Return the streamed answer; it waits for the first frames up to a heartbeat.

        *record* returns the recording of a resumable stream.  *abandon* is called as documented
        by :class:`Pending`.  *client_left* replaces that of the call until the head is sent.

        The key is charged when the generation ends, which is before the client can send its next
        request.  The slot is freed when the client has received everything, or at the end of a
        recording, which continues without its client.
        """
        account = call.account
        frames, writer = self._begin(api, request, slot)

        def decide(first: bytes) -> Response:
            account.answered_by(frames.label, frames.failovers)
            generation = Generation(frames, self._control, writer, first)
            recording = None if record is None else record(generation)
            source: FrameStream = recording or generation
            generation.on_end = partial(_charge, call, slot, frames, recording)

            def on_close(outcome: str) -> None:
                if record is None:
                    slot.release()
                account.finish(outcome)

            stream = EventStream(
                source,
                gone=call.client_left,
                heartbeat=self._settings.heartbeat_seconds,
                ping=writer.ping,
                on_close=on_close,
                meter=account,
            )
            head = [*sse.HEAD, ("Choreo-Provider", visible(account.target)), *(headers or [])]
            return Response(200, head, stream)

        def give_up(error: Exception | None) -> None:
            _give_up(call, slot, frames, error)
            abandon(error)

        return Pending(
            frames,
            decide,
            give_up,
            client_left=client_left or call.client_left,
            control=self._control,
            patience=self._settings.heartbeat_seconds,
        )

    def record(
        self,
        call: Call,
        api: API,
        request: ChatRequest,
        slot: Slot,
        record: Callable[[Generation], Recording],
    ) -> Recording:
        """Start a recording that is sent to no client; it frees *slot* at its end."""
        frames, writer = self._begin(api, request, slot)
        generation = Generation(frames, self._control, writer)
        recording = record(generation)
        generation.on_end = partial(_charge, call, slot, frames, recording)
        return recording

    def _complete(self, call: Call, api: API, request: ChatRequest, slot: Slot) -> Pending:
        account = call.account
        reply, _ = self._begin(api, request, slot)

        def on_close() -> None:
            slot.release()
            account.finish()

        def decide(body: bytes) -> Response:
            reply.close()
            account.answered_by(reply.label, reply.failovers)
            _charge(call, slot, reply)
            account.outcome = "completed"
            provider = [("Choreo-Provider", visible(account.target))]
            # The slot is freed when the client has received the last byte.
            return document(body, headers=provider, on_close=on_close)

        give_up = partial(_give_up, call, slot, reply)
        return Pending(reply, decide, give_up, client_left=call.client_left, control=self._control)

    def _begin(self, api: API, request: ChatRequest, slot: Slot) -> tuple[Failover, AnswerWriter]:
        """Start the call to a provider; return its answer and writer, or free *slot* and raise."""

        def begin(target: Target) -> Reply:
            return target.provider.answer(request.with_model(target.model), writer)

        try:
            writer: AnswerWriter = api.writer(request)
            targets = in_order(self.router.targets(request.model))
            if request.body and not self.router.forwards(writer.api, request.model):
                request.drop_original()
            return Failover(targets, begin, self.breakers), writer
        except BaseException:
            slot.release()
            raise


def _give_up(call: Call, slot: Slot, reply: Failover, error: Exception | None) -> None:
    """Free the slot of a request that *error* ends before its answer, or its client if None."""
    call.account.answered_by(reply.label, reply.failovers)
    slot.release()
    if error is None:
        call.account.finish("client_closed")


def _charge(call: Call, slot: Slot, reply: Failover, recording: Recording | None = None) -> None:
    """Charge the key for a generation at its end; free the slot of a recording."""
    account = call.account
    account.charge(reply.usage)
    if recording is not None:
        slot.settle(account.usage, recording.writer.last)
        slot.release()
    else:
        slot.settle(account.usage, account.frames)
