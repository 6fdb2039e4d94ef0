"""The load: an upstream that streams, clients that read, and the CPU time of the gateway between.

Both ends use little CPU time (bytes built beforehand, large reads), so that they do not slow the
gateway down.
"""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import psutil

CHUNK = (
    b'data: {"id":"chatcmpl-123","object":"chat.completion.chunk","created":1699564800,'
    b'"model":"gpt-4","choices":[{"index":0,"delta":%b,"finish_reason":%b}]%b}\n\n'
)


def chunked(data: bytes) -> bytes:
    """Return *data* as one chunk of a chunked body."""
    return b"%x\r\n%b\r\n" % (len(data), data)


def recorded(frames: int, usage: bool) -> bytes:
    """Return the body of an upstream's stream, each frame as one HTTP chunk, as OpenAI sends it."""
    null = b',"usage":null' if usage else b""
    parts = [chunked(CHUNK % (b'{"role":"assistant","content":""}', b"null", null))]
    parts += [
        chunked(CHUNK % (b'{"content":" t%012d"}' % number, b"null", null))
        for number in range(frames)
    ]
    parts.append(chunked(CHUNK % (b"{}", b'"stop"', null)))
    if usage:
        counts = b'"usage":{"prompt_tokens":4,"completion_tokens":%d,"total_tokens":%d}'
        parts.append(
            chunked(
                b'data: {"id":"chatcmpl-123","object":"chat.completion.chunk","created":1699564800,'
                b'"model":"gpt-4","choices":[],' + counts % (frames, frames + 4) + b"}\n\n"
            )
        )
    parts.append(chunked(b"data: [DONE]\n\n"))
    return b"".join(parts) + b"0\r\n\r\n"


STREAM_HEAD = (
    b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream; charset=utf-8\r\n"
    b"Transfer-Encoding: chunked\r\n\r\n"
)
DOCUMENT = (
    b'{"id":"chatcmpl-123","object":"chat.completion","created":1699564800,"model":"gpt-4",'
    b'"choices":[{"index":0,"message":{"role":"assistant","content":"hello"},'
    b'"finish_reason":"stop"}],"usage":{"prompt_tokens":1,"completion_tokens":1,"total_tokens":2}}'
)
PLAIN = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%b" % (
    len(DOCUMENT),
    DOCUMENT,
)


class Upstream:
    """An OpenAI-compatible server on loopback: a stream of *frames* frames, or a document."""

    def __init__(self, frames: int) -> None:
        self._bodies = {usage: recorded(frames, usage) for usage in (False, True)}
        self._socket = socket.create_server(("127.0.0.1", 0), backlog=1024)
        self.url = f"http://127.0.0.1:{self._socket.getsockname()[1]}/v1"
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                connection, _ = self._socket.accept()
                connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                threading.Thread(target=self._serve, args=(connection,), daemon=True).start()

    def _serve(self, connection: socket.socket) -> None:
        with contextlib.suppress(OSError), connection, connection.makefile("rb") as lines:
            while lines.readline():
                length = 0
                while (line := lines.readline()) not in (b"\r\n", b""):
                    name, _, value = line.partition(b":")
                    if name.lower() == b"content-length":
                        length = int(value)
                body = lines.read(length).replace(b" ", b"")
                if b'"stream":true' not in body:
                    connection.sendall(PLAIN)
                    continue
                usage = b'"include_usage":true' in body
                connection.sendall(STREAM_HEAD)
                connection.sendall(self._bodies[usage])

    def close(self) -> None:
        """Stop accepting connections."""
        self._socket.close()


@dataclass
class Gateway:
    """A process between client and upstream."""

    process: subprocess.Popen[bytes]
    port: int

    def cpu(self) -> float:
        """Return the CPU seconds that the process and its children have used."""
        root = psutil.Process(self.process.pid)
        family = [root, *root.children(recursive=True)]
        return float(sum(sum(member.cpu_times()[:2]) for member in family))


def free_port() -> int:
    """Return a free port on loopback."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])


@contextlib.contextmanager
def gateway(
    command: Callable[[int], list[str]], environment: dict[str, str] | None = None
) -> Iterator[Gateway]:
    """Run ``command(port)``; yield it when it listens, and stop it afterwards."""
    port = free_port()
    process = subprocess.Popen(
        command(port),
        env={**os.environ, **(environment or {})},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        deadline = time.monotonic() + 30
        while True:
            try:
                socket.create_connection(("127.0.0.1", port), 1).close()
                break
            except OSError:
                if process.poll() is not None or time.monotonic() > deadline:
                    raise RuntimeError(f"did not start: {command(port)}") from None
                time.sleep(0.05)
        yield Gateway(process, port)
    finally:
        process.terminate()
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def request(port: int, body: bytes, headers: bytes = b"") -> socket.socket:
    """Send a chat completion request, with additional *headers*, and return the connection."""
    connection = socket.create_connection(("127.0.0.1", port), 60)
    connection.sendall(
        b"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n"
        b"%bContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%b"
        % (headers, len(body), body)
    )
    return connection


def body(content: str = "Write a short story", stream: bool = True) -> bytes:
    """Return the JSON of a request."""
    flag = "true" if stream else "false"
    return (
        f'{{"model":"gpt-4","messages":[{{"role":"user","content":"{content}"}}],"stream":{flag}}}'
    ).encode()


def read_frames(connection: socket.socket) -> int:
    """Read a stream to its end; return the number of frames, or -1 without an end marker."""
    frames, tail, done = 0, b"", False
    with connection:
        while data := connection.recv(1 << 18):
            block = tail + data
            frames += block.count(b"data: {")
            done = done or b"data: [DONE]" in block
            # A marker split between two reads is counted with the second one.
            tail = block[-12:] if b"data: {" not in block[-12:] else block[-6:]
    return frames if done else -1


def streams(
    port: int,
    count: int,
    at_once: int,
    content: str = "Write a short story",
    headers: bytes = b"",
) -> int:
    """Read *count* streams, *at_once* at a time; return their frames, or raise if one was cut."""
    remaining = iter(range(count))
    lock, total = threading.Lock(), []

    def read() -> None:
        while True:
            with lock:
                if next(remaining, None) is None:
                    return
            total.append(read_frames(request(port, body(content), headers)))

    threads = [threading.Thread(target=read) for _ in range(at_once)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if -1 in total or len(total) < count:
        raise RuntimeError("a stream was cut")
    return sum(total)


def documents(port: int, count: int) -> None:
    """Request *count* plain completions, one after the other."""
    for _ in range(count):
        with request(port, body(stream=False)) as connection:
            answer = b""
            while data := connection.recv(65536):
                answer += data
        if b'"hello"' not in answer:
            raise RuntimeError("no completion")


PYTHON = sys.executable
