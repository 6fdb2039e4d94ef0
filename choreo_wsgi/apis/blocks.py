"""An answer as a list of blocks: what the writers of Responses and Messages have in common.

Reasoning, text, tool calls and pictures are blocks of their own; Responses calls them output
items.  Each is opened, filled by deltas and closed before the next one is opened, unless a
provider mixes the pieces of several calls.  The document of an answer is made as its events are.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from .. import sse
from ..chat.answer import AnswerWriter
from ..chat.aside import is_object, set_aside
from ..chat.items import Delta, Finish, Item, Json, Marks, ToolCall, Usage, dump, quote
from ..chat.longtext import restore
from ..chat.request import ChatRequest


@dataclass
class Block:
    """A block that is being written.

    *item* is what stands in the document, *holder* its member for a *part* with the text, and
    *where* what an event says of its place.  A delta's *event* has *before* and *after* its text.
    """

    kind: str  # text, refusal, reasoning, call or another that is not filled by deltas
    item: dict[str, Json]
    where: dict[str, Json]
    event: str = ""
    before: str = ""
    after: str = ""
    holder: str = ""
    part: Mapping[str, Json] = field(default_factory=dict)
    pieces: list[str] = field(default_factory=list)
    logprobs: list[Json] = field(default_factory=list)
    citations: list[Json] = field(default_factory=list)


class BlockWriter(AnswerWriter):
    """Writes one answer to *request*, as events or not; an API says what is in each event."""

    done = b""
    #: Whether each event has its number.
    numbers = False
    #: Whether what was said is told again when its block is closed, and at the end.
    repeats = False

    # What an API says, as frames: how an answer begins, a new block (for a kind of text, or for
    # a call), its opening, its end with a status; a citation in a text, thinking that came
    # whole (behind its text, if it has any), a picture of a media type, in base64.
    _begin: Callable[[], bytes]
    _block: Callable[[str, ToolCall | None], Block]
    _opened: Callable[[Block], bytes]
    _closed: Callable[[Block, str], Iterator[bytes]]
    _cited: Callable[[Block, Mapping[str, Json]], bytes]
    _sealed: Callable[[Mapping[str, Json]], bytes]
    _drawn: Callable[[str, str], bytes]

    def __init__(self, request: ChatRequest) -> None:
        self.model = request.model
        #: How many events were written.
        self.count = 0
        self._output: list[dict[str, Json]] = []
        self._stream = request.stream
        self._text: Block | None = None  # the reasoning or text that is being written
        self._calls: dict[int, Block] = {}  # those that are open
        self._ended: set[int] = set()  # those that are not
        self._marks: Marks = {}  # what the marks in what is written stand for
        self._finish = Finish()
        self._usage: Usage | None = None

    def write(self, item: Item) -> bytes:
        """Return the frames for *item*."""
        begun = b"" if self.count or not self._stream else self._begin()
        if isinstance(item, Usage):
            self._usage = item
        elif isinstance(item, Finish):
            self._finish = item
        else:
            return begun + self._delta(item)
        return begun

    def _delta(self, delta: Delta) -> bytes:
        frames = b""
        extra = delta.extra or {}
        if delta.marks:
            self._marks |= delta.marks
        logprobs = (delta.logprobs or {}).get("content") or ()
        if delta.reasoning:
            frames += self._say("reasoning", delta.reasoning)
        for thinking in extra.get("thinking_blocks") or ():
            frames += self._sealed(thinking)
        if delta.text or logprobs:
            frames += self._say("text", delta.text, logprobs)
        if delta.refusal:
            frames += self._say("refusal", delta.refusal)
        for annotation in extra.get("annotations") or ():
            told = annotation.get("url_citation")
            if told and self._text is not None and self._text.kind == "text":
                frames += self._cited(self._text, told)
        for image in extra.get("images") or ():
            url: str = image["image_url"]["url"]
            kind, _, data = url.removeprefix("data:").partition(";base64,")
            frames += self._drawn(kind, data) if data else self._leave_out(f"the picture {url}")
        for part in extra.get("content_parts") or ():
            frames += self._leave_out(f"a part of the type {part.get('type')!r}")
        frames = b"".join([frames, *map(self._call, delta.tool_calls)])
        if self._stream and not self.repeats:
            self._marks.clear()
        return frames

    def _say(self, kind: str, text: str, logprobs: Sequence[Json] = ()) -> bytes:
        """Add *text* to the block of its *kind*, a new one if another was written before."""
        frames = b""
        block = self._text
        if block is None or block.kind != kind:
            frames = b"".join(self._close_text())
            block = self._text = self._block(kind, None)
            frames += self._opened(block)
        if self.repeats or not self._stream:
            block.pieces.append(text)
            block.logprobs += logprobs
        return frames + self._filled(block, text, logprobs) if self._stream else frames

    def _filled(self, block: Block, text: str, logprobs: Sequence[Json] = ()) -> bytes:
        number = f"{self.count}}}" if self.numbers else ""
        self.count += 1
        data = f"{block.before}{quote(text)}{block.after}{number}"
        return sse.frame(data.encode("utf-8", "backslashreplace"), event=block.event)

    def _leave_out(self, thing: str) -> bytes:
        """Say in a text of its own that the API has no room for *thing*."""
        frames = [*self._close_text(), self._say("text", f"[left out: {thing}]")]
        return b"".join([*frames, *self._close_text()])

    def _whole(self, block: Block) -> bytes:
        """Return the frames for a *block* that came whole."""
        frames = [*self._close_text(), self._opened(block), *self._closed(block, "completed")]
        return b"".join(frames)

    def _call(self, call: ToolCall) -> bytes:
        frames = b""
        if call.index in self._ended:
            return b""  # its arguments were whole
        is_new = call.index not in self._calls
        if is_new:
            frames = b"".join(self._close_text())
            self._calls[call.index] = self._block("call", call)
        block = self._calls[call.index]
        block.item.update(call.extra or {})
        if is_new:
            frames += self._opened(block)
        if call.arguments:
            block.pieces.append(call.arguments)
            frames += self._filled(block, call.arguments) if self._stream else b""
        return frames

    def _close_text(self, status: str = "completed") -> Iterator[bytes]:
        """Close what is being written, before another block is opened."""
        block, self._text = self._text, None
        return self._close_calls() if block is None else self._closed(block, status)

    def _close_calls(self, status: str = "") -> Iterator[bytes]:
        """Close the calls with *status*; without one those whose arguments are whole."""
        for index, block in list(self._calls.items()):
            if status or is_object(block.pieces):
                del self._calls[index]
                self._ended.add(index)
                yield from self._closed(block, status or "completed")

    def _said(self, block: Block) -> str:
        """Return what has filled *block* so far, a mark if that is long."""
        return set_aside(block.pieces, self._marks)

    def _event(self, type: str, **members: Json) -> bytes:
        """Return the frame of an event with *members*; ``b""`` for a document."""
        if not self._stream:
            return b""
        number = {"sequence_number": self.count} if self.numbers else {}
        self.count += 1
        frame = sse.frame(dump({"type": type, **number, **members}), event=type)
        return restore(frame, self._marks)
