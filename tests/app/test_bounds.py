"""The memory that the server uses for resumable streams."""

from __future__ import annotations

import re
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import requests
from harness import Client, wait_until
from launched import Launched, launch
from nightly import examples
from real_server import KEY, slow_echo

#: Three times the budget in frames, or six times.
STREAMS = examples(1000, 2000)
BUDGET = 32 * 1024 * 1024
HEADERS = {"Authorization": f"Bearer {KEY}", "Choreo-Resumable": "1"}


def resident(replica: Launched) -> int:
    """Return the resident memory of the process in bytes."""
    status = Path(f"/proc/{replica.process.pid}/status").read_text()
    found = re.search(r"VmRSS:\s+(\d+) kB", status)
    assert found
    return int(found[1]) * 1024


def test_streams_that_no_client_reads_to_the_end(tmp_path: Path) -> None:
    """Within the budget at any time; under 150 MB above idle after they expired."""
    config = slow_echo(
        max_streams=STREAMS,  # each keeps its slot until its generation has ended
        replay_ttl_seconds=1,
        replay_total_bytes=BUDGET,
    )
    replica = launch(tmp_path, config)
    # About 100 kB of frames each: all of them together would be a multiple of the budget.
    body = {
        "model": "echo",
        "messages": [{"role": "user", "content": "word " * 500}],
        "stream": True,
    }

    def leave(_: int) -> str:
        with Client(("127.0.0.1", replica.port)) as client:
            client.request("POST", "/v1/chat/completions", body, HEADERS)
            head = client.read_head()
            assert head.status == 200
            client.read_frame()
            client.reset()
            return head.headers["choreo-stream-id"]

    try:
        leave(0)
        idle = resident(replica)
        peak = 0
        with ThreadPoolExecutor(8) as pool:
            for _ in pool.map(leave, range(STREAMS)):
                peak = max(peak, resident(replica))
            last = leave(0)
        # The memory of 8 running streams and their threads is not part of the logs.
        assert peak - idle < BUDGET + 64 * 1024 * 1024

        def gone() -> bool:
            url = f"http://127.0.0.1:{replica.port}/v1/streams/{last}"
            return requests.get(url, headers=HEADERS, timeout=10).status_code == 404

        wait_until(gone, "the last stream expires")
        assert resident(replica) - idle < 150 * 1024 * 1024
    finally:
        assert replica.end() == 0
