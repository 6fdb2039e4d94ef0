"""Programs written for the openai package: the same with this client in the import."""

from __future__ import annotations

import contextlib
import gc
import io
import json

import pytest
from habits import SNIPPETS, START, HabitServer

#: The snippets close no client.
pytestmark = pytest.mark.filterwarnings("ignore::ResourceWarning")


@pytest.fixture(scope="module", autouse=True)
def clients():
    """Collect the clients in this module, where one that is not closed may be warned of."""
    yield
    gc.collect()


def run(package: str, program: str, server) -> tuple[str, list]:
    """Return what *program* prints with *package*, and what it sends."""
    habits = HabitServer()
    server.scripts[:] = [habits]
    code = compile((START + program).replace("PKG", package), f"<{package}>", "exec", 0, True)
    out = io.StringIO()
    with contextlib.redirect_stdout(out):
        exec(code, {"__name__": "snippet"})
    # Those that were sent at once come in any order.
    return out.getvalue(), sorted(habits.sent, key=lambda one: json.dumps(one, sort_keys=True))


@pytest.mark.parametrize("name", SNIPPETS)
def test_the_same_program(name, server, monkeypatch):
    pytest.importorskip("openai")
    monkeypatch.setenv("OPENAI_API_KEY", "sk-habit")
    monkeypatch.setenv("OPENAI_BASE_URL", f"{server.url}/v1")
    theirs = run("openai", SNIPPETS[name], server)
    ours = run("choreoai", SNIPPETS[name], server)
    assert ours[0] == theirs[0]
    assert ours[1] == theirs[1]
    assert ours[0]


def test_there_are_enough_of_them():
    assert len(SNIPPETS) >= 40
