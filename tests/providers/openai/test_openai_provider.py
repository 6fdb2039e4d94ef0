"""The openai provider over real sockets: ends, errors, usage, names, models, disconnects."""

from __future__ import annotations

import gzip
import json
import re
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
from harness import DEADLINE
from raw_server import Peer, RawServer, chunk, chunked, head, sized, until_close
from upstream_fixtures import idle_in

from choreo_wsgi import sse
from choreo_wsgi.apis.chat import ChunkWriter, CompletionWriter, Identity
from choreo_wsgi.chat.items import Delta, Finish, Item, ToolCall, Usage
from choreo_wsgi.chat.request import ChatRequest
from choreo_wsgi.errors import (
    BodyTooLarge,
    ChoreoError,
    ConfigurationError,
    InvalidRequest,
    ModelNotFound,
    ProviderError,
    ProviderNotConfigured,
    ProviderTimeout,
    ProviderUnavailable,
    RateLimited,
    UpstreamInvalid,
    UpstreamTruncated,
)
from choreo_wsgi.providers.openai import answer as answer_module
from choreo_wsgi.providers.openai import presets
from choreo_wsgi.providers.openai import provider as provider_module
from choreo_wsgi.providers.openai.azure import Azure
from choreo_wsgi.providers.openai.chunks import OpenAITranslator
from choreo_wsgi.providers.openai.provider import OpenAI
from choreo_wsgi.settings import Settings

Start = Callable[..., RawServer]
Json = Any
KEY = "sk-very-secret"


def event(delta: str, finish: str = "null", usage: str = ',"usage":null') -> bytes:
    return (
        'data: {"id":"c","object":"chat.completion.chunk","created":1,"model":"m","choices":'
        f'[{{"index":0,"delta":{delta},"finish_reason":{finish}}}]{usage}}}\n\n'
    ).encode()


ROLE = event('{"role":"assistant","content":""}')
WORDS = [event(f'{{"content":"w{number} é"}}') for number in range(4)]
STOP = event("{}", '"stop"')
USED = (
    b'data: {"id":"c","object":"chat.completion.chunk","created":1,"model":"m","choices":[],'
    b'"usage":{"prompt_tokens":4,"completion_tokens":7,"total_tokens":11}}\n\n'
)
STREAM = [ROLE, *WORDS, STOP, USED, sse.DONE]
SHORT = [ROLE, STOP, sse.DONE]  # for tests with one TLS handshake for each byte
RELAYED = b"".join(STREAM[:-2]).replace(b',"usage":null', b"")
REPLY = {
    "id": "c",
    "object": "chat.completion",
    "created": 1,
    "model": "m",
    "choices": [
        {"index": 0, "message": {"role": "assistant", "content": "é"}, "finish_reason": "stop"}
    ],
    "usage": {"prompt_tokens": 4, "completion_tokens": 7, "total_tokens": 11},
}


@pytest.fixture
def provider(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., OpenAI]]:
    """``provider(upstream, **options)`` returns a provider, which is closed after the test."""
    monkeypatch.setenv("NO_PROXY", "localhost,127.0.0.1")
    providers: list[OpenAI] = []

    def make(server: RawServer, settings: Settings | None = None, **options: str) -> OpenAI:
        options = {"base_url": server.base_url, "api_key": KEY, **options}
        providers.append(OpenAI("up", options, settings or Settings()))
        return providers[-1]

    yield make
    for one in providers:
        one.close()


def make_request(model: str = "m", **more: Any) -> ChatRequest:
    messages = [{"role": "user", "content": "hi"}]
    fields = {key: more.pop(key) for key in ("n", "include_usage", "stream") if key in more}
    return ChatRequest(model, messages, {"model": model, "messages": messages, **more}, **fields)


def stream(provider: OpenAI, request: ChatRequest | None = None, name: str = "m") -> Any:
    return provider.answer(request or make_request(stream=True), ChunkWriter(Identity(name)))


def read(frames: Any) -> tuple[bytes, ChoreoError | None]:
    """Read the reply *frames* to its end; return the bytes and the error that ended it, if any."""
    got = b""
    deadline = time.monotonic() + 15
    try:
        while not frames.ended:
            assert time.monotonic() < deadline
            got += frames.receive(0.25)
        assert frames.receive(0) == b""
    except ChoreoError as error:
        with pytest.raises(type(error)):
            frames.receive(0)  # raises again
        return got, error
    finally:
        frames.close()
    return got, None


Make = Callable[..., OpenAI]


# -- ends of streams ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("framing", "secure"), [(chunked, False), (until_close, False), (until_close, True)]
)
def test_stream_cut_at_any_byte_is_truncated_unless_finished(
    upstream: Start,
    provider: Make,
    tls: tuple[ssl.SSLContext, str],
    monkeypatch: pytest.MonkeyPatch,
    framing: Callable[[list[bytes]], bytes],
    secure: bool,
) -> None:
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", tls[1])
    events = SHORT if secure else STREAM
    raw = framing(events)
    # A complete last event needs no blank line, unless the framing shows a truncation.
    finish = raw.index(STOP) + len(STOP) - (2 if framing is until_close else 0)
    whole = b"".join(events[: events.index(STOP) + 1]).replace(b',"usage":null', b"")
    server = upstream(
        lambda peer: peer.send(raw, cut=int(peer.request.headers["X-Cut"] or 0)),
        context=tls[0] if secure else None,
    )
    ours = provider(server)
    for cut in range(len(raw)):
        ours._headers["X-Cut"] = str(cut)
        got, error = read(stream(ours))
        if cut >= finish:
            assert error is None and got == whole, cut
        else:
            assert isinstance(error, UpstreamTruncated), cut
            complete = events[: raw[:cut].count(b"\n\n")]
            assert got == b"".join(complete).replace(b',"usage":null', b""), cut


@pytest.mark.parametrize("framing", [chunked, until_close])
@pytest.mark.parametrize("piece", [None, 1])
def test_relays_streams_in_any_pieces(
    upstream: Start, provider: Make, framing: Callable[[list[bytes]], bytes], piece: int | None
) -> None:
    server = upstream(
        lambda peer: peer.send(
            framing(STREAM), piece=piece, cut=None if framing is chunked else 10**6
        )
    )
    frames = stream(provider(server))
    assert read(frames) == (RELAYED, None)
    assert frames.usage == Usage(4, 7) and frames.label == "up/m"


def test_returns_each_frame_before_next_event_arrives(upstream: Start, provider: Make) -> None:
    allowed = threading.Semaphore(0)

    def answer(peer: Peer) -> None:
        peer.send(head("200 OK", "text/event-stream", "Transfer-Encoding: chunked"))
        for one in STREAM:
            assert allowed.acquire(timeout=DEADLINE)
            peer.send(chunk(one))
        peer.send(b"0\r\n\r\n")

    frames = stream(provider(upstream(answer)))
    for one in STREAM[:-2]:
        allowed.release()
        got = b""
        while not got:
            got = frames.receive(0.25)
        assert got == one.replace(b',"usage":null', b"")
        assert frames.bytes_without_output == 0
    allowed.release(2)
    assert read(frames) == (b"", None)


def test_ignores_connection_reset_after_finish(upstream: Start, provider: Make) -> None:
    received = threading.Event()

    def answer(peer: Peer) -> None:
        peer.send(chunked(STREAM[:-2])[:-5])
        received.wait(DEADLINE)
        peer.reset()

    frames = stream(provider(upstream(answer)))
    got = b""
    while len(got) < len(RELAYED):
        got += frames.receive(0.25)
    received.set()
    assert read(frames) == (b"", None) and got == RELAYED


def test_connection_reset_before_finish_is_truncation(upstream: Start, provider: Make) -> None:
    received = threading.Event()

    def answer(peer: Peer) -> None:
        peer.send(chunked([ROLE, *WORDS])[:-5])
        received.wait(DEADLINE)
        peer.reset()

    frames = stream(provider(upstream(answer)))
    got = frames.receive(0.25) or frames.receive(5)
    received.set()
    more, error = read(frames)
    assert isinstance(error, UpstreamTruncated) and RELAYED.startswith(got + more)


def test_returns_frames_received_with_end_of_truncated_stream(
    upstream: Start, provider: Make
) -> None:
    server = upstream(lambda peer: peer.send(chunked([ROLE, *WORDS])))
    got, error = read(stream(provider(server)))
    assert got == b"".join([ROLE, *WORDS]).replace(b',"usage":null', b"")
    assert isinstance(error, UpstreamTruncated)


def test_waits_limited_time_for_done_marker(
    upstream: Start, provider: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    server = upstream(lambda peer: peer.send(chunked(STREAM[:-2])[:-5]) or peer.is_left(30))
    frames = stream(provider(server))
    got = b""
    while len(got) < len(RELAYED):
        got += frames.receive(0.25)
    frames.receive(0)
    assert frames.due < time.monotonic() + 10  # not only after the idle timeout
    timeouts: list[float] = []
    with monkeypatch.context() as patched:
        patched.setattr(frames, "read_burst", lambda timeout: timeouts.append(timeout) or b"")
        frames.receive(60)
    assert timeouts[0] <= 2
    assert read(frames) == (b"", None)


def test_ignores_truncated_compression_after_finish(upstream: Start, provider: Make) -> None:
    raw = sized(gzip.compress(b"".join(STREAM[:-2]) + b"\n" * 1000), kind="text/event-stream")
    raw = raw.replace(b"\r\n", b"\r\nContent-Encoding: gzip\r\n", 1)
    server = upstream(lambda peer: peer.send(raw, cut=len(raw) - 9))
    assert read(stream(provider(server))) == (RELAYED, None)


def test_error_after_content_is_raised_without_more_bytes(upstream: Start, provider: Make) -> None:
    bad = b'data: {"error":{"message":"it broke"}}\n\n'
    raw = chunked([ROLE + WORDS[0] + bad])[:-5]
    server = upstream(lambda peer: peer.send(raw) or peer.is_left(30))
    frames = stream(provider(server))
    got = b""
    while not got:
        got = frames.receive(0.25)
    assert frames.fileno() is None
    with pytest.raises(ProviderError, match="it broke"):
        frames.receive(0)
    frames.close()


def test_idle_timeout_raises_provider_timeout(upstream: Start, provider: Make) -> None:
    server = upstream(lambda peer: peer.send(chunked([ROLE, *WORDS])[:-5]) or peer.is_left())
    got, error = read(stream(provider(server, idle_timeout="0.2")))
    assert isinstance(error, ProviderTimeout) and RELAYED.startswith(got) and got


def test_first_byte_timeout_raises_provider_timeout(upstream: Start, provider: Make) -> None:
    server = upstream(lambda peer: peer.is_left())
    got, error = read(stream(provider(server, first_byte_timeout="0.2")))
    assert got == b"" and isinstance(error, ProviderTimeout) and error.status == 504


@pytest.mark.parametrize(
    ("answer", "kind", "status"),
    [
        (sized(b"<html>hello</html>", kind="text/html"), UpstreamInvalid, 502),
        (sized(b'{"choices":[]}'), UpstreamInvalid, 502),
        (sized(b"not json"), UpstreamInvalid, 502),
        (sized(b"", kind="text/event-stream"), UpstreamTruncated, 502),
        (sized(b"\n\n\n", kind="text/plain"), UpstreamTruncated, 502),
        (chunked([sse.DONE]), UpstreamTruncated, 502),
        (chunked([b"data: hello\n\n"]), UpstreamInvalid, 502),
        (b"SSH-2.0-x\r\n\r\n", UpstreamInvalid, 502),
        (head("302 Found", "text/html", "Location: /", "Content-Length: 0"), UpstreamInvalid, 502),
        (sized(b'{"error":{"message":"later","code":503}}'), ProviderUnavailable, 503),
        (sized(b'{"error":{"message":"m"}}', "401 Unauthorized"), ProviderError, 502),
        (sized(b'{"detail":"m"}', "404 Not Found"), ModelNotFound, 404),
        (sized(b'{"message":"m"}', "413 Too Large"), BodyTooLarge, 413),
        (sized(b"m", "429 Too Many", "text/plain"), RateLimited, 429),
        (sized(b"<html>", "500 Oops", "text/html"), ProviderError, 502),
        (sized(b"", "503 Unavailable"), ProviderUnavailable, 503),
        (
            sized(
                b'{"error":{"message":"m","code":"context_length_exceeded","param":"messages"}}',
                "400 Bad Request",
            ),
            InvalidRequest,
            400,
        ),
    ],
)
def test_stream_request_raises_for_other_replies(
    upstream: Start, provider: Make, answer: bytes, kind: type[ChoreoError], status: int
) -> None:
    server = upstream(lambda peer: peer.send(answer))
    got, error = read(stream(provider(server)))
    assert got == b"" and type(error) is kind and error.status == status
    assert "<" not in error.message
    assert len(server.requests) == (2 if status == 400 else 1)  # without stream_options


def test_forwards_error_text_and_retry_after_but_masks_key(upstream: Start, provider: Make) -> None:
    body = {"error": {"message": f"too fast for {KEY}!", "code": "slow_down"}}
    raw = sized(json.dumps(body).encode(), "429 Too Many")
    raw = raw.replace(b"\r\n\r\n", b"\r\nRetry-After: 17\r\n\r\n", 1)
    _, error = read(stream(provider(upstream(lambda peer: peer.send(raw)))))
    assert error is not None and error.message == "too fast for ***!"
    assert error.retry_after == 17 and error.code == "slow_down" and KEY not in str(error)


@pytest.mark.parametrize(
    ("message", "masked"),
    [
        ("bad token header-secret-5678", "bad token ***"),
        ("bad token Bearer header-secret-5678.", "bad token Bearer ***."),
        ("bad token HEADER-SECRET-5678", "bad token ***"),
        ("bad token aGVhZGVyLXNlY3JldC01Njc4", "bad token ***"),
        ("bad key other%2Bsecret%2f5678, other+secret\\/5678", "bad key ***, ***"),
        (
            "Incorrect API key provided: sk-very-***-cret. See",
            "Incorrect API key provided: ***. See",
        ),
        ("Incorrect API key: sk-v*******cret", "Incorrect API key: ***"),
        ("no secret * here ** at all", "no secret * here ** at all"),
    ],
)
def test_masks_header_values_and_partial_keys_in_errors(
    upstream: Start, provider: Make, message: str, masked: str
) -> None:
    """Values of the option ``headers``, and keys that the provider has masked in part."""
    refusal = json.dumps({"message": message, "param": message, "code": message}).encode()
    server = upstream(lambda peer: peer.send(sized(refusal, "400 Bad Request")))
    headers = "X-Gateway-Token: Bearer header-secret-5678, X-Other: other+secret/5678"
    _, error = read(stream(provider(server, headers=headers)))
    assert error is not None and error.message == masked
    assert not re.search("secret|aGVh", f"{error.param} {error.code}".replace(masked, ""), re.I)


def test_masks_key_in_error_events(upstream: Start, provider: Make) -> None:
    bad = f'data: {{"error":{{"message":"bad key {KEY}"}}}}\n\n'.encode()
    got, error = read(stream(provider(upstream(lambda peer: peer.send(chunked([ROLE, bad]))))))
    assert got and error is not None and error.message == "bad key ***"


def test_truncated_error_body_keeps_its_status(upstream: Start, provider: Make) -> None:
    raw = sized(b'{"error":{"message":"too many"}}', "429 Too Many")
    server = upstream(lambda peer: peer.send(raw, cut=len(raw) - 3))
    _, error = read(stream(provider(server)))
    assert isinstance(error, RateLimited)


def test_refused_connection_is_provider_unavailable(upstream: Start, provider: Make) -> None:
    server = upstream(lambda peer: None)
    server.__exit__(None, None, None)
    got, error = read(stream(provider(server)))
    assert got == b"" and isinstance(error, ProviderUnavailable)


def test_rejects_event_above_max_event_bytes(upstream: Start, provider: Make) -> None:
    large = event('{"content":"%s"}' % ("x" * 5000))
    server = upstream(lambda peer: peer.send(chunked([ROLE, large, STOP])))
    settings = Settings(max_event_bytes=4096)
    got, error = read(stream(provider(server, settings)))
    assert got == ROLE.replace(b',"usage":null', b"") and isinstance(error, UpstreamInvalid)
    source = provider(server, settings).open(make_request(stream=True))
    with pytest.raises(UpstreamInvalid):
        while not source.ended:
            source.receive(0.25)


def test_relays_event_of_one_megabyte(upstream: Start, provider: Make) -> None:
    large = event('{"content":"%s"}' % ("é" * 500_000))
    server = upstream(lambda peer: peer.send(chunked([ROLE, large, STOP, sse.DONE])))
    got, error = read(stream(provider(server)))
    assert error is None
    assert got == b"".join([ROLE, large, STOP]).replace(b',"usage":null', b"")


def test_relays_bursts_on_one_connection(upstream: Start, provider: Make) -> None:
    burst = [event(f'{{"content":"w{number}"}}') for number in range(20_000)]
    raw = chunked([ROLE, *burst, STOP, USED, sse.DONE])
    server = upstream(lambda peer: peer.send(raw))
    ours = provider(server)
    for _ in range(2):
        got, error = read(stream(ours))
        assert error is None
        assert got == b"".join([ROLE, *burst, STOP]).replace(b',"usage":null', b"")
    assert server.accepted == 1


# -- requests -----------------------------------------------------------------------------


def test_request_has_api_key_headers_and_include_usage(upstream: Start, provider: Make) -> None:
    server = upstream(lambda peer: peer.send(chunked(STREAM)))
    ours = provider(server, headers="X-Team: blue, X-Org: é")
    request = make_request("theirs", stream=True, temperature=0.5, custom={"é": 1}, n=2)
    read(stream(ours, request))
    sent = server.requests[0]
    assert sent.line == "POST /v1/chat/completions HTTP/1.1"
    assert sent.headers["Authorization"] == f"Bearer {KEY}"
    assert sent.headers["X-Team"] == "blue" and sent.headers["X-Org"] == "é"
    assert sent.headers["Content-Type"] == "application/json"
    body = json.loads(sent.body)
    assert body["model"] == "theirs" and body["stream"] is True and body["custom"] == {"é": 1}
    assert body["n"] == 2
    assert body["stream_options"] == {"include_usage": True} and body["temperature"] == 0.5


def test_usage_is_forwarded_when_requested(upstream: Start, provider: Make) -> None:
    server = upstream(lambda peer: peer.send(chunked(STREAM)))
    request = make_request(
        stream=True, include_usage=True, stream_options={"include_usage": True, "x": 1}
    )
    assert read(stream(provider(server), request)) == (b"".join(STREAM[:-1]), None)
    sent = json.loads(server.requests[0].body)
    assert sent["stream_options"] == {"include_usage": True, "x": 1} and "n" not in sent


@pytest.mark.parametrize("status", ["400 Bad Request", "422 Unprocessable"])
def test_retries_without_rejected_stream_options(
    upstream: Start, provider: Make, status: str
) -> None:
    def answer(peer: Peer) -> None:
        if b"stream_options" in peer.request.body:
            peer.send(sized(b'{"error":{"message":"extra fields not permitted"}}', status))
        else:
            peer.send(chunked([*STREAM[:-2], sse.DONE]))

    server = upstream(answer)
    ours = provider(server)
    for _ in range(3):
        assert read(stream(ours)) == (RELAYED, None)
    with_it = [b"stream_options" in request.body for request in server.requests]
    assert with_it == [True, False, False, False]


def test_request_sent_in_another_form_leaves_the_first_connection(
    upstream: Start, provider: Make
) -> None:
    """Though the refusal's body, of which the beginning suffices, does not end."""

    def answer(peer: Peer) -> None:
        if b"stream_options" in peer.request.body:
            peer.send(head("400 Bad Request", "text/html", "Transfer-Encoding: chunked"))
            peer.send(chunk(b"x" * 70_000))
            peer.wait_until_left()
        else:
            peer.send(chunked([*STREAM[:-2], sse.DONE]))

    server = upstream(answer)
    reply = stream(provider(server))
    first = reply._exchange
    assert read(reply) == (RELAYED, None)
    assert reply._exchange is not first and server.wait(lambda: server.open == 1)


@pytest.mark.parametrize("name", ["stream_options", "include_usage"])
def test_retries_without_options_that_error_names(
    upstream: Start, provider: Make, name: str
) -> None:
    """Also after the upstream has accepted them once."""
    refusal = json.dumps({"error": {"message": f"unknown {name}"}}).encode()
    replies = [chunked(STREAM), sized(refusal, "400 Bad Request"), chunked(STREAM)]
    server = upstream(lambda peer: peer.send(replies.pop(0)))
    ours = provider(server)
    for _ in range(2):
        assert read(stream(ours)) == (RELAYED, None)
    assert not replies and b"stream_options" not in server.requests[-1].body


def test_openai_itself_receives_include_obfuscation_false(
    upstream: Start, provider: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    server = upstream(lambda peer: peer.send(chunked(STREAM)))
    monkeypatch.setattr(OpenAI, "facts", replace(OpenAI.facts, home=server.base_url))
    read(stream(provider(server)))
    read(
        stream(
            provider(server),
            make_request(stream=True, stream_options={"include_obfuscation": True}),
        )
    )
    sent = [json.loads(request.body)["stream_options"] for request in server.requests]
    assert [options["include_obfuscation"] for options in sent] == [False, True]


def test_retries_invalid_request_once(upstream: Start, provider: Make) -> None:
    def answer(peer: Peer) -> None:
        if b"wrong" in peer.request.body:
            peer.send(sized(b'{"error":{"message":"wrong"}}', "400 Bad Request"))
        else:
            peer.send(chunked(STREAM))

    server = upstream(answer)
    ours = provider(server)
    _, error = read(stream(ours, make_request(stream=True, wrong=1)))
    assert isinstance(error, InvalidRequest) and error.message == "wrong"
    assert len(server.requests) == 2  # the stream options could have been the reason
    assert read(stream(ours))[1] is None
    assert b"stream_options" in server.requests[-1].body  # which were not the reason
    read(stream(ours, make_request(stream=True, wrong=1)))
    assert len(server.requests) == 4


def test_reply_names_requested_alias(upstream: Start, provider: Make) -> None:
    server = upstream(lambda peer: peer.send(chunked(STREAM)))
    request = make_request("theirs", stream=True)
    request.body["model"] = "alias"
    got, error = read(stream(provider(server), request, name="alias"))
    assert error is None and got == RELAYED.replace(b'"m"', b'"alias"')
    assert json.loads(server.requests[0].body)["model"] == "theirs"


def test_repair_false_forwards_members_unchanged(upstream: Start, provider: Make) -> None:
    odd = event('{"reasoning":"x"}')
    server = upstream(lambda peer: peer.send(chunked([ROLE, odd, STOP, sse.DONE])))
    assert b'"reasoning":"x"' in read(stream(provider(server, repair="false")))[0]
    assert b'"reasoning_content":"x"' in read(stream(provider(server)))[0]


def test_only_openai_itself_requires_api_key(upstream: Start) -> None:
    ours = OpenAI("openai", {}, Settings())
    with pytest.raises(ProviderNotConfigured):
        stream(ours)
    server = upstream(lambda peer: peer.send(chunked(STREAM)))
    ours = OpenAI("up", {"base_url": server.base_url + "/"}, Settings())
    assert read(stream(ours))[1] is None  # other servers need no key
    assert server.requests[0].headers["Authorization"] is None
    assert server.requests[0].line == "POST /v1/chat/completions HTTP/1.1"
    ours.close()


@pytest.mark.parametrize("headers", ["nonsense", ": x", "A\u20ac: b"])
def test_rejects_invalid_headers_option(upstream: Start, headers: str) -> None:
    server = upstream(lambda peer: None)
    with pytest.raises(ConfigurationError):
        stream(OpenAI("up", {"base_url": server.base_url, "headers": headers}, Settings()))


@pytest.mark.parametrize("kind", [OpenAI, Azure])
def test_headers_option_replaces_default_header(upstream: Start, kind: type[OpenAI]) -> None:
    server = upstream(lambda peer: peer.send(chunked(STREAM)))
    options = {"base_url": server.base_url, "api_key": "k", "headers": "authorization: Basic x"}
    ours = kind("up", options, Settings())
    assert read(stream(ours))[1] is None
    sent = server.requests[0].headers
    assert sent.get_all("Authorization") == ["Basic x"] and sent["api-key"] is None
    ours.close()


def test_reads_key_and_url_from_environment() -> None:
    assert OpenAI.from_environment({}) == {}
    environment = {"OPENAI_API_KEY": "k", "OPENAI_BASE_URL": "http://h"}
    assert OpenAI.from_environment(environment) == {"api_key": "k", "base_url": "http://h"}


HOSTED = ("chat", "responses", "input_tokens", "compact")
OTHER = {"base_url": "http://h/v1"}


@pytest.mark.parametrize(
    ("kind", "options", "apis", "strict"),
    [
        (OpenAI, {}, HOSTED, True),
        (OpenAI, {"base_url": "https://api.openai.com/v1/"}, HOSTED, True),
        (OpenAI, OTHER, ("chat",), False),
        (OpenAI, {**OTHER, "apis": "messages"}, ("messages",), False),
        (Azure, OTHER, ("chat", "responses"), True),
        (Azure, {**OTHER, "apis": "chat"}, ("chat",), True),
        (Azure, {**OTHER, "api_version": "2024-10-21"}, ("chat",), True),
        (presets.Groq, {}, ("chat",), True),
        (presets.VLLM, {}, ("chat", "responses"), False),
        (presets.SGLang, {}, ("chat", "responses"), False),
    ],
)
def test_apis_and_strictness_depend_on_type_and_url(
    kind: type[OpenAI], options: dict[str, str], apis: tuple[str, ...], strict: bool
) -> None:
    ours = kind("up", options, Settings())
    ours.close()
    assert ours.apis == {*apis, "completions", "embeddings"} and ours.strict == strict


def test_rejects_unknown_api() -> None:
    with pytest.raises(ConfigurationError, match="provider up: apis: unknown: speech"):
        OpenAI("up", {"apis": "chat, speech"}, Settings())


@pytest.mark.parametrize(
    ("kind", "name"), [(OpenAI, "max_completion_tokens"), (presets.DeepSeek, "max_tokens")]
)
def test_servers_with_old_limit_receive_max_tokens(kind: type[OpenAI], name: str) -> None:
    ours = kind("up", {}, Settings())
    ours.close()
    body: Json = {"model": "m", "max_completion_tokens": 5}
    assert ours.prepare(body) == {"model": "m", name: 5}


# -- plain completions ---------------------------------------------------------------------


def complete(provider: OpenAI, request: ChatRequest | None = None, name: str = "m") -> Any:
    return provider.answer(request or make_request(), CompletionWriter(Identity(name)))


@pytest.mark.parametrize("piece", [None, 5])
def test_forwards_document_byte_for_byte(
    upstream: Start, provider: Make, piece: int | None
) -> None:
    body = json.dumps(REPLY, indent=1).encode()
    server = upstream(lambda peer: peer.send(sized(body), piece=piece))
    reply = complete(provider(server), make_request(stream_options={}, seed=7))
    assert read(reply) == (body, None)
    assert reply.usage == Usage(4, 7) and reply.label == "up/m"
    sent = json.loads(server.requests[0].body)
    assert sent["stream"] is False and "stream_options" not in sent and sent["seed"] == 7


def test_mends_document_and_renames_its_model(upstream: Start, provider: Make) -> None:
    reply = json.loads(json.dumps(REPLY))
    message = reply["choices"][0]["message"]
    call = {"id": "c", "type": "function", "function": {"name": "f", "arguments": "{}"}}
    message.update(tool_calls=[call], reasoning="why")
    server = upstream(lambda peer: peer.send(sized(json.dumps(reply).encode())))
    request = make_request("theirs")
    request.body["model"] = "alias"
    got = json.loads(read(complete(provider(server), request, name="alias"))[0])
    assert json.loads(server.requests[0].body)["model"] == "theirs"
    assert got["model"] == "alias" and got["choices"][0]["finish_reason"] == "tool_calls"
    assert got["choices"][0]["message"]["reasoning_content"] == "why"


def test_repair_false_forwards_document_unchanged(upstream: Start, provider: Make) -> None:
    body = b'{"choices": [{"message": {"content": "a", "reasoning": "b"}}], "usage": null}'
    server = upstream(lambda peer: peer.send(sized(body)))
    assert read(complete(provider(server, repair="false"))) == (body, None)


def test_stream_in_place_of_document_becomes_document(upstream: Start, provider: Make) -> None:
    reply = complete(provider(upstream(lambda peer: peer.send(chunked(STREAM)))))
    got, error = read(reply)
    assert error is None and reply.usage == Usage(4, 7)
    message = json.loads(got)["choices"][0]["message"]
    assert message["content"] == "".join(f"w{number} é" for number in range(4))


def test_error_event_in_place_of_document_is_raised_at_once(
    upstream: Start, provider: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    raw = chunked([ROLE + WORDS[0] + b'data: {"error":{"message":"it broke"}}\n\n'])[:-5]
    server = upstream(lambda peer: peer.send(raw) or peer.is_left())
    reply = complete(provider(server))
    receive, blocks = reply.read, [b""]
    monkeypatch.setattr(
        reply, "read", lambda timeout: blocks.append(receive(timeout)) or blocks[-1]
    )
    got, error = read(reply)
    assert got == b"" and isinstance(error, ProviderError) and error.message == "it broke"
    assert blocks[-1]  # the error was raised by the call that received it


@pytest.mark.parametrize(
    ("answer", "kind"),
    [
        (sized(b"<html>", kind="text/html"), UpstreamInvalid),
        (sized(b"{}"), UpstreamInvalid),
        (sized(b"[]"), UpstreamInvalid),
        (sized(b""), UpstreamInvalid),
        (sized(b'{"choices":[]}'), UpstreamInvalid),
        (sized(b'{"choices":[{"index":0}]}'), UpstreamInvalid),
        (sized(b'{"choices":[{"message":{"content":"\xff"}}]}'), UpstreamInvalid),
        (sized(b'{"error":{"message":"m","code":429}}'), RateLimited),
        (sized(b'{"error":{"message":"m"}}', "500 Oops"), ProviderError),
        (chunked(STREAM[:-3]), UpstreamTruncated),
    ],
)
def test_rejects_replies_that_are_no_completion(
    upstream: Start, provider: Make, answer: bytes, kind: type[ChoreoError]
) -> None:
    got, error = read(complete(provider(upstream(lambda peer: peer.send(answer)))))
    assert got == b"" and type(error) is kind


def test_rejects_document_above_size_limit(
    upstream: Start, provider: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    body = json.dumps({**REPLY, "padding": " " * 100_000}).encode()
    ours = provider(upstream(lambda peer: peer.send(sized(body))))
    monkeypatch.setattr(answer_module, "MAX_DOCUMENT", len(body))
    assert read(complete(ours)) == (body, None)
    monkeypatch.setattr(answer_module, "MAX_DOCUMENT", len(body) - 1)
    got, error = read(complete(ours))
    assert got == b"" and isinstance(error, UpstreamInvalid)
    assert f"longer than {len(body) - 1} bytes" in error.message


def test_document_cut_short_is_truncation(upstream: Start, provider: Make) -> None:
    raw = sized(json.dumps(REPLY).encode())
    server = upstream(lambda peer: peer.send(raw, cut=len(raw) - 5))
    assert isinstance(read(complete(provider(server)))[1], UpstreamTruncated)


# -- disconnects -----------------------------------------------------------------------------


@pytest.mark.parametrize("phase", ["prefill", "body", "plain"])
def test_closing_reply_closes_upstream_connection(
    upstream: Start, provider: Make, phase: str
) -> None:
    left: list[bool] = []

    def answer(peer: Peer) -> None:
        if phase == "body":
            peer.send(chunked([ROLE, *WORDS])[:-5])
        left.append(peer.is_left())

    server = upstream(answer)
    ours = provider(server)
    for number in range(20):
        frames = complete(ours) if phase == "plain" else stream(ours)
        got = b""
        while len(server.requests) <= number or (phase == "body" and not got):
            got += frames.receive(0.01)
        frames.close()
        frames.close()
        assert server.wait(lambda number=number: len(left) > number or server.open == 0)
    assert server.wait(lambda: server.open == 0) and all(left)
    assert idle_in(ours.client) == 0


# -- items -----------------------------------------------------------------------------------


def items(data: list[bytes], n: int = 1) -> list[Item]:
    translator = OpenAITranslator(n)
    found = [item for block in data for item in translator.receive_data(block)]
    return [*found, *translator.end()]


def test_translator_items_are_same_at_every_split() -> None:
    raw = b"".join(STREAM)
    expected = [*[Delta(f"w{number} é") for number in range(4)], Finish("stop"), Usage(4, 7)]
    for at in range(len(raw) + 1):
        assert items([raw[:at], raw[at:]]) == expected


def test_translator_reads_tool_calls_and_reasoning() -> None:
    stream = [
        event('{"role":"assistant","reasoning":"hm","refusal":null}'),
        event('{"tool_calls":[{"id":"a","function":{"name":"f","arguments":""},"extra_content":1}]}'),
        event('{"tool_calls":[{"function":{"arguments":"{}"}}]}', '"stop"'),
        sse.DONE,
    ]  # fmt: skip
    assert items(stream) == [
        Delta(reasoning="hm"),
        Delta(tool_calls=[ToolCall(0, "a", "f", "", {"extra_content": 1})]),
        Delta(tool_calls=[ToolCall(0, "", "", "{}")]),
        Finish("tool_calls"),
    ]


def test_translator_reads_refusal_logprobs_custom_call_and_stop_reason() -> None:
    logprobs = '"logprobs":{"content":[{"token":"a"}],"refusal":null}'
    custom = {"index": 0, "id": "c", "type": "custom", "custom": {"name": "f", "input": "x"}}
    stream = [
        event('{"refusal":"no"}', f"null,{logprobs}"),
        event(json.dumps({"tool_calls": [custom]})),
        event("{}", '"stop","stop_reason":"END"'),
    ]
    extra = {"custom": custom["custom"], "type": "custom"}
    assert items(stream) == [
        Delta(refusal="no", logprobs={"content": [{"token": "a"}]}),
        Delta(tool_calls=[ToolCall(0, "c", "", "", extra)]),
        Finish("tool_calls", extra={"stop_reason": "END"}),
    ]


def test_translator_divides_many_calls() -> None:
    function = {"name": "f", "arguments": "{}"}
    calls = [{"index": number, "id": f"c{number}", "function": function} for number in range(40)]
    first = event(json.dumps({"content": "a", "tool_calls": calls}))
    *deltas, _ = items([first, event("{}", '"tool_calls"')])
    assert [len(item.tool_calls) for item in deltas if isinstance(item, Delta)] == [16, 16, 8]


def test_translator_ignores_events_after_done_and_truncated_ones_after_finish() -> None:
    assert items([b"".join(STREAM) + WORDS[0]]) == items(STREAM)
    assert items([ROLE, STOP, b'data: {"x"']) == [Finish("stop")]


def test_translator_raises_event_of_type_error() -> None:
    translator = OpenAITranslator()
    with pytest.raises(ProviderUnavailable, match="the cause"):
        translator.receive_data(
            b'event: error\ndata: {"reason":"overloaded","note":"the cause","choices":[]}\n\n'
        )


def test_translator_returns_items_before_failure() -> None:
    translator = OpenAITranslator()
    assert translator.receive_data(b"".join(WORDS) + b"data: x\n\n" + STOP) == [
        Delta(f"w{number} é") for number in range(4)
    ]
    assert not translator.ended
    for _ in range(2):
        with pytest.raises(UpstreamInvalid):
            translator.receive_data(b"")
    with pytest.raises(UpstreamInvalid):
        translator.end()


def test_translator_requires_finish_or_done_marker() -> None:
    assert items([ROLE, WORDS[0], sse.DONE])[-1] == Finish("stop")
    for stream in ([], [ROLE, *WORDS], [sse.DONE]):
        with pytest.raises(UpstreamTruncated):
            items(stream)


def test_stream_that_is_done_keeps_its_connection(upstream: Start, provider: Make) -> None:
    """Though the end of its body is missing."""
    kept = threading.Event()

    def answer(peer: Peer) -> None:
        peer.head().body(b"".join(STREAM))
        kept.wait(DEADLINE)
        peer.end()

    ours = provider(upstream(answer))
    assert read(stream(ours)) == (RELAYED, None) and idle_in(ours.client) == 1
    kept.set()


def test_open_reads_items_and_reuses_connection(upstream: Start, provider: Make) -> None:
    server = upstream(lambda peer: peer.send(chunked(STREAM)))
    ours = provider(server)
    for _ in range(2):
        source = ours.open(make_request(stream=True))
        found: list[Item] = []
        while not source.ended:
            found += source.receive(0.25)
        assert found[-2:] == [Finish("stop"), Usage(4, 7)] and source.usage == Usage(4, 7)
        source.close()
    assert server.accepted == 1
    server.answer = lambda peer: peer.send(chunked(STREAM), cut=200)
    source = ours.open(make_request(stream=True))
    with pytest.raises(UpstreamTruncated):
        while not source.ended:
            source.receive(0.25)


# -- models ----------------------------------------------------------------------------------


def test_caches_model_list(upstream: Start, provider: Make) -> None:
    listed = {"object": "list", "data": [{"id": "a"}, {"id": "b"}, {"no": 1}, 7]}
    server = upstream(lambda peer: peer.send(sized(json.dumps(listed).encode())))
    ours = provider(server)
    assert ours.models() == ["a", "b"] and ours.models() == ["a", "b"]
    assert [request.line for request in server.requests] == ["GET /v1/models HTTP/1.1"]
    assert server.requests[0].headers["Authorization"] == f"Bearer {KEY}"


def test_azure_has_no_list_of_its_deployments(upstream: Start) -> None:
    server = upstream(lambda peer: peer.send(sized(b'{"data":[{"id":"a-model"}]}')))
    ours = Azure("up", {"base_url": server.base_url, "api_key": "k"}, Settings())
    assert ours.models() == [] and server.requests == []


def test_failed_refresh_keeps_model_list(
    upstream: Start, provider: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    failure = sized(b'{"data":[{"id":"b"}]}', "500 Internal Server Error")
    answers = iter([sized(b'{"data":[{"id":"a"}]}'), failure])
    server = upstream(lambda peer: peer.send(next(answers)))
    monkeypatch.setattr(provider_module, "_LIST_SECONDS", 0.0)
    ours = provider(server)
    assert ours.models() == ours.models() == ours.models() == ["a"]
    assert len(server.requests) == 2


def test_retries_failed_list_sooner_than_missing_one(
    upstream: Start, provider: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(provider_module, "_NO_LIST_SECONDS", 0.0)
    replies = [sized(b"no", "500 Internal Server Error"), sized(b"no", "404 Not Found")]
    server = upstream(lambda peer: peer.send(replies.pop(0)))
    ours = provider(server)
    assert ours.models() == ours.models() == ours.models() == [] and not replies


def test_list_is_kept_for_five_minutes_and_a_failure_for_half_a_minute(
    upstream: Start, provider: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    lists = [sized(b'{"data":[{"id":"%b"}]}' % name) for name in (b"a", b"b")]
    replies = [sized(b"no", "500 Internal Server Error"), *lists]
    server = upstream(lambda peer: peer.send(replies.pop(0)))
    now = time.monotonic()
    clock = SimpleNamespace(monotonic=lambda: now)
    monkeypatch.setattr(provider_module, "time", clock)
    ours, found = provider(server), []
    for seconds in (0, 29, 2, 299, 2):
        now += seconds
        found.append(ours.models())
    assert found == [[], [], ["a"], ["a"], ["b"]]


def test_list_has_limits_of_time_and_size(
    upstream: Start, provider: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    server = upstream(lambda peer: peer.send(sized(b'{"data":[{"id":"a"}]}')))
    with monkeypatch.context() as patched:
        patched.setattr(provider_module.answers, "MAX_DOCUMENT", 0)
        assert provider(server).models() == []
    left: list[bool] = []
    server.answer = lambda peer: left.append(peer.is_left(5)) or peer.close()
    monkeypatch.setattr(provider_module, "_LIST_PATIENCE", 0.1)
    assert provider(server).models() == []
    assert server.wait(lambda: server.accepted == 1 and not server.open) and left == [True]


def test_error_after_frames_is_due_at_once(upstream: Start, provider: Make) -> None:
    """The frames are returned first; the descriptor does not become readable for the error."""
    bad = b'data: {"error":{"message":"no"}}\n\n'
    server = upstream(lambda peer: peer.send(chunked([ROLE + WORDS[0] + bad])))
    frames = stream(provider(server))
    deadline = time.monotonic() + 15
    while not frames.receive(0.25):
        assert time.monotonic() < deadline
    assert frames.due == 0.0
    with pytest.raises(ChoreoError, match="no"):
        frames.receive(0)
    frames.close()


def test_concurrent_models_call_does_not_wait(upstream: Start, provider: Make) -> None:
    requested, allowed = threading.Event(), threading.Event()

    def answer(peer: Peer) -> None:
        requested.set()
        allowed.wait(DEADLINE)
        peer.send(sized(b'{"data":[{"id":"a"}]}'))

    ours = provider(upstream(answer))
    with ThreadPoolExecutor(1) as pool:
        first = pool.submit(ours.models)
        assert requested.wait(DEADLINE)
        assert ours.models() == []
        allowed.set()
        assert first.result(DEADLINE) == ["a"]
    assert ours.models() == ["a"]


@pytest.mark.parametrize(
    "answer", [sized(b"no", "404 Not Found"), sized(b"[]"), sized(b'{"data":7}'), b"x\r\n\r\n"]
)
def test_caches_invalid_model_list_as_empty(upstream: Start, provider: Make, answer: bytes) -> None:
    server = upstream(lambda peer: peer.send(answer))
    ours = provider(server)
    assert ours.models() == [] and ours.models() == []
    assert len(server.requests) == 1
