"""Patterns: the bytes that the text events of one stream share, so that they need no parsing.

The events of an answer differ in one JSON string, the text of the delta.  Two of them are parsed;
from then on a :class:`Pattern` holds the bytes before and after the text, as received and as
sent.  A server's model ``m-1`` is offered as ``fast``, and the caller did not ask for usage::

    received    data: {"model":"m-1","choices":[{"delta":{"content":" Hi"}}],"usage":null}
    sent        data: {"model":"fast","choices":[{"delta":{"content":" Hi"}}]}

    prefix      data: {"model":"m-1","choices":[{"delta":{"content":"
    suffix      "}}],"usage":null}
    new_prefix  data: {"model":"fast","choices":[{"delta":{"content":"
    new_suffix  "}}]}

(A suffix includes the blank line after the event.)  One ``split`` and one ``join`` rewrite a block
of hundreds of such events.  Two rules keep that safe:

* A block is rewritten only if each text in it is valid UTF-8 and valid inside a JSON string.
  Otherwise :meth:`Pattern.apply` returns None, and the events are parsed.
* A pattern is learned only if the string is a member of the delta, and if another string in its
  place changes nothing else: the rest of the frame depends on the prefix and suffix alone.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from operator import itemgetter

from ...chat.items import Json

#: A string member, by its name; group 1 is the inside of the string.  Each byte can match in one
#: way only, so that a long string needs no memory for backtracking.
_STRINGS = {
    key: re.compile(rb'"%b":[ ]?"([^"\\\x00-\x1f]*(?:\\.[^"\\\x00-\x1f]*)*)"' % key.encode())
    for key in ("content", "reasoning_content", "reasoning", "arguments")
}
_ESCAPE = re.compile(rb'\\(?:["\\/bfnrt]|u[0-9A-Fa-f]{4})')
#: Bytes that a JSON string contains only as escapes.
SPECIAL = bytes(range(32)) + b'"\\'
#: Bytes of the suffix to split at: enough to be rare in text, and few enough for a fast search.
_SEPARATOR = 12
#: Longest event that a pattern is learned from, and longest block that is tried as one event.
SMALL = 4096
#: Bytes of events that are rewritten in bulk, which takes 7 times as many.
MOST_IN_BULK = 256 * 1024
_HOLE = "\x7f<hole>\x7f"
_HOLE_JSON = _HOLE.encode()
_Ends = tuple[bytes, bytes]
#: Patterns kept of one stream: its choices may take turns.
_MOST = 8


@dataclass(slots=True)
class Pattern:
    """How to rewrite events that consist of *prefix*, the inside of a JSON string and *suffix*.

    The string is sent between *new_prefix* and *new_suffix*.  A prefix begins with ``data:``, a
    suffix ends with the blank line.  *on_text*, if any, is called with the rewritten strings.
    """

    prefix: bytes
    suffix: bytes
    new_prefix: bytes
    new_suffix: bytes
    separator: bytes
    _between: bytes
    _new_between: bytes
    _after_between: Callable[[bytes], bytes] = field(compare=False)
    on_text: Callable[[bytes], None] | None = field(default=None, compare=False)

    def apply(self, block: bytes) -> bytes | None:
        """Return *block*, which holds whole events, rewritten; None if an event does not match."""
        if not block.startswith(self.prefix):
            return None
        # At the speed of a model events arrive one by one, mostly of plain text: this takes a
        # third of the time of the code below ("make bench", "paced").
        if len(block) < SMALL and block.endswith(self.suffix, len(self.prefix)):
            text = block[len(self.prefix) : -len(self.suffix)]
            if text.isascii() and len(text.translate(None, SPECIAL)) == len(text):
                if self.on_text is not None:
                    self.on_text(text)
                return self.new_prefix + text + self.new_suffix
        pieces = block.split(self.separator)
        if pieces.pop() != self.suffix[len(self.separator) :]:
            return None
        first, *others = pieces
        if len(first) < len(self.prefix):
            return None  # the separator overlaps the prefix
        texts = [first[len(self.prefix) :]]
        if others:
            # If the least and the greatest of them begin with *between*, all do: two passes in C
            # instead of one call for each event ("make bench", "burst").
            between = self._between
            if not (min(others).startswith(between) and max(others).startswith(between)):
                return None
            texts += map(self._after_between, others)
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
        if self.on_text is not None:
            self.on_text(joined)
        return result


def _inside_strings(texts: list[bytes], joined: bytes) -> bool:
    """Whether each of *texts*, whose concatenation is *joined*, is valid inside a JSON string."""
    if b"\\" in joined:
        if joined.count(b"\\") > 20_000:
            return False  # each takes a hundred bytes while it is replaced
        # The byte between two texts keeps the end of one and the start of the next from
        # forming an escape.
        joined = _ESCAPE.sub(b"", b"\x7f".join(texts))
    return len(joined.translate(None, SPECIAL)) == len(joined)


class Patterns:
    """The patterns of one stream, the latest first.

    A pattern is learned from the second event with the same prefix and suffix.  So a stream
    without patterns, because each event has random padding, costs one search for each event.
    """

    def __init__(self) -> None:
        self.known: list[Pattern] = []
        self._candidates: dict[tuple[bytes, bytes], None] = {}

    def forget(self) -> None:
        """Drop all patterns, because the same bytes may mean something else from now on."""
        self.known = []
        self._candidates.clear()

    def learn(
        self, raw: bytes, chunk: Json, frame: bytes, on_text: Callable[[bytes], None] | None
    ) -> Pattern | None:
        """Return a new pattern for events like this one, None if there is none; remember it.

        The JSON *raw*, one line, was mended to *chunk*, of one choice, and sent as *frame*.
        """
        found = _find_text(raw, chunk) if len(raw) <= SMALL else None
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
        spans = [match.span(1) for match in _STRINGS[key].finditer(sent)]
        if len(spans) != 1:
            return None
        start, end = spans[0]
        new_head, new_tail = sent[:start], sent[end:]
        if not _is_safe(holder, key, chunk, (head, tail), (new_head, new_tail)):
            return None
        ends = b"data: " + head, tail + b"\n\n", b"data: " + new_head, new_tail + b"\n\n"
        pattern = new_pattern(*ends, on_text)
        if pattern is None or pattern in self.known:
            return None
        self.known = [pattern, *self.known[: _MOST - 1]]
        return pattern


def _is_safe(holder: dict[str, Json], key: str, chunk: Json, received: _Ends, sent: _Ends) -> bool:
    """Whether another text changes nothing but the member *key* of *holder*, a part of *chunk*.

    *received* and *sent* are the JSON before and after the text, as received and as sent.
    """
    text, holder[key] = holder[key], _HOLE
    same: bool = json.loads(_HOLE_JSON.join(sent)) == chunk
    holder[key] = text
    delta = json.loads(_HOLE_JSON.join(received))["choices"][0]["delta"]
    if key == "arguments":
        delta = delta["tool_calls"][0]["function"]
    return same and _HOLE in (delta.get(key), delta.get("reasoning"))


def new_pattern(
    prefix: bytes,
    suffix: bytes,
    new_prefix: bytes,
    new_suffix: bytes,
    on_text: Callable[[bytes], None] | None = None,
) -> Pattern | None:
    """Return the :class:`Pattern` with these members; None if it could not split events."""
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
        on_text,
    )


def _find_text(raw: bytes, chunk: Json) -> tuple[dict[str, Json], str, re.Match[bytes]] | None:
    """Return the object and key that hold the one text of *chunk*, and its match in *raw*."""
    delta = chunk["choices"][0]["delta"]
    texts = [(delta, key) for key in ("content", "reasoning_content") if delta.get(key)]
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
