"""One request of the API: sent, tried again where that is right, and cancelled on demand."""

from __future__ import annotations

import json
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import requests

from choreo_wsgi.upstream.framing import FramingError

from ..errors import APIConnectionError, APIError, APITimeoutError, status_error
from ..policy import Options, backoff, retry_delay
from ..transports.base import Cut, Stalled, Unreachable
from .transport import AsyncAnswer, AsyncCancel, AsyncTransport

_MOST_OF_AN_ERROR = 1024 * 1024
_MOST_OF_AN_ANSWER = 256 * 1024 * 1024


class AsyncCall:
    """A prepared *request*, to be carried out once in the end.

    It is tried up to ``options.max_retries`` times more as long as nothing of the answer came:
    after connection errors, and after the statuses of :func:`choreoai.policy.retry_delay`.
    A request that was sent and not answered in time is not repeated: it may be at work.

    An answer that is a stream has *n* choices.  If the server can resume it, *resume* makes
    from its id and the number of an event the call for what follows, and *stop* ends it there.
    """

    def __init__(
        self,
        transport: AsyncTransport,
        request: requests.PreparedRequest,
        options: Options,
        n: int = 1,
        resume: Callable[[str, int], AsyncCall] | None = None,
        stop: Callable[[str], Awaitable[None]] | None = None,
    ) -> None:
        self.timeout = options.timeout
        self.n = n
        self.resume = resume
        self.stop = stop
        self.retries = 0
        self._transport = transport
        self._request = request
        self._max_retries = options.max_retries

    async def open(self, cancel: AsyncCancel) -> AsyncAnswer:
        """Return the answer, its body unread.

        Raises APIStatusError, APIConnectionError, APITimeoutError and Cancelled.
        """
        while True:
            failure: APIError
            try:
                answer = await self._send(cancel)
            except (Unreachable, Cut) as error:
                failure = _connection_error(error, self._request.url or "")
                delay = backoff(self.retries)
                if isinstance(error, Unreachable) and error.hopeless:
                    raise failure from error
            else:
                if 200 <= answer.status < 300:
                    return answer
                failure = await self.refusal(answer)
                again = retry_delay(answer.status, answer.headers, self.retries, time.time())
                if again is None:
                    raise failure
                delay = again
            if self.retries >= self._max_retries:
                raise failure
            self.retries += 1
            await cancel.pause(delay)

    async def fetch(self) -> tuple[AsyncAnswer, bytes]:
        """Return the answer and its body.  Raises what :meth:`open` raises."""
        answer = await self.open(AsyncCancel())
        try:
            return answer, await self.read(answer)
        finally:
            answer.close()

    async def read(self, answer: AsyncAnswer, limit: int | None = None) -> bytes:
        """Return the whole body of *answer*.

        Raises what :meth:`blocks` raises, and APIConnectionError for a body that is longer than
        *limit*, or than any answer.
        """
        body = bytearray()
        limit = limit or _MOST_OF_AN_ANSWER
        async for block in self.blocks(answer):
            body += block
            if len(body) > limit:
                raise APIConnectionError(f"the answer is longer than {limit} bytes")
        return bytes(body)

    async def blocks(self, answer: AsyncAnswer) -> AsyncIterator[bytes]:
        """Yield the body of *answer* as it comes.

        The first bytes are due as the call's timeout says, each further piece its idle time
        after the last.  Raises APITimeoutError, APIConnectionError and Cancelled.
        """
        first, idle = self.timeout.first_byte, self.timeout.idle
        deadline = None if first is None else answer.started + first
        try:
            while block := await answer.receive(deadline):
                yield block
                deadline = None if idle is None else time.monotonic() + idle
        except Stalled:
            raise APITimeoutError("the answer stopped coming") from None
        except Cut as error:
            raise APIConnectionError(f"the answer broke off: {error}") from error

    async def refusal(self, answer: AsyncAnswer, start: bytes = b"") -> APIError:
        """Return the error for an *answer*, whose body began with *start*; closes it."""
        body: Any = None
        try:
            body = start + await self.read(answer, _MOST_OF_AN_ERROR)
            body = json.loads(body)
        except APIConnectionError:
            pass  # the status alone says enough
        except (ValueError, RecursionError):
            body = body.decode("utf-8", "replace")
        finally:
            answer.close()
        if not start or (isinstance(body, dict) and body.get("error")):
            return status_error(answer.status, answer.headers, body)
        kind = answer.headers.get("content-type", "a document")
        return APIError(f"the server answered with {kind!r} where a stream was asked", body=body)

    async def _send(self, cancel: AsyncCancel) -> AsyncAnswer:
        try:
            return await self._transport.send(self._request, self.timeout, cancel)
        except Stalled:
            limit = self.timeout.first_byte
            raise APITimeoutError(f"no answer within {limit} seconds") from None
        except FramingError as error:
            raise APIError(f"the server's answer cannot be read: {error}") from error


def _connection_error(error: Unreachable | Cut, url: str) -> APIConnectionError:
    """Return our error for a transport's, with its cause in few words."""
    where = "/".join(url.split("/", 3)[:3])
    if isinstance(error, Unreachable) and error.timed_out:
        failure: APIConnectionError = APITimeoutError(f"could not connect to {where}: {error}")
    else:
        failure = APIConnectionError(f"no connection to {where}: {error}")
    failure.__cause__ = error.__cause__ or error
    return failure
