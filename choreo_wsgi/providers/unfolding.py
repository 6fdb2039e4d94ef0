"""Documents that a provider sends in place of a stream, unfolded into the stream's bytes."""

from __future__ import annotations

from collections.abc import Callable
from itertools import chain

from ..chat import aside, large
from ..chat.items import Json, Marks
from ..chat.jsontext import check_bounds
from ..chat.longtext import restored
from ..errors import UpstreamInvalid
from .reading import most_values, parse_json

#: Bytes in which a document begins, after blanks.
_START = 64


def json_values(body: bytes, marks: int = 0, size: int = 0) -> list[Json]:
    """Return the values in *body*, which is a document, an array or JSON lines; none otherwise.

    *body* may have been shortened from *size* bytes, with so many *marks*.  Raises TooMuch if it
    holds too many values.
    """
    if body[:_START].lstrip()[:1] not in (b"{", b"["):
        return []
    limit = most_values(body, marks, size or len(body))
    check_bounds(body, limit)
    for split in (False, True):
        texts = body.splitlines() if split else [body]
        try:
            values = [
                parse_json(text, limit) for text in texts if text.strip() not in (b"", b"[DONE]")
            ]
        except UpstreamInvalid:
            continue
        return values[0] if len(values) == 1 and isinstance(values[0], list) else values
    return []


def document_values(body: bytes, marks: Marks) -> list[Json]:
    """Return :func:`json_values` of *body*; *marks* gets those of its long strings."""
    short = aside.shorten_into(marks, body)
    return json_values(short, len(marks), len(body))


def unfolded(
    values: list[Json], marks: Marks, frame: Callable[[Json], bytes], end: bytes = b""
) -> bytes:
    """Return each *frame* of *values* with *marks* restored, then *end*; *values* is emptied."""
    values.reverse()
    frames = (frame(values.pop()) for _ in range(len(values)))
    parts = (part for one in frames for part in restored(one, marks))
    return large.join(chain(parts, (end,)))
