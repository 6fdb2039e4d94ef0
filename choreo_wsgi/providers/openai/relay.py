"""Passing an OpenAI-compatible event stream on: bytes in, whole frames out.

Most events differ from their neighbours in one string.  :class:`EventRelay` takes the first
of a kind apart, event by event; all that follow the same :class:`~choreo_wsgi.pattern.Pattern`
are then passed on in bulk, hundreds at once, with the same change made to each.  Nothing here
touches a socket or a clock.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from ... import sse
from ...chat.items import Json, Usage, dump
from ...errors import ChoreoError, UpstreamInvalid
from ..reading import parse_object, provider_error, read_usage
from .events import EventReader, Progress
from .pattern import Pattern, learn
from .repair import Repair

_NULL_USAGE = re.compile(rb',[ ]?"usage":[ ]?null(?=[,}])|"usage":[ ]?null,[ ]?')
#: Patterns kept: as many as choices that take turns.
_PATTERNS = 8
#: Events taken apart for nothing before the stream is seen as one without a pattern.
_LESSONS = 64


@dataclass(frozen=True)
class Rewriting:
    """What is changed in every chunk of a stream.

    *model* is the name to write for the upstream's, or empty.  *include_usage* is whether
    the caller asked for usage; *repair* whether to mend what upstreams get wrong.
    """

    include_usage: bool = False
    model: str = ""
    repair: bool = True


class EventRelay:
    """Rewrites the events of one stream of *n* choices, as *rewriting* says.

    ``usage`` is what was reported so far.  ``done`` is true once ``[DONE]`` came: nothing
    after it matters.
    """

    def __init__(
        self, n: int, rewriting: Rewriting, max_event_bytes: int = 8 * 1024 * 1024
    ) -> None:
        self.progress = Progress(n)
        self._rewriting = rewriting
        self._repair = Repair(self.progress, rewriting.repair)
        self._limit = max_event_bytes
        self._reader = EventReader(max_event_bytes)
        self._rest = bytearray()  # the start of an event
        self._after_cr = False  # the last byte was CR, which may be half of CRLF
        self._patterns: list[Pattern] = []
        self._lessons = _LESSONS
        self._template: dict[str, Json] = {}  # a chunk's members, for one of our own
        self._failure: ChoreoError | None = None
        self._closed = False

    @property
    def done(self) -> bool:
        """Whether the stream's end marker came."""
        return self.progress.done

    @property
    def usage(self) -> Usage | None:
        """What the provider reported so far; None when nothing."""
        found = self._repair.usage
        return read_usage(found) if found is not None else None

    def receive_data(self, data: bytes) -> bytes:
        """Take the next bytes; return the frames that they complete, joined.

        Raises the provider's own error, UpstreamInvalid and UpstreamTruncated; what came
        before the failure is returned first, and the next call raises.
        """
        if self._failure is not None:
            raise self._failure
        if self.progress.done:
            return b""
        block = self._whole(data)
        if not block:
            if len(self._rest) > self._limit:
                raise self._too_large()
            return b""
        frames: list[bytes] = []
        try:
            self._relay(block, frames)
            if len(self._rest) > self._limit and not self.progress.done:
                raise self._too_large()
        except ChoreoError as error:
            self._failure = error
            if not frames:
                raise
        return frames[0] if len(frames) == 1 else b"".join(frames)

    def end(self) -> bytes:
        """Say that the stream is over; return the frames still due: finishes and usage.

        Raises UpstreamTruncated when it was too early.
        """
        if self._failure is not None:
            raise self._failure
        self.progress.check_end()
        if self._closed:
            return b""
        self._closed = True
        frames = []
        closing = self._repair.closing()
        if closing:
            frames.append(self._write({**self._template, "choices": closing}, None))
        if self._rewriting.include_usage and self._repair.usage_chunk is not None:
            chunk = {**self._repair.usage_chunk, "usage": self._repair.usage}
            frames.append(self._write(chunk, None))
        return b"".join(frames)

    # -- whole events ------------------------------------------------------------------

    def _too_large(self) -> ChoreoError:
        self._failure = UpstreamInvalid(
            f"the provider sent an event of more than {self._limit} bytes"
        )
        return self._failure

    def _whole(self, data: bytes) -> bytes:
        """Return all whole events there are, lines ended by LF; keep the rest."""
        if self._after_cr or b"\r" in data:
            data = self._line_feeds(data)
        end = data.rfind(b"\n\n") + 2
        if end < 2:
            rest = self._rest
            if not (rest and data.startswith(b"\n") and rest.endswith(b"\n")):
                rest += data
                return b""
            end = 1
        block = data if end == len(data) else data[:end]
        if self._rest:
            block = bytes(self._rest) + block
            self._rest.clear()
        self._rest += data[end:] if end < len(data) else b""
        return block

    def _line_feeds(self, data: bytes) -> bytes:
        """Return *data* with CR and CRLF as LF.  JSON holds none of them unescaped."""
        if self._after_cr and data:
            data = data.removeprefix(b"\n")
        if data:
            self._after_cr = data.endswith(b"\r")
        return data.replace(b"\r\n", b"\n").replace(b"\r", b"\n")

    def _relay(self, block: bytes, frames: list[bytes]) -> None:
        """Append to *frames* what becomes of *block*, which holds whole events."""
        if len(block) <= self._limit:  # else perhaps one event is too large
            for pattern in self._patterns[:2]:
                rewritten = pattern.apply(block)
                if rewritten is not None:
                    frames.append(rewritten)
                    self._lessons = _LESSONS  # they pay
                    return
            if self._is_plain(block):
                self._relay_plain(block, frames)
                return
        self._one_by_one(block, frames)

    # -- many at once ------------------------------------------------------------------

    def _is_plain(self, block: bytes) -> bool:
        """Whether *block* is content and nothing else, so far as counting can tell.

        For streams without a pattern (OpenAI pads each event with a random string).  Quotes
        in JSON strings are escaped, so what is counted are members.
        """
        if self._lessons > 0 or self.progress.n > 1 or self._rewriting.model:
            return False
        count = sse.plain_count(block)
        nulls = block.count(b',"usage":null')
        return (
            count > 0
            and block.count(b'"finish_reason":null') == count
            and block.count(b'"usage":') == nulls
            and (nulls == count or not self._rewriting.include_usage)
            and b'"tool_calls":' not in block
            and b'"error":' not in block
            and b'"reasoning":' not in block
            and self._is_text(block)
        )

    @staticmethod
    def _is_text(block: bytes) -> bool:
        if block.isascii():
            return True
        try:
            block.decode("utf-8")
        except UnicodeDecodeError:
            return False
        return True

    def _relay_plain(self, block: bytes, frames: list[bytes]) -> None:
        self.progress.seen.add(0)
        if not self._rewriting.include_usage:
            block = block.replace(b',"usage":null', b"")
        frames.append(block)

    # -- one at a time -----------------------------------------------------------------

    def _one_by_one(self, block: bytes, frames: list[bytes]) -> None:
        """Take the events of *block* apart; go back to bulk as soon as one looks like many."""
        at = 0
        attempts = 2
        while at < len(block) and not self.progress.done:
            end = block.find(b"\n\n", at) + 2
            if end < 2:
                return  # one line end too many
            for pattern in self._patterns:
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
                self._take_block(block[at:end], frames)
                at = end

    def _take_block(self, block: bytes, frames: list[bytes]) -> None:
        """Take the one event in *block*, which ends in a blank line."""
        one_line = block.startswith(b"data: {") and block.find(b"\n") == len(block) - 2
        if one_line and len(block) <= self._limit:
            self._take_text(self._decoded(block[6:-2]), frames)
            return
        events, failure = self._reader.read(block)
        for event in events:
            if self.progress.done:
                return
            self._take_event(event, frames)
        if failure is not None:
            raise failure

    @staticmethod
    def _decoded(raw: bytes) -> str:
        try:
            return raw.decode("utf-8")
        except UnicodeDecodeError as error:
            raise UpstreamInvalid("the provider's stream is not UTF-8") from error

    def _take_event(self, event: sse.Event, frames: list[bytes]) -> None:
        if event.event == "error" and event.data:
            raise provider_error(parse_object(event.data))
        self._take_text(event.data, frames)

    def _take_text(self, data: str, frames: list[bytes]) -> None:
        """Take the *data* of an event."""
        text = data.strip()
        if text == "[DONE]":
            self.progress.take_done()
            return
        if not text:
            return  # an empty keep-alive
        if not (text.startswith("{") and text.endswith("}")):
            raise UpstreamInvalid("the provider sent an event that is not a JSON object")
        chunk = parse_object(text)
        model = chunk.get("model")
        renamed = bool(self._rewriting.model) and model != self._rewriting.model
        if renamed:
            chunk["model"] = self._rewriting.model
        chunks, changed = self._repair.take(chunk)
        if chunk.get("id"):  # not in Azure's first event
            self._template = {
                key: chunk[key] for key in ("id", "object", "created", "model") if key in chunk
            }
        raw = text.encode()
        whole = not (changed or renamed or b"\n" in raw)
        for one in chunks:
            frames.append(self._write(one, raw if whole else None))
        if len(chunks) == 1 and len(chunk["choices"]) == 1:
            self._learn(raw, chunk, frames[-1][6:-2] if whole else None)

    def _write(self, chunk: dict[str, Json], raw: bytes | None) -> bytes:
        """Return the frame of *chunk*, with its usage as the caller asked; *raw* is its JSON."""
        if self._rewriting.include_usage:
            if "usage" not in chunk:
                chunk["usage"] = raw = None
        elif "usage" in chunk:
            del chunk["usage"]
            raw = _NULL_USAGE.sub(b"", raw, count=1) if raw is not None else None
        return sse.frame(dump(chunk) if raw is None else raw)

    def _learn(self, raw: bytes, chunk: dict[str, Json], sent: bytes | None) -> None:
        """Remember the event *raw*, which was *sent*, as a pattern for those like it."""
        if self._lessons <= 0 or chunk["choices"][0].get("finish_reason") is not None:
            return
        pattern = learn(raw, chunk, sent)
        if pattern is not None and pattern not in self._patterns:
            self._lessons -= 1
            self._patterns = [pattern, *self._patterns[: _PATTERNS - 1]] if self._lessons else []
