"""What the sync and the async client share: settings, and calls made ready to be carried out."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from typing import Any, NamedTuple, TypeVar, Union
from urllib.parse import quote

from .call import Call
from .errors import APIError, frame_error
from .feed import Feed, Resume, open_feed
from .models import Object, build
from .policy import DEFAULT_TIMEOUT, Timeout, timeout_of
from .request import Options, Settings, stream_path
from .wire import new_session

__all__ = [
    "UNSET",
    "BaseClient",
    "Messages",
    "Plan",
    "TimeoutLike",
    "Unset",
    "body_of",
    "object_of",
]


class Unset:
    """The type of :data:`UNSET`."""

    def __repr__(self) -> str:
        return "UNSET"


#: Stands where a caller gave nothing, and the client's own setting counts.
UNSET = Unset()

TimeoutLike = Union[Timeout, float, None, Unset]
T = TypeVar("T", bound=Object)

Messages = Iterable[Union[Mapping[str, Any], Object]]

_IDLE_CONNECTIONS = 100


class Plan(NamedTuple):
    """A stream to be opened: its call, and the calls that its id makes possible later."""

    call: Call
    resume: Callable[[str], Resume] | None
    stop: Callable[[str], Call]
    n: int = 1
    after: int = 0

    def open(self) -> Feed:
        """Carry the call out; see :func:`choreoai.feed.open_feed`."""
        return open_feed(self.call, self.resume, self.after)


class BaseClient:
    """Settings and the connection pool; see :class:`choreoai.ChoreoAI` for the arguments."""

    def __init__(
        self,
        api_key: str | None = None,
        base_url: str | None = None,
        *,
        timeout: Timeout | float | None = DEFAULT_TIMEOUT,
        max_retries: int = 2,
        resumable: bool = False,
        default_headers: Mapping[str, str] | None = None,
    ) -> None:
        if max_retries < 0:
            raise ValueError("max_retries must be 0 or more")
        self._settings = Settings(api_key, base_url, default_headers)
        self._timeout = timeout_of(timeout)
        self._max_retries = max_retries
        self._resumable = resumable
        self._session = new_session(_IDLE_CONNECTIONS)

    @property
    def api_key(self) -> str | None:
        """The key that is sent, None when there is none."""
        return self._settings.api_key

    @property
    def base_url(self) -> str:
        """The address that all paths are appended to, with its version."""
        return self._settings.base_url

    @property
    def max_retries(self) -> int:
        """How often a call is tried again before the first byte of an answer."""
        return self._max_retries

    @property
    def timeout(self) -> Timeout:
        """The limits of a call that names none itself."""
        return self._timeout

    def __repr__(self) -> str:
        return f"{type(self).__name__}(base_url={self.base_url!r})"

    def _call(
        self,
        method: str,
        path: str,
        body: Any = None,
        options: Options | None = None,
        max_retries: int | None = None,
    ) -> Call:
        request = self._settings.request(method, path, body, options)
        timeout = self._timeout if options is None else options.timeout
        retries = self._max_retries if max_retries is None else max_retries
        return Call(self._session, request, timeout, retries)

    def _options(
        self,
        timeout: TimeoutLike,
        headers: Mapping[str, str] | None,
        query: Mapping[str, str] | None,
    ) -> Options:
        limits = self._timeout if isinstance(timeout, Unset) else timeout_of(timeout)
        return Options(limits, dict(headers or {}), dict(query or {}))

    def _stream_plan(self, body: dict[str, Any], options: Options, resumable: bool) -> Plan:
        """Return how to have *body* answered as a stream."""
        headers = {"Accept": "text/event-stream", **options.headers}
        if resumable:
            headers.setdefault("Choreo-Resumable", "1")
            # A retry then joins the stream that the lost answer belonged to.
            headers.setdefault("Idempotency-Key", secrets.token_hex(16))
        sent = Options(options.timeout, headers, options.query)
        call = self._call("POST", "/chat/completions", {**body, "stream": True}, sent)
        n = body.get("n")
        choices = n if isinstance(n, int) and n > 0 else 1
        resume = partial(self._resume, options) if resumable else None
        return Plan(call, resume, self._stop_call, choices)

    def _resume_plan(self, stream_id: str, after: int, options: Options) -> Plan:
        """Return how to get what follows event *after* of a stream that exists."""
        call = self._resume_call(stream_id, options, self._max_retries, after)
        return Plan(call, partial(self._resume, options), self._stop_call, after=after)

    def _resume(self, options: Options, stream_id: str) -> Resume:
        # No retries in the call: the feed counts its tries from one event to the next.
        return partial(self._resume_call, stream_id, options, 0)

    def _resume_call(self, stream_id: str, options: Options, max_retries: int, after: int) -> Call:
        headers = {**options.headers, "Accept": "text/event-stream", "Last-Event-ID": str(after)}
        sent = Options(options.timeout, headers, options.query)
        return self._call("GET", stream_path(stream_id), None, sent, max_retries)

    def _stop_call(self, stream_id: str) -> Call:
        return self._call("DELETE", stream_path(stream_id))

    def _models_call(self, model: str | None = None) -> Call:
        path = "/models" if model is None else "/models/" + quote(model, safe="")
        return self._call("GET", path)


def object_of(kind: type[T], value: Any) -> T:
    """Return *value*, a decoded answer, as a *kind*; raises APIError when it is none."""
    if isinstance(value, dict) and value.get("error"):
        raise frame_error(value)  # some servers say so with status 200
    if not isinstance(value, dict):
        raise APIError(f"the server's answer is no {kind.__name__}", body=value)
    return build(kind, value)


def body_of(
    model: str, messages: Messages, parameters: dict[str, Any], extra: Mapping[str, Any] | None
) -> dict[str, Any]:
    """Return the JSON body of a completion request."""
    return {"model": model, "messages": list(messages), **parameters, **(extra or {})}
