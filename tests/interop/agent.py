"""A server whose model calls one tool and then answers, for whole tool loops."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import harness
import pytest
from scripted_provider import Scripted

from choreo_wsgi.app.application import Application
from choreo_wsgi.chat.items import Delta, Finish, Item, ToolCall, Usage
from choreo_wsgi.chat.request import ChatRequest
from choreo_wsgi.chat.source import Source, from_deltas

ANSWER = "All is done."


@contextmanager
def agent(
    application: Callable[..., Application],
    monkeypatch: pytest.MonkeyPatch,
    calls: dict[str, dict[str, str]],
) -> Iterator[tuple[str, list[ChatRequest]]]:
    """Yield the URL of a server, and the requests that it received.

    *calls* maps the names of tools that a request may have to the arguments of their calls.
    """
    received: list[ChatRequest] = []

    def answer(request: ChatRequest) -> Source:
        received.append(request)
        offered = [tool["function"]["name"] for tool in request.body.get("tools") or ()]
        has_results = any(message["role"] == "tool" for message in request.messages)
        name = next((name for name in calls if name in offered), None)
        items: list[Item] = [Delta("All is "), Delta("done."), Finish(), Usage(90, 5)]
        if name is not None and not has_results:
            call = ToolCall(0, "call_1", name, json.dumps(calls[name]))
            items = [Delta(reasoning="hm"), Delta("First this."), Delta(tool_calls=[call])]
            items += [Finish("tool_calls"), Usage(50, 20)]
        return from_deltas(items)

    monkeypatch.setattr(Scripted, "script", staticmethod(answer))
    with harness.Server(application({"scripted": {"models": "*"}})) as server:
        yield server.url, received
