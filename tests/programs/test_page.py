"""The server's own page in headless Chromium, used as a person would."""

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
from real_server import Answer as Told
from wsgi_calls import call

SAID = [f"w{number} " for number in range(12)]
WORDS = "".join(SAID)
INI = """
[choreo]
api_keys = {key}
default_model = none

[provider led]
type = openai
base_url = {url}/v1
models = slow, burst
"""


class Led:
    """An upstream whose model says a word of its answer whenever a page of the test asks for it.

    GET ``/word`` lets the newest answer say one more, ``/rest`` all that are left.
    """

    def __init__(self) -> None:
        self._turns: queue.SimpleQueue[bool] = queue.SimpleQueue()

    def __call__(self, peer: Peer) -> None:
        path = peer.request.path
        if path in ("/word", "/rest"):
            self._turns.put(path == "/word")
            peer.json({})
        elif peer.request.json()["model"] == "burst":
            peer.send(chunked([b"".join(frame(one) for one in [*answer(*SAID), "[DONE]"])]))
            peer.keep = True
        else:
            self._turns = turns = queue.SimpleQueue()
            told = Told(peer).begin()
            waits = True
            for word in SAID:
                waits = waits and turns.get(timeout=6 * DEADLINE)
                told.say(word)
            told.finish()


@pytest.fixture(scope="module")
def seen(made: Callable[[Path], Path], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What page.cjs saw."""
    made(MODULES / "axe-core" / "axe.min.js")
    node = harness.require_tool("node", "nodejs")
    chromium = harness.require_tool("chromium", "chromium")
    folder = tmp_path_factory.mktemp("page")
    with (
        RawServer(Led()) as upstream,
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


def test_the_answer_is_shown_as_it_comes(seen: dict[str, Any]) -> None:
    (part,) = seen["whileStreaming"]
    assert part and part != WORDS and WORDS.startswith(part)
    assert seen["stopEnabled"]
    assert seen["whole"] == [WORDS]


def test_the_frames_are_pictured(seen: dict[str, Any]) -> None:
    first, speed, frames, gap, manner = seen["figures"]
    assert first.endswith(" s") and gap.endswith(" s") and float(speed) > 0
    # The role, the words, the finish reason and [DONE].
    assert frames.startswith("15 in ")
    assert manner == "one by one"
    assert 1 < seen["ticks"] <= 15
    *_, frames, _, manner = seen["burst"]
    assert frames.startswith("15 in ") and manner == "in bursts"


def test_stop_ends_the_answer_where_it_is(seen: dict[str, Any]) -> None:
    assert WORDS.startswith(seen["stopped"]) and seen["stopped"] != WORDS


def test_a_reload_reads_on(seen: dict[str, Any]) -> None:
    assert seen["resumed"] == WORDS
    assert seen["resumedWith"] == 3
    assert seen["keyKept"]


def test_more_than_a_tab_can_keep_is_shown(seen: dict[str, Any]) -> None:
    assert seen["full"] == WORDS
    assert seen["direction"] == "plaintext"  # each paragraph is read in its own


def test_the_key_is_kept_in_the_session_only(seen: dict[str, Any]) -> None:
    stored, cookie, address = seen["stored"]
    assert (stored, cookie) == (0, "") and KEY not in address


def test_what_went_wrong_is_told(seen: dict[str, Any]) -> None:
    assert "API key" in seen["refused"]
    assert "no such model" in seen["failed"]
    assert seen["models"] == ["slow", "burst", "echo"]


def test_nothing_is_loaded_from_elsewhere(seen: dict[str, Any]) -> None:
    hosts = {url for url in seen["requests"] if not url.startswith((seen["url"], "data:"))}
    assert not hosts
    assert seen["unexpected"] == []  # the policy's violations among them
    policy = seen["policy"]
    assert "default-src 'none'" in policy and "unsafe" not in policy
    assert "connect-src 'self'" in policy and "frame-ancestors 'none'" in policy


def test_it_is_accessible_dark_and_light_and_fits_a_phone(seen: dict[str, Any]) -> None:
    assert seen["violations"] == []
    assert not seen["tooWide"]
    assert seen["darkBackground"] == "rgb(20, 23, 27)"


def test_it_can_be_switched_off() -> None:
    off = call(make_app({"page": "off"}), "GET", "/", HTTP_ACCEPT="text/html")
    assert off.headers["content-type"] == "application/json"
    program = call(make_app(), "GET", "/", HTTP_ACCEPT="*/*")
    assert program.headers["content-type"] == "application/json"
    on = call(make_app(), "GET", "/", HTTP_ACCEPT="text/html,*/*;q=0.8")
    assert on.headers["content-type"] == "text/html; charset=utf-8"
    assert on.headers["x-content-type-options"] == "nosniff"
    assert len(on.body.splitlines()) <= 350
