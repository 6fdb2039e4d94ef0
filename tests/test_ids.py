"""Ids are random, also behind a fork, and the system is seldom asked for them."""

from __future__ import annotations

import hashlib
import os
import re

import pytest

from choreo_wsgi.ids import digest, random_hex


def test_they_are_digits_and_differ() -> None:
    drawn = [random_hex() for _ in range(1_000)]
    assert len({*drawn}) == 1_000
    assert all(re.fullmatch("[0-9a-f]{32}", one) for one in drawn)
    # Each digit is each of sixteen now and then: nothing of them is a counter.
    assert {len({*column}) for column in zip(*drawn, strict=True)} == {16}


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs os.fork")
def test_a_process_and_its_child_draw_others() -> None:
    random_hex()  # more are there already
    inside, outside = os.pipe()
    child = os.fork()
    if not child:
        os.write(outside, "".join(random_hex() for _ in range(128)).encode())
        os._exit(0)
    os.close(outside)
    with os.fdopen(inside, encoding="ascii") as file:
        text = file.read()
    os.waitpid(child, 0)
    theirs = {text[at : at + 32] for at in range(0, len(text), 32)}
    assert len(theirs) == 128
    assert theirs.isdisjoint({random_hex() for _ in range(256)})


def test_a_thousand_marks_ask_the_system_a_few_times(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[int] = []
    draw = os.urandom
    monkeypatch.setattr(os, "urandom", lambda size: asked.append(size) or draw(size))
    assert len({random_hex() for _ in range(1_000)}) == 1_000
    assert len(asked) <= 8


@pytest.mark.parametrize("size", [0, 2047, 2048])
def test_a_digest_is_that_of_the_whole(size: int) -> None:
    text = bytearray(os.urandom(size))
    assert digest(text) == hashlib.sha256(text).digest()
