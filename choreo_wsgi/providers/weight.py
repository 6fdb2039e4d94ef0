"""How many values and long strings a long event may have, by the memory that they take.

The process may grow by four times the bytes of an event, or by as much as for one of two megabytes;
of the former a tenth is spare.  The event and the frames made of it take twice its bytes; its
values share the rest.
"""

from __future__ import annotations

import re

from ..chat.longtext import WINDOW

#: Bytes of memory for a value, for a mark, and at most for what makes a short string wide.
_OF_VALUE, _OF_MARK, _OF_WIDE = 120, 1_000, 300
#: An event may take so many times its bytes, or at least so much; the event and its frames take
#: so many times its bytes, and _RESERVE bytes are left for the rest.
_FACTOR, _LEAST, _COPIES, _RESERVE = 3.6, 8 * 1024 * 1024, 2, 700_000
#: As many values are always allowed.
_FEWEST_VALUES = 1_000
_HIGH_SURROGATE = re.compile(rb"\\u[dD][89abAB]")
_FOUR_BYTES, _TWO_BYTES = bytes(range(0xF0, 0xF5)), bytes(range(0xC4, 0xF0))


def _room(size: int) -> int:
    """Return how much memory the values of an event of *size* bytes may take."""
    return max(int(_FACTOR * size), _LEAST) - _COPIES * size - _RESERVE


def most_marks(size: int) -> int:
    """Return the limit of long strings that are set aside from an event of *size* bytes."""
    return max(_room(size), 0) // _OF_MARK


def limited(values: int, text: str | bytes, marks: int, size: int) -> int:
    """Return how many of *values* fit in the room of *text*; see :func:`.reading.most_values`."""
    taken = len(text) + _OF_MARK * marks + _widening(text)
    left = _room(max(size, len(text))) - taken
    return max(min(values, left // _OF_VALUE), _FEWEST_VALUES)


def _widening(text: str | bytes) -> int:
    """Return at most how many bytes wide characters add to the strings of *text*."""
    if isinstance(text, str):
        return 0
    four = _count(text, _FOUR_BYTES) + sum(1 for _ in _HIGH_SURROGATE.finditer(text))
    two = _count(text, _TWO_BYTES) + text.count(rb"\u")
    size = len(text)
    return min(_OF_WIDE * four, 3 * (size - 4 * four)) + min(_OF_WIDE * two, size - 2 * two)


def _count(text: bytes, some: bytes) -> int:
    windows = (text[at : at + WINDOW] for at in range(0, len(text), WINDOW))
    return sum(len(window) - len(window.translate(None, some)) for window in windows)
