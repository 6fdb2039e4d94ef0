"""The limit of bytes of what an answer repeats."""

from __future__ import annotations

from ..errors import UpstreamInvalid

_MOST = 1024 * 1024


class RepeatedBytes:
    """Counts the bytes of *what* in an answer, which are sent more than once, and *each* more."""

    def __init__(self, what: str, each: int = 0) -> None:
        self._what = what
        self._each = each
        self._count = 0

    def add(self, size: int) -> None:
        """Count one of *size* bytes; raise UpstreamInvalid if they are more than 1 MiB now."""
        self._count += size + self._each
        if self._count > _MOST:
            raise UpstreamInvalid(f"the provider sent more than 1 MiB of {self._what}")


def signed_thoughts() -> RepeatedBytes:
    """Return the limit for signed thoughts, which are repeated up to five times."""
    return RepeatedBytes("signed thoughts", each=1024)
