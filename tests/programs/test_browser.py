"""Pages of another origin, in headless Chromium."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from pathlib import Path

import harness
import pytest
from chromium_page import MODULES, Browser, Pages, compile_pages
from launched import Launched
from real_server import KEY, Answer


@pytest.fixture(scope="module")
def pages(
    made: Callable[[Path], Path], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Pages]:
    made(MODULES.parent / ".installed")
    folder = tmp_path_factory.mktemp("pages")
    compile_pages(harness.require_tool("node", "nodejs"), folder)
    one = Pages(folder)
    yield one
    one.close()


@pytest.fixture(scope="module")
def browser(pages: Pages, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    node = harness.require_tool("node", "nodejs")
    chromium = harness.require_tool("chromium", "chromium")
    with Browser(node, chromium, tmp_path_factory.mktemp("browser")) as one:
        yield one


@pytest.mark.parametrize(
    ("keyed", "host"),
    [(False, "localhost"), (False, "127.0.0.1"), (True, "localhost"), (True, "elsewhere.example")],
)
def test_react_shows_each_word_as_it_arrives(
    request: pytest.FixtureRequest,
    answer: Callable[[], Answer],
    pages: Pages,
    browser: Browser,
    keyed: bool,
    host: str,
) -> None:
    """The page calls another origin, with and without API keys; no word waits for the next."""
    server: Launched = request.getfixturevalue("keyed_server" if keyed else "server")
    key = KEY if keyed else "any"
    browser.goto(pages.url("chat", host, server=server.url, key=key, model="gpt-4"))
    browser.click("button")
    reply = answer().begin()
    browser.wait_for("state", "streaming")
    shown = ""
    for word in ("Once ", "upon ", "ä 🎈 time"):
        reply.say(word)
        shown += word
        assert browser.wait_for("answer", shown) == [shown]
    reply.finish()
    browser.wait_for("state", "done")


def test_react_shows_the_local_models_answer(
    pages: Pages, browser: Browser, local_server: Launched
) -> None:
    url = pages.url("chat", server=local_server.url, model="gpt-4", question="Tell a long story.")
    browser.goto(url)
    browser.click("button")
    answers = browser.until("state", "done")["answer"]
    assert answers[-1]  # a busy browser may skip earlier steps
    for before, after in itertools.pairwise(answers):
        assert after.startswith(before)


def test_page_of_another_origin_can_read_errors(
    pages: Pages, browser: Browser, keyed_server: Launched
) -> None:
    """It gets the error and the request id."""
    url = pages.url("chat", "elsewhere.example", server=keyed_server.url, key="no", model="gpt-4")
    browser.goto(url)
    browser.click("button")
    browser.wait_for("state", "streaming")
    _, refusal = browser.change("the refusal")
    assert refusal.startswith("refused 401 invalid_api_key req_")


def test_without_keys_pages_of_other_origins_are_blocked(
    pages: Pages, browser: Browser, server: Launched
) -> None:
    """Otherwise any page could use the server that a visitor runs on their machine."""
    url = pages.url("chat", "elsewhere.example", server=server.url, model="echo")
    browser.goto(url)
    browser.click("button")
    assert browser.wait_for("state", "TypeError: Failed to fetch")


@pytest.mark.parametrize("keyed", [False, True])
def test_reloaded_page_shows_the_whole_answer(
    request: pytest.FixtureRequest,
    answer: Callable[[], Answer],
    pages: Pages,
    browser: Browser,
    keyed: bool,
) -> None:
    server: Launched = request.getfixturevalue("keyed_server" if keyed else "server")
    key = KEY if keyed else ""
    url = pages.url("reload", server=server.url, key=key, model="told")
    browser.goto(url)
    reply = answer().begin().say("one ").say("two ")
    browser.wait_for("answer", "one two ")
    browser.reload()
    reply.say("three ")
    shown = browser.wait_for("answer", "one two three ")
    assert shown[-2:] == ["one two ", "one two three "]
    # These arrive while no page reads.
    browser.goto("about:blank")
    reply.say("four ").say("five ")
    browser.goto(url)
    browser.wait_for("answer", "one two three four five ")
    reply.say("six")
    browser.wait_for("answer", "one two three four five six")
    reply.finish()
    browser.wait_for("state", "done")
    # After the end a read returns nothing and raises no error.
    browser.goto(url)
    ended = browser.until("state", "streaming 200")
    assert ended["answer"][-1] == "one two three four five six"
