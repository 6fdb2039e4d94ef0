"""The two ends of a paced stream, each a process: ``python -m bench.ends upstream|client ...``.

``upstream FRAMES SECONDS`` prints its port and answers each request with FRAMES frames, one every
SECONDS, after a random delay for each stream (0: all at once): OpenAI's chat completions, or
Anthropic's Messages.  A frame's text is the time at which it was sent.
``client PORT PATH MODEL STREAMS RATE FRAMES [READERS [AT_ONCE [TURNS]]]`` opens STREAMS streams,
RATE per second (0: as fast as it can), and prints the results as JSON.  FRAMES 0 requests plain
answers.  The last READERS of the streams are read from the server's log of the first ones, which
are resumable.  At most AT_ONCE (0: all) run at once, each after a conversation of TURNS turns.
Both are fast enough for ten thousand frames a second.
"""

from __future__ import annotations

import heapq
import json
import random
import re
import select
import socket
import sys
import time
from array import array

from .load import CHUNK, PLAIN, STREAM_HEAD, chunked

USAGE = (
    b'data: {"id":"chatcmpl-123","object":"chat.completion.chunk","created":1699564800,'
    b'"model":"gpt-4","choices":[],"usage":{"prompt_tokens":4,"completion_tokens":60,'
    b'"total_tokens":64}}\n\n'
)
END = chunked(b"data: [DONE]\n\n") + b"0\r\n\r\n"


def _chat_dialect(null: bytes, usage: bytes) -> tuple[bytes, bytes, bytes]:
    role = b'{"role":"assistant","content":""}'
    return (
        chunked(CHUNK % (role, b"null", null)),
        CHUNK % (b'{"content":"t%d"}', b"null", null),
        chunked(CHUNK % (b"{}", b'"stop"', null)) + usage + END,
    )


def _event(type: bytes, more: bytes) -> bytes:
    return b'event: %b\ndata: {"type":"%b"%b}\n\n' % (type, type, more)


#: A stream's first chunk, the template of an event with text, and the last chunks, by dialect.
DIALECTS = {
    "openai": _chat_dialect(b"", b""),
    "openai with usage": _chat_dialect(b',"usage":null', chunked(USAGE)),
    "anthropic": (
        chunked(
            _event(
                b"message_start",
                b',"message":{"id":"msg_1","type":"message","role":"assistant","content":[],'
                b'"model":"claude","stop_reason":null,"stop_sequence":null,'
                b'"usage":{"input_tokens":4,"output_tokens":1}}',
            )
            + _event(
                b"content_block_start",
                b',"index":0,"content_block":{"type":"text","text":""}',
            )
        ),
        _event(b"content_block_delta", b',"index":0,"delta":{"type":"text_delta","text":"t%d"}'),
        chunked(
            _event(b"content_block_stop", b',"index":0')
            + _event(
                b"message_delta",
                b',"delta":{"stop_reason":"end_turn","stop_sequence":null},'
                b'"usage":{"output_tokens":60}',
            )
            + _event(b"message_stop", b"")
        )
        + b"0\r\n\r\n",
    ),
}
_STAMP = re.compile(rb'"(?:content|delta)":"t(\d+)"')
_ID = re.compile(rb"(?i)\r\nchoreo-stream-id: *([^\r]+)")
_ENDS = b"[DONE]", b"event: response.completed"


def upstream(frames: int, seconds: float) -> None:
    """Serve until the process is killed."""
    listener = socket.create_server(("127.0.0.1", 0), backlog=4096)
    listener.setblocking(False)
    print(listener.getsockname()[1], flush=True)
    poll = select.epoll()
    poll.register(listener.fileno(), select.EPOLLIN)
    open_: dict[int, socket.socket] = {}
    requests: dict[int, bytes] = {}  # the bytes so far, by descriptor
    due: list[tuple[float, int, int, str]] = []  # a heap: time, descriptor, frames left, dialect
    while True:
        timeout = max(0.0, due[0][0] - time.monotonic()) if due else -1
        for descriptor, _ in poll.poll(timeout):
            if descriptor == listener.fileno():
                connection, _ = listener.accept()
                connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                if not seconds:  # room for a whole stream
                    connection.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 20)
                connection.setblocking(False)
                open_[connection.fileno()] = connection
                requests[connection.fileno()] = b""
                poll.register(connection.fileno(), select.EPOLLIN)
                continue
            connection = open_[descriptor]
            try:
                data = connection.recv(65536)
            except OSError:
                data = b""
            if not data:
                del open_[descriptor], requests[descriptor]
                connection.close()
                continue
            request = requests[descriptor] + data
            requests[descriptor] = b"" if _is_whole(request) else request
            if requests[descriptor]:
                continue
            body = request.replace(b" ", b"")
            if b'"stream":true' not in body:
                connection.send(PLAIN)
                continue
            usage = b'"include_usage":true' in body
            dialect = "openai with usage" if usage else "openai"
            if b"/messages" in body.partition(b"\r\n")[0]:
                dialect = "anthropic"
            connection.send(STREAM_HEAD + DIALECTS[dialect][0])
            if not seconds:
                _, text, last = DIALECTS[dialect]
                connection.setblocking(True)
                connection.sendall(chunked(text % time.monotonic_ns()) * frames + last)
                connection.setblocking(False)
                continue
            first = time.monotonic() + random.random() * seconds
            heapq.heappush(due, (first, descriptor, frames, dialect))
        now = time.monotonic()
        while due and due[0][0] <= now:
            when, descriptor, remaining, dialect = due[0]
            stream = open_.get(descriptor)
            _, text, last = DIALECTS[dialect]
            piece = chunked(text % time.monotonic_ns()) if remaining else last
            try:
                if stream is None or stream.send(piece) < len(piece) or not remaining:
                    raise OSError
            except OSError:
                heapq.heappop(due)
            else:
                heapq.heapreplace(due, (when + seconds, descriptor, remaining - 1, dialect))


def _is_whole(request: bytes) -> bool:
    head, mark, body = request.partition(b"\r\n\r\n")
    lengths = re.findall(rb"(?i)\r\ncontent-length: *(\d+)", head)
    if mark and not lengths and b"chunked" in head.lower():
        return body.endswith(b"0\r\n\r\n")
    return bool(mark) and len(body) >= int(lengths[0] if lengths else 0)


def request(path: str, model: str, plain: bool, resumable: bool, turns: int) -> bytes:
    """Return a request for an answer to *turns* turns of a conversation."""
    responses = path.endswith("/responses")
    words = "The quick brown fox jumps over the lazy dog. " * (5 if turns > 1 else 0) + "hi"
    content = {
        "model": model,
        "input" if responses else "messages": [
            {"role": ("user", "assistant")[turn % 2], "content": words} for turn in range(turns)
        ],
        "max_output_tokens" if responses else "max_tokens": 1000,
        "stream": not plain,
    }
    body = json.dumps(content).encode()
    return (
        b"POST %b HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer sk-bench\r\n%b"
        b"Content-Type: application/json\r\nConnection: close\r\nContent-Length: %d\r\n\r\n%b"
    ) % (path.encode(), b"Choreo-Resumable: 1\r\n" * resumable, len(body), body)


def client(
    port: int,
    path: str,
    model: str,
    count: int,
    rate: float,
    frames: int,
    readers: int = 0,
    at_once: int = 0,
    turns: int = 1,
) -> None:
    """Read *count* streams of *frames* frames; print how many frames were received, and delays."""
    usual = request(path, model, not frames, False, turns)
    resumable = request(path, model, not frames, True, turns)
    ids: list[bytes] = []  # of the resumable streams
    poll = select.epoll()
    streams: dict[int, tuple[socket.socket, int]] = {}
    # *delays* has ms per frame, *first* seconds to a stream's first bytes.  The percentiles count
    # the frames after the last stream was opened, number *steady_from*.
    delays, first, opened, done, refused, steady_from = array("d"), array("d"), 0, 0, 0, 0
    received = 0
    tails: dict[int, bytes] = {}
    began: dict[int, float] = {}
    start, start_cpu = time.monotonic(), time.process_time()
    while opened < count or streams:
        wanted = int((time.monotonic() - start) * rate) + 1 if rate else opened + 1
        while opened < min(count, wanted) and not (at_once and len(streams) >= at_once):
            reader = opened - (count - readers)  # the first one is 0
            connection = socket.create_connection(("127.0.0.1", port))
            if reader >= 0:
                head = b"Host: localhost\r\nAuthorization: Bearer sk-bench\r\n\r\n"
                connection.sendall(b"GET /v1/streams/%b HTTP/1.1\r\n" % ids[reader] + head)
            else:
                connection.sendall(resumable if opened < readers else usual)
            opened += 1
            connection.setblocking(False)
            poll.register(connection.fileno(), select.EPOLLIN)
            streams[connection.fileno()] = connection, 0
            began[connection.fileno()] = time.monotonic()
            steady_from = len(delays)
        full = opened == count or (at_once and len(streams) >= at_once)
        for descriptor, _ in poll.poll(30 if full else 0.002 if rate else 0):
            connection, seen = streams[descriptor]
            try:
                data = connection.recv(65536)
            except OSError:
                data = b""
            now = time.monotonic_ns()
            if not seen and data:
                first.append(now / 1e9 - began[descriptor])
                refused += not data.startswith(b"HTTP/1.1 200")
                ids += _ID.findall(data)
            block = tails.pop(descriptor, b"") + data
            stamps = _STAMP.findall(block)
            times = map(int, stamps)
            if readers:  # without the frames that they replay
                times = filter((began[descriptor] * 1e9).__le__, times)
            delays.extend((now - stamp) / 1e6 for stamp in times)
            received += len(stamps)
            if data and not (frames and any(end in block for end in _ENDS)):
                streams[descriptor] = connection, seen + len(stamps) + 1
                # A stamp split between two reads is counted with the second one, no other twice.
                tails[descriptor] = block[block.rfind(stamps[-1]) if stamps else 0 :][-64:]
                continue
            done += bool(data) or not frames
            del streams[descriptor]
            connection.close()
    steady = sorted(delays[steady_from:]) or [0.0]
    first_sorted = sorted(first) or [0.0]

    def percentile(values: list[float], share: float) -> float:
        return round(values[int((len(values) - 1) * share)], 3)

    print(
        json.dumps(
            {
                "complete": done,
                "refused": refused,
                "lost": count * frames - received,
                "frames": received,
                "p50_ms": percentile(steady, 0.5),
                "p99_ms": percentile(steady, 0.99),
                "first_p99_s": percentile(first_sorted, 0.99),
                "seconds": round(time.monotonic() - start, 3),
                "cpu_s": round(time.process_time() - start_cpu, 3),
            }
        )
    )


if __name__ == "__main__":
    if sys.argv[1] == "upstream":
        upstream(int(sys.argv[2]), float(sys.argv[3]))
    else:
        port, path, model, count, rate, *more = sys.argv[2:]
        client(int(port), path, model, int(count), float(rate), *map(int, more))
