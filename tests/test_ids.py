"""Ids are random, also after a fork, and need few calls of ``os.urandom``."""

from __future__ import annotations

import hashlib
import os
import re

import pytest

from choreo_wsgi.ids import digest, random_hex


def test_ids_are_unique_hex_digits() -> None:
    drawn = [random_hex() for _ in range(1_000)]
    assert len({*drawn}) == 1_000
    assert all(re.fullmatch("[0-9a-f]{32}", one) for one in drawn)
    # Every position has all sixteen digits: no part is a counter.
    assert {len({*column}) for column in zip(*drawn, strict=True)} == {16}


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs os.fork")
def test_forked_child_draws_other_ids() -> None:
    random_hex()  # fills the pool
    inside, outside = os.pipe()
    child = os.fork()
    if not child:
        os.write(outside, "".join(random_hex() for _ in range(128)).encode())
        os._exit(0)
    os.close(outside)
    with os.fdopen(inside, encoding="ascii") as file:
        text = file.read()
    os.waitpid(child, 0)
    from_child = {text[at : at + 32] for at in range(0, len(text), 32)}
    assert len(from_child) == 128
    assert from_child.isdisjoint({random_hex() for _ in range(256)})


def test_thousand_ids_need_few_urandom_calls(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[int] = []
    draw = os.urandom
    monkeypatch.setattr(os, "urandom", lambda size: calls.append(size) or draw(size))
    assert len({random_hex() for _ in range(1_000)}) == 1_000
    assert len(calls) <= 8


@pytest.mark.parametrize("size", [0, 2047, 2048])
def test_digest_equals_sha256(size: int) -> None:
    text = bytearray(os.urandom(size))
    assert digest(text) == hashlib.sha256(text).digest()
