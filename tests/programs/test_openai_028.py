"""``openai==0.28.1``, which old programs still use, in a separate process."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from harness import DEADLINE
from launched import ROOT, Launched, environment
from real_server import Answer, read_printed, read_rest

PACKAGES = ROOT / "build" / "openai-0.28"
PROGRAM = Path(__file__).with_name("old_openai_program.py")


@pytest.fixture
def program(made: Callable[[Path], Path], tmp_path: Path) -> Callable[..., subprocess.Popen[bytes]]:
    made(PACKAGES / ".installed")
    env = environment(tmp_path, PYTHONPATH=str(PACKAGES))

    @contextmanager
    def start(url: str, *words: str) -> Iterator[subprocess.Popen[bytes]]:
        process = subprocess.Popen(
            [sys.executable, str(PROGRAM), f"{url}/v1", *words],
            env=env,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        try:
            yield process
        finally:
            process.kill()
            process.communicate()

    return start  # type: ignore[return-value]


def test_installed_version_is_0_28_1(made: Callable[[Path], Path]) -> None:
    made(PACKAGES / ".installed")
    assert (PACKAGES / "openai-0.28.1.dist-info").is_dir()


def test_prints_each_word_before_the_next_is_sent(
    server: Launched, answer: Callable[[], Answer], program: Callable[..., subprocess.Popen[bytes]]
) -> None:
    with program(server.url, "gpt-4", "Hello") as process:
        reply = answer().begin()
        for word in ("once ", "ä ", "time"):
            reply.say(word)
            read_printed(process, word)
        reply.finish()
        assert read_rest(process) == ""


def test_errors_raise_the_packages_exceptions(
    server: Launched, answer: Callable[[], Answer], program: Callable[..., subprocess.Popen[bytes]]
) -> None:
    with program(server.url, "gpt-4", "Hello") as process:
        answer().begin().say("half ").call.cut()
        printed = read_rest(process)
    assert printed.startswith("half [APIError: ")
    with program(server.url, "unknown", "Hello") as process:
        _, err = process.communicate(timeout=DEADLINE)
    assert b"InvalidRequestError" in err


def test_prints_the_local_models_answer(
    local_server: Launched, program: Callable[..., subprocess.Popen[bytes]]
) -> None:
    with program(local_server.url, "gpt-4", "Say hello.") as process:
        assert read_rest(process).strip()
