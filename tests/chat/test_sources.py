"""Sources built from iterables and from other sources."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterable, Iterator
from itertools import pairwise
from typing import Any

import harness
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scripted_provider import Script

from choreo_wsgi.chat.choices import Interleaved, Limited, StopMatcher
from choreo_wsgi.chat.items import Delta, Finish, Item, ToolCall, Usage
from choreo_wsgi.chat.request import ChatRequest
from choreo_wsgi.chat.source import Source, from_deltas
from choreo_wsgi.errors import ProviderError, UpstreamTruncated
from choreo_wsgi.providers.base import Provider
from choreo_wsgi.settings import Settings


class Listed(Source):
    """Returns each list in turn, or raises an exception given instead of a list."""

    def __init__(self, *steps: list[Item] | Exception, usage: Usage | None = None) -> None:
        self._steps = list(steps)
        self.usage = usage
        self.closed = 0

    def receive(self, timeout: float) -> list[Item]:
        assert not self.closed, "receive was called after close"
        step = self._steps.pop(0)
        if isinstance(step, Exception):
            raise step
        self.ended = not self._steps
        return step

    def close(self) -> None:
        self.closed += 1


class Piped(Source):
    """A source that returns each byte read from a pipe as a text delta."""

    def __init__(self) -> None:
        self._read, self._write = os.pipe()
        os.set_blocking(self._read, False)
        self.timeouts: list[float] = []

    def write(self, text: str) -> None:
        os.write(self._write, text.encode())

    def close_writer(self) -> None:
        os.close(self._write)
        self._write = -1

    def receive(self, timeout: float) -> list[Item]:
        self.timeouts.append(timeout)
        try:
            data = os.read(self._read, 1)
        except BlockingIOError:
            return []
        if not data:
            self.ended = True
            return [Finish()]
        return [Delta(data.decode())]

    def fileno(self) -> int | None:
        return self._read

    def close(self) -> None:
        for descriptor in (self._read, self._write):
            if descriptor >= 0:
                os.close(descriptor)
        self._read = self._write = -1


def drain(source: Source) -> list[Item]:
    items: list[Item] = []
    for _ in range(1000):
        items += source.receive(0.05)
        if source.ended:
            return items
    pytest.fail("the source does not end")


def texts(items: Iterable[Item], index: int = 0) -> str:
    return "".join(item.text for item in items if isinstance(item, Delta) and item.index == index)


def finishes(items: Iterable[Item]) -> list[tuple[int, str]]:
    return sorted((item.index, item.reason) for item in items if isinstance(item, Finish))


# -- from_deltas ------------------------------------------------------------------------------


def test_iterable_is_read_lazily_and_finished() -> None:
    made: list[str] = []

    def deltas() -> Iterator[Item]:
        for word in ("a", "b"):
            made.append(word)
            yield Delta(word)

    source = from_deltas(deltas())
    assert made == []
    assert source.receive(0) == [Delta("a")]
    assert made == ["a"] and not source.ended
    assert source.receive(0) == [Delta("b")]
    assert source.receive(0) == [Finish("stop")] and source.ended
    assert source.receive(0) == []


def test_every_choice_of_an_iterable_has_one_finish() -> None:
    items: list[Item] = [Delta("a"), Delta("b", 1), Finish("length", 1), Usage(1, 2), Delta("c", 2)]
    assert drain(from_deltas(items)) == [*items, Finish("stop", 0), Finish("stop", 2)]
    assert drain(from_deltas([])) == [Finish("stop")]
    assert drain(from_deltas([Finish("length")])) == [Finish("length")]


def test_close_closes_the_generator_once() -> None:
    closed: list[int] = []

    def deltas() -> Iterator[Item]:
        try:
            yield Delta("a")
            yield Delta("b")
        finally:
            closed.append(1)

    source = from_deltas(deltas())
    source.receive(0)
    source.close()
    source.close()
    assert closed == [1]
    assert source.ended and source.receive(0) == []
    from_deltas([Delta("a")]).close()  # a list has nothing to close


def test_failed_generator_is_not_finished() -> None:
    """A generator that raised looks exhausted; no ``stop`` finish may be added."""

    def deltas() -> Iterator[Item]:
        yield Delta("a")
        raise ProviderError("no")

    source = from_deltas(deltas())
    assert source.receive(0) == [Delta("a")]
    with pytest.raises(ProviderError):
        source.receive(0)
    assert source.receive(0) == []


# -- token limit ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("limit", "text", "reason"),
    [(0, "", "length"), (1, "a", "length"), (2, "ab", "length"), (3, "abc", "stop")],
)
def test_limited_cuts_after_limit_text_deltas(limit: int, text: str, reason: str) -> None:
    items = drain(Limited(from_deltas(map(Delta, "abc")), limit=limit))
    assert texts(items) == text
    assert finishes(items) == [(0, reason)]
    assert isinstance(items[-1], Finish)


def test_reached_limit_flushes_the_start_of_a_stop_string() -> None:
    items = drain(Limited(from_deltas(map(Delta, "abc")), ["bx"], limit=2))
    assert texts(items) == "ab" and finishes(items) == [(0, "length")]


def test_limited_counts_only_text_deltas() -> None:
    call = Delta(tool_calls=[ToolCall(0, "c", "f", "{}")])
    items = [Delta(reasoning="r"), Delta("a"), call, Delta(reasoning="r"), Finish("tool_calls")]
    assert drain(Limited(from_deltas(items), limit=1)) == items


def test_each_choice_has_its_own_limit() -> None:
    items = [Delta(text, index) for text in "abc" for index in (0, 1)]
    source = Listed(*([item] for item in items), [], [], usage=Usage(1, 4))
    received = drain(Limited(source, limit=2, choices=2))
    assert (texts(received, 0), texts(received, 1)) == ("ab", "ab")
    assert finishes(received) == [(0, "length"), (1, "length")]
    assert source.closed


def test_reached_limit_closes_the_source_and_reports_usage() -> None:
    source = Listed([Delta("a")], [Delta("b")], [Delta("never")], usage=Usage(3, 2))
    limited = Limited(source, limit=1)
    assert drain(limited) == [Delta("a"), Finish("length"), Usage(3, 2)]
    assert source.closed
    assert limited.usage == Usage(3, 2)


def test_usage_is_reported_after_a_stop_string() -> None:
    source = Listed([Delta("ab.")], [Delta("never")], usage=Usage(3, 2))
    assert drain(Limited(source, ["."], 5)) == [Delta("ab"), Finish("stop"), Usage(3, 2)]


def test_usage_after_the_finish_is_forwarded() -> None:
    source = Listed([Delta("a")], [Finish("stop")], [Usage(1, 1)])
    assert drain(Limited(source, ["x"])) == [Delta("a"), Finish("stop"), Usage(1, 1)]


# -- stop strings ----------------------------------------------------------------------------------


def test_stop_string_across_deltas_is_cut_and_partial_one_flushed() -> None:
    items = drain(Limited(from_deltas(map(Delta, ["one ", "tw", "o th", "ree"])), ["two"]))
    assert items == [Delta("one "), Finish("stop")]
    items = drain(Limited(from_deltas(map(Delta, ["one ", "tw"])), ["two"]))
    assert items == [Delta("one "), Delta("tw"), Finish("stop")]


def test_stop_strings_apply_only_to_text() -> None:
    call = Delta(tool_calls=[ToolCall(0, "c", "f", '{"a":"END"}')])
    items = [Delta(reasoning="END"), call, Delta(refusal="END"), Finish("tool_calls")]
    assert drain(Limited(from_deltas(items), ["END"])) == items


def test_only_usage_follows_a_stop_string() -> None:
    after = [Delta("x"), Delta(tool_calls=[ToolCall(0, "c")]), Finish("length"), Usage(1, 1)]
    source = Listed([Delta("a."), *after], [Delta("never")])
    assert drain(Limited(source, ["."])) == [Delta("a"), Finish("stop"), Usage(1, 1)]


def test_each_choice_stops_separately() -> None:
    steps: list[list[Item]] = [[Delta("a.")], [Delta("b", 1)], [Delta("c")], [Delta("d.e", 1)], []]
    source = Listed(*steps, [Delta("never")])
    items = drain(Limited(source, ["."], choices=2))
    assert (texts(items, 0), texts(items, 1)) == ("a", "bd")
    assert finishes(items) == [(0, "stop"), (1, "stop")]


@given(
    st.text("ab.", max_size=20),
    st.lists(st.text("ab.", min_size=1, max_size=4), min_size=1, max_size=4),
    st.lists(st.integers(0, 20), max_size=5),
)
def test_limited_agrees_with_the_stop_matcher(text: str, stops: list[str], at: list[int]) -> None:
    edges = sorted({0, len(text), *(min(place, len(text)) for place in at)})
    items = drain(Limited(from_deltas(Delta(text[a:b]) for a, b in pairwise(edges)), stops))
    matcher = StopMatcher(stops)
    shown = matcher.feed(text)
    assert texts(items) == (shown if matcher.matched else text)
    assert finishes(items) == [(0, "stop")]


# -- Interleaved ------------------------------------------------------------------------------


def test_interleaved_numbers_choices_and_sums_usage_last() -> None:
    several = [from_deltas([Delta(text), Usage(1, n)]) for n, text in enumerate(("a", "b", "c"))]
    source = Interleaved(several)
    items = drain(source)
    assert [texts(items, index) for index in range(3)] == ["a", "b", "c"]
    assert finishes(items) == [(0, "stop"), (1, "stop"), (2, "stop")]
    assert [item for item in items if isinstance(item, Usage)] == [Usage(3, 3)]
    assert items[-1] == Usage(3, 3) == source.usage


def test_interleaved_reports_no_usage_without_any() -> None:
    assert not [item for item in drain(Interleaved([from_deltas([])])) if isinstance(item, Usage)]


def test_items_before_a_failure_are_returned_first() -> None:
    ready = Listed([Delta("a")], [Delta("never")])
    failing = Listed(UpstreamTruncated("cut"))
    source = Interleaved([ready, failing])
    assert source.receive(1) == [Delta("a")]
    for _ in range(2):
        with pytest.raises(UpstreamTruncated):
            source.receive(1)
    source.close()
    assert ready.closed and failing.closed


def test_failure_without_items_is_raised_at_once() -> None:
    waiting, failing = Script(), Script()
    failing.say(ProviderError("no"))
    with pytest.raises(ProviderError):
        Interleaved([waiting, failing]).receive(0)


def test_close_closes_running_and_ended_sources() -> None:
    ended, running = Listed([Finish()]), Listed([Delta("a")], [Delta("b")], usage=Usage(5, 1))
    source = Interleaved([ended, running])
    source.receive(0)
    assert ended.closed == 1
    source.close()
    assert running.closed
    assert source.usage == Usage(5, 1)  # of the source that had not ended


def test_descriptors_are_polled_together() -> None:
    """The second becomes readable while the first is idle; no source is told to wait."""
    pipes = [Piped(), Piped(), Piped()]
    source = Interleaved(pipes)
    try:
        timer = threading.Timer(0.02, pipes[1].write, "b")
        timer.start()
        assert source.receive(harness.DEADLINE) == [Delta("b", 1)]
        timer.join()
        assert all(timeout == 0 for pipe in pipes for timeout in pipe.timeouts)
        pipes[2].write("c")
        pipes[0].write("a")
        assert source.receive(harness.DEADLINE) == [Delta("a"), Delta("c", 2)]
        for pipe in pipes:
            pipe.close_writer()
        assert finishes(drain(source)) == [(0, "stop"), (1, "stop"), (2, "stop")]
    finally:
        for pipe in pipes:
            pipe.close()


def test_source_without_descriptor_does_not_delay_the_others() -> None:
    class Silent(Source):
        timeouts: list[float] = []

        def receive(self, timeout: float) -> list[Item]:
            self.timeouts.append(timeout)
            if timeout:  # the other source becomes ready meanwhile
                ready.say("b")
            return []

    ready, silent = Script(), Silent()
    source = Interleaved([silent, ready])
    items = source.receive(harness.DEADLINE) or source.receive(harness.DEADLINE)
    assert items == [Delta("b", 1)]
    assert max(silent.timeouts) < 0.1
    # As the only running source it is given the whole timeout.
    ready.finish()
    source.receive(0)
    source.receive(5.0)
    assert max(silent.timeouts) == 5.0


def test_only_the_first_source_without_descriptor_waits() -> None:
    class Silent(Source):
        def receive(self, timeout: float) -> list[Item]:
            timeouts.append(timeout)
            return []

    timeouts: list[float] = []
    assert Interleaved([Silent(), Silent(), Silent()]).receive(1.0) == []
    assert timeouts == [0, 0, 0, timeouts[3], 0, 0] and 0 < timeouts[3] < 0.1


def test_receive_with_timeout_zero_returns_at_once() -> None:
    source = Interleaved([Script(), Script()])
    assert source.receive(0) == []
    pipes = [Piped(), Piped()]
    assert Interleaved(pipes).receive(0) == []
    for pipe in pipes:
        pipe.close()


# -- Provider._open ---------------------------------------------------------------------------


class Counting(Provider):
    """Opens a source for each request, and raises after *capacity* of them."""

    type = "counting"
    capacity = 99

    def __init__(self) -> None:
        super().__init__("counting", {}, Settings())
        self.opened: list[Listed] = []
        self.requests: list[ChatRequest] = []

    def open(self, request: ChatRequest) -> Source:
        if len(self.opened) == self.capacity:
            raise ProviderError("full")
        self.requests.append(request)
        self.opened.append(Listed([Delta("a b")], [Delta(" c")], [Finish(), Usage(2, 2)]))
        return self.opened[-1]


def request(**changes: Any) -> ChatRequest:
    return ChatRequest("m", [{"role": "user", "content": "x"}], {}, **changes)


def test_open_emulates_n_stop_and_max_tokens() -> None:
    provider = Counting()
    items = drain(provider._open(request(n=2, stop=("b",), max_tokens=5)))
    assert (texts(items, 0), texts(items, 1)) == ("a ", "a ")
    assert [opened.n for opened in provider.requests] == [1, 1]
    items = drain(provider._open(request(max_tokens=1)))
    assert texts(items) == "a b" and finishes(items) == [(0, "length")]


def test_open_leaves_native_parameters_to_the_provider() -> None:
    class Native(Counting):
        native = frozenset({"n", "stop", "max_tokens"})

    provider = Native()
    items = drain(provider._open(request(n=2, stop=("b",), max_tokens=0)))
    assert texts(items) == "a b c"
    assert [opened.n for opened in provider.requests] == [2]


def test_max_tokens_zero_opens_no_source() -> None:
    provider = Counting()
    items = drain(provider._open(request(n=2, max_tokens=0)))
    assert provider.opened == []
    assert finishes(items) == [(0, "length"), (1, "length")] and texts(items) == ""
    assert items[-1] == Usage(0, 0)


def test_failure_to_open_a_choice_closes_the_others() -> None:
    class Narrow(Counting):
        capacity = 2

    provider = Narrow()
    with pytest.raises(ProviderError):
        provider._open(request(n=3))
    assert [source.closed for source in provider.opened] == [1, 1]
