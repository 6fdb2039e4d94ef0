"""Limits shared through Redis or SQLite: exact, and per process while it is unreachable."""

from __future__ import annotations

import contextlib
import hashlib
import logging
import os
import sqlite3
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import harness
import pytest
from harness import Server, make_app, wait_until
from redis import Redis
from replay_helpers import RedisServer
from scripted_provider import Script
from wsgi_calls import call, chat

from choreo_wsgi.app.account import Account
from choreo_wsgi.app.application import Application
from choreo_wsgi.app.keys import Key, KeyOptions, Rule
from choreo_wsgi.app.limits import Charge, Limits, refused
from choreo_wsgi.app.shared_limits import SharedLimits
from choreo_wsgi.chat.items import Finish, Usage
from choreo_wsgi.chat.request import ChatRequest
from choreo_wsgi.errors import ConfigurationError
from choreo_wsgi.replay import database, open_counts
from choreo_wsgi.replay.backend import Unreachable

CHAT = "/v1/chat/completions"
KEY = "sk-ann"
ANN = {"HTTP_AUTHORIZATION": f"Bearer {KEY}"}
AT_ONCE = 200
Start = Callable[..., list[Application]]


@pytest.fixture
def redis(tmp_path: Path) -> Iterator[RedisServer]:
    harness.require_tool("redis-server", "redis-server")
    server = RedisServer(tmp_path)
    server.start()
    yield server
    server.stop()


@pytest.fixture(params=["redis", "sqlite"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """Return the setting ``replay`` of a running store."""
    if request.param == "sqlite":
        return f"sqlite:{tmp_path / 'replay.db'}"
    return str(request.getfixturevalue("redis").url)


@pytest.fixture
def replicas(url: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Start]:
    """``replicas(**limits)``: three applications with one store and one key.

    On a busy machine their turns at a database may take longer than a server waits.
    """
    monkeypatch.setattr(database, "_BUSY", harness.DEADLINE)
    apps: list[Application] = []
    others = renewing()

    def start(provider: str = "echo", **limits: str) -> list[Application]:
        section = {"digest": hashlib.sha256(KEY.encode()).hexdigest(), **limits}
        sections = {"key ann": section, "provider p": {"type": provider, "models": "m"}}
        settings = {"replay": url, "heartbeat_seconds": "0.2"}
        apps.extend(make_app(settings, sections) for _ in range(3))
        return apps[-3:]

    yield start
    for app in apps:
        app.close()
    wait_until(lambda: not renewing() - others, "the threads of the limits have ended")


def renewing() -> set[threading.Thread]:
    """Return the threads that renew leases in a store."""
    return {thread for thread in threading.enumerate() if thread.name.startswith("limits")}


@pytest.fixture
def opened() -> Iterator[Callable[[str], Limits]]:
    """``opened(url)``: the limits in a store, closed after the test."""
    with contextlib.ExitStack() as stack:
        yield lambda url: stack.enter_context(contextlib.closing(SharedLimits(open_counts(url))))


def post(app: Application, text: str = "one two", **more: int) -> tuple[int, dict[str, str]]:
    answer = call(app, "POST", CHAT, chat(text, model="m", **more), **ANN)
    return answer.status, answer.headers


def at_once(apps: list[Application], **more: int) -> Counter[int]:
    barrier = threading.Barrier(AT_ONCE)

    def one(number: int) -> int:
        barrier.wait(harness.DEADLINE)
        return post(apps[number % 3], **more)[0]

    with ThreadPoolExecutor(AT_ONCE) as pool:
        return Counter(pool.map(one, range(AT_ONCE)))


def test_requests_per_minute_is_shared_by_three_replicas(replicas: Start) -> None:
    apps = replicas(requests_per_minute="100")
    assert at_once(apps) == {200: 100, 429: 100}
    status, headers = post(apps[0])
    assert status == 429 and headers["x-ratelimit-remaining-requests"] == "0"
    assert 1 <= int(headers["retry-after"]) <= 60


def test_tokens_per_minute_is_shared_by_three_replicas(replicas: Start) -> None:
    """Settled requests return what they reserved in excess, for all replicas."""
    apps = replicas(tokens_per_minute="700")
    assert 100 <= at_once(apps, max_tokens=2)[200] <= 175

    def used() -> str:
        return post(apps[1], max_tokens=700)[1]["x-ratelimit-remaining-tokens"]

    admitted = at_once(apps, max_tokens=2)[200]
    assert admitted <= 75
    wait_until(lambda: int(used()) % 4 == 0, "all requests are settled")


def test_settled_tokens_are_shared(replicas: Start, scripted: Callable[[], Script]) -> None:
    apps = replicas("scripted", tokens_per_day="1000")
    scripted().finish("x", Finish(), Usage(100, 300))
    assert post(apps[0], max_tokens=900)[0] == 200

    def left() -> int:
        scripted().finish("x", Finish(), Usage(0, 0))
        return int(post(apps[1], max_tokens=1)[1]["x-ratelimit-remaining-tokens"])

    wait_until(lambda: left() == 600 - 6, "the reservation was replaced by the usage")


def test_max_streams_is_shared_by_three_replicas(
    replicas: Start, serve: Callable[..., Server], scripted: Callable[[], Script]
) -> None:
    apps = replicas("scripted", max_streams="2")
    servers = [serve(app) for app in apps]
    scripts = [scripted(), scripted()]
    clients = [server.connect() for server in servers]
    headers = {"Authorization": f"Bearer {KEY}"}
    for client in clients[:2]:
        client.request("POST", CHAT, chat("x", model="m", stream=True), headers)
        assert client.read_head().status == 200
    body = chat("x", model="m")
    assert clients[2].exchange("POST", CHAT, body, headers).status == 429
    scripts[0].finish("x", Finish())
    clients[0].read_body()

    def admitted() -> bool:
        scripted().finish("x", Finish())
        return clients[2].exchange("POST", CHAT, body, headers).status == 200

    wait_until(admitted, "the slot is free for all")
    scripts[1].finish("x", Finish())
    clients[1].read_body()
    for client in clients:
        client.close()


def test_stream_counts_are_renewed_leases(
    url: str, opened: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They expire after their process has died."""
    dying, living, other = (opened(url) for _ in range(3))
    rule = Rule("max_streams", 3, 0, 2)

    def set_lease(seconds: float) -> None:
        monkeypatch.setattr(sys.modules[SharedLimits.__module__], "LEASE", seconds)

    def left() -> int:
        return other.take("k", [rule._replace(cost=0)])[0][0].remaining

    set_lease(0.0)
    assert refused(dying.take("k", [rule])[0]) is None
    wait_until(lambda: left() == 3, "its lease has expired")
    set_lease(60.0)
    assert refused(living.take("k", [rule])[0]) is None and left() == 1
    set_lease(0.0)
    living.renew()
    living.take("another", [rule._replace(cost=0)])  # which is queued behind the renewal
    set_lease(60.0)
    assert left() == 3, "it was renewed for zero seconds"
    taken, settle = living.take("k", [rule])
    assert refused(taken) is None and refused(other.take("k", [rule])[0]) is not None
    settle([rule._replace(cost=-2)])
    wait_until(lambda: left() == 3, "they are released")


def test_locked_file_does_not_block_settling(
    tmp_path: Path, opened: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The carrier's thread does not wait for the lock; its change is written later."""
    monkeypatch.setattr("choreo_wsgi.replay.database._BUSY", 3600.0)  # longer than any test
    counters, path = opened(f"sqlite:{tmp_path / 'x'}"), tmp_path / "x-limits"
    rule = Rule("max_streams", 1, 0, 1)
    taken, settle = counters.take("k", [rule])
    assert refused(taken) is None
    with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as other:
        other.execute("BEGIN EXCLUSIVE")
        settle([rule._replace(cost=-1)])
        other.execute("COMMIT")
    wait_until(lambda: refused(counters.take("k", [rule])[0]) is None, "the slot is released")


def test_admission_is_one_redis_round_trip(redis: RedisServer, opened: Any) -> None:
    """Without contention; two more calls read the clock of the store at first."""
    limits, key = opened(redis.url), Key("k", "ann", KeyOptions(requests_per_minute=100))
    for _ in range(20):
        account = Account(id="", method="", path="", client="", key=key)
        assert limits.admit(account, ChatRequest("m", [], {}), 1) is not None
    stats = Redis.from_url(redis.url).info("commandstats")
    assert stats["cmdstat_set"]["calls"] == 20
    assert stats["cmdstat_evalsha"]["calls"] == 22


@pytest.mark.parametrize("url", ["redis"], indirect=True)
def test_each_process_counts_alone_during_a_redis_outage(
    replicas: Start, redis: RedisServer, caplog: pytest.LogCaptureFixture
) -> None:
    """It logs one warning, and shares its counts again afterwards."""
    caplog.set_level(logging.INFO, "choreo_wsgi.app.shared_limits")
    apps = replicas(requests_per_minute="5")
    assert post(apps[0])[0] == 200
    redis.stop()
    assert [post(apps[0])[0] for _ in range(6)] == [200] * 5 + [429]
    assert [post(apps[1])[0] for _ in range(6)] == [200] * 5 + [429]
    warnings = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
    assert len(warnings) == 2 and "each process keeps its own" in warnings[0]  # one each
    redis.start()
    apps[0]._completions.limits._retry = 0.1  # type: ignore[union-attr]
    wait_until(lambda: post(apps[0])[0] == 200, "the limit is shared again")
    assert "shared again" in caplog.text


@pytest.mark.parametrize("url", ["sqlite"], indirect=True)
def test_each_process_counts_alone_while_the_file_is_unusable(
    replicas: Start, url: str, caplog: pytest.LogCaptureFixture
) -> None:
    path = Path(url.partition(":")[2] + "-limits")
    path.write_bytes(b"something else" * 100)
    apps = replicas(requests_per_minute="5")
    assert [post(apps[0])[0] for _ in range(6)] == [200] * 5 + [429]
    assert caplog.text.count("each process keeps its own") == 1
    path.unlink()
    apps[0]._completions.limits._retry = 0.1  # type: ignore[union-attr]
    wait_until(lambda: post(apps[0])[0] == 200, "the limit is shared again")


def test_missing_redis_package_is_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "choreo_wsgi.replay.redis", raising=False)
    monkeypatch.setitem(sys.modules, "redis", None)
    section = {"digest": hashlib.sha256(KEY.encode()).hexdigest(), "max_streams": "1"}
    with pytest.raises(ConfigurationError, match="needs the extra redis: pip install redis"):
        make_app({"replay": "redis://127.0.0.1:1"}, {"key ann": section})


def test_reservation_is_not_returned_to_the_next_minute(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A stream that ends a minute later returns nothing to the new minute."""
    limits, now = Limits(), time.monotonic()
    key = Key("k", "ann", KeyOptions(tokens_per_minute=1000))

    def take(most: int) -> tuple[Charge, str]:
        account = Account(id="", method="", path="", client="", key=key)
        charge = limits.admit(account, ChatRequest("m", [], {}, max_tokens=most), 1)
        assert charge is not None
        return charge, dict(account.headers)["x-ratelimit-remaining-tokens"]

    long, left = take(900)
    assert left == "100"
    clock = SimpleNamespace(monotonic=lambda: now + 61)
    monkeypatch.setattr(sys.modules[Limits.__module__], "time", clock)
    assert take(300)[1] == "700"
    long(Usage(10, 10), 0)
    assert take(1)[1] == "699"
    over, left = take(1)
    over(Usage(0, 101), 0)
    assert take(0)[1] == "598"


def test_forked_process_starts_its_own_threads(
    tmp_path: Path, opened: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The threads of its parent do not exist in it."""
    counters, rule = opened(f"sqlite:{tmp_path / 'x'}"), Rule("max_streams", 5, 0, 1)
    others = renewing()
    counters.take("k", [rule])
    parents = renewing() - others
    monkeypatch.setattr(os, "getpid", lambda: -1)
    assert counters.take("k", [rule])[0][0].remaining == 4, "the slots of two holders"
    assert len(renewing() - others - parents) == 2  # one counts, one renews


def test_leases_are_renewed_by_a_thread(
    tmp_path: Path, opened: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    module: Any = sys.modules[SharedLimits.__module__]
    assert 2 * module._RENEW < module.LEASE  # one renewal may be late
    monkeypatch.setattr(module, "_RENEW", 0.01)
    counters = opened(f"sqlite:{tmp_path / 'x'}")
    renewed = threading.Event()
    monkeypatch.setattr(counters, "renew", renewed.set)
    counters.take("k", [Rule("max_streams", 5, 0, 1)])
    assert renewed.wait(harness.DEADLINE)


def test_first_requests_of_two_threads_start_one_pair_of_threads(
    tmp_path: Path, opened: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    class SlowEvent(threading.Event):
        def __init__(self) -> None:
            super().__init__()
            time.sleep(0.05)

    counters, others = opened(f"sqlite:{tmp_path / 'x'}"), renewing()
    with ThreadPoolExecutor(2) as pool:
        both = threading.Barrier(2)

        def take(_: int) -> None:
            both.wait(harness.DEADLINE)
            counters.take("k", [Rule("max_streams", 5, 0, 1)])

        monkeypatch.setattr(threading, "Event", SlowEvent)
        list(pool.map(take, range(2)))
        monkeypatch.undo()
    assert len(renewing() - others) == 2  # one counts, one renews


def test_renewal_after_close_starts_no_thread(tmp_path: Path, opened: Any) -> None:
    """As when the limits are closed while their thread is renewing."""
    counters, others = opened(f"sqlite:{tmp_path / 'x'}"), renewing()
    counters.take("k", [Rule("max_streams", 5, 0, 1)])
    counters.close()
    counters.renew()
    wait_until(lambda: not renewing() - others, "the threads have ended")


def test_request_after_close_reopens_the_store(tmp_path: Path, opened: Any) -> None:
    counters, rule = opened(f"sqlite:{tmp_path / 'x'}"), Rule("max_streams", 5, 0, 1)
    for left in (5, 4):
        assert counters.take("k", [rule])[0][0].remaining == left
        counters.close()


def test_unreachable_store_is_retried_every_two_seconds_and_logged_once(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    asked: list[str] = []
    now = [100.0]
    clock = SimpleNamespace(monotonic=lambda: now[0])
    monkeypatch.setattr(sys.modules[SharedLimits.__module__], "time", clock)

    def unreachable(key: str, step: Any) -> Any:
        asked.append(key)
        raise Unreachable("no")

    with contextlib.closing(SharedLimits(unreachable)) as counters:
        for seconds, count in ((0.0, 1), (1.9, 1), (0.2, 2), (1.9, 2), (0.2, 3)):
            now[0] += seconds
            assert counters.take("k", [Rule("requests_per_minute", 9, 60, 1)])[0][0].remaining > 0
            assert len(asked) == count
    assert caplog.text.count("each process keeps its own") == 1


def test_only_one_request_waits_for_the_store_to_come_back() -> None:
    waiting, go, rule = threading.Event(), threading.Event(), Rule("max_streams", 9, 0, 1)

    def change(key: str, step: Any) -> Any:
        if counters._retry:
            waiting.set()
            go.wait(harness.DEADLINE)
        raise Unreachable("no")

    with contextlib.closing(SharedLimits(change)) as counters, ThreadPoolExecutor(2) as pool:
        counters.take("k", [rule])
        counters._retry = 0.1  # the time of the next attempt
        first = pool.submit(counters.take, "k", [rule])
        assert waiting.wait(harness.DEADLINE)
        pool.submit(counters.take, "k", [rule]).add_done_callback(lambda _: go.set())
        assert go.wait(harness.DEADLINE / 2) and first.result()


def test_process_ends_though_its_store_and_its_limits_are_open(tmp_path: Path) -> None:
    program = """
import sys
from choreo_wsgi.app.keys import Rule
from choreo_wsgi.app.shared_limits import SharedLimits
from choreo_wsgi.replay import open_counts, open_store
from choreo_wsgi.settings import Settings
store = open_store(sys.argv[1], Settings())
store.read(store.create("alice").id, "alice")
limits = SharedLimits(open_counts(sys.argv[1]))
limits.take("k", [Rule("max_streams", 5, 0, 1)])
"""
    command = [sys.executable, "-c", program, f"sqlite:{tmp_path / 'x'}"]
    subprocess.run(command, check=True, timeout=harness.DEADLINE)
