"""An answer as a list of blocks: what the writers of Responses and Messages have in common.

Reasoning, text, tool calls and pictures are blocks of their own; Responses calls them output
items.  Each is opened, filled by deltas and closed before the next one is opened, unless a
provider mixes the pieces of several calls.  The document of an answer is made as its events are.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from .. import sse
from ..chat import jsontext
from ..chat.answer import AnswerWriter
from ..chat.items import Delta, Finish, Item, Json, ToolCall, Usage, dump, quote
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

    @property
    def text(self) -> str:
        """What has filled it so far."""
        return "".join(self.pieces)


class BlockWriter(AnswerWriter):
    """Writes one answer to *request*, as events or not; an API says what is in each event."""

    done = b""
    #: Whether each event has its number.
    numbers = False

    # What an API says, as frames: how an answer begins, a new block (for a kind of text, or for
    # a call), its opening, its end with a status; a citation in a text, thinking that came
    # whole (behind its text, if it has any), a picture of a media type, in base64.
    _begin: Callable[[], bytes]
    _block: Callable[[str, ToolCall | None], Block]
    _opened: Callable[[Block], bytes]
    _closed: Callable[[Block, str], bytes]
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
        self._calls: dict[int, Block | None] = {}  # None: closed
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
        for call in delta.tool_calls:
            frames += self._call(call)
        return frames

    def _say(self, kind: str, text: str, logprobs: Sequence[Json] = ()) -> bytes:
        """Add *text* to the block of its *kind*, a new one if another was written before."""
        frames = b""
        block = self._text
        if block is None or block.kind != kind:
            frames = self._close_text()
            block = self._text = self._block(kind, None)
            frames += self._opened(block)
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
        frames = self._close_text() + self._say("text", f"[left out: {thing}]")
        return frames + self._close_text()

    def _whole(self, block: Block) -> bytes:
        """Return the frames for a *block* that came whole."""
        return self._close_text() + self._opened(block) + self._closed(block, "completed")

    def _call(self, call: ToolCall) -> bytes:
        frames = b""
        is_new = call.index not in self._calls
        if is_new:
            frames = self._close_text()
            self._calls[call.index] = self._block("call", call)
        block = self._calls[call.index]
        if block is None:
            return b""  # its arguments were whole
        block.item.update(call.extra or {})
        if is_new:
            frames += self._opened(block)
        if call.arguments:
            block.pieces.append(call.arguments)
            frames += self._filled(block, call.arguments) if self._stream else b""
        return frames

    def _close_text(self, status: str = "completed") -> bytes:
        """Close what is being written, before another block is opened."""
        block, self._text = self._text, None
        return self._close_calls() if block is None else self._closed(block, status)

    def _close_calls(self, status: str = "") -> bytes:
        """Close the calls with *status*; without one those whose arguments are whole."""
        frames = []
        for index, block in self._calls.items():
            if block is not None and (status or jsontext.is_object(block.text)):
                self._calls[index] = None
                frames.append(self._closed(block, status or "completed"))
        return b"".join(frames)

    def _event(self, type: str, **members: Json) -> bytes:
        """Return the frame of an event with *members*; ``b""`` for a document."""
        if not self._stream:
            return b""
        number = {"sequence_number": self.count} if self.numbers else {}
        self.count += 1
        return sse.frame(dump({"type": type, **number, **members}), event=type)
