"""The APIs that upstreams may speak themselves: their paths, events and counts."""

from __future__ import annotations

import re
from collections.abc import Collection
from dataclasses import dataclass

from ..chat.endings import RESPONSE_ENDINGS
from ..chat.items import Json
from ..chat.schema import check_of, integer, passes
from .reading import CHAT, Counts, openai_counts

#: Anthropic's ``input_tokens`` do not include cached ones, so those are added.
MESSAGES = Counts(
    *("input_tokens cache_creation_input_tokens cache_read_input_tokens", "output_tokens"),
    cached="cache_read_input_tokens",
    cache_write="cache_creation_input_tokens",
    reasoning="output_tokens_details.thinking_tokens",
)
RESPONSES = openai_counts("input", "output")


@dataclass(frozen=True)
class Dialect:
    """An API and the form of its events.

    *plain* ends the head (``event: TYPE``, ``data: {``) of each event that is forwarded unparsed.
    An answer begins with the event *first* and ends with one of *last*.  *member* is the member of
    an event that holds the object with ``id``, ``model`` and ``usage``; a document is that object
    itself.  *counts* reads the ``usage``.
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

#: The member that has the index of a part, and the types of the events that need it.
_PARTS = {
    "content_index": re.compile(r"response\.(content_part|output_text|refusal|reasoning_text)\."),
    "summary_index": re.compile(r"response\.reasoning_summary_"),
}
#: The members of an event from which a stored response is read.
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
    """Numbers the events of one response from 0 and adds the members that some servers omit.

    llama.cpp's server omits sequence numbers and indexes.  OpenAI's SDK assembles an answer by its
    indexes.  A stored response is resumed by its numbers, so the gaps that pings leave are closed.
    The ids of its items get the id *stored*, by which references to them are resolved.
    """

    def __init__(self, stored: str = "") -> None:
        self._number = 0
        self._stored = stored.removeprefix("resp_")
        self._indexes: dict[str | None, int] = {}  # of the items, by their ids

    def apply(self, event: dict[str, Json]) -> None:
        """Set the number of *event* and add the indexes and lists that it lacks.

        Raises ValueError for an event that no SDK could read.
        """
        if not passes(_EVENT, event):
            raise ValueError("not an event of a response")
        event["sequence_number"] = self._number
        self._number += 1
        item, kind = event.get("item"), event["type"]
        # llama.cpp's function calls have a call_id only.
        id = event.get("item_id") if item is None else item.get("id") or item.get("call_id")
        added: dict[str, Json] = {name: 0 for name, one in _PARTS.items() if one.match(kind)}
        if item is not None or id is not None:
            added["output_index"] = self._indexes.setdefault(id, len(self._indexes))
        if kind.startswith("response.output_text."):
            added["logprobs"] = []
        response = event.get("response")
        if response is not None:
            status = kind.removeprefix("response.") if kind in RESPONSE_ENDINGS else "in_progress"
            _add_missing(response, {"status": status, "output": []})
        _add_missing(event, added)
        if self._stored:
            self._extend(event, "item_id", event.get("output_index"))
            self._extend(item or {}, "id", event.get("output_index"))
            for at, one in enumerate(response["output"] if response is not None else ()):
                self._extend(one, "id", at)

    def _extend(self, holder: dict[str, Json], name: str, index: Json) -> None:
        if isinstance(holder.get(name), str):
            holder[name] += f"_{self._stored}_{index}"


def _add_missing(holder: dict[str, Json], members: dict[str, Json]) -> None:
    """Add those of *members* to *holder* that are missing or null there."""
    holder.update({name: value for name, value in members.items() if holder.get(name) is None})


def run_of(data: bytes, at: int, head: bytes) -> bytes:
    """Return the events in *data* from *at* to the last that begins with *head*.

    Returns ``b""`` if there are other events between them, or they are not UTF-8.  With the bytes
    at the border of two events removed they must look like a single event: the fastest check.
    """
    between = b"}\n\n" + head
    run = data[at : data.find(b"\n\n", max(at, data.rfind(between, at)) + 3) + 2]
    one = run.replace(between, b"")
    is_one = one.endswith(b"}\n\n") and one.count(b"\n") == 3 and b"\r" not in one
    is_text = run.isascii() or run.decode("utf-8", "ignore").encode() == run
    return run if is_one and is_text else b""
