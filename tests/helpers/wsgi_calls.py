"""Calls of a WSGI application without a server, through wsgiref's validator."""

from __future__ import annotations

import io
import json
from typing import Any, NamedTuple
from wsgiref.util import setup_testing_defaults
from wsgiref.validate import validator


class Called(NamedTuple):
    """An answer; *blocks* are the items of the iterable."""

    status: int
    headers: dict[str, str]
    blocks: list[bytes]

    @property
    def body(self) -> bytes:
        return b"".join(self.blocks)

    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def error(self) -> dict[str, Any]:
        error = self.json()["error"]
        assert sorted(error) == ["code", "message", "param", "type"]
        return dict(error)


def environ_of(method: str, path: str, body: Any = None, **more: str) -> dict[str, Any]:
    """Return the environ of a request from this machine; a *body* other than bytes becomes JSON."""
    environ: dict[str, Any] = {
        "REQUEST_METHOD": method,
        "PATH_INFO": path,
        "SCRIPT_NAME": "",
        "REMOTE_ADDR": "127.0.0.1",
        "HTTP_HOST": "localhost:8000",
        "QUERY_STRING": "",
    }
    if body is not None:
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        environ["CONTENT_TYPE"] = "application/json"
        environ["CONTENT_LENGTH"] = str(len(data))
        environ["wsgi.input"] = io.BytesIO(data)
    else:
        environ["wsgi.input"] = io.BytesIO()
    environ["wsgi.errors"] = io.StringIO()
    environ.update(more)
    setup_testing_defaults(environ)
    return environ


def call(app: Any, method: str, path: str, body: Any = None, **more: str) -> Called:
    """Call *app* as a server does, read the whole answer, and close it."""
    heads: list[tuple[str, list[tuple[str, str]]]] = []

    def start_response(status: str, headers: list[tuple[str, str]], exc_info: Any = None) -> Any:
        assert exc_info is None
        heads.append((status, headers))
        return lambda data: None

    iterable = validator(app)(environ_of(method, path, body, **more), start_response)
    try:
        blocks = list(iterable)
    finally:
        iterable.close()  # type: ignore[attr-defined]
    (status, headers), *others = heads
    assert not others
    names = [name.lower() for name, _ in headers]
    assert len(set(names)) == len(names), "no header is sent twice"
    return Called(int(status[:3]), {name.lower(): value for name, value in headers}, blocks)


def chat(text: str, **more: Any) -> dict[str, Any]:
    """Return the body of a chat request to the echo."""
    return {"model": "echo", "messages": [{"role": "user", "content": text}], **more}
