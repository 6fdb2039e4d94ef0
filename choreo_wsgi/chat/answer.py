"""An answer as bytes, so that those who carry it need to know neither items nor APIs.

An API makes an :class:`AnswerWriter` for each request.  An :class:`Answer` reads the source and
gives each item to the writer.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Mapping, Sequence

from .. import sse
from ..errors import ChoreoError, UpstreamTruncated
from .items import Finish, Item, Json, Usage
from .source import Delegating, Lane, Source

#: Bytes that are written before others have their turn; a block that is larger is never copied.
_ROUND = 256 * 1024


class AnswerWriter:
    """Writes one answer in the words of an API, as a stream of frames or as one document.

    What stands here is right for OpenAI's chat, and for an answer that passes as it is.
    """

    #: The API's name; a provider that speaks it may pass bytes on as they are.
    api = "chat"
    #: The identity of the answer, where it has one for the whole of it.
    identity: Mapping[str, Json] | None = None
    #: The id of an answer that is kept here, also over a provider that speaks this API.
    fixed_id = ""
    #: What keeps a silent stream alive.
    ping = sse.ping()
    #: What follows the last frame of a stream that ended well.
    done = sse.DONE

    def __init__(self, model: str, api: str = "") -> None:
        #: The model's name, as the caller asked for it.
        self.model = model
        self.api = api or self.api

    @property
    def text_ends(self) -> tuple[bytes, bytes] | None:
        """What is around the JSON of a text in the frame of a delta that has nothing else.

        None where that depends on more than the text.
        """
        return None

    def write(self, item: Item) -> bytes:
        """Return the frames for *item*; ``b""`` where there are none, as in a document."""
        return b""

    def finish(self) -> bytes:
        """Return what follows the last item: the last frames, or the whole document."""
        return b""

    def ending(self) -> Iterator[bytes]:
        """Yield what :meth:`finish` returns, in whole frames: it may be much."""
        yield self.finish()

    def passed(self, frames: bytes) -> None:
        """Take note of *frames* that a provider which speaks this API passed on."""

    def fail(self, error: ChoreoError) -> bytes:
        """Return the frame that ends a stream with *error*."""
        return sse.frame(error.body())


class Answer(Delegating):
    """The answer of *n* choices that *source* gives, as *writer* writes it.

    *label* says who answers.
    """

    _source: Source

    def __init__(self, source: Source, writer: AnswerWriter, n: int, label: str) -> None:
        self._source = source
        self._writer = writer
        self._n = n
        self._finished: set[int] = set()
        self._frames: Iterator[bytes] | None = None  # those that are still to be returned
        self._kept = b""  # the first of them, if that is large
        self._arguments = 0  # characters of the calls so far
        self._late = False  # whether the ending is left to who may wait
        self.label = label
        self.ended = False
        self.usage: Usage | None = None

    def receive(self, timeout: float) -> bytes:
        """Return what there is to send after at most *timeout* seconds.

        Raises UpstreamTruncated when the source ends before every choice has its finish
        reason, after what came before.
        """
        if self._kept:
            block, self._kept = self._kept, b""
            return block
        if self._late and timeout <= 0:
            return b""
        self._late = False
        if self._frames is None:
            source = self._source
            self._frames = self._written([] if source.ended else source.receive(timeout))
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

    def _written(self, items: Sequence[Item]) -> Iterator[bytes]:
        """Yield the frames of *items*, and the ending behind the last."""
        waiting, came = deque(items), bool(items)
        del items  # each is let go of once it is written
        while waiting:
            item = waiting.popleft()
            if isinstance(item, Usage):
                self.usage = item
            elif isinstance(item, Finish):
                self._finished.add(item.index)
            elif item.tool_calls:
                self._arguments += sum(len(call.arguments) for call in item.tool_calls)
            yield self._writer.write(item)
        if not self._source.ended:
            return
        if len(self._finished) < self._n:
            if came:
                return  # they go first
            raise UpstreamTruncated("the provider's answer ended before it was complete")
        self._leave()
        if self._arguments > _ROUND:
            self._late = True  # it may look through all of them
            yield b""
        yield from self._writer.ending()
        self.ended = True

    def lane(self) -> Lane | None:
        find, ends = getattr(self._source, "lane", None), self._writer.text_ends
        return None if find is None or ends is None or self._frames is not None else find(ends)

    def fileno(self) -> int | None:
        return None if self._frames is not None else super().fileno()

    @property
    def due(self) -> float | None:
        """When to ask again although nothing came: at once while there is more to say.

        None, and no descriptor, while the ending is left to who may wait.
        """
        if self._late:
            return None
        return 0.0 if self._frames is not None else super().due

    def close(self) -> None:
        self._leave()
        # Who has the whole document asks for no more: what wrote it would keep it, in a cycle.
        self._frames = None

    def _leave(self) -> None:
        self._source.close()
        if self.usage is None:
            self.usage = self._source.usage  # of an answer that was broken off
