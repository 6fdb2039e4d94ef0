"""The model's process: its start, its isolation and its end."""

from __future__ import annotations

import http.client
import os
import signal
import socket
import stat
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from choreo_wsgi.errors import ProviderNotConfigured, ProviderUnavailable
from choreo_wsgi.local import process as process_module
from choreo_wsgi.local.process import Endpoint, Launch, ModelProcess, Run

DEADLINE = 60.0

linux_only = pytest.mark.skipif(sys.platform != "linux", reason="/proc and pidfd are Linux's")


def wait_ready(process: ModelProcess) -> Endpoint:
    endpoint = process.run().wait(DEADLINE)
    assert endpoint is not None
    return endpoint


def request_status(endpoint: Endpoint, key: str) -> int:
    """Send a request authorised with *key*; return the status."""
    connection = http.client.HTTPConnection(endpoint.url.removeprefix("http://"))
    if endpoint.unix_socket:
        connection.sock = socket.socket(socket.AF_UNIX)
        connection.sock.connect(endpoint.unix_socket)
    connection.request("GET", "/props", headers={"Authorization": f"Bearer {key}"})
    with connection.getresponse() as response:
        status = response.status
    connection.close()
    return status


@pytest.fixture(scope="module")
def running(model_file: Path) -> Iterator[ModelProcess]:
    """A process shared by the tests that do not change it, started with an API key set."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OPENAI_API_KEY", "sk-secret")
        patch.setenv("LD_LIBRARY_PATH", "/missing")
        process = ModelProcess(Launch(str(model_file), slots=2, context=1024))
        wait_ready(process)
    yield process
    process.close()


@pytest.mark.parametrize("unix", [True, False])
def test_requires_its_key(start: Callable[..., ModelProcess], model_file: Path, unix: bool) -> None:
    endpoint = wait_ready(start(model_file, unix=unix))
    assert request_status(endpoint, endpoint.key) == 200
    assert request_status(endpoint, "") == 401
    assert endpoint.key not in repr(endpoint)


@linux_only
def test_hides_its_key_and_the_servers_secrets(running: ModelProcess) -> None:
    endpoint = wait_ready(running)
    folder = Path(endpoint.unix_socket).parent
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    proc = Path("/proc", str(running.run().pid))
    visible = (proc / "cmdline").read_bytes() + (proc / "environ").read_bytes()
    assert b"choreo_wsgi.local.child" in visible
    assert endpoint.key.encode() not in visible
    assert b"sk-secret" not in visible
    assert b"\0LD_LIBRARY_PATH=/missing\0" in b"\0" + visible
    assert endpoint.unix_socket in (proc / "net" / "unix").read_text()


def test_reports_that_the_model_has_no_tools(running: ModelProcess) -> None:
    endpoint = wait_ready(running)
    assert endpoint.tools is False


@linux_only
def test_is_killed_before_the_server_if_memory_runs_out(running: ModelProcess) -> None:
    score = Path("/proc", str(running.run().pid), "oom_score_adj").read_text()
    assert score == "500\n"


@linux_only
def test_output_goes_to_the_null_device(running: ModelProcess) -> None:
    """llama.cpp prints the grammar of a schema that it cannot follow."""
    for number in (1, 2):
        assert str(Path(f"/proc/{running.run().pid}/fd/{number}").readlink()) == os.devnull


def test_run_does_not_wait_for_the_start(
    start: Callable[..., ModelProcess], model_file: Path
) -> None:
    run = start(model_file).run()
    assert run.wait(0) is None
    assert not run.has_ended()


def test_concurrent_requests_start_one_process(
    start: Callable[..., ModelProcess], model_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    process = start(model_file)
    runs: list[Run] = []
    other = threading.Thread(target=lambda: runs.append(process.run()))
    second = threading.Event()

    def spawn(*arguments: Any) -> Any:
        if other.ident is None:
            other.start()
            assert not second.wait(0.1)
        else:
            second.set()
        return original(*arguments)

    original = process_module._spawn
    monkeypatch.setattr(process_module, "_spawn", spawn)
    run = process.run()
    other.join(DEADLINE)
    assert runs == [run]


def test_restarts_after_a_crash(start: Callable[..., ModelProcess], model_file: Path) -> None:
    process = start(model_file)
    first = process.run()
    endpoint = wait_ready(process)
    os.kill(first.pid, signal.SIGKILL)
    assert first.has_ended(DEADLINE)
    with pytest.raises(ProviderUnavailable, match="signal 9"):
        first.wait(DEADLINE)
    assert not Path(endpoint.unix_socket).parent.exists()
    again = wait_ready(process)
    assert again.key != endpoint.key
    assert process.run() is not first
    assert request_status(again, again.key) == 200


def test_ignores_signals_to_its_process_group(running: ModelProcess) -> None:
    endpoint = wait_ready(running)
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        os.kill(running.run().pid, number)
    assert request_status(endpoint, endpoint.key) == 200
    assert not running.run().has_ended()


def test_close_ends_the_process_and_removes_its_folder(
    start: Callable[..., ModelProcess], model_file: Path, caplog: pytest.LogCaptureFixture
) -> None:
    process = start(model_file)
    run = process.run()
    folder = Path(wait_ready(process).unix_socket).parent
    process.close()
    assert run.has_ended()
    assert not folder.exists()
    assert "has ended" not in caplog.text  # a requested end is not logged as a failure
    process.close()


def test_close_ends_a_starting_process(
    start: Callable[..., ModelProcess], model_file: Path
) -> None:
    process = start(model_file)
    run = process.run()
    process.close()
    assert run.has_ended()


def test_close_kills_a_process_that_does_not_exit(
    start: Callable[..., ModelProcess], model_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(process_module, "_GRACE", 0.01)
    process = start(model_file)
    run = process.run()
    os.kill(run.pid, signal.SIGSTOP)
    process.close()
    assert run.has_ended(DEADLINE)


def test_failed_start_leaves_no_files_and_is_retried(
    start: Callable[..., ModelProcess],
    model_file: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """As when the system cannot create another process."""
    process = start(model_file)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    with monkeypatch.context() as patch:
        patch.setattr(sys, "executable", str(tmp_path / "python-missing"))
        with pytest.raises(ProviderUnavailable, match="cannot be started"):
            process.run()
    assert list(tmp_path.iterdir()) == []
    assert wait_ready(process)


@pytest.mark.parametrize("binary", ["", "/usr/bin/uwsgi"])
def test_embedded_interpreter_is_found(
    start: Callable[..., ModelProcess],
    model_file: Path,
    monkeypatch: pytest.MonkeyPatch,
    binary: str,
) -> None:
    monkeypatch.setattr(sys, "executable", binary)
    assert wait_ready(start(model_file))


def test_invalid_model_file_is_reported(
    start: Callable[..., ModelProcess], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "bad.gguf").write_bytes(b"no model")
    process = start(tmp_path / "bad.gguf")
    run = process.run()
    with pytest.raises(ProviderNotConfigured, match=r"bad\.gguf") as caught:
        run.wait(DEADLINE)
    assert str(tmp_path) not in caught.value.message
    with pytest.raises(ProviderNotConfigured) as again:
        run.wait(DEADLINE)
    assert again.value is not caught.value  # each thread raises its own
    # For a moment all requests share the failure instead of starting another process.
    assert run.has_ended(DEADLINE)
    assert process.run() is run
    monkeypatch.setattr(process_module, "_RETRY_SECONDS", 0)
    assert process.run() is not run


@pytest.mark.parametrize(
    ("code", "hint"),
    [
        ("raise ModuleNotFoundError(\"No module named 'xllamacpp'\")", "pip install xllamacpp=="),
        (
            "raise ImportError('libgomp.so.1: cannot open shared object file')",
            "apt-get install libgomp1",
        ),
        ("raise ImportError('wrong ELF class')", "wrong ELF class"),
    ],
)
def test_missing_library_is_reported_with_install_command(
    start: Callable[..., ModelProcess],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    code: str,
    hint: str,
) -> None:
    (tmp_path / "xllamacpp.py").write_text(code)
    monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.raises(ProviderNotConfigured) as caught:
        start(tmp_path / "any.gguf").run().wait(DEADLINE)
    assert hint in caught.value.message


def test_modules_are_not_imported_from_the_working_folder(
    start: Callable[..., ModelProcess],
    tmp_path: Path,
    model_file: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    (tmp_path / "json.py").write_text("raise SystemExit('imported from the working folder')")
    monkeypatch.chdir(tmp_path)
    wait_ready(start(model_file))


PARENT = """
import os, sys, time
from choreo_wsgi.local.process import Launch, ModelProcess
process = ModelProcess(Launch(sys.argv[1], slots=1, context=512))
run = process.run()
if "ready" in sys.argv:
    run.wait(60)
print(run.pid, flush=True)
if "fork" in sys.argv:
    print(os.fork() or os.getpid(), flush=True)
time.sleep(600)
"""


def start_parent(*arguments: object, path: str = "") -> subprocess.Popen[str]:
    """Start a Python process that starts a model process and prints its id."""
    environment = {**os.environ, "PYTHONPATH": path}
    command = [sys.executable, "-c", PARENT, *map(str, arguments)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment)


def read_number(process: subprocess.Popen[str]) -> int:
    assert process.stdout is not None
    return int(process.stdout.readline())


@linux_only
def test_ends_with_its_killed_parent(
    ended: Callable[[int], bool],
    model_file: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    with start_parent(model_file, "ready") as process:
        child = read_number(process)
        assert len(list(tmp_path.iterdir())) == 1
        process.kill()
    assert ended(child)
    assert list(tmp_path.iterdir()) == []


@linux_only
def test_ends_with_its_parent_after_a_fork(ended: Callable[[int], bool], model_file: Path) -> None:
    with start_parent(model_file, "ready", "fork") as process:
        child = read_number(process)
        forked = {read_number(process), read_number(process)} - {process.pid}
        process.kill()
        try:
            assert ended(child)
        finally:
            for pid in forked:
                os.kill(pid, signal.SIGKILL)


SLOW = """
import ctypes, os
class Anything:
    def __getattr__(self, name):
        self.__dict__[name] = Anything()
        return self.__dict__[name]
CommonParams = Anything
llama_pooling_type = Anything()
def Server(params):
    with open(os.environ["TMPDIR"] + "/loading", "w"):
        pass
    ctypes.PyDLL(None).sleep(600)  # like the real one it holds the GIL
"""


@linux_only
def test_ends_with_its_parent_during_the_load(
    ended: Callable[[int], bool], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "xllamacpp.py").write_text(SLOW)
    (tmp_path / "any.gguf").write_bytes(b"GGUF")
    os.mkfifo(tmp_path / "loading")
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    with start_parent(tmp_path / "any.gguf", path=str(tmp_path)) as process:
        child = read_number(process)
        (tmp_path / "loading").read_text()  # blocks until the child has opened and closed the pipe
        process.kill()
    assert ended(child)


def test_long_temporary_path_is_supported(
    start: Callable[..., ModelProcess],
    tmp_path: Path,
    model_file: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    folder = tmp_path / ("x" * 100)
    folder.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(folder))
    endpoint = wait_ready(start(model_file))
    assert request_status(endpoint, endpoint.key) == 200
    assert list(folder.iterdir()) == []
