"""The APIs that providers may speak themselves, as streams of their events."""

from __future__ import annotations

import re
from collections.abc import Collection
from dataclasses import dataclass

from ..chat.endings import RESPONSE_ENDINGS
from ..chat.items import Json
from ..chat.schema import check_of, integer, passes
from .reading import CHAT, MESSAGES, RESPONSES, Counts


@dataclass(frozen=True)
class Dialect:
    """An API as a stream of its events.

    *plain* is what the two lines of an event that is never taken apart have between them.  The
    event *first* begins an answer, and those *last* end it.  *member* is where an event has the
    object with ``id``, ``model`` and ``usage``; a document is that object itself.  *counts* says
    what its ``usage`` holds.
    """

    path: str
    plain: bytes = b""
    first: str = ""
    last: Collection[str] = ()
    member: str = ""
    counts: Counts = CHAT


DIALECTS = {
    "responses": Dialect(
        "/responses",
        b".delta\ndata: {",
        "response.created",
        RESPONSE_ENDINGS,
        "response",
        RESPONSES,
    ),
    "messages": Dialect(
        "/messages",
        b"_block_delta\ndata: {",
        "message_start",
        ("message_stop",),
        "message",
        MESSAGES,
    ),
    "input_tokens": Dialect("/responses/input_tokens"),
    "compact": Dialect("/responses/compact", counts=RESPONSES),
    "count_tokens": Dialect("/messages/count_tokens"),
    "completions": Dialect("/completions"),
    "embeddings": Dialect("/embeddings"),
}

#: The events that are about one part of an item, and where they say which.
_PARTS = {
    "content_index": re.compile(r"response\.(content_part|output_text|refusal|reasoning_text)\."),
    "summary_index": re.compile(r"response\.reasoning_summary_"),
}
#: What a response is read from that is kept.
_EVENT = check_of(
    {
        "type!": str,
        "response": {"status": str, "output": [dict]},
        "item": {"id call_id": str, "content summary": [dict]},
        "part": {"text refusal": str},
        "item_id": str,
        "output_index content_index summary_index": integer(0),
    }
)


class Numbering:
    """Numbers the events of one response from 0, in their order, and adds what some leave out.

    llama.cpp's server leaves out numbers and places.  OpenAI's SDK puts an answer together by its
    places; a response that is kept is resumed by its numbers, in which pings leave gaps.
    """

    def __init__(self) -> None:
        self._number = 0
        self._places: dict[str | None, int] = {}  # of the items, by their ids

    def apply(self, event: dict[str, Json]) -> None:
        """Give *event* its number, and the places and lists that it has not.

        Raises ValueError for what no SDK could read.
        """
        if not passes(_EVENT, event):
            raise ValueError("not an event of a response")
        event["sequence_number"] = self._number
        self._number += 1
        item, kind = event.get("item"), event["type"]
        # llama.cpp's calls have no other id.
        id = event.get("item_id") if item is None else item.get("id") or item.get("call_id")
        added: dict[str, Json] = {name: 0 for name, one in _PARTS.items() if one.match(kind)}
        if item is not None or id is not None:
            added["output_index"] = self._places.setdefault(id, len(self._places))
        if kind.startswith("response.output_text."):
            added["logprobs"] = []
        if event.get("response") is not None:
            _add(event["response"], {"status": "in_progress", "output": []})
        _add(event, added)


def _add(holder: dict[str, Json], members: dict[str, Json]) -> None:
    """Add those of *members* that *holder* has not, or has as null."""
    holder.update({name: value for name, value in members.items() if holder.get(name) is None})
