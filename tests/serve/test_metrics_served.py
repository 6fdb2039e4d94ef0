"""What /metrics tells of the server around the application."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from harness import wait_until

CHAT = "/v1/chat/completions"


def test_streams_on_the_loop_are_told(command: Callable[..., Any]) -> None:
    ini = "[provider slow]\ntype = echo\ndelay_ms = 60000\nmodels = slow\n"
    server = command("--metrics", "--drain-seconds", "0", ini=ini)
    body = {"model": "slow", "messages": [{"role": "user", "content": "a b"}], "stream": True}

    def look() -> dict[str, float]:
        with server.connect() as client:
            answer = client.exchange("GET", "/metrics")
        assert answer.status == 200
        lines = [line for line in answer.body.decode().splitlines() if not line.startswith("#")]
        return {name: float(value) for name, value in (line.rsplit(" ", 1) for line in lines)}

    clients = [server.connect() for _ in range(5)]
    for client in clients:
        client.request("POST", CHAT, body)
    wait_until(lambda: look()["choreo_active_streams"] == 5, "all have begun")
    found = look()
    assert found["choreo_carried_streams"] >= 5
    assert found["choreo_loop_lag_seconds"] >= 0
    assert found["choreo_replay_reachable"] == 1
    for client in clients:
        client.reset()
    wait_until(lambda: look()["choreo_active_streams"] == 0, "all have gone")
    assert look()["choreo_client_disconnects_total"] == 5
