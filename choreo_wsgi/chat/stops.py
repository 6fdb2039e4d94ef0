"""Stop strings: ends a text before the first of them, wherever the pieces of it are cut."""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Sequence


class StopMatcher:
    """Passes text through until one of *stops* is complete, and never a part of one.

    The text is read from left to right: the stop string that is complete first ends it, the
    longest of several that are complete at once.  What could be the beginning of a stop
    string is held back until more text decides.

    A step for each character, whatever the stop strings are (Knuth, Morris and Pratt): a
    stop string may be as long as a request.
    """

    def __init__(self, stops: Sequence[str]) -> None:
        self._stops = [_Stop(stop) for stop in stops if stop]
        firsts = "".join({stop.text[0] for stop in self._stops})
        self._begin = re.compile(f"[{re.escape(firsts)}]") if firsts else None
        self._held: deque[str] = deque()
        self._held_length = 0
        self.matched = False

    def feed(self, text: str) -> str:
        """Return what of the text so far may be shown now; sets ``matched`` at a stop string.

        To be called no more after that.
        """
        if self._begin is None:
            return text
        end = self._read(text)
        self._held.append(text)
        self._held_length += len(text)
        if end is None:
            return self._release(self._held_length - max(stop.matched for stop in self._stops))
        self.matched = True
        length = max(len(stop.text) for stop in self._stops if stop.complete)
        shown = self._release(self._held_length - (len(text) - end) - length)
        self._held.clear()
        self._held_length = 0
        return shown

    def flush(self) -> str:
        """Return what was held back, at the end of the text."""
        return self._release(self._held_length)

    def _read(self, text: str) -> int | None:
        """Return the place in *text* behind the first stop string to be complete, or None."""
        assert self._begin is not None
        at = 0
        idle = not any(stop.matched for stop in self._stops)
        while at < len(text):
            if idle:  # nothing is begun: go on to where something could be
                found = self._begin.search(text, at)
                if found is None:
                    return None
                at = found.start()
            char = text[at]
            at += 1
            idle, complete = True, False
            for stop in self._stops:
                if stop.step(char):
                    idle = False
                    complete = complete or stop.complete
            if complete:
                return at
        return None

    def _release(self, count: int) -> str:
        """Return the first *count* characters of what is held."""
        self._held_length -= count
        parts: list[str] = []
        while count:
            part = self._held.popleft()
            if len(part) > count:
                self._held.appendleft(part[count:])
                part = part[:count]
            parts.append(part)
            count -= len(part)
        return "".join(parts)


class _Stop:
    """One stop string, and how many of its characters the text read so far ends with."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.matched = 0
        #: For each beginning of the text, the longest shorter one that it ends with; made
        #: only as far as the text read has matched.
        self._borders = [0]

    @property
    def complete(self) -> bool:
        return self.matched == len(self.text)

    def step(self, char: str) -> int:
        """Take the next character; return what ``matched`` is now."""
        matched = self.matched
        while matched and self.text[matched] != char:
            matched = self._border(matched)
        if self.text[matched] == char:
            matched += 1
        self.matched = matched
        return matched

    def _border(self, length: int) -> int:
        text, borders = self.text, self._borders
        while len(borders) < length:
            border = borders[-1]
            while border and text[border] != text[len(borders)]:
                border = borders[border - 1]
            borders.append(border + (text[border] == text[len(borders)]))
        return borders[length - 1]
