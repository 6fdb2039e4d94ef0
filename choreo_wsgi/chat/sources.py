"""Sources made of other things: an iterable, n sources at once, a source that is cut short."""

from __future__ import annotations

import select
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace

from .items import Delta, Finish, Item, Usage
from .source import Source
from .stops import StopMatcher

# Seconds that one of several sources without a file descriptor may hold up the others.
_TURN = 0.02


def from_deltas(deltas: Iterable[Item]) -> Source:
    """Return a source that hands over the items of *deltas* one by one.

    A choice that gets no :class:`Finish` ends with ``stop``.  An iterable that waits for
    something holds its stream up meanwhile: no ping is sent, and a client that left is
    noticed at the next item only.
    """
    return _Iterated(iter(deltas))


class _Iterated(Source):
    def __init__(self, items: Iterator[Item]) -> None:
        self._items = items
        self._open: dict[int, None] = {0: None}
        self._finished: set[int] = set()

    def receive(self, timeout: float) -> list[Item]:
        if self.ended:
            return []
        try:
            item = next(self._items, None)
        except Exception:
            self.ended = True  # an iterator that raised looks exhausted when asked again
            raise
        if item is None:
            self.ended = True
            return [Finish("stop", index) for index in self._open if index not in self._finished]
        if isinstance(item, Finish):
            self._finished.add(item.index)
        elif isinstance(item, Delta):
            self._open[item.index] = None
        return [item]

    def close(self) -> None:
        self.ended = True
        close = getattr(self._items, "close", None)
        if close is not None:
            close()


class _Cut(Source):
    """*source*, each choice of which may be ended early by :meth:`_pass`."""

    def __init__(self, source: Source, choices: int) -> None:
        self._source = source
        self._choices = choices
        self._finished: set[int] = set()

    def receive(self, timeout: float) -> list[Item]:
        items: list[Item] = []
        for item in self._source.receive(timeout):
            if isinstance(item, Usage):
                items.append(item)
            elif item.index not in self._finished:
                items += self._pass(item)
                if items and isinstance(items[-1], Finish):
                    self._finished.add(item.index)
        self.ended = self._source.ended
        if len(self._finished) == self._choices and not self.ended and self._early:
            self._stop(items)
        return items

    #: Whether a choice was ended before its source did.
    _early = False

    def _stop(self, items: list[Item]) -> None:
        """Nothing more can be shown: end the generation, tell what it has cost so far."""
        self.ended = True
        self.close()
        if self.usage is not None:
            items.append(self.usage)

    def _pass(self, item: Delta | Finish) -> list[Item]:
        """Return what of *item* may be shown, ending with a Finish to end the choice."""
        raise NotImplementedError

    def fileno(self) -> int | None:
        return self._source.fileno()

    def close(self) -> None:
        self._source.close()
        self.usage = self._source.usage


class Stopped(_Cut):
    """*source*, each choice of which ends before the first of the *stops* strings."""

    def __init__(self, source: Source, stops: Sequence[str], choices: int = 1) -> None:
        super().__init__(source, choices)
        self._matchers = {index: StopMatcher(stops) for index in range(choices)}

    def _pass(self, item: Delta | Finish) -> list[Item]:
        matcher = self._matchers[item.index]
        if isinstance(item, Finish):
            held = matcher.flush()
            return [Delta(held, item.index), item] if held else [item]
        if not item.text:
            return [item]
        shown = replace(item, text=matcher.feed(item.text))
        if not matcher.matched:
            return [shown] if shown != Delta(index=item.index) else []
        self._early = True
        shown = Delta(shown.text, item.index)
        return [*([shown] if shown.text else []), Finish("stop", item.index)]


class Limited(_Cut):
    """*source*, each choice of which ends with ``length`` after *limit* pieces of text."""

    def __init__(self, source: Source, limit: int, choices: int = 1) -> None:
        super().__init__(source, choices)
        self._left = dict.fromkeys(range(choices), limit)

    def _pass(self, item: Delta | Finish) -> list[Item]:
        if isinstance(item, Finish) or not item.text:
            return [item]
        if self._left[item.index] == 0:
            self._early = True
            return [Finish("length", item.index)]
        self._left[item.index] -= 1
        return [item]


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
        if not items and not self.ended and timeout > 0:
            self._wait(timeout)
            items = self._collect(0 if self._polled() else self._turn(timeout))
        return items

    def _turn(self, timeout: float) -> float:
        return min(timeout, _TURN) if len(self._sources) > 1 else timeout

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

    def _polled(self) -> bool:
        return all(source.fileno() is not None for source in self._sources.values())

    def _wait(self, timeout: float) -> None:
        """Wait until one of the sources has something, where file descriptors can tell."""
        if not self._polled():
            return
        poll = select.poll()
        for source in self._sources.values():
            descriptor = source.fileno()
            assert descriptor is not None
            poll.register(descriptor, select.POLLIN)
        poll.poll(timeout * 1000)

    def close(self) -> None:
        for index, source in self._sources.items():
            source.close()
            if source.usage is not None:
                self._usage[index] = source.usage
        self.usage = self._total()
