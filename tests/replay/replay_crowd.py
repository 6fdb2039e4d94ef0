"""Many streams that nobody reads: prints the memory that the process takes, in MB.

``replay_crowd.py STREAMS FRAMES BUDGET``: before, at the most, and when all have expired;
and the most bytes that the store held.
"""

from __future__ import annotations

import resource
import sys
import time
from pathlib import Path

from replay_helpers import frames

from choreo_wsgi.replay.memory import MemoryStore


def rss() -> float:
    status = Path("/proc/self/status").read_text()
    return int(status.partition("VmRSS:")[2].split()[0]) / 1024


def main(streams: int, count: int, budget: int) -> None:
    store = MemoryStore(ttl=0.5, stream_bytes=4 * 1024 * 1024, total_bytes=budget)
    block = frames(1, count, "x" * 200)
    idle = rss()
    most = 0
    running = [store.create("alice").writer for _ in range(streams)]
    for writer in running:
        assert writer is not None
        writer.append(block, count)
        most = max(most, store.size)
    for writer in running:
        assert writer is not None
        writer.finish()
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    del running, writer
    deadline = time.monotonic() + 15
    while store.size and time.monotonic() < deadline:
        time.sleep(0.05)
    print(rss() - idle, peak - idle, most, store.size)
    store.close()


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
