"""The peers of the benchmarks: a bare WSGI stream, and hand-written relays."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Any

UPSTREAM = os.environ.get("UPSTREAM", "http://127.0.0.1:9/v1") + "/chat/completions"
FRAMES = int(os.environ.get("FRAMES", "1000"))

FRAME = (
    b'data: {"id":"chatcmpl-123","object":"chat.completion.chunk","created":1699564800,'
    b'"model":"gpt-4","choices":[{"index":0,"delta":{"content":"word "},"finish_reason":null}]}'
    b"\n\n"
)


def bare(environ: dict[str, Any], start_response: Any) -> Iterator[bytes]:
    """Stream one constant frame: the minimum cost of a WSGI stream."""
    start_response("200 OK", [("Content-Type", "text/event-stream; charset=utf-8")])
    for _ in range(FRAMES):
        yield FRAME
    yield b"data: [DONE]\n\n"


def flask_app() -> Any:
    """Return the relay in Flask and requests."""
    import flask
    import requests

    app = flask.Flask(__name__)
    session = requests.Session()
    session.mount("http://", requests.adapters.HTTPAdapter(pool_maxsize=1000))

    @app.post("/v1/chat/completions")
    def chat() -> Any:
        body = flask.request.get_json()
        upstream = session.post(UPSTREAM, json=body, stream=body.get("stream", False))
        if not body.get("stream"):
            return upstream.json()
        return flask.Response(upstream.iter_content(None), content_type="text/event-stream")

    return app


def fastapi_app() -> Any:
    """Return the relay in FastAPI and httpx."""
    import httpx
    from fastapi import FastAPI, Request
    from fastapi.responses import StreamingResponse

    app = FastAPI()
    limits = httpx.Limits(max_connections=5000)
    client = httpx.AsyncClient(timeout=None, limits=limits, trust_env=False)

    async def chat(request: Request) -> Any:
        body = await request.json()
        upstream = await client.send(client.build_request("POST", UPSTREAM, json=body), stream=True)
        if not body.get("stream"):
            await upstream.aread()
            return upstream.json()
        return StreamingResponse(upstream.aiter_bytes(), media_type="text/event-stream")

    # FastAPI cannot resolve the annotation, a string here: Request is not a global name.
    chat.__annotations__["request"] = Request
    app.post("/v1/chat/completions")(chat)
    return app
