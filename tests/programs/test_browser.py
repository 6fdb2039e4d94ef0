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
def test_react_shows_each_word_as_it_comes(
    request: pytest.FixtureRequest,
    answer: Callable[[], Answer],
    pages: Pages,
    browser: Browser,
    keyed: bool,
    host: str,
) -> None:
    """The page asks another origin, with and without API keys; no word waits for the next."""
    server: Launched = request.getfixturevalue("keyed_server" if keyed else "server")
    key = KEY if keyed else "any"
    browser.goto(pages.url("chat", host, server=server.url, key=key, model="gpt-4"))
    browser.click("button")
    said = answer().begin()
    browser.wait_for("state", "streaming")
    shown = ""
    for word in ("Once ", "upon ", "ä 🎈 time"):
        said.say(word)
        shown += word
        assert browser.wait_for("answer", shown) == [shown]
    said.finish()
    browser.wait_for("state", "done")


def test_the_local_model(pages: Pages, browser: Browser, local_server: Launched) -> None:
    url = pages.url("chat", server=local_server.url, model="gpt-4", question="Tell a long story.")
    browser.goto(url)
    browser.click("button")
    answers = browser.until("state", "done")["answer"]
    assert answers[-1]  # of the steps before it a busy browser shows few
    for before, after in itertools.pairwise(answers):
        assert after.startswith(before)


def test_refusals_can_be_read(pages: Pages, browser: Browser, keyed_server: Launched) -> None:
    """A page of another origin sees the error and the id of its request."""
    url = pages.url("chat", "elsewhere.example", server=keyed_server.url, key="no", model="gpt-4")
    browser.goto(url)
    browser.click("button")
    browser.wait_for("state", "streaming")
    _, refusal = browser.change("the refusal")
    assert refusal.startswith("refused 401 invalid_api_key req_")


def test_without_keys_foreign_pages_get_nothing(
    pages: Pages, browser: Browser, server: Launched
) -> None:
    """What anybody's page could do in the browser of somebody who runs a server."""
    url = pages.url("chat", "elsewhere.example", server=server.url, model="echo")
    browser.goto(url)
    browser.click("button")
    assert browser.wait_for("state", "TypeError: Failed to fetch")


@pytest.mark.parametrize("keyed", [False, True])
def test_a_page_reloaded_in_the_middle_shows_the_whole_answer(
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
    said = answer().begin().say("one ").say("two ")
    browser.wait_for("answer", "one two ")
    browser.reload()
    said.say("three ")
    shown = browser.wait_for("answer", "one two three ")
    assert shown[-2:] == ["one two ", "one two three "]
    # Said while nobody reads.
    browser.goto("about:blank")
    said.say("four ").say("five ")
    browser.goto(url)
    browser.wait_for("answer", "one two three four five ")
    said.say("six")
    browser.wait_for("answer", "one two three four five six")
    said.finish()
    browser.wait_for("state", "done")
    # It is over: what follows the end marker is nothing, and no error.
    browser.goto(url)
    again = browser.until("state", "streaming 200")
    assert again["answer"][-1] == "one two three four five six"
