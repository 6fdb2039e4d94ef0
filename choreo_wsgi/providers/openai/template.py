"""What the streams of one kind share but for their texts, their id and their time.

The events that begin and finish a model's answers are mostly those of the answer before.  What
became of them then becomes of them again, and nobody needs to take them apart: that is a seventh
of what a short stream costs.
"""

from __future__ import annotations

import re
from collections.abc import Hashable, Mapping

from ...chat.items import Json
from .pattern import SMALL, Pattern, new_pattern

_ID = re.compile(rb'"id":[ ]?"([\w.:/=+-]{8,128})"')
_TIME = re.compile(rb'"created":[ ]?([1-9][0-9]{0,15}),')
#: Bytes from the beginning of an event within which these stand.
_NEAR = 512

# What stands for the id and the time, where the text is, and between parts: bytes that no JSON has.
_BLANK_ID, _BLANK_TIME, HOLE, _BETWEEN = b"\x00", b"\x01", b"\x02", b"\x03"

#: The parts: each as it came and, one place further, as it was sent.
ROLE, TEXT, FINISH = 0, 2, 4

#: The parts of the last stream of each kind, blanked and joined, and its identity.
_KNOWN: dict[Hashable, tuple[bytes, Mapping[str, Json]]] = {}
_MOST = 256


class Template:
    """The parts that a stream has if it begins like the last one of its *kind*.

    A kind is all that decides, beside its bytes, what becomes of a stream's first event.  What
    becomes of the texts and the finish behind that depends on nothing else either, while no call
    begins.  So a part is learned, and looked for, only behind the same first event.
    """

    def __init__(self, kind: Hashable) -> None:
        self._kind = kind
        self._role = b""  # blanked, once it is known
        self._id = self._time = b""
        self.parts = [b""] * 6  # empty: it is not known

    def begin(self, event: bytes) -> dict[str, Json] | None:
        """Return the identity of the stream that *event* begins, None if that is not known."""
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
        """Return the pattern that the texts will probably follow."""
        came, sent = self.parts[TEXT : TEXT + 2]
        if not came:
            return None
        (prefix, suffix), (new_prefix, new_suffix) = came.split(HOLE), sent.split(HOLE)
        return new_pattern(prefix, suffix, new_prefix, new_suffix)

    def learn_role(self, event: bytes, frame: bytes, identity: Mapping[str, Json]) -> None:
        """Learn that the stream began with *event*, of which *frame* was made."""
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

    def learn(self, place: int, came: bytes, sent: bytes) -> None:
        """Learn the part at *place*: *sent* was made of what *came*, with HOLE for the text."""
        known = _KNOWN.get(self._kind)
        blanked = self._blanked(came, sent)
        if self._role and known is not None and blanked is not None:
            parts = known[0].split(_BETWEEN)
            if parts[ROLE] == self._role:  # else another stream has begun otherwise meanwhile
                parts[place : place + 2] = blanked
                _KNOWN[self._kind] = _BETWEEN.join(parts), known[1]

    def _blanked(self, *parts: bytes) -> list[bytes] | None:
        """Return *parts* without the id and the time; None unless both are there once for sure."""
        made = []
        for part in parts:
            blank = part.replace(self._id, _BLANK_ID).replace(self._time, _BLANK_TIME)
            if (
                len(part) > SMALL
                or b"\\" in part  # which could spell the names of these members
                or not part.count(b'"id"') == blank.count(_BLANK_ID) == 1
                or not part.count(b'"created"') == blank.count(_BLANK_TIME) == 1
            ):
                return None
            made.append(blank)
        return made
