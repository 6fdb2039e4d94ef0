"""Resumable streams over sockets: frame numbers, replay, joining, cancelling, access."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import harness
import pytest
from harness import Client, Server, make_app, wait_until
from replay_helpers import size_of
from scripted_provider import Script
from wsgi_calls import call, environ_of

from choreo_wsgi import sse
from choreo_wsgi.app.application import Application
from choreo_wsgi.app.keys import digest_of
from choreo_wsgi.chat.items import Finish, Usage
from choreo_wsgi.errors import ProviderError
from choreo_wsgi.replay import Store, Writer, open_store
from choreo_wsgi.settings import Settings

RESUMABLE = {"Choreo-Resumable": "1"}
HELLO = {"role": "user", "content": "one two three"}


def payload(model: str = "scripted", **more: Any) -> dict[str, Any]:
    return {"model": model, "messages": [HELLO], "stream": True, **more}


@pytest.fixture
def start(
    serve: Callable[..., Server], scripted: Callable[[], Script]
) -> Iterator[Callable[..., tuple[Application, Server]]]:
    """``start(**settings)``: an application with the providers scripted and echo, served."""
    apps: list[Application] = []

    def make(**settings: str) -> tuple[Application, Server]:
        section = {"type": "scripted", "models": "scripted"}
        # A ping sends the head of a stream whose first frame a test withholds.
        given = {"heartbeat_seconds": "0.2", **settings}
        apps.append(make_app(given, {"provider scripted": section}))
        return apps[-1], serve(apps[-1])

    yield make
    for app in apps:
        app.close()


@pytest.fixture
def script(scripted: Callable[[], Script]) -> Script:
    return scripted()


def begin(client: Client, body: dict[str, Any], **headers: str) -> str:
    """Start a resumable stream; return its id."""
    names = {name.replace("_", "-"): value for name, value in headers.items()}
    client.request("POST", "/v1/chat/completions", body, {**RESUMABLE, **names})
    head = client.read_head()
    assert head.status == 200, client.read_body()
    id = head.headers["choreo-stream-id"]
    assert head.headers["content-location"] == f"/v1/streams/{id}"
    return id


def read_to_end(client: Client) -> list[bytes]:
    """Return the received frames, without pings."""
    return [frame for frame in iter(client.read_frame, b"") if not frame.startswith(b":")]


def next_frame(client: Client) -> bytes:
    """Return the next frame that is not a ping."""
    while (frame := client.read_frame()).startswith(b":"):
        pass
    return frame


def once(server: Server, method: str, path: str, **headers: str) -> harness.Answer:
    """Send one request on its own connection."""
    names = {name.replace("_", "-"): value for name, value in headers.items()}
    with server.connect() as client:
        return client.exchange(method, path, headers=names)


def replay(server: Server, id: str, after: int | None = None, **headers: str) -> list[bytes]:
    query = "" if after is None else f"?after={after}"
    names = {name.replace("_", "-"): value for name, value in headers.items()}
    with server.connect() as client:
        client.request("GET", f"/v1/streams/{id}{query}", headers=names)
        assert client.read_head().status == 200
        return read_to_end(client)


def text_of(frames: list[bytes], index: int = 0) -> str:
    text = ""
    for frame in frames:
        data = frame.partition(b"data: ")[2]
        if data.strip() != b"[DONE]":
            for choice in json.loads(data).get("choices", []):
                if choice["index"] == index:
                    text += choice["delta"].get("content", "")
    return text


def numbers(frames: list[bytes]) -> list[int]:
    return [int(re.match(rb"id: (\d+)\ndata: .+\n\n\Z", frame)[1]) for frame in frames]  # type: ignore[index]


def test_frames_are_numbered_and_replayed_from_any_number(start: Any) -> None:
    """Ids count from 1 and include [DONE]; a replay has the same bytes."""
    _, server = start()
    with server.connect() as client:
        id = begin(client, payload("echo", n=2, stream_options={"include_usage": True}))
        frames = read_to_end(client)
    assert numbers(frames) == list(range(1, len(frames) + 1))
    assert frames[-1] == b"id: %d\ndata: [DONE]\n\n" % len(frames)
    assert text_of(frames) == text_of(frames, 1) == HELLO["content"]
    assert b'"usage":{' in frames[-2]
    for after in range(len(frames)):
        assert replay(server, id, after) == frames[after:]
        assert replay(server, id, 0, Last_Event_ID=str(after)) == frames[after:]
    assert replay(server, id) == frames
    for name in ("starting_after", "from"):  # the names of OpenAI and llama.cpp
        assert replay(server, f"{id}?{name}=2") == frames[2:]


def test_cut_stream_continues_and_is_resumed_live(
    start: Any, script: Script, caplog: pytest.LogCaptureFixture
) -> None:
    """After a disconnect, a new reader receives the frames generated meanwhile and later."""
    caplog.set_level("INFO", "choreo_wsgi.access")
    app, server = start()
    client = server.connect()
    id = begin(client, payload())
    script.say("one ")
    first = [next_frame(client), next_frame(client)]
    client.reset()
    wait_until(lambda: app._resumption().orphans.active == 1, "the stream is an orphan")
    assert not script.closed.is_set()
    script.say("two ")
    with server.connect() as again:
        again.request("GET", f"/v1/streams/{id}?after=2")
        assert again.read_head().status == 200
        rest = [next_frame(again)]
        assert text_of(rest) == "two "  # before the next is produced
        script.finish("three", Finish())
        rest += read_to_end(again)
    assert numbers(first + rest) == list(range(1, 7))
    assert text_of(first + rest) == HELLO["content"]
    wait_until(lambda: app.active == 0, "all streams have ended")

    def outcomes() -> list[str]:
        return [line.account["outcome"] for line in caplog.records if hasattr(line, "account")]

    wait_until(lambda: len(outcomes()) == 2, "both lines are logged")
    assert outcomes() == ["client_left", "replayed"]


def test_stream_that_fails_to_start_leaves_no_log(start: Any, script: Script) -> None:
    app, server = start()
    script.say(RuntimeError("boom"))
    with server.connect() as client:
        answer = client.exchange("POST", "/v1/chat/completions", payload(), RESUMABLE)
    assert answer.status == 500
    assert size_of(app._resumption().store) == 0


def test_content_location_is_below_the_mount(start: Any) -> None:
    """SCRIPT_NAME has UTF-8 bytes decoded as Latin-1 (PEP 3333)."""
    app, _ = start()
    mount = "/caf\u00e9".encode().decode("latin-1")
    more = {"SCRIPT_NAME": mount, "HTTP_CHOREO_RESUMABLE": "1"}
    answer = call(app, "POST", "/v1/chat/completions", payload("echo"), **more)
    assert answer.headers["content-location"].startswith("/caf%C3%A9/v1/streams/strm_")


def test_orphan_is_uncounted_before_its_last_frame(
    start: Any, script: Script, monkeypatch: pytest.MonkeyPatch
) -> None:
    """So a client that has read the end can start the next stream."""
    app, server = start()
    orphans, counted = app._resumption().orphans, list[int]()
    append = Writer.append

    def append_and_count(self: Writer, *frames: Any, end: bool, **more: Any) -> None:
        counted.extend([orphans.active] * end)
        append(self, *frames, end=end, **more)

    monkeypatch.setattr(Writer, "append", append_and_count)
    client = server.connect()
    id = begin(client, payload())
    client.reset()
    wait_until(lambda: orphans.active == 1, "the stream is an orphan")
    script.finish("one", Finish())
    assert text_of(replay(server, id)) == "one"
    assert counted == [0]


def test_several_readers_receive_the_same_frames(start: Any, script: Script) -> None:
    _, server = start()
    with server.connect() as writer:
        id = begin(writer, payload())
        readers = [server.connect() for _ in range(5)]
        for reader in readers:
            reader.request("GET", f"/v1/streams/{id}")
            assert reader.read_head().status == 200
        script.finish("one ", "two ", Finish())
        frames = read_to_end(writer)
        for reader in readers:
            assert read_to_end(reader) == frames
            reader.close()


def test_delete_stops_the_generation_for_all_readers(start: Any, script: Script) -> None:
    """204, idempotent; readers receive the error frame, and the source is closed."""
    app, server = start()
    with server.connect() as client:
        id = begin(client, payload())
        script.say("one ")
        for _ in range(2):
            answer = once(server, "DELETE", f"/v1/streams/{id}")
            assert (answer.status, answer.body) == (204, b"")
        frames = read_to_end(client)
        error = json.loads(frames[-1].partition(b"data: ")[2])["error"]
        assert error["code"] == "stream_cancelled"
        assert b"[DONE]" not in b"".join(frames)
    assert once(server, "DELETE", f"/v1/streams/{id}").status == 204
    assert script.closed.wait(harness.DEADLINE)
    assert replay(server, id) == frames
    wait_until(lambda: app.active == 0, "all streams have ended")


def test_delete_stops_an_orphan(start: Any, script: Script) -> None:
    app, server = start()
    client = server.connect()
    id = begin(client, payload())
    client.reset()
    wait_until(lambda: app._resumption().orphans.active == 1, "the stream is an orphan")
    assert once(server, "DELETE", f"/v1/streams/{id}").status == 204
    assert script.closed.wait(harness.DEADLINE)
    wait_until(lambda: app.active == 0, "all streams have ended")


def test_failed_stream_replays_its_error_frame(start: Any, script: Script) -> None:
    _, server = start()
    with server.connect() as client:
        id = begin(client, payload())
        script.finish("one ")  # and no finish reason
        frames = read_to_end(client)
    assert json.loads(frames[-1].partition(b"data: ")[2])["error"]["code"] == "upstream_truncated"
    assert replay(server, id) == frames


def test_choreo_resumable_0_starts_a_plain_stream(start: Any) -> None:
    app, _ = start()
    answer = call(app, "POST", "/v1/chat/completions", payload("echo"), HTTP_CHOREO_RESUMABLE="0")
    assert answer.status == 200 and "choreo-stream-id" not in answer.headers


def test_same_idempotency_key_joins_the_stream(start: Any, script: Script) -> None:
    """The same key and body share one generation; another body is a conflict."""
    _, server = start()
    key = "k" * 255
    with server.connect() as first, server.connect() as second, server.connect() as third:
        id = begin(first, payload(), Idempotency_Key=key)
        assert begin(second, payload(), Idempotency_Key=key) == id
        headers = {**RESUMABLE, "Idempotency-Key": key}
        answer = third.exchange("POST", "/v1/chat/completions", payload(seed=1), headers)
        assert (answer.status, answer.error["code"]) == (409, "idempotency_conflict")
        script.finish("one ", Finish(), Usage(1, 1))
        assert read_to_end(first) == read_to_end(second)


def test_immediate_failure_frees_the_idempotency_key(
    start: Any, scripted: Callable[[], Script]
) -> None:
    """The next request with the key starts a new stream."""
    _, server = start()
    scripted().say(RuntimeError("boom"))
    with server.connect() as client:
        headers = {**RESUMABLE, "Idempotency-Key": "k-2"}
        answer = client.exchange("POST", "/v1/chat/completions", payload(), headers)
        assert (answer.status, answer.error["code"]) == (500, "internal_error")
        scripted().finish("fine", Finish())
        begin(client, payload(), Idempotency_Key="k-2")
        assert text_of(read_to_end(client)) == "fine"


@pytest.mark.parametrize(
    ("failure", "message", "code"),
    [
        (ProviderError("too long", status=400, code="too_long"), "too long", "too_long"),
        (RuntimeError("inner secret"), "the server failed to answer this request", None),
    ],
)
def test_joined_request_receives_the_same_error(
    start: Any, script: Script, failure: Exception, message: str, code: str | None
) -> None:
    _, server = start(heartbeat_seconds="600")
    joined = {**RESUMABLE, "Idempotency-Key": "k-3"}
    with server.connect() as first, server.connect() as second:
        first.request("POST", "/v1/chat/completions", payload(), joined)
        assert script.asked.wait(harness.DEADLINE)
        begin(second, payload(), Idempotency_Key="k-3")
        script.say(failure)
        assert first.read_answer().error["message"] == message
        (frame,) = read_to_end(second)
    assert numbers([frame]) == [1]
    error = json.loads(frame.partition(b"data: ")[2])["error"]
    assert (error["message"], error["code"]) == (message, code or "internal_error")


def test_keyed_request_survives_a_disconnect_before_the_head(start: Any, script: Script) -> None:
    """The client may retry with its key and join the stream."""
    app, server = start()
    client = server.connect()
    early = {**RESUMABLE, "Idempotency-Key": "early"}
    client.request("POST", "/v1/chat/completions", payload(), early)
    assert script.asked.wait(harness.DEADLINE)
    client.reset()
    wait_until(lambda: app._resumption().orphans.active == 1, "the stream is an orphan")
    with server.connect() as again:
        begin(again, payload(), Idempotency_Key="early")
        script.finish("late", Finish())
        assert text_of(read_to_end(again)) == "late"


@pytest.mark.parametrize("keyed", [True, False])
def test_only_a_keyed_request_keeps_waiting_without_its_client(
    start: Any, script: Script, keyed: bool
) -> None:
    app, _ = start()
    more: dict[str, Any] = {"HTTP_IDEMPOTENCY_KEY": "early"} if keyed else {}
    more["waitress.client_disconnected"] = lambda: True
    more["HTTP_CHOREO_RESUMABLE"] = "1"
    environ = environ_of("POST", "/v1/chat/completions", payload(), **more)
    waiting: Any = app(environ, lambda *head: None)
    waiting.ready(0.0)
    assert (waiting.decided is None) is keyed
    waiting.close()


def test_disconnect_before_the_head_cancels_an_unkeyed_request(start: Any, script: Script) -> None:
    app, server = start(heartbeat_seconds="600")
    client = server.connect()
    client.request("POST", "/v1/chat/completions", payload(), RESUMABLE)
    assert script.asked.wait(harness.DEADLINE)
    client.reset()
    assert script.closed.wait(harness.DEADLINE)
    wait_until(lambda: app.active == 0, "the slot is free again")


KEYS = "key-a,key-b"


def bearer(key: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {key}"}


def test_stream_is_hidden_from_other_keys(start: Any) -> None:
    """Another key, a guessed id and a malformed id return the same 404."""
    _, server = start(api_keys=KEYS)
    with server.connect() as client:
        id = begin(client, payload("echo"), **bearer("key-a"))
        frames = read_to_end(client)
    bodies = set()
    for other in (id, "strm_" + "A" * 32, "strm_x", "%2e%2e", "", "a/b", id + "x", "%FF"):
        key = "key-b" if other == id else "key-a"
        for method in ("GET", "DELETE"):
            answer = once(server, method, f"/v1/streams/{other}", **bearer(key))
            assert (answer.status, answer.error["code"]) == (404, "stream_not_found")
            bodies.add(answer.body)
    assert len(bodies) == 1
    assert replay(server, id, **bearer("key-a")) == frames
    assert once(server, "DELETE", f"/v1/streams/{id}", **bearer("key-a")).status == 204


def test_stream_ids_are_random(start: Any) -> None:
    """At least 128 random bits each, without a counter or a clock."""
    _, server = start()
    ids = []
    for _ in range(50):
        with server.connect() as client:
            ids.append(begin(client, payload("echo")))
            read_to_end(client)
    secret = [id.removeprefix("strm_") for id in ids]
    assert all(len(part) * 6 >= 128 for part in secret)
    # Every position varies, unlike the first digits of a date or a counter.
    assert all(len(set(column)) > 5 for column in zip(*secret, strict=True))


def test_reader_of_a_silent_stream_receives_pings(start: Any, script: Script) -> None:
    _, server = start(heartbeat_seconds="0.05")
    with server.connect() as client, server.connect(8) as reader:  # the default ping is at 10 s
        id = begin(client, payload())
        reader.request("GET", f"/v1/streams/{id}")
        assert reader.read_head().status == 200
        for _ in range(3):
            assert reader.read_frame() == b": ping\n"
        script.finish("x", Finish())
        assert text_of(read_to_end(reader)) == "x"


def test_head_of_a_stream_leaves_no_reader(start: Any) -> None:
    app, server = start()
    with server.connect() as client:
        id = begin(client, payload("echo"))
        read_to_end(client)
    with server.connect() as client:
        client.request("HEAD", f"/v1/streams/{id}")
        assert client.read_head("HEAD").status in (200, 405)
    wait_until(lambda: app.active == 0, "the reader has ended")


def test_expired_stream_is_not_found(start: Any) -> None:
    _, server = start(replay_ttl_seconds="0.2")
    with server.connect() as client:
        id = begin(client, payload("echo"))
        read_to_end(client)
    wait_until(lambda: once(server, "GET", f"/v1/streams/{id}").status == 404, "the stream expires")


def test_dropped_frames_return_410(start: Any, script: Script) -> None:
    _, server = start(replay_stream_bytes="2048")
    with server.connect() as client, server.connect() as other:
        id = begin(client, payload())
        script.finish(*["word " * 20] * 40, Finish())
        frames = read_to_end(client)
        answer = other.exchange("GET", f"/v1/streams/{id}?after=1")
        assert (answer.status, answer.error["code"]) == (410, "stream_gone")
    assert replay(server, id, len(frames) - 2) == frames[-2:]


@pytest.mark.parametrize(
    ("headers", "body", "param"),
    [
        ({"Choreo-Resumable": "yes"}, {}, "Choreo-Resumable"),
        (RESUMABLE, {"stream": False}, "stream"),
        ({**RESUMABLE, "Idempotency-Key": "a b"}, {}, "Idempotency-Key"),
        ({**RESUMABLE, "Idempotency-Key": "k" * 256}, {}, "Idempotency-Key"),
    ],
)
def test_invalid_resumable_requests_are_rejected(
    start: Any, headers: dict[str, str], body: dict[str, Any], param: str
) -> None:
    _, server = start()
    with server.connect() as client:
        body = {**payload("echo"), **body}
        answer = client.exchange("POST", "/v1/chat/completions", body, headers)
        assert answer.status == 400
        assert (answer.error["code"], answer.error["param"]) == ("invalid_parameter_value", param)


@pytest.mark.parametrize("after", ["-1", "", "9" * 19, "%D9%A1"])
def test_invalid_after_is_rejected(start: Any, after: str) -> None:
    _, server = start()
    with server.connect() as client:
        id = begin(client, payload("echo"))
        read_to_end(client)
    answer = once(server, "GET", f"/v1/streams/{id}?after={after}")
    assert (answer.status, answer.error["param"]) == (400, "after")


@pytest.mark.parametrize(("limit", "status"), [("max_orphans", 503), ("max_orphans_per_key", 429)])
def test_orphan_limit_rejects_new_resumable_streams(
    start: Any, scripted: Callable[[], Script], limit: str, status: int
) -> None:
    """Running streams continue, and requests that are not resumable start."""
    app, server = start(**{limit: "2"})
    scripts = [scripted(), scripted()]
    clients = [server.connect(), server.connect()]
    ids = [begin(client, payload()) for client in clients]
    for client in clients:
        client.reset()
    wait_until(lambda: app._resumption().orphans.active == 2, "both streams are orphans")
    with server.connect() as client:
        for headers in (RESUMABLE, {**RESUMABLE, "Idempotency-Key": "again"}):
            refused = client.exchange("POST", "/v1/chat/completions", payload("echo"), headers)
            assert (refused.status, refused.headers["retry-after"]) == (status, "1")
        plain = client.exchange("POST", "/v1/chat/completions", payload("echo", stream=False))
        assert plain.status == 200
    for script in scripts:
        script.finish("one ", Finish())
    assert [text_of(replay(server, id)) for id in ids] == ["one ", "one "]
    assert app._resumption().orphans.active == 0
    with server.connect() as client:
        begin(client, payload("echo"), Idempotency_Key="again")
        assert text_of(read_to_end(client))


def test_orphans_are_limited_per_key(start: Any, script: Script) -> None:
    app, server = start(max_orphans_per_key="1", api_keys=KEYS)
    client = server.connect()
    begin(client, payload(), **bearer("key-a"))
    client.reset()
    wait_until(lambda: app._resumption().orphans.active == 1, "the stream is an orphan")
    with server.connect() as other:
        begin(other, payload("echo"), **bearer("key-b"))
    more = {**RESUMABLE, **bearer("key-a")}
    with server.connect() as own:
        assert own.exchange("POST", "/v1/chat/completions", payload("echo"), more).status == 429
    script.finish(Finish())


def test_orphan_keeps_its_slot(start: Any, script: Script) -> None:
    """Its client can resume although all slots are in use."""
    app, server = start(max_streams="1")
    client = server.connect()
    id = begin(client, payload())
    client.reset()
    wait_until(lambda: app._resumption().orphans.active == 1, "the stream is an orphan")
    with server.connect() as client, server.connect() as back:
        refused = client.exchange("POST", "/v1/chat/completions", payload("echo"))
        assert (refused.status, refused.error["code"]) == (503, "service_overloaded")
        back.request("GET", f"/v1/streams/{id}")
        assert back.read_head().status == 200
        script.finish("one ", Finish())
        assert text_of(read_to_end(back)) == "one "
        wait_until(lambda: app.active == 0, "the slot is free")
    with server.connect() as client:
        begin(client, payload("echo"))


def test_streams_disconnected_together_are_all_complete(
    serve: Callable[..., Server], replay_url: str
) -> None:
    """24 streams of one key, as when a proxy is reloaded, with default settings."""
    words = " ".join(f"w{number}" for number in range(60))
    body = payload("slow", messages=[{"role": "user", "content": words}])
    slow = {"type": "echo", "delay_ms": "10", "models": "slow"}
    app = make_app({"replay": replay_url}, {"provider slow": slow})
    server = serve(app, threads=64)
    clients = [server.connect(30) for _ in range(24)]
    try:
        ids = [begin(client, body) for client in clients]
        for client in clients:
            client.reset()
        for id in ids:
            frames = replay(server, id)
            assert text_of(frames) == words
            assert numbers(frames) == list(range(1, len(frames) + 1))
        wait_until(lambda: app.active == 0, "all streams have ended", 30)
    finally:
        app.close()


def test_orphan_is_cancelled_after_orphan_seconds(start: Any, script: Script) -> None:
    _, server = start(orphan_seconds="0.2")
    client = server.connect()
    id = begin(client, payload())
    client.reset()
    assert script.closed.wait(harness.DEADLINE)
    frame = replay(server, id)[-1]
    assert json.loads(frame.partition(b"data: ")[2])["error"]["code"] == "stream_cancelled"


def test_stop_ends_orphans(start: Any, script: Script) -> None:
    app, server = start()
    client = server.connect()
    begin(client, payload())
    client.reset()
    wait_until(lambda: app._resumption().orphans.active == 1, "the stream is an orphan")
    app.drain()
    app.stop()
    wait_until(lambda: app.active == 0, "the stream has ended")
    assert script.closed.is_set()


def test_orphan_that_cannot_be_logged_does_not_stop_others(
    start: Any, scripted: Callable[[], Script], monkeypatch: pytest.MonkeyPatch
) -> None:
    """All orphans share a thread."""
    app, server = start()
    scripts = [scripted(), scripted()]
    clients = [server.connect(), server.connect()]
    ids = [begin(client, payload()) for client in clients]
    for client in clients:
        client.reset()
    wait_until(lambda: app._resumption().orphans.active == 2, "both streams are orphans")
    append = Writer.append

    def failing(log: Writer, *block: Any, **how: Any) -> None:
        if log.id == ids[0]:
            raise OSError("no room")
        append(log, *block, **how)

    monkeypatch.setattr(Writer, "append", failing)
    scripts[0].say("lost")
    assert scripts[0].closed.wait(harness.DEADLINE)
    scripts[1].finish("one ", Finish())
    assert text_of(replay(server, ids[1])) == "one "
    wait_until(lambda: app.active == 0, "both slots are free")


def test_stream_ended_elsewhere_closes_its_provider(start: Any, script: Script) -> None:
    app, server = start()
    with server.connect() as client:
        id = begin(client, payload())
        store = app._resumption().store
        store._keeper.discard(store._keeper.writers[id])
        script.say("one ")
        assert b'"producer_lost"' in read_to_end(client)[-1]
        assert script.closed.wait(harness.DEADLINE)
    wait_until(lambda: app.active == 0, "all streams have ended")


def test_stream_is_not_continued_once_orphans_are_closed(start: Any, script: Script) -> None:
    app, server = start()
    client = server.connect()
    id = begin(client, payload())
    app._resumption().orphans.close()
    client.reset()
    assert script.closed.wait(harness.DEADLINE)
    frame = replay(server, id)[-1]
    assert json.loads(frame.partition(b"data: ")[2])["error"]["code"] == "server_shutting_down"


def test_failed_and_finished_readers_free_their_slots(start: Any) -> None:
    app, server = start(max_streams="1")
    with server.connect() as client:
        id = begin(client, payload("echo"))
        frames = read_to_end(client)
    for _ in range(3):
        assert once(server, "GET", "/v1/streams/strm_" + "A" * 32).status == 404
        assert replay(server, id) == frames
        wait_until(lambda: app._readers.active == 0, "the reader has ended")


def elsewhere(url: str, owner: str = "") -> tuple[Store, Writer]:
    """Start a stream of *owner* in the store *url*, as another process would."""
    store = open_store(url, Settings())
    writer = store.create(owner).writer
    assert writer is not None
    writer.append(*sse.number(sse.frame(b"{}"), 1))
    wait_until(lambda: store.read(writer.id, owner).receive(0), "the frame is written")
    return store, writer


def test_delete_ends_a_stream_whose_producer_is_lost(start: Any, tmp_path: Path) -> None:
    """The DELETE request ends its log, as no other process will."""
    url = f"sqlite:{tmp_path / 'replay.db'}"
    _, server = start(replay=url, heartbeat_seconds="60", api_keys="key-a")
    owner, key = digest_of(b"key-a")[:16], bearer("key-a")
    other, writer = elsewhere(url, owner)
    other.close()
    assert once(server, "DELETE", f"/v1/streams/{writer.id}", **key).status == 204
    store = open_store(url, Settings())
    assert store.lost(writer.id, owner) is None  # although nobody reads it
    store.close()
    first, last = replay(server, writer.id, **key)
    assert numbers([first, last]) == [1, 2] and b'"stream_cancelled"' in last


@pytest.mark.parametrize("kind", ["message_start", "content_block_delta"])
def test_lost_message_ends_with_an_anthropic_error(start: Any, tmp_path: Path, kind: str) -> None:
    url = f"sqlite:{tmp_path / 'replay.db'}"
    _, server = start(replay=url, heartbeat_seconds="60")
    other, writer = elsewhere(url)
    writer.append(*sse.number(sse.frame(b'{"type":"%b"}' % kind.encode(), event=kind), 2))
    other.close()
    assert once(server, "DELETE", f"/v1/streams/{writer.id}").status == 204
    *_, last = replay(server, writer.id)
    assert b"event: error\n" in last and b'{"type":"error","error":{' in last


@pytest.mark.parametrize("ending", ["failed", "cancelled"])
@pytest.mark.parametrize(("kind", "number"), [("response.created", 1), ("choreo.request", 0)])
def test_lost_response_ends_as_failed(
    start: Any, tmp_path: Path, kind: str, number: int, ending: str
) -> None:
    """Also before its first event, when the log has only the request."""
    url = f"sqlite:{tmp_path / 'replay.db'}"
    app, server = start(replay=url, heartbeat_seconds="60")
    other = open_store(url, Settings())
    writer = other.create("").writer
    assert writer is not None
    created: dict[str, Any] = {"response": {"id": "resp_1", "output": []}}
    created |= {"type": kind, "sequence_number": 0} if number else {"items": []}
    writer.append(*sse.number(sse.frame(json.dumps(created).encode(), event=kind), 1))
    other.close()
    if ending == "cancelled":
        assert once(server, "DELETE", f"/v1/streams/{writer.id}").status == 204
    # A client that only asks for the response learns of the end too.
    for _ in range(2):
        answer = once(server, "GET", f"/v1/responses/resp_{writer.id[5:]}")
        found = json.loads(answer.body)
        assert (answer.status, found["id"], found["status"]) == (200, "resp_1", ending)
        assert ending == "cancelled" or found["error"]["type"] == "producer_lost"
    wait_until(lambda: not app._resumption().store._readers, "no reader is left open")
    *_, last = replay(server, writer.id)
    assert b"event: response.failed\n" in last and b'"sequence_number":%d' % number in last
    assert b'"resp_1"' in last


@pytest.mark.parametrize(
    ("kind", "error"),
    [
        ("response.output_text.delta", b'"stream_cancelled"'),
        ("content_block_delta", b"event: error\n"),
    ],
)
def test_lost_response_without_its_first_frames_ends(
    start: Any, tmp_path: Path, kind: str, error: bytes
) -> None:
    url = f"sqlite:{tmp_path / 'replay.db'}"
    _, server = start(replay=url, heartbeat_seconds="60")
    other = open_store(url, Settings(replay_stream_bytes=2048))
    writer = other.create("").writer
    assert writer is not None
    data = json.dumps({"type": kind, "delta": "x" * 1000}).encode()
    for number in range(1, 5):
        writer.append(*sse.number(sse.frame(data, event=kind), number))
    other.close()
    assert once(server, "DELETE", f"/v1/streams/{writer.id}").status == 204
    *_, last = replay(server, writer.id, 3)
    assert last.startswith(b"id: 5\n") and error in last


@pytest.mark.parametrize(
    ("kind", "beginning"),
    [
        ("", b'data: {"error":{"message"'),
        ("content_block_delta", b'event: error\ndata: {"type":"error","error":{"type"'),
        ("response.created", b'event: error\ndata: {"type":"error","sequence_number":8,"code"'),
    ],
)
def test_reader_of_another_process_stream_receives_the_shutdown(
    start: Any, tmp_path: Path, kind: str, beginning: bytes
) -> None:
    """As an error event of the stream's API."""
    url = f"sqlite:{tmp_path / 'replay.db'}"
    app, server = start(replay=url, heartbeat_seconds="60")
    other, writer = elsewhere(url)
    data = b'{"type":"%b","sequence_number":7,"response":{}}' % kind.encode()
    writer.append(*sse.number(sse.frame(data, event=kind), 2))
    with server.connect() as client:
        client.request("GET", f"/v1/streams/{writer.id}")
        assert client.read_head().status == 200
        assert [next_frame(client)[:5], next_frame(client)[:5]] == [b"id: 1", b"id: 2"]
        app.drain()
        app.stop()
        last = next_frame(client)
        # The frame has no id: the stream continues in the other process.
        assert last.startswith(beginning) and b"the server is shutting down" in last
    writer.append(*sse.number(sse.frame(b"{}"), 3), end=True)
    other.close()
