"""The shape that most events of a stream share, found once and then recognised in bulk.

Events of one answer are alike but for one string, the text: ``PREFIX text SUFFIX``.  Once
an event was taken apart and put together again, a :class:`Pattern` does the same to all
that look like it, hundreds at a time, without parsing them.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, field
from operator import itemgetter

from ...chat.items import Json, dump

#: Where a JSON string begins and ends, by the member that holds it.
_STRINGS = {
    key: re.compile(rb'"%b":[ ]?"((?:[^"\\\x00-\x1f]|\\.)*)"' % key.encode())
    for key in ("content", "reasoning_content", "reasoning", "arguments")
}
_ESCAPE = re.compile(rb"\\.")
# Long enough to be rare in text, short enough for the fast way of finding it.
_SEPARATOR = 12
_SMALL = 4096
_HOLE = "\x7f<hole>\x7f"
_HOLE_JSON = _HOLE.encode()


@dataclass(frozen=True)
class Pattern:
    """Events that are *prefix*, a JSON string's inside, *suffix*, and what becomes of them.

    *prefix* begins with ``data:`` and *suffix* ends with the blank line; *new_prefix* and
    *new_suffix* stand in their places afterwards.
    """

    prefix: bytes
    suffix: bytes
    new_prefix: bytes
    new_suffix: bytes
    separator: bytes
    _between: bytes
    _new_between: bytes
    _behind: Callable[[bytes], bytes] = field(compare=False)  # what follows _between

    def apply(self, block: bytes) -> bytes | None:
        """Return *block*, whole events, rewritten; None if any of them is different."""
        if not block.startswith(self.prefix):
            return None
        if len(block) < _SMALL and block.endswith(self.suffix, len(self.prefix)):
            # At the pace of a model there is one event at a time, of plain text mostly.
            text = block[len(self.prefix) : -len(self.suffix)]
            if text.isascii() and not (b'"' in text or b"\\" in text or b"\n" in text):
                return self.new_prefix + text + self.new_suffix
        pieces = block.split(self.separator)
        if pieces.pop() != self.suffix[len(self.separator) :]:
            return None
        first, *others = pieces
        texts = [first[len(self.prefix) :]]
        if others:
            # All begin with the same bytes if the least and the greatest of them do.
            between = self._between
            if not (min(others).startswith(between) and max(others).startswith(between)):
                return None
            texts += map(self._behind, others)
        if not _inside_strings(texts):
            return None
        texts[0] = self.new_prefix + texts[0]
        texts[-1] += self.new_suffix
        result = self._new_between.join(texts)
        if not result.isascii():
            try:
                result.decode("utf-8")
            except UnicodeDecodeError:
                return None
        return result


def _inside_strings(texts: list[bytes]) -> bool:
    """Whether each of *texts* is the inside of a JSON string, so far as that shows in bulk."""
    text = b"".join(texts)
    if b"\n" in text:
        return False
    if b"\\" in text:
        if any(one.endswith(b"\\") for one in texts):
            return False  # perhaps the escape of the quote behind it
        text = _ESCAPE.sub(b"", text)
    return b'"' not in text


def learn(raw: bytes, chunk: Json, frame: bytes | None) -> Pattern | None:
    """Return the pattern of the event *raw*, which became *chunk*; None if it has none.

    *raw* is the JSON as it came.  *chunk* is the parsed object after its repair, of one
    choice; *frame* the JSON that was sent, or None if that is *chunk* written anew.
    """
    found = _find(raw, chunk)
    if found is None:
        return None
    holder, key, match = found
    prefix = b"data: " + raw[: match.start(1)]
    suffix = raw[match.end(1) :] + b"\n\n"
    if frame is not None:
        again = _STRINGS[key].search(frame)
        if again is None:
            return None
        new_prefix = b"data: " + frame[: again.start(1)]
        new_suffix = frame[again.end(1) :] + b"\n\n"
    else:
        text, holder[key] = holder[key], _HOLE
        head, _, tail = dump(chunk).partition(_HOLE_JSON)
        holder[key] = text
        new_prefix, new_suffix = b"data: " + head, tail + b"\n\n"
    separator = suffix[:_SEPARATOR]
    if (prefix + suffix).count(separator) != 1 or b"\n" in prefix:
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
    )


def _find(raw: bytes, chunk: Json) -> tuple[dict[str, Json], str, re.Match[bytes]] | None:
    """Return the one text in *chunk*: the object and the key that hold it, and where in *raw*."""
    delta = chunk["choices"][0]["delta"]
    texts: list[tuple[dict[str, Json], str]] = []
    for key in ("content", "reasoning_content"):
        if isinstance(delta.get(key), str) and delta[key]:
            texts.append((delta, key))
    for call in delta.get("tool_calls") or ():
        function = call.get("function")
        if call.get("id") or not isinstance(function, dict) or function.get("name"):
            return None
        if isinstance(function.get("arguments"), str):
            texts.append((function, "arguments"))
    if len(texts) != 1:
        return None
    holder, key = texts[0]
    names = [key, "reasoning"] if key == "reasoning_content" else [key]
    found = [match for name in names for match in _STRINGS[name].finditer(raw)]
    if len(found) != 1:
        return None
    return holder, key, found[0]
