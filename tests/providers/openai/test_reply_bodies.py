"""Bodies are read by their content, whatever their headers announce, compressed or not."""

from __future__ import annotations

import gzip
import json
import zlib
from collections.abc import Callable
from typing import Any

import pytest
from harness import read_reply
from raw_server import RawServer

from choreo_wsgi import sse
from choreo_wsgi.apis.chat import ChunkWriter, CompletionWriter, Identity
from choreo_wsgi.chat.request import ChatRequest
from choreo_wsgi.errors import ChoreoError, RateLimited, UpstreamInvalid, UpstreamTruncated
from choreo_wsgi.providers.openai.presets import Mistral
from choreo_wsgi.providers.openai.provider import OpenAI
from choreo_wsgi.settings import Settings

MESSAGES = [{"role": "user", "content": "hi"}]
FRAME = {"id": "c", "object": "chat.completion.chunk", "created": 1, "model": "m"}
DOCUMENT = {
    **FRAME,
    "object": "chat.completion",
    "choices": [
        {"index": 0, "message": {"role": "assistant", "content": "Hi"}, "finish_reason": "stop"}
    ],
}


def chunk(delta: Any, finish: str | None = None) -> Any:
    return {**FRAME, "choices": [{"index": 0, "delta": delta, "finish_reason": finish}]}


CHUNKS = [chunk({"role": "assistant", "content": ""}), chunk({"content": "Hi"}), chunk({}, "stop")]
EVENTS = b"".join(sse.frame(json.dumps(one).encode()) for one in CHUNKS) + sse.DONE
BODY = json.dumps(DOCUMENT, indent=1).encode()


def http(body: bytes, kind: str = "text/event-stream", *more: str, status: str = "200 OK") -> bytes:
    lines = [f"HTTP/1.1 {status}", f"Content-Type: {kind}", *more, "Connection: close"]
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + body


def fetch(
    answer: bytes, stream: bool = True, key: str = "sk-very-secret", **body: Any
) -> tuple[str, RawServer]:
    """Return the text of the reply to *answer*, and the server that sent it."""
    with RawServer.playing(answer) as server:
        options = {"base_url": server.url, "api_key": key}
        provider = (body.pop("type", OpenAI))("up", options, Settings())
        sent = {"model": "m", "messages": MESSAGES, **body}
        request = ChatRequest("m", sent["messages"], sent, stream=stream)
        writer: Any = ChunkWriter(Identity("m")) if stream else CompletionWriter(Identity("m"))
        reply = provider.answer(request, writer)
        out = read_reply(provider, reply)
    if not stream:
        return str(json.loads(out)["choices"][0]["message"]["content"]), server
    lines = out.split(b"\n\n")[:-1]
    deltas = [json.loads(line[6:])["choices"][0]["delta"] for line in lines]
    return "".join(delta.get("content") or "" for delta in deltas), server


KINDS = ("text/event-stream", "application/json")


@pytest.mark.parametrize(
    ("kind", "start", "status"),
    [
        ("text/html; charset=utf-8", b"", "200 OK"),
        *(("", start, "200 OK") for start in (b"\n\r\n", b"\xef\xbb\xbf", b": hello\n\n")),
        ("application/json", b"\n", "201 Created"),
    ],
)
def test_reads_events_under_any_content_type(kind: str, start: bytes, status: str) -> None:
    assert fetch(http(start + EVENTS, kind, status=status))[0] == "Hi"
    assert fetch(http(start + EVENTS, kind, status=status), stream=False)[0] == "Hi"


@pytest.mark.parametrize("kind", KINDS)
def test_reads_document_under_any_content_type(kind: str) -> None:
    assert fetch(http(BODY, kind), stream=False)[0] == "Hi"
    assert fetch(http(b"\n\n" + BODY, kind))[0] == "Hi"
    for stream in (True, False):
        for body in (EVENTS, BODY):
            assert fetch(http(b" \n" * 300_000 + body, kind), stream=stream)[0] == "Hi"


def test_reads_one_chunk_per_line() -> None:
    lines = b"".join(json.dumps(one).encode() + b"\n" for one in CHUNKS)
    assert fetch(http(lines, "application/x-ndjson"))[0] == "Hi"
    with pytest.raises(UpstreamTruncated):
        fetch(http(lines[: lines.rindex(b"{", 0, -60)], "application/x-ndjson"))


def deflate_raw(body: bytes) -> bytes:
    packer = zlib.compressobj(wbits=-zlib.MAX_WBITS)
    return packer.compress(body) + packer.flush()


@pytest.mark.parametrize(
    ("compress", "encoding"),
    [
        (gzip.compress, "x-gzip"),
        (gzip.compress, ""),
        (lambda body: gzip.compress(body[:50]) + gzip.compress(body[50:]), "gzip"),
        (zlib.compress, "deflate"),
        (deflate_raw, "deflate"),
        (bytes, "gzip"),
        (bytes, "deflate"),
    ],
)
def test_reads_compressed_and_mislabelled_bodies(
    compress: Callable[[bytes], bytes], encoding: str
) -> None:
    head = [f"Content-Encoding: {encoding}"] if encoding else []
    assert fetch(http(compress(EVENTS), KINDS[0], *head))[0] == "Hi"
    assert fetch(http(compress(BODY), KINDS[1], *head), stream=False)[0] == "Hi"
    error = http(compress(b'{"error":"slow"}'), KINDS[1], *head, status="429 Too Many")
    with pytest.raises(RateLimited, match="slow"):
        fetch(error)


def test_rejects_bombs_and_invalid_encodings() -> None:
    bomb = gzip.compress(b"data: " + b" " * 100_000_000)
    for stream in (True, False):
        with pytest.raises(UpstreamInvalid, match=r"too much|more than|longer"):
            fetch(http(bomb, KINDS[0], "Content-Encoding: gzip"), stream=stream)
    with pytest.raises(UpstreamInvalid, match="br"):
        fetch(http(b"x", KINDS[0], "Content-Encoding: br"))
    with pytest.raises(UpstreamInvalid):
        fetch(http(b"\x1f\x8b\x08broken", KINDS[0], "Content-Encoding: gzip"))


@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize(
    "body",
    [json.dumps(CHUNKS).encode(), json.dumps([DOCUMENT]).encode()],
    ids=["chunks", "document"],
)
def test_reads_arrays_of_chunks_and_of_documents(body: bytes, stream: bool) -> None:
    assert fetch(http(body, "application/json"), stream)[0] == "Hi"


@pytest.mark.parametrize("stream", [True, False])
def test_plain_text_body_becomes_error_message(stream: bool) -> None:
    with pytest.raises(UpstreamInvalid, match="upstream connect error"):
        fetch(http(b"upstream connect error", "text/plain"), stream)


@pytest.mark.parametrize("body", [b"<html>log in</html>", b'{"choices":[]}', b"[1]", b"{"])
def test_rejects_bodies_without_answer(body: bytes) -> None:
    for kind in KINDS:
        with pytest.raises(UpstreamInvalid):
            fetch(http(body, kind))


def test_masks_key_in_errors_unless_it_is_short() -> None:
    error = http(b'{"error":"no sk-very-secret, ok"}', KINDS[1], status="400 Bad")
    with pytest.raises(ChoreoError, match=r"^no \*\*\*, ok$"):
        fetch(error)
    with pytest.raises(ChoreoError, match=r"^no sk-very-secret, ok$"):
        fetch(error, key="ok")


CALL = {"id": "call_0123456789", "type": "function", "function": {"name": "f", "arguments": "{}"}}


def test_mistral_receives_short_call_ids_and_no_stream_options() -> None:
    ids = [CALL["id"], "abcDEF123", "abcDEF1234", "\ud800"]
    history = [
        *MESSAGES,
        {"role": "assistant", "content": None, "tool_calls": [{**CALL, "id": id} for id in ids]},
        *({"role": "tool", "tool_call_id": id, "content": "r"} for id in ids),
        (stray := {"role": "user", "content": "x", "tool_call_id": 5, "tool_calls": [1]}),
    ]
    for stream in (True, False):
        answer = http(EVENTS if stream else BODY)
        body = json.loads(fetch(answer, stream, type=Mistral, messages=history)[1].requests[0].body)
        calls = [call["id"] for call in body["messages"][1]["tool_calls"]]
        assert calls == [message["tool_call_id"] for message in body["messages"][2:-1]]
        assert body["messages"][-1] == stray
        assert calls[1] == "abcDEF123"
        assert all(len(id) == 9 and id.isalnum() for id in calls) and len({*calls}) == 4
        assert "stream_options" not in body


def test_other_servers_receive_no_include_obfuscation() -> None:
    body = json.loads(fetch(http(EVENTS))[1].requests[0].body)
    assert body["stream_options"] == {"include_usage": True}
