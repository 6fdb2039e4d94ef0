"""A web handler whose streams survive both of their connections.

    python examples/web_resume.py    # then, in a browser or with curl:
    curl -N 'http://127.0.0.1:8080/?q=Count+to+a+hundred.'

The browser's ``EventSource`` reconnects automatically, and sends the id of the last event in
``Last-Event-ID``.  Here each id has the stream's id and the event's number, so any process that
runs this handler can continue the stream: the handler keeps no state between two requests.
"""

import json
import os
import sys
from collections.abc import Iterator
from socketserver import ThreadingMixIn
from urllib.parse import parse_qs
from wsgiref.simple_server import WSGIServer, make_server

from choreoai import APIError, ChoreoAI, NotFoundError, Stream

client = ChoreoAI(resumable=True)


def open_stream(environ: dict) -> Stream:
    """Return the stream for the request: a new one, or the rest of an earlier one."""
    seen = environ.get("HTTP_LAST_EVENT_ID", "")
    if seen:
        id, _, after = seen.rpartition(":")
        return client.chat.completions.resume(id, after=int(after))
    question = parse_qs(environ.get("QUERY_STRING", "")).get("q", ["Count to a hundred."])[0]
    return client.chat.completions.create(
        model=os.environ.get("MODEL", "default"),
        messages=[{"role": "user", "content": question}],
        stream=True,
    )


def events(stream: Stream) -> Iterator[bytes]:
    """Yield the pieces of text as events; leaving the loop early closes the stream."""
    try:
        with stream:
            for text in stream.text:
                id = f"{stream.id}:{stream.last_event_id}"
                yield f"id: {id}\ndata: {json.dumps(text)}\n\n".encode()
        yield b"event: done\ndata: {}\n\n"
    except APIError as error:
        yield f"event: failed\ndata: {json.dumps(str(error))}\n\n".encode()


def app(environ, start_response):
    try:
        stream = open_stream(environ)
    except NotFoundError:
        # 204 makes an EventSource stop reconnecting.
        start_response("204 No Content", [])
        return []
    except (APIError, ValueError) as error:
        start_response("502 Bad Gateway", [("Content-Type", "text/plain")])
        return [str(error).encode()]
    headers = [("Content-Type", "text/event-stream"), ("Cache-Control", "no-store")]
    start_response("200 OK", headers)
    return events(stream)


class Server(ThreadingMixIn, WSGIServer):
    """A server with a thread per connection: enough for an example."""

    daemon_threads = True


if __name__ == "__main__":
    port = int(os.environ.get("PORT", "8080"))
    with make_server("127.0.0.1", port, app, server_class=Server) as server:
        print(f"http://127.0.0.1:{server.server_port}/", flush=True)
        try:
            server.serve_forever()
        except KeyboardInterrupt:
            sys.exit(0)
