from __future__ import annotations

import itertools
from collections.abc import Iterator
from pathlib import Path

import harness
import pytest
import redis
from replay_helpers import DEADLINE, Opener, RedisServer

from choreo_wsgi.replay import Store, open_store
from choreo_wsgi.settings import Settings

_databases = itertools.count(1)


@pytest.fixture(scope="session")
def shared_redis(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    """The server of all tests that do not stop it."""
    harness.require_tool("redis-server", "redis-server")
    server = RedisServer(tmp_path_factory.mktemp("redis"))
    server.start()
    yield server
    server.stop()


@pytest.fixture
def own_redis(tmp_path: Path) -> Iterator[RedisServer]:
    """A server for one test, which may stop it."""
    harness.require_tool("redis-server", "redis-server")
    server = RedisServer(tmp_path)
    server.start()
    yield server
    server.stop()


def url_of(kind: str, tmp_path: Path, request: pytest.FixtureRequest) -> str:
    if kind == "memory":
        return "memory:"
    if kind == "sqlite":
        return f"sqlite:{tmp_path / 'replay.db'}"
    server = request.getfixturevalue("shared_redis")
    # Each test has its own database; redis-server has 16.
    url = server.url.removesuffix("0") + str(next(_databases) % 16)
    with redis.Redis.from_url(url) as client:
        client.flushdb()
    return url


def opener(url: str, opened: list[Store]) -> Opener:
    def open_(lease: float | None = None, beat: float = 0.1, **settings: object) -> Store:
        options = Settings(replay=url, **settings)  # type: ignore[arg-type]
        timing = {} if lease is None else {"lease": lease, "beat": beat}
        store = open_store(url, options, **timing)
        opened.append(store)
        return store

    return open_


@pytest.fixture(params=["memory", "sqlite", "redis"])
def open_any(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Opener]:
    """Opens a store of each backend in turn."""
    opened: list[Store] = []
    yield opener(url_of(request.param, tmp_path, request), opened)
    for store in opened:
        store.close()


@pytest.fixture(params=["sqlite", "redis"])
def shared_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """The URL of each shared backend in turn."""
    return url_of(request.param, tmp_path, request)


@pytest.fixture
def open_shared(shared_url: str) -> Iterator[Opener]:
    """Opens a store at ``shared_url``."""
    opened: list[Store] = []
    yield opener(shared_url, opened)
    for store in opened:
        store.close()


@pytest.fixture
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let appends wait until the frames are written, not for 50 ms, as this machine may be slow."""
    monkeypatch.setattr("choreo_wsgi.replay.writer._APPEND_TIMEOUT", DEADLINE)


@pytest.fixture
def store(open_any: Opener) -> Store:
    """A store whose readers query only when they are woken, not every two seconds too."""
    store = open_any()
    store._keeper.recheck = 1000.0
    return store
