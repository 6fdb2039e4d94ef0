"""SIGHUP: other keys and providers, and no stream is cut."""

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


def ask(server: Any, key: str, model: str = "echo") -> int:
    body = {"model": model, "messages": [{"role": "user", "content": "x"}]}
    with server.connect() as client:
        return int(client.exchange("POST", CHAT, body, authorized(key)).status)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "choreo.ini"


def test_keys_and_providers_change_under_running_streams(
    command: Callable[..., Any], path: Path
) -> None:
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
    harness.wait_until(lambda: ask(server, "old") == 401, "the old key is refused", 5)
    assert ask(server, "new") == 200
    assert ask(server, "new", "new") == 200
    assert ask(server, "new", "old") == 404
    for client in clients:
        frames = client.read_body()
        client.close()
        assert frames.endswith(DONE) and b'"error"' not in frames and b"w59" in frames


def test_connections_of_replaced_processes_know_the_old_key_no_more(
    command: Callable[..., Any], path: Path
) -> None:
    """A proxy keeps its connections, and streams keep their processes."""
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
    news = ("the keys and providers were read anew",) * 2  # by each that is replaced
    for text in news:
        next(line for line in server.process.stderr if text in line)
    for client in kept:
        with contextlib.suppress(ConnectionError):  # its process has gone
            assert client.exchange("GET", "/v1/models", headers=authorized("old")).status == 401
    assert ask(server, "new") == 200
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
def test_what_cannot_be_read_leaves_all_as_it_was(
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
    assert ask(server, "old") == 200
    path.write_text(ini("new"))
    server.signal(signal.SIGHUP)
    harness.wait_until(lambda: ask(server, "new") == 200, "the new key is admitted")
    assert ask(server, "old") == 401


def test_keys_in_a_file_of_their_own(command: Callable[..., Any], path: Path) -> None:
    keys = path.parent / "keys"
    keys.write_text(hashlib.sha256(b"old").hexdigest())
    server = command("--api-keys-file", str(keys), "--drain-seconds", "0")
    assert ask(server, "old") == 200
    replacement = path.parent / "replacement"
    replacement.write_text(hashlib.sha256(b"new").hexdigest())
    replacement.replace(keys)
    server.signal(signal.SIGHUP)
    harness.wait_until(lambda: ask(server, "new") == 200, "the new key is admitted")
    assert ask(server, "old") == 401


def test_a_new_key_is_admitted_by_its_section(
    command: Callable[..., Any], run: Callable[..., Any], path: Path
) -> None:
    made = run("key", "ann@example.org")
    assert made.returncode == 0
    key = made.stderr.split("not shown again): ")[1].split()[0]
    assert key.startswith("sk-") and key not in made.stdout and len(key) > 40
    path.write_text(made.stdout)
    server = command("--config", str(path), "--drain-seconds", "0")
    assert ask(server, key) == 200
    assert ask(server, key[:-1]) == 401
    server.signal(signal.SIGTERM)
    _, log = server.process.communicate(timeout=harness.DEADLINE)
    assert "key=ann@example.org" in log and key not in log


@pytest.mark.parametrize("name", ["a]b", "", " a", "a\nb"])
def test_names_that_no_section_can_have(run: Callable[..., Any], name: str) -> None:
    made = run("key", name)
    assert made.returncode == 2 and "digest" not in made.stdout
