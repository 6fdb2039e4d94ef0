"""Stop strings, wherever the pieces of the text are cut."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from scripted_provider import Script

from choreo_wsgi.chat.choices import LONGEST_STOP, Limited, StopMatcher
from choreo_wsgi.errors import InvalidRequest


def shown(pieces: list[str], stops: list[str]) -> tuple[str, bool]:
    matcher = StopMatcher(stops)
    texts = []
    for piece in pieces:
        texts.append(matcher.feed(piece))
        if matcher.matched:
            return "".join(texts), True
    return "".join([*texts, matcher.flush()]), False


def expected(text: str, stops: list[str]) -> tuple[str, bool]:
    """Look behind each character in turn whether a stop string is complete."""
    for end in range(1, len(text) + 1):
        starts = [end - len(stop) for stop in stops if stop and text[:end].endswith(stop)]
        if starts:
            return text[: min(starts)], True
    return text, False


def cut(text: str, places: list[int]) -> list[str]:
    edges = sorted({0, len(text), *(place % (len(text) + 1) for place in places)})
    return [text[a:b] for a, b in pairwise(edges)]


FEW = st.text("ab.", max_size=24)
STOPS = st.lists(st.text("ab.", max_size=5), max_size=4)


@given(FEW, STOPS, st.lists(st.integers(0, 100), max_size=8))
@example("xabcdx", ["abcd", "c"], [3])  # complete first wins, not begun first
@example("aab", ["aab", "ab", "b"], [1, 2])
@example("ababac", ["abac"], [2, 4])
@example("aaab", ["aab"], [1, 2, 3])
def test_any_cutting_shows_the_same(text: str, stops: list[str], places: list[int]) -> None:
    assert shown(cut(text, places), stops) == expected(text, stops)


@given(FEW, STOPS, st.lists(st.integers(0, 100), max_size=8))
def test_what_is_shown_is_never_taken_back(text: str, stops: list[str], places: list[int]) -> None:
    """Whatever comes next: no piece shows a beginning of what may become a stop string."""
    matcher = StopMatcher(stops)
    fed = so_far = ""
    for piece in cut(text, places):
        fed += piece
        so_far += matcher.feed(piece)
        if matcher.matched:
            return
        for stop in filter(None, stops):
            for begun in range(1, len(stop)):
                if fed.endswith(stop[:begun]):
                    assert len(so_far) <= len(fed) - begun
        # Nor is anything held back without need.
        held = fed[len(so_far) :]
        assert not held or any(stop.startswith(held) for stop in stops)


@pytest.mark.parametrize(
    ("pieces", "stops", "text"),
    [
        (["Hello", " wor", "ld"], ["world"], "Hello "),
        (["Hello", " wor", "d"], ["world"], "Hello word"),
        (["a", "\n", "\n", "b"], ["\n\n"], "a"),
        (["stop"], ["stop"], ""),
        (["sto"], ["stop"], "sto"),
        (["日本", "語🌍"], ["本語"], "日"),
        (["abc"], [], "abc"),
        (["abc"], [""], "abc"),
        (["", "", "ab", ""], ["b"], "a"),
    ],
)
def test_examples(pieces: list[str], stops: list[str], text: str) -> None:
    assert shown(pieces, stops)[0] == text


def test_the_longest_stop_string_that_is_never_completed() -> None:
    stop = "a" * (LONGEST_STOP - 1) + "b"
    text = "a" * 20_000
    assert shown([text[:5000], *text[5000:]], [stop]) == (text, False)
    assert shown([*text, "b"], [stop]) == (text[LONGEST_STOP - 1 :], True)


def test_a_longer_one_is_refused_and_lets_the_source_go() -> None:
    script = Script()
    with pytest.raises(InvalidRequest) as raised:
        Limited(script, ["a" * (LONGEST_STOP + 1)])
    assert raised.value.param == "stop"
    assert script.closed.is_set()
