"""Programs written for the openai package, run with it and with this client."""

from __future__ import annotations

import contextlib
import gc
import io
import json

import pytest
from openai_programs import PROGRAMS, START, ProgramServer

#: The programs close no client.
pytestmark = pytest.mark.filterwarnings("ignore::ResourceWarning")


@pytest.fixture(scope="module", autouse=True)
def collect():
    """Free the clients in this module, where the warning for an unclosed one is ignored."""
    yield
    gc.collect()


def run(package: str, program: str, server) -> tuple[str, list]:
    """Return the output of *program* with *package*, and the requests that it sends."""
    answers = ProgramServer()
    server.scripts[:] = [answers]
    code = compile((START + program).replace("PKG", package), f"<{package}>", "exec", 0, True)
    out = io.StringIO()
    with contextlib.redirect_stdout(out):
        exec(code, {"__name__": "program"})
    # Concurrent requests are received in any order.
    return out.getvalue(), sorted(answers.sent, key=lambda one: json.dumps(one, sort_keys=True))


@pytest.mark.parametrize("name", PROGRAMS)
def test_program_prints_and_sends_the_same_with_both_packages(name, server, monkeypatch):
    pytest.importorskip("openai")
    monkeypatch.setenv("OPENAI_API_KEY", "sk-program")
    monkeypatch.setenv("OPENAI_BASE_URL", f"{server.url}/v1")
    theirs = run("openai", PROGRAMS[name], server)
    ours = run("choreoai", PROGRAMS[name], server)
    assert ours[0] == theirs[0]
    assert ours[1] == theirs[1]
    assert ours[0]


def test_there_are_at_least_40_programs():
    assert len(PROGRAMS) >= 40
