"""What bounds a call, and which connections are used again."""

from __future__ import annotations

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


def test_the_callers_own_idempotency_key_is_kept(server, clients):
    server.then(lambda peer: peer.stream(answer("x")))
    client = clients(server.url, resumable=True)
    own = {"idempotency-key": "mine"}
    for given in ({}, own):
        list(client.chat.completions.create(**HI, stream=True, extra_headers=given))
    first, second = (request.headers["idempotency-key"] for request in server.requests)
    assert second == "mine" and len(first) >= 32


def test_the_limits_of_the_client_are_those_of_its_calls(server, clients):
    server.then(lambda peer: peer.wait_until_left())
    client = clients(server.url, timeout=0.05, max_retries=0)
    assert client.timeout == choreoai.Timeout(0.05, 0.05, 0.05)
    with pytest.raises(choreoai.APITimeoutError):
        client.chat.completions.create(**HI)


@pytest.mark.skipif(not hasattr(signal, "pthread_kill"), reason="needs signals for a thread")
def test_a_connection_that_comes_too_late_is_closed(server, monkeypatch):
    """A signal handler raised while it was being made: nobody knows of it any more."""
    waiting, go, made = threading.Event(), threading.Event(), []
    connect = blocking._connect

    class Waited(Future):
        def done(self):
            waiting.set()
            return super().done()

    def slowly(*where):
        go.wait(DEADLINE)
        made.append(connect(*where))
        return made[0]

    main = threading.get_ident()

    def interrupt():
        waiting.wait(DEADLINE)
        signal.pthread_kill(main, signal.SIGUSR1)

    def handler(number, frame):
        raise KeyboardInterrupt

    monkeypatch.setattr(blocking, "_connect", slowly)
    monkeypatch.setattr(blocking, "Future", Waited)
    before = signal.signal(signal.SIGUSR1, handler)
    thread = threading.Thread(target=interrupt)
    thread.start()
    try:
        with pytest.raises(KeyboardInterrupt):
            choreoai.ChoreoAI("k", server.url).chat.completions.create(**HI)
    finally:
        thread.join()
        signal.signal(signal.SIGUSR1, before)
        go.set()
    harness.wait_until(lambda: made and made[0].fileno() == -1, "it is closed")


def test_who_reads_waits_until_there_is_something_to_read(server, monkeypatch):
    """A socket can nearly always be written to: who waited for that would never rest."""
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


def test_a_mapping_is_an_object(server, client):
    server.then(lambda peer: peer.send(HEAD + PLAIN))
    client.chat.completions.create(**HI, metadata=MappingProxyType({"a": "b"}))
    assert server.requests[0].json()["metadata"] == {"a": "b"}


@both
def test_a_plain_answer_that_stops_coming(server, clients):
    def script(peer):
        peer.send(HEAD + PLAIN[:3])
        peer.wait_until_left()

    server.then(script)
    client = clients(server.url, timeout=choreoai.Timeout(idle=0.05), max_retries=0)
    with pytest.raises(choreoai.APITimeoutError, match="no new data"):
        client.chat.completions.create(**HI)


@both
def test_a_plain_answer_without_end(server, client, monkeypatch):
    for module in ("sync", "aio"):
        monkeypatch.setattr(f"choreoai.{module}.exchange._MAX_ANSWER", 100_000)

    def script(peer):
        peer.head(kind="application/json")
        try:
            for _ in range(100):
                peer.body(b" " * 10_000)
            peer.end()
        except ConnectionError:
            pass  # it has left

    server.then(script)
    with pytest.raises(choreoai.APIConnectionError, match="longer than 100000 bytes"):
        client.chat.completions.create(**HI)


def test_a_head_without_end(server, clients):
    def script(peer):
        try:
            peer.send(b"HTTP/1.1 200 OK\r\n" + b"X-More: and more\r\n" * 20_000)
            peer.send(b"\r\n")
        except ConnectionError:
            pass  # it has left

    server.then(script)
    with pytest.raises(choreoai.APIError, match="head is too long"):
        clients(server.url, max_retries=0).chat.completions.create(**HI)


def test_an_event_that_is_too_long(server, ask):
    huge = frame(chat_chunk("x" * (9 * 1024 * 1024)))

    def script(peer):
        peer.head()
        peer.frame(chat_chunk("short"))
        try:
            peer.body(huge)
            peer.end()
        except ConnectionError:
            pass  # it has left

    server.then(script)
    got = []
    with pytest.raises(choreoai.APIError, match="longer than"):
        for text in ask().text:
            got.append(text)
    assert got == ["short"]


def test_nothing_counts_behind_the_end_marker(server, ask):
    ending = b"".join(map(frame, answer("x"))) + frame("[DONE]")
    late = frame({"error": {"message": "too late"}}) + frame(chat_chunk("late"))

    def script(peer):
        peer.head()
        peer.body(ending + late)
        peer.end()

    server.then(script)
    for _ in range(3):
        assert "".join(ask().text) == "x"
    assert server.accepted == 1  # the answer was read to its end


def read_twice(server, client, first):
    """Have *first* answer the first request; return what the second's answer is called."""
    server.then(first, lambda peer: peer.json({**json.loads(PLAIN), "id": "second"}))
    assert client.chat.completions.create(**HI).id == "x"
    return client.chat.completions.create(**HI).id


def test_more_than_the_answer_is_no_answer_to_the_next(server, client):
    poison = HEAD + PLAIN.replace(b"x", b"p")

    def first(peer):
        peer.send(HEAD + PLAIN + poison)
        peer.keep = True

    assert read_twice(server, client, first) == "second"
    assert server.accepted == 2


def test_more_than_an_answer_of_nothing_is_no_answer_to_the_next(server, client):
    def first(peer):
        peer.send(HEAD.replace(b"%d" % len(PLAIN), b"0") + HEAD + PLAIN.replace(b"x", b"p"))
        peer.keep = True

    server.then(first, lambda peer: peer.json({"id": "second", "choices": [{}]}))
    with pytest.raises(choreoai.APIError, match="not JSON"):
        client.chat.completions.create(**HI)
    assert client.chat.completions.create(**HI).id == "second"
    assert server.accepted == 2


def test_what_comes_between_two_requests_is_no_answer(server, client):
    """A server says that it closes an idle connection, as with 408."""
    asked_again, sent = threading.Event(), threading.Event()

    def first(peer):
        peer.send(HEAD + PLAIN)
        assert asked_again.wait(DEADLINE)
        peer.send(HEAD + PLAIN.replace(b"x", b"p"))
        peer.keep = True
        sent.set()

    server.then(first, lambda peer: peer.json({"id": "second", "choices": [{}]}))
    assert client.chat.completions.create(**HI).id == "x"
    asked_again.set()
    assert sent.wait(20)
    assert client.chat.completions.create(**HI).id == "second"
    assert server.accepted == 2


@pytest.mark.parametrize("version", [b"HTTP/1.1", b"HTTP/1.0"])
def test_a_connection_that_the_server_closes_is_not_used_again(server, client, version):
    def first(peer):
        said = b"Connection: close\r\n\r\n" if version == b"HTTP/1.1" else b"\r\n"
        peer.send(HEAD.replace(b"HTTP/1.1", version)[:-2] + said + PLAIN)
        peer.keep = True

    assert read_twice(server, client, first) == "second"
    assert server.accepted == 2
