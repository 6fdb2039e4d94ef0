"""How much a test tries: the usual, or under ``make nightly`` many times that."""

from __future__ import annotations

import os

#: Whether this is the long run.
NIGHTLY = bool(os.environ.get("CHOREO_NIGHTLY"))


def examples(usual: int, nightly: int = 0) -> int:
    """Return *usual*, or in the long run *nightly*, by default 25 times the usual."""
    return (nightly or 25 * usual) if NIGHTLY else usual
