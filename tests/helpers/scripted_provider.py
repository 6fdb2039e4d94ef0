"""A provider whose items a test sends one by one."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable
from typing import Union

from choreo_wsgi.chat.items import Delta, Finish, Item, Usage
from choreo_wsgi.chat.request import ChatRequest
from choreo_wsgi.chat.source import Source
from choreo_wsgi.providers import Provider

End = object()
Step = Union[Item, Exception, object]


class Script(Source):
    """A source that returns the items that the test puts into it with :meth:`say`."""

    def __init__(self) -> None:
        self._steps: queue.Queue[Step] = queue.Queue()
        self.closed = threading.Event()
        #: Set as soon as the next item is requested.
        self.asked = threading.Event()

    def say(self, *steps: Step) -> None:
        """Add *steps*: texts, items, exceptions to raise."""
        for step in steps:
            self._steps.put(Delta(step) if isinstance(step, str) else step)

    def finish(self, *steps: Step) -> None:
        """Add *steps* and the end."""
        self.say(*steps, End)

    def receive(self, timeout: float) -> list[Item]:
        if self.ended or self.closed.is_set():
            return []
        self.asked.set()
        try:
            step = self._steps.get(timeout=timeout) if timeout else self._steps.get_nowait()
        except queue.Empty:
            return []
        if step is End:
            self.ended = True
            return []
        if isinstance(step, Exception):
            raise step
        assert isinstance(step, (Delta, Finish, Usage))
        return [step]

    def close(self) -> None:
        self.closed.set()


class Scripted(Provider):
    """Answers with the source that :attr:`script` returns: a :class:`Script` or another one."""

    type = "scripted"
    script: Callable[[ChatRequest], Source]

    def open(self, request: ChatRequest) -> Source:
        return type(self).script(request)

    def models(self) -> list[str]:
        return ["scripted"]
