"""One process and two: how much faster the second one makes the server.

Client and upstream share the machine's cores with the gateway.  So the time that two perfect
processes would take is computed from the CPU time of all parts: no less than that of each part
that has one thread, and no less than the sum divided by the number of cores.
"""

from __future__ import annotations

import os
import statistics
import time
from typing import NamedTuple

from .gateways import OURS
from .load import Gateway, gateway
from .pace import client, upstream

RUNS = int(os.environ.get("RUNS", "7"))
CHAT, RESPONSES = "/v1/chat/completions", "/v1/responses"


class Load(NamedTuple):
    """Requests to *path*, so many *at_once* (0: all); plain ones if the answers have no *frames*.

    *pace* is the number of seconds between the frames of a stream.
    """

    name: str
    requests: int
    frames: int
    path: str = CHAT
    model: str = "gpt-4"
    pace: float = 0.0
    at_once: int = 20
    turns: int = 1


LOADS = (
    Load("1,000 starts at once", 1000, 2, pace=0.001, at_once=0),
    Load("plain completions", 1500, 0),
    Load("plain, from Responses, 50 turns", 400, 0, RESPONSES, turns=50),
    Load("burst", 400, 500),
    Load("burst, from Messages", 200, 500, model="claude-x"),
    Load("burst, to Responses", 200, 500, RESPONSES),
)


def run(load: Load, running: Gateway, source: Gateway) -> tuple[float, float, float, float]:
    """Return the seconds that *load* takes, and the CPU seconds of gateway, client, upstream."""
    before = running.cpu(), source.cpu()
    options = (load.requests, 0, load.frames, 0, load.at_once, load.turns)
    figures = client(running, load.path, load.model, *options)
    if figures["complete"] < load.requests or figures["refused"] or figures["lost"]:
        raise RuntimeError(f"{load.name}: {figures}")
    return (
        figures["seconds"],
        running.cpu() - before[0],
        figures["cpu_s"],
        source.cpu() - before[1],
    )


def least(processes: int, parts: list[float]) -> float:
    """Return the least seconds for CPU seconds of *parts*: gateway, client, upstream."""
    ours, *others = parts
    return max(ours / processes, *others, sum(parts) / len(os.sched_getaffinity(0)))


def main() -> None:
    """Print the seconds of one process and of two, in turn, and the CPU seconds of all parts."""
    print(f"processes: medians of {RUNS} runs, one and two processes in turn")
    print(f"  {'':32}{'s: one':>8}{'two':>7}{'ratio':>7}{'at most':>9}", end="")
    print(f"{'CPU s: ours':>13}{'client':>8}{'upstream':>10}")
    for load in LOADS:
        with upstream(load.frames, load.pace) as source:

            def command(port: int, processes: str, upstream: int = source.port) -> list[str]:
                return [*OURS.command(port, upstream, ""), "--processes", processes]

            environment = OURS.environment(source.port)
            with (
                gateway(lambda port: command(port, "1"), environment) as one,
                gateway(lambda port: command(port, "2"), environment) as two,
            ):
                time.sleep(1)
                figures = [
                    [run(load, running, source) for running in (one, two)] for _ in range(RUNS + 1)
                ][1:]  # without a warm-up
        ones, twos = ([*zip(*column, strict=True)] for column in zip(*figures, strict=True))
        seconds, parts = statistics.median(ones[0]), [*map(statistics.median, ones[1:])]
        other = statistics.median(twos[0])
        print(
            f"  {load.name:32}{seconds:8.3f}{other:7.3f}{seconds / other:7.2f}"
            f"{least(1, parts) / least(2, parts):9.2f}"
            f"{parts[0]:13.3f}{parts[1]:8.3f}{parts[2]:10.3f}",
            flush=True,
        )
