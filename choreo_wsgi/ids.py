"""Random digits and digests for whoever needs a thousand of them.

The system's random bytes, and hashlib for more than 2,047 bytes (HASHLIB_GIL_MINSIZE, less one),
let the interpreter go for a moment.  Done for each of a thousand calls, that wakes the loop each
time, too late, and keeps it from asking for its turn: other streams would wait until all is done
(``python -m bench.hostile many calls`` shows it).
"""

from __future__ import annotations

import os
from collections import deque
from hashlib import sha256

_SIZE = 32
#: How many are drawn at once.
_MANY = 128
_HELD = 2047

_drawn: deque[str] = deque()
if hasattr(os, "register_at_fork"):  # what two processes draw must differ
    os.register_at_fork(after_in_child=_drawn.clear)


def random_hex() -> str:
    """Return 32 hexadecimal digits that nobody can guess, as ``secrets.token_hex(16)`` does."""
    while True:
        try:
            return _drawn.pop()
        except IndexError:
            digits = os.urandom(_MANY * _SIZE // 2).hex()
            _drawn.extend(digits[at : at + _SIZE] for at in range(0, len(digits), _SIZE))


def digest(text: bytes | bytearray) -> bytes:
    """Return the SHA-256 of *text*."""
    hashed, view = sha256(), memoryview(text)
    for at in range(0, len(text), _HELD):
        hashed.update(view[at : at + _HELD])
    return hashed.digest()
