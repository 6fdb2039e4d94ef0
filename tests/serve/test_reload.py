"""SIGHUP reloads keys and providers without ending streams."""

from __future__ import annotations

import contextlib
import hashlib
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import harness
import pytest

DONE = b"data: [DONE]\n\n"
CHAT = "/v1/chat/completions"
STREAMS = 200


def ini(*keys: str, models: str = "slow, old") -> str:
    sections = [
        f"[key {key}]\ndigest = {hashlib.sha256(key.encode()).hexdigest()}\n" for key in keys
    ]
    provider = f"[provider slow]\ntype = echo\ndelay_ms = 50\nmodels = {models}\n"
    return "\n".join([*sections, provider])


def authorized(key: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {key}"}


def request_status(server: Any, key: str, model: str = "echo") -> int:
    body = {"model": model, "messages": [{"role": "user", "content": "x"}]}
    with server.connect() as client:
        return int(client.exchange("POST", CHAT, body, authorized(key)).status)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "choreo.ini"


def test_reloads_keys_and_providers_during_streams(command: Callable[..., Any], path: Path) -> None:
    path.write_text(ini("old"))
    server = command("--config", str(path), "--drain-seconds", "0", "--default-model", "none")
    words = " ".join(f"w{number}" for number in range(60))
    body = {"model": "slow", "messages": [{"role": "user", "content": words}], "stream": True}
    clients = [server.connect(30) for _ in range(STREAMS)]
    for client in clients:
        client.request("POST", CHAT, body, authorized("old"))
    for client in clients:
        assert client.read_head().status == 200
        client.read_frame()
    path.write_text(ini("new", models="new"))
    server.signal(signal.SIGHUP)
    harness.wait_until(lambda: request_status(server, "old") == 401, "the old key is refused", 5)
    assert request_status(server, "new") == 200
    assert request_status(server, "new", "new") == 200
    assert request_status(server, "new", "old") == 404
    for client in clients:
        frames = client.read_body()
        client.close()
        assert frames.endswith(DONE) and b'"error"' not in frames and b"w59" in frames


def test_replaced_processes_reject_old_key(command: Callable[..., Any], path: Path) -> None:
    """A proxy keeps its connections, and streams keep their processes alive."""
    path.write_text(ini("old"))
    options = ("--drain-seconds", "0", "--default-model", "none", "--processes", "2")
    server = command("--config", str(path), *options)
    words = " ".join(f"w{number}" for number in range(100))
    body = {"model": "slow", "messages": [{"role": "user", "content": words}], "stream": True}
    streams = [server.connect(30) for _ in range(20)]
    for client in streams:
        client.request("POST", CHAT, body, authorized("old"))
        assert client.read_head().status == 200
    kept = [server.connect(30) for _ in range(8)]
    for client in kept:
        assert client.exchange("GET", "/v1/models", headers=authorized("old")).status == 200
    path.write_text(ini("new"))
    server.signal(signal.SIGHUP)
    for _ in range(2):  # each process that is replaced
        next(line for line in server.process.stderr if "keys and providers were read anew" in line)
    for client in kept:
        with contextlib.suppress(ConnectionError):  # its process has ended
            assert client.exchange("GET", "/v1/models", headers=authorized("old")).status == 401
    assert request_status(server, "new") == 200
    for client in streams:  # they last longer than drain_seconds
        assert client.read_body().endswith(DONE)
    for client in (*streams, *kept):
        client.close()


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("[key x\n", "no [section]"),
        ("[key x]\ndigest = sk-a-key-by-mistake\n", "digest is not a SHA-256"),
        ("[provider p]\ntype = echo\ndelay = 1\n", "did you mean 'delay_ms'"),
        (None, "No such file"),
    ],
)
def test_failed_reload_keeps_configuration(
    command: Callable[..., Any], path: Path, text: str | None, reason: str
) -> None:
    path.write_text(ini("old"))
    server = command("--config", str(path), "--drain-seconds", "0")
    if text is None:
        path.unlink()
    else:
        path.write_text(text)
    server.signal(signal.SIGHUP)
    line = next(line for line in server.process.stderr if "stays as it was" in line)
    assert reason in line and "by-mistake" not in line and "ERROR" in line
    assert request_status(server, "old") == 200
    path.write_text(ini("new"))
    server.signal(signal.SIGHUP)
    harness.wait_until(lambda: request_status(server, "new") == 200, "the new key is admitted")
    assert request_status(server, "old") == 401


def test_reloads_api_keys_file(command: Callable[..., Any], path: Path) -> None:
    keys = path.parent / "keys"
    keys.write_text(hashlib.sha256(b"old").hexdigest())
    server = command("--api-keys-file", str(keys), "--drain-seconds", "0")
    assert request_status(server, "old") == 200
    replacement = path.parent / "replacement"
    replacement.write_text(hashlib.sha256(b"new").hexdigest())
    replacement.replace(keys)
    server.signal(signal.SIGHUP)
    harness.wait_until(lambda: request_status(server, "new") == 200, "the new key is admitted")
    assert request_status(server, "old") == 401


def test_key_command_output_admits_the_key(
    command: Callable[..., Any], run: Callable[..., Any], path: Path
) -> None:
    done = run("key", "ann@example.org")
    assert done.returncode == 0
    key = done.stderr.split("not shown again): ")[1].split()[0]
    assert key.startswith("sk-") and key not in done.stdout and len(key) > 40
    path.write_text(done.stdout)
    server = command("--config", str(path), "--drain-seconds", "0")
    assert request_status(server, key) == 200
    assert request_status(server, key[:-1]) == 401
    server.signal(signal.SIGTERM)
    _, log = server.process.communicate(timeout=harness.DEADLINE)
    assert "key=ann@example.org" in log and key not in log


@pytest.mark.parametrize("name", ["a]b", "", " a", "a\nb"])
def test_key_command_rejects_invalid_names(run: Callable[..., Any], name: str) -> None:
    done = run("key", name)
    assert done.returncode == 2 and "digest" not in done.stdout
