"""Streams: delivery, endings, and closing early."""

from __future__ import annotations

import threading
from contextlib import suppress

import pytest
import requests
from both_clients import both
from raw_server import DEADLINE, answer, chat_chunk, frame
from silent_script import SilentAfter

import choreoai


def texts(stream):
    return [c.choices[0].delta.content for c in stream if c.choices]


@pytest.mark.parametrize(
    ("clients", "framing"), [("sync", "chunked"), ("async", "close")], indirect=["clients"]
)
def test_delivers_each_frame_before_the_next_is_sent(server, open_stream, framing):
    received = threading.Semaphore(0)

    def script(peer):
        peer.head(framing=framing)
        for value in answer("a", "b", "c"):
            peer.frame(value)
            assert received.acquire(timeout=DEADLINE)
        peer.frame("[DONE]")
        peer.end()

    server.then(script)
    seen = []
    for chunk in open_stream():
        seen.append(chunk.choices[0].delta.content)
        received.release()
    assert seen == ["", "a", "b", "c", None]


@both
def test_last_chunk_does_not_wait_for_the_end_of_the_body(server, open_stream):
    """The last chunk arrives together with ``[DONE]``, the end of the body later."""
    received = threading.Event()

    def script(peer):
        peer.head()
        peer.body(b"".join(frame(value) for value in [*answer("a"), "[DONE]"]))
        assert received.wait(DEADLINE)
        peer.end()

    server.then(script)
    stream = open_stream()
    assert [next(stream).choices[0].delta.content for _ in range(3)] == ["", "a", None]
    received.set()
    assert list(stream) == []


@both
def test_create_returns_when_the_head_is_received(server, open_stream):
    go = threading.Event()

    def script(peer):
        peer.head()
        assert go.wait(DEADLINE)
        for value in answer("late"):
            peer.frame(value)
        peer.frame("[DONE]")
        peer.end()

    server.then(script)
    stream = open_stream()
    go.set()
    assert texts(stream) == ["", "late", None]


def test_reads_frames_sent_byte_by_byte(server, open_stream):
    def script(peer):
        peer.head()
        for value in [*answer("Grüße ", "🐍\u2028", "end"), "[DONE]"]:
            for byte in frame(value):
                peer.body(bytes([byte]))
        peer.end()

    server.then(script)
    assert "".join(open_stream().text) == "Grüße 🐍\u2028end"


def test_skips_pings_and_accepts_ids_and_crlf(server, open_stream):
    def script(peer):
        peer.head()
        for number, value in enumerate([*answer("a", "b"), "[DONE]"], 1):
            peer.body(b": ping\n" + frame(value, number).replace(b"\n", b"\r\n"))
        peer.end()

    server.then(script)
    stream = open_stream()
    assert "".join(stream.text) == "ab"
    assert stream.last_event_id == 5


@pytest.mark.parametrize(
    ("clients", "framing", "cut", "frames"),
    [
        ("sync", "chunked", "close", 0),
        ("sync", "close", "close", 3),
        ("sync", "chunked", "reset", 3),
        ("async", "close", "reset", 3),
    ],
    indirect=["clients"],
)
def test_cut_stream_raises_with_the_partial_text(server, open_stream, framing, cut, frames):
    received = threading.Event()

    def script(peer):
        peer.head(framing=framing)
        for value in answer("Hello", " world")[:frames]:
            peer.frame(value)
        if cut == "reset":
            assert received.wait(DEADLINE)  # a reset may take unread bytes with it
            peer.reset()

    server.then(script)
    stream = open_stream()
    seen = []
    with pytest.raises(choreoai.StreamInterruptedError) as caught:
        if frames == 0:
            received.set()
        for chunk in stream:
            seen.append(chunk)
            if len(seen) == frames:
                received.set()
    assert len(seen) == frames
    expected = "".join(["", "Hello", " world"][:frames])
    assert caught.value.partial_text == stream.partial_text == expected
    assert stream.partial.to_dict() == caught.value.partial.to_dict()
    # Documented programs catch this error around their loop.
    assert isinstance(caught.value, requests.exceptions.ChunkedEncodingError)
    assert isinstance(caught.value, ConnectionError)
    with pytest.raises(choreoai.StreamInterruptedError):
        next(stream)
    with pytest.raises(choreoai.StreamInterruptedError):
        stream.get_final_completion()


def test_half_a_transfer_chunk_raises(server, open_stream):
    def half(peer):
        peer.head()
        peer.frame(answer("x")[0])
        peer.send(b"40\r\ndata: {")

    server.then(half)
    with pytest.raises(choreoai.StreamInterruptedError):
        list(open_stream())


def test_clean_close_before_the_end_raises(server, open_stream):
    server.then(lambda peer: peer.stream(answer("half")[:2], done=False))
    with pytest.raises(choreoai.StreamInterruptedError) as caught:
        list(open_stream())
    assert caught.value.partial_text == "half"


@pytest.mark.parametrize("framing", ["chunked", "close"])
def test_stream_without_done_ends_when_all_choices_are_finished(server, open_stream, framing):
    server.then(lambda peer: peer.stream(answer("all"), framing=framing, done=False))
    assert "".join(open_stream().text) == "all"


def test_stream_without_done_raises_if_a_choice_is_unfinished(server, open_stream):
    chunks = [chat_chunk("a"), chat_chunk("b", index=1), chat_chunk(finish="stop")]
    server.then(lambda peer: peer.stream(chunks, done=False))
    with pytest.raises(choreoai.StreamInterruptedError):
        list(open_stream(n=2))


def test_stream_without_done_raises_if_a_choice_is_missing(server, open_stream):
    server.then(lambda peer: peer.stream(answer("a"), done=False))
    with pytest.raises(choreoai.StreamInterruptedError):
        list(open_stream(n=2))


@pytest.mark.parametrize(
    ("delta", "reason"),
    [
        ({"content": "all"}, "stop"),
        ({"tool_calls": [{"id": "c", "function": {"name": "f"}}]}, "tool_calls"),
    ],
)
def test_done_supplies_missing_finish_reasons(server, open_stream, delta, reason):
    """The server applies the same rule to its upstreams: see Normaliser.end."""
    chunks = [
        {**chat_chunk(), "choices": [{"index": 0, "delta": delta}]},
        chat_chunk("cut", index=1),
        chat_chunk(index=1, finish="length"),
    ]
    server.then(lambda peer: peer.stream(chunks))
    stream = open_stream(n=2)
    list(stream)
    assert [c.finish_reason for c in stream.get_final_completion().choices] == [reason, "length"]
    assert "".join(open_stream(n=2).text) == delta.get("content", "")


@pytest.mark.parametrize(
    "chunks", [[], [{**chat_chunk(), "choices": [], "usage": {"total_tokens": 3}}]]
)
def test_done_before_any_choice_raises(server, open_stream, chunks):
    server.then(lambda peer: peer.stream(chunks))
    stream = open_stream()
    with pytest.raises(choreoai.StreamInterruptedError, match="before its answer began"):
        list(stream)
    with pytest.raises(choreoai.StreamInterruptedError, match="before its answer began"):
        stream.get_final_completion()


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        ({"message": "m", "type": "t", "code": "upstream_truncated"}, "StreamInterruptedError"),
        ({"message": "m", "type": "t", "code": "producer_lost"}, "StreamInterruptedError"),
        ({"message": "m", "type": "t", "code": "server_shutting_down"}, "StreamInterruptedError"),
        ({"message": "m", "type": "t", "code": "provider_api_error"}, "APIError"),
        ({"message": "m", "type": "t", "code": 429, "param": "p"}, "APIError"),
    ],
)
def test_error_frame_raises(server, open_stream, error, kind):
    def script(peer):
        peer.stream([*answer("some")[:2], {"error": error}], done=False)

    server.then(script)
    seen = []
    with pytest.raises(choreoai.APIError) as caught:
        for chunk in open_stream():
            seen.append(chunk)
    assert type(caught.value).__name__ == kind
    assert (caught.value.message, caught.value.type) == ("m", "t")
    assert caught.value.code == str(error["code"])
    assert caught.value.param == error.get("param")
    assert caught.value.body == error
    assert caught.value.partial_text == "some"
    assert len(seen) == 2


def test_error_event_with_a_flat_body_raises(server, open_stream):
    def script(peer):
        peer.head()
        peer.body(b'event: error\ndata: {"message":"flat","code":"x"}\n\n')
        peer.end()

    server.then(script)
    with pytest.raises(choreoai.APIError, match="flat") as caught:
        list(open_stream())
    assert caught.value.code == "x"


@pytest.mark.parametrize("data", ["{broken", "[1]", "[" * 100_000])
def test_data_that_is_not_a_chunk_raises(server, open_stream, data):
    server.then(lambda peer: peer.stream([chat_chunk("a"), data]))
    stream = open_stream()
    assert next(stream).choices[0].delta.content == "a"
    with pytest.raises(choreoai.APIError, match="not a chunk") as caught:
        next(stream)
    assert len(str(caught.value)) < 200 and caught.value.body == data


@pytest.mark.parametrize(
    ("clients", "kind"),
    [("async", "Application/JSON"), ("sync", "text/html; charset=utf-8")],
    indirect=["clients"],
)
def test_answer_that_is_not_a_stream_raises(server, open_stream, kind):
    def script(peer):
        peer.head(kind=kind, framing=2)
        peer.send(b"{}")

    server.then(script)
    with pytest.raises(choreoai.APIError, match="instead of a stream"):
        open_stream()


def test_accepts_chunks_without_choices(server, open_stream):
    usage = {"prompt_tokens": 1, "completion_tokens": 2, "total_tokens": 3}
    extra = [{"id": "x", "choices": []}, {"id": "x"}, {"choices": None, "usage": usage}]
    server.then(lambda peer: peer.stream([extra[0], *answer("a", "b"), *extra[1:]]))
    stream = open_stream()
    assert list(stream.text) == ["a", "b"]
    final = stream.get_final_completion()
    assert final.choices[0].message.content == "ab"
    assert final.usage.total_tokens == 3
    assert (stream.fold.text(), stream.last_event_id) == ("ab", None)


# --- closing early ----------------------------------------------------------------------------


@pytest.fixture
def endless(server):
    """A stream that stays open until the client closes it; the event is set then."""
    closed = threading.Event()

    def script(peer):
        with suppress(ConnectionError):  # the client may close it before all of this is sent
            peer.head()
            for value in answer("a", "b")[:2]:
                peer.frame(value)
            peer.wait_until_left()
        closed.set()

    server.then(script)
    return closed


@both
def test_closing_a_stream_closes_the_connection(open_stream, endless):
    stream = open_stream()
    next(stream)
    stream.close()
    assert endless.wait(DEADLINE)
    stream.close()
    assert list(stream) == []
    with pytest.raises(choreoai.StreamInterruptedError):
        stream.get_final_completion()


@both
def test_stream_ends_after_done_though_the_body_does_not(server, open_stream):
    script = SilentAfter(*answer("a"), "[DONE]")
    server.then(script)
    assert "".join(open_stream().text) == "a"
    assert script.closed.wait(DEADLINE / 2)


def test_closing_a_stream_drops_the_received_chunks(server, open_stream):
    def script(peer):
        peer.head()
        peer.body(b"".join(map(frame, answer("a", "b"))))
        peer.wait_until_left()

    server.then(script)
    stream = open_stream()
    next(stream)
    stream.close()
    assert list(stream) == []


@both
def test_leaving_a_with_block_closes_the_connection(open_stream, endless):
    with open_stream() as stream:
        next(stream)
    assert endless.wait(DEADLINE)


@both
def test_dropping_a_stream_closes_the_connection(open_stream, endless):
    for _ in open_stream():
        break
    assert endless.wait(DEADLINE)


@both
def test_dropping_the_text_iterator_closes_the_connection(open_stream, endless):
    for chunk in open_stream().text:
        assert chunk == "a"
        break
    assert endless.wait(DEADLINE)


@both
def test_dropping_an_unread_stream_closes_the_connection(open_stream, endless):
    open_stream()
    assert endless.wait(DEADLINE)


@both
def test_closing_from_another_thread_ends_the_loop(open_stream, endless):
    stream = open_stream()
    seen = []
    next(stream)
    closer = threading.Timer(0.1, stream.close)
    closer.start()
    seen.extend(stream)
    closer.join()
    assert len(seen) == 1
    assert endless.wait(DEADLINE)


@both
def test_reuses_the_connection_after_a_complete_answer(server, client, open_stream):
    server.then(lambda peer: peer.stream(answer("x")))
    for _ in range(5):
        assert "".join(open_stream().text) == "x"
    server.scripts[:] = [lambda peer: peer.json({"object": "list", "data": [{"id": "m"}]})]
    assert [model.id for model in client.models.list()] == ["m"]
    assert server.accepted == 1


@both
def test_does_not_reuse_the_connection_after_an_early_close(server, open_stream, endless):
    with open_stream() as stream:
        next(stream)
    assert endless.wait(DEADLINE)
    server.scripts[:] = [lambda peer: peer.stream(answer("y"))]
    assert "".join(open_stream().text) == "y"
    assert server.accepted == 2


@both
def test_events_hold_the_text_of_their_own_choice(server, clients):
    chunks = [chat_chunk(text, index=index) for text in ("a", "b") for index in (0, 1)]
    chunks[1:2] = [chat_chunk("x", index=1)]
    ends = [chat_chunk(index=index, finish="stop") for index in (0, 1)]
    server.then(lambda peer: peer.stream([*chunks, *ends]))
    hi = [{"role": "user", "content": "Hi"}]
    with clients(server.url).chat.completions.stream(model="m", messages=hi, n=2) as stream:
        events = list(stream)
    assert [e.snapshot for e in events if e.type == "content.delta"] == ["a", "x", "ab", "xb"]
    assert [e.content for e in events if e.type == "content.done"] == ["ab", "xb"]


def test_logprobs_events_hold_snapshots(server, client):
    chunks = [chat_chunk("a"), chat_chunk("b", finish="stop")]
    for chunk in chunks:
        chunk["choices"][0]["logprobs"] = {"content": [{"token": "t"}]}
    server.then(lambda peer: peer.stream(chunks))
    hi = [{"role": "user", "content": "Hi"}]
    with client.chat.completions.stream(model="m", messages=hi, logprobs=True) as stream:
        events = list(stream)
    snapshots = [event.snapshot for event in events if event.type == "logprobs.content.delta"]
    assert [len(snapshot) for snapshot in snapshots] == [1, 2]


def test_done_sends_the_last_events_of_unfinished_choices(server, client):
    chunks = [chat_chunk(text, index=index) for index, text in ((2, "c"), (0, "a"), (1, "b"))]
    chunks.append(chat_chunk(index=1, finish="stop"))
    repeated = chat_chunk("", index=1, finish="stop")
    server.then(lambda peer: peer.stream([*chunks, repeated]))
    hi = [{"role": "user", "content": "Hi"}]
    with client.chat.completions.stream(model="m", messages=hi, n=3) as stream:
        events = list(stream)
        assert list(stream) == []
    assert [e.content for e in events if e.type == "content.done"] == ["b", "a", "c"]
    with client.chat.completions.stream(model="m", messages=hi, n=3) as stream:
        assert [next(stream).type for _ in range(2)] == ["chunk", "content.delta"]
        stream.close()
        assert list(stream) == []
