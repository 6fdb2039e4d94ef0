"""The memory that resumable streams use in the server."""

from __future__ import annotations

import re
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import requests
from harness import Client, wait_until
from launched import Launched, launch
from nightly import examples
from real_server import KEY, slow_echo
from replay_helpers import create, in_memory
from work import traced

from choreo_wsgi import sse
from choreo_wsgi.app.resumable import Resumption
from choreo_wsgi.chat.longtext import Marks, restore
from choreo_wsgi.settings import Settings
from choreo_wsgi.streams.recording import Recording

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


def test_long_frame_is_read_from_the_log_without_a_copy() -> None:
    store = in_memory(ttl=60, stream_bytes=4_000_000, total_bytes=10_000_000)
    writer = create(store)
    frames = b"".join(
        b'id: %d\nevent: a\ndata: {"x":"%b"}\n\n' % (number, b"y" * size)
        for number, size in ((1, 3), (2, 2_000_000), (3, 3))
    )
    writer.append(frames + b"id: 4\ndata: [DONE]\n\n", 4, end=True)
    nothing: Any = None
    resumption = Resumption(store, nothing, nothing, nothing, Settings())
    marks: Marks = {}
    resumption.events(writer.id, "alice", {})  # loads the modules
    with traced() as memory:
        first, second, third = resumption.events(writer.id, "alice", marks)
    assert memory.peak < 0.5 * len(frames)
    assert first == third == {"x": "yyy"}
    assert restore(second["x"].encode(), marks) == b"y" * 2_000_000
    store.close()


def test_log_makes_room_for_a_long_block_before_it_is_copied() -> None:
    """It is then what it would be anyway: the oldest frames that do not fit are dropped."""
    store = in_memory(ttl=60, stream_bytes=1_000_000, total_bytes=10_000_000)
    writer = create(store)
    blocks = [sse.frame(b"x" * size) for size in (600_000, 600_000, 300_000, 3_000, 2_000_000)]
    source: Any = SimpleNamespace(fileno=lambda: 3, due=None, ended=False, on_end=None)
    source.receive = lambda _: blocks.pop(0)
    log = store._keeper.backend._logs[writer.id]  # type: ignore[attr-defined]
    before: list[tuple[int, int]] = []
    make_room = writer.make_room

    def note(size: int) -> None:
        make_room(size)
        before.append((log.first, log.last))

    writer.make_room = note  # type: ignore[method-assign]
    recording = Recording(source, writer, lambda _: True)
    after = []
    while blocks:
        recording.receive(1)
        after.append((log.first, log.last))
    assert after == [(1, 1), (2, 2), (2, 3), (2, 4), (6, 5)]
    assert before == [(1, 0), (2, 1), (2, 2), (5, 4)]
    store.close()
