"""The common base of the writers of Responses and Messages, whose answers are lists of blocks.

Reasoning, text, tool calls and images are blocks of their own; Responses calls them output
items.  A block is opened, filled by deltas and closed before the next one is opened, unless a
provider interleaves the pieces of several calls.  Answers without a stream take the same steps,
but write no events.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from .. import sse
from ..chat import large
from ..chat.answer import AnswerWriter
from ..chat.aside import beginning, decode_pieces, is_object
from ..chat.calls import Brackets
from ..chat.growing import Growing, JsonText, utf8_or_mark
from ..chat.items import Delta, Finish, Item, Json, Marks, ToolCall, Usage, dump, dump_large, quote
from ..chat.jsontext import encoded, strict
from ..chat.longtext import WINDOW, find_marks, new_number, restore, restored
from ..chat.request import ChatRequest
from ..errors import UpstreamInvalid

#: Limit of blocks: a response repeats all of them at its end.
_MOST_BLOCKS = 2048
#: The same for characters that escapes add to arguments, which a log has several times.
_MOST_ESCAPES = 512 * 1024
#: Limit of characters of the name of what is left out, such as a picture's URL.
_LONGEST_NAME = 16 * 1024
#: Members of a delta that are written.
_WRITTEN = frozenset(("thinking_blocks", "annotations", "images", "content_parts"))
_ONE_LINE = bytes.maketrans(b"\r\n", b"  ")


@dataclass
class Block:
    """A block that is being written.

    *item* is its object in the document; *position* holds the members that locate it in events.
    The text of the deltas becomes the *member* of *part*, which is the item itself or an
    element of the item's list *holder*.  A delta is an *event* whose JSON has *before* and
    *after* around the text; no deltas are sent if *before* is empty.
    """

    kind: str  # text, refusal, reasoning or call; other kinds get no deltas
    item: dict[str, Json]
    position: dict[str, Json]
    part: dict[str, Json]
    member: str = ""
    holder: str = ""
    event: str = ""
    before: bytes = b""
    after: bytes = b""
    text: Growing = field(default_factory=Growing)
    arguments: bytearray = field(default_factory=bytearray)  # the text of a call
    _scanned: int = 0  # bytes of the arguments that _brackets has
    _brackets: Brackets = field(default_factory=Brackets)
    _is_invalid: bool = False  # the brackets closed, but around no JSON object

    @property
    def is_complete(self) -> bool:
        """Whether the arguments form a complete JSON object; each byte is scanned once."""
        if self._is_invalid or self.arguments[-1:] != b"}":
            return False
        for piece in decode_pieces(self.arguments, self._scanned):
            self._brackets.add(piece)
        self._scanned = len(self.arguments)
        if not self._brackets.closed:
            return False
        self._is_invalid = not is_object(self.arguments)
        return not self._is_invalid


def input_of(arguments: bytearray, marks: Marks) -> Json:
    """Return the object in a call's *arguments*; other text becomes its member ``raw``."""
    if not arguments.strip():
        return {}
    if not is_object(arguments, strict):
        return {"raw": utf8_or_mark(arguments, marks)}
    if b"\n" in arguments or b"\r" in arguments:  # white space, which an event cannot hold
        arguments[:] = arguments.translate(_ONE_LINE)
    number = new_number()
    marks[number.encode()] = JsonText(arguments)
    return int(number)


class BlockWriter(AnswerWriter):
    """Writes one answer to *request*, as events or a document; subclasses define the events."""

    done = b""
    #: Whether events are numbered, and repeat the text when a block and the answer end.
    repeats = False

    # The hooks that an API implements; all but _new_block return frames.  The block end gets its
    # status, thinking is signed or redacted, an image has a media type, base64 data and its part.
    _first_events: Callable[[], Iterator[bytes]]
    _new_block: Callable[[str, ToolCall | None], Block]  # for a kind of text, or for a call
    _block_start: Callable[[Block], Iterator[bytes]]
    _block_end: Callable[[Block, str], Iterator[bytes]]
    _citation: Callable[[Block, Mapping[str, Json]], bytes]
    _thinking_block: Callable[[Mapping[str, Json]], Iterator[bytes]]
    _image: Callable[[str, str, Mapping[str, Json]], Iterator[bytes]]

    def __init__(self, request: ChatRequest) -> None:
        super().__init__(request.model)
        #: Number of events written so far.
        self.count = 0
        self._log = request.log
        #: The id of the first event, as the log numbers them; 0 without a log.
        self._first_id = request.log.last + 1 if request.log is not None else 0
        self._output: list[dict[str, Json]] = []
        self._stream = request.stream
        self._open_text: Block | None = None  # of text, refusal or reasoning
        self._open_calls: dict[int, Block] = {}  # by the index of the call
        self._extended_calls: dict[int, None] = {}  # open, with arguments that may be complete
        self._closed_calls: set[int] = set()
        self._has_many = False  # whether events may have many values
        self._escapes = 0  # characters that escapes added to the arguments
        self._marks: Marks = {}  # the long texts that marks in the output stand for
        self._finish = Finish()
        self._usage: Usage | None = None

    def beginning(self) -> Iterator[bytes]:
        return self._first_events() if self._stream else iter(())

    def write(self, item: Item) -> bytes:
        return b"".join(self.frames(item))

    def frames(self, item: Item) -> Iterable[bytes]:
        if not self.count and self._stream:  # nobody called ``beginning``
            return [*self.beginning(), *self.frames(item)]
        if isinstance(item, Usage):
            self._usage = item
        elif isinstance(item, Finish):
            self._finish = item
        else:
            block = self._open_text
            more = item.reasoning or item.refusal or item.extra
            if block is None or block.kind != "text" or more or item.tool_calls or item.logprobs:
                return self._delta_events(item)
            return (self._text_delta(block, item.text),) if item.text else ()  # the usual case
        return ()

    def _delta_events(self, delta: Delta) -> Iterator[bytes]:
        if len(self._output) > _MOST_BLOCKS:
            raise UpstreamInvalid(f"the provider's answer has more than {_MOST_BLOCKS:,} parts")
        extra = delta.extra or {}
        if delta.marks and not _WRITTEN.isdisjoint(extra):
            self._marks |= delta.marks
        logprobs = (delta.logprobs or {}).get("content") or ()
        thoughts = [(one.get("thinking") or "", one) for one in extra.get("thinking_blocks") or ()]
        in_blocks = delta.reasoning == "".join(text for text, _ in thoughts)  # LiteLLM sends both
        if delta.reasoning and not in_blocks:
            yield from self._add_text("reasoning", delta.reasoning)
        for text, thinking in thoughts:
            is_signed = thinking.get("signature") or thinking.get("data")
            is_open = self._open_text is not None and self._open_text.kind == "reasoning"
            if text and (not is_open if is_signed else in_blocks or not delta.reasoning):
                yield from self._add_text("reasoning", text)
            if is_signed:
                yield from self._thinking_block(thinking)
        if delta.text or logprobs:
            yield from self._add_text("text", delta.text, logprobs)
        if delta.refusal:
            yield from self._add_text("refusal", delta.refusal)
        for annotation in extra.get("annotations") or ():
            citation = annotation.get("url_citation")
            if citation and self._open_text is not None and self._open_text.kind == "text":
                yield self._citation(self._open_text, citation)
        for image in extra.get("images") or ():
            url: str = image["image_url"]["url"]
            head, _, data = url.partition(";base64,")
            if data:
                yield from self._image(head.removeprefix("data:"), data, image)
            else:
                yield from self._note_omission(f"the picture {url}")
        for part in extra.get("content_parts") or ():
            yield from self._note_omission(f"a part of the type {part.get('type')!r}")
        for call in delta.tool_calls:
            yield from self._add_call(call)
        if self._stream and not self.repeats:
            self._marks.clear()

    def _add_text(self, kind: str, text: str, logprobs: Sequence[Json] = ()) -> Iterator[bytes]:
        """Add *text* to the open block if it is of this *kind*, else to a new one."""
        if self._open_text is None or self._open_text.kind != kind:
            yield from self._close_blocks()
            self._open_text = self._new_block(kind, None)
            yield from self._block_start(self._open_text)
        yield self._text_delta(self._open_text, text, logprobs)

    def _note_omission(self, thing: str) -> Iterator[bytes]:
        """Write a text block which says that *thing* is left out, as the API cannot hold it."""
        yield from self._close_blocks()
        shown = beginning(thing, self._marks, _LONGEST_NAME)
        yield from self._add_text("text", f"[left out: {shown}]")
        yield from self._close_blocks()

    def _complete_block(self, block: Block, **late: Json) -> Iterator[bytes]:
        """Yield the frames for a complete *block*; the members *late* follow its start."""
        yield from self._close_blocks()
        yield from self._block_start(block)
        block.item.update(late)
        yield from self._block_end(block, "completed")

    def _add_call(self, call: ToolCall) -> Iterator[bytes]:
        if call.index in self._closed_calls:
            return  # its arguments were complete
        is_new = call.index not in self._open_calls
        if is_new:
            yield from self._close_blocks()
            self._open_calls[call.index] = self._new_block("call", call)
        block = self._open_calls[call.index]
        block.item.update(call.extra or {})
        if is_new:
            yield from self._block_start(block)
        if call.arguments:
            self._extended_calls[call.index] = None
            yield self._text_delta(block, call.arguments)

    def _text_delta(self, block: Block, text: str, logprobs: Sequence[Json] = ()) -> bytes:
        """Add *text* to *block*; return the frame of its delta."""
        is_call = block.kind == "call"
        given = encoded(text) if is_call else b""
        if is_call:
            block.arguments += given
        elif self.repeats or not self._stream:
            block.text.add(text, self._marks)
        if not (self._stream and block.before):
            return b""
        number = b"%d}" % self.count if self.repeats else b""
        quoted = quote(text).encode("utf-8", "backslashreplace")
        if is_call and self._log is not None:
            self._escapes += len(quoted) - len(given)
            if self._escapes > _MOST_ESCAPES:
                raise UpstreamInvalid("the arguments of the provider's calls need many escapes")
        data = b"".join((block.before, quoted, block.after, number))
        return self._frame(data, block.event)

    def _close_blocks(self, status: str = "") -> Iterator[bytes]:
        """Close all open blocks with *status*, at the end of the answer.

        Without a *status*, before the next block, calls with incomplete arguments stay open.
        """
        block, self._open_text = self._open_text, None
        if block is not None:
            yield from self._block_end(block, status or "completed")
        extended, self._extended_calls = self._extended_calls, {}
        for index in list(self._open_calls if status else extended):
            call = self._open_calls[index]
            if status or call.is_complete:
                del self._open_calls[index]
                self._closed_calls.add(index)
                yield from self._block_end(call, status or "completed")

    def _text_so_far(self, block: Block) -> str:
        """Return the text of the deltas of *block* so far, or a mark if it is long."""
        if block.kind == "call":
            return utf8_or_mark(block.arguments, self._marks)
        return block.text.whole(self._marks)

    def _event(self, type: str, **members: Json) -> bytes:
        """Return the frame of an event with *members*; ``b""`` if the answer is no stream."""
        frame = self._marked_event(type, members)
        if self._log is None or next(find_marks(frame, self._marks), None) is None:
            return restore(frame, self._marks)
        return large.join(self._making_room(restored(frame, self._marks)))

    def _marked_event(self, type: str, members: Mapping[str, Json]) -> bytes:
        """Return :meth:`_event` with the marks still in it."""
        if not self._stream:
            return b""
        number = {"sequence_number": self.count} if self.repeats else {}
        encode = dump_large if self._has_many else dump
        return self._frame(encode({"type": type, **number, **members}), type)

    def _frame(self, data: bytes, event: str) -> bytes:
        id = self._first_id and self._first_id + self.count
        self.count += 1
        return sse.frame(data, event, id)

    def _making_room(self, parts: Iterable[bytes | memoryview]) -> Iterator[bytes | memoryview]:
        """Yield *parts*, of a frame that the log will have; free first what it will push out."""
        size = freed = 0
        for part in parts:
            size += len(part)
            if size - freed >= WINDOW:
                self._log.make_room(size)
                freed = size
            yield part
