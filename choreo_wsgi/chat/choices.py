"""What is done here for providers that cannot: several choices, stop strings, a limit."""

from __future__ import annotations

import select
from collections.abc import Iterator, Sequence
from dataclasses import replace

from ..errors import InvalidRequest
from .items import Delta, Finish, Item, Usage
from .source import Delegating, Source

#: Characters of the longest stop string that can be looked for here.
LONGEST_STOP = 1000

# Seconds that one of several sources without a file descriptor may hold up the others.
_TURN = 0.02


class StopMatcher:
    """Passes text through until one of *stops* is complete, and never a part of one.

    The stop string that is complete first ends the text, the longest of several that are
    complete at once.  The end of the text that could be the beginning of a stop string is
    held back until more text decides.
    """

    def __init__(self, stops: Sequence[str]) -> None:
        self._stops = [stop for stop in stops if stop]
        self._held = ""
        #: The stop string that ended the text.
        self.matched = ""

    def feed(self, text: str) -> str:
        """Return what of the text so far may be shown now; sets ``matched`` at a stop string.

        To be called no more after that.
        """
        text = self._held + text
        found = [(at + len(stop), at, stop) for stop in self._stops if (at := text.find(stop)) >= 0]
        if found:
            _, at, self.matched = min(found)
            self._held = ""
            return text[:at]
        shown = min((_beginning(stop, text) for stop in self._stops), default=len(text))
        self._held = text[shown:]
        return text[:shown]

    def flush(self) -> str:
        """Return what was held back, at the end of the text."""
        held, self._held = self._held, ""
        return held


def _beginning(stop: str, text: str) -> int:
    """Return where the longest end of *text* begins that *stop* could go on from."""
    at = text.find(stop[0], max(0, len(text) - len(stop) + 1))
    while at >= 0 and not stop.startswith(text[at:]):
        at = text.find(stop[0], at + 1)
    return at if at >= 0 else len(text)


class Shortened(Delegating, Source):
    """*source*, each choice of which ends before a stop string or with ``length`` at a limit.

    *limit* counts pieces of text.  Raises InvalidRequest for a stop string over
    :data:`LONGEST_STOP`.
    """

    _source: Source

    def __init__(
        self,
        source: Source,
        stops: Sequence[str] = (),
        limit: int | None = None,
        choices: int = 1,
    ) -> None:
        if any(len(stop) > LONGEST_STOP for stop in stops):
            source.close()
            raise InvalidRequest(
                f"this model takes stop strings of at most {LONGEST_STOP} characters", param="stop"
            )
        self._source = source
        self._left = dict.fromkeys(range(choices), limit)
        self._matchers = {index: StopMatcher(stops) for index in range(choices)}
        self._finished: set[int] = set()
        self._early = False  # whether a choice was ended before its source did

    def receive(self, timeout: float) -> list[Item]:
        """Return what may be shown of what came within *timeout* seconds."""
        items: list[Item] = []
        for item in self._source.receive(timeout):
            if isinstance(item, Usage):
                items.append(item)
            elif item.index not in self._finished:
                items += self._shown(item)
        self.ended = self._source.ended
        if self._early and len(self._finished) == len(self._matchers) and not self.ended:
            # Nothing more can be shown: end the generation, tell what it has cost so far.
            self.ended = True
            self.close()
            if self.usage is not None:
                items.append(self.usage)
        return items

    def _shown(self, item: Delta | Finish) -> list[Item]:
        index, matcher = item.index, self._matchers[item.index]
        if isinstance(item, Delta) and item.text:
            left = self._left[index]
            if left:
                self._left[index] = left - 1
            if left != 0:
                return self._before_a_stop(item)
            self._early = True
            item = Finish("length", index)
        if isinstance(item, Finish):
            self._finished.add(index)
            held = matcher.flush()
            return [Delta(held, index), item] if held else [item]
        return [item]

    def _before_a_stop(self, item: Delta) -> list[Item]:
        matcher = self._matchers[item.index]
        text = matcher.feed(item.text)
        if not matcher.matched:
            shown = replace(item, text=text)
            return [shown] if shown != Delta(index=item.index) else []
        self._early = True
        self._finished.add(item.index)
        finish = Finish("stop", item.index, stop=matcher.matched)
        return [Delta(text, item.index), finish] if text else [finish]

    def close(self) -> None:
        self._source.close()
        self.usage = self._source.usage


class Interleaved(Source):
    """Several sources as the choices of one: the items of the i-th get index i.

    They wait together, so that none holds up another.  Usage is summed and comes last.
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
        if len(descriptors) < len(self._sources):  # only asking tells: none may hold up the others
            return self._collect(min(timeout, _TURN) if len(self._sources) > 1 else timeout)
        poll = select.poll()
        for descriptor in descriptors:
            poll.register(descriptor, select.POLLIN)
        poll.poll(timeout * 1000)
        return self._collect(0)

    def _collect(self, timeout: float) -> list[Item]:
        """Ask each source for what it has; the first waits up to *timeout* for it."""
        items: list[Item] = []
        try:
            for index, source in list(self._sources.items()):
                items += self._numbered(index, source.receive(0 if items else timeout))
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

    def _numbered(self, index: int, items: list[Item]) -> Iterator[Item]:
        for item in items:
            if isinstance(item, Usage):
                self._usage[index] = item
            else:
                item.index = index
                yield item

    def _total(self) -> Usage | None:
        counted = list(self._usage.values())
        return sum(counted[1:], counted[0]) if counted else None

    def close(self) -> None:
        for index, source in self._sources.items():
            source.close()
            if source.usage is not None:
                self._usage[index] = source.usage
        self.usage = self._total()
