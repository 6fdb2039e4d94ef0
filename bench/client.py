"""The CPU time per chunk of the client, beside plain requests and the openai package.

``python bench/client.py [chunks]``.  A server in a child process sends the same burst of small
chunks to each reader in turn, one frame per HTTP chunk, as waitress does.  Each reader is measured
in its own process, several times, and the medians are compared: only ratios within one run are
meaningful.  The sync and the async client are also compared at a pace of one chunk per
millisecond, which they wait for.
"""

from __future__ import annotations

import json
import multiprocessing
import socket
import statistics
import sys
import threading
import time
from collections.abc import Callable
from multiprocessing.context import BaseContext

ROUNDS = 7
HEAD = (
    b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream; charset=utf-8\r\n"
    b"Transfer-Encoding: chunked\r\n\r\n"
)


PAUSE = 0.001  # seconds between two chunks, at a pace
PACED = 1_000  # chunks


def body(chunks: int) -> list[bytes]:
    """Return a stream of *chunks* content chunks, each frame as one HTTP chunk."""
    frames = []
    for number in range(chunks):
        chunk = {
            "id": "chatcmpl-0123456789abcdef0123456789abcdef",
            "object": "chat.completion.chunk",
            "created": 1700000000,
            "model": "gpt-4",
            "choices": [{"index": 0, "delta": {"content": f"w{number} "}, "finish_reason": None}],
        }
        frames.append(b"data: " + json.dumps(chunk, separators=(",", ":")).encode() + b"\n\n")
    last = {**chunk, "choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]}
    frames.append(b"data: " + json.dumps(last, separators=(",", ":")).encode() + b"\n\n")
    frames.append(b"data: [DONE]\n\n")
    return [b"%x\r\n%b\r\n" % (len(f), f) for f in frames] + [b"0\r\n\r\n"]


def serve(listener: socket.socket, chunks: int) -> None:
    """Answer requests on *listener* with *chunks* chunks at once, or at a pace for ``/paced/``."""
    burst, paced = b"".join(body(chunks)), body(PACED)

    def answer(sock: socket.socket) -> None:
        with sock, sock.makefile("rb") as file:
            while line := file.readline():
                slowly = b"/paced/" in line
                length = 0
                while (line := file.readline()) not in (b"\r\n", b""):
                    if line.lower().startswith(b"content-length:"):
                        length = int(line.split(b":")[1])
                file.read(length)
                sock.sendall(HEAD + (b"" if slowly else burst))
                for frame in paced if slowly else ():
                    time.sleep(PAUSE)
                    sock.sendall(frame)

    while True:
        threading.Thread(target=answer, args=(listener.accept()[0],), daemon=True).start()


REQUEST = {"model": "gpt-4", "messages": [{"role": "user", "content": "go"}], "stream": True}


def bare(url: str) -> Callable[[], int]:
    import requests

    session = requests.Session()

    def read() -> int:
        characters = 0
        with session.post(url + "/v1/chat/completions", json=REQUEST, stream=True) as response:
            for line in response.iter_lines():
                if line.startswith(b"data: {"):
                    chunk = json.loads(line[6:])
                    characters += len(chunk["choices"][0]["delta"].get("content") or "")
        return characters

    return read


def bare_blocks(url: str) -> Callable[[], int]:
    import requests

    session = requests.Session()

    def read() -> int:
        characters = 0
        rest = b""
        with session.post(url + "/v1/chat/completions", json=REQUEST, stream=True) as response:
            for block in response.iter_content(None):
                lines = (rest + block).split(b"\n")
                rest = lines.pop()
                for line in lines:
                    if line.startswith(b"data: {"):
                        chunk = json.loads(line[6:])
                        characters += len(chunk["choices"][0]["delta"].get("content") or "")
        return characters

    return read


def ours(url: str) -> Callable[[], int]:
    from choreoai import ChoreoAI

    client = ChoreoAI(api_key="k", base_url=url)

    def read() -> int:
        characters = 0
        for chunk in client.chat.completions.create(**REQUEST):
            characters += len(chunk.choices[0].delta.content or "")
        return characters

    return read


def ours_async(url: str) -> Callable[[], int]:
    import asyncio

    from choreoai import AsyncChoreoAI

    client = AsyncChoreoAI(api_key="k", base_url=url)

    async def read() -> int:
        characters = 0
        async for chunk in await client.chat.completions.create(**REQUEST):
            characters += len(chunk.choices[0].delta.content or "")
        return characters

    return lambda: asyncio.run(read())


def openai(url: str) -> Callable[[], int]:
    from openai import OpenAI

    client = OpenAI(api_key="k", base_url=url + "/v1")

    def read() -> int:
        characters = 0
        for chunk in client.chat.completions.create(**REQUEST):
            characters += len(chunk.choices[0].delta.content or "")
        return characters

    return read


def openai_async(url: str) -> Callable[[], int]:
    import asyncio

    from openai import AsyncOpenAI

    async def read() -> int:
        characters = 0
        async with AsyncOpenAI(api_key="k", base_url=url + "/v1") as client:
            async for chunk in await client.chat.completions.create(**REQUEST):
                characters += len(chunk.choices[0].delta.content or "")
        return characters

    return lambda: asyncio.run(read())


READERS = {
    "requests, iter_lines": bare,
    "requests, iter_content": bare_blocks,
    "choreoai": ours,
    "choreoai, async": ours_async,
    "openai": openai,
    "openai, async": openai_async,
}


def reader(name: str, url: str, orders: object, results: object) -> None:
    """Read the stream once for every true item in *orders*; put characters and CPU seconds."""
    try:
        read = READERS[name](url)
        read()  # warm up
    except ImportError:
        results.put(None)
        return
    results.put(True)
    while orders.get():
        start = time.process_time()
        characters = read()
        results.put((characters, time.process_time() - start))


def main(chunks: int = 10_000) -> None:
    """Compare all readers in a burst, and our two clients at a pace."""
    context = multiprocessing.get_context("spawn")
    listener = socket.create_server(("127.0.0.1", 0))
    url = f"http://127.0.0.1:{listener.getsockname()[1]}"
    server = context.Process(target=serve, args=(listener, chunks), daemon=True)
    server.start()
    compare(context, url, list(READERS), chunks)
    compare(context, url + "/paced", ["choreoai", "choreoai, async"], PACED)
    server.terminate()


def compare(context: BaseContext, url: str, names: list[str], chunks: int) -> None:
    """Let the readers *names* read *chunks* chunks from *url* in turn; print their CPU time."""
    queues = {}
    for name in names:
        orders, results = context.Queue(), context.Queue()
        context.Process(target=reader, args=(name, url, orders, results), daemon=True).start()
        if results.get():
            queues[name] = (orders, results)
        else:
            print(f"{name}: not installed")
    seconds: dict[str, list[float]] = {name: [] for name in queues}
    expected = sum(len(f"w{number} ") for number in range(chunks))
    for _ in range(ROUNDS):
        for name, (orders, results) in queues.items():
            orders.put(True)
            characters, cpu = results.get()
            assert characters == expected, name
            seconds[name].append(cpu)
    medians = {name: statistics.median(values) for name, values in seconds.items()}
    base = medians[next(iter(queues))]
    print(f"{chunks} chunks from {url}, CPU, median of {ROUNDS} rounds:")
    for name, cpu in medians.items():
        print(
            f"  {name:24} {cpu * 1e3:7.1f} ms {cpu / chunks * 1e6:6.1f} us/chunk {cpu / base:6.2f}"
        )
    for orders, _ in queues.values():
        orders.put(False)


if __name__ == "__main__":
    main(*map(int, sys.argv[1:2]))
