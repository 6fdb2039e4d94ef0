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
from ..chat.calls import Brackets
from ..chat.items import Delta, Finish, Item, Json, Marks, ToolCall, Usage, dump, quote
from ..chat.longtext import restore
from ..chat.request import ChatRequest


@dataclass
class Block:
    """A block that is being written.

    *item* is what stands in the document, and *where* what an event says of its place.  What
    fills it becomes the *member* of its *part*, which is the item itself or stands in its list
    *holder*.  A delta's *event* has *before* and *after* its text; without *before* there are
    none.
    """

    kind: str  # text, refusal, reasoning, call or another that is not filled by deltas
    item: dict[str, Json]
    where: dict[str, Json]
    part: dict[str, Json]
    member: str = ""
    holder: str = ""
    event: str = ""
    before: str = ""
    after: str = ""
    pieces: list[str] = field(default_factory=list)
    _seen: int = 0  # so many of them
    _brackets: Brackets = field(default_factory=Brackets)
    _broken: bool = False  # no JSON, whatever follows

    @property
    def whole(self) -> bool:
        """Whether the pieces are a whole object; each is looked at once."""
        if self._broken or self.pieces[-1][-1:] != "}":
            return False
        for piece in self.pieces[self._seen :]:
            self._brackets.add(piece)
        self._seen = len(self.pieces)
        if not self._brackets.closed:
            return False
        self._broken = not is_object(self.pieces)
        return not self._broken


class BlockWriter(AnswerWriter):
    """Writes one answer to *request*, as events or not; an API says what is in each event."""

    done = b""
    #: Whether each event has its number, and what was said is told again when its block is
    #: closed, and at the end.
    repeats = False

    # What an API says, as frames: how an answer begins, a new block (for a kind of text, or for
    # a call), its opening, its end with a status; a citation in a text, thinking that came
    # whole (behind its text, if it has any), a picture of a media type, in base64, and its part.
    _begin: Callable[[], Iterator[bytes]]
    _block: Callable[[str, ToolCall | None], Block]
    _opened: Callable[[Block], Iterator[bytes]]
    _closed: Callable[[Block, str], Iterator[bytes]]
    _cited: Callable[[Block, Mapping[str, Json]], bytes]
    _sealed: Callable[[Mapping[str, Json]], Iterator[bytes]]
    _drawn: Callable[[str, str, Mapping[str, Json]], Iterator[bytes]]

    def __init__(self, request: ChatRequest) -> None:
        super().__init__(request.model)
        #: How many events were written.
        self.count = 0
        self._output: list[dict[str, Json]] = []
        self._stream = request.stream
        self._text: Block | None = None  # the reasoning or text that is being written
        self._calls: dict[int, Block] = {}  # those that are open
        self._grown: dict[int, None] = {}  # those of them that may be whole by now
        self._ended: set[int] = set()  # those that are not open any more
        self._marks: Marks = {}  # what the marks in what is written stand for
        self._finish = Finish()
        self._usage: Usage | None = None

    def write(self, item: Item) -> bytes:
        """Return the frames for *item*."""
        begun = b"" if self.count or not self._stream else b"".join(self._begin())
        if isinstance(item, Usage):
            self._usage = item
        elif isinstance(item, Finish):
            self._finish = item
        else:
            block, more = self._text, item.reasoning or item.refusal or item.extra or item.marks
            if block is None or block.kind != "text" or more or item.tool_calls or item.logprobs:
                return b"".join([begun, *self._delta(item)])
            return self._filled(block, item.text) if item.text else b""  # as nearly all are
        return begun

    def _delta(self, delta: Delta) -> Iterator[bytes]:
        extra = delta.extra or {}
        self._marks |= delta.marks or {}
        logprobs = (delta.logprobs or {}).get("content") or ()
        if delta.reasoning:
            yield from self._say("reasoning", delta.reasoning)
        for thinking in extra.get("thinking_blocks") or ():
            yield from self._sealed(thinking)
        if delta.text or logprobs:
            yield from self._say("text", delta.text, logprobs)
        if delta.refusal:
            yield from self._say("refusal", delta.refusal)
        for annotation in extra.get("annotations") or ():
            told = annotation.get("url_citation")
            if told and self._text is not None and self._text.kind == "text":
                yield self._cited(self._text, told)
        for image in extra.get("images") or ():
            url: str = image["image_url"]["url"]
            kind, _, data = url.removeprefix("data:").partition(";base64,")
            if data:
                yield from self._drawn(kind, data, image)
            else:
                yield from self._leave_out(f"the picture {url}")
        for part in extra.get("content_parts") or ():
            yield from self._leave_out(f"a part of the type {part.get('type')!r}")
        for call in delta.tool_calls:
            yield from self._call(call)
        if self._stream and not self.repeats:
            self._marks.clear()

    def _say(self, kind: str, text: str, logprobs: Sequence[Json] = ()) -> Iterator[bytes]:
        """Add *text* to the block of its *kind*, a new one if another was written before."""
        if self._text is None or self._text.kind != kind:
            yield from self._close()
            self._text = self._block(kind, None)
            yield from self._opened(self._text)
        yield self._filled(self._text, text, logprobs)

    def _leave_out(self, thing: str) -> Iterator[bytes]:
        """Say in a text of its own that the API has no room for *thing*."""
        yield from self._close()
        yield from self._say("text", f"[left out: {thing}]")
        yield from self._close()

    def _whole(self, block: Block) -> Iterator[bytes]:
        """Yield the frames for a *block* that came whole."""
        yield from self._close()
        yield from self._opened(block)
        yield from self._closed(block, "completed")

    def _call(self, call: ToolCall) -> Iterator[bytes]:
        if call.index in self._ended:
            return  # its arguments were whole
        is_new = call.index not in self._calls
        if is_new:
            yield from self._close()
            self._calls[call.index] = self._block("call", call)
        block = self._calls[call.index]
        block.item.update(call.extra or {})
        if is_new:
            yield from self._opened(block)
        if call.arguments:
            self._grown[call.index] = None
            yield self._filled(block, call.arguments)

    def _filled(self, block: Block, text: str, logprobs: Sequence[Json] = ()) -> bytes:
        """Add *text* to *block*; return the frame that tells of it."""
        if self.repeats or block.kind == "call" or not self._stream:
            block.pieces.append(text)
        if not (self._stream and block.before):
            return b""
        number = f"{self.count}}}" if self.repeats else ""
        self.count += 1
        data = f"{block.before}{quote(text)}{block.after}{number}"
        return sse.frame(data.encode("utf-8", "backslashreplace"), event=block.event)

    def _close(self, status: str = "") -> Iterator[bytes]:
        """Close all that is open, with *status*; without one, before another block is opened,
        not the calls whose arguments are not whole."""
        block, self._text = self._text, None
        if block is not None:
            yield from self._closed(block, status or "completed")
        grown, self._grown = self._grown, {}
        for index in list(self._calls if status else grown):
            call = self._calls[index]
            if status or call.whole:
                del self._calls[index]
                self._ended.add(index)
                yield from self._closed(call, status or "completed")

    def _said(self, block: Block) -> str:
        """Return what has filled *block* so far, a mark if that is long."""
        return set_aside(block.pieces, self._marks)

    def _event(self, type: str, **members: Json) -> bytes:
        """Return the frame of an event with *members*; ``b""`` for a document."""
        if not self._stream:
            return b""
        number = {"sequence_number": self.count} if self.repeats else {}
        self.count += 1
        frame = sse.frame(dump({"type": type, **number, **members}), event=type)
        return restore(frame, self._marks)
