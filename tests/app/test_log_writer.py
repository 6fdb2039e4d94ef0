"""The thread that writes the log to standard error, tested in separate programs."""

from __future__ import annotations

import logging
import os
import re
import subprocess
import sys
import threading
import time
from typing import Any

import pytest
from harness import DEADLINE

from choreo_wsgi.app.log import Lines, set_up
from choreo_wsgi.settings import Settings

START = """
import logging, os, sys
from choreo_wsgi.app.log import set_up
from choreo_wsgi.settings import Settings
logger = logging.getLogger("choreo_wsgi")
set_up(logger, Settings())
"""


def start(program: str, **options: Any) -> subprocess.Popen[str]:
    pipes: dict[str, Any] = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.PIPE)
    words = [sys.executable, "-c", START + program]
    return subprocess.Popen(words, text=True, **{**pipes, **options})


def run(program: str, **options: Any) -> tuple[str, str]:
    """Return the standard output and error of *program*, which must succeed."""
    with start(program, **options) as process:
        try:
            out, err = process.communicate(timeout=DEADLINE)
        finally:
            process.kill()
    assert process.returncode == 0, err
    return out, err


def test_unread_lines_are_dropped_and_counted() -> None:
    """Logging does not block; a later line reports how many were dropped."""
    program = """
for number in range(40_000):
    logger.info("line %d %s", number, "x" * 100)
print("done", flush=True)
sys.stdin.readline()
logger.info("the end")
"""
    with start(program) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == "done\n"
            _, err = process.communicate("\n", timeout=DEADLINE)
        finally:
            process.kill()
    lines = err.splitlines()
    kept = [line for line in lines if " line " in line]
    assert 10_000 <= len(kept) < 30_000
    dropped = [int(n) for n in re.findall(r"^(\d+) lines of the log were dropped$", err, re.M)]
    assert len(kept) + sum(dropped) in (40_000, 40_001)  # the last one may have been dropped


def test_lines_are_written_after_a_full_nonblocking_standard_error() -> None:
    program = """
os.set_blocking(2, False)
for number in range(3_000):
    logger.info("line %d %s", number, "x" * 100)
logger.handlers[0].flush()
print("full", flush=True)
sys.stdin.readline()
logger.info("the end")
"""
    with start(program) as process:
        try:
            assert process.stdout and process.stderr and process.stdout.readline() == "full\n"
            process.stderr.read(60_000)
            _, err = process.communicate("\n", timeout=DEADLINE)
        finally:
            process.kill()
    assert err.endswith("INFO choreo_wsgi: the end\n")


def test_program_exits_although_its_log_is_unread() -> None:
    program = """
for number in range(3_000):
    logger.info("line %d %s", number, "x" * 100)
logger.handlers[0].flush()
print("over", flush=True)
os._exit(0)
"""
    with start(program) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == "over\n"
        finally:
            process.kill()


def test_forked_process_writes_its_own_lines() -> None:
    program = """
import warnings
warnings.simplefilter("ignore")  # from Python 3.12 on: that there is a thread
logger.info("before")
logger.handlers[0].flush()
if os.fork() == 0:
    logger.info("in the child")
    logger.handlers[0].flush()
    os._exit(0)
os.wait()
logger.info("in the parent")
"""
    _, err = run(program)
    assert [line.partition(": ")[2] for line in err.splitlines()] == [
        "before",
        "in the child",
        "in the parent",
    ]


def test_unformattable_record_is_reported_and_the_next_is_written() -> None:
    program = """
logger.info("%d of them", "many")
logger.info("and \\udc80 then")
try:
    raise ValueError("half \\udc80 of it")
except ValueError:
    logger.exception("last")
"""
    _, err = run(program)
    assert "TypeError" in err
    assert err.count("INFO choreo_wsgi: and \\udc80 then\n") == 1
    assert err.endswith("ValueError: half \\udc80 of it\n")


def test_logging_without_standard_error_does_not_fail() -> None:
    program = 'logger.info("x")\nlogger.handlers[0].flush()\nprint("served")'
    out, _ = run(program, preexec_fn=lambda: os.close(2), stderr=None)
    assert out == "served\n"


@pytest.fixture
def logger() -> logging.Logger:
    return logging.Logger("somebody's")


def test_configured_logger_is_left_unchanged(logger: logging.Logger) -> None:
    own = logging.NullHandler()
    logger.addHandler(own)
    set_up(logger, Settings(log_level="debug"))
    assert (logger.handlers, logger.level, logger.propagate) == ([own], logging.NOTSET, True)


def test_log_level_setting_is_applied(logger: logging.Logger) -> None:
    set_up(logger, Settings(log_level="warning"))
    assert (logger.level, logger.propagate) == (logging.WARNING, False)


def test_access_lines_have_the_level_info() -> None:
    program = """
from choreo_wsgi.app.account import Account
for level in ("WARNING", "INFO"):
    logger.setLevel(level)
    Account(level, "GET", "/", "").finish()
"""
    _, err = run(program)
    assert "id=INFO" in err and "id=WARNING" not in err


ACCOUNT = """
import json, time
from choreo_wsgi.app import log
members = log.Members(
    {"id": "x 1", "status": 200, "key": None, "tokens_in": 3, "tokens_out": 4}
)
class Record(logging.LogRecord): pass
access = logging.getLogger("choreo_wsgi.access")
other = logging.StreamHandler()
other.setFormatter(logging.Formatter("other: %%(message)s of %%(account)r"))
first = logger.handlers[0]
%s
log.write_account(members)
first.flush()
"""
WORDS = 'id="x 1" status=200 tokens_in=3 tokens_out=4'
LINE = f"INFO choreo_wsgi.access: {WORDS}"
OTHER = (
    f"other: {WORDS} of "
    "{'id': 'x 1', 'status': 200, 'key': None, 'tokens_in': 3, 'tokens_out': 4}"
)


@pytest.mark.parametrize(
    ("own", "shown"),
    [
        ("pass", [LINE]),
        ("logging.setLogRecordFactory(Record); Record.getMessage = lambda self: 'own'",
         ["INFO choreo_wsgi.access: own"]),
        ("access.addFilter(lambda record: record.account['status'] != 200)", []),
        ("first.addFilter(lambda record: False)", []),
        ("first.setLevel('WARNING')", []),
        ("first.setFormatter(logging.Formatter('%(name)s'))", ["choreo_wsgi.access"]),
        ("logger.addHandler(other)", [LINE, OTHER]),
        ("access.addHandler(other)", [LINE, OTHER]),
        ("logging.getLogger().addHandler(other); logger.propagate = True", [LINE, OTHER]),
        ("logger.handlers[:] = [other]", [OTHER]),
    ],
)  # fmt: skip
def test_access_line_follows_the_programs_logging_setup(own: str, shown: list[str]) -> None:
    _, err = run(ACCOUNT % own)
    lines = [re.sub(r"^[\d-]{10} [\d:]{8},\d{3} ", "", line) for line in err.splitlines()]
    assert sorted(lines) == shown


def test_first_lines_of_two_threads_start_one_writer(monkeypatch: pytest.MonkeyPatch) -> None:
    started: list[threading.Thread] = []

    class SlowThread(threading.Thread):
        def __init__(self, **options: Any) -> None:
            time.sleep(0.05)
            super().__init__(**options)

        def start(self) -> None:
            started.append(self)

    def write() -> None:
        together.wait(DEADLINE)
        lines.write("a line\n")

    lines, together = Lines(), threading.Barrier(2)
    threads = [threading.Thread(target=write) for _ in range(2)]
    monkeypatch.setattr(threading, "Thread", SlowThread)
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(DEADLINE)
    assert len(started) == 1
