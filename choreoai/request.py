"""A call's request, made from the client's settings and the caller's arguments.  Pure."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple
from urllib.parse import quote

import requests

from .errors import ChoreoAIError
from .models import Object
from .policy import Timeout

__all__ = ["Options", "Settings", "stream_path"]

_VERSIONED = re.compile(r"/v\d[^/]*(/|$)")


class Options(NamedTuple):
    """What a single call asks for beside the API's own parameters."""

    timeout: Timeout
    headers: Mapping[str, str]
    query: Mapping[str, str]


class Settings:
    """What all calls of a client share.

    *api_key* and *base_url* fall back on ``CHOREOAI_API_KEY`` and ``CHOREOAI_BASE_URL`` in
    *environ*.  Raises ValueError for a key or an address that cannot be sent.
    """

    def __init__(
        self,
        api_key: str | None,
        base_url: str | None,
        headers: Mapping[str, str] | None,
        environ: Mapping[str, str] = os.environ,
    ) -> None:
        self.api_key = api_key or environ.get("CHOREOAI_API_KEY") or None
        if self.api_key is not None and not re.fullmatch(r"[!-~]+", self.api_key):
            raise ValueError("the API key holds characters that no header can carry")
        self.base_url = _base(
            base_url or environ.get("CHOREOAI_BASE_URL") or "http://localhost:8000"
        )
        # Identity: a proxy that compresses a stream collects it first.
        self._headers = {"Accept-Encoding": "identity", "User-Agent": "choreoai-python"}
        if self.api_key is not None:
            self._headers["Authorization"] = f"Bearer {self.api_key}"
        self._headers.update(headers or {})

    def request(
        self, method: str, path: str, body: Any = None, options: Options | None = None
    ) -> requests.PreparedRequest:
        """Return the request for *path*, with *body* as JSON if there is one.

        Raises ChoreoAIError for what JSON or a header cannot express.
        """
        headers = dict(self._headers)
        query: Mapping[str, str] = {}
        if options is not None:
            headers.update(options.headers)
            query = options.query
        data = None
        if body is not None:
            data = _dump(body)
            headers.setdefault("Content-Type", "application/json")
        headers.setdefault("Accept", "application/json")
        try:
            return requests.Request(
                method, self.base_url + path, headers, data=data, params=dict(query)
            ).prepare()
        except requests.exceptions.RequestException as error:
            raise ChoreoAIError(str(error)) from error


def _base(url: str) -> str:
    """Return *url* with the API's version at its end, where it names none itself."""
    url = url.strip().rstrip("/")
    if not re.match(r"https?://[^/]", url):
        raise ValueError(f"the base URL must begin with http:// or https://, not {url!r}")
    path = "/" + url.split("//", 1)[1].partition("/")[2]
    return url if _VERSIONED.search(path) else url + "/v1"


def _dump(body: Any) -> bytes:
    try:
        return json.dumps(body, default=_plain, allow_nan=False).encode()
    except (TypeError, ValueError) as error:
        raise ChoreoAIError(f"the request cannot be written as JSON: {error}") from error


def _plain(value: Any) -> Any:
    if isinstance(value, Object):  # a message of an earlier answer, given back
        return value.to_dict()
    if isinstance(value, Mapping):
        return dict(value)
    if isinstance(value, Iterable) and not isinstance(value, (bytes, bytearray, memoryview)):
        return list(value)
    raise TypeError(f"{type(value).__name__} is not a JSON type")


def stream_path(id: str) -> str:
    """Return the path of the resumable stream *id*."""
    return "/streams/" + quote(id, safe="")
