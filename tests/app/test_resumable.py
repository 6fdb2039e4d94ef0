"""Resumable streams over real sockets: numbers, replay, joining, cancelling, scoping."""

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
from choreo_wsgi.chat.items import Finish, Usage
from choreo_wsgi.errors import ProviderError
from choreo_wsgi.replay import Store, Writer, open_store
from choreo_wsgi.settings import Settings

RESUMABLE = {"Choreo-Resumable": "1"}
HELLO = {"role": "user", "content": "one two three"}


def ask(model: str = "scripted", **more: Any) -> dict[str, Any]:
    return {"model": model, "messages": [HELLO], "stream": True, **more}


@pytest.fixture
def start(
    serve: Callable[..., Server], scripted: Callable[[], Script]
) -> Iterator[Callable[..., tuple[Application, Server]]]:
    """``start(**settings)``: an application with the providers scripted and echo, served."""
    apps: list[Application] = []

    def make(**settings: str) -> tuple[Application, Server]:
        section = {"type": "scripted", "models": "scripted"}
        # The head of a stream whose first frame a test withholds leaves with a ping.
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
    """Send one request on a connection of its own: waitress closes it after a stream."""
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


def test_every_frame_is_numbered_and_replayed_from_anywhere(start: Any) -> None:
    """wire.md: each data frame has an id from 1, the end marker too; a replay is exact."""
    _, server = start()
    with server.connect() as client:
        id = begin(client, ask("echo", n=2, stream_options={"include_usage": True}))
        frames = read_to_end(client)
    assert numbers(frames) == list(range(1, len(frames) + 1))
    assert frames[-1] == b"id: %d\ndata: [DONE]\n\n" % len(frames)
    assert text_of(frames) == text_of(frames, 1) == HELLO["content"]
    assert b'"usage":{' in frames[-2]
    for after in range(len(frames)):
        assert replay(server, id, after) == frames[after:]
        assert replay(server, id, Last_Event_ID=str(after)) == frames[after:]
    assert replay(server, id) == frames
    for name in ("starting_after", "from"):  # as OpenAI and llama.cpp call it
        assert replay(server, f"{id}?{name}=2") == frames[2:]


def test_a_cut_stream_continues_and_is_resumed_live(
    start: Any, script: Script, caplog: pytest.LogCaptureFixture
) -> None:
    """The client leaves; a new reader gets the frames generated meanwhile and later ones."""
    caplog.set_level("INFO", "choreo_wsgi.access")
    app, server = start()
    client = server.connect()
    id = begin(client, ask())
    script.say("one ")
    seen = [next_frame(client), next_frame(client)]
    client.reset()
    wait_until(lambda: app._resumption().orphans.active == 1, "an orphan is carried: the stream")
    assert not script.closed.is_set()
    script.say("two ")
    with server.connect() as again:
        again.request("GET", f"/v1/streams/{id}?after=2")
        assert again.read_head().status == 200
        rest = [next_frame(again)]
        assert text_of(rest) == "two "  # before the next was produced
        script.finish("three", Finish())
        rest += read_to_end(again)
    assert numbers(seen + rest) == list(range(1, 7))
    assert text_of(seen + rest) == HELLO["content"]
    wait_until(lambda: app.active == 0, "nothing is left running")

    def outcomes() -> list[str]:
        return [line.account["outcome"] for line in caplog.records if hasattr(line, "account")]

    wait_until(lambda: len(outcomes()) == 2, "both lines are logged")
    assert outcomes() == ["client_left", "replayed"]


def test_a_stream_that_does_not_begin_leaves_no_log(start: Any, script: Script) -> None:
    app, server = start()
    script.say(RuntimeError("boom"))
    with server.connect() as client:
        answer = client.exchange("POST", "/v1/chat/completions", ask(), RESUMABLE)
    assert answer.status == 500
    assert size_of(app._resumption().store) == 0


def test_the_way_back_is_below_the_mount(start: Any) -> None:
    """PEP 3333: its bytes are passed as Latin-1."""
    app, _ = start()
    mount = "/caf\u00e9".encode().decode("latin-1")
    more = {"SCRIPT_NAME": mount, "HTTP_CHOREO_RESUMABLE": "1"}
    answer = call(app, "POST", "/v1/chat/completions", ask("echo"), **more)
    assert answer.headers["content-location"].startswith("/caf%C3%A9/v1/streams/strm_")


def test_an_orphan_is_counted_out_before_its_log_ends(
    start: Any, script: Script, monkeypatch: pytest.MonkeyPatch
) -> None:
    """So a client that has read the end can start the next one."""
    app, server = start()
    orphans, counted = app._resumption().orphans, list[int]()
    append = Writer.append

    def append_and_count(self: Writer, *frames: Any, end: bool, **more: Any) -> None:
        counted.extend([orphans.active] * end)
        append(self, *frames, end=end, **more)

    monkeypatch.setattr(Writer, "append", append_and_count)
    client = server.connect()
    id = begin(client, ask())
    client.reset()
    wait_until(lambda: orphans.active == 1, "an orphan is carried: the stream")
    script.finish("one", Finish())
    assert text_of(replay(server, id)) == "one"
    assert counted == [0]


def test_several_readers_at_once(start: Any, script: Script) -> None:
    _, server = start()
    with server.connect() as writer:
        id = begin(writer, ask())
        readers = [server.connect() for _ in range(5)]
        for reader in readers:
            reader.request("GET", f"/v1/streams/{id}")
            assert reader.read_head().status == 200
        script.finish("one ", "two ", Finish())
        frames = read_to_end(writer)
        for reader in readers:
            assert read_to_end(reader) == frames
            reader.close()


def test_delete_stops_the_generation_for_all(start: Any, script: Script) -> None:
    """204 and idempotent; the readers get the error frame, the source is closed."""
    app, server = start()
    with server.connect() as client:
        id = begin(client, ask())
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
    wait_until(lambda: app.active == 0, "nothing is left running")


def test_delete_stops_a_stream_without_a_client(start: Any, script: Script) -> None:
    app, server = start()
    client = server.connect()
    id = begin(client, ask())
    client.reset()
    wait_until(lambda: app._resumption().orphans.active == 1, "an orphan is carried: the stream")
    assert once(server, "DELETE", f"/v1/streams/{id}").status == 204
    assert script.closed.wait(harness.DEADLINE)
    wait_until(lambda: app.active == 0, "nothing is left running")


def test_a_stream_that_fails_keeps_its_error_frame(start: Any, script: Script) -> None:
    _, server = start()
    with server.connect() as client:
        id = begin(client, ask())
        script.finish("one ")  # and no finish reason
        frames = read_to_end(client)
    assert json.loads(frames[-1].partition(b"data: ")[2])["error"]["code"] == "upstream_truncated"
    assert replay(server, id) == frames


def test_an_idempotency_key_joins_the_stream(start: Any, script: Script) -> None:
    """The same key and body are not paid for twice; another body is a conflict."""
    _, server = start()
    with server.connect() as first, server.connect() as second, server.connect() as third:
        id = begin(first, ask(), Idempotency_Key="k-1")
        assert begin(second, ask(), Idempotency_Key="k-1") == id
        headers = {**RESUMABLE, "Idempotency-Key": "k-1"}
        answer = third.exchange("POST", "/v1/chat/completions", ask(seed=1), headers)
        assert (answer.status, answer.error["code"]) == (409, "idempotency_conflict")
        script.finish("one ", Finish(), Usage(1, 1))
        assert read_to_end(first) == read_to_end(second)


def test_a_request_that_fails_at_once_can_be_tried_again(
    start: Any, scripted: Callable[[], Script]
) -> None:
    """Its key refers to no stream: the next request starts a new one."""
    _, server = start()
    scripted().say(RuntimeError("boom"))
    with server.connect() as client:
        headers = {**RESUMABLE, "Idempotency-Key": "k-2"}
        answer = client.exchange("POST", "/v1/chat/completions", ask(), headers)
        assert (answer.status, answer.error["code"]) == (500, "internal_error")
        scripted().finish("fine", Finish())
        begin(client, ask(), Idempotency_Key="k-2")
        assert text_of(read_to_end(client)) == "fine"


def test_a_request_that_joins_a_failing_one_gets_its_error(start: Any, script: Script) -> None:
    _, server = start(heartbeat_seconds="600")
    joined = {**RESUMABLE, "Idempotency-Key": "k-3"}
    with server.connect() as first, server.connect() as second:
        first.request("POST", "/v1/chat/completions", ask(), joined)
        assert script.asked.wait(harness.DEADLINE)
        begin(second, ask(), Idempotency_Key="k-3")
        script.say(ProviderError("context too long", status=400, code="too_long"))
        assert first.read_answer().error["code"] == "too_long"
        (frame,) = read_to_end(second)
    assert numbers([frame]) == [1]
    error = json.loads(frame.partition(b"data: ")[2])["error"]
    assert (error["message"], error["code"]) == ("context too long", "too_long")


def test_a_keyed_request_outlives_a_client_that_leaves_before_the_head(
    start: Any, script: Script
) -> None:
    """It may return with its key and join; without a key that is impossible."""
    app, server = start()
    client = server.connect()
    client.request("POST", "/v1/chat/completions", ask(), {**RESUMABLE, "Idempotency-Key": "early"})
    assert script.asked.wait(harness.DEADLINE)
    client.reset()
    wait_until(lambda: app._resumption().orphans.active == 1, "an orphan is carried: the stream")
    with server.connect() as again:
        begin(again, ask(), Idempotency_Key="early")
        script.finish("late", Finish())
        assert text_of(read_to_end(again)) == "late"


@pytest.mark.parametrize("keyed", [True, False])
def test_a_keyed_request_alone_waits_on_without_its_client(
    start: Any, script: Script, keyed: bool
) -> None:
    app, _ = start()
    more: dict[str, Any] = {"HTTP_IDEMPOTENCY_KEY": "early"} if keyed else {}
    more["waitress.client_disconnected"] = lambda: True
    environ = environ_of("POST", "/v1/chat/completions", ask(), HTTP_CHOREO_RESUMABLE="1", **more)
    waiting: Any = app(environ, lambda *head: None)
    waiting.ready(0.0)
    assert (waiting.decided is None) is keyed
    waiting.close()


def test_an_unkeyed_request_stops_when_its_client_leaves_before_the_head(
    start: Any, script: Script
) -> None:
    app, server = start(heartbeat_seconds="600")
    client = server.connect()
    client.request("POST", "/v1/chat/completions", ask(), RESUMABLE)
    assert script.asked.wait(harness.DEADLINE)
    client.reset()
    assert script.closed.wait(harness.DEADLINE)
    wait_until(lambda: app.active == 0, "the slot is free again")


KEYS = "key-a,key-b"


def bearer(key: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {key}"}


def test_only_the_key_that_made_a_stream_may_touch_it(start: Any) -> None:
    """Another key, a guessed id, a malformed id: the same 404 with the same format."""
    _, server = start(api_keys=KEYS)
    with server.connect() as client:
        id = begin(client, ask("echo"), **bearer("key-a"))
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


def test_ids_tell_nothing(start: Any) -> None:
    """At least 128 random bits each, no counter and no clock in common."""
    _, server = start()
    ids = []
    for _ in range(50):
        with server.connect() as client:
            ids.append(begin(client, ask("echo")))
            read_to_end(client)
    secret = [id.removeprefix("strm_") for id in ids]
    assert all(len(part) * 6 >= 128 for part in secret)
    # No position is the same in all, as a date's or a counter's first digits would be.
    assert all(len(set(column)) > 5 for column in zip(*secret, strict=True))


def test_a_reader_of_a_silent_stream_gets_pings(start: Any, script: Script) -> None:
    _, server = start(heartbeat_seconds="0.05")
    with server.connect() as client, server.connect(8) as reader:  # if nothing is set it is 10
        id = begin(client, ask())
        reader.request("GET", f"/v1/streams/{id}")
        assert reader.read_head().status == 200
        for _ in range(3):
            assert reader.read_frame() == b": ping\n"
        script.finish("x", Finish())
        assert text_of(read_to_end(reader)) == "x"


def test_asking_for_the_head_of_a_stream_holds_nothing(start: Any) -> None:
    app, server = start()
    with server.connect() as client:
        id = begin(client, ask("echo"))
        read_to_end(client)
    with server.connect() as client:
        client.request("HEAD", f"/v1/streams/{id}")
        assert client.read_head("HEAD").status in (200, 405)
    wait_until(lambda: app.active == 0, "the reading has ended")


def test_an_expired_stream_is_not_found(start: Any) -> None:
    _, server = start(replay_ttl_seconds="0.2")
    with server.connect() as client:
        id = begin(client, ask("echo"))
        read_to_end(client)
    wait_until(lambda: once(server, "GET", f"/v1/streams/{id}").status == 404, "the stream expires")


def test_dropped_frames_are_gone(start: Any, script: Script) -> None:
    _, server = start(replay_stream_bytes="2048")
    with server.connect() as client, server.connect() as other:
        id = begin(client, ask())
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
def test_refusals(start: Any, headers: dict[str, str], body: dict[str, Any], param: str) -> None:
    _, server = start()
    with server.connect() as client:
        answer = client.exchange("POST", "/v1/chat/completions", {**ask("echo"), **body}, headers)
        assert answer.status == 400
        assert (answer.error["code"], answer.error["param"]) == ("invalid_parameter_value", param)


@pytest.mark.parametrize("after", ["-1", "", "9" * 19, "%D9%A1"])
def test_a_number_that_is_none_is_refused(start: Any, after: str) -> None:
    _, server = start()
    with server.connect() as client:
        id = begin(client, ask("echo"))
        read_to_end(client)
    answer = once(server, "GET", f"/v1/streams/{id}?after={after}")
    assert (answer.status, answer.error["param"]) == (400, "after")


@pytest.mark.parametrize(("limit", "status"), [("max_orphans", 503), ("max_orphans_per_key", 429)])
def test_too_many_streams_without_a_client_let_no_other_begin(
    start: Any, scripted: Callable[[], Script], limit: str, status: int
) -> None:
    """No running stream is stopped, and streams that are not resumable start."""
    app, server = start(**{limit: "2"})
    scripts = [scripted(), scripted()]
    clients = [server.connect(), server.connect()]
    ids = [begin(client, ask()) for client in clients]
    for client in clients:
        client.reset()
    wait_until(lambda: app._resumption().orphans.active == 2, "an orphan is carried: both")
    with server.connect() as client:
        for headers in (RESUMABLE, {**RESUMABLE, "Idempotency-Key": "again"}):
            refused = client.exchange("POST", "/v1/chat/completions", ask("echo"), headers)
            assert (refused.status, refused.headers["retry-after"]) == (status, "1")
        plain = client.exchange("POST", "/v1/chat/completions", ask("echo", stream=False))
        assert plain.status == 200
    for script in scripts:
        script.finish("one ", Finish())
    assert [text_of(replay(server, id)) for id in ids] == ["one ", "one "]
    assert app._resumption().orphans.active == 0
    with server.connect() as client:
        begin(client, ask("echo"), Idempotency_Key="again")
        assert text_of(read_to_end(client))


def test_streams_of_another_key_without_a_client_are_not_counted(
    start: Any, script: Script
) -> None:
    app, server = start(max_orphans_per_key="1", api_keys=KEYS)
    client = server.connect()
    begin(client, ask(), **bearer("key-a"))
    client.reset()
    wait_until(lambda: app._resumption().orphans.active == 1, "an orphan is carried: the stream")
    with server.connect() as other:
        begin(other, ask("echo"), **bearer("key-b"))
    more = {**RESUMABLE, **bearer("key-a")}
    with server.connect() as own:
        assert own.exchange("POST", "/v1/chat/completions", ask("echo"), more).status == 429
    script.finish(Finish())


def test_a_stream_without_a_client_keeps_its_slot(start: Any, script: Script) -> None:
    """Its client can return although all slots are in use."""
    app, server = start(max_streams="1")
    client = server.connect()
    id = begin(client, ask())
    client.reset()
    wait_until(lambda: app._resumption().orphans.active == 1, "an orphan is carried: the stream")
    with server.connect() as client, server.connect() as back:
        refused = client.exchange("POST", "/v1/chat/completions", ask("echo"))
        assert (refused.status, refused.error["code"]) == (503, "service_overloaded")
        back.request("GET", f"/v1/streams/{id}")
        assert back.read_head().status == 200
        script.finish("one ", Finish())
        assert text_of(read_to_end(back)) == "one "
        wait_until(lambda: app.active == 0, "the slot is free")
    with server.connect() as client:
        begin(client, ask("echo"))


def test_streams_that_lose_their_clients_together_are_all_there(
    serve: Callable[..., Server], replay_url: str
) -> None:
    """A reloaded proxy: 24 streams of one key, with default settings."""
    words = " ".join(f"w{number}" for number in range(60))
    body = ask("slow", messages=[{"role": "user", "content": words}])
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
        wait_until(lambda: app.active == 0, "nothing is left running", 30)
    finally:
        app.close()


def test_a_stream_without_a_reader_for_long_is_stopped(start: Any, script: Script) -> None:
    _, server = start(orphan_seconds="0.2")
    client = server.connect()
    id = begin(client, ask())
    client.reset()
    assert script.closed.wait(harness.DEADLINE)
    frame = replay(server, id)[-1]
    assert json.loads(frame.partition(b"data: ")[2])["error"]["code"] == "stream_cancelled"


def test_a_drain_ends_streams_without_a_client_too(start: Any, script: Script) -> None:
    app, server = start()
    client = server.connect()
    begin(client, ask())
    client.reset()
    wait_until(lambda: app._resumption().orphans.active == 1, "an orphan is carried: the stream")
    app.drain()
    app.stop()
    wait_until(lambda: app.active == 0, "the stream has ended")
    assert script.closed.is_set()


def test_one_that_cannot_be_logged_leaves_the_others_going(
    start: Any, scripted: Callable[[], Script], monkeypatch: pytest.MonkeyPatch
) -> None:
    """All streams without a client share a thread."""
    app, server = start()
    scripts = [scripted(), scripted()]
    clients = [server.connect(), server.connect()]
    ids = [begin(client, ask()) for client in clients]
    for client in clients:
        client.reset()
    wait_until(lambda: app._resumption().orphans.active == 2, "an orphan is carried: both")
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


def test_a_stream_that_somebody_else_has_ended_frees_its_provider(
    start: Any, script: Script
) -> None:
    app, server = start()
    with server.connect() as client:
        id = begin(client, ask())
        store = app._resumption().store
        store._keeper.discard(store._keeper.writers[id])
        script.say("one ")
        assert b'"producer_lost"' in read_to_end(client)[-1]
        assert script.closed.wait(harness.DEADLINE)
    wait_until(lambda: app.active == 0, "nothing is left running")


def test_no_stream_is_continued_once_all_is_closing(start: Any, script: Script) -> None:
    app, server = start()
    client = server.connect()
    id = begin(client, ask())
    app._resumption().orphans.close()
    client.reset()
    assert script.closed.wait(harness.DEADLINE)
    frame = replay(server, id)[-1]
    assert json.loads(frame.partition(b"data: ")[2])["error"]["code"] == "server_shutting_down"


def test_readings_that_fail_or_end_leave_room_for_others(start: Any) -> None:
    app, server = start(max_streams="1")
    with server.connect() as client:
        id = begin(client, ask("echo"))
        frames = read_to_end(client)
    for _ in range(3):
        assert once(server, "GET", "/v1/streams/strm_" + "A" * 32).status == 404
        assert replay(server, id) == frames
        wait_until(lambda: app._readers.active == 0, "the reading has ended")


def elsewhere(url: str) -> tuple[Store, Writer]:
    """Start a stream without an owner, as another process with the store *url* would."""
    store = open_store(url, Settings())
    writer = store.create("").writer
    assert writer is not None
    writer.append(sse.frame(b"{}", 1), 1)
    wait_until(lambda: store.read(writer.id, "").receive(0), "the frame is there for all")
    return store, writer


def test_a_stream_that_has_lost_its_producer_is_ended_by_delete(start: Any, tmp_path: Path) -> None:
    """The request that stops it must end its log, as no other process will."""
    url = f"sqlite:{tmp_path / 'replay.db'}"
    _, server = start(replay=url, heartbeat_seconds="60")
    other, writer = elsewhere(url)
    other.close()
    assert once(server, "DELETE", f"/v1/streams/{writer.id}").status == 204
    store = open_store(url, Settings())
    assert store.lost(writer.id, "") is None  # though nobody reads it
    store.close()
    first, last = replay(server, writer.id)
    assert numbers([first, last]) == [1, 2] and b'"stream_cancelled"' in last


def test_a_message_that_has_lost_its_producer_ends_with_its_own_error(
    start: Any, tmp_path: Path
) -> None:
    url = f"sqlite:{tmp_path / 'replay.db'}"
    _, server = start(replay=url, heartbeat_seconds="60")
    other, writer = elsewhere(url)
    data = b'{"type":"content_block_delta"}'
    writer.append(sse.frame(data, 2, event="content_block_delta"), 1)
    other.close()
    assert once(server, "DELETE", f"/v1/streams/{writer.id}").status == 204
    *_, last = replay(server, writer.id)
    assert b"event: error\n" in last and b'{"type":"error","error":{' in last


def test_a_response_that_has_lost_its_producer_has_failed(start: Any, tmp_path: Path) -> None:
    url = f"sqlite:{tmp_path / 'replay.db'}"
    app, server = start(replay=url, heartbeat_seconds="60")
    other = open_store(url, Settings())
    writer = other.create("").writer
    assert writer is not None
    kind = "response.created"
    created = {"type": kind, "sequence_number": 0, "response": {"id": "resp_1", "output": []}}
    writer.append(sse.frame(json.dumps(created).encode(), 1, event=kind), 1)
    other.close()
    # A plain request returns the response so far.
    answer = once(server, "GET", f"/v1/responses/resp_{writer.id[5:]}")
    assert (answer.status, json.loads(answer.body)["id"]) == (200, "resp_1")
    assert once(server, "DELETE", f"/v1/streams/{writer.id}").status == 204
    wait_until(lambda: not app._resumption().store._readers, "no reading is left open")
    *_, last = replay(server, writer.id)
    assert b"event: response.failed\n" in last and b'"sequence_number":1' in last
    assert b'"resp_1"' in last


def test_a_response_whose_beginning_was_dropped_still_ends(start: Any, tmp_path: Path) -> None:
    url = f"sqlite:{tmp_path / 'replay.db'}"
    _, server = start(replay=url, heartbeat_seconds="60")
    other = open_store(url, Settings(replay_stream_bytes=2048))
    writer = other.create("").writer
    assert writer is not None
    kind = "response.output_text.delta"
    data = json.dumps({"type": kind, "delta": "x" * 1000}).encode()
    for number in range(1, 5):
        writer.append(sse.frame(data, number, event=kind), 1)
    other.close()
    assert once(server, "DELETE", f"/v1/streams/{writer.id}").status == 204
    *_, last = replay(server, writer.id, 3)
    assert last.startswith(b"id: 5\n") and b'"stream_cancelled"' in last


@pytest.mark.parametrize(
    ("kind", "beginning"),
    [
        ("", b'data: {"error":{"message"'),
        ("content_block_delta", b'event: error\ndata: {"type":"error","error":{"type"'),
        ("response.created", b'event: error\ndata: {"type":"error","sequence_number":8,"code"'),
    ],
)
def test_a_reader_of_anothers_stream_gets_the_shutdown(
    start: Any, tmp_path: Path, kind: str, beginning: bytes
) -> None:
    """In the format of the stream's API."""
    url = f"sqlite:{tmp_path / 'replay.db'}"
    app, server = start(replay=url, heartbeat_seconds="60")
    other, writer = elsewhere(url)
    data = b'{"type":"%b","sequence_number":7,"response":{}}' % kind.encode()
    writer.append(sse.frame(data, 2, event=kind), 1)
    with server.connect() as client:
        client.request("GET", f"/v1/streams/{writer.id}")
        assert client.read_head().status == 200
        assert [next_frame(client)[:5], next_frame(client)[:5]] == [b"id: 1", b"id: 2"]
        app.drain()
        app.stop()
        last = next_frame(client)
        # It is not a frame of the stream, which continues elsewhere.
        assert last.startswith(beginning) and b"the server is shutting down" in last
    writer.append(sse.frame(b"{}", 3), 1, end=True)
    other.close()
