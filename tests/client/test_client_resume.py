"""Resumable streams, against a server that cuts them."""

from __future__ import annotations

import random
import threading

import pytest
from both_clients import both
from raw_server import DEADLINE, answer, chat_chunk

import choreoai

HI = {"model": "m", "messages": [{"role": "user", "content": "Hi"}]}


class Log:
    """A resumable stream: its frames, and a script for every way to read it."""

    id = "strm_0/1"

    def __init__(self, *texts):
        self.frames = [*answer(*texts), "[DONE]"]
        self.asked = []

    def head(self, peer, **headers):
        peer.head(Choreo_Stream_Id=self.id, Content_Location="/v1/streams/strm_0%2F1", **headers)

    def send(self, upto=None, how="end", first=1):
        """Send the frames from *first* on, before number *upto*, then end, close or reset."""

        def script(peer):
            after = int(peer.request.headers.get("last-event-id", first - 1))
            self.asked.append((peer.request.method, peer.request.path, after))
            self.head(peer)
            for number, value in enumerate(self.frames, 1):
                if after < number and (upto is None or number < upto):
                    peer.frame(value, number)
            if how == "end":
                peer.end()
            elif how == "half":
                peer.send(b"30\r\nid: 99\ndata: {")
            elif how == "reset":
                assert self.taken.wait(DEADLINE)
                peer.reset()

        return script

    taken = threading.Event()


@pytest.fixture
def log():
    return Log("a", "b", "c", "d")


@pytest.fixture(autouse=True)
def _at_once(monkeypatch):
    for half in ("aio", "sync"):
        monkeypatch.setattr(f"choreoai.{half}.stream.backoff", lambda attempt, first=0.0: 0.001)


@pytest.fixture
def client(clients, server):
    return clients(server.url, resumable=True)


def start(client, **options):
    return client.chat.completions.create(**HI, stream=True, **options)


@pytest.mark.parametrize(("how", "upto"), [("end", 4), ("half", 1), ("close", 7)])
def test_a_cut_stream_goes_on(server, client, log, how, upto):
    server.then(log.send(upto, how), log.send(upto + 1, how), log.send())
    stream = start(client)
    assert stream.id == log.id
    seen = [c.choices[0].delta.content for c in stream]
    assert seen == ["", "a", "b", "c", "d", None]
    assert stream.last_event_id == 7
    path = "/v1/streams/strm_0%2F1"
    expected = [("POST", "/v1/chat/completions", 0), ("GET", path, upto - 1)]
    if upto < 7:
        expected.append(("GET", path, upto))
    assert log.asked == expected
    assert server.requests[0].headers["choreo-resumable"] == "1"
    assert server.requests[0].headers["idempotency-key"]
    assert "choreo-resumable" not in server.requests[1].headers
    assert server.requests[1].headers["authorization"] == "Bearer sk-test"


@both
def test_a_reset_stream_goes_on(server, client, log):
    log.taken = threading.Event()
    server.then(log.send(3, "reset"), log.send())
    stream = start(client)
    seen = [next(stream), next(stream)]
    log.taken.set()
    seen += stream
    assert len(seen) == 6


@both
def test_frames_that_come_twice_are_passed_over(server, client, log):
    def again(peer):
        peer.request.headers.replace_header("last-event-id", "0")
        log.send()(peer)

    server.then(log.send(4, "close"), again)
    assert "".join(start(client).text) == "abcd"


def test_a_server_that_is_away_for_a_while(server, client, log):
    busy = lambda peer: peer.json({"error": {"message": "x"}}, "503 X")  # noqa: E731
    nothing = lambda peer: None  # noqa: E731
    server.then(log.send(3, "close"), busy, nothing, busy, log.send(4, "close"), busy, log.send())
    assert "".join(start(client).text) == "abcd"


@both
def test_reconnecting_is_given_up(server, client, log):
    server.then(log.send(3, "close"), lambda peer: None)
    stream = start(client)
    with pytest.raises(choreoai.StreamInterruptedError, match="reconnecting") as caught:
        list(stream)
    assert caught.value.partial_text == "a"
    assert len(server.requests) == 10


def test_connections_that_bring_nothing_new_are_given_up(server, client, log):
    server.then(log.send(3, "close"))
    with pytest.raises(choreoai.StreamInterruptedError, match="reconnecting"):
        list(start(client))
    assert len(server.requests) == 10


@both
def test_a_stream_that_is_gone(server, client, log):
    error = {"error": {"message": "m", "code": "stream_gone"}}
    server.then(log.send(3, "close"), lambda peer: peer.json(error, "410 X"))
    with pytest.raises(choreoai.StreamInterruptedError) as caught:
        list(start(client))
    assert caught.value.code == "stream_gone"
    assert caught.value.partial_text == "a"
    assert len(server.requests) == 2


def test_an_error_frame_is_an_end(server, client, log):
    log.frames[3] = {"error": {"message": "m", "code": "producer_lost"}}
    server.then(log.send())
    stream = start(client)
    with pytest.raises(choreoai.StreamInterruptedError) as caught:
        list(stream)
    assert caught.value.partial_text == "ab"
    assert len(server.requests) == 1


@both
def test_resuming_from_elsewhere(server, clients, log):
    server.then(log.send())
    client = clients(server.url)
    stream = client.chat.completions.resume(log.id, after=3)
    assert "".join(stream.text) == "cd"
    assert log.asked == [("GET", "/v1/streams/strm_0%2F1", 3)]


def test_what_was_resumed_goes_on_after_a_cut(server, clients, log):
    server.then(log.send(5, "close"), log.send())
    stream = clients(server.url).chat.completions.resume(log.id, after=2)
    assert "".join(stream.text) == "bcd"
    assert [after for *_, after in log.asked] == [2, 4]


def test_resuming_what_is_not_there(server, clients):
    server.then(lambda peer: peer.json({"error": {"message": "m"}}, "404 X"))
    with pytest.raises(choreoai.NotFoundError):
        clients(server.url).chat.completions.resume("nothing")


def test_the_headers_of_the_call_go_along(server, client, log):
    """A proxy may ask for them each time."""
    server.then(log.send(4, "close"), log.send())
    list(start(client, extra_headers={"X-Tenant": "a"}))
    assert [request.headers["x-tenant"] for request in server.requests] == ["a", "a"]


def test_per_call_and_without_a_server_that_can(server, clients):
    client = clients(server.url)
    server.then(lambda peer: peer.stream(answer("x")[:2], done=False))
    with pytest.raises(choreoai.StreamInterruptedError):
        list(start(client, resumable=True))
    assert server.requests[0].headers["choreo-resumable"] == "1"
    assert len(server.requests) == 1
    server.scripts[:] = [lambda peer: peer.stream(answer("x"))]
    list(start(clients(server.url, resumable=True), resumable=False))
    assert "choreo-resumable" not in server.requests[-1].headers


@pytest.mark.parametrize(
    ("clients", "status"),
    [("sync", "204 No Content"), ("async", "404 Not Found")],
    indirect=["clients"],
)
def test_cancel_stops_the_generation(server, client, log, status):
    left = threading.Event()

    def run(peer):
        log.head(peer)
        peer.frame(log.frames[0], 1)
        peer.wait_until_left()
        left.set()

    server.then(run, lambda peer: peer.json({}, status))
    stream = start(client)
    next(stream)
    stream.cancel()
    assert left.wait(DEADLINE)
    assert (server.requests[1].method, server.requests[1].path) == (
        "DELETE",
        "/v1/streams/strm_0%2F1",
    )
    assert list(stream) == []


def test_cancel_of_a_stream_that_is_not_resumable_only_closes(server, clients):
    left = threading.Event()

    def run(peer):
        peer.head()
        peer.frame(chat_chunk("a"))
        peer.wait_until_left()
        left.set()

    server.then(run)
    stream = start(clients(server.url))
    next(stream)
    stream.cancel()
    assert left.wait(DEADLINE)
    assert len(server.requests) == 1


@both
def test_closing_while_it_reconnects(server, client, log):
    waiting = threading.Event()
    left = threading.Event()

    def silent(peer):
        waiting.set()
        peer.wait_until_left()
        left.set()

    server.then(log.send(3, "close"), silent)
    stream = start(client)
    next(stream)
    next(stream)
    closer = threading.Thread(target=lambda: (waiting.wait(DEADLINE), stream.close()))
    closer.start()
    assert list(stream) == []
    closer.join()
    assert left.wait(DEADLINE)


@both
def test_random_cuts(server, client):
    """Wherever it is cut, the text is the same, no frame twice and none missing."""
    rng = random.Random(7)
    log = Log(*(f"word{number} " for number in range(60)))

    def script(peer):
        after = int(peer.request.headers.get("last-event-id", "0"))
        upto = after + rng.randint(1, 12)
        log.send(upto, rng.choice(["end", "close", "half"]))(peer)

    server.then(script)
    for _ in range(5):
        stream = start(client)
        numbers = [c.choices[0].delta.content for c in stream]
        assert numbers == ["", *(f"word{number} " for number in range(60)), None]


def test_only_the_end_marker_is_left(client, server, log):
    server.then(log.send())
    assert list(client.chat.completions.resume(log.id, after=len(log.frames) - 1)) == []
