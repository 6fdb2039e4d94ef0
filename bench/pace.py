"""Streams at a model's pace: the CPU time and the delay that each gateway adds to a frame.

``python -m bench pace`` measures the installed gateways, each with 200 streams of 20 frames a
second; ``many`` measures only ours, with 10,000 streams of one frame a second.
"""

from __future__ import annotations

import contextlib
import json
import os
import resource
import subprocess
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import psutil

from .gateways import OURS, PEERS, TRANSLATING, Peer
from .load import PYTHON, Gateway, gateway

#: Seconds that ``many`` lasts after all streams have begun.
MANY_SECONDS = int(os.environ.get("MANY_SECONDS", "600"))
#: Descriptors that a gateway may open in addition to two per stream and to those of an idle one.
SPARE = 20
#: Descriptors for all of those and for the streams that are read from the log.
MORE = 50


@contextlib.contextmanager
def upstream(frames: int, seconds: float) -> Iterator[Gateway]:
    """Run an upstream whose streams have *frames* frames; yield its process and port."""
    command = [PYTHON, "-m", "bench.ends", "upstream", str(frames), str(seconds)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    try:
        yield Gateway(process, int(process.stdout.readline()))
    finally:
        process.kill()
        process.communicate()


def measure(
    peer: Peer, count: int, rate: float, frames: int, seconds: float, descriptors: int = 0
) -> dict[str, float]:
    """Return the figures of *count* streams through *peer*, *rate* opened per second (0: all).

    If *peer* may have only so many *descriptors*, the streams that it has none to relay are read
    from its log.
    """
    with (
        tempfile.TemporaryDirectory() as folder,
        upstream(frames, seconds) as source,
        gateway(
            lambda own: peer.prepare(own, source.port, Path(folder)), peer.environment(source.port)
        ) as running,
    ):
        running.port = peer.port(Path(folder))
        time.sleep(5 if peer.module or peer.name == "smg" else 1)  # for its health checks
        if not rate:
            client(running, peer.path, peer.model, 10, 0, frames)  # a warm-up
        readers = 0
        if descriptors:
            needed = psutil.Process(running.process.pid).num_fds() + SPARE
            readers = max(0, 2 * count + needed - descriptors)
            print(f"  ({count - readers} are relayed, {readers} read from the log of others)")
        before, idle = running.cpu(), memory(running)
        peak, done = [idle], threading.Event()

        def watch() -> None:
            while not done.wait(0.5):
                peak[0] = max(peak[0], memory(running))

        watching = threading.Thread(target=watch)
        watching.start()
        try:
            figures = client(running, peer.path, peer.model, count, rate, frames, readers)
        finally:
            done.set()
            watching.join()
        figures["cpu_us"] = (running.cpu() - before) * 1e6 / max(figures["frames"], 1)
        figures["idle_mb"], figures["peak_mb"] = idle / 1e6, peak[0] / 1e6
        figures["kb_a_stream"] = (peak[0] - idle) / 1e3 / count
        return figures


def client(running: Gateway, *arguments: str | float) -> dict[str, float]:
    """Read streams in a client process, with *arguments* after its port; return its figures."""
    command = [PYTHON, "-m", "bench.ends", "client", *map(str, (running.port, *arguments))]
    figures: dict[str, float] = json.loads(
        subprocess.run(command, check=True, capture_output=True).stdout
    )
    return figures


def memory(running: Gateway) -> int:
    """Return the resident bytes of the gateway and its children."""
    root = psutil.Process(running.process.pid)
    return sum(member.memory_info().rss for member in [root, *root.children(recursive=True)])


def row(name: str, figures: dict[str, float]) -> None:
    """Print a line of the table."""
    print(
        f"  {name:16}{figures['cpu_us']:8.1f}{figures['p50_ms']:9.3f}{figures['p99_ms']:9.3f}"
        f"{figures['first_p99_s']:8.3f}{figures['kb_a_stream']:8.1f}{figures['peak_mb']:8.0f}"
        f"{figures['lost']:7.0f}{figures['refused']:9.0f}",
        flush=True,
    )


HEADING = (
    f"  {'':16}{'CPU us':>8}{'p50 ms':>9}{'p99 ms':>9}{'first s':>8}{'kB':>8}{'MB':>8}"
    f"{'lost':>7}{'refused':>9}"
)


def pace() -> None:
    """Measure 200 streams of 60 frames, 20 a second, through each installed gateway."""
    print("pace: a frame's CPU time and delay, 200 streams of 20 frames a second; 0 lost")
    _compare(PEERS)


def translated() -> None:
    """Measure the same, from Anthropic's events to chat chunks, in the gateways that translate."""
    print("translated: as pace, from Anthropic's Messages to chat completions")
    _compare(TRANSLATING)


def _compare(peers: list[Peer]) -> None:
    print(HEADING)
    for peer in peers:
        if not peer.installed():
            print(f"  {peer.name:16}is not installed")
            continue
        try:
            row(peer.name, measure(peer, 200, 0, 60, 0.05))
        except (RuntimeError, subprocess.CalledProcessError) as error:
            print(f"  {peer.name:16}{error}")


def many() -> None:
    """Measure 10,000 streams of a frame a second; as many are relayed as descriptors allow.

    A relayed stream takes two descriptors of the server, and one that is read from the log of a
    relayed one takes one.
    """
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    count = min(10_000, (hard + MORE) // 2)
    print(f"many: {count} streams of a frame a second for {MANY_SECONDS} s, in one process")
    if count < 10_000:
        print(f"  (10,000 need ulimit -n {20_000 - MORE}, here it is {hard})")
    print(HEADING)
    row(OURS.name, measure(OURS, count, 400, MANY_SECONDS + count // 400, 1.0, hard))
