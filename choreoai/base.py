"""The common part of the sync and the async client: settings, requests, retry rules."""

from __future__ import annotations

import json
import os
import random
import re
import secrets
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple, TypeVar, Union
from urllib.parse import quote, urlsplit

import requests
from requests.structures import CaseInsensitiveDict

from choreo_wsgi.upstream.head import retry_after

from .errors import APIConnectionError, APIStatusError, ChoreoAIError
from .options import (
    NOT_GIVEN,
    REQUIRED,
    CallOptions,
    NotGiven,
    Timeout,
    TimeoutLike,
    json_default,
    timeout_of,
)
from .transports.base import Pool

_NAME = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")  # of a header: RFC 9110, section 5.6.2
_VERSIONED = re.compile(r"/v\d[^/]*(/|$)")
# 409 too: a server may send it because of a lock that is released a moment later.
_RETRIED = frozenset((408, 409, 429))
_LONGEST_WAIT = 60.0  # seconds

C = TypeVar("C", bound="BaseClient")


class Options(NamedTuple):
    """The options of a single call beside the API's own parameters."""

    timeout: Timeout
    max_retries: int
    resumable: bool
    headers: Mapping[str, str]
    query: Mapping[str, object]


class BaseClient:
    """A client of choreo-wsgi, and of any server with OpenAI's chat completions.

    *api_key* and *base_url* default to the environment's ``CHOREOAI_API_KEY`` and
    ``CHOREOAI_BASE_URL``, then to ``OPENAI_API_KEY`` and ``OPENAI_BASE_URL``, the address
    finally to ``http://localhost:8000``; its ``/v1`` may be left out.  *timeout* is a
    :class:`choreoai.Timeout`, or seconds for each of its parts.  *max_retries* is the number of
    retries of a call of whose answer nothing was received.  With *resumable* a stream that is
    cut reconnects and continues by itself, if the server supports it.  *default_headers* and
    *default_query* are sent with every call.  *proxies*, *verify* and *cert* are those of
    ``requests.Session``; they (and ``trust_env``) are taken from *http_client*, such a session,
    if it is passed.

    Use it as a context manager, or call ``close()``.  Raises ValueError for an API key that cannot
    be sent, and for an address without a valid host and port.
    """

    def __init__(
        self,
        api_key: str | None = None,
        base_url: str | None = None,
        *,
        timeout: TimeoutLike = NOT_GIVEN,
        max_retries: int = 2,
        resumable: bool = False,
        default_headers: Mapping[str, str] | None = None,
        default_query: Mapping[str, object] | None = None,
        proxies: Mapping[str, str] | None = None,
        verify: Union[bool, str, None] = True,
        cert: Union[str, tuple[str, str], None] = None,
        http_client: requests.Session | None = None,
    ) -> None:
        self.api_key = api_key or _setting("API_KEY")
        if not isinstance(self.api_key, str | None):
            raise TypeError("api_key must be a string")
        if self.api_key is not None and not re.fullmatch(r"[!-~]+", self.api_key):
            raise ValueError("the API key holds characters that are not allowed in a header")
        #: The address with the API's version, to which all paths are appended.
        self.base_url = _base(base_url or _setting("BASE_URL") or "http://localhost:8000")
        #: The number of retries of a call before the first byte of its answer.
        self.max_retries = _retries(max_retries)
        #: The time limits of a call without limits of its own.
        self.timeout = timeout_of(timeout)
        self.resumable = resumable
        self._headers = dict(default_headers or {})
        #: The query parameters of every call.
        self.default_query: dict[str, object] = dict(default_query or {})
        if not isinstance(http_client, requests.Session | None):
            raise TypeError("http_client must be a requests.Session")
        if not isinstance(proxies, Mapping | None):
            raise TypeError("proxies must be a dictionary: {'https': 'http://proxy:3128'}")
        session = http_client or requests.Session()
        if http_client is None:
            session.proxies.update(proxies or {})
            session.verify, session.cert = verify, cert
        self._pool = Pool(session)

    def __repr__(self) -> str:
        return f"{type(self).__name__}(base_url={self.base_url!r})"

    @property
    def default_headers(self) -> dict[str, str]:
        """The headers of every call."""
        # Identity: a proxy that compresses a stream buffers it first.
        headers = {"Accept-Encoding": "identity", "User-Agent": "choreoai-python"}
        if self.api_key is not None:
            headers["Authorization"] = f"Bearer {self.api_key}"
        return {**headers, **self._headers}

    def is_closed(self) -> bool:
        """Return whether ``close()`` was called."""
        return self._pool.closed

    def copy(
        self: C,
        *,
        api_key: str | None = None,
        base_url: str | None = None,
        timeout: TimeoutLike = NOT_GIVEN,
        max_retries: int | None = None,
        resumable: bool | None = None,
        default_headers: Mapping[str, str] | None = None,
        set_default_headers: Mapping[str, str] | None = None,
        default_query: Mapping[str, object] | None = None,
        set_default_query: Mapping[str, object] | None = None,
        http_client: requests.Session | None = None,
    ) -> C:
        """Return a client with some settings changed; it shares the connections of this one.

        *default_headers* and *default_query* are added to the existing ones,
        *set_default_headers* and *set_default_query* replace them.
        """
        copied = type(self)(
            api_key or self.api_key,
            base_url or self.base_url,
            timeout=self.timeout if isinstance(timeout, NotGiven) else timeout,
            max_retries=self.max_retries if max_retries is None else max_retries,
            resumable=self.resumable if resumable is None else resumable,
            default_headers=_merged(self._headers, default_headers, set_default_headers),
            default_query=_merged(self.default_query, default_query, set_default_query),
            http_client=http_client,
        )
        if http_client is None:
            copied._pool = self._pool
        return copied

    with_options = copy

    def _body_and_options(
        self, params: Mapping[str, Any], kind: Any = CallOptions
    ) -> tuple[dict[str, Any], Options]:
        """Return the request body made of *params*, whose type is *kind*, and the call's options.

        Options that are not in *params* are the client's.  Raises TypeError for an unknown
        parameter and for a missing one.
        """
        body = {name: value for name, value in params.items() if value is not NOT_GIVEN}
        for name in params.keys() - kind.__annotations__.keys():
            raise TypeError(
                f"unexpected keyword argument {name!r}; pass undocumented parameters in extra_body"
            )
        for name in REQUIRED & kind.__annotations__.keys() - body.keys():
            raise TypeError(f"missing keyword argument {name!r}")
        options = {name: body.pop(name) for name in CallOptions.__annotations__ if name in body}
        for name in ("extra_headers", "extra_query", "extra_body"):
            if not isinstance(options.get(name), Mapping | None):
                raise TypeError(f"{name} must be a dictionary")
        retries, resumable = options.get("max_retries"), options.get("resumable")
        return {**body, **(options.get("extra_body") or {})}, Options(
            timeout_of(options.get("timeout", self.timeout)),
            self.max_retries if retries is None else _retries(retries),
            self.resumable if resumable is None else resumable,
            options.get("extra_headers") or {},
            options.get("extra_query") or {},
        )

    def _request(
        self, method: str, path: str, body: Any, options: Options, streamed: bool = False
    ) -> requests.PreparedRequest:
        """Return the request for *path*, with *body* as JSON if there is one.

        Raises ChoreoAIError for a value that JSON or a header cannot express.
        """
        accepted = "text/event-stream" if streamed else "application/json"
        headers: Any = CaseInsensitiveDict({"Accept": accepted, **self.default_headers})
        headers.update(options.headers)
        data = None
        if body is not None:
            headers.setdefault("Content-Type", "application/json")
            if streamed and options.resumable:
                headers.setdefault("Choreo-Resumable", "1")
                # A retry then gets the stream of the lost answer instead of a new one.
                headers.setdefault("Idempotency-Key", secrets.token_hex(16))
            try:
                data = json.dumps(body, default=json_default, allow_nan=False).encode()
            except (TypeError, ValueError, RecursionError) as error:
                message = f"the request cannot be written as JSON: {error}"
                raise ChoreoAIError(message) from error
        headers = {name: value for name, value in headers.items() if value is not NOT_GIVEN}
        try:
            for name, value in headers.items():
                if not (_NAME.fullmatch(name) and isinstance(value, str)):
                    raise ChoreoAIError(f"the header {name!r} needs a valid name and a string")
                if value > "" and max(value) > "\xff":
                    raise ChoreoAIError(f"the header {name!r} has a character beyond Latin-1")
            query = [*_query({**self.default_query, **options.query})]
            return requests.Request(
                method, self.base_url + path, headers, data=data, params=query
            ).prepare()
        except (requests.exceptions.RequestException, UnicodeError) as error:
            raise ChoreoAIError(str(error)) from error


def backoff(attempt: int, first: float = 0.5, most: float = 8.0) -> float:
    """Return the seconds to wait after the failed *attempt* (0, 1, ...), with jitter.

    They double with each attempt.  The jitter subtracts up to a half, so that clients that
    failed at the same time do not retry at the same time.
    """
    return float(min(most, first * 2.0**attempt)) * (1 - random.random() / 2)


def retry_delay(
    error: APIStatusError | APIConnectionError, attempt: int, now: float
) -> float | None:
    """Return the seconds to wait after *error* before a retry, or None for no retry.

    The header ``x-should-retry`` decides if it is present; otherwise 408, 409, 429 and 5xx are
    retried.  ``retry-after-ms`` or ``Retry-After`` (seconds, with or without decimals, or a date,
    compared with *now*, the Unix time) sets the wait; if it is over a minute there is no retry.
    """
    if not isinstance(error, APIStatusError):
        return None if error._no_retry else backoff(attempt)
    should = error.headers.get("x-should-retry", "").strip().lower()
    retried = error.status_code in _RETRIED or error.status_code >= 500
    if should == "false" or not (retried or should == "true"):
        return None
    delay = retry_after(error.headers, now)
    if delay is None:
        return backoff(attempt)
    return delay if delay <= _LONGEST_WAIT else None


def path_of(folder: str, id: str) -> str:
    """Return the path of *id* in *folder*; raises ValueError for an empty id."""
    if not id:
        raise ValueError(f"the id for {folder} must not be empty")
    return f"{folder}/{quote(id, safe='')}"


def _retries(value: int) -> int:
    if not isinstance(value, int) or value < 0:
        raise ValueError("max_retries must be 0 or more")
    return value


def _setting(name: str) -> str | None:
    return os.environ.get(f"CHOREOAI_{name}") or os.environ.get(f"OPENAI_{name}") or None


def _base(url: str) -> str:
    """Return *url*, with ``/v1`` appended if it has no version."""
    url = str(url).strip().rstrip("/")
    if not re.match(r"https?://[^/]", url):
        raise ValueError(f"the base URL must begin with http:// or https://, not {url!r}")
    try:
        split = urlsplit(url)
        is_valid = bool(split.hostname) and split.port != 0
    except ValueError:  # of a bracket, or a port that is no number up to 65535
        is_valid = False
    if not is_valid:
        raise ValueError(f"the base URL has no valid host and port: {url!r}")
    if "?" in url or "#" in url:
        raise ValueError("the base URL must not have a query: pass it as default_query")
    path = "/" + url.split("//", 1)[1].partition("/")[2]
    return url if _VERSIONED.search(path) else url + "/v1"


def _query(value: Any, name: str = "") -> Iterator[tuple[str, str]]:
    """Yield the query parameters for *value*: ``a[b]`` for objects, ``a[]`` for lists."""
    if isinstance(value, Mapping):
        for key, item in value.items():
            yield from _query(item, f"{name}[{key}]" if name else key)
    elif isinstance(value, (list, tuple)):
        for item in value:
            yield from _query(item, f"{name}[]")
    elif value is not None and value is not NOT_GIVEN:
        yield name, str(value).lower() if isinstance(value, bool) else str(value)


def _merged(
    old: Mapping[str, Any], added: Mapping[str, Any] | None, replacing: Mapping[str, Any] | None
) -> dict[str, Any]:
    if added is not None and replacing is not None:
        raise ValueError("pass either default_... or set_default_..., not both")
    return {**(old if replacing is None else replacing), **(added or {})}
