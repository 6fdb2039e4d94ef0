"""Chat chunks read from the bytes of an OpenAI-compatible stream."""

from __future__ import annotations

from ..chunks import Item


class OpenAIChunks:
    """Turns the event stream of ``POST /chat/completions``, split anywhere, into items.

    *finished* is true once the stream said that it is complete: every choice has its
    finish, or ``[DONE]`` came after content.
    """

    finished: bool = False

    def __init__(self, n: int = 1, max_event_bytes: int = 8 * 1024 * 1024) -> None:
        raise NotImplementedError

    def receive_data(self, data: bytes) -> list[Item]:
        """Take the next bytes; return the items that they complete, in order.

        Raises UpstreamInvalid for what is no chunk and the provider's own error for an
        ``error`` event; what came before the failure is returned first, and the next call
        raises.
        """
        raise NotImplementedError

    def close(self) -> None:
        """Say that the bytes have ended; raises UpstreamTruncated when it was too early."""
        raise NotImplementedError
