"""Relay: the event stream of an OpenAI-compatible server, bytes in and whole frames out.

Parsing every event would cost more than everything else, so the relay parses as few as possible.
It handles a block of whole events in the first of these ways that applies:

1. All events follow one :class:`~.pattern.Pattern`: the block is rewritten in bulk.
2. Of a mixed block, runs of such events are rewritten in bulk, and the rest event by event.
3. An event that begins or finishes the stream may equal that of an earlier stream except for its
   id and time: then the :class:`~.template.Template` of that stream has the frame to send.
4. Any other event is parsed, mended by the :class:`~choreo_wsgi.chat.normalise.Normaliser` and
   written again, or sent as it is if nothing was wrong.  The relay learns patterns from these.

For example, with ``id``, ``created`` and blank lines left out, where the server's model ``m-1`` is
offered as ``fast`` and the caller did not ask for usage (the last column is the way taken)::

    received  data: {"model":"m-1","choices":[{"delta":{"content":"Oh"}}],"usage":null}  4
              data: {"model":"m-1","choices":[{"delta":{"content":", "}}],"usage":null}  4
              data: {"model":"m-1","choices":[{"delta":{"content":"hi"}}],"usage":null}  2
    sent      data: {"model":"fast","choices":[{"delta":{"content":"Oh"}}]}
              data: {"model":"fast","choices":[{"delta":{"content":", "}}]}
              data: {"model":"fast","choices":[{"delta":{"content":"hi"}}]}

All patterns are dropped when a tool call begins or a choice finishes: the same bytes may mean
something else afterwards.  This module uses no socket and no clock.
"""

from __future__ import annotations

from contextlib import suppress
from functools import cached_property
from typing import TYPE_CHECKING

from ... import sse
from ...chat.choice import CHANGED, KEPT
from ...chat.items import Json, Usage, dump
from ...chat.longtext import LONG, restore
from ...chat.normalise import Normaliser
from ...errors import ChoreoError, UpstreamInvalid, UpstreamTruncated
from ...late import Late
from ..reading import AT_ONCE, SHAPE_ERRORS, read_usage, unknown_shape
from .events import EventReader, WholeEvents, read_chunks, without_usage
from .pattern import MOST_IN_BULK, SMALL, Pattern, Patterns
from .template import FINISH, HOLE, ROLE, TEXT, Template

if TYPE_CHECKING:
    from . import long
else:
    long = Late("choreo_wsgi.providers.openai.long")

#: Characters of the longest label that is remembered.
_LONGEST = 256


class EventRelay:
    """Rewrites the events of one stream; *normaliser* mends the chunks that are parsed.

    *include_usage* is whether the caller asked for usage.  *label* names the provider and model,
    whose streams share templates.  ``failure`` is the error that the next call raises because
    this one had frames to return, ``left`` the events that it processes.
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
        self._limit, self._bulk = max_event_bytes, min(max_event_bytes, MOST_IN_BULK)
        self._whole = WholeEvents(max_event_bytes)
        self._patterns = Patterns()
        kind = normaliser.kind if len(label) <= _LONGEST else ()
        self._template = Template((label, include_usage, *kind)) if kind else None
        self._unwritten: long.Unwritten = []
        self.failure: ChoreoError | None = None
        self.left = b""

    @cached_property
    def _reader(self) -> EventReader:  # most streams have no event that needs it
        return EventReader(self._limit)

    @property
    def usage(self) -> Usage | None:
        """The latest usage that the provider reported, or None."""
        found = self.normaliser.usage
        return read_usage(found) if found is not None else None

    def receive_data(self, data: bytes) -> bytes:
        """Return the frames, joined, of the events that *data* completes.

        Events that would take too long are ``left`` for the next call.
        Raises the provider's own error, UpstreamInvalid or UpstreamTruncated.  Frames before the
        failure are returned first; then the next call raises.
        """
        if self.failure is not None:
            raise self.failure
        if self.normaliser.done:
            return b""
        block, self.left = self.left + self._whole.feed(data), b""
        frames: list[bytes] = []
        try:
            if block:
                try:
                    self._rewrite(block, frames)
                finally:
                    block = b""  # freed before long frames are written, and all are joined
                    if self._unwritten:
                        long.write(self._unwritten, frames)
            if self._whole.too_large and not (self.left or self.normaliser.done):
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
        """The pattern that the next events probably follow; None within an event."""
        known = self._patterns.known
        ready = known and self._whole.empty and self._limit >= SMALL and self.failure is None
        return known[0] if ready and not self.normaliser.done else None

    def end(self) -> bytes:
        """End the stream; return the frames still due: finishes and usage.

        A last event without a blank line is used if it is valid.  Raises UpstreamTruncated if
        the stream is not complete.
        """
        if self.failure is not None:
            raise self.failure
        frames: list[bytes] = []
        with suppress(UpstreamInvalid, *SHAPE_ERRORS):  # a truncated event
            while not self.normaliser.done and (block := self.left or self._whole.end()):
                self._rewrite_each(block, frames)
        try:
            chunks = self.normaliser.end(self._include_usage)
        except UpstreamTruncated as error:
            self.failure = error
            raise
        if self._unwritten:
            long.write(self._unwritten, frames)
        return b"".join([*frames, *(self._frame(chunk, None) for chunk in chunks)])

    # -- in bulk -----------------------------------------------------------------------

    def _rewrite(self, block: bytes, frames: list[bytes]) -> None:
        """Append the frames of the whole events in *block* to *frames*."""
        if len(block) <= self._bulk:  # a longer block may contain an event that is too large
            for pattern in self._patterns.known[:2]:
                rewritten = pattern.apply(block)
                if rewritten is not None:
                    frames.append(rewritten)
                    return
        self._rewrite_each(block, frames)

    def _rewrite_each(self, block: bytes, frames: list[bytes]) -> None:
        """Append the frames of the events in *block*, event by event, to *frames*.

        Where two events in a row begin with the prefix of a pattern, everything up to its last
        suffix in the block is tried in bulk.  A trial fails if a different event is in between,
        and reads the rest of the block: two trials a block keep the time linear.
        At most AT_ONCE events are parsed.
        """
        at = parsed = 0
        attempts = 2
        while at < len(block) and parsed < AT_ONCE and not self.normaliser.done:
            end = block.find(b"\n\n", at) + 2
            if end < 2:
                at = len(block)  # only a line end remains
                break
            for pattern in self._patterns.known if end - at <= self._bulk else ():
                if not block.startswith(pattern.prefix, at):
                    continue
                if attempts and block.startswith(pattern.prefix, end):
                    attempts -= 1
                    last = block.rfind(pattern.suffix, at, at + self._bulk) + len(pattern.suffix)
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
                if end - at <= SMALL and self._apply_template(block[at:end], frames):
                    pass
                elif (
                    LONG < end - at <= self._limit
                    and block.startswith(b"data: ", at)
                    and block.find(b"\n", at) == end - 2  # one line
                ):
                    self._parse_data(memoryview(block)[at + 6 : end - 2], frames)
                else:
                    self._parse_event(block[at:end], frames)
                at = end
                parsed += 1
        self.left = block[at:]

    # -- event by event ----------------------------------------------------------------

    def _apply_template(self, event: bytes, frames: list[bytes]) -> bool:
        """Append the template's frame of *event* to *frames*; return False if it has none."""
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

    def _parse_event(self, block: bytes, frames: list[bytes]) -> None:
        """Append the frames of the one event in *block*, which ends in a blank line."""
        if block == sse.DONE:
            self.normaliser.mark_done()
            return
        one_line = block.find(b"\n") == len(block) - 2
        if one_line and block[:1] in b":\n":
            return  # a comment or a blank line, of which there may be thousands
        if one_line and block.startswith(b"data: {") and len(block) <= self._limit:
            self._parse_data(block[6:-2].rstrip(), frames)
            return
        events, failure = self._reader.read(block)
        for event in events:  # one, or none
            self._parse_data(self._reader.data(event), frames, event.event)
        if failure is not None:
            raise failure

    def _parse_data(self, raw: bytes | memoryview, frames: list[bytes], event: str = "") -> None:
        """Append the frames of *raw*, the data of an event of the type *event*."""
        if len(raw) > LONG:
            self._parse_long(raw, frames, event)
            return
        for data, chunk in read_chunks(bytes(raw), event):
            if chunk is None:
                self.normaliser.mark_done()
                return
            self._mend(data, chunk, frames)
            self.normaliser.marks.clear()  # of arguments that were received before

    def _parse_long(self, raw: bytes | memoryview, frames: list[bytes], event: str) -> None:
        """Append the frames of *raw*, which is long, to *frames*; learn nothing from it."""
        normaliser = self.normaliser
        marks, state = normaliser.marks, normaliser.state
        for chunk in long.read(raw, marks, event, repair=normaliser.repair):
            if chunk is None:
                normaliser.mark_done()
                return
            chunks, _ = normaliser.normalise(chunk)
            found = {**marks}  # shared, as there may be a thousand parts and marks
            for part in (part for one in chunks for part in long.parts(one)):
                if self._include_usage:
                    part.setdefault("usage", None)
                else:
                    part.pop("usage", None)
                long.add(part, found, len(raw), frames, self._unwritten)
        if state != normaliser.state:
            self._patterns.forget()
        marks.clear()

    def _mend(self, raw: bytes, chunk: dict[str, Json], frames: list[bytes]) -> None:
        """Append the frames of *chunk*, parsed from *raw*; learn a pattern or template from it."""
        normaliser = self.normaliser
        state, begins = normaliser.state, not normaliser.choices
        chunks, verdict = normaliser.normalise(chunk)
        one_line = b"\n" not in raw
        unchanged = verdict == KEPT and one_line
        for one in chunks:
            frames.append(self._frame(one, raw if unchanged else None))
        one_choice = len(chunks) == 1 and len(chunk["choices"]) == 1
        repeatable = one_choice and one_line and verdict != CHANGED
        template = self._template if repeatable and not state and normaliser.usage is None else None
        if state != normaliser.state:
            self._patterns.forget()
            if template is not None and normaliser.all_finished:
                template.learn(FINISH, sse.frame(raw), frames[-1])
            return
        identity = normaliser.shared_members if begins else None
        if template is not None and identity is not None:
            template.learn_role(sse.frame(raw), frames[-1], identity)
        if repeatable:
            one = chunk["choices"][0]
            choice = normaliser.choices[one["index"]]
            if not choice.finished:
                pattern = self._patterns.learn(raw, chunk, frames[-1], choice.listener(one))
                if template is not None and pattern is not None:
                    received = pattern.prefix + HOLE + pattern.suffix
                    template.learn(TEXT, received, pattern.new_prefix + HOLE + pattern.new_suffix)

    def _frame(self, chunk: dict[str, Json], raw: bytes | None) -> bytes:
        """Return the frame of *chunk*, or of *raw*, its JSON; with ``usage`` only if requested."""
        if self._include_usage:
            if "usage" not in chunk:
                chunk["usage"] = raw = None
        elif "usage" in chunk:
            del chunk["usage"]
            raw = without_usage(raw) if raw is not None else None
        if raw is not None:
            return sse.frame(raw)
        return restore(sse.frame(dump(chunk)), self.normaliser.marks)
