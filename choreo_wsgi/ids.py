"""Random ids and digests that do not release the GIL, for callers that need thousands.

``os.urandom`` releases the GIL, and so does hashlib for more than 2,047 bytes (HASHLIB_GIL_MINSIZE,
less one).  Each release wakes the loop's thread, too late to run, and resets its wait for the
GIL.  A request with a thousand tool calls would so hold up all other streams until it is done
(``python -m bench.hostile many calls`` shows it).
"""

from __future__ import annotations

import os
from collections import deque
from hashlib import sha256
from typing import TypeVar

_SIZE = 32
#: Ids per call of ``os.urandom``.
_BATCH = 128
_HASHED_AT_ONCE = 2047

V = TypeVar("V")

_pool: deque[str] = deque()
if hasattr(os, "register_at_fork"):  # two processes must not share ids
    os.register_at_fork(after_in_child=_pool.clear)


def random_hex() -> str:
    """Return 32 unpredictable hexadecimal digits, as ``secrets.token_hex(16)`` does."""
    while True:
        try:
            return _pool.pop()
        except IndexError:
            digits = os.urandom(_BATCH * _SIZE // 2).hex()
            _pool.extend(digits[at : at + _SIZE] for at in range(0, len(digits), _SIZE))


def keep(values: dict[str, V], value: V) -> bytes:
    """Add *value* to *values* under a new name, which is returned."""
    values[(name := random_hex())] = value
    return name.encode()


def digest(text: bytes | bytearray) -> bytes:
    """Return the SHA-256 of *text*."""
    hashed, view = sha256(), memoryview(text)
    for at in range(0, len(text), _HASHED_AT_ONCE):
        hashed.update(view[at : at + _HASHED_AT_ONCE])
    return hashed.digest()
