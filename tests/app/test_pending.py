"""Pending: a response that is undecided until its first bytes, an error or a deadline."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable
from types import SimpleNamespace
from typing import Any

import harness
import pytest
from scripted_provider import Script

from choreo_wsgi.apis.chat import CompletionWriter, Identity
from choreo_wsgi.app.pending import ClientGone, Pending
from choreo_wsgi.app.response import Response, document
from choreo_wsgi.chat.answer import Answer
from choreo_wsgi.chat.items import Delta, Finish
from choreo_wsgi.errors import ChoreoError, ProviderError, Unavailable
from choreo_wsgi.streams.stream import Control


class Run:
    """A pending response of *script*; records the responses and errors that follow."""

    def __init__(
        self,
        script: Script,
        client_left: Callable[[], bool] = lambda: False,
        patience: float = harness.DEADLINE,
        decide: Callable[[bytes], Response] = document,
    ) -> None:
        self.control = Control()
        self.abandoned: list[Exception | None] = []
        self.responses: list[Response | Exception] = []
        self.pending = Pending(
            Answer(script, CompletionWriter(Identity("m", id="chatcmpl-1", created=1)), 1, "label"),
            decide,
            self._abandon,
            client_left=client_left,
            control=self.control,
            patience=patience,
        )
        self.pending.respond = self._respond

    def _abandon(self, error: Exception | None) -> None:
        self.abandoned.append(error)

    def _respond(self, make: Callable[[], Response]) -> Iterable[bytes]:
        try:
            self.responses.append(make())
        except Exception as error:
            self.responses.append(error)
            return [b"an error"]
        else:
            return self.responses[0].body


def test_first_bytes_decide_the_response() -> None:
    script = Script()
    timer = threading.Timer(0.02, script.finish, [Delta("a"), Finish()])
    run = Run(script)
    timer.start()
    blocks = list(run.pending)
    timer.join()
    assert b'"content":"a"' in b"".join(blocks)
    assert [type(response) for response in run.responses] == [Response]
    run.pending.close()
    assert run.abandoned == []


def test_nothing_is_sent_before_the_decision() -> None:
    script = Script()
    run = Run(script)
    assert (run.pending.ready(), run.pending.decided, run.responses) == (b"", None, [])
    script.finish(Finish())
    while run.pending.decided is None:
        assert run.pending.ready() == b""


def test_end_of_patience_decides_the_response() -> None:
    decided_by: list[bytes] = []

    def decide(first: bytes) -> Response:
        decided_by.append(first)
        return document(b"a ping")

    assert list(Run(Script(), patience=0.0, decide=decide).pending) == [b"a ping"]
    assert decided_by == [b""]


@pytest.mark.parametrize("failure", [ProviderError("no"), RuntimeError("a bug")])
def test_failure_before_the_first_byte_returns_an_error(failure: Exception) -> None:
    script = Script()
    script.say(failure)
    run = Run(script)
    assert list(run.pending) == [b"an error"]
    assert (run.responses, run.abandoned) == ([failure], [failure])


def test_failing_decision_releases_everything() -> None:
    def decide(first: bytes) -> Response:
        raise ChoreoError("no room")

    script = Script()
    script.finish(Finish())
    run = Run(script, decide=decide)
    assert list(run.pending) == [b"an error"]
    assert (run.abandoned, script.closed.is_set()) == (run.responses, True)


def test_disconnect_before_the_first_byte_abandons_the_request() -> None:
    checks = iter([False, False, True])
    run = Run(Script(), client_left=lambda: next(checks))
    assert list(run.pending) == [b"an error"]
    assert isinstance(run.responses[0], ClientGone)
    assert run.abandoned == run.responses


def test_shutdown_before_the_first_byte_returns_unavailable() -> None:
    run = Run(Script())
    run.control.stopping = True
    assert list(run.pending) == [b"an error"]
    assert isinstance(run.responses[0], Unavailable)


def test_closing_twice_abandons_once() -> None:
    script = Script()
    run = Run(script)
    run.pending.close()
    run.pending.close()
    assert (run.abandoned, script.closed.is_set(), run.responses) == ([None], True, [])


def test_source_that_fails_to_close_is_abandoned_nevertheless() -> None:
    run = Run(Script())

    def fail() -> None:
        raise RuntimeError("it cannot be closed")

    run.pending._readable.close = fail  # type: ignore[method-assign]
    with pytest.raises(RuntimeError, match="closed"):
        run.pending.close()
    assert run.abandoned == [None]


@pytest.mark.parametrize("due", [None, 1e12])
def test_silent_provider_does_not_postpone_the_end_of_patience(due: float | None) -> None:
    """A server that polls knows when to send the head."""
    silent: Any = SimpleNamespace(fileno=lambda: 3, due=due)
    pending = Pending(
        silent,
        document,
        lambda error: None,
        client_left=lambda: False,
        control=Control(),
        patience=5.0,
    )
    assert pending.due is not None and pending.due <= time.monotonic() + 5.0


def whole(source: Any, decide: Callable[[bytes], Response]) -> Pending:
    """Return a pending response that *decide* makes at the end of *source*."""
    pending = Pending(source, decide, client_left=lambda: False, control=Control(), whole=True)
    pending.respond = lambda make: make().body
    return pending


@pytest.mark.parametrize(("size", "timeout"), [(300_000, 0), (300_000, 1), (3_000, 0)])
def test_large_whole_answer_is_decided_where_no_stream_waits(size: int, timeout: int) -> None:
    """Reading it may take long: the loop, which never waits, leaves it to a worker."""
    blocks = [b"y" * size]
    source = SimpleNamespace(ended=False, fileno=lambda: 3, due=None)

    def receive(_: float) -> bytes:
        source.ended = True
        return blocks.pop(0) if blocks else b""

    source.receive = receive
    given: list[bytes] = []

    def decide(last: bytes) -> Response:
        given.append(last)
        return document(b"{}")

    pending = whole(source, decide)
    assert pending.fileno() == 3
    pending.ready(timeout)
    is_late = size > 256 * 1024 and not timeout
    assert (pending.decided is None) == is_late
    if is_late:
        assert (pending.fileno(), pending.due) == (None, None)
        pending.ready(1)
    assert pending.decided is not None
    assert given == [b"y" * size]


def test_block_of_a_whole_answer_is_freed_before_the_next_is_made() -> None:
    """Each may be an event with all of the text."""
    alive = 0

    class Counted(bytes):
        def __new__(cls) -> Counted:
            nonlocal alive
            alive += 1
            return super().__new__(cls, b"block")

        def __del__(self) -> None:
            nonlocal alive
            alive -= 1

    source = SimpleNamespace(ended=False, fileno=lambda: 3, due=None)
    seen: list[int] = []

    def receive(_: float) -> bytes:
        seen.append(alive)
        source.ended = len(seen) == 3
        return Counted()

    source.receive = receive
    pending = whole(source, lambda _: document(b"{}"))
    while pending.decided is None:
        pending.ready(1)
    assert seen == [0, 0, 0]
