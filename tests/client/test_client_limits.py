"""The bounds of a call, and which connections are reused."""

from __future__ import annotations

import datetime
import json
import signal
import threading
from concurrent.futures import Future
from types import MappingProxyType

import harness
import pytest
from both_clients import both
from raw_server import DEADLINE, answer, chat_chunk, frame

import choreoai
from choreoai.transports import blocking

HI = {"model": "m", "messages": [{"role": "user", "content": "Hi"}]}
PLAIN = b'{"id": "x", "choices": [{}]}'
HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n" % len(
    PLAIN
)


def test_retries_of_a_call_have_its_idempotency_key(server, clients):
    busy = lambda peer: peer.json({}, "503 X", Retry_After="0")  # noqa: E731
    stream = lambda peer: peer.stream(answer("x"))  # noqa: E731
    server.then(busy, stream, busy, stream)
    client = clients(server.url, resumable=True, max_retries=1)
    for _ in range(2):
        list(client.chat.completions.create(**HI, stream=True))
    keys = [request.headers["idempotency-key"] for request in server.requests]
    assert keys[::2] == keys[1::2] and keys[0] != keys[2]


def test_keeps_the_callers_idempotency_key(server, clients):
    server.then(lambda peer: peer.stream(answer("x")))
    client = clients(server.url, resumable=True)
    with_key = {"idempotency-key": "mine", "choreo-resumable": "2"}
    for headers in ({}, with_key):
        list(client.chat.completions.create(**HI, stream=True, extra_headers=headers))
    first, second = (request.headers["idempotency-key"] for request in server.requests)
    assert second == "mine" and len(first) >= 32
    assert [request.headers["choreo-resumable"] for request in server.requests] == ["1", "2"]


def test_clients_timeout_applies_to_its_calls(server, clients):
    server.then(lambda peer: peer.wait_until_left())
    client = clients(server.url, timeout=0.05, max_retries=0)
    assert client.timeout == choreoai.Timeout(0.05, 0.05, 0.05)
    with pytest.raises(choreoai.APITimeoutError):
        client.chat.completions.create(**HI)


@pytest.mark.skipif(not hasattr(signal, "pthread_kill"), reason="needs signals for a thread")
def test_connection_made_after_an_interrupt_is_closed(server, monkeypatch):
    """A signal handler raised during connect(), so no caller has the socket."""
    waiting, release, connected = threading.Event(), threading.Event(), []
    connect = blocking._connect

    class WatchedFuture(Future):
        def done(self):
            waiting.set()
            return super().done()

    def connect_late(*where):
        release.wait(DEADLINE)
        connected.append(connect(*where))
        return connected[0]

    main = threading.get_ident()

    def interrupt():
        waiting.wait(DEADLINE)
        signal.pthread_kill(main, signal.SIGUSR1)

    def handler(number, frame):
        raise KeyboardInterrupt

    monkeypatch.setattr(blocking, "_connect", connect_late)
    monkeypatch.setattr(blocking, "Future", WatchedFuture)
    before = signal.signal(signal.SIGUSR1, handler)
    thread = threading.Thread(target=interrupt)
    thread.start()
    try:
        with pytest.raises(KeyboardInterrupt):
            choreoai.ChoreoAI("k", server.url).chat.completions.create(**HI)
    finally:
        thread.join()
        signal.signal(signal.SIGUSR1, before)
        release.set()
    harness.wait_until(lambda: connected and connected[0].fileno() == -1, "the socket is closed")


def test_waits_for_readability_after_the_request_was_sent(server, monkeypatch):
    """A socket is nearly always writable: waiting for that would be a busy loop."""
    client = choreoai.ChoreoAI("k", server.url)
    reads = threading.Event()
    wait = blocking.wait_for_read

    def waiting(*arguments):
        reads.set()
        return wait(*arguments)

    monkeypatch.setattr(blocking, "wait_for_read", waiting)
    server.then(lambda peer: reads.wait(DEADLINE) and peer.send(HEAD + PLAIN))
    client.chat.completions.create(**HI)
    assert reads.is_set()
    client.close()


def test_mappings_and_pydantic_models_are_sent_as_json_objects(server, client):
    pydantic = pytest.importorskip("pydantic")

    class Message(pydantic.BaseModel):
        role: str
        at: datetime.date = pydantic.Field(alias="date")
        name: str | None = None

    message = Message(role="user", date=datetime.date(2025, 1, 2))
    server.then(lambda peer: peer.send(HEAD + PLAIN))
    metadata = MappingProxyType({"a": "b"})
    client.chat.completions.create(model="m", messages=[message], metadata=metadata)
    sent = server.requests[0].json()
    assert sent["metadata"] == {"a": "b"}
    assert sent["messages"] == [{"role": "user", "date": "2025-01-02"}]


def test_timeout_on_a_kept_connection_is_not_retried(server, client):
    server.then(lambda peer: peer.json({"id": "x", "choices": [{}]}), lambda peer: peer.is_left())
    client.chat.completions.create(**HI)
    with pytest.raises(choreoai.APITimeoutError):
        client.chat.completions.create(**HI, timeout=0.01)
    assert len(server.requests) == 2


@both
def test_idle_limit_applies_to_a_plain_answer(server, clients):
    def script(peer):
        peer.send(HEAD + PLAIN[:3])
        peer.wait_until_left()

    server.then(script)
    client = clients(server.url, timeout=choreoai.Timeout(idle=0.05), max_retries=0)
    with pytest.raises(choreoai.APITimeoutError, match="no new data"):
        client.chat.completions.create(**HI)


@both
def test_plain_answer_over_the_length_limit_raises(server, client, monkeypatch):
    for module in ("sync", "aio"):
        monkeypatch.setattr(f"choreoai.{module}.exchange._MAX_ANSWER", 100_000)

    def script(peer):
        peer.head(kind="application/json")
        try:
            for _ in range(100):
                peer.body(b" " * 10_000)
            peer.end()
        except ConnectionError:
            pass  # the client has closed the connection

    server.then(script)
    with pytest.raises(choreoai.APIConnectionError, match="longer than 100000 bytes"):
        client.chat.completions.create(**HI)
    assert server.wait(lambda: server.open == 0)
    server.scripts[:] = [lambda peer: peer.send(HEAD + PLAIN)]
    for module in ("sync", "aio"):
        monkeypatch.setattr(f"choreoai.{module}.exchange._MAX_ANSWER", len(PLAIN))
    assert client.chat.completions.create(**HI).id == "x"


def test_head_over_the_length_limit_raises(server, clients):
    def script(peer):
        try:
            peer.send(b"HTTP/1.1 200 OK\r\n" + b"X-More: and more\r\n" * 20_000)
            peer.send(b"\r\n")
        except ConnectionError:
            pass  # the client has closed the connection

    server.then(script)
    with pytest.raises(choreoai.APIError, match="head is too long"):
        clients(server.url, max_retries=0).chat.completions.create(**HI)


def test_event_over_the_length_limit_raises(server, open_stream):
    huge = frame(chat_chunk("x" * (9 * 1024 * 1024)))

    def script(peer):
        peer.head()
        peer.frame(chat_chunk("short"))
        try:
            peer.body(huge)
            peer.end()
        except ConnectionError:
            pass  # the client has closed the connection

    server.then(script)
    received = []
    with pytest.raises(choreoai.APIError, match="longer than"):
        for text in open_stream().text:
            received.append(text)
    assert received == ["short"]


def test_ignores_events_after_done(server, open_stream):
    ending = b"".join(map(frame, answer("x"))) + frame("[DONE]")
    late = frame({"error": {"message": "too late"}}) + frame(chat_chunk("late"))

    def script(peer):
        peer.head()
        peer.body(ending + late)
        peer.end()

    server.then(script)
    for _ in range(3):
        assert "".join(open_stream().text) == "x"
    assert server.accepted == 1  # the answer was read to its end


def test_keeps_at_most_the_limit_of_idle_connections(server, client, open_stream, monkeypatch):
    monkeypatch.setattr("choreoai.transports.base._IDLE_CONNECTIONS", 2)
    server.then(lambda peer: peer.stream(answer("x")))
    streams = [open_stream() for _ in range(4)]
    assert ["".join(stream.text) for stream in streams] == ["x"] * 4
    assert server.wait(lambda: server.open == 2)
    last = open_stream()
    client.close()
    assert server.wait(lambda: server.open == 1)
    assert "".join(last.text) == "x"
    assert server.wait(lambda: server.open == 0)


def test_cancel_does_not_shut_down_a_connection_in_the_pool(server, client, open_stream):
    """The reader returns the connection while another thread is inside ``cancel()``."""

    class Claim:
        lock = threading.Lock()

        def acquire(self, blocking):
            acquired = self.lock.acquire(blocking)
            if acquired:
                stream._exchange.cancel()
            return acquired

    server.then(lambda peer: peer.stream(answer("x")))
    stream = open_stream()
    stream._exchange._waiter.claim = Claim()
    assert "".join(stream.text) == "x"
    assert "".join(open_stream().text) == "x"
    assert server.accepted == 1


def read_twice(server, client, first):
    """Answer the first request with *first*; return the id of the answer to the second."""
    server.then(first, lambda peer: peer.json({**json.loads(PLAIN), "id": "second"}))
    assert client.chat.completions.create(**HI).id == "x"
    return client.chat.completions.create(**HI).id


def test_bytes_after_an_answer_do_not_answer_the_next_request(server, client):
    excess = HEAD + PLAIN.replace(b"x", b"p")

    def first(peer):
        peer.send(HEAD + PLAIN + excess)
        peer.keep = True

    assert read_twice(server, client, first) == "second"
    assert server.accepted == 2


def test_bytes_after_an_empty_answer_do_not_answer_the_next_request(server, client):
    def first(peer):
        peer.send(HEAD.replace(b"%d" % len(PLAIN), b"0") + HEAD + PLAIN.replace(b"x", b"p"))
        peer.keep = True

    server.then(first, lambda peer: peer.json({"id": "second", "choices": [{}]}))
    with pytest.raises(choreoai.APIError, match="not JSON"):
        client.chat.completions.create(**HI)
    assert client.chat.completions.create(**HI).id == "second"
    assert server.accepted == 2


def test_bytes_on_an_idle_connection_do_not_answer_a_request(server, client):
    """For example a 408 that announces the close of an idle connection."""
    first_is_read, sent = threading.Event(), threading.Event()

    def first(peer):
        peer.send(HEAD + PLAIN)
        assert first_is_read.wait(DEADLINE)
        peer.send(HEAD + PLAIN.replace(b"x", b"p"))
        peer.keep = True
        sent.set()

    server.then(first, lambda peer: peer.json({"id": "second", "choices": [{}]}))
    assert client.chat.completions.create(**HI).id == "x"
    first_is_read.set()
    assert sent.wait(20)
    assert client.chat.completions.create(**HI).id == "second"
    assert server.accepted == 2


@pytest.mark.parametrize("version", [b"HTTP/1.1", b"HTTP/1.0"])
def test_does_not_reuse_a_connection_that_the_server_will_close(server, client, version):
    def first(peer):
        last = b"Connection: close\r\n\r\n" if version == b"HTTP/1.1" else b"\r\n"
        peer.send(HEAD.replace(b"HTTP/1.1", version)[:-2] + last + PLAIN)
        peer.keep = True

    assert read_twice(server, client, first) == "second"
    assert server.accepted == 2
