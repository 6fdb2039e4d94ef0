"""Documents that a provider sends in place of a stream, unfolded into the stream's bytes."""

from __future__ import annotations

from collections.abc import Callable
from itertools import chain

from ..chat import aside, large
from ..chat.cutting import on_one_line
from ..chat.items import Json, Marks
from ..chat.jsontext import check_bounds
from ..errors import UpstreamInvalid
from .reading import most_values, parse_json
from .weight import most_marks

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
    short = aside.shorten_into(marks, body, most_marks(len(body)))
    marks |= on_one_line(marks)
    return json_values(short, len(marks), len(body))


def unfolded(
    values: list[Json],
    marks: Marks,
    head: Callable[[Json], bytes] = lambda _: b"data: ",
    end: bytes = b"\n\n",
    last: bytes = b"",
) -> bytes:
    """Return *values*, with *marks* restored, each after its *head* and before *end*, and *last*.

    *values* is emptied.
    """
    values.reverse()
    taken = (values.pop() for _ in range(len(values)))
    parts = (chain((head(one),), large.restored_parts(one, marks), (end,)) for one in taken)
    return large.join(chain(chain.from_iterable(parts), (last,)))
