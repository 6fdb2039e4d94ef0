"""Splitting the data of an event in which a server has joined several.

The blank lines or line ends between them are missing, ``data:`` is repeated, or they are a list.
"""

from __future__ import annotations

import re

from ...chat.items import Json, dump
from ...chat.jsontext import check_bounds
from ..reading import decode
from .events import DONE

#: Limit of bytes of such an event.
LONGEST = 512 * 1024
_FIELD = re.compile(r"^\s*(data:\s*)*", re.M)
_BETWEEN = " \t\n,"


def events_in(data: bytes) -> list[bytes]:
    """Return the data of each event joined in *data*; an empty list if it is anything else."""
    if len(data) > LONGEST:
        return []
    text, at = _FIELD.sub("", data.decode("utf-8", "replace")), 0
    values: list[Json] = []
    end: list[bytes] = []
    try:
        check_bounds(text)
        while at < len(text) and not end:
            if DONE.match(text[at : at + 8].encode()):
                end = [b"[DONE]"]
            elif text[at] in _BETWEEN:
                at += 1
            else:
                value, at = decode.raw_decode(text, at)
                values += value if isinstance(value, list) else [value]
    except (ValueError, RecursionError):
        return []
    is_single = len(values) == 1 and not end and data.startswith(b"{")
    if is_single or not all(isinstance(value, dict) for value in values):
        return []
    return [*map(dump, values), *end]
