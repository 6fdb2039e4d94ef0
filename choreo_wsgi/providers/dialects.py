"""The APIs that providers may speak themselves, as streams of their events."""

from __future__ import annotations

import re
from collections.abc import Collection
from dataclasses import dataclass

from ..chat.endings import RESPONSE_ENDINGS
from ..chat.items import Json
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


class Numbering:
    """Numbers the events of one response from 0, in their order, and adds what some leave out.

    llama.cpp's server leaves out numbers and places.  OpenAI's SDK puts an answer together by its
    places; a response that is kept is resumed by its numbers, in which pings leave gaps.
    """

    def __init__(self) -> None:
        self._number = 0
        self._places: dict[str | None, int] = {}  # of the items, by their ids

    def apply(self, event: dict[str, Json]) -> None:
        """Give *event* its number, and the places and lists that it has not."""
        event["sequence_number"] = self._number
        self._number += 1
        kind = str(event.get("type"))
        item = event.get("item")
        id = item.get("id") if isinstance(item, dict) else event.get("item_id")
        if item is not None or id is not None:
            event.setdefault("output_index", self._places.setdefault(id, len(self._places)))
        for name, pattern in _PARTS.items():
            if pattern.match(kind):
                event.setdefault(name, 0)
        if kind.startswith("response.output_text."):
            event.setdefault("logprobs", [])
        if isinstance(response := event.get("response"), dict):
            response.setdefault("output", [])
