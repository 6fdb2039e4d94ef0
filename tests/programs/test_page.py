"""The server's own page in headless Chromium, used as by a person."""

from __future__ import annotations

import json
import queue
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import harness
import pytest
from chromium_page import MODULES, PATIENCE, WEB
from harness import DEADLINE, make_app
from launched import environment, running
from raw_server import Peer, RawServer, answer, chunked, frame
from real_server import KEY
from real_server import Answer as Reply
from wsgi_calls import call

WORDS = [f"w{number} " for number in range(12)]
TEXT = "".join(WORDS)
INI = """
[choreo]
api_keys = {key}
default_model = none

[provider stepped]
type = openai
base_url = {url}/v1
models = slow, burst
"""


class SteppedUpstream:
    """Sends one more word of the newest answer for ``GET /word``, the rest for ``/rest``."""

    def __init__(self) -> None:
        self._steps: queue.SimpleQueue[bool] = queue.SimpleQueue()

    def __call__(self, peer: Peer) -> None:
        path = peer.request.path
        if path in ("/word", "/rest"):
            self._steps.put(path == "/word")
            peer.json({})
        elif peer.request.json()["model"] == "burst":
            peer.send(chunked([b"".join(frame(one) for one in [*answer(*WORDS), "[DONE]"])]))
            peer.keep = True
        else:
            self._steps = steps = queue.SimpleQueue()
            reply = Reply(peer).begin()
            is_stepped = True
            for word in WORDS:
                is_stepped = is_stepped and steps.get(timeout=6 * DEADLINE)
                reply.say(word)
            reply.finish()


@pytest.fixture(scope="module")
def results(
    made: Callable[[Path], Path], tmp_path_factory: pytest.TempPathFactory
) -> dict[str, Any]:
    """The results of page.cjs."""
    made(MODULES / "axe-core" / "axe.min.js")
    node = harness.require_tool("node", "nodejs")
    chromium = harness.require_tool("chromium", "chromium")
    folder = tmp_path_factory.mktemp("page")
    with (
        RawServer(SteppedUpstream()) as upstream,
        running(folder, INI.format(key=KEY, url=upstream.url)) as server,
    ):
        words = [node, str(WEB / "page.cjs"), chromium, f"{server.url}/", KEY, upstream.url]
        env = environment(folder, NODE_PATH=str(MODULES))
        run = subprocess.run(
            words, env=env, capture_output=True, text=True, timeout=2 * PATIENCE, check=False
        )
        assert run.returncode == 0, run.stderr
        found: dict[str, Any] = json.loads(run.stdout)
        found["url"] = server.url
    return found


def test_shows_the_answer_as_it_arrives(results: dict[str, Any]) -> None:
    (part,) = results["whileStreaming"]
    assert part and part != TEXT and TEXT.startswith(part)
    assert results["stopEnabled"]
    assert results["whole"] == [TEXT]


def test_shows_the_timing_of_the_frames(results: dict[str, Any]) -> None:
    first, speed, frames, gap, manner = results["figures"]
    assert first.endswith(" s") and gap.endswith(" s") and float(speed) > 0
    # The role, the words, the finish reason and [DONE].
    assert frames.startswith("15 in ")
    assert manner == "one by one"
    assert 1 < results["ticks"] <= 15
    *_, frames, _, manner = results["burst"]
    assert frames.startswith("15 in ") and manner == "in bursts"


def test_stop_keeps_the_partial_answer(results: dict[str, Any]) -> None:
    assert TEXT.startswith(results["stopped"]) and results["stopped"] != TEXT


def test_reload_resumes_the_stream(results: dict[str, Any]) -> None:
    assert results["resumed"] == TEXT
    assert results["resumedWith"] == 3
    assert results["keyKept"]


def test_shows_an_answer_too_large_for_the_tabs_storage(results: dict[str, Any]) -> None:
    assert results["full"] == TEXT
    assert results["direction"] == "plaintext"  # each paragraph has its own direction


def test_stores_the_key_for_the_session_only(results: dict[str, Any]) -> None:
    stored, cookie, address = results["stored"]
    assert (stored, cookie) == (0, "") and KEY not in address


def test_shows_errors(results: dict[str, Any]) -> None:
    assert "API key" in results["refused"]
    assert "no such model" in results["failed"]
    assert results["models"] == ["slow", "burst", "echo"]


def test_loads_nothing_from_other_hosts(results: dict[str, Any]) -> None:
    hosts = {url for url in results["requests"] if not url.startswith((results["url"], "data:"))}
    assert not hosts
    assert results["unexpected"] == []  # the policy's violations among them
    policy = results["policy"]
    assert "default-src 'none'" in policy and "unsafe" not in policy
    assert "connect-src 'self'" in policy and "frame-ancestors 'none'" in policy


def test_page_is_accessible_in_both_themes_and_fits_a_phone(results: dict[str, Any]) -> None:
    assert results["violations"] == []
    assert not results["tooWide"]
    assert results["darkBackground"] == "rgb(20, 23, 27)"


def test_page_can_be_switched_off() -> None:
    off = call(make_app({"page": "off"}), "GET", "/", HTTP_ACCEPT="text/html")
    assert off.headers["content-type"] == "application/json"
    program = call(make_app(), "GET", "/", HTTP_ACCEPT="*/*")
    assert program.headers["content-type"] == "application/json"
    on = call(make_app(), "GET", "/", HTTP_ACCEPT="text/html,*/*;q=0.8")
    assert on.headers["content-type"] == "text/html; charset=utf-8"
    assert on.headers["x-content-type-options"] == "nosniff"
    assert on.headers["cache-control"] == "no-store"
    assert on.headers["referrer-policy"] == "no-referrer"
    assert len(on.body.splitlines()) <= 350
