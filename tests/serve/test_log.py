"""The log of the real command."""

from __future__ import annotations

import json
import signal
from collections.abc import Callable
from typing import Any

import harness


def test_full_log_pipe_blocks_no_request(command: Callable[..., Any]) -> None:
    """Standard error is a full pipe: requests are answered, and SIGTERM ends the process."""
    server = command()
    with server.connect() as client:
        for _ in range(1500):  # about 150 bytes of log each
            assert client.exchange("GET", "/healthz").status == 200
    server.signal(signal.SIGTERM)
    assert server.process.wait(harness.DEADLINE) == 0


def test_json_log_format_writes_an_object_per_line(command: Callable[..., Any]) -> None:
    server = command("--log-format", "json", "--drain-seconds", "0")
    with server.connect() as client:
        client.exchange("GET", "/healthz")
    server.signal(signal.SIGTERM)
    _, log = server.process.communicate(timeout=harness.DEADLINE)
    lines = [json.loads(line) for line in log.splitlines()]
    assert "/healthz" in [line.get("path") for line in lines]
