"""The shape that most events of a stream share, found once and then recognised in bulk.

Events of one answer are alike but for one string, the text: ``PREFIX text SUFFIX``.  Once
an event was taken apart and put together again, a :class:`Pattern` does the same to all
that look like it, hundreds at a time, without parsing them.

Two rules keep that safe.  A pattern passes only what a JSON parser would accept in that place,
and it is learned only when putting another text into the place changes nothing else: so the
string is the delta's own, and what was done to the event depended on nothing but the event.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from operator import itemgetter

from ...chat.items import Json

#: Where a JSON string begins and ends, by the member that holds it.  Each byte of it can be
#: matched in one way only, so that a long string costs no memory.
_STRINGS = {
    key: re.compile(rb'"%b":[ ]?"([^"\\\x00-\x1f]*(?:\\.[^"\\\x00-\x1f]*)*)"' % key.encode())
    for key in ("content", "reasoning_content", "reasoning", "arguments")
}
_ESCAPE = re.compile(rb'\\(?:["\\/bfnrt]|u[0-9A-Fa-f]{4})')
#: What stands in a JSON string as an escape only.
SPECIAL = bytes(range(32)) + b'"\\'
# Long enough to be rare in text, short enough for the fast way of finding it.
_SEPARATOR = 12
#: Longest event that is learned from, and longest block that is looked at as one event first.
SMALL = 4096
_HOLE = "\x7f<hole>\x7f"
_HOLE_JSON = _HOLE.encode()
#: Patterns kept: as many as choices that take turns.
_MOST = 8


@dataclass(slots=True)
class Pattern:
    """Events that are *prefix*, a JSON string's inside, *suffix*, and what becomes of them.

    *prefix* begins an event's first line and *suffix* ends with the blank line; *new_prefix* and
    *new_suffix* stand in their places afterwards.  *seen*, if given, is told the texts.
    """

    prefix: bytes
    suffix: bytes
    new_prefix: bytes
    new_suffix: bytes
    separator: bytes
    _between: bytes
    _new_between: bytes
    _behind: Callable[[bytes], bytes] = field(compare=False)  # what follows _between
    seen: Callable[[bytes], None] | None = field(default=None, compare=False)

    def apply(self, block: bytes) -> bytes | None:
        """Return *block*, whole events, rewritten; None if any of them is different."""
        if not block.startswith(self.prefix):
            return None
        # At the pace of a model there is one event at a time, of plain text mostly: this way
        # takes a third of the time of the other.  "make bench" shows it as "paced".
        if len(block) < SMALL and block.endswith(self.suffix, len(self.prefix)):
            text = block[len(self.prefix) : -len(self.suffix)]
            if text.isascii() and len(text.translate(None, SPECIAL)) == len(text):
                if self.seen is not None:
                    self.seen(text)
                return self.new_prefix + text + self.new_suffix
        pieces = block.split(self.separator)
        if pieces.pop() != self.suffix[len(self.separator) :]:
            return None
        first, *others = pieces
        if len(first) < len(self.prefix):
            return None  # a separator that begins inside of the prefix
        texts = [first[len(self.prefix) :]]
        if others:
            # All begin with the same bytes if the least and the greatest of them do: two passes
            # at the speed of memory instead of one call an event ("make bench", "burst").
            between = self._between
            if not (min(others).startswith(between) and max(others).startswith(between)):
                return None
            texts += map(self._behind, others)
        joined = b"".join(texts)
        if not _inside_strings(texts, joined):
            return None
        texts[0] = self.new_prefix + texts[0]
        texts[-1] += self.new_suffix
        result = self._new_between.join(texts)
        if not result.isascii():
            try:
                result.decode("utf-8")
            except UnicodeDecodeError:
                return None
        if self.seen is not None:
            self.seen(joined)
        return result


def _inside_strings(texts: list[bytes], joined: bytes) -> bool:
    """Whether each of *texts*, together *joined*, is the inside of a JSON string."""
    if b"\\" in joined:
        # What is between the texts keeps an escape that is cut from going on in the next.
        joined = _ESCAPE.sub(b"", b"\x7f".join(texts))
    return len(joined.translate(None, SPECIAL)) == len(joined)


class Patterns:
    """The patterns of one stream, the latest first, and what may become one.

    An event is learned from when the second of its kind comes: a stream that has no pattern,
    because each event is padded at random, costs one search an event and no more.
    """

    def __init__(self) -> None:
        self.known: list[Pattern] = []
        self._candidates: dict[tuple[bytes, bytes], None] = {}

    def forget(self) -> None:
        """Forget all: what may come next is not what came before."""
        self.known = []
        self._candidates.clear()

    def see(
        self, raw: bytes, chunk: Json, frame: bytes, seen: Callable[[bytes], None] | None
    ) -> Pattern | None:
        """Look at the event *raw*, JSON, of which *chunk*, of one choice, was made.

        It was sent as *frame*.  Returns the pattern that could be learned, which is told *seen*.
        """
        found = _find(raw, chunk) if len(raw) <= SMALL else None
        if found is None:
            return None
        holder, key, match = found
        head, tail = raw[: match.start(1)], raw[match.end(1) :]
        if (head, tail) not in self._candidates:
            if len(self._candidates) >= _MOST:
                del self._candidates[next(iter(self._candidates))]
            self._candidates[head, tail] = None
            return None
        sent = frame[6:-2]
        again = [match.span(1) for match in _STRINGS[key].finditer(sent)]
        if len(again) != 1:
            return None
        start, end = again[0]
        new_head, new_tail = sent[:start], sent[end:]
        if b"\n" in head or not _is_sound(holder, key, chunk, (head, tail), (new_head, new_tail)):
            return None
        ends = b"data: " + head, tail + b"\n\n", b"data: " + new_head, new_tail + b"\n\n"
        pattern = new_pattern(*ends, seen)
        if pattern is None or pattern in self.known:
            return None
        self.known = [pattern, *self.known[: _MOST - 1]]
        return pattern


def _is_sound(
    holder: dict[str, Json],
    key: str,
    chunk: Json,
    came: tuple[bytes, bytes],
    sent: tuple[bytes, bytes],
) -> bool:
    """Return whether another text between the ends of what *came*, and was *sent*, changes no more.

    The text is the member *key* of *holder*, a part of *chunk*, of which that was made.
    """
    text, holder[key] = holder[key], _HOLE
    same: bool = json.loads(_HOLE_JSON.join(sent)) == chunk
    holder[key] = text
    delta = json.loads(_HOLE_JSON.join(came))["choices"][0]["delta"]
    if key == "arguments":
        delta = delta["tool_calls"][0]["function"]
    return same and _HOLE in (delta.get(key), delta.get("reasoning"))


def new_pattern(
    prefix: bytes,
    suffix: bytes,
    new_prefix: bytes,
    new_suffix: bytes,
    seen: Callable[[bytes], None] | None = None,
) -> Pattern | None:
    """Return the :class:`Pattern` with these ends; None if its events cannot be told apart."""
    separator = suffix[:_SEPARATOR]
    if (prefix + suffix).count(separator) != 1:
        return None
    between = suffix[len(separator) :] + prefix
    return Pattern(
        prefix,
        suffix,
        new_prefix,
        new_suffix,
        separator,
        between,
        new_suffix + new_prefix,
        itemgetter(slice(len(between), None)),
        seen,
    )


def _find(raw: bytes, chunk: Json) -> tuple[dict[str, Json], str, re.Match[bytes]] | None:
    """Return the one text in *chunk*: the object and the key that hold it, and where in *raw*."""
    delta = chunk["choices"][0]["delta"]
    texts: list[tuple[dict[str, Json], str]] = []
    for key in ("content", "reasoning_content"):
        if delta.get(key):
            texts.append((delta, key))
    for call in delta.get("tool_calls") or ():
        function = call.get("function")
        if call.get("id") or not isinstance(function, dict):
            return None
        texts.append((function, "arguments"))
    if len(texts) != 1:
        return None
    holder, key = texts[0]
    names = [key, "reasoning"] if key == "reasoning_content" else [key]
    found = [match for name in names for match in _STRINGS[name].finditer(raw)]
    if len(found) != 1:
        return None
    return holder, key, found[0]
