"""Templates: the first and last events of a model's streams, which differ in id and time only.

The event with the role and the one with the finish reason are parsed in the first stream.  Both,
and the stream's :class:`~.pattern.Pattern`, are remembered with blanks (here ``<id>`` and
``<time>``) for the members ``id`` and ``created``::

    received  data: {<id>,<time>"model":"m-1","choices":[{"delta":{"role":"assistant"}}]}
    sent      data: {<id>,<time>"model":"fast","choices":[{"delta":{"role":"assistant"}}]}

The next stream of the same *kind* fills in the members of its own first event, such as
``"id":"chatcmpl-B2"`` and ``"created":1700000009,``.  If the result equals the event, the frame to
send is known too, and so are the bytes of the text events and of the finish.  That saves parsing
every event of most streams, a seventh of the cost of a short one.
"""

from __future__ import annotations

import re
from collections.abc import Hashable, Mapping

from ...chat.items import Json
from .pattern import SMALL, Pattern, new_pattern

_ID = re.compile(rb'"id":[ ]?"([\w.:/=+-]{8,128})"')
_TIME = re.compile(rb'"created":[ ]?([1-9][0-9]{0,15}),')
#: Bytes at the beginning of an event in which these members are searched for.
_NEAR = 512

# Placeholders of the id, the time and the text, and the separator of parts: not allowed in JSON.
_BLANK_ID, _BLANK_TIME, HOLE, _BETWEEN = b"\x00", b"\x01", b"\x02", b"\x03"

#: The index of each part as received; the same part as sent follows it.
ROLE, TEXT, FINISH = 0, 2, 4

#: The parts of the latest stream of each kind, blanked and joined, and its identity.
_KNOWN: dict[Hashable, tuple[bytes, Mapping[str, Json]]] = {}
_MOST = 256


class Template:
    """The parts of a stream that begins like the latest one of the same *kind*.

    A kind is all that decides how a stream's first event is mended, besides the event's bytes.
    The same is true of the texts and the finish after that event, unless a tool call begins.  So
    a part is learned and used only after the same first event.
    """

    def __init__(self, kind: Hashable) -> None:
        self._kind = kind
        self._role = b""  # the blanked first event, once known
        self._id = self._time = b""
        self.parts = [b""] * 6  # an unknown part is empty

    def begin(self, event: bytes) -> dict[str, Json] | None:
        """Return the identity of the stream whose first event is *event*, None if unknown."""
        known = _KNOWN.get(self._kind)
        id, time = _ID.search(event, 0, _NEAR), _TIME.search(event, 0, _NEAR)
        if known is None or id is None or time is None:
            return None
        parts, identity = known
        self.parts = parts.replace(_BLANK_ID, id[0]).replace(_BLANK_TIME, time[0]).split(_BETWEEN)
        if event != self.parts[ROLE]:
            self.parts = [b""] * 6
            return None
        self._id, self._time = id[0], time[0]
        self._role = parts[: parts.find(_BETWEEN)]
        return {**identity, "id": id[1].decode(), "created": int(time[1])}

    def pattern(self) -> Pattern | None:
        """Return the pattern that the text events will probably follow, None if unknown."""
        received, sent = self.parts[TEXT : TEXT + 2]
        if not received:
            return None
        (prefix, suffix), (new_prefix, new_suffix) = received.split(HOLE), sent.split(HOLE)
        return new_pattern(prefix, suffix, new_prefix, new_suffix)

    def learn_role(self, event: bytes, frame: bytes, identity: Mapping[str, Json]) -> None:
        """Remember that the stream began with *event*, which was sent as *frame*."""
        id, time = _ID.search(event, 0, _NEAR), _TIME.search(event, 0, _NEAR)
        if id is None or time is None:
            return
        if (identity["id"], identity["created"]) == (id[1].decode(), int(time[1])):
            self._id, self._time = id[0], time[0]
            blanked = self._blanked(event, frame)
            if blanked is not None:
                self._role = blanked[0]
                if len(_KNOWN) >= _MOST:
                    _KNOWN.clear()
                _KNOWN[self._kind] = _BETWEEN.join([*blanked, *[b""] * 4]), identity

    def learn(self, index: int, received: bytes, sent: bytes) -> None:
        """Remember the part at *index*, *received* and *sent* with HOLE for the text."""
        known = _KNOWN.get(self._kind)
        blanked = self._blanked(received, sent)
        if self._role and known is not None and blanked is not None:
            parts = known[0].split(_BETWEEN)
            if parts[ROLE] == self._role:  # no other stream has replaced the first event
                parts[index : index + 2] = blanked
                _KNOWN[self._kind] = _BETWEEN.join(parts), known[1]

    def _blanked(self, *parts: bytes) -> list[bytes] | None:
        """Return *parts* with blanks; None if a part may not contain id and time exactly once."""
        result = []
        for part in parts:
            blank = part.replace(self._id, _BLANK_ID).replace(self._time, _BLANK_TIME)
            if (
                len(part) > SMALL
                or b"\\" in part  # may escape a letter of "id" or "created"
                or not part.count(b'"id"') == blank.count(_BLANK_ID) == 1
                or not part.count(b'"created"') == blank.count(_BLANK_TIME) == 1
            ):
                return None
            result.append(blank)
        return result
