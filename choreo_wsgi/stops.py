"""Stop strings: ends a text before the first of them, wherever the pieces of it are cut."""

from __future__ import annotations

from collections.abc import Sequence


class StopMatcher:
    """Passes text through until one of *stops* occurs, and never a part of one.

    What could be the beginning of a stop string is held back until the next piece decides.
    """

    def __init__(self, stops: Sequence[str]) -> None:
        self._stops = tuple(stop for stop in stops if stop)
        self._longest = max(map(len, self._stops), default=0)
        self._held = ""
        self.matched = False

    def feed(self, text: str) -> str:
        """Return what of the text so far may be shown now; sets ``matched`` at a stop string."""
        text = self._held + text
        places = [at for stop in self._stops if (at := text.find(stop)) >= 0]
        if places:
            self.matched = True
            self._held = ""
            return text[: min(places)]
        held = self._overlap(text)
        self._held = text[len(text) - held :]
        return text[: len(text) - held]

    def flush(self) -> str:
        """Return what was held back, at the end of the text."""
        text, self._held = self._held, ""
        return text

    def _overlap(self, text: str) -> int:
        """Return the length of the longest end of *text* that begins a stop string."""
        for length in range(min(self._longest - 1, len(text)), 0, -1):
            end = text[-length:]
            if any(stop.startswith(end) for stop in self._stops):
                return length
        return 0
