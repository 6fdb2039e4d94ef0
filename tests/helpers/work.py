"""The work (calls of functions) and the memory that a piece of code needs, without a clock.

The results do not depend on tests that ran before: the cyclic collector is off meanwhile, which
would run the finalizers of objects that other tests have left behind.
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
    """Collect the garbage of other tests, and then disable the collector."""
    gc.collect()
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()


def calls(function: Callable[[], object]) -> int:
    """Return the number of calls of functions, in Python and in C, while *function* runs."""
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
    """Bytes allocated by Python since the measurement began."""

    #: The peak, set when the measurement is over.
    peak = 0

    @property
    def now(self) -> int:
        """The bytes allocated now."""
        return tracemalloc.get_traced_memory()[0]


@contextlib.contextmanager
def traced() -> Iterator[Memory]:
    """Measure the memory that the body of the ``with`` statement allocates."""
    memory = Memory()
    gc.collect()
    tracemalloc.start()
    try:
        yield memory
        memory.peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
