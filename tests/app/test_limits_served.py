"""Limits under 200 concurrent requests: one process, two on one socket, three replicas."""

from __future__ import annotations

import hashlib
import re
import threading
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import harness
import pytest
from harness import Client, wait_until
from launched import Launched, launch, launch_nginx
from real_server import slow_echo
from replay_helpers import RedisServer

CHAT = "/v1/chat/completions"
AT_ONCE, LIMIT = 200, 100
#: Seven tokens by the estimate (a token for four characters, and four) and by the echo's count.
PROMPT = "w w w w w w w"
LIMITS = {
    "requests": f"requests_per_minute = {LIMIT}",
    "tokens": f"tokens_per_minute = {LIMIT * 14}",
    "day": f"tokens_per_day = {LIMIT * 14}",
    "streams": f"max_streams = {LIMIT}",
    "few": "requests_per_minute = 10",
}
SECTIONS = "\n[provider hold]\ntype = echo\ndelay_ms = 60000\nmodels = hold\n" + "".join(
    f"\n[key {name}]\ndigest = {hashlib.sha256(name.encode()).hexdigest()}\n{limit}\n"
    for name, limit in LIMITS.items()
)


class Served:
    """Replicas behind one port, and their Redis, if any."""

    def __init__(self, port: int, replicas: list[Launched], redis: RedisServer | None) -> None:
        self.port = port
        self.replicas = replicas
        self.redis = redis


@pytest.fixture(params=["memory", "two processes", "three replicas"])
def served(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Served]:
    settings = {"heartbeat_seconds": "0.5", "drain_seconds": "0", "max_streams": "300"}
    if request.param != "three replicas":
        if request.param == "two processes":
            settings["processes"] = "2"
        one = launch(tmp_path, slow_echo(SECTIONS, **settings))
        yield Served(one.port, [one], None)
        assert one.end() == 0
        return
    for program, package in (("nginx", "nginx-light"), ("redis-server", "redis-server")):
        harness.require_tool(program, package)
    redis = RedisServer(tmp_path)
    redis.start()
    settings["replay"] = redis.url
    config = slow_echo(SECTIONS, **settings)
    replicas = [launch(tmp_path, config, name=f"r{n}") for n in range(3)]
    nginx = launch_nginx(tmp_path, [replica.port for replica in replicas])
    yield Served(nginx.port, replicas, redis)
    nginx.end()
    for replica in replicas:
        assert replica.end() == 0
    redis.stop()


def at_once(port: int, key: str, stream: bool) -> Counter[int]:
    """Return the statuses of AT_ONCE requests; streams stay open until all have a status."""
    barrier = threading.Barrier(AT_ONCE)
    body = {"model": "hold" if stream else "echo", "stream": stream, "max_tokens": 7}
    request = {**body, "messages": [{"role": "user", "content": PROMPT}]}

    def one(_: int) -> int:
        with Client(("127.0.0.1", port), 60) as client:
            barrier.wait(60)
            client.request("POST", CHAT, request, {"Authorization": f"Bearer {key}"})
            head = client.read_head()
            barrier.wait(60)
            if stream:
                client.reset()
            return head.status

    with ThreadPoolExecutor(AT_ONCE) as pool:
        return Counter(pool.map(one, range(AT_ONCE)))


def test_limits_hold_for_200_concurrent_requests(served: Served) -> None:
    for key in ("requests", "tokens", "day", "streams"):
        found = at_once(served.port, key, stream=key == "streams")
        assert found == {200: LIMIT, 429: AT_ONCE - LIMIT}, key
    # The disconnected clients have freed their slots.
    wait_until(
        lambda: at_once(served.port, "streams", stream=True)[200] == LIMIT, "the slots are free", 30
    )


@pytest.mark.parametrize("served", ["three replicas"], indirect=True)
def test_each_replica_counts_alone_without_redis(served: Served) -> None:
    assert served.redis is not None
    assert at_once(served.port, "requests", stream=False)[200] == LIMIT
    served.redis.stop()
    # Each of the three counts alone now: 10 each, and only 200 and 429 are returned.
    assert at_once(served.port, "few", stream=False) == {200: 30, 429: AT_ONCE - 30}
    for replica in served.replicas:
        warnings = [
            line
            for line in replica.log.read_text().splitlines()
            if re.match(r"\S+ \S+ (WARNING|ERROR) ", line)
        ]
        assert len(warnings) == 1 and "each process keeps its own" in warnings[0], warnings
