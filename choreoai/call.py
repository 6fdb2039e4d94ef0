"""One request of the API: sent, tried again where that is right, and cancelled on demand.

Everything here blocks; :mod:`choreoai.background` keeps it off the threads that must not.
"""

from __future__ import annotations

import json
import threading
import time
from typing import Any

import requests

from choreo_wsgi.upstream.framing import FramingError

from .errors import APIConnectionError, APIError, APITimeoutError, status_error
from .exchange import Cancelled, Exchange, Reply
from .policy import Timeout, backoff, retry_delay
from .wire import Cut, Stalled

__all__ = ["Call"]

_MOST_OF_AN_ERROR = 1024 * 1024
_MOST_OF_AN_ANSWER = 256 * 1024 * 1024

# These say what is wrong with the configuration: another try finds it the same.
_HOPELESS = (
    requests.exceptions.SSLError,
    requests.exceptions.InvalidURL,
    requests.exceptions.InvalidSchema,
    requests.exceptions.MissingSchema,
    requests.exceptions.InvalidHeader,
)


class Call:
    """A prepared *request*, to be carried out once in the end.

    It is tried up to *max_retries* times more as long as nothing of the answer came:
    after connection errors, and after the statuses of :func:`choreoai.policy.retry_delay`.
    A request that was sent and not answered in time is not repeated: it may be at work.
    """

    def __init__(
        self,
        session: requests.Session,
        request: requests.PreparedRequest,
        timeout: Timeout,
        max_retries: int,
    ) -> None:
        self.timeout = timeout
        self._session = session
        self._request = request
        self._max_retries = max_retries
        self._lock = threading.Lock()
        self._cancelled = threading.Event()
        self._exchange: Exchange | None = None

    def cancel(self) -> None:
        """Give up, from any thread; see :meth:`choreoai.exchange.Exchange.cancel`."""
        with self._lock:
            self._cancelled.set()
            exchange = self._exchange
        if exchange is not None:
            exchange.cancel()

    def open(self) -> Reply:
        """Return the reply, its body unread.

        Raises APIStatusError, APIConnectionError, APITimeoutError and Cancelled.
        """
        attempt = 0
        while True:
            try:
                reply = self._send()
            except (requests.exceptions.RequestException, Cut) as error:
                failure: APIError = _connection_error(error, self._request.url)
                delay = backoff(attempt)
                if isinstance(error, _HOPELESS):
                    raise failure from error
            else:
                if 200 <= reply.status < 300:
                    return reply
                failure = self._status_error(reply)
                again = retry_delay(reply.status, reply.headers, attempt, time.time())
                if again is None:
                    raise failure
                delay = again
            if attempt == self._max_retries:
                raise failure
            attempt += 1
            if self._cancelled.wait(delay):
                raise Cancelled

    def fetch(self) -> Any:
        """Return the JSON of the reply.  Raises what :meth:`open` raises, and APIError."""
        reply = self.open()
        try:
            body = self._read(reply, _MOST_OF_AN_ANSWER)
        finally:
            reply.close()
        if not body:
            return None
        try:
            return json.loads(body)
        except (ValueError, RecursionError) as error:
            raise APIError("the server's answer is not JSON", body=_text(body)) from error

    def refuse(self, reply: Reply) -> APIError:
        """Return the error for a *reply* that succeeded but is no stream; closes it."""
        try:
            body = _json(self._read(reply, _MOST_OF_AN_ERROR))
        finally:
            reply.close()
        if isinstance(body, dict) and body.get("error"):
            return status_error(reply.status, _lower(reply), body)
        kind = reply.headers.get("content-type", "")
        return APIError(f"the server answered with {kind!r} where a stream was asked", body=body)

    def _send(self) -> Reply:
        exchange = Exchange()
        with self._lock:
            if self._cancelled.is_set():
                raise Cancelled
            self._exchange = exchange
        try:
            return exchange.send(self._session, self._request, self.timeout)
        except Stalled:
            limit = self.timeout.first_byte
            raise APITimeoutError(f"no answer within {limit} seconds") from None
        except FramingError as error:
            raise APIError(f"the server's answer cannot be read: {error}") from error

    def _status_error(self, reply: Reply) -> APIError:
        try:
            body = _json(self._read(reply, _MOST_OF_AN_ERROR))
        except APIConnectionError:
            body = None  # the status alone says enough
        finally:
            reply.close()
        return status_error(reply.status, _lower(reply), body)

    def _read(self, reply: Reply, limit: int) -> bytes:
        first = self.timeout.first_byte
        deadline = None if first is None else reply.started + first
        try:
            return reply.read(deadline, self.timeout.idle, limit)
        except Stalled:
            raise APITimeoutError("the answer stopped coming") from None
        except Cut as error:
            raise APIConnectionError(f"the answer broke off: {error}") from error


def _connection_error(error: Exception, url: str | None) -> APIConnectionError:
    """Return our error for one of requests', with its cause in few words."""
    root: BaseException = error
    while (deeper := root.__cause__ or root.__context__) is not None:
        root = deeper
    where = "/".join((url or "").split("/", 3)[:3])
    failure: APIConnectionError
    if isinstance(error, requests.exceptions.Timeout):
        failure = APITimeoutError(f"could not connect to {where} in time: {root}")
    else:
        failure = APIConnectionError(f"no connection to {where}: {root}")
    failure.__cause__ = error
    return failure


def _lower(reply: Reply) -> dict[str, str]:
    return {name.lower(): value for name, value in reply.headers.items()}


def _text(body: bytes) -> str:
    return body.decode("utf-8", "replace")


def _json(body: bytes) -> Any:
    try:
        return json.loads(body)
    except (ValueError, RecursionError):
        return _text(body)
