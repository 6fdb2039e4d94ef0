"""Who may call: API keys, or without any, this machine alone."""

from __future__ import annotations

from .request import Environ
from .settings import Settings

__all__ = ["Gate"]


class Gate:
    """Decides about callers; reads ``settings.api_keys_file`` when it is made.

    Raises ConfigurationError when that file cannot be used.
    """

    def __init__(self, settings: Settings) -> None:
        raise NotImplementedError

    @property
    def has_keys(self) -> bool:
        """Whether callers must present an API key."""
        raise NotImplementedError

    def admit(self, environ: Environ) -> str:
        """Return the id of the caller's key, safe to log; ``""`` without keys.

        Raises AuthenticationError (401), or HostNotAllowed when there are no keys and the
        request may come from another machine.
        """
        raise NotImplementedError
