"""A source of chunks as what the caller gets: frames, or the one document of a completion."""

from __future__ import annotations

from . import sse
from .chunks import ChunkEncoder, Finish, Usage, dump
from .errors import UpstreamTruncated
from .fold import Fold
from .source import Source

__all__ = ["EncodedFrames", "FoldedReply"]

_TRUNCATED = "the provider's answer ended before it was complete"


class _Reading:
    """What reading a source as frames and as a document have in common."""

    def __init__(self, source: Source, encoder: ChunkEncoder, n: int, label: str) -> None:
        self._source = source
        self._encoder = encoder
        self._n = n
        self.label = label
        self.ended = False
        self.usage: Usage | None = None

    def fileno(self) -> int | None:
        """Return the file descriptor to poll, or None."""
        return self._source.fileno()

    def close(self) -> None:
        """Stop the generation."""
        self._source.close()
        if self.usage is None:
            self.usage = self._source.usage  # of an answer that was broken off


class EncodedFrames(_Reading):
    """The frames of an answer of *n* choices, written by *encoder*.

    ``receive`` raises UpstreamTruncated when the source ends before every choice has its
    finish reason.
    """

    def __init__(self, source: Source, encoder: ChunkEncoder, n: int, label: str) -> None:
        super().__init__(source, encoder, n, label)
        self._finished: set[int] = set()

    def receive(self, timeout: float) -> bytes:
        """Return the frames that came within *timeout* seconds, joined."""
        if self._source.ended:
            return self._end()
        frames: list[bytes] = []
        for item in self._source.receive(timeout):
            if isinstance(item, Usage):
                self.usage = item
                continue
            if isinstance(item, Finish):
                self._finished.add(item.index)
            frames += map(sse.frame, self._encoder.encode(item))
        if self._source.ended and not (frames and len(self._finished) < self._n):
            frames.append(self._end())
        return frames[0] if len(frames) == 1 else b"".join(frames)

    def _end(self) -> bytes:
        if len(self._finished) < self._n:
            raise UpstreamTruncated(_TRUNCATED)
        self.ended = True
        self.close()
        if self._encoder.include_usage and self.usage is not None:
            return sse.frame(self._encoder.usage(self.usage))
        return b""


class FoldedReply(_Reading):
    """The document of an answer of *n* choices, once all of it is there."""

    def __init__(self, source: Source, encoder: ChunkEncoder, n: int, label: str) -> None:
        super().__init__(source, encoder, n, label)
        self._fold = Fold(n)

    def receive(self, timeout: float) -> bytes:
        """Return the whole document once it is there, ``b""`` before.

        Raises UpstreamTruncated when the source ended before every choice was finished.
        """
        if not self._source.ended:
            for item in self._source.receive(timeout):
                self._fold.add(item)
        if not self._source.ended:
            return b""
        if not self._fold.complete:
            raise UpstreamTruncated(_TRUNCATED)
        self.ended = True
        self.usage = self._fold.usage
        self.close()
        head = self._encoder
        return dump(self._fold.completion(head.id, head.created, head.model))
