"""A source as bytes: whoever carries an answer knows neither items nor APIs.

An API makes an :class:`AnswerWriter` for each request; an :class:`Answer` reads the source and
gives each item to the writer.
"""

from __future__ import annotations

from collections.abc import Mapping

from .. import sse
from ..errors import ChoreoError, UpstreamTruncated
from .items import Finish, Item, Json, Usage
from .source import Lane, Over, Source


class AnswerWriter:
    """Writes one answer in the words of an API, as a stream of frames or as one document.

    What stands here is right for OpenAI's chat, and for an answer that passes as it is.
    """

    #: The API's name, as ``chat``; a provider that speaks it may pass bytes on as they are.
    api = "chat"
    #: The model's name, as the caller asked for it.
    model: str
    #: The identity of the answer, where it has one for the whole of it.
    identity: Mapping[str, Json] | None = None
    #: The id of an answer that is kept here, also over a provider that speaks this API.
    fixed_id = ""
    #: What keeps a silent stream alive.
    ping = sse.ping()
    #: What follows the last frame of a stream that ended well.
    done = sse.DONE

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

    def passed(self, frames: bytes) -> None:
        """Take note of *frames* that a provider which speaks this API passed on."""

    def fail(self, error: ChoreoError) -> bytes:
        """Return the frame that ends a stream with *error*."""
        return sse.frame(error.body())


class Answer(Over):
    """The answer of *n* choices that *source* gives, as *writer* writes it.

    *label* says who answers.
    """

    _source: Source

    def __init__(self, source: Source, writer: AnswerWriter, n: int, label: str) -> None:
        self._source = source
        self._writer = writer
        self._n = n
        self._finished: set[int] = set()
        self.label = label
        self.ended = False
        self.usage: Usage | None = None

    def receive(self, timeout: float) -> bytes:
        """Return what there is to send after at most *timeout* seconds.

        Raises UpstreamTruncated when the source ends before every choice has its finish
        reason, after what came before.
        """
        if self._source.ended:
            return self._end()
        write = self._writer.write
        blocks: list[bytes] = []
        for item in self._source.receive(timeout):
            if isinstance(item, Usage):
                self.usage = item
            elif isinstance(item, Finish):
                self._finished.add(item.index)
            blocks.append(write(item))
        block = blocks[0] if len(blocks) == 1 else b"".join(blocks)
        if self._source.ended and not (block and len(self._finished) < self._n):
            block += self._end()
        return block

    def lane(self) -> Lane | None:
        """Return the lane of the source for texts, if it has one."""
        find, ends = getattr(self._source, "lane", None), self._writer.text_ends
        return None if find is None or ends is None else find(ends)

    def _end(self) -> bytes:
        if len(self._finished) < self._n:
            raise UpstreamTruncated("the provider's answer ended before it was complete")
        self.ended = True
        self.close()
        return self._writer.finish()

    def close(self) -> None:
        """Stop the generation."""
        self._source.close()
        if self.usage is None:
            self.usage = self._source.usage  # of an answer that was broken off
