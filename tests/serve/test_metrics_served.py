"""/metrics of the real server, with one process and with two."""

from __future__ import annotations

import os
import re
import signal
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import harness
import pytest
from harness import wait_until
from prometheus_client.parser import text_string_to_metric_families

CHAT = "/v1/chat/completions"
ONE_AND_TWO = pytest.mark.parametrize("processes", ["1", "2"])
SLOW = "[provider slow]\ntype = echo\ndelay_ms = 60000\nmodels = slow\n"
LINE = re.compile(
    r"\S+ \S+ INFO choreo_wsgi\.access: id=\S+ method=(?P<method>\S+) path=(?P<path>\S+) "
    r"status=(?P<status>\d+) outcome=(?P<outcome>\S+) .*seconds=[\d.]+ .*client=127\.0\.0\.1"
)
#: Requests that waitress or our parser rejects, with their statuses.
REJECTED = [
    (b"GET /\r\n /x HTTP/1.1\r\nHost: a\r\n\r\n", 400),
    (b"G=T / HTTP/1.1\r\nHost: a\r\n\r\n", 400),
    (b"GET / HTTP/1.1\r\nHost: a\r\nX: " + b"x" * 70_000 + b"\r\n\r\n", 431),
    (b"POST /v1/chat/completions HTTP/1.1\r\nHost: a\r\nContent-Length: -1\r\n\r\n", 400),
    (b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 4, 5\r\n\r\n", 400),
    (b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: gzip\r\n\r\n", 501),
    (b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\nno chunk\r\n", 400),
    (b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 99999999\r\n\r\n", 413),
]


def scrape(server: Any) -> dict[tuple[str, ...], float]:
    """Return the value of each sample by its name and its labels in order of their names."""
    with server.connect() as client:
        answer = client.exchange("GET", "/metrics", headers={"Connection": "close"})
    assert answer.status == 200
    return {
        (sample.name, *(value for _, value in sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(answer.body.decode())
        for sample in family.samples
    }


def requests_of(found: dict[tuple[str, ...], float]) -> dict[tuple[str, ...], float]:
    """Return the requests by api, model and outcome, without those for /metrics."""
    return {
        labels: value
        for (name, *rest), value in found.items()
        if name == "choreo_requests_total" and (labels := tuple(rest)) != ("", "", "ok")
    }


@ONE_AND_TWO
def test_reports_streams_carried_by_loop(command: Callable[..., Any], processes: str) -> None:
    server = command("--metrics", "--drain-seconds", "0", "--processes", processes, ini=SLOW)
    body = {"model": "slow", "messages": [{"role": "user", "content": "a b"}], "stream": True}
    clients = [server.connect() for _ in range(8)]
    for client in clients:
        client.request("POST", CHAT, body)
    wait_until(lambda: scrape(server)["choreo_active_streams",] == 8, "all have begun")
    # Each process reports once a second.
    wait_until(lambda: scrape(server)["choreo_carried_streams",] >= 8, "they are carried")
    assert 0 < scrape(server)["choreo_loop_lag_seconds",] < harness.DEADLINE
    # Unreachable until both processes have reported.
    wait_until(lambda: scrape(server)["choreo_replay_reachable",] == 1, "the log is reachable")
    for client in clients:
        client.reset()
    wait_until(lambda: scrape(server)["choreo_active_streams",] == 0, "all have ended")
    wait_until(lambda: scrape(server)["choreo_client_disconnects_total",] == 8, "all are counted")


@pytest.mark.parametrize("store", ["memory:", "sqlite:{}/replay.db"])
def test_loop_carries_orphaned_streams(
    command: Callable[..., Any], tmp_path: Path, store: str
) -> None:
    options = ("--metrics", "--drain-seconds", "0", "--heartbeat-seconds", "0.2")
    server = command(*options, "--replay", store.format(tmp_path), ini=SLOW)
    body = {"model": "slow", "messages": [{"role": "user", "content": "a b"}], "stream": True}
    alone = scrape(server)["choreo_carried_streams",]  # this very request
    with server.connect() as client:
        client.request("POST", CHAT, body, {"Choreo-Resumable": "1"})
        assert client.read_head().status == 200
        client.reset()
    wait_until(lambda: scrape(server)["choreo_orphans",] == 1, "it is an orphan")
    wait_until(lambda: scrape(server)["choreo_carried_streams",] == alone + 1, "it is carried")


@ONE_AND_TWO
def test_counters_match_requests_sent(command: Callable[..., Any], processes: str) -> None:
    """200 streams, half of them rejected, each on its own connection."""
    options = ("--metrics", "--default-model", "none", "--processes", processes)
    server = command(*options, ini="[provider paced]\ntype = echo\ndelay_ms = 5\nmodels = paced\n")

    def one(number: int) -> None:
        model = "nobody" if number % 2 else "paced"
        body = {"model": model, "messages": [{"role": "user", "content": "w " * 10}]}
        with server.connect(60) as client:
            client.request("POST", CHAT, {**body, "stream": True}, {"Connection": "close"})
            assert client.read_head().status == (404 if number % 2 else 200)
            client.read_body()

    with ThreadPoolExecutor(20) as pool:
        list(pool.map(one, range(200)))
    expected = {("chat", "paced", "completed"): 100, ("chat", "", "model_not_found"): 100}
    wait_until(lambda: requests_of(scrape(server)) == expected, "all are counted")
    found = scrape(server)
    assert found["choreo_tokens_total", "in", "", "paced"] == 100 * 10
    assert found["choreo_tokens_total", "out", "", "paced"] == 100 * 10
    assert found["choreo_frames_total",] == 100 * 13
    assert found["choreo_first_token_seconds_count",] == 100
    server.signal(signal.SIGTERM)
    _, log = server.process.communicate(timeout=2 * harness.DEADLINE)
    lines = [line for line in log.splitlines() if "choreo_wsgi.access" in line]
    lines.remove([line for line in lines if "path=/metrics" in line][-1])  # counted later
    seconds = [float(line.partition(" seconds=")[2].split()[0]) for line in lines]
    assert found["choreo_request_seconds_count",] == len(seconds)
    assert found["choreo_request_seconds_sum",] == pytest.approx(sum(seconds), rel=0.01)


@ONE_AND_TWO
def test_counts_and_logs_requests_rejected_by_server(
    command: Callable[..., Any], processes: str
) -> None:
    server = command("--metrics", "--max-body-bytes", "4096", "--processes", processes)
    for request, status in REJECTED:
        with server.connect() as client:
            client.send(request)
            assert client.read_answer().status == status, request[:80]

    def rejected() -> float:
        return sum(requests_of(scrape(server)).values())

    wait_until(lambda: rejected() == len(REJECTED), "all are counted")
    server.signal(signal.SIGTERM)
    _, log = server.process.communicate(timeout=2 * harness.DEADLINE)
    lines = [line for line in log.splitlines() if "choreo_wsgi.access" in line]
    found = [LINE.fullmatch(line) for line in lines if "path=/metrics" not in line]
    assert all(found), lines
    statuses = [int(one["status"]) for one in found if one]
    assert sorted(statuses) == sorted(status for _, status in REJECTED)


def test_streams_of_killed_process_are_not_counted(
    command: Callable[..., Any], tmp_path: Path
) -> None:
    """In a folder that the environment names too; its files are kept at the end."""
    folder = tmp_path / "metrics"
    folder.mkdir()
    options = ("--metrics", "--drain-seconds", "0", "--processes", "2")
    server = command(*options, ini=SLOW, PROMETHEUS_MULTIPROC_DIR=str(folder))
    body = {"model": "slow", "messages": [{"role": "user", "content": "a b"}], "stream": True}
    clients = [server.connect() for _ in range(8)]
    for client in clients:
        client.request("POST", CHAT, body)
    wait_until(lambda: scrape(server)["choreo_active_streams",] == 8, "all have begun")
    pid = server.process.pid
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    # On a busy machine one of them may have accepted all connections.
    busiest = max(children, key=lambda child: len(list(Path(f"/proc/{child}/fd").iterdir())))
    os.kill(int(busiest), signal.SIGKILL)
    wait_until(lambda: scrape(server)["choreo_active_streams",] < 8, "its streams are gone")
    for client in clients:
        client.reset()
    wait_until(lambda: scrape(server)["choreo_active_streams",] == 0, "the others have ended")
    server.signal(signal.SIGTERM)
    server.process.communicate(timeout=2 * harness.DEADLINE)
    assert len([*folder.glob("counter_*.db")]) >= 2
