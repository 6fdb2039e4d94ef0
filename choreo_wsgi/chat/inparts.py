"""Encodes a large value in parts: other threads run between two of them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any

from .items import FEW, SCALARS, has_many

#: Characters of a string from which on it is not encoded together with others.
_SHORT = 256


def parts(
    value: Any, encode: Callable[[Any], Iterable[bytes | memoryview]]
) -> Iterator[bytes | memoryview]:
    """Yield *value* as JSON; *encode* returns the bytes of parts with few values."""
    if not has_many(value):
        yield from encode(value)
        return
    is_object = isinstance(value, dict)
    before = b"{" if is_object else b"["
    for run, is_small in _runs(value.items() if is_object else ((None, one) for one in value)):
        yield before
        before = b","
        if is_small:
            yield from _inside(encode(dict(run) if is_object else [one for _, one in run]))
            continue
        name, element = run[0]
        if is_object:
            yield from (*encode(name), b":")
        yield from parts(element, encode)
    yield b"}" if is_object else b"]" if before == b"," else b"[]"


def _runs(members: Iterable[tuple[Any, Any]]) -> Iterator[tuple[list[tuple[Any, Any]], bool]]:
    """Yield *members* in runs, and whether they are small: about FEW values together, or one.

    One by one the small ones would take ten times as long.
    """
    run: list[tuple[Any, Any]] = []
    count = 0
    for name, element in members:
        more = FEW if type(name) is str and len(name) >= _SHORT else _count(element)
        if more < FEW:
            run.append((name, element))
            count += more
            if count < FEW:
                continue
        if run:
            yield run, True
            run, count = [], 0
        if more >= FEW:
            yield [(name, element)], False
    if run:
        yield run, True


def _count(value: Any) -> int:
    """Return the number of values in *value*, at most FEW: also if it has a long string."""
    values = [value]
    for one in values:  # the list grows meanwhile by the values within
        if type(one) is str:
            if len(one) >= _SHORT:
                return FEW
        elif isinstance(one, (dict, list)):
            values += (*one, *one.values()) if isinstance(one, dict) else one
            if len(values) >= FEW:
                return FEW
        elif type(one) not in SCALARS:  # an iterator
            return FEW
    return len(values)


def _inside(encoded: Iterable[bytes | memoryview]) -> Iterator[bytes | memoryview]:
    """Yield the parts of an array or object without its brackets; there may be long ones."""
    rest = iter(encoded)
    part = next(rest)[1:]
    for following in rest:
        yield part
        part = following
    yield part[:-1]
