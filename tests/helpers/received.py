"""An upstream's answer that has arrived, for tests without sockets."""

from __future__ import annotations


class Received:
    """An exchange that has received all of *body*, and returns it in blocks of *size* bytes."""

    status, headers, due = 200, {}, None

    def __init__(self, body: bytes, size: int = 128 * 1024) -> None:
        self._body, self._size, self._at = body, size, 0
        self.ended = False

    def receive(self, timeout: float) -> bytes:
        block = self._body[self._at : self._at + self._size]
        self._at += len(block)
        self.ended = self._at >= len(self._body)
        return block

    def fileno(self) -> None:
        return None

    def close(self) -> None:
        self.ended = True

    finish = close
