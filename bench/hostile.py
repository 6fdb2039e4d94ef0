"""``python -m bench hostile``: the worst that one request, or one event, does to others.

For each kind: how long the frames of a stream of 100 a second paused in all at the most, and by
how much the process grew at its peak, in multiples of the bytes that were sent.
"""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable

from .actor import EVENTS, Server, chat, post, read, served

MEBIBYTE = 1024 * 1024
SIZE = 8_000_000

#: What stands in an unknown member of a request.
MEMBERS: dict[str, Callable[[], bytes]] = {
    "one word": lambda: b'"%b"' % (b"x" * SIZE),
    "escapes": lambda: b'"%b"' % (b"\\n" * (SIZE // 2)),
    "quotes": lambda: b'"%b"' % (b'\\"' * (SIZE // 2)),
    "pairs": lambda: b'"%b"' % (b"\\ud83d\\ude00" * (SIZE // 12)),
    "one escaped emoji": lambda: b'"\\ud83d\\ude00%b"' % (b"x" * SIZE),
    "one emoji": lambda: b'"%b"' % ("\U0001f600".encode() + b"x" * SIZE),
    "lists": lambda: b"[" + b"[]," * (SIZE // 3) + b"[]]",
    "objects": lambda: b"[" + b"{}," * (SIZE // 3) + b"{}]",
    "numbers": lambda: b"[" + b"1.5," * (SIZE // 4) + b"1]",
    "as many values as may be": lambda: b"[" + b'{"a":1},' * 6_000 + b"1]",
    "deep": lambda: b"[" * SIZE,
}


class Watch:
    """Reads a stream of 100 frames a second and notes the longest pause."""

    def __init__(self, server: Server) -> None:
        self.longest = 0.0
        self._connection = server.connect()
        self._connection.sendall(post(chat({"frames": 100_000, "pause": 0.01})))
        self._connection.recv(65536)
        threading.Thread(target=self._run, daemon=True).start()

    def _run(self) -> None:
        last = time.monotonic()
        while self._connection.recv(65536):
            now = time.monotonic()
            self.longest = max(self.longest, now - last)
            last = now


def measure(name: str, sent: bytes, size: int) -> None:
    """Send *sent*, in which, or in the answer to which, *size* bytes are; print a row."""
    with served() as server:  # a new one each time: freed memory is used again
        watch = Watch(server)
        time.sleep(0.5)
        server.forget_peak()
        before = server.memory()
        watch.longest = 0.0
        with server.connect() as connection:
            connection.sendall(sent)
            answer = read(connection)
        time.sleep(0.3)
        grown = (server.memory("VmHWM") - before) * 1024
    status = answer.split(b"\r\n", 1)[0].decode()
    print(
        f"  {name:28}{size / MEBIBYTE:6.1f} MiB   pause {watch.longest * 1000:6.0f} ms   "
        f"{grown / size:5.1f} x   {status}",
        flush=True,
    )


def main() -> None:
    """Print the table."""
    print("hostile: the longest pause of another stream, and the growth by the bytes sent")
    measure("nothing", post(chat({"frames": 3})), MEBIBYTE)
    for name, member in MEMBERS.items():
        body = chat({"frames": 3})[:-1] + b',"x":' + member() + b"}"
        measure(f"request: {name}", post(body), len(body))
    long = json.dumps({"role": "user", "content": "x" * SIZE})
    body = chat({"frames": 3}).replace(b'"messages": [', b'"messages": [%b,' % long.encode())
    measure("request: a long message", post(body), len(body))
    for name, make in EVENTS.items():
        measure(f"event: {name}", post(chat({"frames": 1, "event": name})), len(make()))
