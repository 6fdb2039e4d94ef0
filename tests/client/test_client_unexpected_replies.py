"""Answers of another form than the requested one.

Both clients share the code that reads them, so the sync one represents both.
"""

from __future__ import annotations

import gzip
import json
import zlib

import pytest
from raw_server import DEADLINE, answer, chat_chunk, frame
from silent_script import SilentAfter

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


def reply(body: bytes, *headers: str, status: str = "200 OK"):
    """Return a script that answers with *body* and *headers*."""
    head = "".join(f"{line}\r\n" for line in (*headers, f"Content-Length: {len(body)}"))

    def script(peer):
        peer.send(f"HTTP/1.1 {status}\r\n{head}\r\n".encode() + body)
        peer.keep = True

    return script


@pytest.mark.parametrize("kind", ["application/json", None])
def test_recognises_events_under_any_content_type(server, open_stream, kind):
    server.then(reply(EVENTS, *([f"Content-Type: {kind}"] if kind else [])))
    assert "".join(open_stream().text) == "ok"


@pytest.mark.parametrize(
    ("kind", "body"),
    [
        ("application/json", DOCUMENT),
        ("text/event-stream", b"\n <html>no</html>"),
        (None, b"[1]"),
    ],
)
def test_document_instead_of_a_stream_raises(server, open_stream, kind, body):
    server.then(reply(body, *([f"Content-Type: {kind}"] if kind else [])))
    shown = f"'{kind or 'a document'}' instead of a stream"
    with pytest.raises(choreoai.APIError, match=shown) as caught:
        list(open_stream())
    assert caught.value.body in (COMPLETION, [1], body.decode())


def test_error_document_instead_of_a_stream_raises(server, open_stream):
    server.then(reply(b'{"error": {"message": "no room"}}', "Content-Type: text/event-stream"))
    with pytest.raises(choreoai.APIError, match="no room"):
        list(open_stream())


@pytest.mark.parametrize(
    "body",
    [
        *(start + EVENTS for start in (b"", b": hello\n\n", b"\xef\xbb\xbf", b"event: message\n")),
        frame(chat_chunk("ok", finish="stop")).rstrip(),
        b"\xef\xbb\xbf" + DOCUMENT,
    ],
)
def test_reads_a_stream_or_a_bom_sent_instead_of_a_document(server, client, body):
    server.then(reply(body))
    assert client.chat.completions.create(**HI).choices[0].message.content == "ok"


@pytest.mark.parametrize("kept", [4, 2])
def test_stream_instead_of_a_document_needs_all_n_choices(server, client, kept):
    chunks = [
        {"choices": [{"index": i, "delta": delta, "finish_reason": reason}]}
        for i in (0, 1)
        for delta, reason in (({"content": "ok"}, None), ({}, "stop"))
    ]
    server.then(reply(b"".join(map(frame, chunks[:kept]))))
    create = client.chat.completions.create
    if kept < len(chunks):
        with pytest.raises(choreoai.StreamInterruptedError, match="was cut"):
            create(**HI, n=2)
    else:
        assert [choice.message.content for choice in create(**HI, n=2).choices] == ["ok", "ok"]


def test_cut_stream_instead_of_a_document_raises(server, client):
    wrong = frame(chat_chunk("bX", finish="stop")).replace(b"bX", b"b\xe9")
    server.then(reply(frame(chat_chunk("half"))), reply(wrong))
    with pytest.raises(choreoai.StreamInterruptedError) as caught:
        client.chat.completions.create(**HI)
    assert caught.value.partial_text == "half"
    with pytest.raises(choreoai.APIError, match="UTF-8"):
        client.chat.completions.create(**HI)


@pytest.mark.parametrize(
    "body",
    [*(b'{"choices": %b}' % c for c in (b"[null]", b'"x"', b"[]")), b"[1]", b"{}"],
)
def test_document_that_is_not_a_completion_raises(server, client, body):
    server.then(reply(body))
    with pytest.raises(choreoai.APIError, match="not a ChatCompletion") as caught:
        client.chat.completions.create(**HI)
    assert caught.value.body == json.loads(body)


def test_text_and_iter_text_replace_a_cut_character(server, client):
    server.then(reply("é".encode()[:1], status="201 Created"))
    create = client.chat.completions.with_streaming_response.create
    with create(**HI) as response:
        assert "".join(response.iter_text()) == "\ufffd"
    with create(**HI) as response:
        assert (response.text(), response.status_code) == ("\ufffd", 201)


def test_streaming_response_has_an_idle_limit_and_closes(server, client):
    script = SilentAfter(head=False, body=b"HTTP/1.1 200 OK\r\n\r\nstart")
    server.then(script)
    create, idle = (
        client.chat.completions.with_streaming_response.create,
        choreoai.Timeout(idle=0.05),
    )
    with create(**HI) as response:
        assert next(response.iter_bytes()) == b"start"
    assert script.closed.wait(DEADLINE)
    with create(**HI, timeout=idle) as response, pytest.raises(choreoai.APITimeoutError):
        list(response.iter_bytes())


def test_iter_lines_joins_blocks_and_strips_line_ends(server, client):
    def script(peer):
        peer.head(kind="text/plain")
        for block in (b"a\r", b"\nb", b"c\n\nd", b"\xc3", b"\xa9"):
            peer.body(block)
        peer.end()

    server.then(script)
    with client.chat.completions.with_streaming_response.create(**HI) as response:
        assert list(response.iter_lines()) == ["a", "bc", "", "dé"]


def test_accept_header_depends_on_streaming(server, open_stream, client):
    server.then(reply(EVENTS), reply(DOCUMENT))
    list(open_stream())
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
def test_error_event_in_a_stream_raises(server, open_stream, event, message):
    server.then(
        reply(frame(chat_chunk("half")) + event + EVENTS, "Content-Type: text/event-stream")
    )
    with pytest.raises(choreoai.APIError, match=message) as caught:
        list(open_stream())
    assert caught.value.partial_text == "half"


def test_accepts_done_with_blanks_and_text_behind_it(server, open_stream):
    server.then(reply(EVENTS.replace(b"[DONE]", b" [DONE]. "), "Content-Type: text/event-stream"))
    assert "".join(open_stream().text) == "ok"


@pytest.mark.parametrize(
    ("body", "coding"),
    [
        (zlib.compress(DOCUMENT)[2:-4], "deflate"),  # raw deflate
        (DOCUMENT, "gzip"),  # already decompressed
        (DOCUMENT, "deflate"),
        (gzip.compress(DOCUMENT[:9]) + gzip.compress(DOCUMENT[9:]), "GZIP"),
    ],
)
def test_decompresses_unusual_codings(server, client, body, coding):
    server.then(reply(body, f"Content-Encoding: {coding}"))
    assert client.chat.completions.create(**HI).choices[0].message.content == "ok"


def test_decompressed_body_over_the_limit_raises(server, client):
    server.then(reply(gzip.compress(bytes(50_000_000)), "Content-Encoding: gzip"))
    with pytest.raises(choreoai.APIConnectionError, match="too long"):
        client.chat.completions.create(**HI)


@pytest.mark.parametrize("status", [301, 308])
def test_redirect_raises_and_is_not_followed(server, client, status):
    server.then(reply(b"", f"Location: {server.url}/elsewhere", status=f"{status} T"))
    with pytest.raises(choreoai.APIStatusError, match=f"{status}: .*{server.url}/elsewhere"):
        client.chat.completions.create(**HI)
    assert len(server.requests) == 1


def test_status_101_raises(server, client):
    server.then(reply(b"", "Upgrade: websocket", status="101 Switching Protocols"))
    with pytest.raises(choreoai.APIStatusError, match="101"):
        client.chat.completions.create(**HI)
