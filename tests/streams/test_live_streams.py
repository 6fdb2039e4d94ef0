"""Streams over real connections: each frame arrives before the next is made.

Each test runs under plain waitress and under the server of ``choreo-wsgi serve``.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from typing import Any, Union

import harness
import pytest
from scripted_provider import Script
from wsgi_calls import chat

from choreo_wsgi import sse
from choreo_wsgi.app.application import Application
from choreo_wsgi.chat.items import Delta, Finish
from choreo_wsgi.errors import ProviderError
from choreo_wsgi.serve.server import Server

Make = Callable[..., Application]
CHAT = "/v1/chat/completions"

#: No ping is sent within a test.
SILENT = {"heartbeat_seconds": "600"}


class Ours:
    """Our own server in a thread."""

    def __init__(self, app: Application) -> None:
        self._server = Server(app)
        self._port = int(self._server.addresses[0].rpartition(":")[2])
        self._thread = threading.Thread(target=self._server.run, daemon=True)
        self._thread.start()

    def connect(self) -> harness.Client:
        return harness.Client(("127.0.0.1", self._port))

    def close(self) -> None:
        self._server.drain()
        self._thread.join(harness.DEADLINE)
        assert not self._thread.is_alive(), "the server does not end"


Running = Union[harness.Server, Ours]
Serve = Callable[[Application], Running]


@pytest.fixture(params=[harness.Server, Ours], ids=["waitress", "ours"])
def serve(request: pytest.FixtureRequest) -> Iterator[Serve]:
    running: list[Running] = []

    def start(app: Application) -> Running:
        running.append(request.param(app))
        return running[-1]

    yield start
    for server in running:
        server.close()


def scripted_app(application: Make, **settings: str) -> Application:
    return application({"s": {"type": "scripted", "models": "echo"}}, **{**SILENT, **settings})


def begin(client: harness.Client, **more: Any) -> harness.Head:
    client.request("POST", CHAT, chat("x", stream=True, **more))
    return client.read_head()


def content(frame: bytes) -> str:
    chunk = json.loads(frame.removeprefix(b"data: "))
    return str(chunk["choices"][0]["delta"].get("content"))


# -- arrival ------------------------------------------------------------------------------


def test_each_frame_arrives_before_next_is_made(
    application: Make, scripted: Callable[[], Script], serve: Serve
) -> None:
    script = scripted()
    with serve(scripted_app(application)).connect() as client:
        client.request("POST", CHAT, chat("x", stream=True))
        script.say("one")
        head = client.read_head()
        assert head.status == 200
        assert head.headers["transfer-encoding"] == "chunked"
        assert head.headers["content-type"] == "text/event-stream; charset=utf-8"
        assert content(client.read_frame()) == ""  # the role
        assert content(client.read_frame()) == "one"
        for word in ("two", "three", "vier", "日本"):
            script.say(word)
            assert content(client.read_frame()) == word
        script.finish(Finish())
        assert json.loads(client.read_frame()[6:])["choices"][0]["finish_reason"] == "stop"
        assert client.read_frame() == sse.DONE
        assert client.read_frame() == b""


def test_choices_are_interleaved_as_they_arrive(
    application: Make, scripted: Callable[[], Script], serve: Serve
) -> None:
    one, two = scripted(), scripted()
    with serve(scripted_app(application)).connect() as client:
        client.request("POST", CHAT, chat("x", stream=True, n=2))
        for script, index, word in ((two, 1, "b"), (one, 0, "a"), (one, 0, "c"), (two, 1, "d")):
            script.say(word)
            if word == "b":
                client.read_head()
            if word in "ab":
                role = client.read_json()["choices"][0]
                assert (role["index"], role["delta"]["role"]) == (index, "assistant")
            choice = client.read_json()["choices"][0]
            assert (choice["index"], choice["delta"]) == (index, {"content": word})
        two.finish(Finish("length"))
        assert client.read_json()["choices"][0]["finish_reason"] == "length"
        one.finish("e", Finish())
        assert client.read_json()["choices"][0]["delta"] == {"content": "e"}
        assert client.read_json()["choices"][0]["finish_reason"] == "stop"
        assert client.read_frame() == sse.DONE


def test_stop_string_ends_stream_before_provider_does(
    application: Make, scripted: Callable[[], Script], serve: Serve
) -> None:
    script = scripted()
    app = scripted_app(application)
    with serve(app).connect() as client:
        client.request("POST", CHAT, chat("x", stream=True, stop=["END"]))
        script.say("a E")
        client.read_head()
        client.read_frame()
        assert content(client.read_frame()) == "a "  # the E may be the beginning of END
        script.say("x")
        assert content(client.read_frame()) == "Ex"
        script.say("EN")
        script.say("D never shown")
        assert client.read_json()["choices"][0]["finish_reason"] == "stop"
        assert client.read_frame() == sse.DONE
        assert script.closed.wait(harness.DEADLINE)


def test_head_is_sent_with_first_ping_of_slow_model(
    application: Make, scripted: Callable[[], Script], serve: Serve
) -> None:
    script = scripted()
    with serve(scripted_app(application, heartbeat_seconds="0.05")).connect() as client:
        assert begin(client).status == 200
        assert [client.read_frame() for _ in range(3)] == [sse.PING] * 3
        script.finish("a", Finish())
        frames = [frame for _ in range(100) if (frame := client.read_frame()) != sse.PING][:4]
        assert [content(frames[0]), content(frames[1])] == ["", "a"]
        assert frames[3] == sse.DONE


def test_failure_after_head_is_an_error_frame(
    application: Make, scripted: Callable[[], Script], serve: Serve
) -> None:
    script = scripted()
    with serve(scripted_app(application, heartbeat_seconds="0.05")).connect() as client:
        assert begin(client).status == 200
        script.say(ProviderError("no"))
        frames = (client.read_frame() for _ in range(1000))
        frame = next(frame for frame in frames if frame != sse.PING)
        assert json.loads(frame[6:])["error"]["code"] == "provider_api_error"
        assert client.read_frame() == b""


def test_failure_before_first_frame_sets_status(
    application: Make, scripted: Callable[[], Script], serve: Serve
) -> None:
    script = scripted()
    with serve(scripted_app(application)).connect() as client:
        client.request("POST", CHAT, chat("x", stream=True))
        assert script.asked.wait(harness.DEADLINE)
        script.say(ProviderError("no"))
        answer = client.read_answer()
        assert (answer.status, answer.error["code"]) == (502, "provider_api_error")
        assert client.exchange("GET", "/healthz").status == 200


# -- disconnects --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("when", "leave"),
    [("before the first byte", "close"), ("between frames", "reset"), ("plain", "close")],
)
def test_disconnect_stops_generation(
    application: Make, scripted: Callable[[], Script], serve: Serve, when: str, leave: str
) -> None:
    script = scripted()
    app = scripted_app(application, max_streams="1")
    server = serve(app)
    client = server.connect()
    if when == "between frames":
        script.say("a")
        begin(client)
        client.read_frame()
    else:
        client.request("POST", CHAT, chat("x", stream=when != "plain"))
        assert script.asked.wait(harness.DEADLINE)
    getattr(client, leave)()
    assert script.closed.wait(harness.DEADLINE)
    harness.wait_until(lambda: app.active == 0, "the slot is released")
    # The one slot serves the next.
    scripted().finish("b", Finish())
    with server.connect() as next_client:
        assert begin(next_client).status == 200
        next_client.read_body()


def test_stop_ends_streams_with_error_and_plain_requests_with_503(
    application: Make, scripted: Callable[[], Script], serve: Serve
) -> None:
    streamed, plain = scripted(), scripted()
    app = scripted_app(application)
    server = serve(app)
    with server.connect() as one, server.connect() as two:
        streamed.say("a")
        begin(one)
        one.read_frame()
        two.request("POST", CHAT, chat("x"))
        assert plain.asked.wait(harness.DEADLINE)
        app.stop()
        assert content(one.read_frame()) == "a"
        assert one.read_json()["error"]["code"] == "server_shutting_down"
        assert one.read_frame() == b""
        answer = two.read_answer()
        assert (answer.status, answer.error["code"]) == (503, "server_shutting_down")
    assert streamed.closed.is_set() and plain.closed.is_set()


def test_concurrent_streams_do_not_mix(application: Make, serve: Serve) -> None:
    server = serve(application(**SILENT))
    wrong: list[object] = []

    def run(number: int) -> None:
        words = " ".join(f"{number}-{place}" for place in range(40))
        with server.connect() as client:
            client.request("POST", CHAT, chat(words, stream=True))
            client.read_head()
            body = client.read_body()
        events = sse.Decoder().receive_data(body)
        text = "".join(content(event.data.encode()) for event in events[:-2])
        if text != words or events[-1].data != "[DONE]":
            wrong.append((number, text))

    threads = [threading.Thread(target=run, args=(number,)) for number in range(12)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


# -- the echo -----------------------------------------------------------------------------


def test_delayed_echo_sends_every_piece(application: Make, serve: Serve) -> None:
    app = application({"echo": {"delay_ms": "5"}}, **SILENT)
    with serve(app).connect() as client:
        client.request("POST", CHAT, chat("a b c", stream=True, n=2))
        client.read_head()
        texts, reasons = ["", ""], []
        while (frame := client.read_frame()) != sse.DONE:
            (choice,) = json.loads(frame[6:])["choices"]
            texts[choice["index"]] += choice["delta"].get("content", "")
            reasons += [choice["finish_reason"]] * bool(choice["finish_reason"])
        assert texts == ["a b c", "a b c"] and reasons == ["stop", "stop"]


def test_usage_is_last_chunk_before_done(application: Make, serve: Serve) -> None:
    with serve(application(**SILENT)).connect() as client:
        options = {"stream_options": {"include_usage": True}, "max_tokens": 0}
        begin(client, **options)
        assert client.read_json()["choices"][0]["delta"] == {"role": "assistant", "content": ""}
        last = client.read_json()
        assert last["choices"][0]["finish_reason"] == "length" and last["usage"] is None
        usage = client.read_json()
        assert usage["choices"] == []
        assert usage["usage"] == {"prompt_tokens": 1, "completion_tokens": 0, "total_tokens": 1}
        assert client.read_frame() == sse.DONE


def test_bodiless_responses_keep_connection_usable(application: Make, serve: Serve) -> None:
    with serve(application()).connect() as client:
        for method, path, status in (
            ("HEAD", "/healthz", 200),
            ("HEAD", "/nowhere", 404),
            ("HEAD", CHAT, 405),
            ("GET", "/healthz", 200),
            ("DELETE", "/v1/models", 405),
            ("OPTIONS", CHAT, 204),  # waitress closes after it
        ):
            answer = client.exchange(method, path)
            assert answer.status == status, (method, path)
            assert answer.headers["x-request-id"]
            if status == 405:
                assert "OPTIONS" in answer.headers["allow"]


def test_provider_may_be_a_generator(
    application: Make, serve: Serve, scripted: Callable[[], Script], monkeypatch: Any
) -> None:
    """The smallest possible provider: items from a generator."""
    from scripted_provider import Scripted

    from choreo_wsgi.chat.source import from_deltas

    def shout(request: Any) -> Any:
        return from_deltas(Delta(word.upper() + " ") for word in request.last_user_text.split())

    monkeypatch.setattr(Scripted, "script", staticmethod(shout))
    with serve(scripted_app(application)).connect() as client:
        client.request("POST", CHAT, chat("be loud"))
        message = client.read_answer().json()["choices"][0]
        assert message["message"]["content"] == "BE LOUD "
        assert message["finish_reason"] == "stop"
