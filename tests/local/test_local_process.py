"""The model's process: how it starts, what it hides, and when it ends."""

from __future__ import annotations

import http.client
import os
import signal
import socket
import stat
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from choreo_wsgi.errors import ProviderNotConfigured, ProviderUnavailable
from choreo_wsgi.local.process import Endpoint, Launch, ModelProcess

PATIENCE = 60.0

linux_only = pytest.mark.skipif(sys.platform != "linux", reason="/proc and pidfd are Linux's")


def ready(process: ModelProcess) -> Endpoint:
    endpoint = process.run().wait(PATIENCE)
    assert endpoint is not None
    return endpoint


def ask(endpoint: Endpoint, key: str) -> int:
    """Ask for a list of models; return the status."""
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
    """A process for the tests that leave it as it is; it knows none of the server's keys."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OPENAI_API_KEY", "sk-secret")
        process = ModelProcess(Launch(str(model_file), slots=2, context=1024))
        ready(process)
    yield process
    process.close()


@pytest.mark.parametrize("unix", [True, False])
def test_answers_who_has_the_key(
    start: Callable[..., ModelProcess], model_file: Path, unix: bool
) -> None:
    endpoint = ready(start(model_file, unix=unix))
    assert ask(endpoint, endpoint.key) == 200
    assert ask(endpoint, "") == 401
    assert endpoint.key not in repr(endpoint)


@linux_only
def test_keeps_to_itself(running: ModelProcess) -> None:
    endpoint = ready(running)
    folder = Path(endpoint.unix_socket).parent
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    about = Path("/proc", str(running.run().pid))
    shown = (about / "cmdline").read_bytes() + (about / "environ").read_bytes()
    assert b"choreo_wsgi.local.child" in shown
    assert endpoint.key.encode() not in shown
    assert b"sk-secret" not in shown
    assert endpoint.unix_socket in (about / "net" / "unix").read_text()


def test_tells_what_the_model_can_do(running: ModelProcess) -> None:
    endpoint = ready(running)
    assert endpoint.tools is False


@linux_only
def test_prints_nothing_of_its_callers(running: ModelProcess) -> None:
    """llama.cpp prints the grammar of a schema that it cannot follow."""
    for number in (1, 2):
        assert str(Path(f"/proc/{running.run().pid}/fd/{number}").readlink()) == os.devnull


def test_does_not_wait_for_the_start(start: Callable[..., ModelProcess], model_file: Path) -> None:
    run = start(model_file).run()
    assert run.wait(0) is None
    assert not run.has_ended()


def test_starts_again_after_a_crash(start: Callable[..., ModelProcess], model_file: Path) -> None:
    process = start(model_file)
    first = process.run()
    endpoint = ready(process)
    os.kill(first.pid, signal.SIGKILL)
    assert first.has_ended(PATIENCE)
    with pytest.raises(ProviderUnavailable, match="signal 9"):
        first.wait(PATIENCE)
    assert not Path(endpoint.unix_socket).parent.exists()
    again = ready(process)
    assert again.key != endpoint.key
    assert process.run() is not first
    assert ask(again, again.key) == 200


def test_outlives_the_signals_of_its_group(running: ModelProcess) -> None:
    endpoint = ready(running)
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        os.kill(running.run().pid, number)
    assert ask(endpoint, endpoint.key) == 200
    assert not running.run().has_ended()


def test_close_ends_it_and_leaves_nothing(
    start: Callable[..., ModelProcess], model_file: Path, caplog: pytest.LogCaptureFixture
) -> None:
    process = start(model_file)
    run = process.run()
    folder = Path(ready(process).unix_socket).parent
    process.close()
    assert run.has_ended()
    assert not folder.exists()
    assert "has ended" not in caplog.text  # that is no failure
    process.close()


def test_close_ends_one_that_is_starting(
    start: Callable[..., ModelProcess], model_file: Path
) -> None:
    process = start(model_file)
    run = process.run()
    process.close()
    assert run.has_ended()


def test_a_process_that_cannot_be_started_leaves_nothing(
    start: Callable[..., ModelProcess],
    model_file: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """As when the machine has no room for another one; the next request tries again."""
    process = start(model_file)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    with monkeypatch.context() as patch:
        patch.setattr(sys, "executable", str(tmp_path / "python-gone"))
        with pytest.raises(ProviderUnavailable, match="cannot be started"):
            process.run()
    assert list(tmp_path.iterdir()) == []
    assert ready(process)


@pytest.mark.parametrize("binary", ["", "/usr/bin/uwsgi"])
def test_an_interpreter_inside_another_program_is_found(
    start: Callable[..., ModelProcess],
    model_file: Path,
    monkeypatch: pytest.MonkeyPatch,
    binary: str,
) -> None:
    monkeypatch.setattr(sys, "executable", binary)
    assert ready(start(model_file))


def test_says_that_the_file_is_no_model(start: Callable[..., ModelProcess], tmp_path: Path) -> None:
    (tmp_path / "bad.gguf").write_bytes(b"no model")
    process = start(tmp_path / "bad.gguf")
    run = process.run()
    with pytest.raises(ProviderNotConfigured, match=r"bad\.gguf") as caught:
        run.wait(PATIENCE)
    assert str(tmp_path) not in caught.value.message
    # For a moment the failure is everybody's: not every request starts a process.
    assert run.has_ended(PATIENCE)
    assert process.run() is run


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
def test_says_what_is_not_installed(
    start: Callable[..., ModelProcess],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    code: str,
    hint: str,
) -> None:
    (tmp_path / "xllamacpp.py").write_text(code)
    monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.raises(ProviderNotConfigured) as caught:
        start(tmp_path / "any.gguf").run().wait(PATIENCE)
    assert hint in caught.value.message


def test_the_working_folder_is_no_place_for_modules(
    start: Callable[..., ModelProcess],
    tmp_path: Path,
    model_file: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    (tmp_path / "json.py").write_text("raise SystemExit('taken from the working folder')")
    monkeypatch.chdir(tmp_path)
    ready(start(model_file))


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


def parent(*arguments: object, path: str = "") -> subprocess.Popen[str]:
    """Start a process that starts a model's, and prints that one's id."""
    environment = {**os.environ, "PYTHONPATH": path}
    command = [sys.executable, "-c", PARENT, *map(str, arguments)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment)


def first_number(process: subprocess.Popen[str]) -> int:
    assert process.stdout is not None
    return int(process.stdout.readline())


@linux_only
def test_leaves_with_a_killed_parent(gone: Callable[[int], bool], model_file: Path) -> None:
    with parent(model_file, "ready") as process:
        child = first_number(process)
        process.kill()
    assert gone(child)


@linux_only
def test_leaves_though_the_parent_had_forked(gone: Callable[[int], bool], model_file: Path) -> None:
    with parent(model_file, "ready", "fork") as process:
        child = first_number(process)
        forked = {first_number(process), first_number(process)} - {process.pid}
        process.kill()
        try:
            assert gone(child)
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
    ctypes.PyDLL(None).sleep(600)  # as the real one: without letting go of the GIL
"""


@linux_only
def test_leaves_with_a_killed_parent_while_loading(
    gone: Callable[[int], bool], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "xllamacpp.py").write_text(SLOW)
    (tmp_path / "any.gguf").write_bytes(b"GGUF")
    os.mkfifo(tmp_path / "loading")
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    with parent(tmp_path / "any.gguf", path=str(tmp_path)) as process:
        child = first_number(process)
        (tmp_path / "loading").read_text()  # until the other end was opened and closed
        process.kill()
    assert gone(child)


def test_a_long_temporary_path_does_not_matter(
    start: Callable[..., ModelProcess],
    tmp_path: Path,
    model_file: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    folder = tmp_path / ("x" * 100)
    folder.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(folder))
    endpoint = ready(start(model_file))
    assert ask(endpoint, endpoint.key) == 200
