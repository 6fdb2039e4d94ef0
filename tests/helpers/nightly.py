"""The number of examples of property tests: many more under ``make nightly``."""

from __future__ import annotations

import os

#: Whether this is the nightly run.
NIGHTLY = bool(os.environ.get("CHOREO_NIGHTLY"))


def examples(usual: int, nightly: int = 0) -> int:
    """Return *usual*, or in the nightly run *nightly*, by default 25 times the usual."""
    return (nightly or 25 * usual) if NIGHTLY else usual
