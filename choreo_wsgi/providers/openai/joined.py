"""Splitting the data of an event in which a server has joined several.

The blank lines or line ends between them are missing, ``data:`` is repeated, or they are a list.
"""

from __future__ import annotations

import re

from ...chat.jsontext import check_bounds
from ..reading import decode, most_values
from .events import DONE

#: Limit of bytes of such an event.
LONGEST = 512 * 1024
_FIELD = re.compile(r"^\s*(data:\s*)*", re.M)
_BETWEEN = " \t\n,[]"


def events_in(data: bytes) -> list[bytes]:
    """Return the data of each event joined in *data*; an empty list if it is anything else."""
    if len(data) > LONGEST:
        return []
    text, at = _FIELD.sub("", data.decode("latin-1")), 0  # a character is a byte
    events: list[bytes] = []
    try:
        check_bounds(text, most_values(data))
        while at < len(text):
            if DONE.match(text[at : at + 8].encode("latin-1")):
                return [*events, b"[DONE]"]
            if text[at] in _BETWEEN:
                at += 1
                continue
            value, end = decode.raw_decode(text, at)
            if not isinstance(value, dict):
                return []
            events.append(text[at:end].encode("latin-1"))
            at = end
    except (ValueError, RecursionError):
        return []
    return [] if len(events) == 1 and data.startswith(b"{") else events
