"""Goes on with resumable streams whose client has left.

One thread with a selector serves all whose source tells what to poll.  A source that does
not may hold its thread up, so each of those gets one of its own.
"""

from __future__ import annotations

import logging
import selectors
import socket
import threading
import time
from collections import Counter

from ..errors import InvalidRequest
from .recording import Recording
from .stream import TICK

logger = logging.getLogger(__name__)

#: How many blocks of one stream are taken before it is the next one's turn.
_STEPS = 16
#: Seconds between two questions to a source that cannot tell when it has something.
_PAUSE = 0.01


class Drainer:
    """Keeps generations going without a client; each keeps its slot, which bounds them.

    One that nobody has read for *unread_seconds* is stopped.
    """

    def __init__(self, unread_seconds: float) -> None:
        self._unread_seconds = unread_seconds
        self._lock = threading.Lock()
        self._owners: Counter[str] = Counter()
        self._adopted: list[tuple[Recording, str]] = []  # not yet taken by the thread
        self._thread: threading.Thread | None = None
        self._closing = threading.Event()
        self._wake: socket.socket | None = None

    @property
    def active(self) -> int:
        """How many generations go on."""
        return self._owners.total()

    def active_of(self, owner: str) -> int:
        """Return how many generations of *owner* go on."""
        return self._owners[owner]

    def adopt(self, recording: Recording, owner: str) -> bool:
        """Go on with *recording*; False after :meth:`close`."""
        with self._lock:
            if self._closing.is_set():
                return False
            self._owners[owner] += 1
            if recording.fileno() is None:
                self._spawn(self._run_alone, recording, owner)
                return True
            self._adopted.append((recording, owner))
            if self._thread is None:
                self._thread = self._spawn(self._run)
            elif self._wake is not None:
                self._wake.send(b"\0")
        return True

    def _spawn(self, target: object, *arguments: object) -> threading.Thread:
        thread = threading.Thread(target=target, args=arguments, daemon=True, name="drainer")  # type: ignore[arg-type]
        thread.start()
        return thread

    def close(self) -> None:
        """Stop going on; what runs is left as it is."""
        self._closing.set()
        with self._lock:
            if self._wake is not None:
                self._wake.send(b"\0")
        if self._thread is not None:
            self._thread.join(4 * TICK)

    # -- a thread of its own --------------------------------------------------------------

    def _run_alone(self, recording: Recording, owner: str) -> None:
        while not (self._closing.is_set() or self._step(recording)):
            self._closing.wait(_PAUSE)
        self._release(owner)

    def _step(self, recording: Recording) -> bool:
        """Log what there is of *recording*; whether it has ended."""
        try:
            if recording.seconds_unread > self._unread_seconds:
                recording.abandon(
                    InvalidRequest("nobody read the stream for too long", code="stream_cancelled")
                )
            else:
                # Several times: what TLS has decrypted already no selector tells of.
                for _ in range(_STEPS):
                    if not recording.go_on() or recording.ended:
                        break
        except Exception:
            logger.exception("a stream without a client cannot go on")
            recording.give_up()
        return recording.ended

    def _release(self, owner: str) -> None:
        with self._lock:
            self._owners[owner] -= 1
            if not self._owners[owner]:
                del self._owners[owner]

    # -- the shared thread ------------------------------------------------------------------

    def _run(self) -> None:
        ours, wake = socket.socketpair()
        with selectors.DefaultSelector() as selector, ours, wake:
            ours.setblocking(False)
            selector.register(ours, selectors.EVENT_READ)
            with self._lock:
                self._wake = wake
            try:
                self._serve(selector, ours)
            finally:
                with self._lock:
                    self._wake = None

    def _serve(self, selector: selectors.BaseSelector, ours: socket.socket) -> None:
        running: dict[Recording, tuple[str, int | None]] = {}
        asked_all = time.monotonic()
        while not self._closing.is_set():
            with self._lock:
                fresh, self._adopted = self._adopted, []
            for recording, owner in fresh:
                running[recording] = (owner, None)
                self._advance(selector, running, recording)
            keys = [key for key, _ in selector.select(TICK)]
            ready = [key.data for key in keys if key.data is not None]
            if len(ready) < len(keys):
                ours.recv(4096)
            if time.monotonic() - asked_all >= TICK:
                # One may have been cancelled, be unread for too long, or wait for time.
                asked_all = time.monotonic()
                ready = list(running)
            for recording in ready:
                self._advance(selector, running, recording)

    def _advance(
        self,
        selector: selectors.BaseSelector,
        running: dict[Recording, tuple[str, int | None]],
        recording: Recording,
    ) -> None:
        owner, registered = running[recording]
        ended = self._step(recording)
        # A source changes its descriptor when it connects anew, and has none at its end.
        current = None if ended else recording.fileno()
        if registered is not None and registered != current:
            selector.unregister(registered)
        if current is not None and current != registered:
            selector.register(current, selectors.EVENT_READ, recording)
        if ended:
            del running[recording]
            self._release(owner)
        else:
            running[recording] = (owner, current)
