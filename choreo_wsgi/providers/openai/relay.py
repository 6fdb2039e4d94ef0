"""Passing an OpenAI-compatible event stream on: bytes in, whole frames out.

Four ways, the fastest first:

* A block of events that all follow one :class:`~.pattern.Pattern` is passed on in bulk,
  hundreds at once, with the same change made to each.
* In a mixed block, runs of such events are; what lies between is taken apart.
* One that begins or finishes the stream as it did another, of which a
  :class:`~.template.Template` was made, becomes what that one became.
* Any other is parsed, mended by the
  :class:`~choreo_wsgi.chat.normalise.Normaliser`, and written: its own bytes where nothing was
  wrong.  What can be learned from it becomes a pattern.

Patterns are forgotten whenever the state of a choice changes (a tool call begins, a choice
finishes), because the same bytes may mean something else from then on.  Nothing here touches a
socket or a clock.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from contextlib import suppress
from functools import cached_property
from typing import TYPE_CHECKING

from ... import sse
from ...chat.choice import CHANGED, KEPT
from ...chat.items import Json, Usage, dump, dump_large
from ...chat.longtext import LONG, restore
from ...chat.normalise import Normaliser
from ...errors import ChoreoError, UpstreamInvalid, UpstreamTruncated
from ...late import Late
from ..reading import SHAPE_ERRORS, read_usage, unknown_shape
from .events import EventReader, WholeEvents, read_chunk, read_chunks
from .pattern import SMALL, Pattern, Patterns
from .template import FINISH, HOLE, ROLE, TEXT, Template

if TYPE_CHECKING:
    from . import long
else:
    long = Late("choreo_wsgi.providers.openai.long")

#: Characters of a label that is worth remembering.
_LONGEST = 256
_NULL_USAGE = re.compile(
    rb',[ \t]*"usage"[ \t]*:[ \t]*null(?=[ \t]*[,}])|"usage"[ \t]*:[ \t]*null[ \t]*,[ \t]*'
)
#: Where it mostly stands, and the search for it costs what ten other steps of a start do.
_LAST_MEMBER = b',"usage":null}'
#: A letter of "usage" written as an escape.
_ESCAPED_LETTER = re.compile(rb"\\u00(?:7[35]|6[157])")


class EventRelay:
    """Rewrites the events of one stream, as *normaliser* mends its chunks.

    *include_usage* is whether the caller asked for usage.  *label* names who answers, whose
    streams are probably alike.  ``failure`` is what the next call will raise, when frames had to
    be returned first.
    """

    def __init__(
        self,
        normaliser: Normaliser,
        include_usage: bool = False,
        max_event_bytes: int = 8 * 1024 * 1024,
        label: str = "",
    ) -> None:
        self.normaliser = normaliser
        self._include_usage = include_usage
        self._limit = max_event_bytes
        self._whole = WholeEvents(max_event_bytes)
        self._patterns = Patterns()
        kind = normaliser.kind if len(label) <= _LONGEST else ()
        self._template = Template((label, include_usage, *kind)) if kind else None
        self.failure: ChoreoError | None = None

    @cached_property
    def _reader(self) -> EventReader:  # most streams have no event that needs it
        return EventReader(self._limit)

    @property
    def usage(self) -> Usage | None:
        """What the provider reported so far; None when nothing."""
        found = self.normaliser.usage
        return read_usage(found) if found is not None else None

    def receive_data(self, data: bytes) -> bytes:
        """Take the next bytes; return the frames that they complete, joined.

        Raises the provider's own error, UpstreamInvalid and UpstreamTruncated; what came
        before the failure is returned first, and the next call raises.
        """
        if self.failure is not None:
            raise self.failure
        if self.normaliser.done:
            return b""
        block = self._whole.feed(data)
        frames: list[bytes] = []
        try:
            if block:
                self._relay(block, frames)
                block = b""  # not there beside its frames joined
            if self._whole.too_large and not self.normaliser.done:
                raise UpstreamInvalid(
                    f"the provider sent an event of more than {self._limit} bytes"
                )
        except (ChoreoError, *SHAPE_ERRORS) as error:
            self.failure = error if isinstance(error, ChoreoError) else unknown_shape(error)
            if not frames:
                raise self.failure from None
        return frames[0] if len(frames) == 1 else b"".join(frames)

    @property
    def pattern(self) -> Pattern | None:
        """What the next events will probably follow; None while an event is half read."""
        known = self._patterns.known
        ready = known and self._whole.empty and self._limit >= SMALL and self.failure is None
        return known[0] if ready and not self.normaliser.done else None

    def end(self) -> bytes:
        """Say that the stream is over; return the frames still due: finishes and usage.

        A last event whose blank line is missing counts if it brings the stream to its end.
        Raises UpstreamTruncated when it was too early.
        """
        if self.failure is not None:
            raise self.failure
        frames: list[bytes] = []
        if not self.normaliser.done:
            with suppress(UpstreamInvalid, *SHAPE_ERRORS):  # unless it was cut
                self._one_by_one(self._whole.end(), frames)
        try:
            chunks = self.normaliser.end(self._include_usage)
        except UpstreamTruncated as error:
            self.failure = error
            raise
        return b"".join([*frames, *(self._write(chunk, None) for chunk in chunks)])

    # -- many at once ------------------------------------------------------------------

    def _relay(self, block: bytes, frames: list[bytes]) -> None:
        """Append to *frames* what becomes of *block*, which holds whole events."""
        if len(block) <= self._limit:  # else perhaps one event is too large
            for pattern in self._patterns.known[:2]:
                rewritten = pattern.apply(block)
                if rewritten is not None:
                    frames.append(rewritten)
                    return
        self._one_by_one(block, frames)

    def _one_by_one(self, block: bytes, frames: list[bytes]) -> None:
        """Take the events of *block* apart; go back to bulk as soon as one looks like many.

        Where the next event begins as a pattern does too, all up to the last that ends like it
        are tried in bulk.  That fails for a block with something else in between, and looking
        at the rest again and again would cost the square of it: so only twice a block.
        """
        at = 0
        attempts = 2
        while at < len(block) and not self.normaliser.done:
            end = block.find(b"\n\n", at) + 2
            if end < 2:
                return  # one line end too many
            for pattern in self._patterns.known if end - at <= self._limit else ():
                if not block.startswith(pattern.prefix, at):
                    continue
                if attempts and block.startswith(pattern.prefix, end):
                    attempts -= 1
                    last = block.rfind(pattern.suffix, at) + len(pattern.suffix)
                    rewritten = pattern.apply(block[at:last]) if last > end else None
                    if rewritten is not None:
                        frames.append(rewritten)
                        at = last
                        break
                if not block.endswith(pattern.suffix, at, end):
                    continue
                rewritten = pattern.apply(block[at:end])
                if rewritten is not None:
                    frames.append(rewritten)
                    at = end
                    break
            else:
                if end - at <= SMALL and self._take_known(block[at:end], frames):
                    pass
                elif (
                    LONG < end - at <= self._limit
                    and block.startswith(b"data: {", at)
                    and block.find(b"\n", at) == end - 2  # one line
                ):
                    self._take_long(memoryview(block)[at + 6 : end - 2], frames)
                else:
                    self._take_block(block[at:end], frames)
                at = end

    # -- one at a time -----------------------------------------------------------------

    def _take_known(self, event: bytes, frames: list[bytes]) -> bool:
        """Take *event* if it begins or finishes the stream as it did another; return whether."""
        template, normaliser = self._template, self.normaliser
        if template is None or normaliser.state or len(event) > self._limit:
            return False
        if not normaliser.choices:
            identity = template.begin(event)
            if identity is None:
                return False
            frames.append(template.parts[ROLE + 1])
            pattern = template.pattern()
            normaliser.begin(identity, unread=pattern is not None)
            self._patterns.known = [pattern] if pattern is not None else []
            return True
        if event != template.parts[FINISH]:
            return False
        normaliser.finish()
        frames.append(template.parts[FINISH + 1])
        self._patterns.forget()
        return True

    def _take_block(self, block: bytes, frames: list[bytes]) -> None:
        """Take the one event in *block*, which ends in a blank line."""
        one_line = block.find(b"\n") == len(block) - 2
        if one_line and block[:1] in b":\n":
            return  # a comment, or nothing, of which there may be thousands
        usual = one_line and block.startswith((b"data: {", b"data: [DONE]"))
        if usual and len(block) <= self._limit:
            self._take_data(block[6:-2].rstrip(), frames)
            return
        events, failure = self._reader.read(block)
        for event in events:
            if self.normaliser.done:
                return
            self._take_data(event.data.strip().encode(), frames, event.event)
        if failure is not None:
            raise failure

    def _take_data(self, raw: bytes, frames: list[bytes], event: str = "") -> None:
        """Take the data of an event of the type *event*."""
        for data, chunk in read_chunks(raw, event):
            if chunk is None:
                self.normaliser.mark_done()
                return
            self._take_chunk(data, chunk, frames)

    def _take_chunk(self, raw: bytes, chunk: dict[str, Json], frames: list[bytes]) -> None:
        """Take *chunk*, which was *raw*."""
        normaliser = self.normaliser
        state, begins = normaliser.state, not normaliser.choices
        chunks, verdict = normaliser.normalise(chunk)
        kept = verdict == KEPT and b"\n" not in raw
        for one in chunks:
            frames.append(self._write(one, raw if kept else None))
        again = verdict != CHANGED and len(chunks) == 1 and len(chunk["choices"]) == 1
        template = self._template if again and not state and normaliser.usage is None else None
        if state != normaliser.state:
            self._patterns.forget()
            if template is not None and normaliser.all_finished:
                template.learn(FINISH, sse.frame(raw), frames[-1])
            return
        own = normaliser.shared_members if begins else None
        if template is not None and own is not None:
            template.learn_role(sse.frame(raw), frames[-1], own)
        if again:
            one = chunk["choices"][0]
            choice = normaliser.choices[one["index"]]
            if not choice.finished:
                pattern = self._patterns.see(raw, chunk, frames[-1], choice.listener(one))
                if template is not None and pattern is not None:
                    came = pattern.prefix + HOLE + pattern.suffix
                    template.learn(TEXT, came, pattern.new_prefix + HOLE + pattern.new_suffix)

    def _take_long(self, raw: memoryview, frames: list[bytes]) -> None:
        """Take the data of an event that is long; of one with many calls come several frames."""
        normaliser = self.normaliser
        normaliser.marks.clear()
        short = long.shorten(raw, normaliser.marks)
        state = normaliser.state
        chunk = read_chunk(short.rstrip())
        assert chunk is not None  # it begins with a brace
        chunks, _ = normaliser.normalise(chunk)
        frames += [
            self._write(part, None, dump_large) for one in chunks for part in long.parts(one)
        ]
        normaliser.marks.clear()
        if state != normaliser.state:
            self._patterns.forget()

    def _write(
        self, chunk: dict[str, Json], raw: bytes | None, dump: Callable[[Json], bytes] = dump
    ) -> bytes:
        """Return the frame of *chunk*, with its usage as the caller asked; *raw* is its JSON."""
        if self._include_usage:
            if "usage" not in chunk:
                chunk["usage"] = raw = None
        elif "usage" in chunk:
            del chunk["usage"]
            raw = _without_usage(raw) if raw is not None else None
        if raw is not None:
            return sse.frame(raw)
        return restore(sse.frame(dump(chunk)), self.normaliser.marks)


def _without_usage(raw: bytes) -> bytes | None:
    """Return *raw*, a chunk, without its own ``"usage":null``; None if that is not sure."""
    if raw.count(b'"usage"') != 1 or _ESCAPED_LETTER.search(raw):
        return None  # another one is inside
    if raw.endswith(_LAST_MEMBER):
        return raw[: -len(_LAST_MEMBER)] + b"}"
    cut, count = _NULL_USAGE.subn(b"", raw, count=1)
    return cut if count else None
