"""The memory that resumable streams use in the server."""

from __future__ import annotations

import re
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import requests
from harness import Client, wait_until
from launched import Launched, launch
from nightly import examples
from real_server import KEY, slow_echo

#: Their frames are three (nightly: six) times the budget.
STREAMS = examples(1000, 2000)
BUDGET = 32 * 1024 * 1024
HEADERS = {"Authorization": f"Bearer {KEY}", "Choreo-Resumable": "1"}


def resident(replica: Launched) -> int:
    """Return the resident memory of the process in bytes."""
    status = Path(f"/proc/{replica.process.pid}/status").read_text()
    found = re.search(r"VmRSS:\s+(\d+) kB", status)
    assert found
    return int(found[1]) * 1024


def test_abandoned_streams_stay_within_the_replay_budget(tmp_path: Path) -> None:
    """At any time; once they have expired, memory is less than 150 MB above idle."""
    config = slow_echo(
        max_streams=STREAMS,  # each keeps its slot until its generation ends
        replay_ttl_seconds=1,
        replay_total_bytes=BUDGET,
    )
    replica = launch(tmp_path, config)
    # About 100 kB of frames each, in few frames: together a multiple of the budget.
    body = {
        "model": "echo",
        "messages": [{"role": "user", "content": ("w" * 400 + " ") * 170}],
        "stream": True,
    }

    def disconnect(_: int) -> str:
        with Client(("127.0.0.1", replica.port)) as client:
            client.request("POST", "/v1/chat/completions", body, HEADERS)
            head = client.read_head()
            assert head.status == 200
            client.read_frame()
            client.reset()
            return head.headers["choreo-stream-id"]

    try:
        disconnect(0)
        idle = resident(replica)
        peak = 0
        with ThreadPoolExecutor(8) as pool:
            for _ in pool.map(disconnect, range(STREAMS)):
                peak = max(peak, resident(replica))
            last = disconnect(0)
        # The allowance is for 8 running streams and their threads.
        assert peak - idle < BUDGET + 64 * 1024 * 1024

        def expired() -> bool:
            url = f"http://127.0.0.1:{replica.port}/v1/streams/{last}"
            return requests.get(url, headers=HEADERS, timeout=10).status_code == 404

        wait_until(expired, "the last stream expires")
        assert resident(replica) - idle < 150 * 1024 * 1024
    finally:
        assert replica.end() == 0
