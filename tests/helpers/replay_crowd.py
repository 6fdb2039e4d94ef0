"""Many streams that are never read: prints how much memory they take.

``replay_crowd.py STREAMS FRAMES BUDGET`` prints the growth of the process in MB, after the streams
have expired and at its peak, and the bytes of the store at its peak and after they have expired.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path

from replay_helpers import frames, in_memory, size_of


def memory(field: str) -> float:
    """Return *field* of the process in MB: VmRSS for now, VmHWM for the peak.

    Not getrusage: its peak includes that of the process that started this one.
    """
    status = Path("/proc/self/status").read_text()
    return int(status.partition(f"{field}:")[2].split()[0]) / 1024


def main(streams: int, count: int, budget: int) -> None:
    store = in_memory(ttl=0.5, stream_bytes=4 * 1024 * 1024, total_bytes=budget)
    block = frames(1, count, "x" * 200)
    idle = memory("VmRSS")
    most = 0
    running = [store.create("alice").writer for _ in range(streams)]
    for writer in running:
        assert writer is not None
        writer.append(block, count)
        most = max(most, size_of(store))
    for writer in running:
        assert writer is not None
        writer.append(b"", 0, end=True)
    peak = memory("VmHWM")
    del running, writer
    deadline = time.monotonic() + 15
    while size_of(store) and time.monotonic() < deadline:
        time.sleep(0.05)
    print(memory("VmRSS") - idle, peak - idle, most, size_of(store))
    store.close()


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
