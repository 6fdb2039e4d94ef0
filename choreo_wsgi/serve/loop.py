"""waitress's sockets on a loop that costs nothing per open connection.

waitress asks every connection what it waits for each time it wakes: felt when hundreds of
streams begin at once.  Here a connection is asked when something happened to it.
"""

from __future__ import annotations

import logging
import selectors
import time
from collections import deque
from collections.abc import Callable
from typing import Any

from waitress import trigger, wasyncore
from waitress.server import TcpWSGIServer, UnixWSGIServer

from .channel import Channel
from .parking import Carrier

logger = logging.getLogger(__name__)


#: Seconds that the loop sleeps at the most.
TICK = 0.25

#: Seconds between two looks for connections that let us wait for too long.
CLEANUP = 5.0


class Loop(dict[int, Any]):
    """The map from descriptors to dispatchers that waitress wants, which can also run them.

    *tick* is called in every round, four times a second at least.
    """

    def __init__(self, tick: Callable[[], None]) -> None:
        super().__init__()
        self._tick = tick
        self._selector = selectors.DefaultSelector()
        self._events: dict[int, int] = {}
        self._changed: deque[Any] = deque()
        self._woken = False
        self._stopped = False
        self._trigger = trigger.trigger(self)
        self.listeners: list[Any] = []

    def __setitem__(self, descriptor: int, dispatcher: Any) -> None:
        super().__setitem__(descriptor, dispatcher)
        self._changed.append(dispatcher)  # asked later: it is not fully made yet

    def __delitem__(self, descriptor: int) -> None:
        super().__delitem__(descriptor)
        if self._events.pop(descriptor, 0):
            self._selector.unregister(descriptor)

    def changed(self, dispatcher: Any) -> None:
        """Ask *dispatcher* anew what it waits for; from any thread."""
        self._changed.append(dispatcher)
        if not self._woken:
            self._woken = True
            self._trigger.pull_trigger()

    def stop(self) -> None:
        """Make :meth:`run` return; from any thread."""
        self._stopped = True
        self._trigger.pull_trigger()

    def run(self) -> None:
        """Serve until :meth:`stop`."""
        cleanup = time.monotonic() + CLEANUP
        while not self._stopped:
            self._woken = False  # before looking: what changes from here on wakes us again
            self._settle()
            for key, events in self._selector.select(TICK):
                self._dispatch(key, events)
            self._tick()
            now = time.monotonic()
            if now >= cleanup:
                cleanup = now + CLEANUP
                self._clean_up(now)

    def close(self) -> None:
        """Close every socket."""
        wasyncore.close_all(self, ignore_all=True)
        self._selector.close()

    def channels(self) -> list[Channel]:
        """Return the open connections."""
        return [item for item in list(self.values()) if isinstance(item, Channel)]

    def _dispatch(self, key: selectors.SelectorKey, events: int) -> None:
        dispatcher = key.data
        if not self._holds(dispatcher):
            return  # closed by an earlier event of this round
        if events & selectors.EVENT_READ:
            wasyncore.read(dispatcher)
        if events & selectors.EVENT_WRITE and self._holds(dispatcher):
            wasyncore.write(dispatcher)
        if not dispatcher.accepting:  # listeners are asked every time
            self._changed.append(dispatcher)

    def _settle(self) -> None:
        while self._changed:
            self._ask(self._changed.popleft())
        for listener in self.listeners:  # whether there is room changes with every connection
            self._ask(listener)

    def _ask(self, dispatcher: Any) -> None:
        """Wait for what *dispatcher* wants now; what it can write, it writes at once."""
        if not self._holds(dispatcher):
            return
        if not dispatcher.accepting and dispatcher.writable():
            wasyncore.write(dispatcher)
            if not self._holds(dispatcher):
                return
        events = selectors.EVENT_READ if dispatcher.readable() else 0
        if not dispatcher.accepting and dispatcher.writable():
            events |= selectors.EVENT_WRITE
        self._watch(dispatcher._fileno, dispatcher, events)

    def _holds(self, dispatcher: Any) -> bool:
        """Return whether *dispatcher* is still open."""
        return self.get(dispatcher._fileno) is dispatcher

    def _watch(self, descriptor: int, dispatcher: Any, events: int) -> None:
        known = self._events.get(descriptor, 0)
        if events == known:
            return
        if not known:
            self._selector.register(descriptor, events, dispatcher)
        elif events:
            self._selector.modify(descriptor, events, dispatcher)
        else:
            self._selector.unregister(descriptor)
        self._events[descriptor] = events

    def _clean_up(self, now: float) -> None:
        for channel in self.channels():
            if channel.overdue(now):
                channel.handle_close()


class _Listener:
    """What both kinds of listening socket share; mixed in before waitress's class."""

    channel_class = Channel
    next_channel_cleanup = float("inf")  # Loop does it, by a clock that does not jump
    send_timeout = 60.0
    draining = False
    carrier: Carrier
    _map: Loop

    def changed(self, channel: Channel) -> None:
        """Have the main loop look at *channel*."""
        self._map.changed(channel)

    def park(self, channel: Channel, task: Any) -> None:
        """Go on with *task*'s stream without a worker."""
        self.carrier.park(channel, task)

    def pull_trigger(self) -> None:
        """Do nothing: a channel says itself what the main loop has to look at."""


class TcpServer(_Listener, TcpWSGIServer):
    """Listens on a TCP address."""


class UnixServer(_Listener, UnixWSGIServer):
    """Listens on a unix socket."""
