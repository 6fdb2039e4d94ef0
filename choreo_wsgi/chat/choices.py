"""Several choices, stop strings and token limits for providers that do not support them."""

from __future__ import annotations

import select
from collections.abc import Sequence
from dataclasses import replace

from ..errors import InvalidRequest
from .items import Delta, Finish, Item, Usage
from .source import Delegating, Source

#: Limit of characters in a stop string.
LONGEST_STOP = 1000

# Seconds that one of several sources without a file descriptor may block the others.
_TURN = 0.02


class StopMatcher:
    """Forwards text up to the first stop string.

    The stop string that is complete first ends the text; of several that are complete at the same
    character, the longest.  If the end of the text may begin a stop string, it is buffered until
    more text decides.
    """

    def __init__(self, stops: Sequence[str]) -> None:
        self._stops = [stop for stop in stops if stop]
        self._buffered = ""
        #: The stop string that ended the text.
        self.matched = ""

    def feed(self, text: str) -> str:
        """Return the text that may be sent now; sets ``matched`` at a stop string.

        Must not be called again after that.
        """
        text = self._buffered + text
        found = [(at + len(stop), at, stop) for stop in self._stops if (at := text.find(stop)) >= 0]
        if found:
            _, at, self.matched = min(found)
            self._buffered = ""
            return text[:at]
        safe = min((_partial_match(stop, text) for stop in self._stops), default=len(text))
        self._buffered = text[safe:]
        return text[:safe]

    def flush(self) -> str:
        """Return the buffered text, at the end of the text."""
        text, self._buffered = self._buffered, ""
        return text


def _partial_match(stop: str, text: str) -> int:
    """Return the start of the longest end of *text* that is a beginning of *stop*."""
    at = text.find(stop[0], max(0, len(text) - len(stop) + 1))
    while at >= 0 and not stop.startswith(text[at:]):
        at = text.find(stop[0], at + 1)
    return at if at >= 0 else len(text)


class Limited(Delegating, Source):
    """*source* with each choice ended before a stop string, or with ``length`` at *limit*.

    *limit* counts pieces of text.  Raises InvalidRequest for a stop string longer than
    :data:`LONGEST_STOP`.
    """

    _source: Source

    def __init__(
        self, source: Source, stops: Sequence[str] = (), limit: int | None = None, choices: int = 1
    ) -> None:
        if any(len(stop) > LONGEST_STOP for stop in stops):
            source.close()
            raise InvalidRequest(
                f"this model takes stop strings of at most {LONGEST_STOP} characters", param="stop"
            )
        self._source = source
        self._remaining = dict.fromkeys(range(choices), limit)
        self._matchers = {index: StopMatcher(stops) for index in range(choices)}
        self._finished: set[int] = set()
        self._early = False  # whether a choice was ended before the source ended it

    def receive(self, timeout: float) -> list[Item]:
        """Return the items received within *timeout* seconds, up to each choice's end."""
        items: list[Item] = []
        for item in self._source.receive(timeout):
            if isinstance(item, Usage):
                items.append(item)
            elif item.index not in self._finished:
                items += self._limited(item)
        self.ended = self._source.ended
        if self._early and len(self._finished) == len(self._matchers) and not self.ended:
            # Every choice is finished: stop the generation and report its usage so far.
            self.ended = True
            self.close()
            if self.usage is not None:
                items.append(self.usage)
        return items

    def _limited(self, item: Delta | Finish) -> list[Item]:
        index, matcher = item.index, self._matchers[item.index]
        if isinstance(item, Delta) and item.text:
            remaining = self._remaining[index]
            if remaining:
                self._remaining[index] = remaining - 1
            if remaining != 0:
                return self._before_a_stop(item)
            self._early = True
            item = Finish("length", index)
        if isinstance(item, Finish):
            self._finished.add(index)
            text = matcher.flush()
            return [Delta(text, index), item] if text else [item]
        return [item]

    def _before_a_stop(self, item: Delta) -> list[Item]:
        matcher = self._matchers[item.index]
        text = matcher.feed(item.text)
        if not matcher.matched:
            safe = replace(item, text=text)
            return [safe] if safe != Delta(index=item.index) else []
        self._early = True
        self._finished.add(item.index)
        finish = Finish("stop", item.index, stop=matcher.matched)
        return [Delta(text, item.index), finish] if text else [finish]

    def close(self) -> None:
        self._source.close()
        self.usage = self._source.usage


class Interleaved(Source):
    """Several sources as the choices of one: the items of the i-th source have index i.

    It waits for all of them at once.  Their usage is added up and returned last.
    """

    def __init__(self, sources: Sequence[Source]) -> None:
        self._sources = dict(enumerate(sources))
        self._usage: dict[int, Usage] = {}
        self._failure: Exception | None = None

    def receive(self, timeout: float) -> list[Item]:
        if self._failure is not None:
            raise self._failure
        items = self._collect(0)
        if items or self.ended or timeout <= 0:
            return items
        descriptors = [
            one for source in self._sources.values() if (one := source.fileno()) is not None
        ]
        if len(descriptors) < len(self._sources):  # one cannot be polled: call each in turn
            return self._collect(min(timeout, _TURN) if len(self._sources) > 1 else timeout)
        poll = select.poll()
        for descriptor in descriptors:
            poll.register(descriptor, select.POLLIN)
        poll.poll(timeout * 1000)
        return self._collect(0)

    def _collect(self, timeout: float) -> list[Item]:
        """Return the items of all sources; only the first may wait, up to *timeout* seconds."""
        items: list[Item] = []
        try:
            for index, source in list(self._sources.items()):
                for item in source.receive(timeout):
                    if isinstance(item, Usage):
                        self._usage[index] = item
                    else:
                        item.index = index
                        items.append(item)
                timeout = 0
                if source.ended:
                    source.close()
                    del self._sources[index]
        except Exception as error:
            if not items:
                raise
            self._failure = error
            return items
        if not self._sources and not self.ended:
            self.ended = True
            self.usage = self._total()
            items += [self.usage] if self.usage else []
        return items

    def _total(self) -> Usage | None:
        counted = list(self._usage.values())
        return sum(counted[1:], counted[0]) if counted else None

    def close(self) -> None:
        for index, source in self._sources.items():
            source.close()
            if source.usage is not None:
                self._usage[index] = source.usage
        self.usage = self._total()
