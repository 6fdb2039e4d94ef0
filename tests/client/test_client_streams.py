"""Streams: arrival, endings, leaving."""

from __future__ import annotations

import threading
from contextlib import suppress

import pytest
import requests
from both_clients import both
from raw_server import DEADLINE, answer, chat_chunk, frame

import choreoai


def texts(stream):
    return [c.choices[0].delta.content for c in stream if c.choices]


@pytest.mark.parametrize(
    ("clients", "framing"), [("sync", "chunked"), ("async", "close")], indirect=["clients"]
)
def test_a_frame_is_delivered_before_the_next_is_made(server, ask, framing):
    taken = threading.Semaphore(0)

    def script(peer):
        peer.head(framing=framing)
        for value in answer("a", "b", "c"):
            peer.frame(value)
            assert taken.acquire(timeout=DEADLINE)
        peer.frame("[DONE]")
        peer.end()

    server.then(script)
    seen = []
    for piece in ask():
        seen.append(piece.choices[0].delta.content)
        taken.release()
    assert seen == ["", "a", "b", "c", None]


@both
def test_the_last_chunk_does_not_wait_for_the_end_of_the_body(server, ask):
    """It comes with the end marker; what follows that is nobody's business."""
    taken = threading.Event()

    def script(peer):
        peer.head()
        peer.body(b"".join(frame(value) for value in [*answer("a"), "[DONE]"]))
        assert taken.wait(DEADLINE)
        peer.end()

    server.then(script)
    stream = ask()
    assert [next(stream).choices[0].delta.content for _ in range(3)] == ["", "a", None]
    taken.set()
    assert list(stream) == []


@both
def test_create_returns_with_the_head(server, ask):
    go = threading.Event()

    def script(peer):
        peer.head()
        assert go.wait(DEADLINE)
        for value in answer("late"):
            peer.frame(value)
        peer.frame("[DONE]")
        peer.end()

    server.then(script)
    stream = ask()
    go.set()
    assert texts(stream) == ["", "late", None]


def test_byte_by_byte(server, ask):
    def script(peer):
        peer.head()
        for value in [*answer("Grüße ", "🐍\u2028", "end"), "[DONE]"]:
            for byte in frame(value):
                peer.body(bytes([byte]))
        peer.end()

    server.then(script)
    assert "".join(ask().text) == "Grüße 🐍\u2028end"


def test_pings_ids_and_crlf_are_passed_over(server, ask):
    def script(peer):
        peer.head()
        for number, value in enumerate([*answer("a", "b"), "[DONE]"], 1):
            peer.body(b": ping\n" + frame(value, number).replace(b"\n", b"\r\n"))
        peer.end()

    server.then(script)
    stream = ask()
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
def test_a_cut_stream_raises_with_the_partial_text(server, ask, framing, cut, frames):
    taken = threading.Event()

    def script(peer):
        peer.head(framing=framing)
        for value in answer("Hello", " world")[:frames]:
            peer.frame(value)
        if cut == "reset":
            assert taken.wait(DEADLINE)  # a reset may take unread bytes with it
            peer.reset()

    server.then(script)
    stream = ask()
    seen = []
    with pytest.raises(choreoai.StreamInterruptedError) as caught:
        if frames == 0:
            taken.set()
        for piece in stream:
            seen.append(piece)
            if len(seen) == frames:
                taken.set()
    assert len(seen) == frames
    expected = "".join(["", "Hello", " world"][:frames])
    assert caught.value.partial_text == stream.partial_text == expected
    assert stream.partial.to_dict() == caught.value.partial.to_dict()
    # The specification catches this one around its loop.
    assert isinstance(caught.value, requests.exceptions.ChunkedEncodingError)
    assert isinstance(caught.value, ConnectionError)
    with pytest.raises(choreoai.StreamInterruptedError):
        next(stream)
    with pytest.raises(choreoai.StreamInterruptedError):
        stream.get_final_completion()


def test_a_chunk_of_the_transfer_coding_cut_in_half(server, ask):
    def half(peer):
        peer.head()
        peer.frame(answer("x")[0])
        peer.send(b"40\r\ndata: {")

    server.then(half)
    with pytest.raises(choreoai.StreamInterruptedError):
        list(ask())


def test_a_clean_close_without_an_end_is_no_end(server, ask):
    server.then(lambda peer: peer.stream(answer("half")[:2], done=False))
    with pytest.raises(choreoai.StreamInterruptedError) as caught:
        list(ask())
    assert caught.value.partial_text == "half"


@pytest.mark.parametrize("framing", ["chunked", "close"])
def test_every_finish_reason_is_an_end_without_the_marker(server, ask, framing):
    server.then(lambda peer: peer.stream(answer("all"), framing=framing, done=False))
    assert "".join(ask().text) == "all"


def test_one_of_two_choices_finished_is_no_end(server, ask):
    chunks = [chat_chunk("a"), chat_chunk("b", index=1), chat_chunk(finish="stop")]
    server.then(lambda peer: peer.stream(chunks, done=False))
    with pytest.raises(choreoai.StreamInterruptedError):
        list(ask(n=2))


def test_a_choice_that_never_came_is_no_end(server, ask):
    server.then(lambda peer: peer.stream(answer("a"), done=False))
    with pytest.raises(choreoai.StreamInterruptedError):
        list(ask(n=2))


@pytest.mark.parametrize(
    ("delta", "reason"),
    [
        ({"content": "all"}, "stop"),
        ({"tool_calls": [{"id": "c", "function": {"name": "f"}}]}, "tool_calls"),
    ],
)
def test_the_end_marker_stands_for_missing_finish_reasons(server, ask, delta, reason):
    """The server judges its upstreams in the same way: see Normaliser.end."""
    chunks = [
        {**chat_chunk(), "choices": [{"index": 0, "delta": delta}]},
        chat_chunk("cut", index=1),
        chat_chunk(index=1, finish="length"),
    ]
    server.then(lambda peer: peer.stream(chunks))
    stream = ask(n=2)
    list(stream)
    assert [c.finish_reason for c in stream.get_final_completion().choices] == [reason, "length"]


@pytest.mark.parametrize(
    "chunks", [[], [{**chat_chunk(), "choices": [], "usage": {"total_tokens": 3}}]]
)
def test_the_end_marker_before_any_choice_is_no_end(server, ask, chunks):
    server.then(lambda peer: peer.stream(chunks))
    stream = ask()
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
def test_an_error_frame_raises(server, ask, error, kind):
    def script(peer):
        peer.stream([*answer("some")[:2], {"error": error}], done=False)

    server.then(script)
    seen = []
    with pytest.raises(choreoai.APIError) as caught:
        for piece in ask():
            seen.append(piece)
    assert type(caught.value).__name__ == kind
    assert (caught.value.message, caught.value.type) == ("m", "t")
    assert caught.value.code == str(error["code"])
    assert caught.value.param == error.get("param")
    assert caught.value.body == error
    assert caught.value.partial_text == "some"
    assert len(seen) == 2


def test_an_error_event_with_a_flat_body_raises(server, ask):
    def script(peer):
        peer.head()
        peer.body(b'event: error\ndata: {"message":"flat","code":"x"}\n\n')
        peer.end()

    server.then(script)
    with pytest.raises(choreoai.APIError, match="flat") as caught:
        list(ask())
    assert caught.value.code == "x"


@pytest.mark.parametrize("data", ["{broken", "[1]", "{" * 5000])
def test_data_that_is_no_chunk_raises(server, ask, data):
    server.then(lambda peer: peer.stream([chat_chunk("a"), data]))
    stream = ask()
    assert next(stream).choices[0].delta.content == "a"
    with pytest.raises(choreoai.APIError, match="not a chunk"):
        next(stream)


@pytest.mark.parametrize(
    ("clients", "kind"),
    [("async", "application/json"), ("sync", "text/html; charset=utf-8")],
    indirect=["clients"],
)
def test_an_answer_that_is_no_stream_raises(server, ask, kind):
    def script(peer):
        peer.head(kind=kind, framing=2)
        peer.send(b"{}")

    server.then(script)
    with pytest.raises(choreoai.APIError, match="instead of a stream"):
        ask()


def test_a_chunk_without_choices_is_safe_to_read_through(server, ask):
    usage = {"prompt_tokens": 1, "completion_tokens": 2, "total_tokens": 3}
    extra = [{"id": "x", "choices": []}, {"id": "x"}, {"choices": None, "usage": usage}]
    server.then(lambda peer: peer.stream([extra[0], *answer("a", "b"), *extra[1:]]))
    stream = ask()
    assert list(stream.text) == ["a", "b"]
    final = stream.get_final_completion()
    assert final.choices[0].message.content == "ab"
    assert final.usage.total_tokens == 3


# --- leaving ----------------------------------------------------------------------------


@pytest.fixture
def endless(server):
    """A stream that goes on until its client leaves; the event tells that it did."""
    left = threading.Event()

    def script(peer):
        with suppress(ConnectionError):  # it may leave before all of this is sent
            peer.head()
            for value in answer("a", "b")[:2]:
                peer.frame(value)
            peer.wait_until_left()
        left.set()

    server.then(script)
    return left


@both
def test_closing_a_stream_closes_the_connection(ask, endless):
    stream = ask()
    next(stream)
    stream.close()
    assert endless.wait(DEADLINE)
    stream.close()
    assert list(stream) == []
    with pytest.raises(choreoai.StreamInterruptedError):
        stream.get_final_completion()


@both
def test_leaving_a_with_block_closes_the_connection(ask, endless):
    with ask() as stream:
        next(stream)
    assert endless.wait(DEADLINE)


@both
def test_dropping_a_stream_closes_the_connection(ask, endless):
    for _ in ask():
        break
    assert endless.wait(DEADLINE)


@both
def test_dropping_its_text_closes_the_connection(ask, endless):
    for piece in ask().text:
        assert piece == "a"
        break
    assert endless.wait(DEADLINE)


@both
def test_an_unread_stream_that_is_dropped_closes_the_connection(ask, endless):
    ask()
    assert endless.wait(DEADLINE)


@both
def test_closing_from_another_thread_ends_the_loop(ask, endless):
    stream = ask()
    seen = []
    next(stream)
    closer = threading.Timer(0.1, stream.close)
    closer.start()
    seen.extend(stream)
    closer.join()
    assert len(seen) == 1
    assert endless.wait(DEADLINE)


@both
def test_the_connection_is_used_again(server, client, ask):
    server.then(lambda peer: peer.stream(answer("x")))
    for _ in range(5):
        assert "".join(ask().text) == "x"
    server.scripts[:] = [lambda peer: peer.json({"object": "list", "data": [{"id": "m"}]})]
    assert [model.id for model in client.models.list()] == ["m"]
    assert server.accepted == 1


@both
def test_a_connection_left_in_the_middle_is_not_used_again(server, ask, endless):
    with ask() as stream:
        next(stream)
    assert endless.wait(DEADLINE)
    server.scripts[:] = [lambda peer: peer.stream(answer("y"))]
    assert "".join(ask().text) == "y"
    assert server.accepted == 2


@both
def test_the_events_of_each_choice_hold_its_own_text(server, clients):
    pieces = [chat_chunk(text, index=index) for text in ("a", "b") for index in (0, 1)]
    pieces[1:2] = [chat_chunk("x", index=1)]
    ends = [chat_chunk(index=index, finish="stop") for index in (0, 1)]
    server.then(lambda peer: peer.stream([*pieces, *ends]))
    hi = [{"role": "user", "content": "Hi"}]
    with clients(server.url).chat.completions.stream(model="m", messages=hi, n=2) as stream:
        events = list(stream)
    assert [e.snapshot for e in events if e.type == "content.delta"] == ["a", "x", "ab", "xb"]
    assert [e.content for e in events if e.type == "content.done"] == ["ab", "xb"]
