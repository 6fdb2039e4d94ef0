"""Functions that write and read frames, for the tests of the replay logs."""

from __future__ import annotations

import socket
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from launched import free_port

from choreo_wsgi import sse
from choreo_wsgi.replay import Reader, Store, Writer, open_store
from choreo_wsgi.settings import Settings

#: Opens a store with the settings passed; two calls open the same data in a shared store.
Opener = Callable[..., Store]

#: Seconds after which a test that waits fails.
DEADLINE = 30.0


def in_memory(ttl: float, stream_bytes: int, total_bytes: int) -> Store:
    """Return a store in memory with these settings."""
    settings = Settings(
        replay_ttl_seconds=ttl, replay_stream_bytes=stream_bytes, replay_total_bytes=total_bytes
    )
    return open_store("memory:", settings)


def size_of(store: Store) -> int:
    """Return the bytes that a *store* in memory counts."""
    size: int = store._backend.size  # type: ignore[attr-defined]
    return size


def create(store: Store, owner: str = "alice", **more: str | None) -> Writer:
    """Return the writer of a new stream of *owner* in *store*."""
    writer = store.create(owner, **more).writer
    assert writer is not None
    return writer


def frame(number: int, text: str = "") -> bytes:
    """Return frame *number*; its data look like SSE fields."""
    data = f'{{"n":{number},"text":"{text}\\n\\nid: {number + 1}\\ndata: é\u2028"}}'
    return b"id: %d\n%b" % (number, sse.frame(data.encode()))


def frames(first: int, last: int, text: str = "") -> bytes:
    """Return the frames from *first* to *last*, joined."""
    return b"".join(frame(number, text) for number in range(first, last + 1))


def write(writer: Writer, count: int, *, end: bool = False, text: str = "") -> bytes:
    """Append *count* frames, one at a time; return them."""
    first = writer.last + 1
    for number in range(first, first + count):
        writer.append(frame(number, text), 1)
    if end:
        writer.append(b"", 0, end=True)
    return frames(first, first + count - 1, text)


def receive(reader: Reader, size: int) -> bytes:
    """Return at least *size* bytes, or all until the log ends."""
    data = b""
    deadline = time.monotonic() + DEADLINE
    while len(data) < size and not reader.ended:
        assert time.monotonic() < deadline, f"only {len(data)} of {size} bytes were received"
        data += reader.receive(0.2)
    return data


def read_all(reader: Reader) -> bytes:
    """Return the rest of the log, and close *reader*."""
    data = receive(reader, 1 << 60)
    reader.close()
    return data


def look(store: Store, id: str, owner: str = "alice") -> Any:
    """Return the state of a stream: its numbers *first* and *last*, *ended*, *cancelled*."""
    return store._status(id, owner)


def eventually(condition: Callable[[], object]) -> None:
    """Wait until *condition* is true."""
    deadline = time.monotonic() + DEADLINE
    while not condition():
        assert time.monotonic() < deadline, "the condition did not become true"
        time.sleep(0.01)


class RedisServer:
    """A redis-server of our own, with its data in *directory*."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.port = free_port()  # nobody else gets it while the server is stopped
        self.url = f"redis://127.0.0.1:{self.port}/0"
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        self.process = subprocess.Popen(
            ["redis-server", "--port", str(self.port), "--bind", "127.0.0.1", "--dir", "."],
            cwd=self.directory,
            stdout=subprocess.DEVNULL,
        )
        eventually(self._answers)

    def _answers(self) -> bool:
        assert self.process is not None and self.process.poll() is None, "redis-server ended"
        try:
            with socket.create_connection(("127.0.0.1", self.port), 1) as client:
                client.sendall(b"PING\r\n")
                return client.recv(16).startswith(b"+PONG")
        except OSError:
            return False

    def stop(self) -> None:
        """Stop it with SIGTERM, so that it saves its data."""
        if self.process is not None:
            self.process.terminate()
            self.process.wait(DEADLINE)
            self.process = None
