"""Resumable streams, against a server that cuts them."""

from __future__ import annotations

import random
import threading
import zlib

import pytest
from both_clients import both
from raw_server import DEADLINE, answer, chat_chunk, frame
from silent_script import SilentAfter

import choreoai
from choreoai.sync import exchange

HI = {"model": "m", "messages": [{"role": "user", "content": "Hi"}]}


class Recording:
    """A resumable stream: its frames, and scripts that send them."""

    id = "strm_0/1"

    def __init__(self, *texts):
        self.frames = [*answer(*texts), "[DONE]"]
        self.requests = []

    def head(self, peer, **headers):
        peer.head(Choreo_Stream_Id=self.id, Content_Location="/v1/streams/strm_0%2F1", **headers)

    def send(self, upto=None, how="end", first=1):
        """Send the frames *first* to *upto* - 1, then end, close or reset."""

        def script(peer):
            after = int(peer.request.headers.get("last-event-id", first - 1))
            self.requests.append((peer.request.method, peer.request.path, after))
            self.head(peer)
            for number, value in enumerate(self.frames, 1):
                if after < number and (upto is None or number < upto):
                    peer.frame(value, number)
            if how == "end":
                peer.end()
            elif how == "half":
                peer.send(b"30\r\nid: 99\ndata: {")
            elif how == "reset":
                assert self.received.wait(DEADLINE)
                peer.reset()

        return script

    received = threading.Event()


@pytest.fixture
def recording():
    return Recording("a", "b", "c", "d")


@pytest.fixture(autouse=True)
def waits(monkeypatch):
    """Replaces the backoff by almost none; returns the list of its arguments."""
    made = []

    def backoff(attempt, first=0.0):
        made.append((attempt, first))
        return 0.001

    for half in ("aio", "sync"):
        monkeypatch.setattr(f"choreoai.{half}.stream.backoff", backoff)
    return made


@pytest.fixture
def client(clients, server):
    return clients(server.url, resumable=True)


def open_stream(client, **options):
    return client.chat.completions.create(**HI, stream=True, **options)


@pytest.mark.parametrize(("how", "upto"), [("end", 4), ("half", 1), ("close", 7)])
def test_cut_stream_resumes_after_the_last_event(server, client, recording, how, upto):
    server.then(recording.send(upto, how), recording.send(upto + 1, how), recording.send())
    stream = open_stream(client)
    assert stream.id == recording.id
    seen = [c.choices[0].delta.content for c in stream]
    assert seen == ["", "a", "b", "c", "d", None]
    assert stream.last_event_id == 7
    path = "/v1/streams/strm_0%2F1"
    expected = [("POST", "/v1/chat/completions", 0), ("GET", path, upto - 1)]
    if upto < 7:
        expected.append(("GET", path, upto))
    assert recording.requests == expected
    assert server.requests[0].headers["choreo-resumable"] == "1"
    assert server.requests[0].headers["idempotency-key"]
    assert "choreo-resumable" not in server.requests[1].headers
    assert server.requests[1].headers["accept"] == "text/event-stream"
    assert server.requests[1].headers["authorization"] == "Bearer sk-test"


@both
def test_reset_stream_resumes(server, client, recording):
    recording.received = threading.Event()
    server.then(recording.send(3, "reset"), recording.send())
    stream = open_stream(client)
    seen = [next(stream), next(stream)]
    recording.received.set()
    seen += stream
    assert len(seen) == 6


@both
def test_drops_frames_received_twice(server, client, recording):
    def send_all(peer):
        peer.request.headers.replace_header("last-event-id", "0")
        recording.send()(peer)

    server.then(recording.send(4, "close"), send_all)
    assert "".join(open_stream(client).text) == "abcd"


def test_reconnects_until_the_server_is_back(server, client, recording):
    busy = lambda peer: peer.json({"error": {"message": "x"}}, "503 X")  # noqa: E731
    close = lambda peer: None  # noqa: E731
    send = recording.send
    server.then(send(3, "close"), busy, close, busy, send(4, "close"), busy, send())
    assert "".join(open_stream(client).text) == "abcd"


def test_new_events_reset_the_count_of_reconnections(server, client):
    recording = Recording(*"abcdefghijkl")
    server.then(*(recording.send(upto, "close") for upto in range(2, 15)), recording.send())
    assert "".join(open_stream(client).text) == "abcdefghijkl"


def test_resumes_a_compressed_stream(server, client, recording):
    def script(peer):
        after = int(peer.request.headers.get("last-event-id", 0))
        recording.head(peer, Content_Encoding="gzip")
        numbers = range(after + 1, min(after + 4, 8))
        frames = b"".join(frame(recording.frames[n - 1], n) for n in numbers)
        packer = zlib.compressobj(wbits=31)
        peer.body(packer.compress(frames) + packer.flush(zlib.Z_SYNC_FLUSH))

    server.then(script)
    assert "".join(open_stream(client).text) == "abcd"
    assert len(server.requests) == 3


def test_error_frame_without_an_id_ends_a_resumed_stream(server, client, recording):
    error = {"error": {"message": "no memory"}}
    server.then(recording.send(3, "close"), lambda peer: (recording.head(peer), peer.frame(error)))
    with pytest.raises(choreoai.APIError, match="no memory"):
        list(open_stream(client))


def test_closing_while_it_connects_sends_no_request(server, client, recording, monkeypatch):
    def dial(*where):
        stream.close()
        return connect(*where)

    server.then(recording.send(3, "close"))
    stream = open_stream(client)
    next(stream)
    connect = exchange.dial
    monkeypatch.setattr(exchange, "dial", dial)
    assert len(list(stream)) <= 1
    assert server.wait(lambda: server.accepted == 2 and server.open == 0)
    assert len(server.requests) == 1


@both
def test_gives_up_after_nine_failed_reconnections(server, client, recording, waits):
    """The first is made at once, the others after growing waits."""
    server.then(recording.send(3, "close"), lambda peer: None)
    stream = open_stream(client)
    with pytest.raises(choreoai.StreamInterruptedError, match="reconnecting") as caught:
        list(stream)
    assert caught.value.partial_text == "a"
    assert len(server.requests) == 10
    assert waits == [(attempt, 0.1) for attempt in range(1, 9)]


def test_gives_up_after_nine_reconnections_without_new_events(server, client, recording):
    server.then(recording.send(3, "close"))
    with pytest.raises(choreoai.StreamInterruptedError, match="reconnecting"):
        list(open_stream(client))
    assert len(server.requests) == 10


@both
def test_expired_stream_raises_without_another_attempt(server, client, recording):
    error = {"error": {"message": "m", "code": "stream_gone", "type": "t"}}
    server.then(recording.send(3, "close"), lambda peer: peer.json(error, "410 X"))
    with pytest.raises(choreoai.StreamInterruptedError) as caught:
        list(open_stream(client))
    assert (caught.value.code, caught.value.type) == ("stream_gone", "t")
    assert caught.value.partial_text == "a"
    assert len(server.requests) == 2


def test_error_frame_is_not_followed_by_a_reconnection(server, client, recording):
    recording.frames[3] = {"error": {"message": "m", "code": "producer_lost"}}
    server.then(recording.send())
    stream = open_stream(client)
    with pytest.raises(choreoai.StreamInterruptedError) as caught:
        list(stream)
    assert caught.value.partial_text == "ab"
    assert len(server.requests) == 1


@both
def test_resume_reads_the_events_after_a_number(server, clients, recording):
    server.then(recording.send())
    client = clients(server.url)
    stream = client.chat.completions.resume(recording.id, after=3)
    assert "".join(stream.text) == "cd"
    assert recording.requests == [("GET", "/v1/streams/strm_0%2F1", 3)]


def test_resumed_stream_resumes_again_after_a_cut(server, clients, recording):
    server.then(recording.send(5, "close"), recording.send())
    stream = clients(server.url).chat.completions.resume(recording.id, after=2)
    assert "".join(stream.text) == "bcd"
    assert [after for *_, after in recording.requests] == [2, 4]


def test_resume_uses_its_own_timeout(server, clients):
    server.then(SilentAfter())
    stream = clients(server.url).chat.completions.resume("strm_1", timeout=0.05)
    with pytest.raises(choreoai.APITimeoutError, match=r"first_byte=0\.05"):
        next(stream)


def test_resuming_an_unknown_id_raises_not_found(server, clients):
    server.then(lambda peer: peer.json({"error": {"message": "m"}}, "404 X"))
    with pytest.raises(choreoai.NotFoundError):
        clients(server.url).chat.completions.resume("nothing")


def test_reconnection_sends_the_calls_extra_headers(server, client, recording):
    """A proxy may need them for each request."""
    server.then(recording.send(4, "close"), recording.send())
    list(open_stream(client, extra_headers={"X-Tenant": "a"}))
    assert [request.headers["x-tenant"] for request in server.requests] == ["a", "a"]


def test_resumable_is_set_per_call_and_needs_the_servers_id(server, clients):
    client = clients(server.url)
    server.then(lambda peer: peer.stream(answer("x")[:2], done=False))
    with pytest.raises(choreoai.StreamInterruptedError):
        list(open_stream(client, resumable=True))
    assert server.requests[0].headers["choreo-resumable"] == "1"
    assert len(server.requests) == 1
    server.scripts[:] = [lambda peer: peer.stream(answer("x"))]
    list(open_stream(clients(server.url, resumable=True), resumable=False))
    assert "choreo-resumable" not in server.requests[-1].headers


@pytest.mark.parametrize(
    ("clients", "status"),
    [("sync", "204 No Content"), ("async", "404 Not Found")],
    indirect=["clients"],
)
def test_cancel_stops_the_generation(server, client, recording, status):
    closed = threading.Event()

    def run(peer):
        recording.head(peer)
        peer.frame(recording.frames[0], 1)
        peer.wait_until_left()
        closed.set()

    server.then(run, lambda peer: peer.json({}, status))
    stream = open_stream(client)
    next(stream)
    stream.cancel()
    assert closed.wait(DEADLINE)
    assert (server.requests[1].method, server.requests[1].path) == (
        "DELETE",
        "/v1/streams/strm_0%2F1",
    )
    assert list(stream) == []


def test_cancel_of_a_plain_stream_only_closes_the_connection(server, clients):
    script = SilentAfter(chat_chunk("a"))
    server.then(script)
    stream = open_stream(clients(server.url))
    next(stream)
    stream.cancel()
    assert script.closed.wait(DEADLINE)
    assert len(server.requests) == 1


@both
def test_closing_during_a_reconnection_ends_the_loop(server, client, recording):
    waiting = threading.Event()
    closed = threading.Event()

    def silent(peer):
        waiting.set()
        peer.wait_until_left()
        closed.set()

    server.then(recording.send(3, "close"), silent)
    stream = open_stream(client)
    next(stream)
    next(stream)
    closer = threading.Thread(target=lambda: (waiting.wait(DEADLINE), stream.close()))
    closer.start()
    assert list(stream) == []
    closer.join()
    assert closed.wait(DEADLINE)


@both
def test_random_cuts_lose_and_repeat_no_frame(server, client):
    """The text is the same wherever the stream is cut."""
    rng = random.Random(7)
    recording = Recording(*(f"word{number} " for number in range(60)))

    def script(peer):
        after = int(peer.request.headers.get("last-event-id", "0"))
        upto = after + rng.randint(1, 12)
        recording.send(upto, rng.choice(["end", "close", "half"]))(peer)

    server.then(script)
    for _ in range(5):
        stream = open_stream(client)
        texts = [c.choices[0].delta.content for c in stream]
        assert texts == ["", *(f"word{number} " for number in range(60)), None]


def test_resuming_before_done_yields_no_chunks(client, server, recording):
    server.then(recording.send())
    assert list(client.chat.completions.resume(recording.id, after=len(recording.frames) - 1)) == []
