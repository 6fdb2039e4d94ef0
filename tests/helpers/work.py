"""How much work and how much memory something is, without a clock, and whoever ran before.

The cyclic collector is kept out: it runs when it likes, and ends the objects that other tests
have left behind, with their finalizers and what these call.
"""

from __future__ import annotations

import contextlib
import gc
import sys
import tracemalloc
from collections.abc import Callable, Iterator
from types import FrameType


@contextlib.contextmanager
def collected() -> Iterator[None]:
    """Collect what is left of others, and then nothing."""
    gc.collect()
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()


def calls(function: Callable[[], object]) -> int:
    """Return how many functions are called, Python's and C's, while *function* runs."""
    count = 0

    def note(frame: FrameType, event: str, argument: object) -> None:
        nonlocal count
        count += event in ("call", "c_call")

    before = sys.getprofile()
    with collected():
        sys.setprofile(note)
        try:
            function()
        finally:
            sys.setprofile(before)
    return count


class Memory:
    """Bytes that Python has allocated since the measurement began."""

    #: The most at a time, once the measurement is over.
    peak = 0

    @property
    def now(self) -> int:
        """Those that are held now."""
        return tracemalloc.get_traced_memory()[0]


@contextlib.contextmanager
def traced() -> Iterator[Memory]:
    """Measure what the body of the ``with`` statement allocates."""
    memory = Memory()
    gc.collect()
    tracemalloc.start()
    try:
        yield memory
        memory.peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
