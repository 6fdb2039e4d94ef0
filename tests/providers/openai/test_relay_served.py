"""The openai provider in the real server: what clients receive, and what stays after them."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import harness
import pytest
from raw_server import Peer, RawServer, chunk, chunked, head, sized

from choreo_wsgi import sse

Start = Callable[..., RawServer]


def event(content: str, finish: str = "null") -> bytes:
    delta = f'{{"content":{json.dumps(content)}}}' if content else "{}"
    return (
        'data: {"id":"c","object":"chat.completion.chunk","created":1,"model":"m","choices":'
        f'[{{"index":0,"delta":{delta},"finish_reason":{finish}}}],"usage":null}}\n\n'
    ).encode()


ROLE = event("").replace(b'"delta":{}', b'"delta":{"role":"assistant","content":""}')
WORDS = [ROLE, *[event(f"word {number}") for number in range(5)]]
STOP = event("", '"stop"')
STREAM = [*WORDS, STOP, sse.DONE]
RELAYED = b"".join(STREAM).replace(b',"usage":null', b"")


class Served:
    """``choreo-wsgi serve`` in front of the upstream at *base_url*."""

    def __init__(self, base_url: str) -> None:
        kept = {name: os.environ[name] for name in ("PATH", "HOME", "LANG") if name in os.environ}
        environment = {**kept, "OPENAI_BASE_URL": base_url, "OPENAI_API_KEY": "sk-secret"}
        command = [sys.executable, "-m", "choreo_wsgi", "serve", "--listen", "127.0.0.1:0"]
        options = ["--drain-seconds", "0", "--log-level", "error", "--idle-timeout", "5"]
        self.process = subprocess.Popen(
            [*command, *options], env=environment, stdout=subprocess.PIPE, text=True
        )
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        found = re.search(r"http://127\.0\.0\.1:(\d+)", line)
        assert found, line
        self.port = int(found[1])

    def request(self, stream: bool = True) -> harness.Client:
        """Return a client that has requested a completion."""
        client = harness.Client(("127.0.0.1", self.port))
        messages = [{"role": "user", "content": "hi"}]
        body = {"model": "m", "messages": messages, "stream": stream}
        client.request("POST", "/v1/chat/completions", body, {"Connection": "close"})
        return client

    def resources(self) -> tuple[int, int]:
        """Return the numbers of the server's descriptors and threads."""
        folder = Path(f"/proc/{self.process.pid}")
        return len(list((folder / "fd").iterdir())), len(list((folder / "task").iterdir()))

    def resident(self) -> int:
        """Return the resident memory of the server in bytes."""
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        return int(status.partition("VmRSS:")[2].split()[0]) * 1024

    def close(self) -> None:
        self.process.terminate()
        self.process.communicate(timeout=20)


@pytest.fixture
def served() -> Iterator[Callable[[RawServer], Served]]:
    """``served(upstream)`` starts the real server in front of *upstream*."""
    running: list[Served] = []

    def start(upstream: RawServer) -> Served:
        running.append(Served(upstream.base_url))
        return running[-1]

    yield start
    for one in running:
        one.close()


Serve = Callable[[RawServer], Served]


def test_sends_each_frame_before_next_event_arrives(upstream: Start, served: Serve) -> None:
    go = threading.Semaphore(0)

    def answer(peer: Peer) -> None:
        peer.send(head("200 OK", "text/event-stream", "Transfer-Encoding: chunked"))
        for one in STREAM:
            assert go.acquire(timeout=harness.DEADLINE)
            peer.send(chunk(one))
        peer.send(b"0\r\n\r\n")

    with served(upstream(answer)).request() as client:
        go.release()
        assert client.read_head().headers["choreo-provider"] == "openai/m"
        for one in STREAM:
            assert client.read_frame() == one.replace(b',"usage":null', b"")
            go.release()
        assert client.read_frame() == b""


def test_relays_burst_of_20000_events(upstream: Start, served: Serve) -> None:
    burst = [ROLE, *[event(f"word {number}") for number in range(20_000)]]
    server = served(upstream(lambda peer: peer.send(chunked([*burst, STOP, sse.DONE]))))
    expected = b"".join([*burst, STOP, sse.DONE]).replace(b',"usage":null', b"")
    clients = [server.request() for _ in range(3)]
    for client in clients:
        client.read_head()
        assert client.read_body() == expected
        client.close()


@pytest.mark.parametrize("cut", [10, 700, 10**6])
def test_truncated_stream_ends_in_one_error(upstream: Start, served: Serve, cut: int) -> None:
    raw = chunked(WORDS)
    server = served(upstream(lambda peer: peer.send(raw, cut=cut)))
    with server.request() as client:
        status = client.read_head().status
        body = client.read_body()
        error = json.loads(body.split(b"data: ")[-1])["error"]
    assert error["code"] == "upstream_truncated" and error["type"] == "provider_error"
    if cut < 300:  # before the first event: a plain reply
        assert status == 502
    else:
        assert status == 200 and body.count(b'"error"') == 1
        assert b"[DONE]" not in body and b'"stop"' not in body
        assert RELAYED.startswith(body[: body.rindex(b"data: ")])


def test_upstream_429_is_returned_as_plain_reply(upstream: Start, served: Serve) -> None:
    raw = sized(b'{"error":{"message":"slow down, sk-secret","code":"slow"}}', "429 Too Many")
    raw = raw.replace(b"\r\n", b"\r\nRetry-After: 7\r\n", 1)
    server = served(upstream(lambda peer: peer.send(raw)))
    for stream in (True, False):
        with server.request(stream) as client:
            answer = client.read_answer()
        assert answer.status == 429 and answer.headers["retry-after"] == "7"
        assert answer.error["message"] == "slow down, ***" and answer.error["code"] == "slow"


@pytest.mark.parametrize("phase", ["prefill", "body", "plain"])
def test_client_disconnect_releases_descriptors_and_threads(
    upstream: Start, served: Serve, phase: str
) -> None:
    def answer(peer: Peer) -> None:
        if phase == "body":
            peer.send(chunked(WORDS)[:-5])
        elif peer.request.line.startswith("POST"):
            requested.release()
        disconnected.append(peer.is_left())

    disconnected: list[bool] = []
    requested = threading.Semaphore(0)
    source = upstream(answer)
    server = served(source)
    before = None
    for round in range(5):
        clients = [server.request(stream=phase != "plain") for _ in range(20)]
        for client in clients:
            if phase == "body":
                client.read_head()
                client.read_frame()
            else:
                assert requested.acquire(timeout=harness.DEADLINE)
        for client in clients:
            client.close()
        arrived = 20 * (round + 1)
        assert source.wait(lambda arrived=arrived: source.accepted == arrived and not source.open)
        if before is None:  # after one round everything that is created once exists
            before = server.resources()
    assert len(disconnected) == 100 and all(disconnected)
    assert before is not None
    harness.wait_until(
        lambda: all(now <= old for now, old in zip(server.resources(), before, strict=True)),
        "descriptors and threads are released",
    )


def test_slow_readers_throttle_upstream(upstream: Start, served: Serve) -> None:
    block = chunk(b"".join(event(f"word {number}") for number in range(100))) * 4
    throttled = threading.Semaphore(0)

    def answer(peer: Peer) -> None:
        peer.send(head("200 OK", "text/event-stream", "Transfer-Encoding: chunked"))
        peer.sock.settimeout(1)  # nothing could be sent for so long: throttled
        try:
            while True:
                peer.sock.sendall(block)
        except TimeoutError:
            throttled.release()
        except OSError:
            pass

    server = served(upstream(answer))
    with server.request() as client:  # creates everything that is created once
        client.read_frame()
    before = server.resident()
    clients = [server.request() for _ in range(50)]
    for _ in clients:
        assert throttled.acquire(timeout=30)
    grown = server.resident() - before
    for client in clients:
        client.close()
    assert grown < 30_000_000
