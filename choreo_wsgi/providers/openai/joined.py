"""Events of a stream that a server has joined to one.

They lack the blank lines, or all line ends, between them, are a list, or say ``data:`` twice.
"""

from __future__ import annotations

import re

from ...chat.items import Json, dump
from ...chat.jsontext import check_bounds
from ..reading import decode
from .events import DONE

_FIELD = re.compile(r"^\s*(data:\s*)*", re.M)
_BETWEEN = " \t\n,"


def events_in(data: bytes) -> list[bytes]:
    """Return the data of the events in *data*, which is no chunk; none for something else."""
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
    alone = len(values) == 1 and not end and data.startswith(b"{")
    if alone or not all(isinstance(value, dict) for value in values):
        return []
    return [*map(dump, values), *end]
