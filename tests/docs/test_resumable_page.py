"""This server satisfies the test vectors of the page "resumable chat completions"."""

from __future__ import annotations

import json
import re
import textwrap
from collections.abc import Callable
from pathlib import Path

from wsgi_calls import call, chat

from choreo_wsgi import sse
from choreo_wsgi.app.application import Application

PAGE = Path(__file__).parents[2] / "docs" / "resumable.rst"


def test_server_satisfies_test_vectors(application: Callable[..., Application]) -> None:
    page = PAGE.read_text("utf-8")
    found = re.search(r"vectors begin.*?json\n\n(.*?)\n\.\. vectors end", page, re.DOTALL)
    assert found is not None
    vectors = json.loads(textwrap.dedent(found[1]))
    assert len(vectors) > 10
    app = application()
    body = chat("a b", stream=True)  # a role, two words, a finish, the end: five events
    first = call(app, "POST", "/v1/chat/completions", body, HTTP_CHOREO_RESUMABLE="1")
    id = first.headers["choreo-stream-id"]
    assert first.headers["content-location"] == f"/v1/streams/{id}"
    assert ids_of(first.body) == [1, 2, 3, 4, 5]
    for vector in vectors:
        method, _, target = vector["request"].partition(" ")
        path, _, query = target.replace("ID", id).partition("?")
        more = {"QUERY_STRING": query}
        if "last_event_id" in vector:
            more["HTTP_LAST_EVENT_ID"] = vector["last_event_id"]
        answer = call(app, method, path, **more)
        assert answer.status == vector["status"], vector
        if "ids" in vector:
            assert ids_of(answer.body) == vector["ids"], vector
            assert first.body.endswith(answer.body.removeprefix(sse.PING))


def ids_of(body: bytes) -> list[int]:
    return [int(event.id) for event in sse.Decoder().receive_data(body)]
