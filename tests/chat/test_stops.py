"""Stop strings, across any boundaries between pieces of text."""

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
    """Check after each character whether a stop string is complete."""
    for end in range(1, len(text) + 1):
        starts = [end - len(stop) for stop in stops if stop and text[:end].endswith(stop)]
        if starts:
            return text[: min(starts)], True
    return text, False


def cut(text: str, cuts: list[int]) -> list[str]:
    edges = sorted({0, len(text), *(at % (len(text) + 1) for at in cuts)})
    return [text[a:b] for a, b in pairwise(edges)]


TEXT = st.text("ab.", max_size=24)
STOPS = st.lists(st.text("ab.", max_size=5), max_size=4)


@given(TEXT, STOPS, st.lists(st.integers(0, 100), max_size=8))
@example("xabcdx", ["abcd", "c"], [3])  # the first to be complete wins, not the first to begin
@example("aab", ["aab", "ab", "b"], [1, 2])
@example("ababac", ["abac"], [2, 4])
@example("aaab", ["aab"], [1, 2, 3])
def test_pieces_do_not_change_the_shown_text(text: str, stops: list[str], cuts: list[int]) -> None:
    assert shown(cut(text, cuts), stops) == expected(text, stops)


@given(TEXT, STOPS, st.lists(st.integers(0, 100), max_size=8))
def test_possible_stop_string_is_held_back(text: str, stops: list[str], cuts: list[int]) -> None:
    """No more than needed: held text is always the start of a stop string."""
    matcher = StopMatcher(stops)
    fed = so_far = ""
    for piece in cut(text, cuts):
        fed += piece
        so_far += matcher.feed(piece)
        if matcher.matched:
            return
        for stop in filter(None, stops):
            for length in range(1, len(stop)):
                if fed.endswith(stop[:length]):
                    assert len(so_far) <= len(fed) - length
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
def test_text_is_cut_before_the_stop_string(pieces: list[str], stops: list[str], text: str) -> None:
    assert shown(pieces, stops)[0] == text


def test_longest_stop_string_may_stay_incomplete() -> None:
    stop = "a" * (LONGEST_STOP - 1) + "b"
    text = "a" * 20_000
    assert shown([text[:5000], *text[5000:]], [stop]) == (text, False)
    assert shown([*text, "b"], [stop]) == (text[LONGEST_STOP - 1 :], True)


def test_longer_stop_string_is_rejected_and_source_closed() -> None:
    Limited(Script(), ["a" * LONGEST_STOP])
    script = Script()
    with pytest.raises(InvalidRequest) as raised:
        Limited(script, ["a" * (LONGEST_STOP + 1)])
    assert raised.value.param == "stop"
    assert script.closed.is_set()
