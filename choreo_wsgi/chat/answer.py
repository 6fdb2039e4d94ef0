"""An answer as bytes, so that the code that carries it knows neither items nor APIs.

An API makes an :class:`AnswerWriter` for each request.  An :class:`Answer` reads items from a
source and encodes each with the writer.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence

from .. import sse
from ..errors import ChoreoError, UpstreamTruncated
from .items import Delta, Finish, Item, Json, Usage
from .source import Delegating, Lane, Source

#: Bytes that one ``receive`` returns, about; a larger block is returned alone, without a copy.
_ROUND = 256 * 1024
#: Characters of arguments that take as long as a call, or another part, beside its texts.
_OF_ITEM = 256


class AnswerWriter:
    """Encodes one answer for an API, as a stream of frames or as one document.

    The defaults suit OpenAI's chat completions and an answer that is forwarded unchanged.
    """

    #: The name of the API; a provider that speaks it may forward its bytes unchanged.
    api = "chat"
    #: The members that identify the answer, if they are the same in all its frames.
    identity: Mapping[str, Json] | None = None
    #: The id of an answer that this server stores, in place of the provider's own.
    fixed_id = ""
    #: Members of the answer that replace the provider's own, unless they are empty.
    fixed: Mapping[str, Json] = {}
    #: The frame that keeps a silent stream alive.
    ping = sse.PING
    #: The end marker of a stream without an error.
    done = sse.DONE
    #: Whether the last frame was returned, if that is known before :meth:`ending` returns.
    ended = False

    def __init__(self, model: str, api: str = "") -> None:
        #: The name of the model in the request.
        self.model = model
        self.api = api or self.api

    @property
    def text_ends(self) -> tuple[bytes, bytes] | None:
        """The bytes before and after the JSON string in the frame of a delta with text alone.

        None if they are not the same for every text.
        """
        return None

    def beginning(self) -> Iterator[bytes]:
        """Yield the frames before those of the first item, in blocks of whole frames."""
        yield from ()

    def write(self, item: Item) -> bytes:
        """Return the frames for *item*; ``b""`` for none, as in a document."""
        return b""

    def frames(self, item: Item) -> Iterable[bytes]:
        """Return the bytes of :meth:`write` in blocks of whole frames, as they may be many."""
        return (self.write(item),)

    def finish(self) -> bytes:
        """Return the last frames of the stream, or the whole document."""
        return b""

    def ending(self) -> Iterator[bytes]:
        """Yield the bytes of :meth:`finish` in blocks of whole frames, as they may be many."""
        yield self.finish()

    def passed(self, frames: bytes) -> None:
        """Called with the *frames* that a provider of this API forwarded."""

    def fail(self, error: ChoreoError) -> bytes:
        """Return the frame that ends a stream with *error*."""
        return sse.frame(error.body())


class Answer(Delegating):
    """The answer of *source*, with *n* choices, as *writer* encodes it; *label* is the provider."""

    _source: Source

    def __init__(self, source: Source, writer: AnswerWriter, n: int, label: str) -> None:
        self._source = source
        self._writer = writer
        self._n = n
        self._begun = False
        self._finished: set[int] = set()
        self._frames: Iterator[bytes] | None = None  # blocks that are not returned yet
        self._kept = b""  # the first of them, if it is large
        self._weight = 0  # of the calls, citations and others so far: what the ending may take
        self._late = False  # whether the ending needs a thread that may block
        self.label = label
        self._ended = False
        self.usage: Usage | None = None

    def receive(self, timeout: float) -> bytes:
        """Return the bytes to send that are available within *timeout* seconds.

        Raises UpstreamTruncated, after the bytes before, if the source ends before every choice
        has a finish reason.
        """
        if self._kept:
            block, self._kept = self._kept, b""
            return block
        if self._late and timeout <= 0:
            return b""
        if self._frames is None:
            source = self._source
            self._frames = self._encode([] if source.ended else source.receive(timeout))
        blocks: list[bytes] = []
        size = 0
        for block in self._frames:
            if blocks and len(block) > _ROUND:
                self._kept = block
                break
            blocks.append(block)
            size += len(block)
            if size > _ROUND or (self._late and timeout <= 0):
                break
        else:
            self._frames = None
        return blocks[0] if len(blocks) == 1 else b"".join(blocks)

    def _encode(self, items: Sequence[Item]) -> Iterator[bytes]:
        """Yield the frames of *items* and, if the source has ended, the ending."""
        queue, has_items = deque(items), bool(items)
        del items  # so that each is freed once it is encoded
        if has_items and not self._begun:
            self._begun = True
            yield from self._writer.beginning()
        while queue:
            item = queue.popleft()
            if isinstance(item, Usage):
                self.usage = item
            elif isinstance(item, Finish):
                self._finished.add(item.index)
            elif item.tool_calls or item.extra or item.logprobs:
                self._weight += _weight_of(item)
            frames = self._writer.frames(item)
            del item  # with the texts that were encoded
            yield from frames
        if not self._source.ended:
            return
        if len(self._finished) < self._n:
            if has_items:
                return  # they are sent before the error is raised
            raise UpstreamTruncated("the provider's answer ended before it was complete")
        self._close_source()
        if self._weight > _ROUND:
            self._late = True  # each block may have to parse and encode all of them
            yield b""
        yield from self._writer.ending()
        self._late = False
        self._ended = True

    def lane(self) -> Lane | None:
        find, ends = getattr(self._source, "lane", None), self._writer.text_ends
        return None if find is None or ends is None or self._frames is not None else find(ends)

    def fileno(self) -> int | None:
        return None if self._frames is not None else super().fileno()

    @property
    def ended(self) -> bool:
        return (self._ended or self._writer.ended) and not self._kept

    @property
    def due(self) -> float | None:
        """When to call ``receive`` again: at once while blocks remain.

        None, without a descriptor, if the ending needs a thread that may block.
        """
        if self._late:
            return None
        return 0.0 if self._frames is not None else super().due

    def close(self) -> None:
        self._close_source()
        # After a whole document nobody reads on, and the generator would keep it, in a cycle.
        self._frames = None

    def _close_source(self) -> None:
        self._source.close()
        if self.usage is None:
            self.usage = self._source.usage  # of a cancelled answer


def _weight_of(delta: Delta) -> int:
    """Return what the calls and lists of *delta* may take at the ending, in characters."""
    more = (*(delta.extra or {}).values(), *(delta.logprobs or {}).values())
    parts = sum(len(value) if isinstance(value, list) else 1 for value in more)
    arguments = sum(len(call.arguments) for call in delta.tool_calls)
    return arguments + _OF_ITEM * (len(delta.tool_calls) + parts)
