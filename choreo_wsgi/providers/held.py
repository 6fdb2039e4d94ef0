"""The data of long events, parsed while they are still bytes.

As one string, data with a single emoji would take four times its bytes.  So its value is kept, and
a short string stands for it until the event is read.
"""

from __future__ import annotations

from collections.abc import Callable

from ..chat import aside, jsontext
from ..chat.items import Json, Marks
from ..chat.longtext import LONG
from ..errors import UpstreamInvalid
from ..ids import keep
from .reading import most_values, unknown_shape
from .weight import most_marks

#: Parsed values, or the errors of parsing them, by the strings that stand for them.
Held = dict[str, Json]


def shorten_event(marks: Marks, data: bytes) -> bytes:
    """Return *data*, of an event, shortened; the new marks are added to *marks*.

    Raises UpstreamInvalid if it has too many values, with its long strings.
    """
    before = len(marks)
    try:
        short = aside.shorten_into(marks, data, most_marks(len(data)))
        if new := len(marks) - before:
            jsontext.check_bounds(short, most_values(short, new, len(data)))
    except jsontext.TooMuch as error:
        raise unknown_shape(error) from error
    return short


def hold(
    held: Held, shorten: Callable[[bytes], bytes], parse: Callable[[bytes], Json], data: bytes
) -> bytes:
    """Return *data*, of an event, shortened; if it is still long, add its value to *held*."""
    value: Json
    try:
        short = shorten(data)
        if len(short) <= LONG:
            return short
        value = parse(short)
    except UpstreamInvalid as error:
        value = error
    return keep(held, value)


def taken(held: Held, name: str) -> Json:
    """Remove and return the value of *name*; raises its error."""
    value = held.pop(name)
    if isinstance(value, UpstreamInvalid):
        raise value
    return value
