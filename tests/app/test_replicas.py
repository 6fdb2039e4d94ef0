"""Three replicas behind nginx with one Redis: a drain, a kill, a Redis outage, a restart."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import harness
import pytest
import requests
from harness import wait_until
from launched import launch, launch_nginx
from real_server import KEY, slow_echo
from replay_helpers import RedisServer

import choreoai

WORDS = 60  # per answer, 40 ms each
STREAMS = 30


class Fleet:
    """Three replicas, nginx and Redis."""

    def __init__(self, folder: Path, more: str = "", **settings: str) -> None:
        for program, package in (("nginx", "nginx-light"), ("redis-server", "redis-server")):
            harness.require_tool(program, package)
        self.redis = RedisServer(folder)
        self.redis.start()
        given = {"replay": self.redis.url, "heartbeat_seconds": "1", **settings}
        config = slow_echo(more, **given)
        self.replicas = [launch(folder, config, name=f"replica-{n}") for n in range(3)]
        self.nginx = launch_nginx(folder, [replica.port for replica in self.replicas])
        self.url = f"http://127.0.0.1:{self.nginx.port}"

    def close(self) -> None:
        self.nginx.end()
        for replica in self.replicas:
            if replica.process.poll() is None:
                replica.kill()
        self.redis.stop()


@pytest.fixture
def make_fleet(tmp_path: Path) -> Iterator[Callable[..., Fleet]]:
    fleets: list[Fleet] = []

    def make(more: str = "", **settings: str) -> Fleet:
        fleets.append(Fleet(tmp_path, more, **settings))
        return fleets[-1]

    yield make
    for fleet in fleets:
        fleet.close()


def words(stream: int) -> str:
    return " ".join(f"{stream}-{n}" for n in range(WORDS))


class Listener:
    """Reads one resumable stream through nginx; *half* is set once half is received."""

    def __init__(self, url: str, number: int) -> None:
        self.half = threading.Event()
        self.expected = words(number)
        self._url = url

    def run(self) -> tuple[str, choreoai.ChoreoAIError | None]:
        """Return the text received and the exception raised."""
        text = ""
        with choreoai.ChoreoAI(api_key=KEY, base_url=self._url, resumable=True) as client:
            stream = client.chat.completions.create(
                model="slow",
                messages=[{"role": "user", "content": self.expected}],
                stream=True,
            )
            try:
                for piece in stream.text:
                    text += piece
                    if len(text) * 2 >= len(self.expected):
                        self.half.set()
            except choreoai.ChoreoAIError as error:
                return text, error
            finally:
                stream.close()
        return text, None


def listen(fleet: Fleet, pool: ThreadPoolExecutor) -> tuple[list[Listener], list[Future[object]]]:
    """Start the streams; return when half of each is received."""
    listeners = [Listener(fleet.url, number) for number in range(STREAMS)]
    futures: list[Future[object]] = [pool.submit(one.run) for one in listeners]
    for one in listeners:
        assert one.half.wait(30), "half of the stream was not received"
    return listeners, futures


def test_drained_replica_completes_and_killed_one_reports_lost_streams(
    make_fleet: Callable[..., Fleet],
) -> None:
    """Each stream is received completely or raises producer_lost with the text so far."""
    fleet = make_fleet()
    with ThreadPoolExecutor(STREAMS) as pool:
        listeners, futures = listen(fleet, pool)
        fleet.replicas[0].process.terminate()
        fleet.replicas[1].kill()
        lost = 0
        for one, future in zip(listeners, futures, strict=True):
            text, error = future.result(60)  # type: ignore[misc]
            if error is None:
                assert text == one.expected
                continue
            lost += 1
            assert isinstance(error, choreoai.StreamInterruptedError)
            assert error.code == "producer_lost"
            assert one.expected.startswith(text)
            assert error.partial_text == text
    assert fleet.replicas[0].process.wait(30) == 0
    assert fleet.replicas[2].process.poll() is None
    # The killed replica had about a third of the streams.
    assert 0 < lost < STREAMS


def test_streams_survive_a_redis_outage_and_replay_after_it(
    make_fleet: Callable[..., Fleet],
) -> None:
    fleet = make_fleet()
    headers = {"Authorization": f"Bearer {KEY}"}
    body = {
        "model": "slow",
        "messages": [{"role": "user", "content": words(0)}],
        "stream": True,
    }
    with ThreadPoolExecutor(STREAMS) as pool:
        listeners, futures = listen(fleet, pool)
        fleet.redis.stop()
        with requests.post(
            f"{fleet.url}/v1/chat/completions",
            json=body,
            headers={**headers, "Choreo-Resumable": "1"},
            timeout=30,
        ) as begun:  # it starts without Redis, and is complete
            id = begun.headers["Choreo-Stream-Id"]
            assert begun.content.endswith(b"data: [DONE]\n\n")
        answer = requests.get(f"{fleet.url}/v1/streams/{id}", headers=headers, timeout=30)
        assert answer.status_code == 503
        assert answer.json()["error"]["code"] == "replay_unavailable"
        for one, future in zip(listeners, futures, strict=True):
            assert future.result(60) == (one.expected, None)
    fleet.redis.start()

    def replayed() -> bool:
        again = requests.get(f"{fleet.url}/v1/streams/{id}", headers=headers, timeout=30)
        return again.status_code == 200 and again.content == begun.content.replace(b": ping\n", b"")

    wait_until(replayed, "the stream started without Redis can be replayed", 30)


def test_finished_stream_survives_a_restart(tmp_path: Path) -> None:
    """sqlite: the server restarts between the cut and the resume."""
    url = f"sqlite:{tmp_path / 'replay.db'}"
    body = {
        "model": "slow",
        "messages": [{"role": "user", "content": "one two three"}],
        "stream": True,
    }
    headers = {"Authorization": f"Bearer {KEY}"}
    first = launch(tmp_path, slow_echo(replay=url), name="first")
    with requests.post(
        f"http://127.0.0.1:{first.port}/v1/chat/completions",
        json=body,
        headers={**headers, "Choreo-Resumable": "1"},
        timeout=30,
    ) as answer:
        id = answer.headers["Choreo-Stream-Id"]
        frames = answer.content.replace(b": ping\n", b"")
    assert first.end() == 0
    second = launch(tmp_path, slow_echo(replay=url), name="second")
    try:
        streams = f"http://127.0.0.1:{second.port}/v1/streams"
        again = requests.get(f"{streams}/{id}?after=2", headers=headers, timeout=30)
        assert again.content == frames[frames.index(b"id: 3\n") :]
    finally:
        second.end()
