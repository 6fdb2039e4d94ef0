"""``make soak``: mixed load for ten minutes; every answer is checked.

After a fifth of the time and at the end the load pauses, and the server's memory, threads and
descriptors are compared: memory may have grown by a fifth, the others not at all.  The server
starts threads when all are busy, so the warm-up sends the requests that need the most threads.
"""

from __future__ import annotations

import json
import os
import random
import re
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable

from .actor import Server, chat, post, read, served, word

SECONDS = float(os.environ.get("SOAK_SECONDS", "600"))
CALLERS = 40
WARM_UP = 10.0
#: The most words of an answer.
WORDS = 40

_CONTENT = re.compile(rb'"content":"(word\d+ )"')
_ID = re.compile(rb"Choreo-Stream-Id: (\S+)", re.IGNORECASE)


def text(count: int) -> str:
    """Return the whole answer of *count* words."""
    return "".join(map(word, range(count)))


def words_in(answer: bytes) -> str:
    """Return the words in the frames of *answer*."""
    return b"".join(_CONTENT.findall(answer)).decode()


def expect(condition: object, answer: bytes) -> None:
    """Raise AssertionError with the end of *answer* unless *condition*."""
    if not condition:
        raise AssertionError(answer[-300:])


def ask(server: Server, sent: bytes) -> bytes:
    """Send the request *sent* and return its answer."""
    with server.connect() as connection:
        connection.sendall(sent)
        return read(connection)


def streamed(server: Server, dice: random.Random) -> None:
    count = dice.randint(1, WORDS)
    answer = ask(server, post(chat({"frames": count, "pause": dice.choice((0, 0.01, 0.05))})))
    expect(words_in(answer) == text(count) and b"data: [DONE]" in answer, answer)


def plain(server: Server, dice: random.Random) -> None:
    count = dice.randint(1, WORDS)
    answer = ask(server, post(chat({"frames": count}, stream=False)))
    expect(json.dumps(text(count)).encode() in answer.replace(b": ", b":"), answer)


def echoed(server: Server, dice: random.Random) -> None:
    body = {"model": "echo", "n": dice.randint(1, 3), "messages": [{"role": "user"}]}
    body["messages"][0]["content"] = text(WORDS)  # type: ignore[index]
    answer = ask(server, post(json.dumps({**body, "stream": True}).encode()))
    expect(answer.count(b'"finish_reason":"stop"') == body["n"], answer)


def failed(server: Server, dice: random.Random) -> None:
    kind = dice.choice(("status", "cut", "error"))
    answer = ask(server, post(chat({"frames": 6, "fail": kind})))
    expect(b'{"error":' in answer and b"[DONE]" not in answer, answer)


def refused(server: Server, dice: random.Random) -> None:
    bad = dice.choice((b"{", b'{"model":1}', b'{"model":"m","messages":' + b"[" * 10_000))
    answer = ask(server, post(bad))
    expect(answer.startswith(b"HTTP/1.1 400 ") and b'"error"' in answer, answer)


def large(server: Server, dice: random.Random) -> None:
    history = {"role": "user", "content": "x" * dice.randint(10_000, 2_000_000)}
    body = chat({"frames": 3}).replace(
        b'"messages": [', b'"messages": [%b,' % json.dumps(history).encode()
    )
    answer = ask(server, post(body))
    expect(words_in(answer) == text(3), answer)


def abandoned(server: Server, dice: random.Random) -> None:
    """The client closes the connection in the middle of the stream."""
    with server.connect() as connection:
        connection.sendall(post(chat({"frames": 1000, "pause": 0.02})))
        expect(connection.recv(4096).startswith(b"HTTP/1.1 200 "), b"")


def resumed(server: Server, dice: random.Random) -> None:
    """The client closes the connection, and resumes the stream over another one."""
    count = dice.randint(2, WORDS)
    with server.connect() as connection:
        body = chat({"frames": count, "pause": 0.02})
        connection.sendall(post(body, "Choreo-Resumable: 1"))
        answer = connection.recv(4096)
        while b"\r\n\r\n" not in answer:
            answer += connection.recv(4096)
    found = _ID.search(answer)
    expect(found, answer)
    assert found is not None
    line = f"GET /v1/streams/{found[1].decode()} HTTP/1.1\r\nHost: localhost\r\nConnection: close"
    answer = ask(server, f"{line}\r\n\r\n".encode())
    expect(words_in(answer) == text(count) and b"data: [DONE]" in answer, answer)


def other_apis(server: Server, dice: random.Random) -> None:
    path = dice.choice(("/v1/responses", "/v1/messages"))
    question = json.dumps({"frames": 4})
    body = {"model": "m", "stream": True, "max_tokens": 100}
    body |= (
        {"input": question}
        if path == "/v1/responses"
        else {"messages": [{"role": "user", "content": question}]}
    )
    answer = ask(server, post(json.dumps(body).encode(), path=path))
    ending = b"response.completed" if path == "/v1/responses" else b"message_stop"
    expect(ending in answer and word(3).encode() in answer, answer)


def pages(server: Server, dice: random.Random) -> None:
    path = dice.choice(("/healthz", "/readyz", "/v1/models", "/"))
    sent = f"GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"
    answer = ask(server, sent.encode())
    expect(answer.startswith(b"HTTP/1.1 200 "), answer)


#: The acts of the callers, with their weights.
ACTS: dict[Callable[[Server, random.Random], None], int] = {
    streamed: 10,
    plain: 4,
    echoed: 2,
    failed: 2,
    refused: 2,
    large: 1,
    abandoned: 2,
    resumed: 3,
    other_apis: 2,
    pages: 1,
}


class Load:
    """The threads that put load on *server*; they begin with :meth:`go`."""

    def __init__(self, server: Server) -> None:
        self.counts: Counter[str] = Counter()
        self.failures: list[str] = []
        self.acts = ACTS
        self._server = server
        self._going = threading.Event()
        self._ended = False
        self._resting = threading.Semaphore(0)
        self._threads = [
            threading.Thread(target=self._run, args=(number,)) for number in range(CALLERS)
        ]
        for thread in self._threads:
            thread.start()

    def _run(self, seed: int) -> None:
        dice = random.Random(seed)
        while True:
            if not self._going.is_set():
                self._resting.release()
                self._going.wait()
            if self._ended:
                return
            acts = self.acts
            (act,) = dice.choices(list(acts), list(acts.values()))
            try:
                act(self._server, dice)
            except (AssertionError, OSError) as error:
                self.failures.append(f"{act.__name__}: {error!r}"[:500])
            self.counts[act.__name__] += 1

    def go(self) -> None:
        """Start or continue the load."""
        self._going.set()

    def rest(self) -> None:
        """Pause the load; return when every thread has finished its request."""
        self._going.clear()
        for _ in self._threads:
            self._resting.acquire()

    def end(self) -> None:
        """Stop the threads."""
        self._ended = True
        self._going.set()
        for thread in self._threads:
            thread.join()


def settled(server: Server) -> tuple[int, int, int]:
    """Return memory (kB), threads and descriptors once the number of descriptors is stable."""
    last, since = -1, time.monotonic()
    while time.monotonic() - since < 3:
        if server.descriptors() != last:
            last, since = server.descriptors(), time.monotonic()
        time.sleep(0.2)
    return server.memory(), server.threads(), last


def main() -> int:
    """Run the soak test; return 1 if there was a problem."""
    with served("--max-streams", "200", "--replay-ttl-seconds", "20") as server:
        load = Load(server)
        load.acts = {large: 1, pages: 1, other_apis: 1}
        load.go()
        time.sleep(WARM_UP)
        load.acts = ACTS
        states = []
        for seconds in (SECONDS / 5, SECONDS * 4 / 5):
            load.go()
            time.sleep(seconds)
            load.rest()
            states.append(settled(server))
            print(
                f"{sum(load.counts.values()):,} answers; {states[-1][0] / 1024:.1f} MiB, "
                f"{states[-1][1]} threads, {states[-1][2]} descriptors",
                flush=True,
            )
        load.end()
    print(", ".join(f"{name} {count:,}" for name, count in sorted(load.counts.items())))
    problems = []
    first, last = states
    if last[0] > first[0] * 1.2:
        problems.append("memory has grown by more than a fifth")
    if last[1] > first[1]:
        problems.append("there are more threads")
    if last[2] > first[2]:
        problems.append("there are more descriptors")
    problems += load.failures[:10]
    print("\n".join(problems) or "ok: memory, threads and descriptors as before, answers right")
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
