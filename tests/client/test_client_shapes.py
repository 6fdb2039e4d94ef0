"""Answers of another form than the one that was asked for.

Both clients read them by the same code, so the sync one stands for both.
"""

from __future__ import annotations

import gzip
import json
import zlib

import pytest
from raw_server import answer, chat_chunk, frame

import choreoai

HI = {"model": "m", "messages": [{"role": "user", "content": "Hi"}]}
COMPLETION = {
    "id": "c",
    "choices": [
        {"index": 0, "message": {"role": "assistant", "content": "ok"}, "finish_reason": "stop"}
    ],
}
DOCUMENT = json.dumps(COMPLETION).encode()
EVENTS = b"".join(map(frame, [*answer("o", "k"), "[DONE]"]))


def whole(body: bytes, *headers: str, status: str = "200 OK"):
    """Answer with *body* under a head of these *headers*."""
    head = "".join(f"{line}\r\n" for line in (*headers, f"Content-Length: {len(body)}"))

    def script(peer):
        peer.send(f"HTTP/1.1 {status}\r\n{head}\r\n".encode() + body)
        peer.keep = True

    return script


@pytest.mark.parametrize("kind", ["application/json", None])
def test_events_are_known_whatever_they_are_called(server, ask, kind):
    server.then(whole(EVENTS, *([f"Content-Type: {kind}"] if kind else [])))
    assert "".join(ask().text) == "ok"


@pytest.mark.parametrize(
    ("kind", "body"),
    [
        ("application/json", DOCUMENT),
        ("text/event-stream", b"\n <html>no</html>"),
        (None, b"[1]"),
    ],
)
def test_a_document_where_a_stream_was_asked(server, ask, kind, body):
    server.then(whole(body, *([f"Content-Type: {kind}"] if kind else [])))
    with pytest.raises(choreoai.APIError, match="instead of a stream") as caught:
        list(ask())
    assert caught.value.body in (COMPLETION, [1], body.decode())


def test_an_error_where_a_stream_was_asked(server, ask):
    server.then(whole(b'{"error": {"message": "no room"}}', "Content-Type: text/event-stream"))
    with pytest.raises(choreoai.APIError, match="no room"):
        list(ask())


@pytest.mark.parametrize("start", [b"", b": hello\n\n", b"\xef\xbb\xbf", b"event: message\n"])
def test_a_stream_where_a_document_was_asked(server, client, start):
    server.then(whole(start + EVENTS))
    assert client.chat.completions.create(**HI).choices[0].message.content == "ok"


@pytest.mark.parametrize("kept", [4, 2])
def test_such_a_stream_is_whole_when_every_choice_has_finished(server, client, kept):
    chunks = [
        {"choices": [{"index": i, "delta": delta, "finish_reason": reason}]}
        for i in (0, 1)
        for delta, reason in (({"content": "ok"}, None), ({}, "stop"))
    ]
    server.then(whole(b"".join(map(frame, chunks[:kept]))))
    ask = client.chat.completions.create
    if kept < len(chunks):
        with pytest.raises(choreoai.StreamInterruptedError, match="was cut"):
            ask(**HI, n=2)
    else:
        assert [choice.message.content for choice in ask(**HI, n=2).choices] == ["ok", "ok"]


def test_a_stream_that_breaks_off_where_a_document_was_asked(server, client):
    server.then(whole(frame(chat_chunk("half"))))
    with pytest.raises(choreoai.StreamInterruptedError) as caught:
        client.chat.completions.create(**HI)
    assert caught.value.partial_text == "half"


@pytest.mark.parametrize(
    "body",
    [*(b'{"choices": %b}' % c for c in (b"[null]", b'"x"', b"[]")), b"[1]", b"{}"],
)
def test_a_document_that_is_no_completion(server, client, body):
    server.then(whole(body))
    with pytest.raises(choreoai.APIError, match="not a ChatCompletion") as caught:
        client.chat.completions.create(**HI)
    assert caught.value.body == json.loads(body)


def test_a_character_that_is_cut_is_not_dropped(server, client):
    server.then(whole("é".encode()[:1]))
    with client.chat.completions.with_streaming_response.create(**HI) as response:
        assert "".join(response.iter_text()) == "\ufffd"


def test_the_request_says_what_it_reads(server, ask, client):
    server.then(whole(EVENTS), whole(DOCUMENT))
    list(ask())
    client.chat.completions.create(**HI)
    accepted = [request.headers["accept"] for request in server.requests]
    assert accepted == ["text/event-stream", "application/json"]


@pytest.mark.parametrize(
    ("event", "message"),
    [
        (b"event: error\ndata: out of memory\n\n", "out of memory"),
        (b"event: error\ndata:\n\n", "the server reported an error"),
        (b'data: {"error": "plain"}\n\n', "plain"),
    ],
)
def test_an_error_in_a_stream(server, ask, event, message):
    server.then(
        whole(frame(chat_chunk("half")) + event + EVENTS, "Content-Type: text/event-stream")
    )
    with pytest.raises(choreoai.APIError, match=message) as caught:
        list(ask())
    assert caught.value.partial_text == "half"


def test_an_end_marker_with_blanks(server, ask):
    server.then(whole(EVENTS.replace(b"[DONE]", b" [DONE] "), "Content-Type: text/event-stream"))
    assert "".join(ask().text) == "ok"


@pytest.mark.parametrize(
    ("body", "coding"),
    [
        (zlib.compress(DOCUMENT)[2:-4], "deflate"),  # without its head
        (DOCUMENT, "gzip"),  # unpacked on its way
        (DOCUMENT, "deflate"),
        (gzip.compress(DOCUMENT[:9]) + gzip.compress(DOCUMENT[9:]), "GZIP"),
    ],
)
def test_a_body_that_is_packed_in_unusual_ways(server, client, body, coding):
    server.then(whole(body, f"Content-Encoding: {coding}"))
    assert client.chat.completions.create(**HI).choices[0].message.content == "ok"


def test_a_body_that_unpacks_to_too_much(server, client):
    server.then(whole(gzip.compress(bytes(50_000_000)), "Content-Encoding: gzip"))
    with pytest.raises(choreoai.APIConnectionError, match="too long"):
        client.chat.completions.create(**HI)


def test_a_redirection_is_named_and_not_followed(server, client):
    server.then(whole(b"", f"Location: {server.url}/elsewhere", status="307 T"))
    with pytest.raises(choreoai.APIStatusError, match=f"307: .*{server.url}/elsewhere"):
        client.chat.completions.create(**HI)
    assert len(server.requests) == 1


def test_another_protocol_is_no_answer(server, client):
    server.then(whole(b"", "Upgrade: websocket", status="101 Switching Protocols"))
    with pytest.raises(choreoai.APIStatusError, match="101"):
        client.chat.completions.create(**HI)
